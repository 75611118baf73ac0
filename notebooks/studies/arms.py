"""Arms x seeds x folds in a world: which guidance helps, which does not, and by how much.

    python notebooks/studies/arms.py --data PHOTOS_WITH_MASKS --out RUN [--seeds 3] [--folds 2]
        [--arms plain guide ...] [--co-occurrence 0.95]
    python notebooks/studies/arms.py --world digits --out RUN [--seeds 5] [--co-occurrence 0.95]
    python notebooks/studies/arms.py --world scenes --out RUN --seeds 5 --folds 2

On photographs every arm fine-tunes the embedded EfficientNet-Lite0, in the other worlds all of a
small network (`study.worlds`), by `guidance.fit`, as `attnviz guide` does, on images where a class
always comes with a context of its own. A fifth of the training images, confounded like the rest,
chooses the epoch. Then the test part is looked at once, with the biases as trained and, beside it,
with biases moved to where the worst group of 160 images of all groups does best: that needs what a
user with confounded data does not have. A run is resumed where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from study.arm_data import SCALE, Joined, Parts, Rows, evenly
from study.arm_list import ARMS, Arm
from study.arm_table import findings, table
from study.group_dro import group_dro
from study.worlds import WORLDS, World
from torch import Tensor, nn

from attnviz.errors import GuidanceError
from attnviz.guidance import Examples, GuideConfig, choose, fit, new_head, retrain_head
from attnviz.guidance.checkpoints import write_whole
from attnviz.guidance.validating import measure
from attnviz.models import load
from attnviz.models.outputs import logits_of

#: how often JTT repeats an error, and how long it trains to find them
REPEATS, SHORT = 20, 60


def train(
    arm: Arm,
    parts: Parts,
    seed: int,
    settings: dict[str, Any] | None = None,
    world: World = WORLDS["photographs"],
) -> tuple[nn.Module, GuideConfig, dict[str, Any]]:
    """Train one arm; returns the network in eval mode, its settings, and what the guard saw."""
    shared = {"seed": seed, **world.settings, **(settings or {})}
    net = world.network(seed)
    masks = dict(masks=arm.masks, boxes=arm.boxes, seed=seed)
    data: Any = world.examples(parts.train, flip=world.flip, **masks)
    held: Any = world.examples(parts.held, **masks)
    labels = {"loss": "none", "exchange": False}
    if arm.chosen:
        plain = copy.deepcopy(net)
        config = fit(plain, data, config=_config(labels, shared)).config
        bare = Examples(parts.train, SCALE, masks=0.0, boxes=0.0)
        count = round(arm.masks * len(data))
        layer = {} if arm.chosen == "confusion" else {"layer": config.layer}
        picked = set(choose(plain.eval(), bare, count, criterion=arm.chosen, **layer).order)
        data.kinds = ["masks" if i in picked else "none" for i in range(len(data))]
    if arm.groups == "only":
        data, held = Rows(parts.known, evenly(parts.known_groups)), None
    elif arm.groups == "added":
        groups = torch.cat([parts.train_groups, parts.known_groups])
        data, held = Rows(Joined(data, parts.known), evenly(groups)), None
    elif arm.groups == "dro":
        groups = torch.cat([parts.train_groups, parts.known_groups])
        config = group_dro(net, Joined(data, parts.known), groups, _config(labels, shared))
        return net, config, {"events": [], "notes": [], "epoch": config.epochs}
    elif arm.groups == "errors":
        short = copy.deepcopy(net)
        config = fit(short, data, config=_config(labels, shared | {"steps": SHORT})).config
        wrong = ~measure(short.eval(), data, config, _device(short), maps=False).right
        rows = list(range(len(data))) + REPEATS * wrong.nonzero()[:, 0].tolist()
        data, held = Rows(data, rows), parts.known
    config, log = _config(arm.settings, shared), {"events": [], "notes": [], "epoch": 0}
    if arm.groups != "frozen":
        result = fit(net, data, validation=held, config=config)
        net, config = result.model, result.config
        log = {"events": list(result.events), "notes": list(result.notes),
               "epoch": result.best_epoch}  # fmt: skip
    if arm.groups in ("head", "frozen"):
        log["head"] = str(retrain_head(net, parts.known, groups=parts.known_groups.tolist()))
    return net.eval(), config, log


def _config(own: Any, shared: dict[str, Any]) -> GuideConfig:
    return GuideConfig(**{**own, **shared})


def _device(net: nn.Module) -> torch.device:
    return next(net.parameters()).device


@torch.no_grad()
def margins(net: nn.Module, data: Examples) -> Tensor:
    """Return how much more the second class scores than the first, (N,)."""
    found = []
    for rows in torch.arange(len(data)).split(32):
        logits = logits_of(net(torch.stack([data[i][0] for i in rows.tolist()]).to(_device(net))))
        found.append((logits[:, 1] - logits[:, 0]).cpu())
    return torch.cat(found)


def bias(seen: Tensor, groups: Tensor) -> float:
    """Return the margin at which to divide the classes so that the worst group does best.

    Of the margins that do equally well the middle one is taken.
    """
    edges = seen.sort().values
    tried = torch.cat([edges[:1] - 1, (edges[1:] + edges[:-1]) / 2, edges[-1:] + 1])
    right = (seen[None] > tried[:, None]) == (groups >= 2)[None]
    present = groups.unique().tolist()
    worst = torch.stack([right[:, groups == g].float().mean(1) for g in present]).amin(0)
    best = tried[worst == worst.max()]
    return float(best[(len(best) - 1) // 2])


def evaluate(net: nn.Module, parts: Parts, config: GuideConfig) -> dict[str, Any]:
    """Return the test's figures as trained and with moved biases, and what ordinary photos cost."""
    maps = config.erasing != "acol"
    seen = measure(net, parts.test, config, _device(net), maps=maps)
    test, ordinary = margins(net, parts.test), margins(net, parts.ordinary)
    second = torch.tensor(parts.ordinary.labels) == 1
    moved = bias(margins(net, parts.known), parts.known_groups)
    groups = parts.test_groups

    def figures(at: float) -> dict[str, Any]:
        right = (test > at) == (groups >= 2)
        accuracy = [float(right[groups == g].float().mean()) for g in range(4)]
        return {
            "accuracy": accuracy, "worst": min(accuracy),
            "ordinary": float(((ordinary > at) == second).float().mean()),
        }  # fmt: skip

    boats, others = test[groups == 2], test[groups == 1]
    energy = float(seen.energy.mean()) if len(seen.energy) else None
    chance = float(seen.chance.mean()) if len(seen.chance) else None
    return {
        "test": figures(0.0), "moved": figures(moved), "by": moved,
        "auc": float((boats[:, None] > others[None]).float().mean()),
        "energy": energy, "chance": chance, "objects": list(parts.objects),
    }  # fmt: skip


def run(
    data: str | Path | None,
    out: str | Path,
    *,
    world: str = "photographs",
    seeds: int = 3,
    folds: int = 2,
    arms: Sequence[str] | None = None,
    co_occurrence: float = 1.0,
    settings: dict[str, Any] | None = None,
    say: Any = print,
) -> list[dict[str, Any]]:
    """Run arms x seeds x folds; returns one row a run and writes `arms.jsonl` and `table.md`.

    Args:
        data: photographs with masks of boats, water, land and other things; other worlds have
            images of their own.
        out: folder; rows that are there are kept, and not computed again.
        world: a name of `study.worlds`.
        seeds, folds: numbers of them.
        arms: names; None takes all of the world's.
        co_occurrence: share of each class that is in its own context in training.
        settings: of `fit` for all arms instead of its defaults.
        say: called with each line of progress.
    """
    place = WORLDS[world]
    if data is None and world == "photographs":
        raise GuidanceError("the world 'photographs' needs data: a folder of photos with masks")
    wanted = place.arms if arms is None else arms
    chosen = [a for a in ARMS if wanted is None or a.name in wanted]
    unknown = set(arms or ()) - {a.name for a in ARMS}
    if unknown:
        raise GuidanceError(f"unknown arms {sorted(unknown)}; known: {[a.name for a in ARMS]}")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / "arms.jsonl"
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
    rows = [json.loads(line) for line in lines if line]
    for seed in range(seeds):
        for fold in range(folds):
            done = {r["arm"] for r in rows if (r["fold"], r["seed"]) == (fold, seed)}
            for arm in (a for a in chosen if a.name not in done):
                common = arm.data == "confounded" and co_occurrence < 1
                kind = str(co_occurrence) if common else arm.data
                parts = place.parts(data, fold, seed, folds, kind)
                net, config, log = train(arm, parts, seed, settings, place)
                row = {"arm": arm.name, "fold": fold, "seed": seed}
                row |= evaluate(net, parts, config) | log
                if world == "photographs":
                    name = f"{arm.name}-{fold}of{folds}-{seed}.safetensors"
                    keep(net, folder / "networks" / name)
                rows.append(row)
                with journal.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                figures = " ".join(f"{100 * v:3.0f}" for v in row["test"]["accuracy"])
                say(f"fold {fold} seed {seed} {arm.name:16} {figures}  AUC {row['auc']:.2f}")
    text = "\n".join([
        table(rows, ARMS, place.groups, shared=place.shared),
        "\nAgainst plain training (95 % for all sentences together):\n",
        *(f"- {line}" for line in findings(rows)),
    ])  # fmt: skip
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    say(text)
    return rows


def keep(net: nn.Module, path: Path) -> None:
    """Write what training changed of the embedded network."""
    path.parent.mkdir(exist_ok=True)
    first = load().module.state_dict()
    changed = {
        k: v.contiguous() for k, v in net.state_dict().items()
        if k not in first or first[k].shape != v.shape or not torch.equal(first[k], v)
    }  # fmt: skip
    write_whole(path, lambda part: save_file(changed, part))


def trained(folder: str | Path, arm: str, fold: int, seed: int, *, folds: int = 2) -> nn.Module:
    """Return the network of one run, in eval mode; images scaled to -1 .. 1, two classes.

    Args:
        folder: the run's.
        arm, fold, seed: which; an arm with the network's own pooling.
        folds: of the run.
    """
    net = new_head(load().module, 2)
    path = Path(folder) / "networks" / f"{arm}-{fold}of{folds}-{seed}.safetensors"
    missing, unexpected = net.load_state_dict(load_file(path), strict=False)
    if unexpected or "classifier.weight" in missing:
        raise GuidanceError(f"{path} holds no network of the embedded kind: {unexpected[:3]}")
    return net.eval()


def main(words: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", help="photographs with masks")
    parser.add_argument("--world", default="photographs", choices=sorted(WORLDS))
    parser.add_argument("--out", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--arms", nargs="*", default=None)
    parser.add_argument("--co-occurrence", type=float, default=1.0)
    options = parser.parse_args(words)
    run(
        options.data, options.out, world=options.world, seeds=options.seeds, folds=options.folds,
        arms=options.arms, co_occurrence=options.co_occurrence,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
