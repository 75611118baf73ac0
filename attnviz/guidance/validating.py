"""Figures of the validation split, which decides on the best epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import DataError, GuidanceError
from ..models.outputs import class_logits, logits_of
from ._pass import check_labels, see
from .batches import batches
from .config import GuideConfig
from .losses import LossParts
from .normalising import positive_part


def validate(
    model: nn.Module,
    data: Any,
    config: GuideConfig,
    loss: Callable[..., LossParts] | None,
    device: torch.device,
) -> dict[str, float]:
    """Return figures of a split, in evaluation mode; the model's modes are put back.

    "val_loss" (cross-entropy), "val_accuracy", "val_worst_class" (the lowest of the classes'
    accuracies), "val_energy" (share of the positive evidence on the object, annotated images) and
    "val_outside" (1 - that; absent without annotation).
    """
    mode = {m: m.training for m in model.modules()}
    model.eval()
    hits: dict[int, list[float]] = {}
    losses, energy = [], []
    try:
        for batch in batches(data, config.batch_size, degenerate=config.degenerate):
            batch = batch.to(device)
            annotated = bool(batch.annotation.present.any())
            if loss is not None and annotated:
                seen = see(model, batch, config, ())
                logits, maps = seen.logits.detach(), seen.maps.detach()
                given = batch.annotation.at(tuple(maps.shape[-2:]), maps)
                evidence = positive_part(maps, "relu") * given.known
                share = (evidence * given.target).sum((1, 2)) / evidence.sum((1, 2)).clamp_min(
                    1e-12
                )
                energy += share[given.present].tolist()
                del seen
            else:
                with torch.no_grad():
                    logits = logits_of(model(batch.images))
            logits = class_logits(logits).float()
            check_labels(logits, batch.labels)
            losses += F.cross_entropy(logits, batch.labels, reduction="none").tolist()
            for label, hit in zip(
                batch.labels.tolist(), (logits.argmax(1) == batch.labels).tolist(), strict=True
            ):
                hits.setdefault(label, []).append(float(hit))
    finally:
        for module, training in mode.items():
            module.training = training
    if not losses:
        raise DataError("the validation data has no example")
    if not math.isfinite(sum(losses)):
        first = next(i for i, value in enumerate(losses) if not math.isfinite(value))
        raise GuidanceError(
            f"the loss of validation example {first} is {losses[first]}: its image holds NaN or "
            "infinity, or the logits are too large; lower the learning rate"
        )
    flat = [h for label in hits.values() for h in label]
    found = {
        "val_loss": sum(losses) / len(losses),
        "val_accuracy": sum(flat) / len(flat),
        "val_worst_class": min(sum(h) / len(h) for h in hits.values()),
    }
    if energy:
        mean = sum(energy) / len(energy)
        found |= {"val_energy": mean, "val_outside": 1 - mean}
    return found


def improvement(record: Mapping[str, Any], config: GuideConfig) -> float:
    """Return the monitored figure as a number to be lowered (the training loss without a split).

    "loss" is what training minimises: cross-entropy plus the weighted share of the evidence that
    lies outside the object, where the split is annotated.
    """
    monitor = config.monitor
    if "val_loss" not in record:
        return record["loss"]
    if monitor in ("accuracy", "worst_class"):
        return -record[f"val_{monitor}"]
    if monitor == "outside":
        if "val_outside" not in record:
            raise DataError(
                "monitor='outside' needs annotated validation examples and a guidance loss"
            )
        return record["val_outside"]
    return record["val_loss"] + config.weight * record.get("val_outside", 0.0)
