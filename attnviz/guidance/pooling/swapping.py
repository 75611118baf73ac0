"""`with_pooling`: give a trained GAP + linear classifier another pooling, weights kept."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import GuidanceError, MethodError
from ...hooks import find_layers, preserved, unwrap
from ...methods.heads import HeadProbe
from ...targets import logits_of
from .heads import POOLINGS, AttentionMIL, Pooling


class PooledModel(nn.Module):
    """A network whose linear head is applied at every position, and the scores pooled.

    Attributes:
        trunk: the network as far as the layer that is pooled.
        head: the linear head as a 1 x 1 convolution, (K, C, 1, 1).
        pooling: scores -> logits.
        layer: dotted name of the pooled layer in the trunk.
        kind: name of the pooling.
    """

    def __init__(
        self, trunk: nn.Module, layer: str, head: nn.Conv2d, pooling: Pooling, kind: str
    ) -> None:
        super().__init__()
        self.trunk, self.layer, self.head = trunk, layer, head
        self.pooling, self.kind = pooling, kind

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled layer's activation, (B, C, h, w)."""
        found: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            found.append(output)

        handle = self.trunk.get_submodule(self.layer).register_forward_hook(keep)
        try:
            self.trunk(images)
        finally:
            handle.remove()
        return found[0]

    def patch_scores(self, images: Tensor) -> Tensor:
        """Return every class's score at every position, (B, K, h, w), bias included.

        With "gap" this is CAM plus the bias, exactly: its mean is the logit.
        """
        return self.head(self.features(images))

    def evidence(self, images: Tensor) -> Tensor:
        """Return what each position adds to the logits, (B, K, h, w).

        Where the pooling is a weighted sum (gap, gmp, attention-mil), the evidence adds up to
        the logits; else it is the patch scores themselves.
        """
        features = self.features(images)
        scores = self.head(features)
        weights = self.pooling.weights(scores, features)
        return scores if weights is None else scores * weights

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K)."""
        features = self.features(images)
        return self.pooling(self.head(features), features)


def with_pooling(
    model: nn.Module,
    kind: str,
    *,
    layer: str | nn.Module | None = None,
    example: Tensor | None = None,
    **options: Any,
) -> PooledModel:
    """Return a copy of a GAP + linear classifier with another pooling; the model is not changed.

    The linear layer's weights become the 1 x 1 convolution that scores every patch: pooling
    first or scoring first is the same for the mean, so with "gap" the logits stay what they were,
    and patch scores are CAM.

    Args:
        model: a classifier whose logits are one linear layer on a layer's average.
        kind: "gap", "gmp", "lse", "topk" ("wildcat"), "noisy-or" or "attention-mil".
        layer: the layer that is averaged; None is the model's default.
        example: an input to look at the model with, (B, C, H, W); None tries a 64 pixel one.
        **options: of the pooling (r; k, alpha; hidden).

    Raises:
        MethodError: the logits are not one linear layer on the layer's average.
        GuidanceError: an unknown pooling or option.
    """
    entry = POOLINGS.get(kind)
    model = unwrap(model)
    if layer is None:
        from ...models import default_layer

        layer = default_layer(model)
    ((name, module),) = find_layers(model, layer).items()
    parameter = next(model.parameters())
    if example is None:
        example = torch.zeros(2, 3, 64, 64).to(parameter)
        example += torch.linspace(-1, 1, 64).to(parameter)  # not constant: averages must differ
    found: list[Any] = []
    handle = module.register_forward_hook(lambda _m, _i, output: found.append(output))
    try:
        with preserved(model), torch.no_grad(), HeadProbe(model) as probe:
            logits = logits_of(model(example.to(parameter)))
    finally:
        handle.remove()
    right = found and isinstance(found[0], Tensor) and found[0].ndim == 4 and logits.ndim == 2
    head = probe.head(found[0], logits) if right else None
    if head is None:
        raise MethodError(
            f"with_pooling needs logits that are one linear layer on the average of layer "
            f"{name!r}, and in {type(model).__name__} they are not (as in VGG or ViT). Name the "
            "averaged layer with layer=..."
        )
    linear = next(n for n, m in model.named_modules() if getattr(m, "weight", None) is head.weight)
    trunk = copy.deepcopy(model)
    _replace(trunk, linear, nn.Identity())
    patches = nn.Conv2d(head.weight.shape[1], head.weight.shape[0], 1, bias=head.bias is not None)
    patches = patches.to(head.weight)
    with torch.no_grad():
        patches.weight.copy_(head.weight[:, :, None, None])
        if patches.bias is not None and head.bias is not None:
            patches.bias.copy_(head.bias)
    try:
        if entry.fn is AttentionMIL:
            options = {"channels": head.weight.shape[1], **options}
        pooling = entry.fn(**options).to(head.weight)
    except TypeError as error:
        raise GuidanceError(f"pooling {entry.name!r} cannot take these options: {error}") from error
    pooled = PooledModel(trunk, name, patches, pooling, entry.name)
    pooled.train(model.training)
    return pooled


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent) if parent else model, own, new)
