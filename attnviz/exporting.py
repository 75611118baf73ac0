"""A model that gives its map with its logits, in one plain forward: for ONNX and `torch.export`.

No autograd is in it: where the head is one linear layer on the mean of a feature map the class
activation map is read off the weights (Zhou et al. 2016, arXiv:1512.04150); for vision transformers
it is the attention rollout (Abnar & Zuidema 2020, arXiv:2005.00928).
"""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import DataError, MethodError, optional
from .explaining import explain
from .hooks import capture, find_layers, preserved
from .methods.heads import HeadProbe
from .models import default_layer, infer_layout, resolve_model
from .models.outputs import logits_of, predicted
from .writing import write_file

#: how far the map may lie from that of `explain`, in units of its largest value
TOLERANCE = 1e-4


class WithMap(nn.Module):
    """x -> (logits (B, classes), map (B, h, w) of each image's predicted class).

    A copy of the model in evaluation mode; made by `with_map`.
    """

    #: the method of `explain` whose map this is
    method: str

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval()
        self._seen: list[Tensor] = []

    def _see(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._seen.append(output)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and map."""
        self._seen.clear()
        logits = logits_of(self.model(x))
        drawn = self._map(logits, list(self._seen))
        self._seen.clear()
        return logits, drawn

    def _map(self, logits: Tensor, seen: list[Tensor]) -> Tensor:
        raise NotImplementedError


class _WithCam(WithMap):
    method = "cam"
    weight: Tensor

    def __init__(self, model: nn.Module, layer: str, layout: Any, weight: Tensor) -> None:
        super().__init__(model)
        self._layout = layout
        self.register_buffer("weight", weight.detach())
        self.model.get_submodule(layer).register_forward_hook(self._see)

    def _map(self, logits: Tensor, seen: list[Tensor]) -> Tensor:
        rows = self.weight[predicted(logits)]
        return torch.einsum("bc,bchw->bhw", rows, self._layout.to_spatial(seen[-1]))


class _WithNormedHead(WithMap):
    """Grad-CAM where a LayerNorm stands between average and linear layer (ConvNeXt, Swin).

    Its derivative (Ba et al. 2016, arXiv:1607.06450) is written out, so that no graph is needed.
    """

    method = "gradcam"
    weight: Tensor

    def __init__(
        self, model: nn.Module, layer: str, layout: Any, norm: nn.LayerNorm, linear: nn.Linear
    ) -> None:
        super().__init__(model)
        self._layout, self._epsilon = layout, norm.eps
        self.register_buffer("weight", (linear.weight * norm.weight).detach())
        self.model.get_submodule(layer).register_forward_hook(self._see)

    def _map(self, logits: Tensor, seen: list[Tensor]) -> Tensor:
        activation = self._layout.to_spatial(seen[-1])
        pooled = activation.mean((2, 3))
        centred = pooled - pooled.mean(1, keepdim=True)
        scale = (centred.square().mean(1, keepdim=True) + self._epsilon).sqrt()
        unit = centred / scale
        rows = self.weight[predicted(logits)]
        rows = rows - rows.mean(1, keepdim=True) - unit * (rows * unit).mean(1, keepdim=True)
        cells = activation.shape[2] * activation.shape[3]
        return torch.einsum("bc,bchw->bhw", rows / (scale * cells), activation).relu()


class _WithRollout(WithMap):
    method = "rollout"

    def __init__(self, model: nn.Module, grid: tuple[int, int], *, pooled: bool) -> None:
        super().__init__(model)
        self._grid, self._pooled = grid, pooled
        for part in attentions(self.model):
            part.fused_attn = False  # the fused kernel keeps its weights to itself
            part.attn_drop.register_forward_hook(self._see)

    def _map(self, logits: Tensor, seen: list[Tensor]) -> Tensor:
        patches = self._grid[0] * self._grid[1]
        before = seen[0].shape[-1] - patches
        row = torch.zeros_like(seen[-1][:, 0, 0])
        if self._pooled:
            row[:, before:] = 1 / patches
        else:
            row[:, 0] = 1
        for weights in reversed(seen):
            row = 0.5 * row + 0.5 * (row[:, None] @ weights.mean(1))[:, 0]
        return row[:, before:].unflatten(1, self._grid)


def _with_head(model: nn.Module, layer: str, example: Tensor) -> WithMap:
    """Return the model with the map of its linear head, which may stand behind a LayerNorm."""
    model = copy.deepcopy(model).eval()
    part = model.get_submodule(layer)
    with torch.no_grad(), HeadProbe(model) as probe:
        with capture(model, layer, gradients=False) as read:
            logits = logits_of(model(example))
        activation = read.activations[layer]
        layout = infer_layout(model, part, activation, tuple(example.shape[-2:]))
        spatial = layout.to_spatial(activation)
        head = probe.head(spatial, logits)
    if head is not None:
        return _WithCam(model, layer, layout, head.weight)
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    channels = spatial.shape[1]
    fit = norms and norms[-1].elementwise_affine and norms[-1].normalized_shape == (channels,)
    if fit and linears and linears[-1].in_features == channels:
        return _WithNormedHead(model, layer, layout, norms[-1], linears[-1])
    raise MethodError(
        f"the logits of {type(model).__name__} are not one linear layer on the average of "
        f"{layer!r}, so there is no map without a backward pass; name the layer that is "
        "averaged"
    )


def attentions(model: nn.Module) -> list[Any]:
    """Return the self-attentions of a timm vision transformer, in order; none of other models."""
    found = [m for m in model.modules() if hasattr(m, "fused_attn") and hasattr(m, "attn_drop")]
    # within windows (Swin) no row goes over the whole picture
    return [] if any(hasattr(m, "window_size") for m in found) else found


def with_map(model: Any, example: Tensor, *, layer: str | None = None) -> WithMap:
    """Return a copy of a model that gives its map with its logits, without autograd.

    Args:
        model: as `explain` takes it.
        example: (B, C, H, W) an input of the size that will be used.
        layer: the averaged feature map; None takes the model's default.

    Returns:
        A module `x -> (logits, map)`. The map is that of `explain(model, x, method=m)`, where m is
        the module's attribute `method`: "cam" with one linear layer (or 1 x 1 convolution) behind
        the average, "gradcam" with a LayerNorm between the two, "rollout" for timm's vision
        transformers. This is checked on the example.

    Raises:
        MethodError: the model has neither.
    """
    module, _ = resolve_model(model)
    example = example.detach()
    if attentions(module) and layer is None:
        wanted = explain(module, example, method="rollout").values
        grid = (wanted.shape[1], wanted.shape[2])
        made: list[WithMap] = [_WithRollout(module, grid, pooled=p) for p in (False, True)]
    else:
        (name,) = find_layers(module, layer or default_layer(module, example))
        made = [_with_head(module, name, example)]
        wanted = explain(module, example, method=made[0].method, layer=name).values
    for wrapped in made:
        with torch.no_grad(), preserved(wrapped):
            _, drawn = wrapped(example)
        if drawn.shape == wanted.shape and _gap(drawn, wanted) <= TOLERANCE:
            return wrapped.eval()
    raise MethodError(
        f"{type(module).__name__} gives another map from a plain forward than `explain` does; it "
        "cannot be exported with its map"
    )


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max().clamp_min(1e-30))


def export_with_map(
    model: Any, path: str | Path, example: Tensor, *, layer: str | None = None, force: bool = False
) -> WithMap:
    """Write a model with its map as ONNX (`.onnx`) or as an exported program (`.pt2`).

    Inputs are "input" (B, C, H, W) of the example's size and any B; outputs "logits" (B, classes)
    and "heatmap" (B, h, w).

    Args:
        model, example, layer: as in `with_map`.
        path: ends in `.onnx` or `.pt2`.
        force: overwrite.

    Raises:
        MethodError: see `with_map`.
        DataError: another ending.
        EnvironmentFault: onnx and onnxscript are not installed (`pip install "attnviz[export]"`).
    """
    path = Path(path)
    if path.suffix not in (".onnx", ".pt2"):
        raise DataError(f"{str(path)!r} ends in {path.suffix!r}; expected .onnx or .pt2")
    wrapped = with_map(model, example, layer=layer)
    # a batch of one would be taken for a constant
    inputs = example.detach()[:1].expand(2, *example.shape[1:]).contiguous()
    shapes = {"x": {0: torch.export.Dim("batch")}}
    with torch.no_grad():
        program = torch.export.export(wrapped, (inputs,), dynamic_shapes=shapes)
    data = io.BytesIO()
    if path.suffix == ".pt2":
        torch.export.save(program, data)
        write_file(path, data.getvalue(), force=force)
        return wrapped
    for needed in ("onnx", "onnxscript"):
        optional(needed, "export")
    made = torch.onnx.export(
        program, input_names=["input"], output_names=["logits", "heatmap"], verbose=False
    )
    assert made is not None  # None is what the old exporter, writing files itself, returns
    write_file(path, made.model_proto.SerializeToString(), force=force)
    return wrapped


__all__ = ["WithMap", "export_with_map", "with_map"]
