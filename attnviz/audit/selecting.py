"""Which images an audit takes: each once, and those whose files are there."""

from __future__ import annotations

from collections.abc import Container, Sequence

from ..data import Dataset, Sample, find_duplicates
from ..errors import DataError


def without(samples: Sequence[Sample], gone: Container[str]) -> Sequence[Sample]:
    """Return the samples but those of these ids."""
    return _at(samples, [i for i, s in enumerate(samples) if s.id not in gone])


def _at(samples: Sequence[Sample], rows: list[int]) -> Sequence[Sample]:
    if isinstance(samples, Dataset):
        return samples.subset(rows)
    return [samples[i] for i in rows]


def distinct(samples: Sequence[Sample], identical: str) -> tuple[Sequence[Sample], int]:
    """Return the samples of which no two are the same pixel by pixel, and how many were left out.

    Raises:
        DataError: there are some and they are to be refused, or they have unlike labels.
    """
    if identical not in ("refuse", "skip"):
        raise DataError(f"identical={identical!r}, expected 'refuse' or 'skip'")
    pairs = [
        (samples[p.first], samples[p.second], p.second)
        for p in find_duplicates(samples, near=False)
    ]
    if not pairs:
        return samples, 0
    shown = "; ".join(f"{a.id!r} = {b.id!r}" for a, b, _ in pairs[:5])
    many = f"{len(pairs)} images are the same as another, pixel by pixel"
    if identical == "refuse":
        raise DataError(
            f"{many}: {shown}. Listed twice, they would make intervals too narrow; remove them, or "
            "leave all but the first out: identical='skip' (--skip-identical)"
        )
    torn = [(a, b) for a, b, _ in pairs if (set(a.labels), a.group) != (set(b.labels), b.group)]
    if torn:
        raise DataError(
            f"{torn[0][0].id!r} and {torn[0][1].id!r} are the same, pixel by pixel, and are "
            f"labelled {list(torn[0][0].labels)} and {list(torn[0][1].labels)}: one of the two is "
            "wrong; remove it"
        )
    gone = {index for _, _, index in pairs}
    kept = [i for i in range(len(samples)) if i not in gone]
    return _at(samples, kept), len(gone)
