"""One of several inputs, or one view of a sample, is explained while the others are held fixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MethodError
from ..inputs import Given
from ..registry import Entry
from ..targets import Target
from .request import RawMaps, Request

Run = Callable[[Request, Sequence[Entry]], list[RawMaps]]


class Held(nn.Module):
    """A model as a function of one of its inputs, the others being those of one sample.

    Args:
        module: the model.
        inputs: of one sample, as the model takes them.
        place: which of them varies: an index or a key, or the number of a view.
    """

    def __init__(self, module: nn.Module, inputs: Any, place: Any) -> None:
        super().__init__()
        self.module = module
        self.training = module.training
        self._inputs, self._place = inputs, place

    def forward(self, varied: Tensor) -> Any:
        """Call the model on n copies of the sample, (n, ...) of the input that varies."""

        def many(value: Any) -> Any:
            alike = isinstance(value, Tensor) and value.ndim and len(value) == 1
            return value.expand(len(varied), *value.shape[1:]) if alike else value

        if isinstance(self._inputs, Tensor):
            views = list(many(self._inputs).unbind(1))
            views[self._place] = varied
            return self.module(torch.stack(views, 1))
        if isinstance(self._inputs, Mapping):
            rest = {name: many(value) for name, value in self._inputs.items()}
            return self.module(**{**rest, self._place: varied})
        rest = [many(value) for value in self._inputs]
        rest[self._place] = varied
        return self.module(*rest)


def one_at_a_time(request: Request, entries: Sequence[Entry], run: Run) -> list[RawMaps] | None:
    """Run methods that alter one tensor on models of several inputs, sample by sample.

    Args:
        request: what to explain. Its option `vary` says which of several inputs; without, it is
            the one that is a picture. Of views (B, V, C, H, W) that a model folds into its batch
            each is explained by itself.
        entries: the methods.
        run: runs them on one tensor (B, C, ...).

    Returns:
        Their maps; None where the model takes one tensor, for which nothing is held.

    Raises:
        MethodError: it is open which input is meant, or there is none of that name.
    """
    inputs, vary = request.inputs, request.options.get("vary")
    options = {name: value for name, value in request.options.items() if name != "vary"}
    if isinstance(inputs, Tensor):
        if vary is not None:
            raise MethodError(f"vary={vary!r} is for models of several inputs; this one takes one")
        flat = request.input_size is not None and len(request.input_size) == 2
        if inputs.ndim != 5 or not flat:
            return None
        places: list[Any] = list(range(inputs.shape[1]))
    else:
        places = [_varied(inputs, vary)]
    kind = type(type(request.model).__name__, (Held,), {})  # messages say the model's own name
    made = []
    for number in range(request.batch):
        sample = Given(inputs, request.batch).part(number, number + 1)
        found = []
        for place in places:
            one = sample[:, place] if isinstance(sample, Tensor) else sample[place]
            alone = replace(
                request,
                model=kind(request.model, sample, place),
                inputs=one,
                batch=1,
                target=_of(request.target, number),
                input_size=tuple(one.shape[2:]),
                options=options,
            )
            found.append(run(alone, entries))
        made.append([_joined(views, len(places)) for views in zip(*found, strict=True)])
    fact = {"views": len(places)} if isinstance(inputs, Tensor) else {"varied": places[0]}
    done = [_joined(samples, 1) for samples in zip(*made, strict=True)]
    return [
        replace(one, layer=one.layer.removeprefix("module."), meta={**one.meta, **fact})
        for one in done
    ]


def _varied(inputs: Any, vary: Any) -> Any:
    items = dict(inputs.items() if isinstance(inputs, Mapping) else enumerate(inputs))
    usable = {
        name: value
        for name, value in items.items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 2
    }
    if vary is None and len(usable) == 1:
        return next(iter(usable))
    if vary in usable:
        return vary
    listed = ", ".join(f"vary={name!r} {tuple(v.shape[1:])}" for name, v in usable.items())
    raise MethodError(
        "this method alters one input while the others are held fixed"
        + ("" if vary is None else f", and vary={vary!r} is no picture, signal or volume of them")
        + f"; say which: {listed or 'none of them is a picture, signal or volume'}"
    )


def _of(target: Any, number: int) -> Any:
    """Return the target of one sample."""
    single = isinstance(target, str | Target) or callable(target) or not hasattr(target, "__len__")
    if single or getattr(target, "ndim", 1) == 0:
        return target
    values: Any = target
    return [values[number]]


def _joined(parts: Sequence[RawMaps], views: int) -> RawMaps:
    """Put maps together: of several samples one after the other, of views class by class."""
    first = parts[0]

    def tensors(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        if any(value is None for value in values):
            return None
        return torch.stack(values, 1).flatten(0, 1) if views > 1 else torch.cat(values)

    def texts(name: str) -> tuple[Any, ...]:
        values = [getattr(part, name) for part in parts]
        if views > 1:
            return tuple(value for row in zip(*values, strict=True) for value in row)
        return tuple(value for part in values for value in part)

    meta = dict(first.meta)
    if "convergence_delta" in meta:
        meta["convergence_delta"] = max(part.meta["convergence_delta"] for part in parts)
    return replace(
        first, values=tensors("values"), score=tensors("score"), logits=tensors("logits"),
        probability=tensors("probability"), targets=texts("targets"), labels=texts("labels"),
        meta=meta,
    )  # fmt: skip
