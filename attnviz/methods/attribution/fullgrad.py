"""FullGrad."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...geometry import size_of
from ...hooks.threads import own_thread
from ._register import register_attribution
from ._run import Job

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def bias_of(module: nn.Module) -> Tensor | None:
    """Return what a module adds to a linear map of its input, per channel, or None."""
    if isinstance(module, _NORMS) and module.running_mean is not None:
        assert module.running_var is not None  # a norm keeps both or neither
        scale = (module.running_var + module.eps).rsqrt()
        if module.weight is not None:
            scale = scale * module.weight
        shift = -module.running_mean * scale
        return (shift if module.bias is None else shift + module.bias).detach()
    if isinstance(module, (nn.Linear, *_CONVOLUTIONS)) and module.bias is not None:
        return module.bias.detach()
    return None


def full_gradient(job: Job, k: int) -> tuple[Tensor, list[Tensor], Tensor]:
    """Return x dS/dx (g, C, H, W), each layer's b dS/db (g, c, h, w), and the sum of the rest (g,).

    The rest are biases of layers without positions. All sum to the score where the network is
    piecewise linear.
    """
    probes: list[tuple[Tensor, Tensor]] = []

    @own_thread
    def shift(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        bias = biases[module]
        probe = torch.zeros_like(output, requires_grad=True)
        channels = (1, -1, *[1] * (output.ndim - 2))
        if isinstance(module, nn.Linear):
            channels = (*[1] * (output.ndim - 1), -1)
        probes.append((probe, bias.view(channels)))
        return output + probe

    found = {m: bias_of(m) for m in job.model.modules()}
    biases = {m: b for m, b in found.items() if b is not None}
    handles = [m.register_forward_hook(shift) for m in biases]
    inputs = job.inputs.detach().requires_grad_()
    try:
        with torch.enable_grad():
            score = job.score(k)(inputs).sum()
    finally:
        for handle in handles:
            handle.remove()
    gradients = torch.autograd.grad(
        score, [inputs, *(p for p, _ in probes)], allow_unused=True, materialize_grads=True
    )
    parts = [g * b for g, (_, b) in zip(gradients[1:], probes, strict=True)]
    rest = sum(
        (p.flatten(1).sum(1) for p in parts if p.ndim != 4), torch.zeros_like(inputs[:, 0, 0, 0])
    )
    return (inputs * gradients[0]).detach(), [p for p in parts if p.ndim == 4], rest.detach()


@register_attribution("fullgrad", paper="arXiv:1905.00780", units="rescaled layers, summed",
                      any_rank=False)  # fmt: skip
def fullgrad(job: Job, *, rescale: bool = True) -> Tensor:
    """FullGrad: the input's gradient and those of all biases (Srinivas & Fleuret 2019).

    S = x . dS/dx + sum over layers of b . dS/db in piecewise linear networks; a batch norm's bias
    is what it adds to a multiple of its input. The map sums psi of each term over channels, psi
    taking absolute values, stretching them to [0, 1] over the whole layer, and upsampling
    bilinearly. The gap of the identity is meta["convergence_delta"], warned of above 5 %.

    Args:
        job: the images.
        rescale: False sums the terms themselves, signed and in units of the score; the map then
            sums to the score, less the biases of layers without positions.

    Returns:
        (K, g, H, W).
    """
    size = size_of(job.inputs)
    maps, reached = [], []
    for k in job.classes:
        first, parts, rest = full_gradient(job, k)
        reached.append(rest + sum(p.flatten(1).sum(1) for p in (first, *parts)))
        total = torch.zeros_like(first[:, 0])
        for part in (first, *parts):
            if rescale:
                part = part.abs()
                low = part.amin((1, 2, 3), keepdim=True)
                span = part.amax((1, 2, 3), keepdim=True) - low
                part = (part - low) / torch.where(span > 0, span, 1.0)
                shown = F.interpolate(part.sum(1, True), size, mode="bilinear")
            else:
                shown = part.sum(1, True)
                # spread over the pixels of each position, so that sums stay
                before = shown.flatten(1).sum(1)
                shown = F.interpolate(shown, size, mode="bilinear")
                shown = shown * (part.shape[-2] * part.shape[-1] / (size[0] * size[1]))
                off = before - shown.flatten(1).sum(1)
                shown = shown + off[:, None, None, None] / (size[0] * size[1])
            total = total + shown[:, 0]
        maps.append(total)
    job.miss(torch.stack(reached), job.group.scores)
    found = torch.stack(maps)
    return found
