"""The function mode that watches a model run, and the table of what it listens to."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ._einsum import einsum_parts
from ._following import Following, many, with_
from ._record import Recorder
from .functions import (
    FLEX,
    FUNCTIONS,
    IN_PLACE,
    KERNELS,
    OPERATORS,
    SWAPPED,
    TABLE,
    dropout_active,
    is_in_place,
    twice_differentiable,
    unguarded_mha,
)
from .tags import Notes, Rearranged, Weighted, common, leading, projected

Handler = Callable[["TapMode", Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]

_MHA_NAMES = F.multi_head_attention_forward.__code__.co_varnames


class TapMode(Following, TorchFunctionMode):
    """Passes calls on unchanged and notes those of attention (`fused_only`: of SDPA alone)."""

    def __init__(self, recorder: Recorder, fused_only: bool = False) -> None:
        super().__init__()
        self.recorder = recorder
        self.fused_only = fused_only
        self.moved = Notes()  # tensor -> Rearranged
        self.weighed = Notes()  # tensor -> Weighted
        self.straight = Notes()  # a choice less its softmax -> the note of that softmax
        self.saw_flex = False
        self.gated = Notes()  # product of a gate -> the notes of that gate
        self.quiet = False  # calls of our own are not the model's

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Hand the call to its handler, or straight on."""
        if self.fused_only and func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs) if kwargs else func(*args)
        if torch.compiler.is_compiling():  # flex attention compiles itself; keep this traceable
            if func is FLEX:
                self.saw_flex = True
            return func(*args, **(kwargs or {}))
        self.recorder.tick += not self.quiet
        handler = HANDLERS.get(func)
        if handler is None:
            if isinstance(func, OPERATORS):
                self.operator(func)
            return func(*args, **kwargs) if kwargs else func(*args)
        return handler(self, func, args, kwargs or {})

    # -- fused attention -----------------------------------------------------------------------

    def fused(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record `F.scaled_dot_product_attention`."""
        if self.recorder.twice:
            func = twice_differentiable
        output = self._begin(func(*args, **kwargs))
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given: dict[str, Any] = dict(zip(names, args, strict=False))
        given.update(kwargs)
        q, v = given["query"], given["value"]
        asks = self.moved.get(q)
        looks = [self.moved.get(v), self.moved.get(given["key"])]
        if asks is not None:
            self.moved.put(output, Rearranged(asks, op="last", width=v.shape[-1]))
        self.recorder.sdpa(
            q, given["key"], v, output, mask=given.get("attn_mask"),
            dropout=given.get("dropout_p", 0.0), causal=given.get("is_causal", False),
            scale=given.get("scale"), moved=(asks, leading(*looks)), same=_same_tokens(asks, looks),
            made=self.moved.get(output),
        )  # fmt: skip
        self.recorder.keys.note(looks)
        return output

    def multihead(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run `F.multi_head_attention_forward` so that its inside is seen too.

        A mode is switched off while it handles a call, so a copy of the function (which does not
        ask for overrides again) runs with the mode switched on. Nothing is patched.
        """
        named = dict(zip(_MHA_NAMES, args, strict=False)) | kwargs
        tensors = [named.get(n) for n in ("query", "key", "value", "in_proj_weight")]
        if any(_is_subclass(t) for t in tensors):
            modules = self.recorder.own_stack()
            name = modules[0].name if modules else "nn.MultiheadAttention"
            self.recorder.miss(name, "its tensors are of a subclass that overrides this function")
            return func(*args, **kwargs)
        query = named["query"]
        before = self.recorder.mha
        self.recorder.mha = (query.shape[1] if query.ndim == 3 else 1, named["num_heads"])
        try:
            with self:
                return unguarded_mha()(*args, **kwargs)
        finally:
            self.recorder.mha = before

    def normalise(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Normalisation keeps the places; batch normalisation of weights keeps them weights."""
        output = func(*args, **kwargs)
        if args and isinstance(output, Tensor) and isinstance(args[0], Tensor):
            parent = self.chain(args[0])
            self._note(output, Rearranged(parent))
            note = self.weighed.get(args[0])
            if note is not None and func is F.batch_norm:
                self.weighed.put(output, with_(note, mixed=True, clean=None))
        return output

    # -- where weights are made ----------------------------------------------------------------

    def weigh(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A softmax or sigmoid."""
        function = FUNCTIONS[func]
        given = args[0] if args else kwargs.get("input")
        chain = self.chain(given) if isinstance(given, Tensor) else None
        output = func(*args, **kwargs)
        if not isinstance(output, Tensor) or not isinstance(given, Tensor):
            return output
        modules = self.recorder.own_stack()
        if modules is None:
            return output
        dim = None
        if function == "softmax":
            dim = args[1] if len(args) > 1 else kwargs.get("dim")
            dim = dim % output.ndim if isinstance(dim, int) and output.ndim else None
        self.weighed.put(
            output, Weighted(function, modules[0].name, chain, weakref.ref(given), dim)
        )
        return output

    def rectify(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A ReLU of products of pairs may be attention without a softmax (arXiv:2309.08586)."""
        given = args[0] if args else kwargs.get("input")
        chain = self.moved.get(given)
        output = func(*args, **kwargs)
        if chain is not None and chain.op == "pairs" and isinstance(output, Tensor):
            modules = self.recorder.own_stack() if output.ndim > 2 else None
            if modules is not None:
                self.weighed.put(output, Weighted("relu", modules[0].name, chain, mixed=True))
        elif isinstance(given, Tensor) and isinstance(output, Tensor):
            self._blended(output, [given])
        return output

    def drop(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Dropout: what was there before it is remembered."""
        source = args[0] if args else None
        note = self.weighed.get(source)
        keeps = source
        fresh = note is not None and note.clean is None
        if fresh and isinstance(source, Tensor) and is_in_place(args, kwargs):
            keeps = source.clone()
        output = func(*args, **kwargs)
        if isinstance(source, Tensor) and isinstance(output, Tensor):
            self._note(output, self.chain(source))
            if note is not None:
                clean = note.clean
                if clean is None and dropout_active(func, args, kwargs):
                    clean = keeps
                self.weighed.put(output, with_(note, clean=clean))
        return output

    # -- where weights are used ----------------------------------------------------------------

    def matmul(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A V, or (V' Aᵀ) where the weights are the second factor."""
        output = func(*args, **kwargs)
        if len(args) < 2 or not isinstance(output, Tensor):
            return output
        left, right = args[0], args[1]
        if func in SWAPPED:
            left, right = right, left
        self._paired(output, left, right)
        notes = self.weighed.get(left), self.weighed.get(right)
        if all(n is not None and n.of_pairs for n in notes):  # weights still, and no values
            self.weighed.put(output, with_(notes[0], mixed=True, clean=None, composed=True))
            return output
        for weights, values, second in ((left, right, False), (right, left, True)):
            note = self.weighed.get(weights)
            if note is None or note.function == "relu6" or isinstance(values, nn.Parameter):
                continue
            if note.function == "relu" and second:
                continue
            if weights.ndim < 2 or values.ndim < 2 or output.ndim < 2:
                continue
            if note.function != "softmax" and weights.ndim < 3:
                continue
            other = self.weighed.get(values)
            if other is not None and second:
                continue
            output = self._begin(output)
            if second:
                with self._own(), self:  # so that the places of the values are followed
                    turned = values.mT
                self._confirm(weights.mT, turned, output, note, _transpose, _transpose)
            else:
                self._confirm(weights, values, output, note, _same, _same)
            break
        return output

    def einsum(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An einsum of weights and values."""
        output = func(*args, **kwargs)
        operands = args[1:]
        if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
            operands = tuple(operands[0])
        if not isinstance(args[0], str) or len(operands) != 2:
            return output
        self._paired(output, *operands)
        for i in (0, 1):
            note = self.weighed.get(operands[i])
            if note is None or isinstance(operands[1 - i], nn.Parameter):
                continue
            if einsum_parts(args[0], i, operands[i], operands[1 - i], output) is None:
                continue
            output = self._begin(output)
            with self._own(), self:  # so that the places of the values are followed
                parts = einsum_parts(args[0], i, operands[i], operands[1 - i], output)
            assert parts is not None
            a, v, arrange_weights, arrange_output, rows = parts
            self._confirm(a, v, output, note, arrange_weights, arrange_output, "einsum", rows)
            break
        return output

    def _begin(self, output: Tensor) -> Tensor:
        """Return an attention's output, where a graph may begin; its tokens are no picture's."""
        output = self.recorder.begin(output)
        self.moved.put(output, Rearranged(shape=tuple(output.shape), op="pairs"))
        return output

    def _paired(self, output: Tensor, left: Any, right: Any) -> None:
        """A product of pairs: of what it was made is remembered."""
        pair = (self.moved.get(left), self.moved.get(right))
        # a product of a product is tokens again, and no logits
        known = pair if all(c is not None and c.origin != "pairs" for c in pair) else None
        self.moved.put(output, Rearranged(shape=tuple(output.shape), op="pairs", pair=known))

    @contextlib.contextmanager
    def _own(self) -> Iterator[None]:
        before, self.quiet = self.quiet, True
        try:
            yield
        finally:
            self.quiet = before

    def _confirm(
        self, a: Tensor, v: Tensor, output: Tensor, note: Weighted,
        arrange_weights: Callable[[Tensor], Tensor], arrange_output: Callable[[Tensor], Tensor],
        source: str = "matmul", rows: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        if note.gate is not None:
            self.recorder.withdraw(note.gate)
        pair = None if note.source is None else note.source.root.pair
        looks = self.moved.get(v)
        asks = None if pair is None else pair[0]
        if asks is not None and arrange_output is _same:
            self.moved.put(output, Rearranged(asks, op="last", width=output.shape[-1]))
        self.recorder.product(
            a, v, arrange_output(output),
            clean=None if note.clean is None else arrange_weights(note.clean), source=source,
            mixed=note.mixed, function=note.function, pooled=projected(note.source),
            moved=(asks, looks), raw=output, arrange=arrange_output,
            same=None if pair is None else _same_tokens(pair[0], [looks, pair[1]]), rows=rows,
            made=self.moved.get(output),
        )  # fmt: skip
        self.recorder.keys.note([looks, *(pair or ())[1:]])

    def multiply(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A product: weights broadcast over what they multiply are a gate; places stay."""
        output = self._multiply(func, args, kwargs)
        if isinstance(output, Tensor) and self.moved.get(output) is None:
            given = [t for t in args[:2] if isinstance(t, Tensor) and t.shape == output.shape]
            if given:
                self._blended(output, given)
        return output

    def _multiply(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Weights broadcast over what they multiply are a gate; x * sigmoid(x) is not."""
        if len(args) < 2 or not (many(args[0]) and many(args[1])):
            return self.same(func, args, kwargs)
        notes = [self.weighed.get(args[0]), self.weighed.get(args[1])]
        if notes[0] is None and notes[1] is None:
            return func(*args, **kwargs)
        if notes[0] is not None and notes[1] is not None:
            clean = self._redo(func, args, kwargs)
            output = func(*args, **kwargs)
            large = notes[0] if args[0].numel() >= args[1].numel() else notes[1]
            if isinstance(output, Tensor):
                self.weighed.put(output, with_(large, mixed=True, clean=clean))
            return output
        i = 0 if notes[0] is not None else 1
        note, gate, other = notes[i], args[i], args[1 - i]
        assert note is not None
        found = note.function not in ("relu6", "relu") and not self._is_self_gate(note, other)
        tensor = gate
        if found:
            tensor = note.clean if note.clean is not None else gate
            if note.compact is not None and note.compact.ndim == gate.ndim:
                tensor = note.compact
            tensor = tensor.clone() if func in IN_PLACE and i == 0 else tensor
        output = func(*args, **kwargs)
        if not found or not isinstance(output, Tensor):
            return output
        if all(n == 1 for n in tensor.shape[1:]) and tensor.shape[:1] != output.shape[:1]:
            return output  # one learned number for everything
        if output.ndim < 2:
            return output  # one number a sample: a position or a temperature
        afterwards: dict[str, Any] = {}
        self.recorder.gate(
            tensor, tuple(output.shape), function=note.function, origin=note.origin, dim=note.dim,
            notes=afterwards,
        )  # fmt: skip
        self.gated.put(output, afterwards)
        if note.function == "softmax" and gate.shape == output.shape:
            # a softmax times a window (Luong's local-p) may still weigh values
            reshaped = self.recorder.sites[-1] if self.recorder.sites else None
            self.weighed.put(output, with_(note, mixed=True, clean=None, gate=reshaped))
        return output

    def _is_self_gate(self, note: Weighted, other: Tensor) -> bool:
        given = note.given() if note.given is not None else None
        if given is other:
            return True
        chain = self.moved.get(other)
        return chain is not None and chain is note.source

    def sum(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The sum of a gated tensor: the gate pools."""
        output = self.reduce(func, args, kwargs)
        source = args[0] if args else None
        note = self.gated.get(source)
        if note is not None and isinstance(source, Tensor):
            dim = args[1] if len(args) > 1 else kwargs.get("dim")
            dims = (dim,) if isinstance(dim, int) else tuple(dim or range(source.ndim))
            note["summed"] = tuple(d % source.ndim for d in dims)
        return output

    def operator(self, func: Any) -> None:
        """Note kernels that attend and hand out no weights (flex attention, flash attention)."""
        label = str(func.name() if callable(getattr(func, "name", None)) else func)
        if any(word in label.lower() for word in KERNELS):
            modules = self.recorder.own_stack()
            name = modules[0].name if modules else label
            self.recorder.miss(
                name,
                f"its attention runs in the kernel {label!r}, which hands out neither weights nor "
                "queries and keys; choose the 'sdpa' or 'eager' implementation of the model",
            )


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _transpose(tensor: Tensor) -> Tensor:
    return tensor.mT


def _same_tokens(asks: Rearranged | None, looks: list[Rearranged | None]) -> bool | None:
    """Say whether queries and keys come from the same tokens; None where it is not known."""
    if asks is not None and asks.origin == "fixed" and any(c is not None for c in looks):
        return any(c is not None and common(asks, c) is True for c in looks)
    found = [common(asks, c) for c in looks if c is not None]
    if any(found):
        return True
    return False if found and None not in found else None


def _is_subclass(value: Any) -> bool:
    return isinstance(value, Tensor) and type(value) not in (Tensor, nn.Parameter)


#: what the mode listens to; anything else passes straight through
HANDLERS: dict[Any, Handler] = {
    func: getattr(TapMode, method) for method, funcs in TABLE.items() for func in funcs
}
