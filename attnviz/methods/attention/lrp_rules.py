"""Layer-wise relevance propagation as Gradient x Input: one function mode changes the gradients.

The forward pass computes what it always does. The gradient of each operation is that of a
surrogate that is linear in its input, so that gradient times input is relevance. The mode belongs
to the running thread and to the block it is used in; no module and no function is patched.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...attention.tap.functions import (
    DIVIDE,
    FUNCTIONS,
    MATMUL,
    MULTIPLY,
    torch_functions,
    unguarded_mha,
)
from ...attention.tap.tags import Notes

_ACTIVATIONS = torch_functions(
    "gelu", "silu", "relu", "relu_", "relu6", "leaky_relu", "elu", "selu", "celu", "mish",
    "hardswish", "tanh", "softplus", "hardtanh",
)  # fmt: skip
_ROOTS = torch_functions("rsqrt")


class _Scale(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return tensor.clone()  # of a view, models could not write into parts (MViT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def scaled(tensor: Tensor, factor: float) -> Tensor:
    """Return the same tensor; its gradient is multiplied by `factor`."""
    return _Scale.apply(tensor, factor)


def with_gradient_of(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return `value` with the gradient of `surrogate`."""
    return surrogate + (value - surrogate).detach()


def linear_rule(value: Tensor, given: Tensor) -> Tensor:
    """Return f(x) with the gradient f(x) / x, 0 where x is 0: all relevance goes to x."""
    with torch.no_grad():
        ratio = torch.where(given == 0, torch.zeros_like(value), value / given)
    return with_gradient_of(value, given * ratio)


class LrpMode(TorchFunctionMode):
    """Makes gradients relevance: AttnLRP (Achtibat et al. 2024) or CP-LRP (Ali et al. 2022).

    Args:
        constant: CP-LRP: attention weights and gates are constants, relevance passes through the
            values alone. Otherwise AttnLRP: each product of two activations passes half to each,
            and the softmax passes relevance by its Taylor expansion (its plain gradient).
    """

    def __init__(self, constant: bool) -> None:
        super().__init__()
        self.constant = constant
        self._sources = Notes()  # output of a sigmoid -> weak reference to its input

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the function, with the gradient that its rule asks for."""
        rule = _RULES.get(func)
        if rule is None or not torch.is_grad_enabled():
            return func(*args, **(kwargs or {}))
        return rule(self, func, args, kwargs or {})

    def fused(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Attention: q and k are constant, or get a quarter each and v a half."""
        names = ("query", "key", "value")
        given = dict(zip(names, args, strict=False))
        rest = args[3:]
        given.update({n: kwargs[n] for n in names if n in kwargs})
        others = {n: v for n, v in kwargs.items() if n not in names}
        if self.constant:
            q, k, v = given["query"].detach(), given["key"].detach(), given["value"]
        else:
            q, k = scaled(given["query"], 0.25), scaled(given["key"], 0.25)
            v = scaled(given["value"], 0.5)
        return func(q, k, v, *rest, **others)

    def multihead(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The inside of `nn.MultiheadAttention`, operation by operation."""
        with self:
            return unguarded_mha()(*args, **kwargs)

    def layer_norm(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Layer normalisation, its deviation a constant."""
        value = func(*args, **kwargs)
        x, shape = args[0], args[1] if len(args) > 1 else kwargs["normalized_shape"]
        weight = args[2] if len(args) > 2 else kwargs.get("weight")
        bias = args[3] if len(args) > 3 else kwargs.get("bias")
        eps = args[4] if len(args) > 4 else kwargs.get("eps", 1e-5)
        dims = tuple(range(-len(shape), 0))
        centred = x - x.mean(dims, keepdim=True)
        deviation = (centred.detach().square().mean(dims, keepdim=True) + eps).sqrt()
        return with_gradient_of(value, _affine(centred / deviation, weight, bias))

    def rms_norm(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Root-mean-square normalisation, its root a constant."""
        value = func(*args, **kwargs)
        x, shape = args[0], args[1] if len(args) > 1 else kwargs["normalized_shape"]
        weight = args[2] if len(args) > 2 else kwargs.get("weight")
        eps = args[3] if len(args) > 3 else kwargs.get("eps")
        eps = torch.finfo(x.dtype).eps if eps is None else eps
        dims = tuple(range(-len(shape), 0))
        root = (x.detach().square().mean(dims, keepdim=True) + eps).sqrt()
        return with_gradient_of(value, _affine(x / root, weight, None))

    def group_norm(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Group normalisation, its deviation a constant."""
        value = func(*args, **kwargs)
        x, groups = args[0], args[1] if len(args) > 1 else kwargs["num_groups"]
        weight = args[2] if len(args) > 2 else kwargs.get("weight")
        eps = args[4] if len(args) > 4 else kwargs.get("eps", 1e-5)
        parts = x.reshape(x.shape[0], groups, -1)
        centred = parts - parts.mean(-1, keepdim=True)
        deviation = (centred.detach().square().mean(-1, keepdim=True) + eps).sqrt()
        surrogate = (centred / deviation).view_as(x)
        if weight is not None:
            surrogate = surrogate * weight.view(1, -1, *(1,) * (x.ndim - 2))
        return with_gradient_of(value, surrogate)

    def normalize(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Division by the norm, the norm a constant."""
        value = func(*args, **kwargs)
        with torch.no_grad():
            ratio = torch.where(args[0] == 0, torch.zeros_like(value), value / args[0])
        return with_gradient_of(value, args[0] * ratio)

    def activate(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An activation function: all relevance to its input."""
        given = args[0]
        if func.__name__.endswith("_") or _flag(func, args, kwargs):
            given = given.clone()  # it is overwritten
        value = func(*args, **kwargs)
        return linear_rule(value, given)

    def weigh(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A softmax or sigmoid: constant in CP-LRP, its plain gradient in AttnLRP."""
        output = func(*args, **kwargs)
        if FUNCTIONS[func] == "relu6":
            return linear_rule(output, args[0])
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            output = output.detach() if self.constant else output
            self._sources.put(output, weakref.ref(args[0]))
        return output

    def root(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """1 / sqrt(x), the factor of a normalisation written out: constant."""
        return func(*args, **kwargs).detach()

    def product(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A product of two activations passes half its relevance to each."""
        output = func(*args, **kwargs)
        operands = [a for a in args if isinstance(a, Tensor)]
        if func is torch.einsum and len(args) == 2 and isinstance(args[1], (list, tuple)):
            operands = list(args[1])
        if len(operands) == 2 and all(_is_activation(t) for t in operands):
            return scaled(output, 0.5)
        return output

    def multiply(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """x * sigmoid(x) is an activation function; else as any product."""
        if len(args) == 2 and all(isinstance(a, Tensor) for a in args):
            for gate, other in (args, args[::-1]):
                source = self._sources.get(gate)
                if source is not None and source() is other:
                    return func(*(a.detach() if a is gate else a for a in args), **kwargs)
        return self.product(func, args, kwargs)

    def divide(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A quotient of two activations: all relevance to the numerator."""
        if len(args) == 2 and all(isinstance(a, Tensor) and _is_activation(a) for a in args):
            args = (args[0], args[1].detach())
        return func(*args, **kwargs)


def _affine(tensor: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    tensor = tensor if weight is None else tensor * weight
    return tensor if bias is None else tensor + bias


def _is_activation(tensor: Tensor) -> bool:
    return tensor.requires_grad and not isinstance(tensor, nn.Parameter)


def _flag(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if "inplace" in kwargs:
        return bool(kwargs["inplace"])
    names = getattr(getattr(func, "__code__", None), "co_varnames", ())
    place = names.index("inplace") if "inplace" in names else len(args)
    return place < len(args) and bool(args[place])


_Rule = Callable[[LrpMode, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
_RULES: dict[Any, _Rule] = {
    **dict.fromkeys(_ACTIVATIONS, LrpMode.activate),
    **dict.fromkeys(FUNCTIONS, LrpMode.weigh),
    **dict.fromkeys(_ROOTS, LrpMode.root),
    **dict.fromkeys([*MATMUL, torch.einsum, torch.baddbmm], LrpMode.product),
    **dict.fromkeys(MULTIPLY, LrpMode.multiply),
    **dict.fromkeys(DIVIDE, LrpMode.divide),
    **dict.fromkeys(torch_functions("layer_norm"), LrpMode.layer_norm),
    **dict.fromkeys(torch_functions("rms_norm"), LrpMode.rms_norm),
    **dict.fromkeys(torch_functions("group_norm"), LrpMode.group_norm),
    **dict.fromkeys([F.normalize], LrpMode.normalize),
    F.scaled_dot_product_attention: LrpMode.fused,
    F.multi_head_attention_forward: LrpMode.multihead,
}
