"""Semantic segmenters of Hugging Face: a photo's classes, pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ModelError
from .environment import import_transformers
from .sources.offline import check_hub, fetching


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A model that names each pixel.

    Attributes:
        module, processor: of transformers.
        name: as it was asked for.
        labels: class names by their number.
    """

    module: Any
    processor: Any
    name: str
    labels: tuple[str, ...]

    def __call__(self, photo: np.ndarray) -> np.ndarray:
        """Return the class of each pixel, (h, w) int64, of a photo (h, w, 3) uint8 RGB."""
        device = next(self.module.parameters()).device
        inputs = self.processor(images=photo, return_tensors="pt").to(device)
        with torch.no_grad():
            output = self.module(**inputs)
        (found,) = self.processor.post_process_semantic_segmentation(
            output, target_sizes=[photo.shape[:2]]
        )
        return found.cpu().numpy().astype(np.int64)


def load_segmenter(name: str, *, device: Any = None) -> Segmenter:
    """Load a semantic or universal segmenter: SegFormer, Mask2Former, and others of transformers.

    No remote code is run.

    Args:
        name: "hf:" and a name on the hub, or a folder with the model and its image processor.
        device: where it runs; None is the CPU.

    Raises:
        EnvironmentFault: transformers is not installed.
        ModelError: not found, no network, or no segmenter.
    """
    source, _, path = name.partition(":")
    if source != "hf" or not path:
        raise ModelError(f"{name!r} is no segmenter; name one as hf:NAME or hf:FOLDER")
    transformers = import_transformers()
    with fetching(name):
        try:
            module, processor = _read(transformers, path, local=True)
        except OSError:
            if Path(path).is_dir():
                raise
            check_hub()
            module, processor = _read(transformers, path, local=False)
    names = module.config.id2label
    labels = tuple(str(names[k]) for k in sorted(names))
    return Segmenter(module.eval().to(device or "cpu"), processor, name, labels)


def _read(transformers: Any, path: str, *, local: bool) -> tuple[Any, Any]:
    options = {"trust_remote_code": False, "local_files_only": local}
    config = transformers.AutoConfig.from_pretrained(path, **options)
    kinds = (
        transformers.AutoModelForSemanticSegmentation,
        transformers.AutoModelForUniversalSegmentation,
    )
    auto = next((k for k in kinds if type(config) in k._model_mapping), None)
    if auto is None:
        raise ModelError(
            f"hf:{path} is a {type(config).__name__.removesuffix('Config')}, which is no segmenter "
            "with named classes; take a SegFormer or a Mask2Former"
        )
    module, info = auto.from_pretrained(path, output_loading_info=True, **options)
    if info.get("missing_keys"):
        raise ModelError(
            f"hf:{path} has no weights for {sorted(info['missing_keys'])[0]} and so no trained "
            "head; choose a checkpoint that was trained to segment"
        )
    return module, transformers.AutoImageProcessor.from_pretrained(path, **options)
