"""`capture`: activations of named layers, and the gradients of any score with respect to them.

The graph restarts at the first layer that is read: what runs before it records nothing, so a map
costs the plain forward plus the tail's backward and no memory for the prefix (Grad-CAM needs no
more: Selvaraju et al. 2017, arXiv:1610.02391).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CaptureError
from .checkpointing import without_checkpointing
from .modules import eager, find_layers, unwrap
from .outputs import pick, put
from .preserve import preserved
from .threads import own_thread, takes_hooks


class Capture:
    """What one forward showed of some layers; made by `capture`.

    Attributes:
        layers: the dotted names asked for, in that order.
        modules: these layers, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: str | nn.Module | Sequence[str | nn.Module],
        *,
        create_graph: bool = False,
        call: int | None = None,
        prefix_graph: bool = False,
        gradients: bool = True,
    ) -> None:
        self._model = unwrap(model)
        self._wrapped = model
        self.modules = find_layers(self._model, layers, parts=True)
        self._create_graph = create_graph
        self._call = call
        self._prefix_graph = (prefix_graph or create_graph) and gradients
        self._record = gradients
        self.layers = tuple(self.modules)
        self._tensors: dict[str, Tensor] = {}
        self._calls: dict[str, int] = {}
        self._stack: contextlib.ExitStack | None = None

    # -- the block ---------------------------------------------------------------------------

    def __enter__(self) -> Capture:
        if self._stack is not None or self._calls:
            raise CaptureError("this capture was used already; open a new one for every forward")
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            # set_grad_enabled acts when made; the hooks below move it, so it is put back by hand
            stack.callback(torch.set_grad_enabled, torch.is_grad_enabled())
            stack.enter_context(eager(self._wrapped))
            stack.enter_context(without_checkpointing(self._model))
            if not self._create_graph:
                stack.enter_context(preserved(self._model, eval_mode=False))
            for name, module in self.modules.items():
                if not takes_hooks(module):
                    raise CaptureError(
                        f"layer {name!r} is scripted: it runs outside Python and cannot be read; "
                        "choose the layer before or after it, or pass the eager model"
                    )
                handle = module.register_forward_hook(own_thread(self._hook(name)))
                stack.callback(handle.remove)
            torch.set_grad_enabled(self._prefix_graph)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        stack, self._stack = self._stack, None
        try:
            if stack is not None:
                stack.close()
        finally:
            if kind is not None:
                self._tensors.clear()

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def read(module: nn.Module, inputs: Any, output: Any) -> Any:
            count = self._calls[name] = self._calls.get(name, 0) + 1
            if self._call is None and count > 1:
                raise CaptureError(
                    f"layer {name!r} ran twice inside one capture, so its activation is ambiguous. "
                    "If the model was called twice, open one capture per forward; if the layer is "
                    "used several times in one forward, choose with call=0, 1, ... or -1 (last)"
                )
            if self._call is not None and self._call not in (-1, count - 1):
                return None
            tensor, key = pick(output, name)
            tensor = self._restart(tensor, inputs)
            self._tensors[name] = tensor
            # the rest of the network gets a copy: an in-place op behind the layer (ReLU(inplace),
            # out += identity) would overwrite what is read here
            return put(output, key, tensor.clone())

        return read

    def _restart(self, tensor: Tensor, inputs: Any) -> Tensor:
        storage = tensor.untyped_storage().data_ptr()
        aliased = any(
            isinstance(x, Tensor) and x.untyped_storage().data_ptr() == storage for x in inputs
        )
        torch.set_grad_enabled(self._record)
        if tensor.requires_grad:
            return tensor.clone() if aliased else tensor
        tensor = tensor.detach()
        # a layer that hands on its input (identity, in-place ReLU) shares memory with what came
        # before it; an inference tensor cannot carry gradients: both are copied
        if aliased or tensor.is_inference():
            tensor = tensor.clone()
        return tensor.requires_grad_(self._record)

    # -- what was read -----------------------------------------------------------------------

    def _read(self) -> dict[str, Tensor]:
        missing = [name for name in self.layers if name not in self._tensors]
        if missing:
            ran = "the model did not run inside the block, or ran a copy of itself"
            ran = ran if not self._calls else "it was skipped"
            raise CaptureError(
                f"layer {missing[0]!r} was not reached in this forward ({ran}); call the model "
                "inside the `with` block and choose a layer that its forward uses"
            )
        return {name: self._tensors[name] for name in self.layers}

    @property
    def activations(self) -> Mapping[str, Tensor]:
        """The layers' outputs as the model computed them, {name: tensor}.

        Part of the graph with `create_graph=True`, otherwise detached from it.
        """
        tensors = self._read()
        if not self._create_graph:
            tensors = {name: tensor.detach() for name, tensor in tensors.items()}
        return MappingProxyType(tensors)

    def gradients(
        self,
        score: Tensor | Callable[[], Tensor],
        *,
        retain_graph: bool = True,
        zeros: bool = False,
    ) -> Mapping[str, Tensor]:
        """Return d score / d activation of each layer, {name: tensor of the activation's shape}.

        Args:
            score: one number with a graph, such as `logits[:, 3].sum()`; or a function without
                arguments that computes it, which works under `no_grad` and `inference_mode` too.
            retain_graph: keep the graph for another call. It is freed with the score and this
                object in any case.
            zeros: zeros for a layer that the score does not depend on, as long as it depends on
                one of them.

        Raises:
            CaptureError: the score is not one number, has no graph, or does not depend on a layer.
        """
        tensors = self._read()
        if not self._record:
            raise CaptureError("this capture was opened with gradients=False, which records none")
        with torch.inference_mode(False), torch.enable_grad():
            if callable(score):
                score = score()
            if not isinstance(score, Tensor) or score.numel() != 1:
                got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
                raise CaptureError(
                    f"gradients need one number as score, got {got}; sum over the batch, such as "
                    "logits[:, 3].sum()"
                )
            if not score.requires_grad:
                raise CaptureError(_no_graph(self._model))
            try:
                found = torch.autograd.grad(
                    score,
                    list(tensors.values()),
                    retain_graph=retain_graph or self._create_graph,
                    create_graph=self._create_graph,
                    allow_unused=True,
                )
            except RuntimeError as error:
                if "second time" in str(error):
                    raise CaptureError(
                        "the graph was freed by an earlier gradients(retain_graph=False); run the "
                        "forward again or keep the graph"
                    ) from error
                if "heckpoint" in str(error):
                    raise CaptureError(CHECKPOINTED) from error
                if "nference tensor" in str(error):
                    raise CaptureError(
                        "the model's parameters were made under torch.inference_mode(), which "
                        "forbids gradients for good; build the model outside of it"
                    ) from error
                raise
        for name, gradient in zip(tensors, found, strict=True):
            if gradient is None and not (zeros and any(g is not None for g in found)):
                raise CaptureError(_independent(self._model, name, score))
        return MappingProxyType({
            name: torch.zeros_like(tensor) if gradient is None else gradient
            for (name, tensor), gradient in zip(tensors.items(), found, strict=True)
        })  # fmt: skip


#: why what lies inside re-entrant checkpointing, or in front of it, has no gradient
CHECKPOINTED = (
    "the model recomputes parts of itself in the backward pass (gradient checkpointing), in a form "
    "that gives no gradient of layers or inputs; turn it off while explaining, or use "
    "checkpoint(..., use_reentrant=False)"
)


def quantised_part(model: nn.Module) -> str | None:
    """Return which part of a model is quantised and so has no derivative, in words, or None."""
    for name, module in model.named_modules():
        if "quantized" in type(module).__module__:
            return (
                f"part {name!r} of {type(model).__name__} is quantised ({type(module).__name__}) "
                "and has no derivative. Explain the model before its quantisation, or use a method "
                "without gradients, such as eigencam or scorecam"
            )
    return None


def _independent(model: nn.Module, layer: str, score: Tensor) -> str:
    """Say why a score does not depend on a layer, as far as the model's parts tell."""
    seen: set[Any] = set()
    waiting = [score.grad_fn]
    while waiting and len(seen) < 10_000:
        step = waiting.pop()
        if step is None or step in seen:
            continue
        if step.name().startswith("CheckpointFunction"):
            return CHECKPOINTED
        seen.add(step)
        waiting += [following for following, _ in step.next_functions]
    return quantised_part(model) or (
        f"the score does not depend on layer {layer!r}; choose a layer on the way to it. If it is "
        "one, it runs inside gradient checkpointing with use_reentrant=True, or inside a function "
        "that cuts the graph: turn that off while explaining, or choose a later layer"
    )


def _no_graph(model: nn.Module) -> str:
    """Say why a score has no graph, as far as the model's parts tell."""
    quantised = quantised_part(model)
    if quantised is not None:
        return f"the score has no graph: {quantised}"
    return (
        "the score has no graph. Compute it inside the `with` block, or pass a function: "
        "cap.gradients(lambda: logits[:, 3].sum()). If the model itself wraps this layer in "
        "torch.no_grad(), or checkpoints it (use_reentrant=True), use "
        "capture(..., prefix_graph=True) or a later layer"
    )


def capture(
    model: nn.Module,
    layers: str | nn.Module | Sequence[str | nn.Module],
    *,
    create_graph: bool = False,
    call: int | None = None,
    prefix_graph: bool = False,
    gradients: bool = True,
) -> Capture:
    """Read the activations of layers, and gradients with respect to them, from one forward.

        with attnviz.capture(model, layers=["layer4"]) as cap:
            logits = model(x)
        cap.activations["layer4"]                       # (B, C, h, w)
        cap.gradients(logits[:, 3].sum())["layer4"]     # (B, C, h, w)

    Works with frozen parameters, under `no_grad`, `inference_mode` and autocast, in any precision,
    on compiled and DataParallel-wrapped models (which run eagerly, unwrapped, inside), and with
    several threads on one model. `.grad`, `requires_grad`, modes, buffers, hooks and random state
    are afterwards what they were; the model's mode is not changed, so call `eval()` first where
    that is meant (`explain` does it for you, and undoes it).

    Args:
        model: any `nn.Module`.
        layers: dotted names or modules of the model, one or several; of a layer that returns maps
            of several sizes one of them, such as "stage4[3]". The graph restarts at the one that
            runs first.
        create_graph: for training. Everything is recorded, activations and gradients are
            differentiable, and buffers and random state move as the forward moves them.
        call: which call of a layer that runs several times: 0, 1, ... or -1 for the last. None
            makes a second call an error.
        prefix_graph: record a graph before the layer too.
        gradients: False reads activations only and records no graph at all.

    Raises:
        LayerNotFound: a layer is not part of the model.
        CaptureError: the layer ran twice, was not reached, or returns no activation.
    """
    return Capture(
        model,
        layers,
        create_graph=create_graph,
        call=call,
        prefix_graph=prefix_graph,
        gradients=gradients,
    )
