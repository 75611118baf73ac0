"""A copy of a model's modules over the same weights, to put hooks and rules on."""

from __future__ import annotations

import copy

from torch import nn

from ..errors import MethodError


def twin(model: nn.Module, *, share: bool = True) -> nn.Module:
    """Return a model of the same modules whose parameters share memory and need no gradient.

    What is done to the modules of the twin (hooks, replaced functions, attributes) is not done to
    the model's. Modes, hooks and buffers are those of the model now.

    Args:
        model: any module that can be copied.
        share: False gives it weights of its own, for what writes to them.

    Raises:
        MethodError: the model holds something that cannot be copied.
    """
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        values = parameter.detach() if share else parameter.detach().clone()
        memo[id(parameter)] = nn.Parameter(values, requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach() if share else buffer.detach().clone()
    # deepcopy keeps alive what it has copied under this key
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise MethodError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}), which "
            "this method does so as to leave the model as it is; use a method that only runs the "
            "model, such as integrated_gradients, gradcam or rise"
        ) from error
