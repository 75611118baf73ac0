"""Context by words: an image-text model (CLIP) of the user's tells which images show it.

Where the pixels of the context are wanted as well, give `confusion` a segmentation model of yours
as a function photo -> mask (`context_masks=`, `--context-masks package.module:function`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..data import Dataset
from ..errors import DataError, ModelError
from .pictures import as_samples


def text_context(
    data: Any,
    *,
    context: str,
    prompts: tuple[str, str],
    model: Any,
    processor: Any = None,
    threshold: float = 0.5,
    batch_size: int = 32,
) -> Dataset:
    """Return the data with label `context` added where a CLIP model prefers the first prompt.

    Nothing is fetched: load the model and its processor yourself (Hugging Face `CLIPModel`,
    `CLIPProcessor`), or name the folder where both were saved. The result serves
    `confusion(..., regions="groups")`, or regions of the object alone.

    Args:
        data: samples.
        context: name of the new label.
        prompts: what shows the context and what does not: ("a photo of water", "a photo of land").
        model: called with the processor's tensors, gives `logits_per_image` (B, 2); or the folder
            of a saved CLIP model and its processor (`save_pretrained`).
        processor: processor(text=[...], images=[...], return_tensors="pt", padding=True); None
            with a folder.
        threshold: of the first prompt's probability.
        batch_size: images a forward.

    Raises:
        DataError: the label exists already, not two different prompts, or no processor.
        ModelError: the folder holds no such model.
    """
    if isinstance(model, str | Path):
        model, processor = _from_folder(Path(model))
    elif processor is None:
        raise DataError("the model's processor is missing: it makes tensors of images and prompts")
    samples: Sequence[Any] = as_samples(data)
    if len(prompts) != 2 or prompts[0] == prompts[1]:
        raise DataError(f"two different prompts are needed (with, without), got {prompts!r}")
    if any(context in s.labels for s in samples):
        raise DataError(f"label {context!r} is in the data already; use it, or another name")
    made = []
    for start in range(0, len(samples), batch_size):
        part = [samples[i] for i in range(start, min(start + batch_size, len(samples)))]
        inputs = processor(
            text=list(prompts), images=[s.read() for s in part], return_tensors="pt", padding=True
        )
        with torch.no_grad():
            shares = model(**inputs).logits_per_image.softmax(1)[:, 0].tolist()
        for sample, share in zip(part, shares, strict=True):
            labels = (*sample.labels, context) if share >= threshold else sample.labels
            meta = {**sample.meta, f"p({context})": share}
            made.append(replace(sample, labels=labels, meta=meta))
    return Dataset(tuple(made), tuple(dict.fromkeys([*getattr(data, "classes", ()), context])))


def _from_folder(folder: Path) -> tuple[Any, Any]:
    """Return a saved CLIP model, in eval mode, and its processor; from this folder alone."""
    from ..models.environment import import_transformers

    if not folder.is_dir():
        raise ModelError(f"no such folder of a CLIP model: {str(folder)!r}")
    transformers = import_transformers()
    try:
        model = transformers.CLIPModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
        processor = transformers.CLIPProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{str(folder)!r} holds no CLIP model with its processor (config.json, "
            f"model.safetensors, tokenizer, preprocessor_config.json): {error}"
        ) from error
    return model.eval(), processor
