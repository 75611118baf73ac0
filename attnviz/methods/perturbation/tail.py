"""The part of a model behind a layer, run by itself: what stands before it is replayed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import MethodError
from ...hooks.outputs import pick, put
from ...hooks.threads import own_thread
from ..twin import twin


class Tail:
    """Runs a model from one layer on, for many activations of the same images.

    One pass is recorded. From then on every module that was finished before the layer gives what
    it gave, without computing, and the layer gives the activation put in. Code between modules
    runs as ever, so skip connections around the layer are right. All this is done to a copy of
    the modules, and tried before it is relied on.

    Args:
        model: not changed.
        layer: dotted name.
        inputs: (g, C, H, W) the images.

    Attributes:
        cheap: False where replaying did not give the model's own output: whole passes are made.
    """

    def __init__(self, model: nn.Module, layer: str, inputs: Tensor) -> None:
        self._model = model
        self._layer = layer
        self._inputs = inputs
        self._copied: nn.Module | None = None
        self._value = torch.empty(0)
        self._copies = 1
        self._solid = False  # whether replayed tensors may be written to
        output, raw, before, given = _record(model, layer, inputs)
        try:
            self._copied = self._replaying(before, given)
        except MethodError:
            self.cheap = False
        else:
            self.cheap = self._right(output, raw)
            if not self.cheap:
                self._solid = True
                self.cheap = self._right(output, raw)

    def __call__(self, raw: Tensor) -> Any:
        """Return the model's output with the layer giving `raw`, n copies of the g images."""
        self._value, self._copies = raw, len(raw) // len(self._inputs)
        with torch.no_grad():
            if self.cheap:
                assert self._copied is not None
                return self._copied(_many(self._inputs, self._copies, solid=False))
            inputs = _many(self._inputs, self._copies, solid=True)
            handle = self._model.get_submodule(self._layer).register_forward_hook(self._put())
            try:
                return self._model(inputs)
            finally:
                handle.remove()

    def _put(self) -> Callable[..., Any]:
        @own_thread
        def replace(module: nn.Module, inputs: Any, output: Any) -> Any:
            return put(output, pick(output, self._layer)[1], self._value)

        return replace

    def _replaying(self, before: Mapping[str, Any], given: Any) -> nn.Module:
        copied = twin(self._model)
        for name, output in before.items():
            copied.get_submodule(name).forward = self._giving(output)
        key = pick(given, self._layer)[1]
        copied.get_submodule(self._layer).forward = lambda *args, **options: put(
            _many(given, self._copies, solid=self._solid), key, self._value
        )
        return copied

    def _giving(self, output: Any) -> Callable[..., Any]:
        return lambda *args, **options: _many(output, self._copies, solid=self._solid)

    def _right(self, output: Any, raw: Tensor) -> bool:
        """Whether two copies give the model's own output twice."""
        self.cheap = True
        try:
            again = self(torch.cat([raw, raw]))
        except RuntimeError:
            return False
        pairs = zip(_tensors(output), _tensors(again), strict=False)
        return len(_tensors(output)) == len(_tensors(again)) and all(
            2 * len(a) == len(b) and torch.allclose(torch.cat([a, a]), b, rtol=1e-3, atol=1e-4)
            for a, b in pairs
        )


def _record(
    model: nn.Module, layer: str, inputs: Tensor
) -> tuple[Any, Tensor, dict[str, Any], Any]:
    """Return the output, the layer's activation, {module finished before it: output}, its output.

    Of modules inside each other only the outermost is kept.
    """
    names = {module: name for name, module in model.named_modules()}
    target = model.get_submodule(layer)
    parents = {m for m in names if target in set(m.modules())}
    before: dict[nn.Module, Any] = {}
    runs: dict[nn.Module, int] = {}
    given: list[Any] = []

    @own_thread
    def leave(module: nn.Module, args: Any, output: Any) -> None:
        runs[module] = runs.get(module, 0) + 1
        if module is target:
            given.append(_mapped(output, torch.clone))
        elif not given and module not in parents:
            for part in module.modules():
                before.pop(part, None)
            # a copy: code between modules may write to what it gets
            before[module] = _mapped(output, torch.clone)

    handles = [module.register_forward_hook(leave) for module in names]
    try:
        with torch.no_grad():
            output = model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    if len(given) != 1:
        raise MethodError(f"layer {layer!r} ran {len(given)} times in one pass; it has to run once")
    inside = set(target.modules())
    # what runs again behind the layer, or inside of it, computes as ever
    kept = {names[m]: out for m, out in before.items() if runs[m] == 1 and m not in inside}
    return output, pick(given[0], layer)[0], kept, given[0]


def _mapped(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, Mapping):
        items = {key: _mapped(item, fn) for key, item in value.items()}
        return items if type(value) is dict else type(value)(**items)
    if isinstance(value, tuple | list):
        parts = [_mapped(item, fn) for item in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def _many(value: Any, copies: int, *, solid: bool) -> Any:
    """Repeat every tensor of a batch; without memory of its own where that is not asked for."""

    def repeat(tensor: Tensor) -> Tensor:
        if not tensor.ndim:
            return tensor
        if solid or len(tensor) > 1:
            return tensor.repeat(copies, *[1] * (tensor.ndim - 1))
        return tensor.expand(copies, *tensor.shape[1:])

    return _mapped(value, repeat)


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    _mapped(value, lambda t: found.append(t) or t)
    return found
