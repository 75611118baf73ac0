"""The part of a model behind a layer, run by itself: what stands before it is replayed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import MethodError
from ...hooks.outputs import pick, put, split
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
        recorded: what a pass of them gave, to save recording another one; tried like the rest,
            since it holds what later modules may have written to.

    Attributes:
        cheap: False where replaying did not give the model's own output: whole passes are made.
    """

    def __init__(
        self, model: nn.Module, layer: str, inputs: Tensor, recorded: Recorded | None = None
    ) -> None:
        self._model = model
        self._layer = layer
        self._inputs = inputs
        self._copied: nn.Module | None = None
        self._value = torch.empty(0)
        self._copies = 1
        self._solid = False  # whether replayed tensors may be written to
        self.cheap = recorded is not None and self._tried(recorded)
        if not self.cheap:
            recording = Recording(model, layer, torch.clone)
            with torch.no_grad(), recording:
                output = model(inputs)
            self.cheap = self._tried(recording.recorded(output))

    def _tried(self, recorded: Recorded) -> bool:
        try:
            self._copied = self._replaying(recorded.before, recorded.given)
        except MethodError:
            return False
        return any(self._right(recorded, solid) for solid in (False, True))

    def __call__(self, raw: Tensor) -> Any:
        """Return the model's output with the layer giving `raw`, n copies of the g images."""
        self._value, self._copies = raw, len(raw) // len(self._inputs)
        with torch.no_grad():
            if self.cheap:
                assert self._copied is not None
                return self._copied(_many(self._inputs, self._copies, solid=False))
            inputs = _many(self._inputs, self._copies, solid=True)
            handle = self._model.get_submodule(split(self._layer)[0]).register_forward_hook(
                self._put()
            )
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
        copied.get_submodule(split(self._layer)[0]).forward = lambda *args, **options: put(
            _many(given, self._copies, solid=self._solid), key, self._value
        )
        return copied

    def _giving(self, output: Any) -> Callable[..., Any]:
        return lambda *args, **options: _many(output, self._copies, solid=self._solid)

    def _right(self, recorded: Recorded, solid: bool) -> bool:
        """Whether two copies give the model's own output twice."""
        self.cheap, self._solid, output = True, solid, recorded.output
        try:
            again = self(torch.cat([recorded.raw, recorded.raw]))
        except RuntimeError:
            return False
        pairs = zip(_tensors(output), _tensors(again), strict=False)
        return len(_tensors(output)) == len(_tensors(again)) and all(
            2 * len(a) == len(b) and torch.allclose(torch.cat([a, a]), b, rtol=1e-3, atol=1e-4)
            for a, b in pairs
        )


@dataclass(frozen=True)
class Recorded:
    """What a pass gave: {module finished before the layer: its output}, the layer's, the model's.

    Of modules inside each other only the outermost is kept.
    """

    before: Mapping[str, Any]
    given: Any
    raw: Tensor
    output: Any

    def of(self, rows: slice, batch: int) -> Recorded | None:
        """Return what belongs to some images; None where a tensor does not go by images."""
        parts = (self.before, self.given, self.raw, self.output)
        if any(len(t) != batch if t.ndim else True for t in _tensors(parts)):
            return None
        return Recorded(*_mapped(parts, lambda tensor: tensor[rows]))


class Recording:
    """Notes what modules give, for a pass inside the block.

    Args:
        model, layer: as of `Tail`.
        kept: what is noted of a tensor. `torch.clone` where code between modules may write to
            what it gets; the tensor itself costs nothing.
    """

    def __init__(
        self, model: nn.Module, layer: str, kept: Callable[[Tensor], Tensor] = Tensor.detach
    ) -> None:
        self._layer, self._kept = layer, kept
        self._names = {module: name for name, module in model.named_modules()}
        self._target = model.get_submodule(split(layer)[0])
        self._parents = {m for m in self._names if self._target in set(m.modules())}
        self._before: dict[nn.Module, Any] = {}
        self._runs: dict[nn.Module, int] = {}
        self._given: list[Any] = []

    def __enter__(self) -> Recording:
        leave = own_thread(self._leave)
        self._handles = [module.register_forward_hook(leave) for module in self._names]
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._runs[module] = self._runs.get(module, 0) + 1
        if module is self._target:
            self._given.append(_mapped(output, torch.clone))
        elif not self._given and module not in self._parents:
            for part in module.modules():
                self._before.pop(part, None)
            self._before[module] = _mapped(output, self._kept)

    def recorded(self, output: Any) -> Recorded:
        """Return what was noted, with the model's output.

        Raises:
            MethodError: the layer did not run once.
        """
        if len(self._given) != 1:
            raise MethodError(
                f"layer {self._layer!r} ran {len(self._given)} times in one pass; it has to run "
                "once"
            )
        inside = set(self._target.modules())
        # what runs again behind the layer, or inside of it, computes as ever
        kept = {
            self._names[module]: given
            for module, given in self._before.items()
            if self._runs[module] == 1 and module not in inside
        }
        given = self._given[0]
        return Recorded(kept, given, pick(given, self._layer)[0], output)


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
