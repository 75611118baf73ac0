"""From examples (image, label, what is known of where) to batches in an order of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor

from ..errors import AttnvizWarning, DataError, MissingFile
from ..geometry import size_of
from .annotation import Annotation, annotate


@dataclass(frozen=True, eq=False)
class Batch:
    """Images, labels and annotation.

    Attributes:
        images: (B, C, H, W).
        labels: (B,) int64.
        annotation: of the B images.
    """

    images: Tensor
    labels: Tensor
    annotation: Annotation

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(self.images.to(device), self.labels.to(device), self.annotation.to(device))


def is_map_style(data: Any) -> TypeGuard[Sequence[Any]]:
    """Whether examples can be asked for by number, and so shuffled."""
    return hasattr(data, "__len__") and hasattr(data, "__getitem__")


def count_batches(data: Any, batch_size: int) -> int | None:
    """Return the batches of an epoch, None where it is not known before it is over."""
    return -(-len(data) // batch_size) if hasattr(data, "__len__") else None


def batches(
    data: Iterable[Any],
    batch_size: int,
    *,
    order: Sequence[int] | None = None,
    degenerate: str = "error",
) -> Iterator[Batch]:
    """Yield batches of examples.

    Args:
        data: a map-style dataset or an iterable of (image, label), (image, label, where) or
            (image, label, where, weight). image: (C, H, W) float, preprocessed; label: int;
            where: a mask (H, W), boxes (4,) or (n, 4) in half-open pixels, a mapping with one of
            mask, box, boxes, scribble, points; or None.
        batch_size: images in a batch.
        order: rows of a map-style dataset, in this order; None takes all in theirs.
        degenerate: see `annotate`.

    Raises:
        DataError: an example that is no such thing, named by its number.
    """
    if is_map_style(data):
        rows = range(len(data)) if order is None else order
        examples = there(data, rows)
    else:
        examples = enumerate(data)
    name_of = getattr(data, "name_of", None)
    gathered: list[tuple[int, Any]] = []
    for numbered in examples:
        gathered.append(numbered)
        if len(gathered) == batch_size:
            yield collate(gathered, degenerate=degenerate, name_of=name_of)
            gathered = []
    if gathered:
        yield collate(gathered, degenerate=degenerate, name_of=name_of)


def there(data: Any, rows: Iterable[int]) -> Iterator[tuple[int, Any]]:
    """Yield numbered examples of a map-style dataset without those whose file has gone.

    Warns of each, once for its text; a training goes on without it.

    Raises:
        MissingFile: none of them is there.
    """
    gone: MissingFile | None = None
    found = False
    for row in rows:
        try:
            example = data[row]
        except MissingFile as error:
            gone = error
            warnings.warn(f"{error}; it is left out", AttnvizWarning, stacklevel=3)
            continue
        found = True
        yield row, example
    if gone is not None and not found:
        raise gone


def collate(
    examples: Sequence[tuple[int, Any]],
    *,
    degenerate: str = "error",
    name_of: Callable[[int], str] | None = None,
) -> Batch:
    """Return numbered examples as a batch; see `batches`. `name_of` is for messages."""
    images, labels, weights = [], [], []
    known: dict[str, list[Any]] = {"masks": [], "boxes": [], "scribbles": [], "points": []}
    for number, example in examples:
        if not isinstance(example, tuple | list) or not 2 <= len(example) <= 4:
            raise DataError(
                f"example {number} is a {type(example).__name__}, expected (image, label), "
                "(image, label, mask | box | None) or these and a weight"
            )
        image, label, where, weight = (*example, None, None)[:4]
        if not isinstance(image, Tensor) or image.ndim != 3 or not image.is_floating_point():
            got = (
                f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image)
            )
            raise DataError(
                f"example {number}: its image is {got}, expected a preprocessed float tensor "
                "(C, H, W); attnviz.guidance.Examples makes these from attnviz.data"
            )
        images.append(image)
        labels.append(_label(label, number))
        weights.append(1.0 if weight is None else float(weight))
        for name, value in _where(where, size_of(image), number).items():
            known[name].append(value)
    shapes = {tuple(i.shape) for i in images}
    if len(shapes) > 1:
        raise DataError(
            f"the images of a batch have different sizes {sorted(shapes)[:4]}: resize or crop "
            "them to one size"
        )
    size = size_of(images[0])
    try:
        annotation = annotate(
            len(images), size, masks=known["masks"], boxes=known["boxes"],
            scribbles=known["scribbles"], points=known["points"], weights=weights,
            degenerate=degenerate,
        )  # fmt: skip
    except DataError as error:
        raise _numbered(error, [n for n, _ in examples], name_of) from None
    return Batch(torch.stack(images), torch.tensor(labels), annotation)


def _numbered(
    error: DataError, numbers: list[int], name_of: Callable[[int], str] | None
) -> DataError:
    text = str(error)
    for row, number in reversed(list(enumerate(numbers))):
        name = f" ({name_of(number)!r})" if name_of else ""
        text = text.replace(f"image {row}:", f"example {number}{name}:")
    return DataError(text)


def _label(label: Any, number: int) -> int:
    try:
        value = int(label.__index__())
    except (AttributeError, TypeError, ValueError):
        raise DataError(
            f"example {number}: its label is {label!r}, expected a class index; for several "
            "labels an image write the loop yourself (three lines, see attnviz.guidance)"
        ) from None
    if value < 0:
        raise DataError(f"example {number}: label {value} is negative")
    return value


_NAMES = {
    "mask": "masks", "masks": "masks", "box": "boxes", "boxes": "boxes",
    "scribble": "scribbles", "scribbles": "scribbles", "points": "points",
}  # fmt: skip


def _where(where: Any, size: tuple[int, int], number: int) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(("masks", "boxes", "scribbles", "points"))
    if where is None:
        return found
    if isinstance(where, Mapping):
        for key, value in where.items():
            if key not in _NAMES:
                raise DataError(
                    f"example {number}: annotation {key!r} is not known; it may hold "
                    f"{', '.join(_NAMES)}"
                )
            found[_NAMES[key]] = value
        return found
    value = torch.as_tensor(where)
    if value.ndim == 2 and tuple(value.shape) == size:
        found["masks"] = value
    elif value.shape[-1:] == (4,) and value.ndim in (1, 2):
        found["boxes"] = value
    else:
        raise DataError(
            f"example {number}: its annotation has shape {tuple(value.shape)}; a mask has the "
            f"image's size {size}, boxes are (4,) or (n, 4). Bring masks to the model's input by "
            "the same resizing and cropping as the image"
        )
    return found
