"""Words as target: a prompt of an image-text model, a word of a model that writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import TargetError
from ..models.captions import captioner
from ..models.loaded import LoadedModel
from ..models.prompts import OfTexts, is_image_text, zero_shot
from .kinds import ClassTarget, Target
from .placed import Setting


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


@dataclass(frozen=True, eq=False)
class TokenTarget(Target):
    """The log-probability of a word that a model writes about a picture (BLIP, GIT, LLaVA, ...).

    It is scored where the model says it: of a photo the model writes its own caption first; of a
    mapping (or tuple) of the model's inputs, where it stands last in the text. A word that is not
    said is scored as the next one after the prompt, or after the text. The label of the result
    says which, and in what text. A word of several tokens has the sum of theirs.

    Args:
        word: as it is written.
        tokenizer: of the model: its processor (whose preprocessing of photos is then taken too) or
            tokenizer; of a model of your own {word: token} will do. None takes what was loaded
            with the model.
        prompt: what the caption goes on from, or the question; "" lets the model begin by itself.

    Example:
        >>> target = TokenTarget("boat", processor, "a photo of")  # doctest: +SKIP
        >>> maps = explain(writer, photo, target=target)  # doctest: +SKIP
    """

    word: str
    tokenizer: Any = None
    prompt: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.word, str) or not self.word.strip():
            raise TargetError(f"a word is a text, got {self.word!r}")

    @property
    def label(self) -> str:
        """The word."""
        return self.word

    def ready(self, setting: Setting) -> Target:
        """Return the class that the word is."""
        return ClassTarget(setting.words.index(self.word)) if setting.words else self

    def bind(self, classes: int, labels: Sequence[str] | None) -> ClassTarget:
        """Refuse: a word is made ready by `explain` only."""
        raise TargetError(
            f"the word {self.word!r} is no class of the model; `explain` makes it one, and "
            "attnviz.models.captioner(model, words) for all else"
        )


def prompted(
    module: nn.Module, loaded: LoadedModel | None, targets: Sequence[Any]
) -> LoadedModel | None:
    """Return the classifier that prompts or words among the targets ask for, None without any.

    Args:
        module, loaded: as `attnviz.models.resolve_model` returns them.
        targets: `target` and `classes` as `explain` takes them.

    Raises:
        TargetError: prompts or words beside targets of another kind.
        ModelError: the model embeds or writes no texts, or its tokenizer is not known.
    """
    flat = [t for one in targets for t in (one if isinstance(one, list | tuple) else [one])]
    flat = [t for t in flat if t is not None]
    found = [t for t in flat if isinstance(t, TextTarget | TokenTarget)]
    if isinstance(module, OfTexts):
        return None
    if loaded is not None and loaded.tokenizer is not None and not any(map(callable, flat)):
        _check_given(loaded, found)
    if not found:
        return None
    other = next((t for t in flat if type(t) is not type(found[0])), None)
    if other is not None:
        raise TargetError(
            f"prompts and words are explained by themselves, and {other!r} is of another kind; "
            "other targets of them, such as 'contrast:a boat,water', go with the classifier that "
            "attnviz.models.zero_shot(model, prompts) makes"
        )
    tokenizer = next((t.tokenizer for t in found if t.tokenizer is not None), None)
    names = list(dict.fromkeys(t.label for t in found))
    if isinstance(found[0], TextTarget):
        return zero_shot(loaded or module, names, tokenizer=tokenizer)
    begun = {t.prompt for t in found if isinstance(t, TokenTarget)}
    if len(begun) > 1:
        raise TargetError(f"words of one caption have one prompt, got {sorted(begun)}")
    return captioner(loaded or module, names, tokenizer=tokenizer, prompt=begun.pop())


def _check_given(loaded: LoadedModel, found: Sequence[Target]) -> None:
    if not found:
        does, what = (
            ("compares photos with texts", "text is explained, with 'text:a boat'")
            if is_image_text(loaded.module)
            else ("writes about photos", "word is explained, with 'token:boat'")
        )
        raise TargetError(
            f"{loaded.name} {does} and has no classes of its own; say which {what} as target, or "
            "several"
        )
