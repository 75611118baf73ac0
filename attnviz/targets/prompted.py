"""A prompt as target: what speaks for a text in an image-text model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import TargetError
from ..models.loaded import LoadedModel
from ..models.prompts import ZeroShot, zero_shot
from .kinds import ClassTarget, Target


@dataclass(frozen=True, eq=False)
class TextTarget(Target):
    """The similarity of an image and a text in CLIP, SigLIP and their like: a logit.

    Several prompts are the classes of a zero-shot classifier, read from one forward:
    `classes=[TextTarget("a boat"), TextTarget("water")]`. Their probabilities are a softmax over
    the prompts given (CLIP) or each one's sigmoid (SigLIP); a single prompt of CLIP has none. See
    `attnviz.models.zero_shot` for the classifier itself.

    Args:
        text: the prompt.
        tokenizer: of the model: a Hugging Face tokenizer or processor (whose preprocessing of
            photos is then taken too), or `open_clip.get_tokenizer(...)`. None takes what was
            loaded with the model.

    Example:
        >>> maps = explain(model, photo, target=TextTarget("a boat"))  # doctest: +SKIP
    """

    text: str
    tokenizer: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise TargetError(f"a prompt is a text, got {self.text!r}")

    @property
    def label(self) -> str:
        """The prompt."""
        return self.text

    def bind(self, classes: int, labels: Sequence[str] | None) -> ClassTarget:
        """Return the class that the prompt is."""
        if not labels or self.text not in labels:
            raise TargetError(
                f"the prompt {self.text!r} is no class of the model; `explain` makes it one, and "
                "attnviz.models.zero_shot(model, prompts) for all else"
            )
        return ClassTarget(self.text, tuple(labels).index(self.text), self.text)


def prompted(
    module: nn.Module, loaded: LoadedModel | None, targets: Sequence[Any]
) -> LoadedModel | None:
    """Return the zero-shot classifier that prompts among the targets ask for, None without any.

    Args:
        module, loaded: as `attnviz.models.resolve_model` returns them.
        targets: `target` and `classes` as `explain` takes them.

    Raises:
        TargetError: prompts beside targets of another kind.
        ModelError: the model embeds no texts, or its tokenizer is not known.
    """
    flat = [t for one in targets for t in (one if isinstance(one, list | tuple) else [one])]
    flat = [t for t in flat if t is not None]
    found = [t for t in flat if isinstance(t, TextTarget)]
    if isinstance(module, ZeroShot):
        return None
    if loaded is not None and loaded.tokenizer is not None and not any(map(callable, flat)):
        _check_given(loaded, found)
    if not found:
        return None
    if len(found) < len(flat):
        other = next(t for t in flat if not isinstance(t, TextTarget))
        raise TargetError(
            f"prompts are explained by themselves, and {other!r} is none; other targets of the "
            "prompts, such as 'contrast:a boat,water', go with the classifier that "
            "attnviz.models.zero_shot(model, prompts) makes"
        )
    tokenizer = next((t.tokenizer for t in found if t.tokenizer is not None), None)
    prompts = list(dict.fromkeys(t.text for t in found))
    return zero_shot(loaded or module, prompts, tokenizer=tokenizer)


def _check_given(loaded: LoadedModel, found: Sequence[TextTarget]) -> None:
    if not found:
        raise TargetError(
            f"{loaded.name} compares photos with texts and has no classes of its own; say which "
            "text is explained, with 'text:a boat' as target, or several"
        )
