"""Measure how often the verdict is right: `python tests/audit/alarm_rates.py [--seeds 20]`.

Planted models (truth known by construction) and small networks trained without confusion, each
seed with scenes and weights of its own. About 6 minutes on one core for 20 seeds.
"""

from __future__ import annotations

import argparse
import json

import torch

from attnviz import audit
from attnviz.audit import wilson
from attnviz.data import boatwater as bw
from tests.support import planting

OPTIONS = {"fills": ("blur",), "methods": ("gradcam",), "examples": 0, "resamples": 300}


def planted(kind: str, reads: str, seed: int, per_group: int = 12) -> str:
    """Return the verdict on a planted model with scenes of that seed."""
    data = bw.generate(groups=bw.balanced(per_group), seed=10_000 + seed, marked=True)
    found = audit.confusion(
        planting.planted(reads, kind=kind), data, object="boat", context="water", **OPTIONS
    )
    return found.verdict.kind


def trained(seed: int, confused: bool, per_group: int = 20) -> tuple[str, bool, float]:
    """Return verdict, alarm and severity of a network trained on scenes of that seed."""
    share = 1.0 if confused else 0.5
    made = bw.train(share, n=800, epochs=6, width=8, seed=seed)
    data = bw.generate(groups=bw.balanced(per_group), seed=20_000 + seed)
    found = audit.confusion(made.model, data, object="boat", context="water", **OPTIONS)
    return found.verdict.kind, found.verdict.alarm, found.severity.value


def main() -> None:
    """Print one line a setting and one JSON document."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", choices=("planted", "confused", "unconfused"))
    given = parser.parse_args()
    seeds = range(given.seeds)
    torch.set_num_threads(1)
    result: dict[str, object] = {}
    for kind in ("cnn", "vit") if given.only in (None, "planted") else ():
        for reads, want in (("water", "context"), ("object", "object")):
            right = sum(planted(kind, reads, s) == want for s in seeds)
            result[f"planted {kind} {reads}"] = f"{right}/{len(seeds)} right"
            print(f"planted {kind}, reads {reads}: {right}/{len(seeds)} right", flush=True)
    for confused in (True, False):
        if given.only not in (None, "confused" if confused else "unconfused"):
            continue
        found = []
        for seed in seeds:
            found.append(trained(seed, confused))
            print(seed, *found[-1], flush=True)
        alarms = sum(f[1] for f in found)
        share = wilson(alarms, len(found))
        name = "confused" if confused else "unconfused"
        severities = [round(f[2], 3) for f in found]
        result[name] = {"alarms": alarms, "of": len(found), "severity": severities}
        span = f"{alarms}/{len(found)} alarms [{share.low:.2f}, {share.high:.2f}]"
        print(f"trained, {name}: {span}; severity {severities}", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
