"""Models of timm."""

from __future__ import annotations

from typing import Any

from ...errors import ModelError
from ..environment import import_timm
from ..labels import labels_of
from ..loaded import LoadedModel
from ..resolving import own_preprocess
from .offline import check_hub, fetching


def names() -> list[str]:
    """Return timm's architectures, without the tags of their weights."""
    return import_timm().list_models()


def build(name: str, *, pretrained: bool, num_classes: int | None) -> LoadedModel:
    """Build a model with the weights of its tag (`resnet50.a1_in1k`) or the default ones.

    Raises:
        ModelError: there are no weights, they cannot be fetched, or have another number of
            classes.
    """
    timm = import_timm()
    options = {} if num_classes is None else {"num_classes": num_classes}
    if not pretrained:
        module = timm.create_model(name, pretrained=False, **options).eval()
        return LoadedModel(module, f"timm:{name}", own_preprocess(module))
    cfg = timm.models.get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        raise ModelError(
            f"timm has no weights for {name!r}; pass pretrained=False for random ones, or a "
            "checkpoint"
        )
    if num_classes is not None and num_classes != cfg.num_classes:
        raise ModelError(
            f"the weights of timm:{name} have {cfg.num_classes} classes, asked for "
            f"num_classes={num_classes}; pass pretrained=False or a checkpoint of your own"
        )
    with fetching(f"timm:{name}"):
        module = timm.create_model(name, pretrained=True, **_stored(cfg)).eval()
    return LoadedModel(module, f"timm:{name}", own_preprocess(module), labels_of(module))


def _stored(cfg: Any) -> dict[str, Any]:
    """Return what makes timm read weights that were fetched before, without asking the hub."""
    if not cfg.hf_hub_id:
        return {}
    from huggingface_hub import try_to_load_from_cache

    for name in (cfg.hf_hub_filename, "model.safetensors", "pytorch_model.bin"):
        path = name and try_to_load_from_cache(cfg.hf_hub_id, name)
        if isinstance(path, str):
            return {"pretrained_cfg_overlay": {"file": path}}
    check_hub()
    return {}
