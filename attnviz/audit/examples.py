"""The images that a report shows: most misleading first, with maps and counterfactual strips."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import MissingFile
from .interventions import variants
from .log_odds import called, score_of
from .measuring import Instrument
from .pictures import AuditPicture, PictureReader
from .result import pasted
from .summary import Names
from .table import AuditTable

#: longest side of a photo in the report
_SIDE = 320


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a strip: caption, image (h, w, 3) uint8, score."""

    caption: str
    image: np.ndarray
    score: float


@dataclass(frozen=True, eq=False)
class Example:
    """One image of the report.

    Attributes:
        id, group: names.
        right: whether the answer is right.
        score: log-odds of the object.
        photo: what the model's input shows, (h, w, 3) uint8.
        map: (h, w) in units of the score, not normalised; of the first method.
        method: its name.
        object_mask, context_mask: (H, W) bool at the input's size, or None.
        strip: counterfactuals with scores.
    """

    id: str
    group: str
    right: bool
    score: float
    photo: np.ndarray
    map: np.ndarray
    method: str
    object_mask: np.ndarray | None
    context_mask: np.ndarray | None
    strip: tuple[Frame, ...]


def choose_examples(
    instrument: Instrument, reader: PictureReader, table: AuditTable, names: Names, count: int
) -> tuple[Example, ...]:
    """Return up to `count` images, in equal numbers from the groups, the most wrong first."""
    if count < 1:
        return ()
    wrongness = np.where(table.group >= 2, -1, 1) * table.columns["score"]
    share = -(-count // 4)
    chosen: list[int] = []
    for group in (2, 1, 3, 0):  # the groups in which a reader of the context fails come first
        rows = np.flatnonzero(table.group == group)
        chosen += rows[np.argsort(-wrongness[rows], kind="stable")][:share].tolist()
    chosen = chosen[:count]
    return examples_of(instrument, reader, chosen, names)


def examples_of(
    instrument: Instrument,
    reader: PictureReader,
    rows: Sequence[int],
    names: Names,
    *,
    strip: bool = True,
) -> tuple[Example, ...]:
    """Return images with their maps, without those whose file has gone."""
    found = []
    for row in rows:
        with suppress(MissingFile):
            found.append(make_example(instrument, reader, row, names, strip=strip))
    return tuple(found)


def make_example(
    instrument: Instrument, reader: PictureReader, row: int, names: Names, *, strip: bool = True
) -> Example:
    """Return one image with its map, and strip if asked, by running the model on it once more."""
    picture = reader.read(row)
    with instrument.running():
        maps, logits = instrument.maps(picture.input[None])
        made = variants(
            [picture], fills=instrument.fills[:1], donors=instrument.donors, seed=instrument.seed
        )
        changed = {v.name: v.input for v in made} if strip else {}
        kept = [(caption, changed[name]) for name, caption in _captions(instrument, names).items()
                if name in changed]  # fmt: skip
        scores = []
        if kept:
            after = instrument.logits(torch.stack([x for _, x in kept]))
            scores = score_of(after, instrument.target.indices).tolist()
    score = float(score_of(logits, instrument.target.indices)[0])
    method = instrument.methods[0]
    view = _Shown(picture)
    answer = bool(called(logits, instrument.target.indices)[0])
    return Example(
        picture.id, names.group(picture.group), answer == picture.has_object, score, view.photo,
        maps[method][0].numpy(), method,
        None if picture.object_mask is None else picture.object_mask.numpy(),
        None if picture.context_mask is None else picture.context_mask.numpy(),
        tuple(
            Frame(caption, view.picture(x), s)
            for (caption, x), s in zip(kept, scores, strict=True)
        ),
    )  # fmt: skip


def _captions(instrument: Instrument, names: Names) -> dict[str, str]:
    fill = instrument.fills[0]
    return {
        f"object:{fill}": f"{names.object} removed",
        f"object-control:{fill}": f"patch elsewhere, for the {names.object}",
        f"context:{fill}": f"{names.context} removed",
        "context:swap": f"{names.context} swapped",
        f"context-control:{fill}": f"patch elsewhere, for the {names.context}",
    } | pasted(names.object, names.context)


class _Shown:
    """Model inputs as pictures: the preprocessing's scale is read off the photo itself."""

    def __init__(self, picture: AuditPicture) -> None:
        import cv2

        height, width = picture.input.shape[-2:]
        left, top, right, bottom = picture.geometry.crop
        shift = np.array(
            [[width / (right - left), 0, -left * width / (right - left)],
             [0, height / (bottom - top), -top * height / (bottom - top)]]
        )  # fmt: skip
        shift[0, 2] += 0.5 * (shift[0, 0] - 1)
        shift[1, 2] += 0.5 * (shift[1, 1] - 1)
        if (left, top, right, bottom) == (0, 0, width, height):
            photo = picture.photo
        else:
            photo = cv2.warpAffine(picture.photo, shift, (width, height), flags=cv2.INTER_LINEAR)
        self.photo = photo
        # input = a * byte + b per channel, by least squares
        flat = picture.input.numpy().reshape(3, -1)
        seen = photo.reshape(-1, 3).T.astype(np.float64)
        self.scale, self.offset = [], []
        for x, y in zip(seen, flat, strict=True):
            spread = x.var()
            a = float(((x - x.mean()) * (y - y.mean())).mean() / spread) if spread > 1 else 1 / 255
            self.scale.append(a or 1 / 255)
            self.offset.append(float(y.mean() - a * x.mean()))

    def picture(self, x: torch.Tensor) -> np.ndarray:
        """Return an input (3, H, W) as (H, W, 3) uint8."""
        scale, offset = (np.array(v)[:, None, None] for v in (self.scale, self.offset))
        pixels = (x.numpy() - offset) / scale
        return pixels.transpose(1, 2, 0).round().clip(0, 255).astype(np.uint8)
