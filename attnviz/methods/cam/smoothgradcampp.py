"""Smooth Grad-CAM++."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...errors import MethodError
from .. import Request
from ._register import register_cam
from ._run import OwnMaps, read_own
from .gradcampp import gradcampp_from_derivatives


@register_cam("smoothgradcam++", paper="arXiv:1908.01224", units="score", own_pass=True,
              aliases=("smoothgradcampp",))  # fmt: skip
def smoothgradcampp(
    request: Request, *, samples: int = 8, noise: float = 0.15, seed: int = 0
) -> OwnMaps:
    """Smooth Grad-CAM++: Grad-CAM++ of derivatives averaged over noise (Omeiza et al. 2019).

    The gradient, its square and its cube (the derivatives of exp(S) where S is piecewise linear,
    as in gradcam++) are averaged over x + N(0, s^2), s being `noise` times each picture's range;
    the activation is the picture's own. The target is the picture's, too: noise does not change
    what is explained. With noise=0 it is Grad-CAM++.

    Args:
        request: what to explain.
        samples: noisy pictures, each a pass.
        noise: as a share of the picture's range.
        seed: of the noise, the same for every image.
    """
    if samples < 1 or noise < 0:
        raise MethodError(f"samples={samples} is at least 1, noise={noise} not negative")
    if request.create_graph or not isinstance(request.inputs, Tensor):
        raise MethodError("smoothgradcam++ takes a tensor and keeps no graph; use gradcam++")
    done = read_own(request, gradients=False)
    x = request.inputs
    axes = tuple(range(1, x.ndim))
    spread = noise * (x.amax(axes, keepdim=True) - x.amin(axes, keepdim=True))
    powers: dict[tuple[str, int], list[Tensor]] = {}
    for number in range(samples):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        noisy = x + spread * torch.randn(x.shape[1:], generator=generator).to(x)
        for k, column in enumerate(done.columns):
            one = replace(request, inputs=noisy, target=list(column.targets), classes=None)
            for name, gradient in read_own(one).gradients(read_off=False).items():
                gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
                terms = [gradient, gradient.square(), gradient.pow(3)]
                held = powers.setdefault((name, k), [torch.zeros_like(t) for t in terms])
                for total, term in zip(held, terms, strict=True):
                    total += term / samples
    maps = {
        name: [
            gradcampp_from_derivatives(activation, *powers[name, k])
            for k in range(len(done.columns))
        ]
        for name, activation in done.activations.items()
    }
    return done, maps, {"samples": samples, "noise": noise}
