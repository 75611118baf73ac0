"""The model that a command line names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..models import LoadedModel


def load_model(name: str | None, checkpoint: Path | None, device: str | None) -> LoadedModel:
    """Load a model on the device named, or on the GPU if there is one."""
    import torch

    from ..models import load

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return load(name, checkpoint=checkpoint, device=device)
