"""What a run depends on, as short texts: data, weights, settings. One place for every command.

A run that goes on (`--resume`, or the same `attnviz benchmark` again) compares these with what it
was begun with; what differs is named, and the run is refused or its image judged anew.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..writing import utf8
from .masks import MaskSource, files_of
from .sample import Sample

#: where an object lies in memory, which differs from run to run
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
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
        digest.update(utf8(repr(parts)))

    add(sample.id, sample.label, sample.labels, sample.boxes, sample.source, sample.group)
    add(str(sample.meta.get("background", "")))
    if isinstance(sample.image, Path):
        add(stamp(sample.image))
    elif isinstance(sample.image, np.ndarray):
        digest.update(np.ascontiguousarray(sample.image).tobytes())
    else:
        file, part = sample.image.where()
        add(stamp(file), part)
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
    """Return a hash of what a network computes with.

    Its parameters and buffers by name, type, shape and value, those that a checkpoint leaves out
    too, and what it is made of with its settings, as it prints itself.
    """
    digest = hashlib.blake2b(digest_size=12)
    stored = dict(module.state_dict())
    left_out = {n: b for n, b in module.named_buffers() if n not in stored}
    for name, value in (stored | left_out).items():
        digest.update(name.encode())
        _add_value(digest, value)
    digest.update(_ADDRESS.sub("", repr(module)).encode())
    return digest.hexdigest()


def _add_value(digest: Any, value: Any) -> None:
    import torch

    if isinstance(value, list | tuple):  # quantised layers keep weight and bias in one entry
        for part in value:
            _add_value(digest, part)
        return
    if not isinstance(value, torch.Tensor):
        digest.update(_ADDRESS.sub("", repr(value)).encode())
        return
    digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
    if value.is_meta:
        return
    if value.is_quantized:
        digest.update(repr(value.dequantize().flatten()[:1]).encode())
        value = value.int_repr()
    flat = (value.to_dense() if value.is_sparse else value).detach().cpu().contiguous().flatten()
    if flat.numel():
        digest.update(flat.resolve_conj().resolve_neg().view(torch.uint8).numpy().data)


def option_stamp(value: Any, module: Any = None) -> Any:
    """Return an option of a run as JSON: as it is, or {"given": ...} where JSON has no such value.

    A layer is told by its name in `module`, a tensor or array by its content, a function by its
    name; anything else as it prints itself.
    """
    import torch

    if isinstance(value, list | tuple):
        return [option_stamp(part, module) for part in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    kind = type(value).__name__
    if isinstance(value, torch.nn.Module) and module is not None:
        names = [name for name, part in module.named_modules() if part is value]
        if names:
            return {"given": f"layer {names[0]}"}
    if isinstance(value, torch.nn.Module):
        return {"given": f"{kind} {weights_stamp(value)}"}
    if isinstance(value, torch.Tensor | np.ndarray):
        digest = hashlib.blake2b(digest_size=12)
        _add_value(digest, torch.as_tensor(value))
        return {"given": f"{kind} {digest.hexdigest()}"}
    if callable(value) and hasattr(value, "__qualname__"):
        return {"given": f"{value.__module__}.{value.__qualname__}"}
    return {"given": f"{kind}: {_ADDRESS.sub('', repr(value))}"}


def run_versions() -> dict[str, str]:
    """Return the versions that the numbers of a run depend on."""
    import torch

    from .. import __version__

    return {"attnviz": __version__, "torch": torch.__version__}


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
