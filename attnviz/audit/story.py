"""Boat or water, the whole story on generated scenes: confused, audited, guided, audited again.

And which part of the training repaired what: the loss on the map, the images put together anew, or
both are each tried alone.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data import boatwater as bw
from ..erasing.fills import erase
from .comparing import BeforeAfter, compare
from .interventions import grown
from .running import confusion

#: what `tell` guides with
GUIDANCE = {
    "loss": "energy", "weight": 1.0, "warmup": 0.2, "ramp": 0.2, "epochs": 8, "lr": 5e-3,
    "batch_size": 32, "layer": "stages", "train": "all", "exchange": False, "annotated": 0.0,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Story:
    """What happened.

    Attributes:
        comparison: the audits before and after, on scenes that neither training saw.
        confused, guided: the networks.
        seconds: of each chapter.
        alone: way to train -> share right in the worse of the two groups that training never
            showed, boats on land and others on water: "before", "map", "images" and "both".
    """

    comparison: BeforeAfter
    confused: torch.nn.Module
    guided: torch.nn.Module
    seconds: dict[str, float]
    alone: dict[str, float]

    @property
    def repaired_by(self) -> str:
        """One sentence: what of the training repaired the answers."""
        shares = {name: f"{100 * value:.0f} %" for name, value in self.alone.items()}
        told = (
            f"right in the worse of the two groups never shown: before {shares['before']}, the "
            f"loss on the map alone {shares['map']}, the images put together anew alone "
            f"{shares['images']}, both {shares['both']}"
        )
        gains = {n: self.alone[n] - self.alone["before"] for n in ("map", "images", "both")}
        helps = [n for n in ("map", "images") if gains[n] > max(0.5 * gains["both"], 0.1)]
        if gains["both"] <= 0.1:
            return f"the answers were not repaired ({told})"
        if not helps:
            return f"the two together repaired the answers, neither alone ({told})"
        names = {"map": "the loss on the map", "images": "the images put together anew"}
        only = " and not the loss on the map" if helps == ["images"] else ""
        by = " and ".join(names[n] for n in helps)
        return f"what repaired the answers: {by}{only} ({told})"

    def save(self, folder: str | Path, *, force: bool = False) -> dict[str, Any]:
        """Write the report; return its paths."""
        return self.comparison.save(folder, force=force)


def examples_of(train: bw.GroupedImages, *, seed: int = 0) -> list[tuple[Any, int, Any]]:
    """Return what the masks of a training set can teach, as examples for `guidance.fit`.

    Besides each image with its mask: boats taken out (then it is no boat, whatever the water), and
    each object on the emptied place of another image of the other class, so that both classes are
    pasted alike. The energy loss alone moves the maps, but leaves a small network's answers as
    they were: its cells see far enough to find the water around a boat.

    Args:
        train: images with masks of the objects.
        seed: of the places.

    Returns:
        (image (3, h, w), label, mask (h, w) or None).
    """
    images, labels = train.tensors()
    masks = torch.from_numpy(train.object_mask)
    holes = torch.stack([grown(m) for m in masks]).float()
    emptied = erase(images, holes, fill="blur")
    rng = torch.Generator().manual_seed(seed)
    rows = {c: (labels == c).nonzero()[:, 0].tolist() for c in (0, 1)}
    found = [(images[i], int(labels[i]), masks[i].float()) for i in range(len(images))]
    found += [(emptied[i], 0, None) for i in rows[1]]
    for i in range(len(images)):
        places = rows[1 - int(labels[i])]
        place = places[int(torch.randint(len(places), (1,), generator=rng))]
        moved = torch.where(masks[i], images[i], emptied[place])
        found.append((moved, int(labels[i]), masks[i].float()))
    return found


def tell(
    *,
    seed: int = 0,
    scenes: int = 600,
    test_per_group: int = 50,
    settings: dict[str, Any] | None = None,
    say: Callable[[str], None] | None = None,
) -> Story:
    """Train a small network on boats on water and other things on land, audit it, guide it by the
    objects' masks, and audit it again.

    Args:
        seed: of scenes, weights and order. The audit's scenes have another seed.
        scenes: for training; the same for both networks, none with a boat on land.
        test_per_group: scenes of each of the four groups for the audits.
        settings: of `guidance.fit` instead of `GUIDANCE`.
        say: called with a line at each chapter.
    """
    from .. import guidance

    say = say or (lambda line: None)
    seconds: dict[str, float] = {}
    began = time.perf_counter()

    def chapter(name: str, line: str) -> None:
        nonlocal began
        now = time.perf_counter()
        seconds[name] = round(now - began, 1)
        began = now
        say(line)

    confused = bw.train_confused(seed=seed, n=scenes).model
    chapter("train", f"trained on {scenes} scenes: every boat on water, all else on land")
    test = bw.generate(groups=bw.balanced(test_per_group), seed=seed + 2_000_003)
    options = {"object": "boat", "context": "water", "fills": ("inpaint", "blur")}
    before = confusion(confused, test, **options)
    chapter("audit", f"audit: {before.verdict.text}")
    train = bw.generate(scenes, seed=seed, co_occurrence=1.0)
    put_together = examples_of(train, seed=seed)
    plain = put_together[: len(train)]  # the scenes themselves, with their masks
    chosen = {"seed": seed, **GUIDANCE, **(settings or {})}

    def trained(examples: list[Any], **more: Any) -> torch.nn.Module:
        model = copy.deepcopy(confused)
        guidance.fit(model, examples, **{**chosen, **more})
        return model.eval()

    guided = trained(put_together)
    chapter("guide", "guided by the objects' masks on the same scenes: evidence off the object is "
            "penalised, and objects are shown without their context")  # fmt: skip
    tried = {
        "before": confused, "map": trained(plain), "images": trained(put_together, loss="none"),
        "both": guided,
    }  # fmt: skip
    alone = {}
    for name, model in tried.items():
        right = bw.group_accuracy(model, test)
        alone[name] = min(right["boat/land"], right["other/water"])
    chapter("apart", "the loss on the map and the images put together anew, each alone")
    after = confusion(guided, test, **options)
    chapter("audit again", f"audit: {after.verdict.text}")
    return Story(compare(before, after), confused, guided, seconds, alone)
