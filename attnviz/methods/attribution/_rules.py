"""Other backward rules for a network's operations, in modules and in functions alike.

The operations are met where they are called, so that functional ones and modules used twice are
covered, and nothing is hung on the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

RELUS = (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)

#: elementwise functions, by what they are without being in place
ELEMENTWISE: dict[Callable[..., Any], Callable[..., Any]] = {
    **dict.fromkeys(RELUS, torch.relu),
    **dict.fromkeys((torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, F.sigmoid),
                    torch.sigmoid),
    **dict.fromkeys((torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_, F.tanh), torch.tanh),
    **{f: f for f in (F.gelu, F.elu, F.leaky_relu, F.silu, F.hardswish, F.hardsigmoid, F.relu6,
                      F.hardtanh, F.softplus, F.mish, F.selu, F.celu, F.softsign, F.logsigmoid)},
}  # fmt: skip


class Rules(TorchFunctionMode):
    """Replaces the functions named in the block by others, in this thread.

    Attributes:
        met: how often each rule was used.
    """

    def __init__(self, rules: dict[Callable[..., Any], Callable[..., Any]]) -> None:
        super().__init__()
        self._rules = rules
        self.met = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        rule = self._rules.get(func)
        kwargs = dict(kwargs or {})
        if rule is None:
            return func(*args, **kwargs)
        self.met += 1
        return rule(*args, **kwargs)


class _Guided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z.relu()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return gradient.relu() * (z > 0)


def guided() -> Rules:
    """Return the rule of guided backpropagation: ReLUs pass positive gradients only."""
    return Rules(dict.fromkeys(RELUS, lambda z, *args, **options: _Guided.apply(z)))


class _Rescale(torch.autograd.Function):
    """DeepLIFT's rescale rule; z holds the pictures first, then their baselines."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
        out = fn(z)
        ctx.save_for_backward(z, out)
        ctx.fn = fn
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        z, out = ctx.saved_tensors
        with torch.enable_grad():
            at = z.detach().requires_grad_()
            (slope,) = torch.autograd.grad(ctx.fn(at).sum(), at)
        dz, dout = (t.chunk(2)[0] - t.chunk(2)[1] for t in (z, out))
        near = dz.abs() < 1e-10
        ratio = dout / torch.where(near, 1.0, dz)
        slopes = slope.chunk(2)
        steps = [torch.where(near, s, ratio) for s in slopes]
        return gradient * torch.cat(steps), None


class _RescaleMax(torch.autograd.Function):
    """DeepLIFT through a max pool: the difference goes to where each maximum is taken."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, pool: Callable[..., Any], options: dict[str, Any]) -> Tensor:
        out, index = pool(z, return_indices=True, **options)
        ctx.save_for_backward(z, out, index)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        z, out, index = ctx.saved_tensors
        above, below = out.chunk(2)
        most = torch.maximum(above, below)
        # out_x - out_b = (most - out_b), gained where x has its maximum, + (out_x - most), lost
        # where b has its
        parts = torch.cat([most - below, above - most]) * gradient
        spread = torch.zeros_like(z).flatten(2)
        spread.scatter_add_(2, index.flatten(2), parts.flatten(2))
        sent = sum(spread.view_as(z).chunk(2))
        plain = torch.zeros_like(z).flatten(2)
        plain.scatter_add_(2, index.flatten(2), gradient.flatten(2))
        dz = z.chunk(2)[0] - z.chunk(2)[1]
        near = dz.abs() < 1e-10
        step = sent / torch.where(near, 1.0, dz)
        sent = torch.cat([torch.where(near, p, step) for p in plain.view_as(z).chunk(2)])
        return sent, None, None


_POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")


def _max_pool(pool: Callable[..., Any]) -> Callable[..., Any]:
    def apply(z: Tensor, *args: Any, return_indices: bool = False, **options: Any) -> Tensor:
        return _RescaleMax.apply(z, pool, dict(zip(_POOL, args, strict=False)) | options)

    return apply


def rescale() -> Rules:
    """Return DeepLIFT's rescale rule, for a batch of pictures followed by their baselines."""

    def rule(fn: Callable[..., Any]) -> Callable[..., Any]:
        def apply(z: Tensor, *args: Any, **options: Any) -> Tensor:
            options.pop("inplace", None)
            if fn in (torch.relu, torch.sigmoid, torch.tanh):
                args, options = (), {}
            return _Rescale.apply(z, lambda t: fn(t, *args, **options))

        return apply

    rules = {met: rule(fn) for met, fn in ELEMENTWISE.items()}
    for pool, names in {
        F.max_pool1d: (F.max_pool1d, torch.max_pool1d, F.max_pool1d_with_indices),
        F.max_pool2d: (F.max_pool2d, torch.max_pool2d, F.max_pool2d_with_indices),
        F.max_pool3d: (F.max_pool3d, torch.max_pool3d, F.max_pool3d_with_indices),
    }.items():
        rules |= dict.fromkeys(names, _max_pool(pool))
    return Rules(rules)
