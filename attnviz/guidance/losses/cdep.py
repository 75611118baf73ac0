"""CDEP: what the pixels outside the object contribute is penalised, interactions included."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import GuidanceError
from ...geometry import size_of
from ...hooks import unwrap
from ._base import LossInput, mean_over, register_loss


@register_loss("cdep", paper="arXiv:1909.13584", needs=("forward",), mapped=False)
def cdep(scene: LossInput, *, form: str = "l1") -> dict[str, Tensor]:
    """CDEP: what the outside contributes, by contextual decomposition (Rieger et al. 2020).

    For convolutional networks of known operations, see `attnviz.guidance.contextual.decompose`,
    which costs two forwards; BatchNorm acts by its running statistics.

    Args:
        scene: made by `class_map`.
        form: "l1" is the mean over classes of |contribution of the outside| (the paper's, with
            expl = 0); "softmax" is softmax([outside, inside])_outside of the image's class, as in
            the authors' code.

    Returns:
        {"contribution": at least 0}.
    """
    from ..contextual import decompose  # here, since torch.fx is slow to import

    seen = scene.need("the model and its input")
    rows = scene.rows
    if not bool(rows.any()):
        return {"contribution": scene.maps.sum() * 0}
    images = seen.images.detach()
    given = scene.annotation.at(size_of(images), images)
    outside = given.known * (1 - given.target)
    parts = decompose(unwrap(seen.model), images[rows], outside[rows])
    if form == "l1":
        values = parts.relevant.abs().mean(1)
    elif form == "softmax":
        own = seen.classes[rows][:, None]
        both = torch.cat([parts.relevant.gather(1, own), parts.rest.gather(1, own)], 1)
        values = both.softmax(1)[:, 0]
    else:
        raise GuidanceError(f"form {form!r} is not one of 'l1', 'softmax'")
    per_image = scene.maps.new_zeros(len(rows)).masked_scatter(rows, values.to(scene.maps.dtype))
    return {"contribution": mean_over(per_image, scene.grid)}
