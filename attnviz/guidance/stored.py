"""The weights of a run's folder: written beside its checkpoint, and put back into a model."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import DataError
from ..hooks import unwrap
from . import checkpoints
from .config import GuideConfig
from .settling import rebuilt


def save_weights(folder: str | Path, model: nn.Module, *, note: str = "") -> Path:
    """Write a model's weights as the run's `model.safetensors`; return the path."""
    state = unwrap(model).state_dict()
    weights = {k: v.detach().cpu().clone().contiguous() for k, v in state.items()}
    head = {"format": "pt", "made_by": "attnviz guide", "note": note}
    path = Path(folder) / "model.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write_whole(path, lambda part: save_file(weights, part, head))
    return path


def restored(model: nn.Module, folder: str | Path, *, example: Any = None) -> nn.Module:
    """Return a run's trained model: with the pooling or the two heads that it was trained with.

    Args:
        model: the network that the run began from, with as many outputs; it is changed unless the
            run made a new one of it.
        folder: of the run.
        example: an input (1, C, H, W); None takes 224 pixels.

    Raises:
        DataError: no run there, or of another model.
    """
    stored = checkpoints.read_run(Path(folder))["config"]
    known = {f.name for f in fields(GuideConfig)}
    config = GuideConfig(**{n: v for n, v in stored.items() if n in known})
    example = torch.linspace(-1, 1, 224).expand(1, 3, 224, 224) if example is None else example
    layer = config.layer
    if config.pooling or config.erasing == "acol":  # named inside the new model
        names = [layer] if isinstance(layer, str) else list(layer or ())
        layer = [n.removeprefix("trunk.") for n in names]
    inner = unwrap(model)
    made, _ = rebuilt(inner, replace(config, layer=layer), example.to(next(inner.parameters())))
    try:
        made.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"the weights in {str(folder)!r} do not fit {type(inner).__name__}: {str(error)[:200]}"
        ) from error
    return made.eval()
