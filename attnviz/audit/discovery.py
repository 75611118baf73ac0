"""Contexts without annotation: cluster what the maps of one class cover.

SpRAy (Lapuschkin et al., Nature Communications 2019) clusters relevance maps by their spectrum;
here maps, or the features that they weight. A cluster of images in which the model relies on
something else than in the rest shows itself as a group of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..capturing import capture
from ..errors import DataError
from ..explaining import _resolve_model
from ..models import default_layer, infer_layout, labels_of
from .log_odds import called, find_target, score_of
from .measuring import Instrument
from .pictures import as_samples
from .running import _preparation

_SIDE = 16


@dataclass(frozen=True, eq=False)
class Cluster:
    """Images whose maps cover alike.

    Attributes:
        images: numbers in the data, wrong answers first, then by score.
        ids: their names.
        share: of all images clustered.
        wrong: share of its images without the object (if labels are known): called, but not there.
        score: mean log-odds.
        map: (16, 16) mean normalised map.
        labels: co-occurring labels with lift: how much more frequent than in the rest.
    """

    images: tuple[int, ...]
    ids: tuple[str, ...]
    share: float
    wrong: float
    score: float
    map: np.ndarray
    labels: tuple[tuple[str, float], ...]


@dataclass(frozen=True, eq=False)
class Discovery:
    """Clusters of what a model looks at for one class, the most suspicious first.

    Attributes:
        clusters: ordered by the share of wrong answers.
        eigenvalues: smallest of the graph's normalised Laplacian; as many near 0 as clusters.
        by: "features" or "maps".
    """

    object: str
    clusters: tuple[Cluster, ...]
    eigenvalues: tuple[float, ...]
    by: str
    data: Any

    def sheet(self, cluster: int, *, columns: int = 6, images: int = 12, side: int = 128) -> Any:
        """Return a contact sheet of a cluster as a PIL image, worst examples first."""
        import cv2
        from PIL import Image

        from ..data.boatwater import contact_sheet

        chosen = self.clusters[cluster].images[:images]
        tiles = [
            cv2.resize(self.data[i].read(), (side, side), interpolation=cv2.INTER_AREA)
            for i in chosen
        ]
        return Image.fromarray(contact_sheet(np.stack(tiles), columns=min(columns, len(tiles))))


def discover(
    model: Any,
    data: Any,
    *,
    object: str,
    target: Any = None,
    by: str = "features",
    clusters: int | None = None,
    limit: int = 400,
    preprocess: Any = None,
    labels: Sequence[str] | None = None,
    layer: str | None = None,
    device: Any = None,
    batch_size: int = 32,
    seed: int = 0,
) -> Discovery:
    """Cluster the images that a model calls the object by what the evidence covers.

    Args:
        model, data, object, target, preprocess, labels, layer, device, batch_size: see `confusion`.
        by: "features": mean feature vector under the map; "maps": the map itself (SpRAy).
        clusters: how many; None takes the largest gap of the spectrum, 2 to 6.
        limit: most images that are clustered, drawn by the seed.
        seed: of the drawing and of k-means.

    Raises:
        DataError: fewer than 8 images are called the object.
    """
    if by not in ("features", "maps"):
        raise DataError(f"by={by!r}, expected 'features' or 'maps'")
    samples = as_samples(data)
    module, loaded = _resolve_model(model, device)
    prepare, _ = _preparation(preprocess, module, loaded, data)
    runner = Instrument(module, None, (), "", False, (), None, batch_size, seed)
    labels = labels if labels is not None else labels_of(module, loaded)
    order = np.random.default_rng((seed, 3)).permutation(len(samples)).tolist()
    numbers: list[int] = []
    scores: list[float] = []
    rows: list[Tensor] = []
    maps: list[Tensor] = []
    aim = None
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        inputs = torch.stack([prepare(samples[i].read())[0] for i in part]).to(runner.device)
        if aim is None:
            with runner.running(), torch.no_grad():
                total = logits_of_model(module, inputs).shape[1]
            if labels is None and total == len(getattr(data, "classes", ())):
                labels = data.classes
            aim = find_target(target, object, classes=total, labels=labels)
            layer = layer or default_layer(module, inputs)
        found, feature, logits = _look(runner, inputs, layer, aim.indices)
        for k, number in enumerate(part):
            if bool(called(logits, aim.indices)[k]) and bool(found[k].sum() > 0):
                numbers.append(number)
                scores.append(float(score_of(logits, aim.indices)[k]))
                rows.append(feature[k])
                maps.append(found[k])
        if len(numbers) >= limit:
            break
    if len(numbers) < 8:
        raise DataError(
            f"{len(numbers)} images are called {object!r} with evidence, at least 8 are needed to "
            "find clusters"
        )
    described = torch.stack(rows if by == "features" else [m.flatten() for m in maps])
    group, values = spectral(described, clusters, seed=seed)
    made = [
        _cluster(samples, object, k, group, numbers, scores, torch.stack(maps))
        for k in range(int(group.max()) + 1)
    ]
    made.sort(key=lambda c: (-(c.wrong if c.wrong == c.wrong else 0), -c.share))
    return Discovery(object, tuple(made), tuple(values.tolist()), by, samples)


def logits_of_model(module: Any, inputs: Tensor) -> Tensor:
    """Return a classifier's logits (B, classes)."""
    from ..targets import logits_of

    return logits_of(module(inputs))


def _look(
    runner: Instrument, inputs: Tensor, layer: str, chosen: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return maps (B, 16, 16) that sum to 1, features under them (B, C), and logits."""
    with runner.running():
        with capture(runner.module, [layer]) as read:
            logits = logits_of_model(runner.module, inputs)
            gradient = read.gradients(score_of(logits, chosen).sum())[layer]
        activation = read.activations[layer]
        place = dict(runner.module.named_modules())[layer]
        layout = infer_layout(runner.module, place, activation, tuple(inputs.shape[-2:]))
    activation, gradient = layout.to_spatial(activation), layout.to_spatial(gradient)
    values = (activation * gradient).sum(1).relu().float().cpu()  # HiResCAM
    total = values.sum((1, 2), keepdim=True)
    weights = values / torch.where(total > 0, total, torch.ones_like(total))
    feature = torch.einsum("bchw,bhw->bc", activation.detach().float().cpu(), weights)
    small = F.interpolate(weights[:, None], (_SIDE, _SIDE), mode="bilinear", align_corners=False)
    return small[:, 0], F.normalize(feature, dim=1), logits.detach().float().cpu()


def spectral(
    points: Tensor, clusters: int | None = None, *, neighbours: int = 10, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Spectral clustering (Ng, Jordan & Weiss 2001) with a self-tuning affinity.

    Affinity exp(-d^2 / (s_i s_j)), s the distance to the 7th neighbour (Zelnik-Manor & Perona
    2004), kept for each point's nearest neighbours; normalised Laplacian; k-means on its first
    eigenvectors.

    Args:
        points: (n, d).
        clusters: how many; None takes the largest gap between eigenvalues 2 to 7.
        neighbours: of the graph.
        seed: of k-means.

    Returns:
        (n,) cluster numbers and the smallest eigenvalues.
    """
    n = len(points)
    distance = torch.cdist(points.double(), points.double())
    k = min(neighbours, n - 1)
    near, index = distance.topk(k + 1, largest=False)
    scale = near[:, min(7, k)].clamp_min(1e-12)
    affinity = torch.exp(-(distance**2) / (scale[:, None] * scale[None]))
    keep = torch.zeros(n, n, dtype=torch.bool)
    keep.scatter_(1, index, True)
    affinity = affinity * (keep | keep.T)
    affinity.fill_diagonal_(0)
    root = affinity.sum(1).clamp_min(1e-12).rsqrt()
    laplacian = torch.eye(n, dtype=torch.float64) - root[:, None] * affinity * root[None]
    values, vectors = torch.linalg.eigh(laplacian)
    if clusters is None:
        gaps = values[2 : min(7, n)] - values[1 : min(7, n) - 1]
        clusters = int(gaps.argmax()) + 2
    if not 1 <= clusters <= n:
        raise DataError(f"{clusters} clusters of {n} images: expected 1 to {n}")
    return kmeans(F.normalize(vectors[:, :clusters], dim=1), clusters, seed=seed), values[:8]


def kmeans(points: Tensor, clusters: int, *, seed: int = 0, starts: int = 10) -> Tensor:
    """Return cluster numbers (n,) of the best of several k-means++ starts."""
    rng = torch.Generator().manual_seed(seed)
    best, least = torch.zeros(len(points), dtype=torch.long), float("inf")
    for _ in range(starts):
        centres = points[torch.randint(len(points), (1,), generator=rng)]
        while len(centres) < clusters:
            apart = torch.cdist(points, centres).amin(1) ** 2
            weight = apart if float(apart.sum()) > 0 else torch.ones_like(apart)
            centres = torch.cat([centres, points[torch.multinomial(weight, 1, generator=rng)]])
        for _ in range(50):
            group = torch.cdist(points, centres).argmin(1)
            moved = torch.stack(
                [points[group == c].mean(0) if (group == c).any() else centres[c]
                 for c in range(clusters)]
            )  # fmt: skip
            if torch.equal(moved, centres):
                break
            centres = moved
        inertia = float((torch.cdist(points, centres).amin(1) ** 2).sum())
        if inertia < least:
            best, least = torch.cdist(points, centres).argmin(1), inertia
    # an empty cluster has no number
    return torch.unique(best, return_inverse=True)[1]


def _cluster(
    samples: Any, object: str, number: int, group: Tensor, numbers: list[int],
    scores: list[float], maps: Tensor,
) -> Cluster:  # fmt: skip
    inside = (group == number).nonzero()[:, 0].tolist()
    labelled = any(samples[i].labels for i in numbers)
    absent = {i: object not in samples[numbers[i]].labels for i in inside}
    order = sorted(inside, key=lambda i: (not absent[i], -scores[i]))
    mine: Counter[str] = Counter()
    rest: Counter[str] = Counter()
    for i, image in enumerate(numbers):
        (mine if int(group[i]) == number else rest).update(samples[image].labels)
    others = max(len(numbers) - len(inside), 1)
    lift = {
        name: (count / len(inside)) / max(rest[name] / others, 0.5 / others)
        for name, count in mine.items() if count >= 2
    }  # fmt: skip
    return Cluster(
        tuple(numbers[i] for i in order),
        tuple(samples[numbers[i]].id for i in order),
        len(inside) / len(numbers),
        float(np.mean([absent[i] for i in inside])) if labelled else float("nan"),
        float(np.mean([scores[i] for i in inside])),
        maps[inside].mean(0).numpy(),
        tuple(sorted(lift.items(), key=lambda item: -item[1])[:5]),
    )
