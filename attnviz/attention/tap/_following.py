"""Following tokens: views, shifts, joins and projections carry places and weights along."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ._record import Recorder
from .functions import ADD, CONV2D, DIVIDE, EXPAND, IN_PLACE, REORDER, SUBTRACT, is_pointwise
from .tags import Notes, Rearranged, Weighted, leading


class Following:
    """The part of the mode that follows tensors made from noted ones."""

    recorder: Recorder
    moved: Notes
    weighed: Notes
    straight: Notes

    # -- where tokens go -----------------------------------------------------------------------

    def chain(self, tensor: Tensor) -> Rearranged:
        """Return the place chain of a tensor; it starts here if it has none."""
        note = self.moved.get(tensor)
        if note is None:
            origin = "fixed" if isinstance(tensor, nn.Parameter) else ""
            if not origin and self.recorder.is_given(tensor):
                origin = "given"
            note = Rearranged(shape=tuple(tensor.shape), origin=origin)
            self.moved.put(tensor, note)
        return note

    def _note(self, tensor: Tensor, note: Rearranged) -> None:
        """Say where the tokens of a tensor are; the recorder hears of tensors of tokens."""
        self.moved.put(tensor, note)
        self.recorder.token_tensor(tensor, note)

    def blend(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A function of elements in the same place: places stay."""
        output = func(*args, **kwargs)
        if isinstance(output, Tensor):
            given = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
            self._blended(output, [t for t in given if t.shape == output.shape])
        return output

    def _blended(self, output: Tensor, given: list[Tensor]) -> None:
        if any(t is output for t in given):
            return
        known = [self.chain(given[0])] if len(given) == 1 else [self.moved.get(t) for t in given]
        found = leading(*known)
        if found is not None:
            self._note(output, Rearranged(found))

    def stack(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Tensors side by side in a new dimension: the first is followed, if all are of one."""
        output = func(*args, **kwargs)
        parts = list(args[0] if args else kwargs.get("tensors", ()))
        dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        known = [self.moved.get(t) for t in parts]
        if not isinstance(output, Tensor) or not known or None in known:
            return output
        self.recorder.join(known, output, dim % output.ndim, True)
        if len({id(c.root) for c in known}) == 1:
            where = (dim % output.ndim, len(parts))
            self._note(output, Rearranged(known[0], op="stack", args=where))
        return output

    def reduce(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A mean over some dimensions: places follow where they are alike along them."""
        output = func(*args, **kwargs)
        source = args[0] if args else kwargs.get("input")
        note = self.moved.get(source)
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        if note is None or not isinstance(source, Tensor):
            return output
        if isinstance(output, Tensor) and isinstance(dim, (int, tuple, list)):
            dims = (dim,) if isinstance(dim, int) else tuple(dim)
            where = (tuple(d % source.ndim for d in dims), output.ndim == source.ndim)
            self._note(output, Rearranged(note, op="reduce", args=where))
        return output

    def look_up(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Vectors of words or positions, looked up in a table."""
        output = func(*args, **kwargs)
        if isinstance(output, Tensor):
            self._note(output, Rearranged(shape=tuple(output.shape), origin="words"))
        return output

    def scene(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Pooling of a picture, or a convolution: another picture, whose places start here."""
        output = func(*args, **kwargs)
        source = args[0] if args else kwargs.get("input")
        if isinstance(output, Tensor) and isinstance(source, Tensor) and output.ndim == 4:
            before = self.chain(source)
            own = before.origin if before.origin in ("fixed", "words") else "picture"
            shape = tuple(output.shape)
            self._note(output, Rearranged(shape=shape, origin=own, made_of=before))
        return output

    def move(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A view, permutation, shift, padding, slice or repetition: places and values follow."""
        output = func(*args, **kwargs)
        if not args or not isinstance(args[0], Tensor):
            return output
        source, rest = args[0], args[1:]
        parent = self.chain(source)
        note = self.weighed.get(source)
        if isinstance(output, Tensor):
            if output is not source:
                pairs = tuple(kwargs.items())
                self._note(output, Rearranged(parent, (), "move", func, rest, pairs))
            if note is not None:
                self.weighed.put(output, self._follow(note, func, source, rest, kwargs, output))
        elif isinstance(output, (tuple, list)):
            for i, part in enumerate(output):
                pairs = tuple(kwargs.items())
                self._note(part, Rearranged(parent, (), "move", func, rest, pairs, i))
                if note is not None:
                    self.weighed.put(part, self._follow(note, func, source, rest, kwargs, part, i))
        return output

    def _follow(
        self, note: Weighted, func: Any, source: Tensor, rest: tuple[Any, ...],
        kwargs: dict[str, Any], output: Tensor, pick: int | None = None,
    ) -> Weighted:  # fmt: skip
        clean = note.clean
        if clean is not None:
            clean = func(clean, *rest, **kwargs)
            clean = clean if pick is None else clean[pick]
        compact = note.compact
        if compact is None and func in EXPAND and output.numel() > source.numel():
            compact = source  # expanded: a gate is as large as before
        dim = _dim_after(func, note.dim, source, output)
        return Weighted(
            note.function,
            note.origin,
            note.source,
            note.given,
            dim,
            clean,
            compact,
            note.mixed,
            note.gate,
        )

    def join(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Concatenation: a class token before the patches. The largest part is followed."""
        output = func(*args, **kwargs)
        parts = args[0] if args else kwargs.get("tensors", ())
        dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        if isinstance(output, Tensor) and isinstance(dim, int) and output.ndim:
            dim %= output.ndim
            sizes = [p.shape[dim] if p.ndim == output.ndim else 0 for p in parts]
            chains = [self.moved.get(p) for p in parts]
            if len(parts) > 1 and None not in chains:
                self.recorder.join(chains, output, dim, False)
            largest = max(
                range(len(parts)),
                key=lambda i: (getattr(chains[i], "origin", "") == "picture", sizes[i]),
            )
            places = chains[largest]
            if places is not None:
                where = (dim, sum(sizes[:largest]), output.shape[dim])
                new = chains[1 - largest] if len(parts) == 2 else None
                if new is not None:
                    self.recorder.own_stack()  # hears of a new call
                    new = new if self.recorder.keys.cached(places) else None
                self._note(output, Rearranged(places, op="cat", args=where, beside=new))
        return output

    def same(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A cast, a copy or arithmetic with a plain number: places stay, values nearly."""
        output = func(*args, **kwargs)
        if not args or not isinstance(output, Tensor):
            return output
        source = args[0]
        if len(args) > 1 and not many(source) and isinstance(args[1], Tensor):
            source = args[1]  # a number came first, perhaps as a tensor
        if not isinstance(source, Tensor) or output is source:
            return output
        self._note(output, self.chain(source))
        note = self.weighed.get(source)
        if note is not None:
            clean = note.clean
            if clean is not None:
                clean = func(*(clean if a is source else a for a in args), **kwargs)
            self.weighed.put(output, with_(note, clean=clean))
        return output

    def resample(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Weights brought to another size, as by the gates of a U-Net, stay weights."""
        output = self.scene(func, args, kwargs)
        note = self.weighed.get(args[0]) if args else None
        if note is not None and isinstance(output, Tensor):
            clean = None if note.clean is None else func(note.clean, *args[1:], **kwargs)
            self.weighed.put(output, with_(note, mixed=True, clean=clean))
        return output

    def arithmetic(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Addition, subtraction, division: with a number as `same`; two weights make weights."""
        if len(args) < 2:
            return func(*args, **kwargs)
        first, second = args[0], args[1]
        if not (many(first) and many(second)):
            before = second if many(second) or not isinstance(first, Tensor) else first
            note = self.weighed.get(before)
            output = self.same(func, args, kwargs)
            if note is not None and note.function == "relu6" and _is_six(func, second):
                self.weighed.put(output, with_(note, function="hardsigmoid"))
            return output
        notes = [self.weighed.get(first), self.weighed.get(second)]
        output = func(*args, **kwargs)
        if isinstance(output, Tensor) and output is not first and func not in DIVIDE:
            # a residual connection or a position code: tokens stay in place
            known = [self.moved.get(t) for t in (first, second) if t.shape == output.shape]
            found = leading(*known)
            if found is not None:
                self._note(output, Rearranged(found))
        if isinstance(output, Tensor) and func not in IN_PLACE:
            self._choose(func, first, second, notes, output)
        note = notes[0] or notes[1]
        # weights plus weights (gated mixtures of two softmaxes), weights over their own sum
        both = notes[0] is not None and notes[1] is not None
        over = notes[0] is not None and func in DIVIDE and _broadcasts(second, first)
        if note is not None and isinstance(output, Tensor) and (both or over):
            self.weighed.put(output, with_(note, mixed=True, clean=self._redo(func, args, kwargs)))
        elif note is not None and isinstance(output, Tensor) and note.composed:
            self.weighed.put(output, note)
        return output

    def _choose(
        self, func: Any, first: Tensor, second: Tensor, notes: list[Any], output: Tensor
    ) -> None:
        """Follow weights that are 0 or 1 forward and a softmax backward: hard - soft + soft."""
        if func in SUBTRACT and notes[0] is None and notes[1] is not None:
            if first.shape == second.shape and notes[1].function == "softmax":
                self.straight.put(output, notes[1])
        elif func in ADD and notes.count(None) == 1:
            note = notes[0] if notes[1] is None else notes[1]
            hard = self.straight.get(second if notes[0] is not None else first)
            if hard is not None and note is not None and hard.given is note.given:
                self.weighed.put(output, with_(note, mixed=True))

    def _redo(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """Repeat a call on the values without dropout; None where there was no dropout."""
        notes = [self.weighed.get(a) if isinstance(a, Tensor) else None for a in args]
        if all(n is None or n.clean is None for n in notes) or func in IN_PLACE:
            return None
        clean = [
            n.clean if n is not None and n.clean is not None else a
            for n, a in zip(notes, args, strict=True)
        ]
        return func(*clean, **kwargs)

    def project(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`F.linear`, 1 x 1 convolutions: places follow; weights mixed over heads stay weights."""
        output = func(*args, **kwargs)
        source = args[0] if args else kwargs.get("input")
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        if not (isinstance(source, Tensor) and isinstance(weight, Tensor)):
            return output
        if not isinstance(output, Tensor):
            return output
        self.recorder.used.add(id(weight))
        last = func is F.linear
        if func in CONV2D and output.ndim == 4 and not is_pointwise(weight, args, kwargs):
            return self.scene(lambda *_, **__: output, args, kwargs)
        if last or is_pointwise(weight, args, kwargs):
            op = "last" if last else "second"
            width = output.shape[-1] if last else output.shape[1]
            parent = self.chain(source)
            self._note(output, Rearranged(parent, op=op, width=width))
            note = self.weighed.get(source)
            if note is not None and source.shape == output.shape:
                clean = note.clean
                if clean is not None:
                    clean = func(
                        clean, *args[1:], **{k: v for k, v in kwargs.items() if k != "input"}
                    )
                self.weighed.put(output, with_(note, mixed=True, clean=clean))
        return output


def many(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() > 1


def _is_six(func: Any, number: Any) -> bool:
    return func in DIVIDE and isinstance(number, (int, float)) and number == 6


def _broadcasts(small: Any, large: Any) -> bool:
    return isinstance(small, Tensor) and small.numel() < large.numel()


def with_(note: Weighted, **changes: Any) -> Weighted:
    return replace(note, **changes)


def _dim_after(func: Any, dim: int | None, source: Tensor, output: Tensor) -> int | None:
    """Return where the softmax dimension went, if the call left the dimensions in order."""
    same_rank = source.ndim == output.ndim and func not in REORDER
    return dim if same_rank else None
