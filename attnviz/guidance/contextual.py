"""Contextual decomposition: a network's logits split into what a region gives and the rest gives.

Every activation is carried as a pair (relevant, rest) whose sum is the ordinary activation
(Murdoch et al. 2018, arXiv:1801.05453; for convolutions Singh et al. 2019, arXiv:1806.05337).
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..errors import MethodError


class SplitActivation(NamedTuple):
    """An activation in two parts; `relevant + rest` is the activation itself."""

    relevant: Tensor
    rest: Tensor


def decompose(model: nn.Module, images: Tensor, masks: Tensor) -> SplitActivation:
    """Return the logits' two parts: what the pixels under `masks` contribute, and the rest.

    Linear layers act on both parts and divide their bias by the parts' sizes; a rectifier gives
    the relevant part what it would give alone; max-pooling follows the whole activation's
    choice. The model's graph is read by `torch.fx`, so its forward may not branch on data.
    BatchNorm acts by its running statistics and dropout does nothing, whatever the mode.

    Args:
        model: a convolutional network of convolutions, linear layers, rectifiers, pooling,
            BatchNorm, additions, concatenations and reshapes (VGG, ResNet, DenseNet ...).
        images: (B, C, H, W).
        masks: (B, H, W) in [0, 1], 1 where a pixel counts as relevant.

    Returns:
        `SplitActivation` of (B, classes) with graph.

    Raises:
        MethodError: an operation that has no rule, named; a model that cannot be traced.
    """
    try:
        tracer = _Tracer()
        graph = fx.GraphModule(model, tracer.trace(model))
    except Exception as error:
        raise MethodError(
            f"{type(model).__name__} cannot be decomposed: torch.fx cannot trace it ({error}); "
            "use RRR or a map loss"
        ) from error
    masks = masks[:, None].to(images)
    return _Decomposer(graph).run(SplitActivation(images * masks, images * (1 - masks)))


_RECTIFIERS = (
    nn.ReLU, nn.Hardtanh, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.ELU, nn.Tanh, nn.Sigmoid,
)  # fmt: skip
_LINEAR_WITHOUT_BIAS = (
    nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Unflatten, nn.Identity,
)  # fmt: skip


class _Tracer(fx.Tracer):
    """Leaves whole what has a rule, such as convolutions that pad as TensorFlow does."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        kinds = (nn.Conv2d, nn.modules.batchnorm._BatchNorm, nn.Linear)
        return isinstance(module, kinds) or super().is_leaf_module(module, name)


class _Decomposer(fx.Interpreter):
    """Runs a traced model on pairs."""

    def call_module(self, target: str, args: Any, kwargs: Any) -> Any:
        return self._through(self.fetch_attr(target), args[0], target)

    def _through(self, module: nn.Module, x: SplitActivation, name: str) -> SplitActivation:
        if isinstance(module, nn.Conv2d | nn.Linear):
            return _affine(module, x)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            x = _batch_norm(module, x)
            # timm's BatchNorm may hold its activation
            act = getattr(module, "act", None)
            return x if act is None else self._through(act, x, f"{name}.act")
        if isinstance(module, _RECTIFIERS):
            # a copy, since inplace=True would overwrite the pair
            return _rectify(lambda t: module(t.clone()), x)
        if isinstance(module, nn.MaxPool2d):
            return _max_pool(
                x, module.kernel_size, module.stride, module.padding, module.dilation,
                module.ceil_mode,
            )  # fmt: skip
        if isinstance(module, nn.AdaptiveMaxPool2d):
            whole = x.relevant + x.rest
            _, index = F.adaptive_max_pool2d(
                whole, cast(Any, module.output_size), return_indices=True
            )
            return SplitActivation(*(_take(part, index) for part in x))
        if isinstance(module, _LINEAR_WITHOUT_BIAS):
            return SplitActivation(*(module(part) for part in x))
        if isinstance(module, nn.modules.dropout._DropoutNd):
            return x
        raise MethodError(
            f"contextual decomposition has no rule for {type(module).__name__} (layer {name!r}); "
            "it knows convolutional networks with rectifiers and pooling. Use RRR or a map loss"
        )

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        pairs = [a for a in _flat(args) if isinstance(a, SplitActivation)]
        if not pairs:
            return super().call_function(target, args, kwargs)
        if target in (operator.add, operator.iadd, torch.add) and len(pairs) == 2:
            return SplitActivation(args[0].relevant + args[1].relevant, args[0].rest + args[1].rest)
        if target in (torch.cat, torch.concat):
            axis = args[1] if len(args) > 1 else kwargs.get("dim", 0)
            return SplitActivation(
                torch.cat([p.relevant for p in args[0]], axis),
                torch.cat([p.rest for p in args[0]], axis),
            )
        if target in (F.relu, torch.relu, F.relu6, F.silu, F.gelu, F.leaky_relu, torch.tanh):
            plain = {k: v for k, v in kwargs.items() if k != "inplace"}
            return _rectify(lambda t: target(t, *args[1:], **plain), args[0])
        if target in (torch.flatten, F.avg_pool2d, F.adaptive_avg_pool2d, torch.mean):
            return SplitActivation(*(target(part, *args[1:], **kwargs) for part in args[0]))
        if getattr(target, "__name__", "") in ("max_pool2d", "boolean_dispatch", "fn"):
            return _max_pool(args[0], *args[1:], **kwargs)
        if target is F.dropout:
            return args[0]
        if target is getattr:
            return getattr(args[0].relevant, args[1])
        raise MethodError(
            f"contextual decomposition has no rule for {getattr(target, '__name__', target)}(); "
            "use RRR or a map loss"
        )

    def call_method(self, target: str, args: Any, kwargs: Any) -> Any:
        x = args[0]
        if not isinstance(x, SplitActivation):
            return super().call_method(target, args, kwargs)
        if target in (
            "view",
            "reshape",
            "flatten",
            "mean",
            "permute",
            "transpose",
            "squeeze",
            "unsqueeze",
            "contiguous",
        ):
            return SplitActivation(*(getattr(part, target)(*args[1:], **kwargs) for part in x))
        if target in ("relu", "relu_"):
            return _rectify(torch.relu, x)
        if target in ("add", "add_") and isinstance(args[1], SplitActivation):
            return SplitActivation(x.relevant + args[1].relevant, x.rest + args[1].rest)
        if target in ("size", "dim"):
            return getattr(x.relevant, target)(*args[1:], **kwargs)
        raise MethodError(
            f"contextual decomposition has no rule for the method {target}(); use RRR or a map loss"
        )


def _flat(args: Any) -> list[Any]:
    found = []
    for a in args:
        found += _flat(a) if isinstance(a, list) or type(a) is tuple else [a]
    return found


def _share_bias(relevant: Tensor, rest: Tensor, bias: Tensor) -> SplitActivation:
    size = relevant.abs() + rest.abs()
    share = torch.where(size > 0, relevant.abs() / size.clamp_min(1e-30), torch.zeros_like(size))
    return SplitActivation(relevant + bias * share, rest + bias * (1 - share))


def _affine(module: nn.Conv2d | nn.Linear, x: SplitActivation) -> SplitActivation:
    # by the module's own forward, which may pad; the bias is what it makes of nothing
    if module.bias is None:
        return SplitActivation(module(x.relevant), module(x.rest))
    bias = module.bias[:, None, None] if isinstance(module, nn.Conv2d) else module.bias
    return _share_bias(module(x.relevant) - bias, module(x.rest) - bias, bias)


def _batch_norm(module: nn.modules.batchnorm._BatchNorm, x: SplitActivation) -> SplitActivation:
    if module.running_mean is None or module.running_var is None:
        raise MethodError("contextual decomposition needs BatchNorm with running statistics")
    shape = (1, -1) + (1,) * (x.relevant.ndim - 2)
    scale = (module.running_var + module.eps).rsqrt()
    if module.weight is not None:
        scale = scale * module.weight
    shift = -module.running_mean * scale
    if module.bias is not None:
        shift = shift + module.bias
    scale = scale.view(shape)
    return _share_bias(x.relevant * scale, x.rest * scale, shift.view(shape))


def _rectify(fn: Any, x: SplitActivation) -> SplitActivation:
    relevant = fn(x.relevant)
    return SplitActivation(relevant, fn(x.relevant + x.rest) - relevant)


def _take(part: Tensor, index: Tensor) -> Tensor:
    return part.flatten(2).gather(2, index.flatten(2)).view(index.shape)


def _max_pool(
    x: SplitActivation,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> SplitActivation:
    whole = x.relevant + x.rest
    _, index = F.max_pool2d(
        whole, kernel_size, stride, padding, dilation, ceil_mode=ceil_mode, return_indices=True
    )
    return SplitActivation(*(_take(part, index) for part in x))
