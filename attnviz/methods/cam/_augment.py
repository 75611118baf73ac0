"""Test-time augmentation: maps averaged over mirrored and dimmed copies, for the same target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ...errors import MethodError
from .. import RawMaps, Request
from ..forward import forward_pass

#: what the copies are multiplied by, pytorch-grad-cam's; the picture itself comes first
FACTORS = (1.0, 0.9, 1.1)


def augmented(request: Request, run: Callable[[Request], list[RawMaps]]) -> list[RawMaps]:
    """Return maps averaged over six copies of each picture: times 1, 0.9 and 1.1, and mirrored.

    The input is multiplied as the model takes it, maps of mirrored copies are mirrored back, and
    raw values are averaged. What is explained is fixed by the picture as it is, whose score,
    logits and probability the result has (pytorch-grad-cam lets every copy choose).

    Args:
        request: what to explain, with pictures (B, C, H, W).
        run: returns maps without augmentation.

    Raises:
        MethodError: inputs that are no pictures; a target with a place in the picture, which a
            mirrored copy has elsewhere.
    """
    x = request.inputs
    if not isinstance(x, Tensor) or x.ndim != 4:
        raise MethodError("augment=True mirrors pictures (B, C, H, W); this input is none")
    options = {name: value for name, value in request.options.items() if name != "augment"}
    plain = replace(request, options=options)
    if request.target is None and request.classes is None:
        with torch.no_grad():
            predicted = forward_pass(plain, gradients=False).columns[0].targets
        plain = replace(plain, target=list(predicted))
    first = run(plain)
    if first[0].logits is None:
        raise MethodError(
            "augment=True mirrors pictures, so it explains classes of the whole picture, and this "
            "target or output has a place in it; leave augment out"
        )
    copies = [first]
    for factor in FACTORS:
        for mirrored in (False, True) if factor != 1 else (True,):
            altered = x * factor
            found = run(replace(plain, inputs=altered.flip(-1) if mirrored else altered))
            copies.append([replace(m, values=m.values.flip(-1)) if mirrored else m for m in found])
    return [
        replace(
            same[0],
            values=torch.stack([m.values for m in same]).mean(0),
            meta={**same[0].meta, "copies": len(copies)},
        )
        for same in zip(*copies, strict=True)
    ]
