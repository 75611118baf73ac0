"""Finer-CAM."""

from __future__ import annotations

from dataclasses import replace

from ...errors import MethodError
from ...models.outputs import class_count
from ...targets import Column, FinerTarget
from .. import METHODS, Request
from ._register import register_cam
from ._run import OwnMaps, read_own, signed_maps


@register_cam("finercam", paper="arXiv:2501.11309", units="score", own_pass=True,
              aliases=("finer-cam",))  # fmt: skip
def finercam(
    request: Request, *, similar: int = 3, gamma: float = 0.6,
    base: str = "gradcam",
) -> OwnMaps:  # fmt: skip
    """Finer-CAM: what speaks for a class and not for those most like it (Zhang et al. 2025).

    A CAM of y_c - gamma mean_d y_d, d being the `similar` classes whose logits are nearest to
    y_c in this image. gamma = 0 is the CAM itself; for one class named by you, use
    `attnviz.Contrast`. The result's score is this difference.

    Args:
        request: what to explain; the targets are classes.
        similar: how many classes are compared with, at most all others.
        gamma: strength of the comparison; the paper's is 0.6.
        base: which CAM.
    """
    entry = METHODS.get(base)
    if entry.family != "cam" or entry.meta["own_pass"] or not entry.meta["needs_gradient"]:
        raise MethodError(f"base={base!r} is a CAM by gradients, such as gradcam or layercam")
    done = read_own(request, any_rank=True)
    indices = [[t.index for t in column.targets if t.index is not None] for column in done.columns]
    if done.logits is None or any(len(i) < len(done.columns[0].targets) for i in indices):
        raise MethodError("finercam compares classes: logits (B, K) and targets that are classes")
    classes = class_count(done.logits)
    scores = []
    for classed in indices:
        finer = [FinerTarget(i, similar, gamma).bind(classes, None) for i in classed]
        scores.append(Column(tuple(finer)).score(done.output))
    done = replace(done, scores=tuple(scores))
    facts = {"compared_with": min(similar, classes - 1), "gamma": gamma, "base": base}
    return done, signed_maps(done, entry), facts
