"""The audit on real photographs: is the confusion found, and does guidance hold on held-out ones?

    python notebooks/studies/audit_photographs.py --data PHOTOS_WITH_MASKS --out RUN
        [--arm guide] [--fold 0 1]

Composites (`study.compositing`): in training every boat comes on water. `arms` fine-tunes the
embedded network on them with labels alone ("plain") and with an arm; networks that `RUN/arms` (or
the folder of `--run`) has already are not trained again. Both are then audited on the test part, no
photo of which was seen by training or by a choice. For each fold and seed, `RUN/K-S/plain` holds
the audit of the confused network, `RUN/K-S/ARM` the comparison and what it must show,
`findings.json`.

Measured with an arm of earlier settings (energy and context undecided) and `--fold 0 1 --per-group
40 --fill blur` (seed 0, 25 % of the images with masks): the plain network is called a reader of the
water in both folds, severity .75 [.65, .91] and .80
[.70, .90], and groups, removal and transplant each put the water's share surely above one half.
Guided, right on boats off the water 18 -> 82 % and 35 -> 90 % (significant after Holm in both
folds), on water without boats 20 -> 80 % (not: its photos are too few) and 15 -> 90 %
(significant); severity .37 [.00, .81] and .18 [.09, .38]: in fold 0 the audit cannot tell what the
guided network, whose scores have become small, reads. No group is significantly worse; boats on
water lose 10 and 15 points.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import arms
import numpy as np
from study.arm_data import SCALE, composites

from attnviz.audit.comparing import BeforeAfter, compare
from attnviz.audit.result import AuditResult
from attnviz.audit.running import confusion
from attnviz.data.boatwater import CLASSES, GroupedImages
from attnviz.models.loaded import LoadedModel

#: what is asked; the map is made where CAM is exact
OPTIONS = {
    "object": "boat", "context": "water", "methods": ("gradcam", "layercam"), "layer": "bn2",
}  # fmt: skip


def held_out(
    data: str | Path, fold: int, seed: int, folds: int, per_group: int | None = None
) -> GroupedImages:
    """Return the test part's images: those that the run's networks were never shown.

    Args:
        data: photographs with masks.
        fold, seed, folds: of the run.
        per_group: at most so many of each group, spread over it; None takes all 80.
    """
    test = composites(data, fold, seed, folds).test
    if per_group is None:
        return test
    rows = [np.flatnonzero(test.group == g) for g in range(4)]
    spread = [r[np.linspace(0, len(r) - 1, min(per_group, len(r))).astype(int)] for r in rows]
    return test.subset(np.concatenate(spread))


def network(run: Path, arm: str, fold: int, seed: int, folds: int) -> LoadedModel:
    """Return a network of a run as a classifier of photos."""
    module = arms.trained(run, arm, fold, seed, folds=folds)
    name = "labels alone" if arm == "plain" else arm
    return LoadedModel(module, f"EfficientNet-Lite0, {name}", SCALE, CLASSES)


def audited(
    data: str | Path, run: Path, out: Path, arm: str, *, fold: int = 0, seed: int = 0,
    folds: int = 2, per_group: int | None = None, force: bool = False, say: Any = print,
    **options: Any,
) -> BeforeAfter:  # fmt: skip
    """Audit two networks of a run on the test images of a fold, and write the reports.

    Args:
        data: photographs with masks.
        run: folder of a run of `arms` that has "plain" and the arm.
        out: folder of the reports.
        arm: name.
        fold, seed, folds: of the run.
        per_group: see `held_out`.
        force: overwrite reports.
        say: called with each line.
        **options: of `confusion`, such as fills.
    """
    images = held_out(data, fold, seed, folds, per_group)
    folder = out / f"{fold}-{seed}"
    results: list[AuditResult] = []
    for name in ("plain", arm):
        model = network(run, name, fold, seed, folds)
        journal = folder / f"{name}.jsonl"  # a run that was stopped goes on
        results.append(
            confusion(
                model, images, journal=journal, resume=journal.exists(), **{**OPTIONS, **options}
            )
        )
        say(f"fold {fold} seed {seed} {name}: {results[-1].verdict.text}")
        if name == "plain":
            results[0].save(folder / "plain", force=force)
    found = compare(*results)
    found.save(folder / arm, force=force)
    for name in ("plain", arm):
        (folder / f"{name}.jsonl").unlink(missing_ok=True)
    text = json.dumps(findings(found), indent=1)
    (folder / arm / "findings.json").write_text(text, encoding="utf-8")
    say(f"fold {fold} seed {seed} change: {found.text}")
    return found


def findings(found: BeforeAfter) -> dict[str, Any]:
    """Return what a run must show, as JSON values.

    "found": what the confused network reads; "agree": whether the counterfactuals, line by line,
    give the context a share as surely above a quarter as the groups do; "better", "worse": groups
    whose accuracy changed after Holm, with p.
    """
    before, after = found.before, found.after
    lines = {line.name: line.share for line in before.verdict.lines}
    stands = [c for c in found.changes if c.what == "right" and c.significant]
    return {
        "found": before.verdict.kind,
        "then": after.verdict.kind,
        "severity": [_figures(a.severity) for a in (before, after)],
        "lines": {name: _figures(share) for name, share in lines.items()},
        "agree": len(lines) > 1 and all(share.low > 0.25 for share in lines.values()),
        "right": {a.name: [round(a.right.value, 3), round(b.right.value, 3)]
                  for a, b in zip(before.cells, after.cells, strict=True)},
        "better": {c.group: c.adjusted for c in stands if c.difference.value > 0},
        "worse": {c.group: c.adjusted for c in stands if c.difference.value < 0},
    }  # fmt: skip


def _figures(interval: Any) -> list[float] | None:
    if interval is None:
        return None
    return [round(v, 3) for v in (interval.value, interval.low, interval.high)]


def main(words: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", required=True, help="photographs with masks")
    parser.add_argument("--out", required=True, type=Path, help="folder of the reports")
    parser.add_argument("--run", type=Path, help="of arms; OUT/arms if not given")
    parser.add_argument("--arm", default="guide", help="of arms")
    parser.add_argument("--fold", type=int, nargs="+", default=[0], help="0 to 1")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--per-group", type=int, help="audit at most so many images of a group")
    parser.add_argument("--fill", nargs="+", default=["inpaint", "blur", "mean"])
    parser.add_argument("--force", action="store_true", help="overwrite reports")
    given = parser.parse_args(words)
    run = given.run or given.out / "arms"
    wanted = [(f, s) for f in given.fold for s in given.seed]
    kept = run / "networks"
    missing = [name for name in ("plain", given.arm) for f, s in wanted
               if not (kept / f"{name}-{f}of2-{s}.safetensors").exists()]  # fmt: skip
    if missing:
        seeds = max(given.seed) + 1
        arms.run(given.data, run, seeds=seeds, folds=2, arms=["plain", given.arm])
    for fold, seed in wanted:
        found = audited(
            given.data,
            run,
            given.out,
            given.arm,
            fold=fold,
            seed=seed,
            force=given.force,
            per_group=given.per_group,
            fills=given.fill,
        )
        print(json.dumps(findings(found), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
