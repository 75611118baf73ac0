"""Identities between class activation maps, measured in double precision on the user's model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .findings import FAILS, HOLDS, NOT_HERE, Finding
from .reading import DoublePass

#: relative differences up to here are rounding
EXACT = 1e-9


def identities(reading: DoublePass) -> list[Finding]:
    """Return which identities hold for a model at a layer, with the reason where one does not."""
    return [
        constant_gradient(reading),
        cam_is_gradcam(reading),
        cam_is_complete(reading),
        hirescam_is_complete(reading),
        methods_coincide(reading),
        layercam_is_above(reading),
    ]


def relative_gap(a: Tensor, b: Tensor) -> float:
    """Return the greatest difference of two tensors as a share of the greatest value."""
    scale = max(float(a.abs().max()), float(b.abs().max()))
    return float((a - b).abs().max()) / scale if scale > 0 else 0.0


def spread(reading: DoublePass) -> float:
    """Return how far the gradient is from being the same at every position, as a share."""
    g = reading.gradient
    return relative_gap(g, g.mean((2, 3), keepdim=True).expand_as(g))


def completeness_gap(reading: DoublePass) -> float:
    """Return the mean of |logit - bias - sum of gradient x activation| / |logit|."""
    total = (reading.gradient * reading.activation).sum((1, 2, 3)) + reading.bias
    gap = (reading.score - total).abs() / reading.score.abs().clamp_min(1e-12)
    return float(gap.mean())


def behind(reading: DoublePass) -> str:
    """Return what stands between the layer and the logits, in words."""
    nonlinear = reading.nonlinear
    count = len(nonlinear)
    if nonlinear:
        shown = ", ".join(f"{name} ({kind})" for name, kind in nonlinear[:3])
        more = f" and {count - 3} more" if count > 3 else ""
        verb = "nonlinear layer follows" if count == 1 else "nonlinear layers follow"
        return f"{count} {verb} it: {shown}{more}"
    names = [kind for _, kind in reading.behind]
    return (
        f"behind it run {', '.join(names[:4]) or 'no modules'}, and functions not seen as modules"
    )


def _measured(name: str, gap: float, reading: DoublePass, *, because: str = "") -> Finding:
    holds = gap <= EXACT
    words = f"largest difference {gap:.1g} of the map"
    if not holds:
        words = f"difference {gap:.1%} of the map, because {because or behind(reading)}"
    return Finding(name, HOLDS if holds else FAILS, words, {"gap": gap})


def _no_head(name: str, reading: DoublePass) -> Finding:
    return Finding(
        name,
        NOT_HERE,
        f"the logits are not one linear layer on the layer's average: {behind(reading)}",
    )


def constant_gradient(reading: DoublePass) -> Finding:
    """The gradient is the same at every position."""
    found = spread(reading)
    if found <= EXACT:
        words = f"it varies by {found:.1g}"
        return Finding("the gradient is the same everywhere", HOLDS, words, {"gap": found})
    return Finding(
        "the gradient is the same everywhere",
        FAILS,
        f"it varies by {found:.0%} of its greatest value, because {behind(reading)}",
        {"gap": found},
    )


def _cam(reading: DoublePass) -> Tensor:
    assert reading.head is not None
    weights = reading.head.weight.detach()[reading.target].to(reading.activation.dtype)
    return torch.einsum("bc,bchw->bhw", weights, reading.activation)


def _gradcam(reading: DoublePass) -> Tensor:
    weights = reading.gradient.mean((2, 3), keepdim=True)
    return (weights * reading.activation).sum(1)


def cam_is_gradcam(reading: DoublePass) -> Finding:
    """CAM = h w Grad-CAM, before and after ReLU and upsampling."""
    name = "CAM = h w x Grad-CAM"
    if reading.head is None:
        return _no_head(name, reading)
    cam, other = _cam(reading), _gradcam(reading)
    other = other * other.shape[1] * other.shape[2]

    def larger(maps: Tensor) -> Tensor:
        return F.interpolate(maps[:, None], scale_factor=4, mode="bilinear")[:, 0]

    gaps = [
        relative_gap(cam, other),
        relative_gap(cam.relu(), other.relu()),
        relative_gap(larger(cam), larger(other)),
        relative_gap(larger(cam.relu()), larger(other.relu())),
    ]
    return _measured(name, max(gaps), reading)


def cam_is_complete(reading: DoublePass) -> Finding:
    """mean(CAM) + bias = logit."""
    name = "mean(CAM) + bias = logit"
    if reading.head is None:
        return _no_head(name, reading)
    total = _cam(reading).mean((1, 2))
    if reading.head.bias is not None:
        total = total + reading.head.bias.detach()[reading.target].to(total.dtype)
    gap = relative_gap(total, reading.score)
    verdict = HOLDS if gap <= EXACT else FAILS
    return Finding(name, verdict, f"difference {gap:.1g} of the logit", {"gap": gap})


def hirescam_is_complete(reading: DoublePass) -> Finding:
    """sum(HiResCAM) + bias = logit, the bias being the logit when the layer is silent."""
    name = "HiResCAM completeness: sum + bias = logit"
    gap = completeness_gap(reading)
    if gap <= EXACT:
        return Finding(name, HOLDS, f"gap {gap:.1g} of the logit", {"gap": gap})
    return Finding(
        name, FAILS, f"gap {gap:.1%} of the logit, because {behind(reading)}", {"gap": gap}
    )


def methods_coincide(reading: DoublePass) -> Finding:
    """Where the gradient is constant, HiResCAM = Grad-CAM = XGrad-CAM."""
    name = "HiResCAM = Grad-CAM = XGrad-CAM"
    if spread(reading) > EXACT:
        return Finding(name, NOT_HERE, "the gradient differs from position to position")
    a, g = reading.activation, reading.gradient
    hires = (g * a).sum(1)
    total = a.sum((2, 3), keepdim=True)
    used = total.abs() > 1e-12 * a.abs().sum((2, 3), keepdim=True)
    weights = torch.where(
        used, (g * a).sum((2, 3), keepdim=True) / torch.where(used, total, 1.0), 0
    )
    # a channel whose activation sums to zero has no XGrad-CAM weight: it is left out on both sides
    xgrad = (weights * a).sum(1)
    gap = max(
        relative_gap(hires, _gradcam(reading)),
        relative_gap(torch.where(used, g * a, 0).sum(1), xgrad),
    )
    return _measured(name, gap, reading)


def layercam_is_above(reading: DoublePass) -> Finding:
    """LayerCAM >= Grad-CAM where activations are positive and the gradient constant."""
    name = "LayerCAM >= Grad-CAM"
    a, g = reading.activation, reading.gradient
    if spread(reading) > EXACT:
        return Finding(name, NOT_HERE, "the gradient differs from position to position")
    if float(a.min()) < 0:
        share = float((a < 0).double().mean())
        return Finding(name, NOT_HERE, f"{share:.0%} of the layer's activations are negative")
    layer = (g.relu() * a).sum(1)
    grad = _gradcam(reading)
    below = float((grad - layer).max()) / max(float(grad.abs().max()), 1e-300)
    equal = relative_gap(layer, grad) <= EXACT
    word = "equal: no active channel has a negative weight" if equal else "at every position"
    if below > EXACT:
        return Finding(name, FAILS, f"below by {below:.1%}", {"below": below})
    return Finding(name, HOLDS, word, {"below": max(below, 0.0)})
