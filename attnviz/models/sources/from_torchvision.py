"""Classifiers, segmenters and detectors of torchvision.models."""

from __future__ import annotations

import inspect

from ...errors import ModelError
from ..environment import import_torchvision
from ..loaded import LoadedModel
from ..preprocess import Preprocess
from ..resolving import from_torchvision
from ..transforms import ImageTransform
from .offline import fetching


def names() -> list[str]:
    """Return the names of torchvision's image models (no video or optical flow)."""
    models = import_torchvision().models
    homes = (models, models.segmentation, models.detection)
    return [name for home in homes for name in models.list_models(module=home)]


def build(name: str, *, pretrained: bool, num_classes: int | None) -> LoadedModel:
    """Build a model with torchvision's default weights, or with random ones.

    Raises:
        ModelError: the weights cannot be fetched, or have another number of classes.
    """
    models = import_torchvision().models
    options: dict[str, object] = {}
    builder = models.get_model_builder(name)
    if not pretrained:
        if num_classes is not None:
            options["num_classes"] = num_classes
        if name in ("googlenet", "inception_v3"):
            options["init_weights"] = False  # torchvision warns of a slow default
        if "weights_backbone" in inspect.signature(builder).parameters:
            options["weights_backbone"] = None
        module = builder(weights=None, **options).eval()
        return LoadedModel(module, f"torchvision:{name}")
    weights = models.get_model_weights(name).DEFAULT
    labels = tuple(weights.meta.get("categories") or ()) or None
    if num_classes is not None and labels is not None and num_classes != len(labels):
        raise ModelError(
            f"the weights of torchvision:{name} have {len(labels)} classes, asked for "
            f"num_classes={num_classes}; pass pretrained=False or a checkpoint of your own"
        )
    with fetching(f"torchvision:{name}"):
        module = builder(weights=weights).eval()
    preprocess = from_torchvision(weights.transforms(), name=f"torchvision {weights}")
    return LoadedModel(module, f"torchvision:{name}", preprocess, labels)


def default_preprocess(name: str) -> Preprocess | ImageTransform | None:
    """Return the preprocessing of a model's default weights; None where torchvision has none."""
    try:
        weights = import_torchvision().models.get_model_weights(name).DEFAULT
    except (AttributeError, ValueError):
        return None
    return from_torchvision(
        weights.transforms(), name=f"torchvision {weights}, assumed for the checkpoint"
    )
