"""What a model does behind a point: run again from there, without what lies before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from ...attention.tap.functions import unguarded_mha


class Skipping(TorchFunctionMode):
    """Gives zeros of the right shape for large products until `stop` is called.

    For a second pass whose first part is thrown away: the values that count are put in at the
    point where `stop` is called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.active = True

    def stop(self) -> None:
        """Compute everything from here on."""
        self.active = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the function, or make room for its result."""
        kwargs = kwargs or {}
        if not self.active:
            return func(*args, **kwargs)
        if func is F.linear and len(args) > 1:
            return args[0].new_zeros((*args[0].shape[:-1], *args[1].shape[:-1]))
        if func is F.scaled_dot_product_attention and len(args) > 2:
            q, v = args[0], args[2]
            return q.new_zeros((*q.shape[:-1], v.shape[-1]))
        if func is F.multi_head_attention_forward:
            with self:
                return unguarded_mha()(*args, **kwargs)
        return func(*args, **kwargs)


@contextmanager
def skipping() -> Iterator[Callable[[], None]]:
    """Skip large products inside the block, without a graph, until what is given is called.

    From the call on everything is computed, with a graph.
    """
    mode = Skipping()

    def stop() -> None:
        mode.stop()
        torch.set_grad_enabled(True)  # the block sets it back

    with torch.set_grad_enabled(False), mode:
        yield stop
