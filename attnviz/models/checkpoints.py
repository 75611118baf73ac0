"""Weights from a file into a model: tensors only, no code, and nothing left over in silence."""

from __future__ import annotations

import fnmatch
import os
import re
import sys
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import limits
from ..errors import AttnvizWarning, DataError, ModelError, did_you_mean
from .label_files import labels_in
from .plain_data import plain_data

_NESTS = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights", "params")
#: a part of a checkpoint that fits as well as another is taken in this order
_PREFIXES = ("", "module.", "_orig_mod.", "model.", "net.", "network.", "encoder.", "backbone.")
_HEAD = re.compile(r"(fc|classifier|heads?|last_linear|linear|output)\..*\b(weight|bias)$")
_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")


def read_state_dict(path: str | Path, *, key: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, on the CPU. Pickled code is never run.

    Args:
        path: a .safetensors, .pth, .pt, .bin or .ckpt file; a state dict, or a dict that holds
            one under `state_dict`, `model` and the like.
        key: where the weights are, if there are several: a key (`ema_state_dict`), keys with dots
            between, or what the weights' names begin with (`teacher`).

    Raises:
        ModelError: the file is missing, empty, broken, of another kind, holds objects other than
            tensors and plain data, or several sets of weights.
    """
    return read_checkpoint(path, key=key)[0]


def read_checkpoint(
    path: str | Path, *, key: str | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """Read tensors as `read_state_dict` does, and names beside them, as many as a weight's rows."""
    path = Path(path).expanduser()
    if not os.path.isfile(path):
        what = "is a directory" if os.path.isdir(path) else "does not exist"
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
    tensors, labels = _tensors(stored, path, key), labels_in(stored)
    rows = {v.shape[0] for v in tensors.values() if v.ndim > 1}
    return tensors, labels if labels is not None and len(labels) in rows else None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    what = f"checkpoint {path} is not a readable safetensors file"
    try:
        limits.check_tensors(path, "it")
        return load_file(path)
    except (SafetensorError, DataError, OSError, ValueError) as error:
        raise ModelError(f"{what}: {error}") from error


def _read_torch(path: Path) -> Any:
    try:
        limits.check_archive(path, f"checkpoint {path}")
    except DataError as error:
        raise ModelError(str(error)) from None
    try:
        with warnings.catch_warnings():  # it has opinions on old files that it reads all the same
            warnings.simplefilter("ignore")
            with torch.serialization.safe_globals(plain_data()):
                return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types for a broken file
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        other = re.search(r"GLOBAL (\S+)", str(error))
        what = f"{type(error).__name__}: {first[:200]}"
        raise ModelError(
            f"checkpoint {path} cannot be read as tensors only ("
            f"{f'it holds a {other[1]}' if other else what}). It is broken, or holds Python "
            "objects, which attnviz never runs: save model.state_dict(), or better a "
            ".safetensors file"
        ) from error


def _tensors(stored: Any, path: Path, key: str | None) -> dict[str, Tensor]:
    found = _weights_in(stored, path) if key is None else _under(stored, key, path)
    for name, tensor in found.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(
                f"checkpoint {path} has NaN or infinite values in {name!r}; the training "
                "diverged or the file is damaged"
            )
    return found


def _own(stored: Any) -> dict[str, Tensor]:
    items = stored.items() if isinstance(stored, Mapping) else ()
    return {str(k): v for k, v in items if isinstance(v, Tensor)}


def _places(stored: Any, path: str = "", depth: int = 3) -> Iterator[str]:
    """Yield the dotted keys under which tensors lie."""
    if not isinstance(stored, Mapping) or not depth:
        return
    if path and _own(stored):
        yield path
    for key, value in stored.items():
        yield from _places(value, f"{path}.{key}" if path else str(key), depth - 1)


def _weights_in(stored: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(3):  # {"model": {"state_dict": {...}}} happens
        if not isinstance(stored, Mapping):
            break
        nest = next((k for k in _NESTS if isinstance(stored.get(k), Mapping)), None)
        if nest is None:
            break
        stored = stored[nest]
    found = _own(stored)
    if found:
        return found
    # an optimiser's state is tensors, too, but under numbers
    places = [p for p in _places(stored) if not p.startswith("optim") and not p[-1].isdigit()]
    if len(places) == 1:
        return _own(_walked(stored, places[0]))
    if places:
        raise ModelError(
            f"checkpoint {path} holds {len(places)} sets of weights: {', '.join(places[:8])}; say "
            f"which with checkpoint_key={places[0]!r} (--checkpoint-key {places[0]})"
        )
    keys = f" with keys {list(stored)[:5]}" if isinstance(stored, Mapping) else ""
    raise ModelError(
        f"checkpoint {path} holds no weights ({type(stored).__name__}{keys}); expected a "
        "state dict, or one under 'state_dict' or 'model'"
    )


def _walked(stored: Any, key: str) -> Any:
    if not isinstance(stored, Mapping) or key in stored:
        return stored[key] if isinstance(stored, Mapping) else None
    for end, letter in enumerate(key):
        if letter == "." and key[:end] in stored:
            found = _walked(stored[key[:end]], key[end + 1 :])
            if found is not None:
                return found
    return None


def _under(stored: Any, key: str, path: Path) -> dict[str, Tensor]:
    """Return the tensors under a key, or those whose names begin with it, without it."""
    key = key.strip(". ")
    there = _walked(stored, key)
    if isinstance(there, Mapping):
        return _weights_in(there, path)
    every = [stored, *(_walked(stored, place) for place in _places(stored))]
    for names in map(_own, every):
        found = {k[len(key) + 1 :]: v for k, v in names.items() if k.startswith(f"{key}.")}
        if found:
            return found
    begins = {name.split(".")[0] for names in map(_own, every) for name in names}
    known = [*_places(stored), *sorted(begins)]
    raise ModelError(
        f"checkpoint {path} holds no weights under {key!r}{did_you_mean(key, known) or '.'} There "
        f"are: {', '.join(known[:12])}"
    )


def strip_prefixes(stored: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Return the tensors with the prefix removed under which most of a model's names are found.

    A wrapper's prefix (`module.`, `model.`, a task's own name) stands before all weights, or,
    beside a loss or a second network, before some.

    Args:
        stored: names and tensors of a checkpoint.
        wanted: the model's own names.
    """
    hits: Counter[str] = Counter()
    for name in stored:
        ends = [0, *(i + 1 for i, letter in enumerate(name) if letter == ".")]
        hits.update({name[:end] for end in ends if name[end:] in wanted})
    if not hits:
        return stored
    most = max(hits.values())
    order = {prefix: n for n, prefix in enumerate(_PREFIXES)}
    best = min((p for p in hits if hits[p] == most), key=lambda p: (order.get(p, len(order)), p))
    if not best:
        return stored
    rest = {k: v for k, v in stored.items() if not k.startswith(best)}
    return rest | {k.removeprefix(best): v for k, v in stored.items() if k.startswith(best)}


def without(stored: dict[str, Tensor], patterns: Sequence[str], path: Any) -> dict[str, Tensor]:
    """Return the tensors without those whose names a pattern matches (`total_ops`, `loss.*`).

    Raises:
        ModelError: a pattern matches none.
    """
    for pattern in patterns:
        kept = {k: v for k, v in stored.items() if not fnmatch.fnmatchcase(k, pattern)}
        if len(kept) == len(stored):
            raise ModelError(
                f"checkpoint {path} has no key {pattern!r} to leave out"
                f"{did_you_mean(pattern, stored)}"
            )
        stored = kept
    return stored


def load_checkpoint(
    path: str | Path,
    build: Callable[[int | None], nn.Module],
    *,
    name: str,
    num_classes: int | None = None,
    key: str | None = None,
    drop: Sequence[str] = (),
) -> tuple[nn.Module, tuple[str, ...] | None]:
    """Build a model and fill it from a checkpoint; every tensor must find its place.

    Returns the model, and the class names that the checkpoint holds beside the weights.

    Position embeddings of another grid are resampled by timm's or torchvision's own function, and
    a head that another release wraps differently is taken for what it is; both are warned of.

    Args:
        path: see `read_state_dict`.
        build: makes the model for a number of classes (None: its default).
        name: of the model, for messages.
        num_classes: None reads it off the checkpoint's last layer.
        key: see `read_state_dict`.
        drop: names of tensors to leave out, `*` for any letters.

    Raises:
        ModelError: names or shapes do not fit; the message lists the first few.
    """
    stored, labels = read_checkpoint(path, key=key)
    module = build(num_classes)
    stored = strip_prefixes(stored, set(module.state_dict()))
    stored = without(stored, drop, path)
    stored = _resampled(_heads_named(stored, module.state_dict()), module)
    if num_classes is None:
        classes = _classes_of(stored, module.state_dict())
        if classes is not None:
            module = build(classes)
    _fill(module, stored, path, name)
    return module, labels


def _heads_named(stored: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with `fc.1.weight` named `fc.weight`, as the model has it, or reverse.

    A linear layer behind a dropout is a `Sequential` in one place and none in another.
    """
    lost, extra = own.keys() - stored.keys(), stored.keys() - own.keys()
    lost = {k for k in lost if not k.endswith("num_batches_tracked")}
    if not all(_HEAD.match(name) for name in lost):
        return stored
    renamed = {}
    for name in sorted(lost):
        alike = [k for k in extra if _place(k) == _place(name)]
        alone = len(alike) == 1 and sum(_place(k) == _place(name) for k in lost) == 1
        if alone and stored[alike[0]].shape[1:] == own[name].shape[1:]:
            renamed[alike[0]] = name
    if renamed:
        warnings.warn(
            "the checkpoint calls "
            + ", ".join(f"{old!r} what the model calls {new!r}" for old, new in renamed.items())
            + ": taken as the same layer, such as behind a dropout; if more stood in that head, "
            "load the network as package.module:factory",
            AttnvizWarning,
            stacklevel=5,
        )
    return {renamed.get(k, k): v for k, v in stored.items()}


def _place(name: str) -> tuple[str, str]:
    """Return a weight's layer and leaf, without the last number in between."""
    layer, _, leaf = name.rpartition(".")
    return re.sub(r"\.\d+$", "", layer), leaf


def _resampled(stored: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors with position embeddings of another grid brought to the model's."""
    own = module.state_dict()
    unlike = [k for k in own.keys() & stored.keys() if own[k].shape != stored[k].shape]
    unlike = [k for k in unlike if re.search(r"pos|relative|rel_", k)]
    home = sys.modules[type(module).__module__]
    if not unlike:
        return stored
    try:
        if home.__name__.startswith("timm.") and hasattr(home, "checkpoint_filter_fn"):
            made = home.checkpoint_filter_fn(dict(stored), module)
        elif home.__name__ == "torchvision.models.vision_transformer":
            given: Any = OrderedDict(stored)
            made = home.interpolate_embeddings(module.image_size, module.patch_size, given)
        else:
            return stored
    except Exception:  # what it does not take is refused below, with both shapes
        return stored
    done = [k for k in unlike if k in made and made[k].shape == own[k].shape]
    if done:
        shapes = ", ".join(
            f"{k} {tuple(stored[k].shape)} to {tuple(made[k].shape)}" for k in sorted(done)[:3]
        )
        warnings.warn(
            f"resampled for the model's input size: {shapes}; a model of the checkpoint's own size "
            "needs none of that",
            AttnvizWarning,
            stacklevel=5,
        )
    return made


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
            f"tensors fit. {_advice(missing or shapes, unexpected, own)}"
        )
    module.load_state_dict(dict(stored), strict=False)


def _advice(unfit: Sequence[str], unexpected: Sequence[str], own: Iterable[str]) -> str:
    if unfit:
        return (
            "Name the architecture it was trained with (--model), num_classes if its head is not "
            "the default one, or with checkpoint_key= (--checkpoint-key) the part of the file "
            "that is its weights"
        )
    patterns = patterns_of(unexpected, own)
    return (
        f"If these are no part of the model, leave them out: drop_keys={patterns} (--drop-keys "
        f"'{','.join(patterns)}')"
    )


def patterns_of(names: Sequence[str], own: Iterable[str]) -> list[str]:
    """Return patterns that name these keys and none of a model's own: `loss.*`, `*total_ops`."""
    own = list(own)
    found: list[str] = []
    for name in names:
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in found):
            continue
        first, dot, _ = name.partition(".")
        options = [f"{first}.*"] if dot else []
        options += [f"*{name.rsplit('.', 1)[-1]}", name]
        found.append(next(o for o in options if o == name or not fnmatch.filter(own, o)))
    return found
