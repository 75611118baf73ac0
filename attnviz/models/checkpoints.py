"""Weights from a file into a model: tensors only, no code, and nothing left over in silence."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError

_NESTS = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights", "params")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "encoder.", "backbone.")
_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, on the CPU. Pickled code is never run.

    Args:
        path: a .safetensors, .pth, .pt, .bin or .ckpt file; a state dict, or a dict that holds
            one under `state_dict`, `model` and the like.

    Raises:
        ModelError: the file is missing, empty, broken, of another kind, or holds objects other
            than tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "does not exist"
        raise ModelError(f"checkpoint {path} {what}; give a .safetensors, .pth or .pt file")
    if path.stat().st_size == 0:
        raise ModelError(f"checkpoint {path} is empty (0 bytes); fetch or save it again")
    if path.suffix == ".safetensors":
        stored: Any = _read_safetensors(path)
    elif path.suffix in _SUFFIXES:
        stored = _read_torch(path)
    else:
        raise ModelError(
            f"checkpoint {path} has suffix {path.suffix!r}; expected .safetensors or one of "
            f"{', '.join(_SUFFIXES)}"
        )
    return _tensors(stored, path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"checkpoint {path} is not a readable safetensors file: {error}"
        ) from error


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():  # it has opinions on old files that it reads all the same
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types for a broken file
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"checkpoint {path} cannot be read as tensors only ({type(error).__name__}: "
            f"{first[:200]}). It is broken, or holds Python objects, which attnviz never runs: "
            "save model.state_dict(), or better a .safetensors file"
        ) from error


def _tensors(stored: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(3):  # {"model": {"state_dict": {...}}} happens
        if not isinstance(stored, Mapping):
            break
        nest = next((k for k in _NESTS if isinstance(stored.get(k), Mapping)), None)
        if nest is None:
            break
        stored = stored[nest]
    found = (
        {str(k): v for k, v in stored.items() if isinstance(v, Tensor)}
        if isinstance(stored, Mapping)
        else {}
    )
    if not found:
        keys = f" with keys {list(stored)[:5]}" if isinstance(stored, Mapping) else ""
        raise ModelError(
            f"checkpoint {path} holds no weights ({type(stored).__name__}{keys}); expected a "
            "state dict, or one under 'state_dict' or 'model'"
        )
    for name, tensor in found.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(
                f"checkpoint {path} has NaN or infinite values in {name!r}; the training "
                "diverged or the file is damaged"
            )
    return found


def strip_prefixes(stored: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Return the tensors with wrappers' prefixes (`module.`, ...) removed where that fits more.

    Args:
        stored: names and tensors of a checkpoint.
        wanted: the model's own names.
    """
    best = stored
    for _ in range(3):
        options = [best]
        for prefix in _PREFIXES:
            if all(name.startswith(prefix) for name in best):
                options.append({k.removeprefix(prefix): v for k, v in best.items()})
        hits = [len(wanted & option.keys()) for option in options]
        # `module.` and `_orig_mod.` nest in any order: go on even where one step fits no more
        choice = max(range(len(options)), key=lambda i: (hits[i], i))
        if choice == 0:
            break
        best = options[choice]
    return best if len(wanted & best.keys()) > len(wanted & stored.keys()) else stored


def load_checkpoint(
    path: str | Path,
    build: Callable[[int | None], nn.Module],
    *,
    name: str,
    num_classes: int | None = None,
) -> nn.Module:
    """Build a model and fill it from a checkpoint; every tensor must find its place.

    Args:
        path: see `read_state_dict`.
        build: makes the model for a number of classes (None: its default).
        name: of the model, for messages.
        num_classes: None reads it off the checkpoint's last layer.

    Raises:
        ModelError: names or shapes do not fit; the message lists the first few.
    """
    stored = read_state_dict(path)
    module = build(num_classes)
    stored = strip_prefixes(stored, set(module.state_dict()))
    if num_classes is None:
        classes = _classes_of(stored, module.state_dict())
        if classes is not None:
            module = build(classes)
    _fill(module, stored, path, name)
    return module


def _classes_of(stored: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> int | None:
    """Return the checkpoint's number of classes if only its head differs in size, else None."""
    unlike = [k for k in stored.keys() & own.keys() if stored[k].shape != own[k].shape]
    pairs = {(own[k].shape[:1], stored[k].shape[:1]) for k in unlike}
    rest = all(own[k].shape[1:] == stored[k].shape[1:] for k in unlike)
    if len(pairs) != 1 or not rest:
        return None
    (_, new), *_ = pairs
    return int(new[0]) if new else None


def _fill(module: nn.Module, stored: Mapping[str, Tensor], path: str | Path, name: str) -> None:
    own = module.state_dict()
    # counters that eval mode does not read, and heads that only training uses
    optional = {k for k in own if k.endswith("num_batches_tracked")}
    optional |= {k for k in own if k.split(".")[0] in ("AuxLogits", "aux1", "aux2")}
    missing = sorted(own.keys() - stored.keys() - optional)
    unexpected = sorted(stored.keys() - own.keys())
    shapes = [
        f"{k} is {tuple(stored[k].shape)}, expected {tuple(own[k].shape)}"
        for k in sorted(stored.keys() & own.keys())
        if stored[k].shape != own[k].shape
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if names
    ]
    if problems:
        fit = len(own.keys() & stored.keys()) - len(shapes)
        raise ModelError(
            f"checkpoint {path} does not fit {name}: {'; '.join(problems)}; {fit} of {len(own)} "
            "tensors fit. Name the architecture it was trained with (--model), and num_classes "
            "if its head is not the default one"
        )
    module.load_state_dict(dict(stored), strict=False)
