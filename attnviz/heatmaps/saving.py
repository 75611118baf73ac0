"""Heatmaps to files and back: npz with JSON, or safetensors. No pickle anywhere."""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import limits
from ..errors import DataError
from ..geometry import Geometry
from ..writing import utf8, write_files

if TYPE_CHECKING:
    from .core import Heatmaps

SCHEMA = "attnviz.heatmaps"
VERSION = 1

#: arrays that maps may have or not
_OPTIONAL = ("logits", "probability")


def json_value(value: Any, where: str) -> Any:
    """Return a value as JSON gives it back: lists for tuples, plain numbers for numpy's.

    Raises:
        DataError: it cannot be written as JSON.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"{where} is {value}, which JSON cannot hold")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic) or (isinstance(value, torch.Tensor) and value.ndim == 0):
        return json_value(value.item(), where)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return json_value(value.tolist(), where)
    if isinstance(value, (list, tuple)):
        return [json_value(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, Mapping):
        return {str(k): json_value(v, f"{where}[{k!r}]") for k, v in value.items()}
    raise DataError(
        f"{where} is a {type(value).__name__}; expected what JSON can hold: None, bool, number, "
        "text, list or dict"
    )


def save(maps: Heatmaps, path: str | Path, *, force: bool) -> Path:
    """See `Heatmaps.save`."""
    path = Path(path)
    arrays = {
        "values": maps.values.detach().cpu().contiguous(),
        "score": maps.score.detach().cpu().contiguous(),
        **{
            name: tensor.detach().cpu().contiguous()
            for name in _OPTIONAL
            if (tensor := getattr(maps, name)) is not None
        },
    }
    described = _describe(maps)
    if path.suffix == ".npz":
        buffer = io.BytesIO()
        inside = utf8(json.dumps(described, ensure_ascii=False, allow_nan=False))
        # the arrays carry their description, so that taking one name decides what is read; the
        # JSON beside them is for other readers, and for a glance
        np.savez_compressed(
            buffer,
            **{k: v.numpy() for k, v in arrays.items()},
            description=np.frombuffer(inside, np.uint8),
        )
        data = buffer.getvalue()
        described["arrays"] = {"file": path.name, "sha256": hashlib.sha256(data).hexdigest()}
        text = json.dumps(described, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_files({path: data, path.with_suffix(".json"): text}, force=force)
    elif path.suffix == ".safetensors":
        from safetensors.torch import save as to_bytes

        text = utf8(json.dumps(described, ensure_ascii=False, allow_nan=False)).decode()
        write_files({path: to_bytes(arrays, metadata={SCHEMA: text})}, force=force)
    else:
        raise DataError(f"{str(path)!r} ends in {path.suffix!r}; expected .npz or .safetensors")
    return path


def load(path: str | Path) -> dict[str, Any]:
    """Return the fields of the `Heatmaps` in a file; see `Heatmaps.load`."""
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            arrays, text = _read_safetensors(path)
            described = _checked(limits.parse_json(text, str(path)), path)
        elif path.suffix in (".npz", ".json"):
            beside = path.with_suffix(".json")
            if path.suffix == ".json":
                _checked(limits.read_json(beside), beside)
            arrays, described = _read_npz(path.with_suffix(".npz"), beside)
        else:
            raise DataError(
                f"{str(path)!r} ends in {path.suffix!r}; expected .npz, .json or .safetensors"
            )
        return _fields(arrays, described)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"no such file: {str(error.filename or path)!r}") from error
    except Exception as error:  # damaged files fail in as many ways as there are bytes
        raise DataError(
            f"{str(path)!r} does not hold heatmaps, or is damaged: {type(error).__name__} {error}"
        ) from error


def _fields(arrays: Mapping[str, torch.Tensor], described: Mapping[str, Any]) -> dict[str, Any]:
    for name in ("method", "layer", "units"):
        _typed(described, name, str)
    for name in ("target", "label"):
        _typed(described, name, list)
    for name in ("geometry", "sources"):
        _typed(described, name, (list, type(None)))
    _typed(described, "meta", dict)
    places, sources = described["geometry"], described["sources"]
    if not all(isinstance(v, str) for v in described["label"]) or not all(
        isinstance(v, str | None) for v in sources or ()
    ):
        raise DataError("'label' and 'sources' are not lists of texts")
    return {
        "values": arrays["values"],
        "score": arrays["score"],
        **{name: arrays.get(name) for name in _OPTIONAL},
        "method": described["method"],
        "layer": described["layer"],
        "target": tuple(described["target"]),
        "label": tuple(described["label"]),
        "geometry": None if places is None else tuple(_place(g) for g in places),
        "sources": None if sources is None else tuple(sources),
        "units": described["units"],
        "meta": described["meta"],
    }


def _typed(described: Mapping[str, Any], name: str, kind: Any) -> None:
    if name not in described or not isinstance(described[name], kind):
        raise DataError(f"heatmaps: {name!r} is {described.get(name)!r:.60}, of another type")


def _place(fields: Any) -> Geometry:
    """Return a geometry whose numbers are numbers and whose photo is no larger than a photo is."""
    sizes = [fields["image_size"], fields["input_size"]]
    for size in sizes:
        if len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
            raise DataError(f"heatmaps: size {size!r}, expected two whole numbers above 0")
        limits.check("pixels", size[0] * size[1], "heatmaps: the image size stated")
    crop = [float(v) for v in fields["crop"] if type(v) in (int, float)]
    if len(crop) != 4 or not all(abs(v) < 1e9 for v in crop):
        raise DataError(f"heatmaps: crop {fields['crop']!r}, expected four numbers")
    if crop[0] >= crop[2] or crop[1] >= crop[3]:
        raise DataError(f"heatmaps: crop {crop} (left, top, right, bottom) is empty")
    return Geometry.from_dict(fields)


def _describe(maps: Heatmaps) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "method": maps.method,
        "layer": maps.layer,
        "target": list(maps.target),
        "label": list(maps.label),
        "geometry": None if maps.geometry is None else [g.as_dict() for g in maps.geometry],
        "sources": None if maps.sources is None else list(maps.sources),
        "units": maps.units,
        "meta": maps.meta,
    }


def _checked(described: Any, path: Path) -> dict[str, Any]:
    if not isinstance(described, dict) or described.get("schema") != SCHEMA:
        raise DataError(f"{str(path)!r} is not an {SCHEMA} file")
    if described.get("version") != VERSION:
        raise DataError(
            f"{str(path)!r} has version {described.get('version')} of {SCHEMA}; this attnviz "
            f"reads version {VERSION}. Update attnviz"
        )
    return described


def _read_npz(path: Path, beside: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    data = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as parts:
        # what the headers say, before anything is unpacked
        limits.check("bytes", sum(i.file_size for i in parts.infolist()), str(path))
        own = "description.npy" in parts.namelist()
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        found = {name: torch.from_numpy(arrays[name]) for name in _held(arrays.files)}
        if own:
            text = arrays["description"].astype(np.uint8).tobytes()
            return found, _checked(limits.parse_json(text, str(path)), path)
    # written before the arrays carried their description: the sum ties the two files together
    described = _checked(limits.read_json(beside), beside)
    if hashlib.sha256(data).hexdigest() != described["arrays"]["sha256"]:
        raise DataError(
            f"{str(path)!r} is not the file that its .json describes (their check sums differ)"
        )
    return found, described


def _held(names: Iterable[str]) -> list[str]:
    return ["values", "score", *(name for name in _OPTIONAL if name in names)]


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    from safetensors import safe_open

    if not path.exists():
        raise FileNotFoundError(2, "no such file", str(path))
    limits.check("bytes", path.stat().st_size, str(path))
    limits.check_tensors(path, str(path))
    with safe_open(str(path), framework="pt") as file:
        text = (file.metadata() or {}).get(SCHEMA)
        if text is None:
            raise DataError(f"{str(path)!r} is not an {SCHEMA} file")
        return {name: file.get_tensor(name) for name in _held(file.keys())}, text
