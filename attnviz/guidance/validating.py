"""What is measured of a network in training: answers, evidence, and answers in changed context."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DataError, GuidanceError
from ..geometry import size_of
from ..models.outputs import class_logits, logits_of
from ._pass import check_labels, see
from .batches import batches
from .config import GuideConfig
from .normalising import positive_part


@dataclass(frozen=True, eq=False)
class Measured:
    """A set, image by image.

    Attributes:
        labels: (N,) int64.
        right: (N,) bool.
        losses: (N,) cross-entropy in nats.
        energy: (M,) share of the positive evidence on the object, annotated images; of a map that
            is nowhere positive 0.
        chance: (M,) share of the image that the object covers: the energy of an even map.
    """

    labels: Tensor
    right: Tensor
    losses: Tensor
    energy: Tensor
    chance: Tensor

    def of_class(self) -> dict[int, float]:
        """Return the share right of each class."""
        return {c: float(self.right[self.labels == c].float().mean()) for c in self.classes}

    @property
    def classes(self) -> list[int]:
        """Classes that there are images of."""
        return self.labels.unique().tolist()

    def variance(self) -> float:
        """Return the variance of the worst class's share, of its binomial as Laplace has it."""
        c, share = min(self.of_class().items(), key=lambda item: item[1])
        n = int((self.labels == c).sum())
        p = (share * n + 1) / (n + 2)
        return p * (1 - p) / n

    def balanced_loss(self) -> float:
        """Return the mean over classes of their mean cross-entropy."""
        means = [float(self.losses[self.labels == c].mean()) for c in self.classes]
        return sum(means) / len(means)


def measure(
    model: nn.Module, data: Any, config: GuideConfig, device: torch.device, *, maps: bool = True
) -> Measured:
    """Return a set's figures in evaluation mode; the model's modes are put back.

    Args:
        model: a classifier.
        data: examples, see `fit`.
        config: batch size, layer, method, and what a map is set against.
        device: of the model.
        maps: measure energy, where there is annotation.
    """
    mode = {m: m.training for m in model.modules()}
    model.eval()
    labels, right, losses, energy, chance = [], [], [], [], []
    try:
        for batch in batches(data, config.batch_size, degenerate=config.degenerate):
            batch = batch.to(device)
            if maps and bool(batch.annotation.present.any()):
                seen = see(model, batch, config, ())
                logits, values = seen.logits.detach(), seen.maps.detach()
                given = batch.annotation.at(size_of(values), values)
                evidence = positive_part(values, "relu") * given.known
                total = evidence.sum((1, 2)).clamp_min(1e-12)
                share = (evidence * given.target).sum((1, 2)) / total
                area = (given.target * given.known).sum((1, 2)) / given.known.sum((1, 2)).clamp_min(
                    1e-12
                )
                energy.append(share[given.present].cpu())
                chance.append(area[given.present].cpu())
                del seen
            else:
                with torch.no_grad():
                    logits = logits_of(model(batch.images))
            logits = class_logits(logits).float()
            check_labels(logits, batch.labels)
            labels.append(batch.labels.cpu())
            right.append((logits.argmax(1) == batch.labels).cpu())
            losses.append(F.cross_entropy(logits, batch.labels, reduction="none").cpu())
    finally:
        for module, training in mode.items():
            module.training = training
    if not losses:
        raise DataError("the validation data has no example")
    every = torch.cat(losses)
    if not bool(torch.isfinite(every).all()):
        first = int((~torch.isfinite(every)).nonzero()[0, 0])
        raise GuidanceError(
            f"the loss of validation example {first} is {float(every[first])}: its image holds "
            "NaN or infinity, or the logits are too large; lower the learning rate"
        )
    none = torch.zeros(0)
    return Measured(
        torch.cat(labels), torch.cat(right), every,
        torch.cat(energy) if energy else none, torch.cat(chance) if chance else none,
    )  # fmt: skip


def validate(
    model: nn.Module,
    data: Any,
    config: GuideConfig,
    loss: Any,
    device: torch.device,
    changed: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Return figures of a split for the record of an epoch.

    "val_loss" (cross-entropy), "val_accuracy", "val_worst_class" (the lowest of the classes'
    accuracies), "val_energy" (share of the positive evidence on the object, annotated images),
    "val_outside" (1 - that) and "val_over_chance" (that by the objects' area); absent without
    annotation or a guidance loss. Of sets of `changed_of`: "val_exchanged" (mean of the classes'
    accuracies) and "val_exchanged_worst", and the same of the others. "val_answer" is the mean of
    the worst classes on the split as it is and with objects exchanged.
    """
    seen = measure(model, data, config, device, maps=loss is not None)
    classes = seen.of_class()
    found = {
        "val_loss": float(seen.losses.mean()),
        "val_accuracy": float(seen.right.float().mean()),
        "val_worst_class": min(classes.values()),
    }
    if len(seen.energy):
        mean = float(seen.energy.mean())
        found |= {
            "val_energy": mean,
            "val_outside": 1 - mean,
            "val_over_chance": mean / float(seen.chance.mean()),
        }
    worst, balanced = [min(classes.values())], [seen.balanced_loss()]
    errors = [seen.variance()]
    for name, images in (changed or {}).items():
        other = measure(model, images, config, device, maps=False)
        accuracies = other.of_class().values()
        key = f"val_{name.replace(' ', '_')}"
        found |= {key: sum(accuracies) / len(accuracies), f"{key}_worst": min(accuracies)}
        if name == "exchanged":
            worst.append(min(accuracies))
            balanced.append(other.balanced_loss())
            errors.append(other.variance())
    found["val_answer"] = sum(worst) / len(worst)
    found["val_answer_error"] = math.sqrt(sum(errors)) / len(worst)
    found["val_answer_loss"] = sum(balanced) / len(balanced)
    return found


def slack(record: Mapping[str, Any], config: GuideConfig) -> float:
    """Return by how much a later epoch may fall behind the best and still be taken.

    One standard error of the answer: among epochs that a small split cannot tell apart, the last
    has been trained and guided longest (Breiman et al. 1984, the rule of one standard error).
    Nothing for other monitors.
    """
    if config.monitor != "answer":
        return 0.0
    return float(record.get("val_answer_error", 0.0))


def improvement(record: Mapping[str, Any], config: GuideConfig) -> float:
    """Return the monitored figure as a number to be lowered (the training loss without a split).

    "loss" is what training minimises: cross-entropy plus the weighted share of the evidence that
    lies outside the object, where the split is annotated. "answer" is the worst class, on the
    split as it is and under exchange, and the mean of the losses where that is equal.
    """
    monitor = config.monitor
    if "val_loss" not in record:
        return record["loss"]
    if monitor == "answer":
        return -record["val_answer"] + 1e-3 * math.tanh(record["val_answer_loss"])
    if monitor in ("accuracy", "worst_class"):
        return -record[f"val_{monitor}"]
    if monitor == "outside":
        if "val_outside" not in record:
            raise DataError(
                "monitor='outside' needs annotated validation examples and a guidance loss"
            )
        return record["val_outside"]
    return record["val_loss"] + (config.weight or 0.0) * record.get("val_outside", 0.0)
