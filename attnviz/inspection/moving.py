"""Attention that moves where a network reads: warps, deformed sampling, glimpses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from .mechanism import Mechanism


class _Warps(TorchFunctionMode):
    """Notes the grids that pictures are sampled on, and the thetas that the grids are made of."""

    def __init__(self, running: list[str], found: list[Mechanism]) -> None:
        super().__init__()
        self._running, self._found = running, found
        self._thetas: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is F.affine_grid:
            theta = args[0] if args else kwargs["theta"]
            self._thetas[id(result)] = (result, theta.detach())
        elif func is F.grid_sample:
            grid = args[1] if len(args) > 1 else kwargs["grid"]
            _, theta = self._thetas.get(id(grid), (None, None))
            name = self._running[-1] if self._running else ""
            if theta is not None:
                self._found.append(
                    Mechanism(
                        name,
                        "spatial",
                        "spatial transformer",
                        "each output position reads one place, by an affine map of the picture",
                        tuple(theta.shape[1:]),
                        source=theta,
                    )
                )
            else:
                self._found.append(
                    Mechanism(
                        name,
                        "spatial",
                        "sampling grid",
                        "each output position reads one place of its own",
                        tuple(grid.shape[1:]),
                        source=grid.detach(),
                    )
                )
        return result


@contextmanager
def watch(model: nn.Module) -> Iterator[list[Mechanism]]:
    """Collect what moves where the model reads while it runs inside the block.

    Spatial transformers (Jaderberg et al. 2015, arXiv:1506.02025), deformable convolutions (Dai
    et al. 2017, arXiv:1703.06211), and modules that declare themselves: by `hard_attention`, a
    function (inputs, output) -> (tensor, mechanism, attends), or, for attention of other kinds
    that no softmax or sigmoid makes, by `own_attention`, (inputs, output) -> (tensor, kind,
    mechanism, attends).
    """
    found: list[Mechanism] = []
    running: list[str] = []
    handles: list[RemovableHandle] = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(_enter(name, running)))
        handles.append(module.register_forward_hook(_leave(name, running, found)))
    try:
        with _Warps(running, found):
            yield found
    finally:
        for handle in handles:
            handle.remove()


def _enter(name: str, running: list[str]) -> Callable[..., None]:
    def enter(module: nn.Module, inputs: Any) -> None:
        running.append(name)

    return enter


def _leave(name: str, running: list[str], found: list[Mechanism]) -> Callable[..., None]:
    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        if running and running[-1] == name:
            running.pop()
        if type(module).__name__ == "DeformConv2d" and len(inputs) > 1:
            offset = inputs[1].detach()
            found.append(
                Mechanism(
                    name,
                    "spatial",
                    "deformable convolution" + (", modulated" if len(inputs) > 2 else ""),
                    f"each output position reads {offset.shape[1] // 2} places of its own",
                    tuple(offset.shape[1:]),
                    source=offset,
                )
            )
            if len(inputs) > 2 and isinstance(inputs[2], Tensor):
                mask = inputs[2].detach()
                found.append(
                    Mechanism(
                        name,
                        "spatial",
                        "modulation of a deformable convolution",
                        f"one weight for each of {mask.shape[1]} places read",
                        tuple(mask.shape[1:]),
                        source=mask,
                    )
                )
        for declared in ("hard_attention", "own_attention"):
            declare = getattr(type(module), declared, None)
            if declare is None:
                continue
            told = declare(inputs, output)
            tensor, kind = (told[0], "hard") if declared == "hard_attention" else told[:2]
            mechanism, attends = told[-2:]
            shape = tuple(tensor.shape[1:])
            # its own warps are how it looks, no further mechanisms
            found[:] = [e for e in found if e.name != name or e.mechanism != "spatial transformer"]
            found.append(Mechanism(name, kind, mechanism, attends, shape, source=tensor.detach()))

    return leave
