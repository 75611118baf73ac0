"""What a model returns: which of its tensors are the logits, and how they become probabilities.

Everything that reads logits asks here. A choice that the user made holds inside `reading`, so that
every function called in it, however deep, reads the same tensor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import TargetError, did_you_mean
from .activation import inferred_activation
from .detections import is_detections

ACTIVATIONS = ("softmax", "sigmoid", "none")

#: names that mean the logits whatever stands beside them, the strongest first
_LOGITS = ("logits", "logits_per_image")
#: names that never do, though their tensors may have the shape of logits
_OTHERS = frozenset(
    (
        *("hidden_states", "last_hidden_state", "pooler_output", "attentions", "cross_attentions"),
        *("image_embeds", "text_embeds", "past_key_values", "loss", "reshaped_hidden_states"),
        *("encoder_last_hidden_state", "encoder_hidden_states", "encoder_attentions"),
    )
)
_DEPTH = 4

#: an output's index or key, a dotted path of them ("heads.cls", "0.logits"), or a function of it
Choice = int | str | Callable[[Any], Tensor]


@dataclass
class OutputReading:
    """What is known of a model's output, and what was found in it.

    Attributes:
        output: which tensor are the logits; None finds them.
        width: number of classes, where labels are known.
        activation: "softmax", "sigmoid" or "none"; None infers it.
        path: where the logits were found last; "" where the output is a tensor, None before.
        inferred: how they last became probabilities, None before.
    """

    output: Choice | None = None
    width: int | None = None
    activation: str | None = None
    path: str | None = None
    inferred: str | None = None

    def facts(self) -> dict[str, str]:
        """Return for a result's meta what was chosen or found, as far as it was asked for."""
        facts = {"output": self.path, "activation": self.activation or self.inferred}
        return {name: value for name, value in facts.items() if value}


@dataclass(frozen=True)
class Logits:
    """Logits that were read off an output already, to hand on where an output is expected."""

    tensor: Tensor


_reading: ContextVar[OutputReading | None] = ContextVar("reading", default=None)


@contextmanager
def reading(
    output: Choice | None = None,
    *,
    labels: Sequence[str] | None = None,
    activation: str | None = None,
) -> Iterator[OutputReading]:
    """Say which tensor of a model's output are its logits, for everything called in the block.

    What is left out is taken from an enclosing block. The choice belongs to this thread.

    Args:
        output: an index, a key, an attribute, a dotted path of these (`"heads.cls"`), or a
            function of the output that returns the tensor.
        labels: the class names; the one tensor (B, K) that is as wide as they are many is taken.
        activation: how logits become probabilities: "softmax" (one class each), "sigmoid"
            (several at once), "none" (regression: there are no probabilities).

    Example:
        >>> with reading(output="heads.species"):  # doctest: +SKIP
        ...     maps = class_map(model, images, targets)

    Raises:
        TargetError: an unknown activation.
    """
    if activation is not None and activation not in ACTIVATIONS:
        raise TargetError(
            f"activation {activation!r} is not known; use one of {', '.join(ACTIVATIONS)}"
        )
    outer = _reading.get() or OutputReading()
    inner = OutputReading(
        outer.output if output is None else output,
        outer.width if labels is None else len(labels),
        outer.activation if activation is None else activation,
    )
    token = _reading.set(inner)
    try:
        yield inner
    finally:
        _reading.reset(token)


def stated() -> tuple[Choice | None, int | None]:
    """Return what is said here of which tensor are the logits: the choice, and their width."""
    known = _reading.get() or OutputReading()
    return known.output, known.width


def logits_of(output: Any) -> Tensor:
    """Return the logits in a model's output, see `find_logits`; `reading` says which they are.

    Raises:
        TargetError: there is no tensor that could be the logits, or there are several.
    """
    if isinstance(output, Logits):
        return output.tensor
    known = _reading.get()
    if known is None:
        return find_logits(output)[1]
    known.path, logits = find_logits(output, known.output, width=known.width)
    return logits


def find_logits(
    output: Any, choice: Choice | None = None, *, width: int | None = None
) -> tuple[str, Tensor]:
    """Return the logits in a model's output and their path in it ("" where it is the tensor).

    Taken are, in this order: the user's choice; a tensor by itself; what is named `logits`
    (`logits_per_image` in CLIP, `out` beside `aux` in torchvision's segmenters); the one tensor
    (B, K) as wide as the labels are many; the only (B, K); the only tensor. Nothing is taken of
    several that would do.

    Args:
        output: a tensor, tuple, list, mapping, dataclass or other object, nested or not.
        choice: see `reading`.
        width: number of class names; a binary classifier has one logit for two.

    Raises:
        TargetError: none or several; the message lists them, and how to name one.
    """
    if choice is not None:
        return _chosen(output, choice)
    if isinstance(output, Tensor):
        return "", output
    named = _by_name(output)
    if named is not None:
        return named
    _refuse_detections(output)
    found = [(p, t) for p, t in _leaves(output) if t.is_floating_point() and t.ndim]
    found = [(p, t) for p, t in found if t.ndim > 1] or found
    flat = [(p, t) for p, t in found if t.ndim <= 2]
    if width is not None:
        for group in (flat, [(p, t) for p, t in found if t.ndim > 2]):
            fitting = [(p, t) for p, t in group if _fits(t, width)]
            if len(fitting) == 1:
                return fitting[0]
            if fitting:
                raise _ambiguous(output, fitting, f" {width} wide, as the labels are")
    for group in (flat, found):
        if len(group) == 1:
            return group[0]
        if group:
            raise _ambiguous(output, group, "")
    what = f"no logits found in the model's output ({_kind(output)}); say where they are: "
    raise TargetError(
        f"{what}output=INDEX, KEY or a function of it; or pass a function of the output as target, "
        "such as target=lambda out: out['logits'][:, 3]",
        command=f"{what}--logits KEY, such as 1 or heads.species",
    )


def read_from(output: Any) -> tuple[list[Tensor], bool]:
    """Return the tensors of an output that a decision is read from, and whether it is dense.

    Taken are the logits; where they cannot be told, all vectors (B, K); without these every
    floating-point tensor. Dense is an output that has positions itself: masks, boxes, queries.

    Raises:
        TargetError: no tensor of the output depends on the input.
    """
    try:
        logits = logits_of(output)
        found = [logits if logits.ndim else logits.reshape(1)]  # of a single image, squeezed
    except TargetError:
        leaves = [t for _, t in _leaves(output)] or [t for _, t in _leaves(output, skip=())]
        found = [t for t in leaves if t.requires_grad and t.ndim]
        if not found:
            raise
        if is_detections(output):  # boxes (n, 4) and scores (n,) of each image have places
            return [t.reshape(1, len(t), -1) for t in found], True
    vectors = [t for t in found if t.shape[2:].numel() == 1]
    return vectors or found, not vectors


def with_batch(output: Any, batch: int) -> Any:
    """Return the output of a model that squeezes a batch of one with its batch axis again.

    A tensor without axes, or a vector of several numbers, for one image is (1,) or (1, K); any
    other output is returned as it is.
    """
    if batch != 1 or not isinstance(output, Tensor) or output.ndim > 1 or output.shape == (1,):
        return output
    return output.reshape(1, *output.shape)


def is_binary(logits: Tensor) -> bool:
    """Return whether logits (B,), (B, 1) or (B, 1, ...) are a binary classifier's single logit.

    Class 1 is then the logit and class 0 minus the logit. Under `reading(activation="none")` a
    single output is a number of its own, class 0, as in a regression.
    """
    known = _reading.get()
    plain = known is not None and known.activation == "none"
    return not plain and (logits.ndim < 2 or logits.shape[1] == 1)


def class_count(logits: Tensor) -> int:
    """Return the number of classes of logits (B, K, ...): K, and 2 where `is_binary`."""
    if is_binary(logits):
        return 2
    return logits.shape[1] if logits.ndim > 1 else 1


def class_column(logits: Tensor, index: int) -> Tensor:
    """Return one class's logits (B, ...) of (B, K, ...): z or minus z where `is_binary`."""
    if is_binary(logits):
        single = logits if logits.ndim < 2 else logits[:, 0]
        return single if index == 1 else -single
    return logits if logits.ndim < 2 else logits[:, index]


def class_logits(logits: Tensor) -> Tensor:
    """Return logits (B, K) whose softmax is right for one logit as well: z becomes (0, z).

    For cross-entropy, accuracy and argmax; all but a single logit are returned as they are.
    """
    if logits.ndim == 1:
        logits = logits[:, None]
    return torch.cat([torch.zeros_like(logits), logits], 1) if is_binary(logits) else logits


def predicted(logits: Tensor) -> Tensor:
    """Return the predicted class of each image (B,), int64."""
    flat = logits[:, None] if logits.ndim == 1 else logits
    if is_binary(flat) and inferred_activation(flat) == "as it is":
        return (flat[:, 0] > 0.5).long()
    return class_logits(flat).argmax(1)


def probabilities(logits: Tensor) -> Tensor | None:
    """Return the probability of every class (B, classes), or None where there are none.

    How is taken from `reading`, else from the logits: an output that a softmax or sigmoid made
    already, or whose rows sum to one, is taken as it is; a single logit gets a sigmoid, which
    gives two classes; all else a softmax.
    """
    if logits.ndim == 1:
        logits = logits[:, None]
    known = _reading.get()
    how = (known and known.activation) or inferred_activation(logits)
    if known is not None:
        known.inferred = how
    if how == "none":
        return None
    single = logits.shape[1] == 1
    if how == "softmax" and not single:
        return logits.softmax(1)
    p = logits if how == "as it is" else logits.sigmoid()
    return torch.cat([1 - p, p], 1) if single else p


def _by_name(output: Any) -> tuple[str, Tensor] | None:
    for name in _LOGITS:
        found = _child(output, name)
        if isinstance(found, Tensor):
            return name, found
    if isinstance(output, Mapping) and set(output) <= {"out", "aux"}:
        found = output.get("out")
        if isinstance(found, Tensor):
            return "out", found
    return None


def _child(output: Any, name: str) -> Any:
    if isinstance(output, Mapping):
        return output.get(name)
    return None if isinstance(output, Tensor) else getattr(output, name, None)


def _children(output: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(output, Mapping):
        yield from ((str(key), value) for key, value in output.items())
    elif hasattr(output, "_fields"):
        yield from zip(output._fields, output, strict=True)
    elif isinstance(output, tuple | list):
        yield from ((str(i), value) for i, value in enumerate(output))
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        yield from ((f.name, getattr(output, f.name)) for f in dataclasses.fields(output))
    elif hasattr(output, "__dict__") and not isinstance(output, type):
        yield from vars(output).items()


def _leaves(
    output: Any, path: str = "", depth: int = 0, skip: Collection[str] = _OTHERS
) -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        yield path, output
    elif depth < _DEPTH:
        for name, value in _children(output):
            if name not in skip:
                yield from _leaves(value, f"{path}.{name}" if path else name, depth + 1, skip)


def _fits(tensor: Tensor, width: int) -> bool:
    own = tensor.shape[1] if tensor.ndim > 1 else 1
    return own == width or (own == 1 and width == 2)


def _refuse_detections(output: Any) -> None:
    if is_detections(output):
        raise TargetError(
            "the model returns detections (boxes, labels, scores), which have no logits of an "
            "image; explain one of them: target='box:0', 'box:120,80,300,260' or BoxTarget, or a "
            "function such as target=lambda out: torch.stack([one['scores'][0] for one in out])"
        )


def _kind(output: Any) -> str:
    what = type(output).__name__
    names = [name for name, _ in _children(output)]
    return f"{what} with {', '.join(names[:8])}" if names else what


def _ambiguous(output: Any, found: Sequence[tuple[str, Tensor]], wide: str) -> TargetError:
    listed = ", ".join(f"{path!r} {tuple(tensor.shape)}" for path, tensor in found[:8])
    last = found[-1][0]
    example = last if last.isdecimal() else repr(last)
    what = (
        f"the model's output ({_kind(output)}) holds {len(found)} tensors{wide} that could be the "
        f"logits: {listed}"
    )
    return TargetError(
        f"{what}. Say which with output= (output={example}, or a function of the output), or "
        f"around any other call `with attnviz.models.reading(output={example}):`",
        command=f"{what}. Say which: --logits {last}",
    )


def _chosen(output: Any, choice: Choice) -> tuple[str, Tensor]:
    if callable(choice):
        name = getattr(choice, "__name__", type(choice).__name__)
        path, found = "a function" if name == "<lambda>" else name, choice(output)
    else:
        path, found = str(choice), _walk(output, choice)
    if not isinstance(found, Tensor):
        inner = [p for p, _ in _leaves(found)][:8]
        hint = f"; tensors in it: {', '.join(f'{path}.{p}' for p in inner)}" if inner else ""
        raise TargetError(
            f"output={path!r} of the model's output is a {type(found).__name__}, no tensor{hint}"
        )
    return path, found


def _walk(output: Any, choice: int | str) -> Any:
    if isinstance(output, Mapping) and choice in output:
        return output[choice]  # a key with a dot in it
    here, walked = output, ""
    for part in str(choice).split("."):
        known = dict(_children(here))
        if part in known:
            here = known[part]
        elif part.lstrip("-").isdecimal() and -len(known) <= int(part) < len(known):
            here = list(known.values())[int(part)]  # a mapping or named tuple by position
        elif not isinstance(here, Tensor) and hasattr(here, part):
            here = getattr(here, part)
        else:
            raise TargetError(
                f"output={choice!r}: the model's output ({_kind(output)}) has no {part!r}"
                + (f" in {walked!r}" if walked else "")
                + did_you_mean(part, known)
                + f"; tensors in it: {', '.join(p for p, _ in _leaves(output)) or 'none'}"
            )
        walked = f"{walked}.{part}" if walked else part
    return here
