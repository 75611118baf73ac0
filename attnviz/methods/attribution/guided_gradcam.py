"""Guided Grad-CAM."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from ...geometry import size_of
from .. import METHODS, runner
from ._register import register_attribution
from ._run import Job, summed
from .guided_backprop import guided_gradients


@register_attribution("guided_gradcam", paper="arXiv:1610.02391", units="score^2 / input",
                      any_rank=False, aliases=("guided_grad_cam",))  # fmt: skip
def guided_gradcam(job: Job) -> Tensor:
    """Guided Grad-CAM: guided backpropagation times the upsampled Grad-CAM (Selvaraju et al. 2017).

    The layer of Grad-CAM is `layer=`, or the model's default; bilinear upsampling.

    Args:
        job: the images.

    Returns:
        (K, g, H, W), signed.
    """
    images = job.group.images
    part = slice(images.start, images.stop)
    columns = job.group.passes.columns
    found = []
    for column, gradient in zip(columns, guided_gradients(job), strict=True):
        request = replace(
            job.request, inputs=job.inputs, batch=len(images), classes=None, options={},
            target=list(column.targets[part]), signed=None,
        )  # fmt: skip
        (maps,) = runner("cam")(request, [METHODS.get("gradcam")])
        size = size_of(gradient)
        cam = F.interpolate(maps.values[:, None], size, mode="bilinear", align_corners=False)
        found.append(gradient * cam.to(gradient))
    return summed(found)
