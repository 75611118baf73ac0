"""The functions the tap listens to, under each of the names PyTorch calls them by."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import EnvironmentFault


def private(path: str) -> Any:
    """Return something of torch that has no public name; it is asked for when it is used.

    Raises:
        EnvironmentFault: this torch has it no more.
    """
    found: Any = torch
    for name in path.split("."):
        found = getattr(found, name, None)
    if found is None:
        raise EnvironmentFault(
            f"torch {torch.__version__} has no torch.{path}, by which attention is read; install "
            "a torch that attnviz was tested with (2.6 to 2.15), or use a class activation map"
        )
    return found


def in_backward() -> bool:
    """Return whether this thread is inside a backward pass of autograd."""
    return private("_C._current_graph_task_id")() != -1


def torch_functions(*names: str) -> list[Any]:
    """Return the functions of these names in torch, torch.nn.functional and Tensor."""
    found = []
    for name in names:
        for owner in (torch, F, Tensor, torch.special):
            func = getattr(owner, name, None)
            if callable(func) and func not in found:
                found.append(func)
    return found


def _getters(*names: str) -> list[Any]:
    return [getattr(Tensor, name).__get__ for name in names]


MOVE = [
    *torch_functions(
        "view", "reshape", "permute", "transpose", "t", "swapaxes", "swapdims", "movedim",
        "moveaxis", "flatten", "unflatten", "unsqueeze", "squeeze", "roll", "pad", "__getitem__",
        "unbind", "chunk", "split", "tensor_split", "hsplit", "select", "narrow", "expand",
        "expand_as", "broadcast_to", "repeat", "repeat_interleave", "view_as", "reshape_as",
        "flip", "index_select", "split_with_sizes", "ravel", "adjoint",
        "gather", "take_along_dim",
    ),
    Tensor.unfold, F.unfold,
    *_getters("T", "mT"),
]  # fmt: skip
#: functions that repeat values without making new ones
EXPAND = set(torch_functions("expand", "expand_as", "broadcast_to", "repeat"))
SAME = torch_functions(
    "to", "float", "half", "bfloat16", "double", "type", "type_as", "contiguous", "clone",
    "detach", "nan_to_num", "neg", "cpu", "cuda", "masked_fill",
)  # fmt: skip
ADD = torch_functions("add", "sub", "subtract", "rsub", "__radd__", "__rsub__", "add_", "sub_")
SUBTRACT = set(torch_functions("sub", "subtract", "__sub__"))
DIVIDE = set(torch_functions("div", "divide", "true_divide", "__truediv__", "div_"))
MULTIPLY = torch_functions("mul", "multiply", "__mul__", "__rmul__", "mul_", "multiply_")
SWAPPED = set(torch_functions("__rmatmul__"))
MATMUL = [*torch_functions("matmul", "bmm", "mm", "__matmul__"), *SWAPPED]
SUM = torch_functions("sum")
JOIN = torch_functions("cat", "concat", "concatenate")
DROPOUT = [
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.feature_alpha_dropout, F.alpha_dropout,
    torch.dropout, torch.dropout_, torch.feature_dropout,
]  # fmt: skip
PROJECT = torch_functions("linear", "conv1d", "conv2d", "conv3d")
CONV2D = set(torch_functions("conv2d"))
NORMALISE = torch_functions("layer_norm", "rms_norm", "normalize", "batch_norm", "group_norm")
#: functions of each element by itself, or of elements in the same place
POINTWISE = torch_functions(
    "tanh", "tanh_", "relu", "relu_", "gelu", "silu", "elu", "selu", "celu", "mish", "leaky_relu",
    "hardswish", "hardtanh", "softplus", "softsign", "logsigmoid", "prelu", "exp", "log", "log1p",
    "expm1", "sqrt", "rsqrt", "square", "pow", "__pow__", "abs", "erf", "sin", "cos", "sign",
    "reciprocal", "clamp", "clamp_", "clip", "clamp_min", "clamp_max", "where", "maximum",
    "minimum", "lerp", "addcmul", "addcdiv", "masked_fill_", "fmod", "round", "floor", "ceil",
    "__neg__", "threshold", "rrelu", "hardshrink", "softshrink", "tanhshrink", "atan", "asinh",
)  # fmt: skip
STACK = torch_functions("stack")
REDUCE = torch_functions("mean", "amax", "amin", "prod", "logsumexp")
#: functions that make another picture of a picture
SCENE = [
    F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.lp_pool2d,
    torch.max_pool2d, F.pixel_shuffle, F.pixel_unshuffle,
]  # fmt: skip
LOOKUP = torch_functions("embedding")
FUNCTIONS: dict[Any, str] = {
    **dict.fromkeys(torch_functions("softmax", "gumbel_softmax", "softmax_"), "softmax"),
    **dict.fromkeys(torch_functions("sigmoid", "sigmoid_", "expit"), "sigmoid"),
    **dict.fromkeys(torch_functions("hardsigmoid", "hardsigmoid_"), "hardsigmoid"),
    **dict.fromkeys(torch_functions("relu6", "relu6_"), "relu6"),
}
RECTIFY = torch_functions("relu", "relu_")
#: functions that write into their first argument
IN_PLACE = set(torch_functions("add_", "sub_", "div_", "mul_", "multiply_"))
#: functions that change the order of dimensions
REORDER = set(
    torch_functions(
        "permute", "transpose", "t", "swapaxes", "swapdims", "movedim", "moveaxis", "adjoint"
    )
) | set(_getters("T", "mT"))

FLEX: Any = getattr(getattr(torch, "_higher_order_ops", None), "flex_attention", None)
#: kinds of operators; where torch calls them otherwise, kernels are only told by their names
OPERATORS = tuple(
    kind
    for name in ("HigherOrderOperator", "OpOverload", "OpOverloadPacket")
    if (kind := getattr(getattr(torch, "_ops", None), name, None)) is not None
)
#: parts of the names of kernels that attend and return neither weights nor what makes them
KERNELS = ("flex_attention", "flash_attn", "fmha", "efficient_attention", "flash_attention",
           "natten", "sageattn")  # fmt: skip

#: method of the mode -> functions that it handles
TABLE: dict[str, Iterable[Any]] = {
    "move": MOVE,
    "same": SAME,
    "arithmetic": [*ADD, *DIVIDE],
    "resample": [F.interpolate, F.upsample],
    "multiply": MULTIPLY,
    "matmul": MATMUL,
    "einsum": [torch.einsum],
    "sum": SUM,
    "join": JOIN,
    "drop": DROPOUT,
    "project": PROJECT,
    "normalise": NORMALISE,
    "weigh": FUNCTIONS,
    "look_up": LOOKUP,
    "scene": SCENE,
    "stack": STACK,
    "reduce": REDUCE,
    "blend": POINTWISE,
    "rectify": RECTIFY,
    "fused": [F.scaled_dot_product_attention],
    "multihead": [F.multi_head_attention_forward],
}


@functools.cache
def unguarded_mha() -> Callable[..., Any]:
    """Return a copy of `F.multi_head_attention_forward` that does not ask for overrides.

    Same code, defaults and globals, but for `has_torch_function`, which answers False; the
    functions it calls in turn still ask, so that a function mode sees them.
    """
    original = F.multi_head_attention_forward
    scope = dict(original.__globals__, has_torch_function=lambda _: False)
    copy = types.FunctionType(
        original.__code__, scope, original.__name__, original.__defaults__, original.__closure__
    )
    copy.__kwdefaults__ = original.__kwdefaults__
    return copy


def twice_differentiable(*args: Any, **kwargs: Any) -> Tensor:
    """Return `F.scaled_dot_product_attention` by operations that can be differentiated twice.

    The fused kernels' backward passes have no derivative, so a map made of gradients could not
    be trained on.
    """
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = dict(zip(names, args, strict=False)) | kwargs
    first = [given.pop(name, default) for name, default in zip(
        names, (None, None, None, None, 0.0, False), strict=True)]  # fmt: skip
    return torch.ops.aten._scaled_dot_product_attention_math(*first, **given)[0]


def dropout_active(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Say whether a dropout call of this signature drops anything: (input, p, training)."""
    p = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
    flag = "train" if func in (torch.dropout, torch.dropout_, torch.feature_dropout) else "training"
    training = args[2] if len(args) > 2 else kwargs.get(flag, True)
    return bool(training) and p > 0


def is_in_place(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Say whether `inplace=True` was given to a dropout call."""
    return bool(kwargs.get("inplace", args[3] if len(args) > 3 else False))


def is_pointwise(weight: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Say whether a convolution has a 1 x 1 kernel and stride 1, so that places stay."""
    if not isinstance(weight, Tensor) or any(n != 1 for n in weight.shape[2:]):
        return False
    args = (args[0] if args else None, weight, *args[2:])
    stride = args[3] if len(args) > 3 else kwargs.get("stride", 1)
    padding = args[4] if len(args) > 4 else kwargs.get("padding", 0)
    strides = stride if isinstance(stride, (tuple, list)) else (stride,)
    paddings = padding if isinstance(padding, (tuple, list)) else (padding,)
    return all(s == 1 for s in strides) and all(p in (0, "valid", "same") for p in paddings)
