"""The table of localisation: figures, and paired differences to plain CAM with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def table(rows: Sequence[dict[str, Any]], *, resamples: int = 2000) -> str:
    """Return a Markdown table: figures, and paired differences to CAM with 95 % intervals.

    A photo's figure is its mean over seeds; the bootstrap draws photos. "chosen" is, in each fold,
    the variant with the best MaxBoxAccV2 on the split that chooses. Pooled PxAP is the mean
    over folds and seeds.
    """
    rows = [*rows, *_chosen(rows)]
    names = list(dict.fromkeys(r["variant"] for r in rows))
    header = [
        "variant", "accuracy", "MaxBoxAccV2", "to CAM", "PxAP", "to CAM", "PxAP, pooled", "verdict"
    ]  # fmt: skip
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    base = {m: _by_photo(rows, "cam", m) for m in ("maxbox", "pxap")}
    for name in names:
        own_rows = [r for r in rows if r["variant"] == name]
        right = [r["accuracy"] for r in own_rows if r["accuracy"] is not None]
        cells = [name, f"{100 * sum(right) / len(right):.0f}" if right else ""]
        verdicts = []
        for metric in ("maxbox", "pxap"):
            own = _by_photo(rows, name, metric)
            cells.append(f"{100 * sum(own.values()) / len(own):.1f}")
            if name == "cam":
                cells.append("")
                continue
            low, mean, high = _paired(own, base[metric], resamples)
            cells.append(f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})")
            verdicts.append("better" if low > 0 else "worse" if high < 0 else "no difference")
        pooled = [r["pooled_pxap"] for r in own_rows if "pooled_pxap" in r]
        cells.append(f"{100 * sum(pooled) / len(pooled):.1f}" if pooled else "")
        cells.append(" / ".join(verdicts))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _chosen(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows, in each fold, of the variant with the best figure on the choosing split."""
    found = []
    for fold in sorted({r["fold"] for r in rows if "choosing" in r}):
        figures: dict[str, list[float]] = {}
        for row in rows:
            if row["fold"] == fold and row["variant"] != "centre":
                figures.setdefault(row["variant"], []).append(row["choosing"])
        best = max(figures, key=lambda name: sum(figures[name]) / len(figures[name]))
        found += [
            r | {"variant": "chosen"} for r in rows if r["fold"] == fold and r["variant"] == best
        ]
    return found


def _by_photo(rows: Sequence[dict[str, Any]], variant: str, metric: str) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for row in rows:
        if row["variant"] == variant:
            for photo, value in zip(row["rows"], row[metric], strict=True):
                if value == value:
                    found.setdefault(photo, []).append(value)
    return {photo: sum(v) / len(v) for photo, v in found.items()}


def _paired(
    own: dict[int, float], base: dict[int, float], resamples: int
) -> tuple[float, float, float]:
    photos = sorted(own.keys() & base.keys())
    differences = torch.tensor([own[p] - base[p] for p in photos], dtype=torch.float64)
    draws = torch.Generator().manual_seed(0)
    index = torch.randint(len(photos), (resamples, len(photos)), generator=draws)
    means = differences[index].mean(1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, float(differences.mean()), high
