"""One batch through the model: classification, map, guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..erasing import SCHEMES, ACoL
from ..errors import GuidanceError
from ..models.outputs import class_logits, logits_of
from .batches import Batch, batches
from .changed import joined
from .class_maps import ClassMap, class_map
from .config import GuideConfig
from .losses import LOSSES, LossParts


@dataclass(frozen=True)
class Step:
    """What a batch gave.

    Attributes:
        total: () with graph.
        log: numbers by name.
        images: of the batch.
        checked: the liveness check ran.
    """

    total: Tensor
    log: dict[str, float] = field(default_factory=dict)
    images: int = 0
    checked: bool = False


def make_loss(
    model: nn.Module, config: GuideConfig, data: Any, device: torch.device
) -> tuple[Callable[..., LossParts] | None, dict[str, nn.Module]]:
    """Return the config's loss, and modules of its own that train beside the model."""
    if config.loss == "none":
        return None, {}
    entry = LOSSES.get(config.loss)
    if "adversary" not in entry.meta["needs"]:
        return entry.fn, {}
    from .losses.box import ContextClassifier

    # the layer's channels show on a first example
    first = next(batches(data, 1)).to(device)
    mode = {m: m.training for m in model.modules()}
    model.eval()
    seen = class_map(model, first.images, layer=config.layer)
    for module, training in mode.items():
        module.training = training
    adversary = ContextClassifier(seen.activation.shape[1], seen.logits.shape[1]).to(device)
    return partial(entry.fn, adversary=adversary), {"adversary": adversary}


def see(model: nn.Module, batch: Batch, config: GuideConfig, needs: tuple[str, ...]) -> ClassMap:
    """Return the batch's logits and maps for its labels: of the margin, but where a loss mines."""
    return class_map(
        model, batch.images, batch.labels, layer=config.layer, method=config.method,
        against=None if "one_class" in needs else config.against,
        input_gradient="input_gradient" in needs,
    )  # fmt: skip


def check_labels(logits: Tensor, labels: Tensor) -> None:
    """A label beyond the logits would be a number read from other memory, or a CUDA assertion."""
    if logits.ndim != 2:
        raise GuidanceError(
            f"fit trains classifiers with logits (B, classes), got {tuple(logits.shape)}; write "
            "the loop yourself with guidance.class_map"
        )
    most = int(labels.max())
    if most >= logits.shape[1]:
        raise GuidanceError(
            f"label {most} is out of range: this model has {logits.shape[1]} classes, 0 to "
            f"{logits.shape[1] - 1}"
        )


def forward_pass(
    model: nn.Module,
    batch: Batch,
    extra: Batch | None,
    config: GuideConfig,
    loss: Callable[..., LossParts] | None,
    strength: float,
    options: Mapping[str, Any],
    *,
    check: Callable[..., None] | None = None,
) -> Step:
    """Return cross-entropy + strength * guidance of a batch, with graph.

    While the strength is zero the guidance loss itself is not computed, only the map's mass.

    Args:
        model: what runs.
        batch: images of the data.
        extra: exchanged ones, whose cross-entropy has a weight of its own.
        config, loss, strength, options: as they are at this step.
        check: called once with the guidance's parts, the model and its maps.
    """
    needs = () if loss is None else LOSSES.get(config.loss).meta["needs"]
    log: dict[str, float] = {}
    checked, seen, own = False, None, len(batch.labels)
    both = batch if extra is None else joined(batch, extra)
    amp = partial(
        torch.autocast, batch.images.device.type, dtype=_half(batch.images), enabled=config.amp
    )
    total = torch.zeros((), device=batch.images.device)
    with amp():
        if config.erasing is not None:
            total = erased_classification(model, batch, config)
            log["classification"] = float(total.detach())
        if loss is not None:
            seen = see(model, both, config, needs if strength > 0 else ())
            logits: Tensor | None = seen.logits
        elif config.erasing is None or extra is not None:
            logits = logits_of(model(both.images))
        else:
            logits = None
    if logits is not None:
        logits = class_logits(logits)
        check_labels(logits, both.labels)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if config.erasing is None:
            smooth = config.label_smoothing or 0.0
            total = F.cross_entropy(logits[:own], batch.labels, label_smoothing=smooth)
            log["classification"] = float(total.detach())
        if extra is not None:
            exchanged = F.cross_entropy(
                logits[own:], extra.labels, label_smoothing=config.label_smoothing or 0.0
            )
            total = total + config.exchange_weight * exchanged
            log["exchanged"] = float(exchanged.detach())
    if loss is not None and seen is not None:
        if strength > 0:
            with amp():
                parts = loss(seen, both.annotation, **options)
            if check is not None and parts.count:
                check(parts, model, seen)
                checked = True
            total = total + strength * parts.total
            log |= {f"guidance/{k}": float(v.detach()) for k, v in parts.parts.items()}
        log["mass"] = float(seen.maps.detach().relu().mean())
    log["loss"] = float(total.detach())
    return Step(total, log, own, checked)


def erased_classification(model: nn.Module, batch: Batch, config: GuideConfig) -> Tensor:
    """Return the loss of an erasing scheme, which stands in for cross-entropy."""
    if isinstance(model, ACoL):
        return model.loss(batch.images, batch.labels)
    options = {"layer": _first(config.layer), **config.erasing_options}
    return SCHEMES.get(config.erasing or "").fn(model, batch.images, batch.labels, **options)


def _first(layer: Any) -> Any:
    return layer[0] if isinstance(layer, list | tuple) else layer


def _half(images: Tensor) -> torch.dtype:
    return torch.float16 if images.device.type == "cuda" else torch.bfloat16
