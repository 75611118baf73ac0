"""Find a model's parts: wrappers taken off, layers by name or by module."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

import torch
from torch import nn

from ..errors import CaptureError, LayerNotFound, did_you_mean
from .outputs import split

_WRAPPERS = ("module", "_orig_mod")
_stance_lock = threading.RLock()
#: id(model) -> its parts, of the models held by `walked`
_walks: ContextVar[Mapping[int, dict[nn.Module, str]]] = ContextVar(
    "walks", default=MappingProxyType({})
)
_stance: list = [0, None]  # how many blocks need eager, the context that is open


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside `torch.compile`, DataParallel and DistributedDataParallel.

    Raises:
        CaptureError: the model is scripted or traced, where no hook fires.
    """
    while True:
        if isinstance(model, torch.jit.ScriptModule):
            raise CaptureError(
                f"{type(model).__name__} is scripted or traced: its layers run outside Python and "
                "cannot be read; pass the eager nn.Module that it was made from"
            )
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod  # type: ignore[assignment]  (a module, by compile)
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def averaging(model: nn.Module) -> nn.Module | None:
    """Return the DistributedDataParallel that a model is or stands in; None where there is none.

    Gradients are averaged over processes only if it is called in the forward pass itself.
    """
    while not isinstance(model, nn.parallel.DistributedDataParallel):
        if not hasattr(model, "_orig_mod"):
            return None
        model = model._orig_mod  # type: ignore[assignment]
    return model


def is_sharded(model: nn.Module) -> bool:
    """Return whether torch shares a model's weights out among processes (FSDP, `fully_shard`)."""
    kinds = ("FSDPModule", "FullyShardedDataParallel")
    return any(kind.__name__ in kinds for kind in type(model).__mro__)


def named_parts(model: nn.Module) -> dict[nn.Module, str]:
    """Return all modules of a model with their dotted names, as `named_modules()` orders them.

    By hand: through the generators of torch it takes three times as long, and several walks as
    long as a small model's forward; inside `walked` the first walk serves all.
    """
    walks = _walks.get()
    if id(model) in walks:
        return walks[id(model)]
    found: dict[nn.Module, str] = {model: ""}

    def walk(prefix: str, module: nn.Module) -> None:
        for child, part in module._modules.items():
            if part is not None and part not in found:
                found[part] = name = prefix + child
                if part._modules:
                    walk(name + ".", part)

    walk("", model)
    return found


@contextmanager
def walked(model: nn.Module) -> Iterator[None]:
    """Walk through a model once for all calls of `named_parts` in the block, in this thread.

    For blocks in which no part comes or goes.
    """
    token = _walks.set({**_walks.get(), id(model): named_parts(model)})
    try:
        yield
    finally:
        _walks.reset(token)


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _at(model: nn.Module, name: str) -> nn.Module | None:
    """Return the part of exactly this name, None where there is none."""
    here: nn.Module | None = model if name else None
    for part in name.split("."):
        here = here._modules[part] if here is not None and part in here._modules else None
    return here


def find_layers(
    model: nn.Module, layers: str | nn.Module | Sequence[str | nn.Module], *, parts: bool = False
) -> dict[str, nn.Module]:
    """Return the layers asked for as {dotted name: module}, in the order asked.

    Names may leave out or include what wrappers add (`module.`, `_orig_mod.`).

    Args:
        model: the model.
        layers: names or modules.
        parts: whether `stage4[3]`, one of several maps that a layer returns, will do.

    Raises:
        LayerNotFound: a name or module is not part of the model; the message has the nearest.
    """
    if isinstance(layers, str | nn.Module):
        layers = [layers]
    if not layers:
        raise LayerNotFound("no layer was given; pass a dotted name such as 'layer4', or a module")
    direct = {layer: _at(model, layer) for layer in layers if isinstance(layer, str)}
    if len(direct) == len(layers) and None not in direct.values():
        return {
            k: m for k, m in direct.items() if m is not None
        }  # as they stand: nothing to search
    named = {name: module for module, name in named_parts(model).items()}
    plain = {_plain(name): name for name in named}
    found: dict[str, nn.Module] = {}
    for layer in layers:
        base, key = split(layer) if isinstance(layer, str) else ("", None)
        if key is not None:
            if not parts:
                raise LayerNotFound(
                    f"layer {layer!r} is one of several tensors that {base!r} returns, which can "
                    "be explained only; here choose a layer that returns one"
                )
            ((name, module),) = find_layers(model, base).items()
            found[f"{name}[{key}]"] = module
            continue
        if isinstance(layer, nn.Module):
            layer = unwrap(layer)
            name = next((n for n, m in named.items() if m is layer), None)
            if name is None:
                raise LayerNotFound(
                    f"the {type(layer).__name__} given is not a part of "
                    f"{type(model).__name__}; take it from the same model object"
                )
        elif layer in named and layer:
            name = layer
        elif _plain(layer) in plain and layer:
            name = plain[_plain(layer)]
        else:
            raise LayerNotFound(
                f"layer {layer!r} not found in {type(model).__name__}"
                f"{did_you_mean(layer, [n for n in named if n]) or '.'} "
                "`attnviz layers MODEL` lists all"
            )
        found[name] = named[name]
    return found


def is_compiled(model: nn.Module) -> bool:
    """Return whether a model has parts that `torch.compile` made."""
    # looked up in the dictionaries: hasattr on modules takes as long as a small model's forward
    return any(
        "_orig_mod" in m._modules or m.__dict__.get("_compiled_call_impl") is not None
        for m in named_parts(model)
    )


#: id(model) -> [open blocks, whether the model has compiled parts]: the first block looks
_eager: dict[int, list] = {}


@contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """Run compiled parts of a model eagerly inside the block: compiled code ignores new hooks."""
    key = id(model)
    # the stance belongs to the process, so it is opened once for all threads
    with _stance_lock:
        if key not in _eager:
            _eager[key] = [0, is_compiled(model)]
            _hold_stance(_eager[key][1])
        _eager[key][0] += 1
    try:
        yield
    finally:
        with _stance_lock:
            _eager[key][0] -= 1
            if _eager[key][0] == 0:
                _, compiled = _eager.pop(key)
                _drop_stance(compiled)


def _hold_stance(needed: bool) -> None:
    _stance[0] += needed
    if needed and _stance[0] == 1:
        _stance[1] = torch.compiler.set_stance("force_eager")
        _stance[1].__enter__()


def _drop_stance(needed: bool) -> None:
    _stance[0] -= needed
    if needed and _stance[0] == 0:
        _stance[1].__exit__(None, None, None)
        _stance[1] = None
