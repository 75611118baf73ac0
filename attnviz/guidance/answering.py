"""How a network answers: on images as they are, and with the context of their objects changed.

A map that lies on the object is no proof of repair: what the map of one layer does not carry may
still decide. So the answer itself is asked for, of objects put in front of the other classes'
grounds, of objects alone, and, as the control, of objects pasted back where they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..hooks import unwrap
from ..statistics.exact import wilson
from ..statistics.intervals import Interval
from .changed import changed_of, cuts_of
from .checkpoints import own_random_state
from .config import GuideConfig
from .survey import survey
from .validating import measure

SETS = ("as they are", "exchanged", "pasted back", "alone")


@dataclass(frozen=True)
class Answers:
    """What a network answers and where it looks.

    Attributes:
        right: set -> class -> share right, with its 95 % Wilson interval; "as they are", and where
            objects can be cut out "exchanged", "pasted back" and "alone". For images that were
            put together the interval counts the objects that are in them, each once.
        accuracy: over all images as they are.
        energy: mean share of the positive evidence on the object; None without annotation.
        chance: mean share of the image that the objects cover.
        annotated: images that these two are of.
        always: share right of always naming the most frequent class.
    """

    right: Mapping[str, Mapping[str, Interval]]
    accuracy: Interval
    energy: float | None
    chance: float | None
    annotated: int
    always: float
    notes: tuple[str, ...] = field(default=())

    def worst(self, name: str = "as they are") -> tuple[str, Interval] | None:
        """Return the class that is right least often in a set, None where the set is missing."""
        classes = self.right.get(name)
        return min(classes.items(), key=lambda c: c[1].value) if classes else None

    @property
    def over_chance(self) -> float | None:
        """Energy as a multiple of chance."""
        return None if not self.energy or not self.chance else self.energy / self.chance

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "accuracy": self.accuracy.as_dict(),
            "always": self.always,
            "right": {s: {c: i.as_dict() for c, i in v.items()} for s, v in self.right.items()},
            "energy": self.energy, "chance": self.chance, "over_chance": self.over_chance,
            "annotated": self.annotated,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Answers:
        """Return what `as_dict` stored."""

        def interval(found: Mapping[str, Any]) -> Interval:
            return Interval(*(found[n] for n in ("value", "low", "high", "level", "images")))

        right = {s: {c: interval(i) for c, i in v.items()} for s, v in stored["right"].items()}
        numbers = (stored[n] for n in ("energy", "chance", "annotated", "always"))
        return cls(right, interval(stored["accuracy"]), *numbers)


def answers(
    model: nn.Module,
    data: Any,
    *,
    classes: Sequence[str] | None = None,
    config: GuideConfig | None = None,
) -> Answers:
    """Return how a network answers on held-back images, in their context and in a changed one.

    Args:
        model: a classifier; its modes and weights are left as they are.
        data: a map-style dataset of examples, see `fit`; changed images need masks or boxes of
            two classes (or of an object, and images without it).
        classes: names; None takes the dataset's, or numbers.
        config: layer, method, batch size and how objects are exchanged; None the defaults.

    Returns:
        `Answers`.
    """
    config = config or GuideConfig()
    model = unwrap(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    names = classes or getattr(data, "classes", None)

    def name(label: int) -> str:
        return names[label] if names else f"class {label}"

    with own_random_state(config.seed):
        seen = measure(model, data, config, device)
        hits = {c: seen.right[seen.labels == c] for c in seen.classes}
        right: dict[str, dict[str, Interval]] = {
            SETS[0]: {name(c): wilson(int(h.sum()), len(h)) for c, h in hits.items()}
        }
        known = survey(data, degenerate="skip")
        cuts = cuts_of(data, known, seed=config.seed)
        made = {} if cuts is None else changed_of(cuts, seed=config.seed, each=4)
        for kind, images in made.items():
            other = measure(model, images, config, device, maps=False)
            right[kind] = {}
            for c in other.classes:
                own = other.labels == c
                objects = len(images.sources[own].unique())
                share = float(other.right[own].float().mean())
                right[kind][name(c)] = _bounded(share, objects)
    most = max(len(h) for h in hits.values()) / len(seen.labels)
    energy = float(seen.energy.mean()) if len(seen.energy) else None
    chance = float(seen.chance.mean()) if len(seen.chance) else None
    accuracy = wilson(int(seen.right.sum()), len(seen.right))
    return Answers(right, accuracy, energy, chance, len(seen.energy), most)


def _bounded(share: float, objects: int) -> Interval:
    """Wilson's interval of a share of so many objects, whose parts need not be whole."""
    low, high = (wilson(n, objects) for n in (int(share * objects), -int(-share * objects // 1)))
    return Interval(share, min(low.low, share), max(high.high, share), low.level, objects)


def findings(before: Answers, after: Answers) -> list[str]:
    """Return in plain words what changed from one to the other, the map beside the answer."""
    said = []
    then_over, over = before.over_chance, after.over_chance
    better = bool(then_over and over and over > 1.25 * then_over)
    first, last = before.worst("exchanged"), after.worst("exchanged")
    if first is None or last is None:
        if better:
            said.append(
                "the map moved onto the object; whether the answer did is not known, since no "
                "objects of two classes could be exchanged on validation: annotate some there"
            )
    else:
        (_, then), (name, now) = first, last
        gained = now.value - then.value
        shares = f"{then.value:.0%} to {now.value:.0%} in the worst class ({name})"
        if better and gained < 0.1 and now.value < 0.75:
            said.append(
                "the map moved onto the object and the answer did not: with objects exchanged "
                f"{shares}. Do not trust the map; exchange objects in training, annotate more, or "
                "retrain the head on balanced data (--head dfr)"
            )
        elif gained >= 0.1 and now.low > then.value:
            said.append(f"the answer goes with the object more than before: exchanged, {shares}")
        elif now.value < 0.75:
            said.append(f"the answer still goes with the context: exchanged, {shares}")
        seam = after.worst("pasted back")
        if seam is not None and seam[1].value < now.value - 0.2:
            said.append(
                f"pasting alone costs {seam[0]} more than the exchange does: the images made of "
                "these masks are hard to read for a reason of their own"
            )
    name, low = min(after.right["as they are"].items(), key=lambda c: c[1].value)
    if low.value < after.always - 0.2 and after.accuracy.value >= after.always - 0.05:
        said.append(
            f"accuracy says little here: always the most frequent class would be right on "
            f"{after.always:.1%}; the worst class is {name} with {low.value:.0%}"
        )
    if before.accuracy.value - after.accuracy.value > 0.03:
        drop = before.accuracy.value - after.accuracy.value
        said.append(f"it costs {drop:.1%} of the answers on images as they are")
    return said
