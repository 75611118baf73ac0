"""All pairs of a dataset ranked by risk: which class is taken for what usually surrounds it?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import DataError, TargetError, did_you_mean
from ..models import labels_of, resolve_model
from ..models.outputs import class_count
from ..statistics.clustered import ClusterBootstrap, crossed
from ..statistics.intervals import Interval
from ..statistics.resampling import holm
from ..targets import class_index, logits_of
from .log_odds import score_of
from .measuring import Audited
from .pictures import as_samples
from .result import plain
from .running import preparation


@dataclass(frozen=True)
class Pair:
    """One class and one label that comes with it.

    Attributes:
        object, context: class names.
        risk: share of the score's movement that is the context's, 0 to 1.
        effect: of the context on the log-odds of the object, images with and without the object
            alike where both are known.
        p, adjusted: of no effect, by the clustered bootstrap; after Holm over all pairs.
        counts: images with both, the object alone, the context alone, neither.
    """

    object: str
    context: str
    risk: Interval
    effect: Interval
    p: float
    adjusted: float
    counts: tuple[int, int, int, int]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return plain(self)


def rank_pairs(
    model: Any,
    data: Any,
    *,
    preprocess: Any = None,
    labels: Sequence[str] | None = None,
    classes: Mapping[str, Sequence[int | str]] | None = None,
    device: Any = None,
    batch_size: int = 32,
    min_images: int = 5,
    resamples: int = 500,
    level: float = 0.95,
    seed: int = 0,
) -> list[Pair]:
    """Rank pairs of a class and a co-occurring label by risk of confusion, from one forward each.

    Needs labels alone, no masks. It is a screening of observed differences: audit the first pairs
    with `confusion`, whose counterfactuals tell cause from company. Memory: one number an image
    and class.

    Args:
        model, data, preprocess, labels, device, batch_size: as in `confusion`.
        classes: class of the data -> the model's classes for it, where they are called otherwise.
        min_images: of the object, of the context without it, and of neither; pairs with fewer are
            left out.
        resamples, level, seed: of the clustered bootstrap.

    Returns:
        Pairs by the lower end of the risk's interval, highest first; those whose effect is not
        positive after Holm follow.

    Raises:
        DataError: no class of the data is one of the model's.
    """
    samples = as_samples(data)
    module, loaded = resolve_model(model, device)
    prepare, _ = preparation(preprocess, module, loaded, data)
    runner = Audited(module)
    if labels is None:
        labels = labels_of(module, loaded)
    known = sorted({label for s in samples for label in s.labels})
    scores: dict[str, list[float]] = {}
    with runner.running():
        for start in range(0, len(samples), batch_size):
            part = [samples[i] for i in range(start, min(start + batch_size, len(samples)))]
            with torch.no_grad():
                inputs = torch.stack([prepare(s.read())[0] for s in part]).to(runner.device)
                logits = logits_of(module(inputs)).float().cpu()
            if not scores:
                count = class_count(logits)
                if labels is None and count == len(getattr(data, "classes", ())):
                    labels = data.classes
                columns = _columns_of(known, count, labels, classes or {})
            for name, members in columns.items():
                scores.setdefault(name, []).extend(score_of(logits, members).tolist())
    has = {name: np.array([name in s.labels for s in samples]) for name in known}
    clusters = crossed([s.source for s in samples])
    found = []
    for name, values in scores.items():
        for context in known:
            if context != name:
                group = 2 * has[name] + has[context]
                pair = _pair(
                    name, context, np.array(values, np.float32), group, clusters, min_images,
                    resamples, level, seed,
                )  # fmt: skip
                if pair is not None:
                    found.append(pair)
    adjusted = holm([p.p for p in found])
    ranked = [
        Pair(p.object, p.context, p.risk, p.effect, p.p, a, p.counts)
        for p, a in zip(found, adjusted, strict=True)
    ]
    return sorted(ranked, key=lambda p: (not (p.adjusted < 0.05 and p.effect.value > 0),
                                         -_low(p.risk), p.object, p.context))  # fmt: skip


def _low(interval: Interval) -> float:
    return -1.0 if math.isnan(interval.low) else interval.low


def _columns_of(
    known: Sequence[str],
    count: int,
    labels: Sequence[str] | None,
    classes: Mapping[str, Sequence[int | str]],
) -> dict[str, tuple[int, ...]]:
    unknown = sorted(set(classes) - set(known))
    if unknown:
        raise DataError(
            f"classes names {unknown[0]!r}, which no image of the data has"
            f"{did_you_mean(unknown[0], known)}"
        )
    found = {n: tuple(class_index(m, count, labels) for m in own) for n, own in classes.items()}
    for name in known:
        try:
            found.setdefault(name, (class_index(name, count, labels),))
        except TargetError:
            continue
    if not found:
        raise DataError(
            f"none of the data's classes ({', '.join(known[:10])}) is a class of the model; "
            "pass labels= with the model's class names (--labels), or classes= with what the "
            "model calls them (--classes)"
        )
    return found


def _pair(
    object: str, context: str, scores: np.ndarray, group: np.ndarray, clusters: list[np.ndarray],
    least: int, resamples: int, level: float, seed: int,
) -> Pair | None:  # fmt: skip
    counts = np.bincount(group, minlength=4)
    if min(counts[2] + counts[3], counts[1], counts[0]) < least or counts[3] < 1:
        return None
    crossed_all = counts[2] >= least and counts[3] >= least
    columns = {str(g): np.where(group == g, scores, np.nan) for g in range(4) if counts[g]}
    boot = ClusterBootstrap(columns, clusters, resamples=resamples, level=level, seed=seed)

    def around(m: Any) -> Any:
        alone = m["1"] - m["0"]
        return (alone + m["3"] - m["2"]) / 2 if crossed_all else alone

    def own(m: Any) -> Any:
        shown = m["3"] - m["1"]
        return (shown + m["2"] - m["0"]) / 2 if crossed_all else shown

    def share(m: Any) -> Any:
        c, o = np.maximum(around(m), 0), np.maximum(own(m), 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(c + o > 0, c / (c + o), np.nan)

    used = ["0", "1", "2", "3"] if crossed_all else ["0", "1", "3"]
    effect, risk = boot.estimate(around, used), boot.estimate(share, used).interval
    low = max(risk.low, 0.0) if not math.isnan(risk.low) else risk.low
    high = min(risk.high, 1.0) if not math.isnan(risk.high) else risk.high
    return Pair(
        object, context, Interval(risk.value, low, high, level, risk.images), effect.interval,
        effect.p, math.nan, (int(counts[3]), int(counts[2]), int(counts[1]), int(counts[0])),
    )  # fmt: skip
