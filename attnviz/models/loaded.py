"""What loading a model by name gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from .preprocess import Preprocess
from .transforms import ImageTransform


@dataclass(frozen=True)
class LoadedModel:
    """A model together with what is known of it.

    Attributes:
        module: the network, in eval mode.
        name: how it was asked for, with its source (`timm:resnet18`).
        preprocess: how a photo becomes its input; None where that is not known.
        labels: the name of each output class; None where they are not known.
        tokenizer: of an image-text model, makes tokens of prompts; None where there is none.
    """

    module: nn.Module
    name: str
    preprocess: Preprocess | ImageTransform | None = None
    labels: tuple[str, ...] | None = None
    tokenizer: Any = None
