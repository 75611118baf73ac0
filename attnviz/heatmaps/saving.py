"""Heatmaps to files and back: npz with JSON, or safetensors. No pickle anywhere."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import DataError
from ..geometry import Geometry
from ..writing import write_files

if TYPE_CHECKING:
    from .core import Heatmaps

SCHEMA = "attnviz.heatmaps"
VERSION = 1


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
    }
    described = _describe(maps)
    if path.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{k: v.numpy() for k, v in arrays.items()})
        data = buffer.getvalue()
        # the sum ties the two files together: a JSON beside another npz is found out
        described["arrays"] = {"file": path.name, "sha256": hashlib.sha256(data).hexdigest()}
        text = json.dumps(described, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_files({path: data, path.with_suffix(".json"): text.encode()}, force=force)
    elif path.suffix == ".safetensors":
        from safetensors.torch import save as to_bytes

        text = json.dumps(described, ensure_ascii=False, allow_nan=False)
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
            described = _checked(json.loads(text), path)
        elif path.suffix in (".npz", ".json"):
            beside = path.with_suffix(".json")
            described = _checked(json.loads(beside.read_text(encoding="utf-8")), beside)
            arrays = _read_npz(path.with_suffix(".npz"), described["arrays"]["sha256"])
        else:
            raise DataError(
                f"{str(path)!r} ends in {path.suffix!r}; expected .npz, .json or .safetensors"
            )
        places, sources = described["geometry"], described["sources"]
        return {
            "values": arrays["values"],
            "score": arrays["score"],
            "method": described["method"],
            "layer": described["layer"],
            "target": tuple(described["target"]),
            "label": tuple(described["label"]),
            "geometry": places and tuple(Geometry.from_dict(g) for g in places),
            "sources": sources and tuple(sources),
            "units": described["units"],
            "meta": described["meta"],
        }
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"no such file: {str(error.filename or path)!r}") from error
    except Exception as error:  # damaged files fail in as many ways as there are bytes
        raise DataError(
            f"{str(path)!r} does not hold heatmaps, or is damaged: {type(error).__name__} {error}"
        ) from error


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


def _read_npz(path: Path, expected: str) -> dict[str, torch.Tensor]:
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != expected:
        raise DataError(
            f"{str(path)!r} is not the file that its .json describes (their check sums differ)"
        )
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in ("values", "score")}


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    from safetensors import safe_open

    if not path.exists():
        raise FileNotFoundError(2, "no such file", str(path))
    with safe_open(str(path), framework="pt") as file:
        text = (file.metadata() or {}).get(SCHEMA)
        if text is None:
            raise DataError(f"{str(path)!r} is not an {SCHEMA} file")
        return {name: file.get_tensor(name) for name in ("values", "score")}, text
