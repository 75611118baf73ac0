"""Seg-Grad-CAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ...errors import MethodError, TargetError
from ...models.outputs import logits_of
from ...targets import RegionTarget, Target
from .. import METHODS, Request
from ._register import register_cam
from ._run import OwnMaps, read_own, signed_maps


@dataclass(frozen=True, eq=False)
class PredictedRegion(Target):
    """The sum of a class's logits over the pixels where it is the largest."""

    cls: int | str
    index: int | None = None
    label: str = ""

    def bind(self, classes: int, labels: Sequence[str] | None) -> PredictedRegion:
        """Return the target with its class index and label."""
        bound = RegionTarget(self.cls).bind(classes, labels)
        return PredictedRegion(self.cls, bound.index, bound.label)

    def score(self, output: Any) -> Tensor:
        """Return the sums, (B,)."""
        logits = logits_of(output)
        if logits.ndim != 4:
            raise TargetError(
                f"seggradcam explains an output of shape (B, classes, H, W), got "
                f"{tuple(logits.shape)}; for a classifier use gradcam"
            )
        inside = logits.argmax(1) == self.index
        if not bool(inside.flatten(1).any(1).all()):
            raise TargetError(
                f"class {self.index} is predicted nowhere in an image; name a region with "
                "attnviz.RegionTarget(class, mask)"
            )
        return (logits[:, self.index] * inside).sum((1, 2))


def _region(target: Any) -> Any:
    if isinstance(target, list | tuple):
        return [_region(t) for t in target]
    if target is None:
        raise MethodError(
            "seggradcam needs a target: a class, or attnviz.RegionTarget(class, mask)"
        )
    return target if isinstance(target, Target) or callable(target) else PredictedRegion(target)


@register_cam("seggradcam", paper="arXiv:2002.11434", units="score", own_pass=True,
              aliases=("seg-grad-cam",))  # fmt: skip
def seggradcam(request: Request) -> OwnMaps:
    """Seg-Grad-CAM: Grad-CAM of a class's logits summed over a region (Vinogradova et al. 2020).

    For segmentation networks. A class as target is explained where the network finds it; a
    `RegionTarget` anywhere (the mean there, which is the same map up to a factor).

    Args:
        request: what to explain.
    """
    if request.classes is not None:
        request = replace(request, classes=[_region(c) for c in request.classes])
    else:
        request = replace(request, target=_region(request.target))
    done = read_own(request)
    return done, signed_maps(done, METHODS.get("gradcam")), {}
