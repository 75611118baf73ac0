"""RefineCAM, and LayerCAM fused over layers: maps of several layers made one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ...errors import MethodError
from .. import METHODS, Request
from ._register import register_cam
from ._run import OwnMaps, apply_cam, read_own
from ._stages import at_finest, stages, to_one


def fused(request: Request, base: str, fuse: Callable[[dict[str, Tensor]], Tensor]) -> OwnMaps:
    """Return one CAM of several layers, made one by `fuse` at the finest layer's size."""
    entry = METHODS.get(base)
    if entry.family != "cam" or entry.meta["own_pass"]:
        raise MethodError(f"base={base!r} is a CAM of one layer, such as gradcam++ or layercam")
    names = stages(request)
    done = read_own(replace(request, layers=names))
    maps = []
    for number in range(len(done.columns)):
        gradients = done.gradients(number)
        with torch.set_grad_enabled(request.create_graph):
            each = {
                name: apply_cam(entry, activation, gradients[name], signed=False)
                for name, activation in done.activations.items()
            }
            maps.append(fuse(each))
    return done, {" x ".join(names): maps}, {"layers": names, "base": base}


@register_cam("refinecam", paper="arXiv:2605.14641", units="product of shares of the maxima",
              own_pass=True, signed=None)  # fmt: skip
def refinecam(request: Request, *, base: str = "gradcam++") -> OwnMaps:
    """RefineCAM: the product of CAMs over layers, each in [0, 1] (Domeniconi et al. 2026).

    Coarse layers say where, fine ones where exactly: ReLU, division by the maximum, bilinear
    upsampling to the finest layer, product. `layer=[...]` names the layers; by default the last
    of every resolution. (pytorch-grad-cam's clipping and division act on a copy and do nothing.)

    Args:
        request: what to explain.
        base: which CAM.
    """

    def product(maps: dict[str, Tensor]) -> Tensor:
        ready = at_finest({name: to_one(m.relu()) for name, m in maps.items()})
        return torch.stack(list(ready.values())).prod(0)

    return fused(request, base, product)


@register_cam("layercam_fused", paper="doi:10.1109/TIP.2021.3089943", units="share of the maximum",
              own_pass=True, signed=None)  # fmt: skip
def layercam_fused(request: Request, *, gamma: float = 2.0) -> OwnMaps:
    """LayerCAM fused over layers: the larger of coarse and sharpened fine maps (Jiang et al. 2021).

    Each map is divided by its maximum; those of all but the coarsest layer are scaled by
    tanh(gamma M), as the paper does to the shallow ones; then the maximum over layers.
    `layer=[...]` names the layers; by default the last of every resolution.

    Args:
        request: what to explain.
        gamma: of the scaling.
    """

    def largest(maps: dict[str, Tensor]) -> Tensor:
        sizes = {name: m.shape[-2] * m.shape[-1] for name, m in maps.items()}
        coarsest = min(sizes.values())
        scaled = {
            name: to_one(m) if sizes[name] == coarsest else torch.tanh(gamma * to_one(m))
            for name, m in maps.items()
        }
        return torch.stack(list(at_finest(scaled).values())).amax(0)

    return fused(request, "layercam", largest)
