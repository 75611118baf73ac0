"""`tap`: read every attention of a model while it runs, without changing what it computes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from types import TracebackType

import torch
from torch import nn

from ...errors import AttentionUnavailable
from ...hooks import eager
from ._mode import TapMode
from ._modules import module_names
from ._record import Recorder
from .gate import Gate, Missed
from .site import Site
from .tags import Stream

_KEEP = {
    "qk": frozenset({"q", "k"}),
    "qkv": frozenset({"q", "k", "v"}),
    "all": frozenset({"q", "k", "v", "output"}),
}
_LOOKS_LIKE = re.compile(r"attention|attn|mixer2?d?attention", re.IGNORECASE)


class Tap:
    """What `tap` returns; enter it with `with`, run the model, then read `sites`.

    Attributes:
        sites: every attention (`Site`) and gate (`Gate`) found, in the order of the forward pass.
        attention: only the attentions.
        gates: only the gates.
        missed: what looks like attention and could not be read, and why.
    """

    def __init__(
        self,
        model: nn.Module | None,
        *,
        keep: str,
        graph: bool,
        copy: bool,
        required: bool,
        restart: bool = False,
        twice: bool = False,
        reduce: Callable[[Site], Site] | None = None,
        fused_only: bool = False,
    ) -> None:
        if keep not in _KEEP:
            raise ValueError(f"keep={keep!r}: expected one of {', '.join(map(repr, _KEEP))}")
        self.model = model
        self._required = required
        self._fused_only = fused_only
        names = None if model is None else module_names(model)
        self._recorder = Recorder(names, _KEEP[keep], graph, copy, restart, twice, reduce)
        self._stack: contextlib.ExitStack | None = None

    @property
    def sites(self) -> tuple[Site | Gate, ...]:
        """Every attention and gate, in the order of the forward pass."""
        return tuple(self._recorder.sites)

    @property
    def attention(self) -> tuple[Site, ...]:
        """The attentions, without gates."""
        return tuple(s for s in self._recorder.sites if isinstance(s, Site))

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The gates."""
        return tuple(s for s in self._recorder.sites if isinstance(s, Gate))

    @property
    def stream(self) -> Stream | None:
        """The last tensor of the last attention's tokens, None where it could not be followed."""
        return self._recorder.stream

    @property
    def missed(self) -> tuple[Missed, ...]:
        """What looks like attention and could not be read, and why."""
        found = list(self._recorder.missed.values())
        return (*found, *_unseen(self.model, self._recorder))

    def __enter__(self) -> Tap:
        if self._stack is not None:
            raise RuntimeError("this tap is in use already; make another with attention.tap(model)")
        with contextlib.ExitStack() as stack:
            if self.model is not None:
                stack.enter_context(eager(self.model))
            stack.callback(self._recorder.release)
            mode = TapMode(self._recorder, self._fused_only)
            stack.callback(self._note_flex, mode)
            stack.enter_context(mode)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()
        if kind is None and self._required and not self._recorder.sites:
            raise AttentionUnavailable(self._why_empty())

    def _note_flex(self, mode: TapMode) -> None:
        if mode.saw_flex:
            self._recorder.miss(
                "flex_attention",
                "torch.nn.attention.flex_attention computes weights inside a compiled kernel and "
                "hands out none; use scaled_dot_product_attention with the same mask "
                "(Hugging Face: attn_implementation='sdpa')",
            )

    def _why_empty(self) -> str:
        what = type(self.model).__name__ if self.model is not None else "what ran"
        if not self.missed and not self._recorder.ran and not self._recorder.used:
            return (
                f"no attention was read from {what}: the model did not run in this thread inside "
                "the `with` block; call it there"
            )
        reasons = "; ".join(map(str, self.missed))
        return (
            f"no attention was read from {what}: no scaled_dot_product_attention, no softmax or "
            "sigmoid that weighs values ran. "
            + (f"Not readable: {reasons}" if reasons else "It may have none; for convolutional "
               "networks use a class activation map, e.g. method='gradcam'.")
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"Tap({len(self.attention)} attentions, {len(self.gates)} gates)"


def tap(
    model: nn.Module | None,
    *,
    keep: str = "all",
    graph: bool = False,
    copy: bool = False,
    required: bool = True,
) -> Tap:
    """Read every attention and gate of a model while it runs.

    The output of the model does not change: fused attention stays fused, and q, k, v are taken
    where its kernel is called. `nn.MultiheadAttention` and `nn.Transformer*` leave their native
    inference path while tapped (equal to the training path to the bit, to the native path within
    1e-6). Hooks, modes, random state and other threads are not touched.

    Args:
        model: any `nn.Module`, compiled or not; None reads whatever runs in the block.
        keep: "qk" (least memory: weights only), "qkv", or "all" (also the output, for
            `site.error()` and gradient-weighted maps).
        graph: keep the autograd graph on what is stored, so that weights can be
            differentiated; by default they are detached.
        copy: store copies, for models that overwrite tensors afterwards (static caches).
        required: raise if nothing was found.

    Returns:
        A context manager. After the block `.sites`, `.attention`, `.gates` and `.missed` hold
        what was found.

    Raises:
        AttentionUnavailable: at the end of the block, if nothing was found.
        ValueError: an unknown `keep`.

    Example:
        >>> import timm, torch
        >>> from attnviz import attention
        >>> model = timm.create_model("vit_tiny_patch16_224", num_classes=10)
        >>> with attention.tap(model) as tap:
        ...     logits = model(torch.rand(1, 3, 224, 224))
        >>> tap.attention[-1].weights(rows=0).shape  # (B, heads, 1, tokens)
        torch.Size([1, 3, 1, 197])
    """
    return Tap(model, keep=keep, graph=graph, copy=copy, required=required)


def _unseen(model: nn.Module | None, recorder: Recorder) -> Iterator[Missed]:
    """Yield modules that ran, look like attention, and gave no site."""
    if model is None or recorder.names is None:
        return
    seen = {s.name for s in recorder.sites} | {m.name for m in recorder.missed.values()}
    for module in model.modules():
        name = recorder.names.get(id(module))
        if name is None:  # the model put it in while it ran; its sites bear its parent's name
            continue
        if isinstance(module, torch.jit.ScriptModule):
            if module is model or name:
                yield Missed(
                    name or type(model).__name__,
                    "is TorchScript, whose inside Python does not see; load the nn.Module that it "
                    "was made from",
                )
                return
            continue
        if type(module).__name__ == "DataParallel":
            yield Missed(name or "model", "DataParallel runs in other threads; tap .module")
        if not _LOOKS_LIKE.search(type(module).__name__):
            continue
        inside = [s for s in seen if s == name or s.startswith(f"{name}.") or not name]
        within = any(name.startswith(f"{s}.") for s in seen if s)
        if inside or within or _is_projection(model, module, name, seen):
            continue
        if any(id(p) in recorder.used for p in module.parameters()):
            yield Missed(
                name,
                f"{type(module).__name__} ran, but no softmax or sigmoid in it weighed values "
                "(linear or kernel attention has no weights to read)",
            )


def _is_projection(model: nn.Module, module: nn.Module, name: str, seen: set[str]) -> bool:
    """Say whether a module with one projection is the end of an attention that was read."""
    parent = name.rpartition(".")[0]
    if not parent or sum(p.ndim == 2 for p in module.parameters()) > 1:
        return False
    beside = any(s.startswith(f"{parent}.") for s in seen)
    return beside and bool(_LOOKS_LIKE.search(type(model.get_submodule(parent)).__name__))
