"""Arms x seeds x folds on real photographs: which guidance helps, which does not, and by how much.

    python notebooks/studies/arms.py --data PHOTOS_WITH_MASKS --out RUN [--seeds 3] [--folds 2]

Every arm fine-tunes the embedded EfficientNet-Lite0 on composites where boats always come with
water (`study.compositing`). Two things are chosen on the validation part, by
worst-group accuracy, for all arms alike: the strength of guidance, with the first seed of each
fold; and, for every run, how far the two classes' biases are moved apart (training in which water
gives the answer away says nothing on how sure a boat on land should be). Figures without that
move are kept beside. Then the test part is looked at once. The frozen blocks' features are
computed once an image, so erased images of the arms "erased", "context", "boxes" and "mixed" are
erased in pixels, those of the other erasing arms in the features. A run is resumed where it
stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from study.arm_data import MASK, Part, load_part
from study.arm_list import ARMS, FROZEN, Arm
from study.arm_table import budget, findings, table
from study.frozen import Tail, divide
from torch import Tensor, nn

from attnviz.erasing.fills import erase
from attnviz.errors import GuidanceError
from attnviz.guidance.checkpoints import write_whole
from attnviz.guidance.choosing import choose
from attnviz.guidance.class_maps import class_map
from attnviz.guidance.guards import MassGuard, Strength
from attnviz.guidance.losses import LOSSES
from attnviz.guidance.losses._mining import remaining
from attnviz.guidance.normalising import positive_part


@dataclass(frozen=True)
class Training:
    """How every arm is trained, alike."""

    steps: int = 150
    batch: int = 16
    annotated: int = 6
    lr: float = 1e-3
    weight_decay: float = 1e-2
    warmup: float = 0.35
    ramp: float = 0.1


def train(
    arm: Arm, weight: float, part: Part, net: Any, seed: int, how: Training
) -> tuple[Tail, dict[str, Any]]:
    """Train one arm; returns the tail in eval mode, and what the guard saw."""
    torch.manual_seed(seed)
    _, tail = divide(net, FROZEN)
    draws = torch.Generator().manual_seed(1000 + seed)
    kinds = part.deal(arm.masks, arm.boxes, draws)
    if arm.chosen:
        kinds = _chosen(arm, part, net, seed, how)
    annotated = (kinds > 0).nonzero()[:, 0]
    optimiser = torch.optim.AdamW(tail.parameters(), lr=how.lr, weight_decay=how.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, how.lr, total_steps=how.steps)
    guarded = arm.guarded
    strength = Strength(weight, how.warmup if guarded else 0.0, how.ramp if guarded else 0.0)
    guard = MassGuard("back_off" if guarded else "off")
    order: list[int] = []
    masses, stopped = [], ""
    for step in range(how.steps):
        if len(order) < how.batch:
            order = torch.randperm(len(part), generator=draws).tolist()
        rows = torch.tensor([order.pop() for _ in range(how.batch)])
        if len(annotated):
            pick = torch.randint(len(annotated), (how.annotated,), generator=draws)
            rows[: how.annotated] = annotated[pick]
        mirrored = bool(torch.rand((), generator=draws) < 0.5)
        x, y, masks = part.batch(rows, kinds, mirrored)
        k = strength.at(step / how.steps) * guard.factor
        # the margin of the two classes: evidence for one and against the other is one map
        mines = arm.loss.startswith("gain")  # which erases for a class, not for a margin
        seen = class_map(tail, x, y, against=None if mines else "strongest", layer="bn2")
        total = F.cross_entropy(seen.logits, y)
        if k > 0:
            total = total + k * _guidance(
                arm, tail, seen, part, rows, kinds, masks, mirrored, y, draws
            )
        mass = float(seen.maps.detach().relu().mean())
        masses.append(mass)
        try:
            guard.step(mass, active=k > 0, where=f"step {step}")
        except GuidanceError as error:
            stopped = str(error)
            break
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        schedule.step()
    log = {"stopped": stopped, "events": guard.events, "mass": [masses[0], masses[-1]]}
    return tail.eval(), log


def _chosen(arm: Arm, part: Part, net: Any, seed: int, how: Training) -> Tensor:
    """Masks for the images that a network trained on labels alone is least sure of."""
    plain, _ = train(ARMS[0], 0.0, part, net, seed, how)
    data = list(zip(part.features, part.labels.tolist(), strict=True))
    count = round(arm.masks * len(part))
    options: dict[str, Any] = {} if arm.chosen == "confusion" else {"layer": "bn2"}
    picked = choose(plain, data, count, criterion=arm.chosen, **options).order
    kinds = torch.zeros(len(part), dtype=torch.int64)
    kinds[list(picked)] = MASK
    return kinds


def _guidance(
    arm: Arm, tail: Tail, seen: Any, part: Part, rows: Tensor, kinds: Tensor,
    masks: list[Tensor | None], mirrored: bool, y: Tensor, draws: torch.Generator,
) -> Tensor:  # fmt: skip
    total = seen.logits.sum() * 0
    if arm.loss != "none":
        total = LOSSES.get(arm.loss).fn(seen, masks, **arm.options).total
    if arm.context:
        x = part.context(rows, kinds, mirrored)
        if len(x):
            total = total + arm.context * remaining(tail(x), y[:0], "uniform").mean()
    if arm.erasing:
        x = erase(seen.images, _hidden(arm.erasing, seen.maps.detach(), draws), fill="mean")
        total = total + F.cross_entropy(tail(x), y)
    return total


def _hidden(erasing: str, maps: Tensor, draws: torch.Generator) -> Tensor:
    """Cells of the grid to hide, (B, h, w): half of them at random, or the map's top fifth."""
    if erasing == "random":
        return (torch.rand(maps.shape, generator=draws) < 0.5).to(maps.dtype)
    least = maps.flatten(1).quantile(0.8, dim=1)[:, None, None]
    return (maps >= least).to(maps.dtype)


@torch.no_grad()
def margins(tail: Tail, part: Part) -> Tensor:
    """Return how much more the second class scores than the first, (N,)."""
    logits = torch.cat([tail(x) for x in part.features.split(64)])
    return logits[:, 1] - logits[:, 0]


def settle(tail: Tail, part: Part) -> float:
    """Move the classifier's biases to where the worst group does best; return by how much.

    Of the margins that do equally well the middle one is taken.
    """
    seen = margins(tail, part)
    edges = seen.sort().values
    tried = torch.cat([edges[:1] - 1, (edges[1:] + edges[:-1]) / 2, edges[-1:] + 1])
    right = (seen[None] > tried[:, None]) == (part.labels == 1)[None]
    worst = torch.stack([right[:, part.groups == g].float().mean(1) for g in range(4)]).amin(0)
    best = tried[worst == worst.max()]
    moved = float(best[(len(best) - 1) // 2])
    with torch.no_grad():
        tail.classifier.bias += torch.tensor([moved / 2, -moved / 2])
    return moved


@torch.no_grad()
def evaluate(tail: Tail, part: Part) -> dict[str, Any]:
    """Return accuracy and energy-in-mask of each group, and hits image by image."""
    hits, energy = [], []
    for rows in torch.arange(len(part)).split(64):
        x, y = part.features[rows], part.labels[rows]
        activation = tail.bn2(tail.conv_head(tail.blocks(x)))
        logits = tail.classifier(tail.pool(activation).flatten(1))
        hits.append(logits.argmax(1) == y)
        weight = tail.classifier.weight[y] - tail.classifier.weight[1 - y]
        maps = torch.einsum("bc,bchw->bhw", weight, activation)
        inside = F.adaptive_avg_pool2d(part.masks[rows][:, None].float(), maps.shape[-2:])[:, 0]
        evidence = positive_part(maps, "relu")
        energy.append((evidence * inside).sum((1, 2)) / evidence.sum((1, 2)).clamp_min(1e-12))
    right, shares = torch.cat(hits).float(), torch.cat(energy)
    groups = [part.groups == g for g in range(4)]
    accuracy = [float(right[g].mean()) for g in groups]
    return {
        "accuracy": accuracy,
        "worst": min(accuracy),
        "mean": sum(accuracy) / 4,
        "energy": float(shares.mean()),
        "energy_by_group": [float(shares[g].mean()) for g in groups],
        "chance": float(part.masks.float().mean()),
    }


def run(
    data: str | Path,
    out: str | Path,
    *,
    seeds: int = 3,
    folds: int = 2,
    arms: Sequence[str] | None = None,
    how: Training | None = None,
    say: Any = print,
) -> list[dict[str, Any]]:
    """Run arms x seeds x folds; returns one row a run and writes `arms.jsonl` and `table.md`.

    Args:
        data: photographs with masks of boats, water, land and other things.
        out: folder; rows that are there are kept, and not computed again.
        seeds, folds: numbers of them.
        arms: names; None takes all.
        how: the training.
        say: called with each line of progress.
    """
    from attnviz.models import load

    how = how or Training()
    chosen = [a for a in ARMS if arms is None or a.name in arms]
    unknown = set(arms or ()) - {a.name for a in ARMS}
    if unknown:
        raise GuidanceError(f"unknown arms {sorted(unknown)}; known: {[a.name for a in ARMS]}")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / "arms.jsonl"
    rows = _read(journal)
    net = load().module
    for fold in range(folds):
        weights: dict[str, float] = {
            r["arm"]: r["weight"] for r in rows if r["fold"] == fold and r["seed"] == 0
        }
        for seed in range(seeds):
            done = {r["arm"] for r in rows if (r["fold"], r["seed"]) == (fold, seed)}
            for arm in (a for a in chosen if a.name not in done):
                part = load_part(data, folder, net, fold, seed, folds, "train", arm.data)
                validation = load_part(data, folder, net, fold, seed, folds, "validation")
                if arm.name not in weights:
                    weights[arm.name] = _choose(arm, part, validation, net, how, say)
                tail, log = train(arm, weights[arm.name], part, net, seed, how)
                test = load_part(data, folder, net, fold, seed, folds, "test")
                unmoved = {"validation": evaluate(tail, validation), "test": evaluate(tail, test)}
                moved = settle(tail, validation)
                row = {
                    "arm": arm.name, "fold": fold, "seed": seed, "weight": weights[arm.name],
                    "validation": evaluate(tail, validation), "test": evaluate(tail, test),
                    "moved": moved, "unmoved": unmoved, **log,
                }  # fmt: skip
                _keep(tail, folder / "tails" / f"{arm.name}-{fold}of{folds}-{seed}.safetensors")
                rows.append(row)
                with journal.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                figures = " ".join(f"{100 * v:3.0f}" for v in row["test"]["accuracy"])
                say(f"fold {fold} seed {seed} {arm.name:14} weight {row['weight']:4}  {figures}")
    text = "\n".join([
        table(rows, {a.name: a.summary for a in ARMS}),
        "\nWorst group by the share of images annotated:\n", budget(rows),
        "\nAgainst plain training (95 % for all sentences together):\n",
        *(f"- {line}" for line in findings(rows)),
    ])  # fmt: skip
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    say(text)
    return rows


def _keep(tail: Tail, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    state = {k: v.contiguous() for k, v in tail.state_dict().items()}
    write_whole(path, lambda part: save_file(state, part))


def trained(folder: str | Path, arm: str, fold: int, seed: int, *, folds: int = 2) -> nn.Module:
    """Return the whole network of one run, in eval mode; images scaled to -1 .. 1, two classes.

    Args:
        folder: the run's.
        arm, fold, seed: which.
        folds: of the run.
    """
    from attnviz.models import load

    prefix, tail = divide(load().module, FROZEN)
    path = Path(folder) / "tails" / f"{arm}-{fold}of{folds}-{seed}.safetensors"
    tail.load_state_dict(load_file(path))
    return nn.Sequential(prefix, tail).eval()


def _read(journal: Path) -> list[dict[str, Any]]:
    if not journal.exists():
        return []
    return [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines() if line]


def _choose(arm: Arm, part: Part, validation: Part, net: Any, how: Training, say: Any) -> float:
    """The strength with the best worst group on validation (then the best mean)."""
    if len(arm.weights) == 1:
        return arm.weights[0]
    tried = []
    for weight in arm.weights:
        tail, _ = train(arm, weight, part, net, 0, how)
        settle(tail, validation)
        seen = evaluate(tail, validation)
        tried.append((seen["worst"], seen["mean"], -weight))
    say(f"  {arm.name}: worst group on validation by weight " + ", ".join(
        f"{w:g}: {100 * t[0]:.0f}" for w, t in zip(arm.weights, tried, strict=True)
    ))  # fmt: skip
    return -max(tried)[2]


def main(words: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--arms", nargs="*", default=None)
    options = parser.parse_args(words)
    run(options.data, options.out, seeds=options.seeds, folds=options.folds, arms=options.arms)
    return 0


if __name__ == "__main__":
    sys.exit(main())
