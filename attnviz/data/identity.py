"""What a run depends on, as short texts: data, weights, settings. One place for every command.

A run that goes on (`--resume`, or the same `attnviz benchmark` again) compares these with what it
was begun with; what differs is named, and the run is refused or its image judged anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .masks import MaskSource, files_of
from .sample import Sample

#: bytes hashed at the beginning, in the middle and at the end of a file
_SAMPLE = 1 << 14


def stamp(path: Path) -> str:
    """Return a file's size, time of change, and a hash of three samples of its bytes.

    The time catches a change anywhere; the samples catch a file put in its place with the time
    kept (`cp -p`, an archive). "" where there is no such file.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            digest = hashlib.blake2b(digest_size=8)
            for start in (0, size // 2, max(0, size - _SAMPLE)):
                file.seek(start)
                digest.update(file.read(_SAMPLE))
            return f"{size} {path.stat().st_mtime_ns} {digest.hexdigest()}"
    except OSError:
        return ""


def sample_stamp(sample: Sample) -> str:
    """Return what an image, its labels, boxes and masks are, as a short text."""
    digest = hashlib.blake2b(digest_size=12)

    def add(*parts: Any) -> None:
        digest.update(repr(parts).encode())

    add(sample.id, sample.label, sample.labels, sample.boxes, sample.source, sample.group)
    add(str(sample.meta.get("background", "")))
    if isinstance(sample.image, Path):
        add(stamp(sample.image))
    else:
        digest.update(np.ascontiguousarray(sample.image).tobytes())
    for name in sorted(sample.masks):
        add(name, _mask(sample.masks[name]))
    return digest.hexdigest()


def _mask(mask: MaskSource) -> Any:
    array = getattr(mask, "array", None)
    if isinstance(array, np.ndarray):
        return array.shape, hashlib.blake2b(np.ascontiguousarray(array).tobytes()).hexdigest()
    return repr(mask), [stamp(file) for file in files_of(mask)]


def data_stamp(samples: Iterable[Sample]) -> str:
    """Return what a dataset is: the stamps of its images in their order, as one."""
    digest = hashlib.blake2b(digest_size=12)
    for sample in samples:
        digest.update(sample_stamp(sample).encode())
    return digest.hexdigest()


def examples_stamp(examples: Any) -> str:
    """Return what training examples are: images, classes, and what is shown of each.

    "" for a dataset of another kind, of which nothing is known.
    """
    samples = getattr(examples, "samples", None)
    if not isinstance(samples, list | tuple) or not all(isinstance(s, Sample) for s in samples):
        return ""
    digest = hashlib.blake2b(data_stamp(samples).encode(), digest_size=12)
    digest.update(repr([getattr(examples, n, None) for n in ("classes", "kinds")]).encode())
    return digest.hexdigest()


def weights_stamp(module: Any) -> str:
    """Return a hash of a network's parameters and buffers, by name, type, shape and value."""
    import torch

    digest = hashlib.blake2b(digest_size=12)
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        if flat.numel():
            digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def unlike(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the names of what differs between two identities, sorted."""
    return sorted(k for k in {*before, *now} if before.get(k) != now.get(k))


def refuse_other(before: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    """Raise if a run that is to go on was begun with something else.

    Raises:
        DataError: naming what differs.
    """
    names = unlike(before, now)
    if names:
        shown = "; ".join(
            f"{n}: {str(before.get(n))[:60]} then, {str(now.get(n))[:60]} now" for n in names[:4]
        )
        raise DataError(
            f"{str(where)!r} belongs to another run, {', '.join(names)} differ ({shown}); give "
            "what it was begun with, or start over (force=True, --force)"
        )
