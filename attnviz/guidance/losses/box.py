"""Box supervision: what lies outside the box must not tell the class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import GuidanceError
from ..normalising import positive_part
from ._base import LossInput, mean_over, register_loss
from ._mining import erased_logits, remaining


@register_loss("box", paper="doi:10.1109/TMI.2020.3006138", needs=("forward",))
def box(
    scene: LossInput,
    *,
    context: float = 1.0,
    energy: float = 1.0,
    controls: float = 1.0,
    form: str = "abs",
    score: str = "uniform",
    fill: str = "blur",
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Boxes by classification of what is outside (after Huang et al. 2020, rib fractures).

    The box is erased and the network is asked again; from the context it should not be able to
    tell (`score="uniform"`; with two classes "not this one" would mean "the other one"). The map
    is not fitted to the box's pixels (inside it may be of any shape), so the size and form of
    boxes hardly matter; `energy` adds the share of the evidence that lies outside. Images of the
    batch that are not annotated, and whose class no annotated image has, are erased with boxes of
    others and must keep their class: so the erasing itself is no label.

    Masks and boxes are used alike. One more forward, of the annotated and control images.

    Args:
        scene: made by `class_map`, with the labels as targets.
        context: weight of what the outside tells.
        energy: weight of the evidence outside, see `energy`.
        controls: weight of the controls' cross-entropy.
        form: of the evidence, see `positive_part`.
        score: see `attnviz.guidance.losses._mining.remaining`.
        fill: see `attnviz.erasing.FILLS`.
        generator: for fill="noise".

    Returns:
        {"context": , "controls": , "outside": }.
    """
    seen = scene.need("a second forward")
    rows = scene.rows
    zero = scene.maps.sum() * 0
    parts = {"context": zero, "controls": zero}
    evidence = positive_part(scene.maps, form) * scene.grid.known
    inside = (evidence * scene.grid.target).sum((-2, -1))
    share = 1 - inside / evidence.sum((-2, -1)).clamp_min(1e-12)
    parts["outside"] = energy * mean_over(share, scene.grid)
    if not bool(rows.any()):
        return parts
    classes = seen.classes
    control = ~rows & ~torch.isin(classes, classes[rows]) if controls else torch.zeros_like(rows)
    # the strict mask: a soft border would leave a rim of the object in the context
    erased = (scene.annotation.target.to(seen.images.device) > 0).to(seen.images.dtype)
    kept = rows.nonzero()[:, 0]
    others = control.nonzero()[:, 0]
    borrowed = kept[torch.arange(len(others), device=kept.device) % len(kept)]
    order = torch.cat([kept, others])
    masks = torch.cat([erased[kept], erased[borrowed]])
    logits = erased_logits(seen, masks, order, fill=fill, generator=generator)
    weights = scene.grid.weights
    left = remaining(logits[: len(kept)], classes[kept], score)
    parts["context"] = context * (left * weights[kept]).mean()
    if len(others):
        keeps = F.cross_entropy(logits[len(kept) :], classes[others], reduction="none")
        parts["controls"] = controls * (keeps * weights[others]).mean()
    return parts


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None


class ContextClassifier(torch.nn.Module):
    """The adversary: names the class from the features outside the box.

    It learns to; what it reads learns, through a reversed gradient, to give it nothing (Ganin &
    Lempitsky 2015). Put its parameters into the optimiser beside the model's (`fit` does).

    Args:
        channels: C of the layer.
        classes: number of classes.
        strength: factor of the reversed gradient.
    """

    def __init__(self, channels: int, classes: int, *, strength: float = 1.0) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(channels, classes)
        self.strength = strength

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, classes) of mean features (B, C)."""
        return self.linear(_Reverse.apply(features, self.strength).to(self.linear.weight.dtype))


@register_loss(
    "box_adversary",
    paper="doi:10.1109/TMI.2020.3006138",
    needs=("adversary",),
    mapped=False,
    aliases=("box-adversary",),
)
def box_adversary(
    scene: LossInput, *, adversary: ContextClassifier | None = None, weight: float = 1.0
) -> dict[str, Tensor]:
    """Boxes by an adversary in the network: features outside the box cannot tell the class.

    The layer's activation is averaged outside the box (images without annotation: everywhere but
    a borrowed box) and classified by `ContextClassifier`, whose gradient is reversed on its way
    into the network. No second forward. Masks and boxes are used alike.

    Args:
        scene: made by `class_map`, with the labels as targets.
        adversary: the `ContextClassifier` for the layer's channels.
        weight: factor of its cross-entropy.

    Returns:
        {"adversary": in nats; ln(classes) when the context tells nothing}.
    """
    seen = scene.need("the layer's activation")
    if adversary is None:
        raise GuidanceError(
            "box_adversary needs its classifier: pass adversary=ContextClassifier(channels, "
            f"classes), here ContextClassifier({seen.activation.shape[1]}, {seen.logits.shape[1]})"
        )
    rows = scene.rows
    if not bool(rows.any()):
        return {"adversary": seen.activation.sum() * 0}
    kept = rows.nonzero()[:, 0]
    source = torch.arange(len(rows), device=kept.device)
    source = torch.where(rows, source, kept[source % len(kept)])
    outside = (1 - scene.grid.target[source]) * scene.grid.known[source]
    features = seen.activation
    features = features if features.dtype == torch.float64 else features.float()
    area = outside.sum((-2, -1)).clamp_min(1e-12)
    pooled = (features * outside[:, None]).sum((-2, -1)) / area[:, None]
    values = F.cross_entropy(adversary(pooled), seen.classes, reduction="none")
    return {"adversary": weight * (values * scene.grid.weights).mean()}
