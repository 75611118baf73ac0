"""Which images lend their context to an object that is put elsewhere."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import torch

from ..errors import MissingFile
from .interventions import Donors, emptied
from .pictures import AuditPicture, PictureReader

#: pairs of images that lend their context
_DONORS = 24
_LEAST_DONORS = 4


def draw_donors(reader: PictureReader, seed: int) -> Donors | None:
    """Return pairs of images without the object, with and without the context, drawn by seed.

    Where the context is what surrounds the object, those with it are images of the object that is
    taken out of them, and those without it are others, of which known things are taken out too
    where there are enough such.
    """
    kinds: dict[bool, list[int]] = {True: [], False: []}
    for index, sample in enumerate(reader.data):
        has_object, has_context = reader.presence(sample)
        if reader.rest and (not has_object or reader.kind_of(sample) != "none"):
            kinds[has_object].append(index)
        elif not reader.rest and not has_object and has_context is not None:
            kinds[has_context].append(index)
    if reader.rest:
        cleared = [i for i in kinds[False] if reader.locates_others(reader.data[i])]
        kinds[False] = cleared if len(cleared) >= _LEAST_DONORS else kinds[False]
    least = min(map(len, kinds.values()))
    if least < _LEAST_DONORS:
        return None
    rng = np.random.default_rng((seed, 7))
    drawn = [rng.permutation(kinds[k])[: min(least, _DONORS)] for k in (True, False)]
    pictures = [_pictures(reader, part.tolist()) for part in drawn]
    least = min(map(len, pictures))
    if least < _LEAST_DONORS:
        return None
    pictures = [part[:least] for part in pictures]
    if len({p.input.shape for part in pictures for p in part}) > 1:
        return None  # inputs of several sizes cannot lend to one another
    pairs = list(zip(*pictures, strict=True))
    lent = tuple((a.background, b.background) for a, b in pairs)
    cleared = [torch.stack([emptied(p) for p in part]) for part in pictures]
    if reader.rest:
        return Donors(cleared[0], cleared[1], lent)
    inputs = [torch.stack([p.input for p in part]) for part in pictures]
    taken = [[p.occupied for p in pair if p.occupied is not None] for pair in pairs]
    if not any(taken):
        return Donors(inputs[0], inputs[1], lent)
    empty = torch.zeros(inputs[0].shape[-2:], dtype=torch.bool)
    occupied = [torch.stack([empty, *found]).any(0) for found in taken]
    both = [torch.cat(parts) for parts in zip(inputs, cleared, strict=True)]
    places = torch.stack([*occupied, *(empty for _ in pairs)])
    return Donors(both[0], both[1], (*lent, *lent), places, len(pairs))


def _pictures(reader: PictureReader, rows: list[int]) -> list[AuditPicture]:
    """Return images without those whose file has gone, which is said when it is their turn."""
    found = []
    for row in rows:
        with suppress(MissingFile):
            found.append(reader.read(row))
    return found
