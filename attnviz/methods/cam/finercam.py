"""Finer-CAM."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...errors import MethodError
from .. import METHODS, Request
from ._register import register_cam
from ._run import OwnMaps, apply_cam, read_own


@register_cam("finercam", paper="arXiv:2501.11309", units="score", own_pass=True,
              aliases=("finer-cam",))  # fmt: skip
def finercam(
    request: Request, *, relu: bool = True, similar: int = 3, gamma: float = 0.6,
    base: str = "gradcam",
) -> OwnMaps:  # fmt: skip
    """Finer-CAM: what speaks for a class and not for those most like it (Zhang et al. 2025).

    A CAM of y_c - gamma mean_d y_d, d being the `similar` classes whose logits are nearest to
    y_c in this image. gamma = 0 is the CAM itself; for one class named by you, use
    `attnviz.Contrast`. The result's score is this difference.

    Args:
        request: what to explain; the targets are classes.
        relu: drop the negative part.
        similar: how many classes are compared with, at most all others.
        gamma: strength of the comparison; the paper's is 0.6.
        base: which CAM.
    """
    entry = METHODS.get(base)
    if entry.family != "cam" or entry.meta["own_pass"] or not entry.meta["needs_gradient"]:
        raise MethodError(f"base={base!r} is a CAM by gradients, such as gradcam or layercam")
    if similar < 1 or gamma < 0:
        raise MethodError(f"similar={similar} is at least 1, gamma={gamma} not negative")
    done = read_own(request, any_rank=True)
    logits = done.logits
    indices = [[t.index for t in column.targets] for column in done.columns]
    if logits is None or logits.ndim != 2 or any(i is None for row in indices for i in row):
        raise MethodError("finercam compares classes: logits (B, K) and targets that are classes")
    count = min(similar, logits.shape[1] - 1)
    if count < 1:
        raise MethodError("finercam needs a second class to compare with")
    scores = []
    for row, own in zip(indices, done.scores, strict=True):
        with torch.no_grad():
            far = (logits - own[:, None]).abs()
            far[torch.arange(len(far)), row] = torch.inf
            nearest = far.topk(count, 1, largest=False).indices
        scores.append(own - gamma * logits.gather(1, nearest).mean(1))
    done = replace(done, scores=tuple(scores))
    maps: dict[str, list[Tensor]] = {name: [] for name in done.activations}
    for number in range(len(done.columns)):
        for name, gradient in done.gradients(number, read_off=False).items():
            with torch.set_grad_enabled(request.create_graph):
                made = apply_cam(entry, done.activations[name], gradient, signed=not relu)
            maps[name].append(made)
    return done, maps, {"compared_with": count, "gamma": gamma, "base": base}
