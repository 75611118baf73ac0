"""Checkpoints that are whole or not there: safetensors for numbers, JSON for the rest.

A run's folder holds `state-NNNN.safetensors` (everything training needs to go on, to the bit) and
`run.json`, which names the state that counts. `run.json` is replaced last, in one step, so a
kill at any moment leaves the epoch before.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .. import limits
from ..errors import AttnvizError, DataError, GuidanceError
from ..writing import write_file

SCHEMA = 1


@contextlib.contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Turn what a full disk raises inside the block into an error that says what to do.

    Raises:
        GuidanceError: the disk is full or the folder cannot be written; nothing under the path
            has changed.
    """
    try:
        yield
    except Exception as error:
        # safetensors reports a full disk by an error of its own
        on_disk = isinstance(error, OSError) or "safetensor" in type(error).__name__.lower()
        if isinstance(error, AttnvizError) or not on_disk:
            raise
        raise GuidanceError(
            f"cannot write {str(path)!r}: {getattr(error, 'strerror', None) or error}; what was "
            "written before is intact. Free some space and resume (resume=True, --resume)"
        ) from error


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file of a run by a function that takes a path, whole or not at all.

    Raises:
        GuidanceError: see `disk_faults`.
    """
    with disk_faults(path):
        write_file(path, write, force=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole; numbers that are not finite are refused."""
    text = json.dumps(value, indent=2, allow_nan=False)
    write_whole(path, lambda p: p.write_text(text + "\n", encoding="utf-8"))


def pack_optimiser(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return an optimiser's state as tensors by name and as JSON values."""
    stored = optimiser.state_dict()
    tensors, plain = {}, {}
    for index, state in stored["state"].items():
        plain[str(index)] = {}
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                plain[str(index)][key] = value
    return tensors, {"state": plain, "groups": stored["param_groups"]}


def unpack_optimiser(
    optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    """Take over what `pack_optimiser` returned."""
    state: dict[int, dict] = {int(i): dict(values) for i, values in plain["state"].items()}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    groups = optimiser.state_dict()["param_groups"]
    for own, stored in zip(groups, plain["groups"], strict=True):
        # JSON turns tuples (betas) into lists
        own.update({k: tuple(v) if isinstance(own.get(k), tuple) else v for k, v in stored.items()})
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def pack_random() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the random states of torch, numpy and Python."""
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for i, state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"cuda.{i}"] = state
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    assert not isinstance(keys, str)  # numpy's types allow for the other form
    version, numbers, gauss = random.getstate()
    tensors["numpy"] = torch.from_numpy(keys.astype(np.int64))
    tensors["python"] = torch.tensor(numbers, dtype=torch.int64)
    plain = {
        "numpy": [name, int(position), int(has_gauss), float(cached)],
        "python": [version, gauss],
    }
    return tensors, plain


def unpack_random(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    """Take over what `pack_random` returned."""
    torch.set_rng_state(tensors["torch"])
    cuda = [tensors[k] for k in sorted(tensors) if k.startswith("cuda.")]
    if cuda and torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(cuda)
    name, position, has_gauss, cached = plain["numpy"]
    keys = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state((name, keys, position, has_gauss, cached))
    version, gauss = plain["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))


@contextlib.contextmanager
def own_random_state(seed: int) -> Iterator[None]:
    """Seed torch, numpy and Python inside the block; afterwards their states are as before."""
    kept = pack_random()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        unpack_random(*kept)


def save_state(
    folder: Path,
    epoch: int,
    modules: Mapping[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    record: Mapping[str, Any],
    *,
    best: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the state after `epoch` finished epochs, then point `run.json` at it.

    Args:
        folder: of the run.
        epoch: finished epochs.
        modules: name -> module (the model, a loss's adversary).
        optimiser: theirs.
        record: JSON values that `run.json` holds (config, history, ...).
        best: the best model's weights, where it is not this one.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"{name}/{k}": v for k, v in module.state_dict().items()}
    packed, optimiser_plain = pack_optimiser(optimiser)
    tensors |= {f"optimiser/{k}": v for k, v in packed.items()}
    packed, random_plain = pack_random()
    tensors |= {f"random/{k}": v for k, v in packed.items()}
    tensors |= {f"best/{k}": v for k, v in (best or {}).items()}
    # copies: tied weights share memory, which the format refuses
    tensors = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
    plain = {"optimiser": optimiser_plain, "random": random_plain}
    state = folder / f"state-{epoch:04d}.safetensors"
    new = not state.exists()
    write_whole(state, lambda p: save_file(tensors, p, {"attnviz": json.dumps(plain)}))
    document = {"schema": "attnviz.guide", "schema_version": SCHEMA, "state": state.name}
    try:
        write_json(folder / "run.json", document | dict(record))
    except GuidanceError:
        if new:  # nothing names it, and it takes the room that the user has to find
            state.unlink(missing_ok=True)
        raise
    # the states before, and what a kill in the middle of writing left
    for pattern in ("state-*.safetensors", ".attnviz-*.new"):
        for old in folder.glob(pattern):
            if old.name != state.name:
                old.unlink(missing_ok=True)


def read_run(folder: Path) -> dict[str, Any]:
    """Return a run's `run.json`.

    Raises:
        DataError: missing, damaged, or of a later version.
    """
    path = Path(folder) / "run.json"
    try:
        document = limits.read_json(path)
    except DataError:
        if not path.exists():
            raise DataError(
                f"{str(folder)!r} holds no run (no run.json); nothing to resume"
            ) from None
        raise
    with limits.reading(path):
        schema, version = document.get("schema"), document.get("schema_version", 0)
        if schema != "attnviz.guide" or version > SCHEMA:
            raise DataError(
                f"{str(path)!r} is no run that this version knows (schema {schema!r}, version "
                f"{version!r})"
            )
        document["config"].items()
    return document


def load_state(
    folder: Path, modules: Mapping[str, nn.Module], optimiser: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Take over a run's state; returns `run.json` and the best weights (empty if it is this one).

    Raises:
        DataError: damaged, or of another model.
    """
    record = read_run(folder)
    with limits.reading(Path(folder) / "run.json"):
        path = Path(folder) / Path(record["state"]).name  # wherever it says to be
    parts: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, "pt") as file:
            plain = json.loads(file.metadata()["attnviz"])
            for name in file.keys():  # noqa: SIM118 (no mapping)
                part, _, key = name.partition("/")
                parts.setdefault(part, {})[key] = file.get_tensor(name)
    except Exception as error:
        raise DataError(f"checkpoint {str(path)!r} cannot be read: {error}") from error
    for name, module in modules.items():
        try:
            module.load_state_dict(parts.get(name, {}))
        except RuntimeError as error:
            raise DataError(
                f"checkpoint {str(path)!r} is of another model: {str(error)[:300]}"
            ) from error
    with limits.reading(path):
        unpack_optimiser(optimiser, parts.get("optimiser", {}), plain["optimiser"])
        unpack_random(parts["random"], plain["random"])
    return record, parts.get("best", {})
