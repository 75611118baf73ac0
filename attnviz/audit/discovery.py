"""Contexts without annotation: cluster what the maps of one class cover.

SpRAy (Lapuschkin et al., Nature Communications 2019) clusters relevance maps by their spectrum;
here maps, or the features that they weight. A cluster of images in which the model relies on
something else than in the rest shows itself as a group of its own. Concepts of a layer are
candidates of another kind: each is judged by an audit of its own.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import AttnvizWarning, DataError, did_you_mean
from ..geometry import Geometry, size_of
from ..methods import Request, forward_pass
from ..models import default_layer, labels_of, resolve_model
from ..models.dense import DensePrompts
from ..statistics.clustering import spectral
from ..targets import logits_of
from .contexts import NAMED_BY, Candidates
from .interventions import DEFAULT_FILLS
from .log_odds import LogOdds, called, find_target, score_of
from .measuring import Audited
from .pictures import as_samples, unit_range
from .result import plain
from .running import preparation
from .verdict import Verdict

_SIDE = 16
#: what is taken together
BY = ("features", "maps", "concepts")


@dataclass(frozen=True, eq=False)
class Cluster:
    """Images whose maps cover alike, or that show a concept.

    Attributes:
        images: numbers in the data, wrong answers first, then by score.
        ids: their names.
        share: of all images clustered.
        wrong: share of its images without the object (if labels are known): called, but not there.
        score: mean log-odds.
        map: (16, 16) mean normalised map.
        labels: co-occurring labels with lift: how much more frequent than in the rest.
        maps: (images, 16, 16) normalised maps, in the order of `images`.
        geometry: where each map lies on its photo.
        name: of a concept.
        on_object: share of a concept that lies on the object.
        verdict: of an audit with the concept as the context; None of a cluster, and of a concept
            that lies on the object for the most part.
    """

    images: tuple[int, ...]
    ids: tuple[str, ...]
    share: float
    wrong: float
    score: float
    map: np.ndarray
    labels: tuple[tuple[str, float], ...]
    maps: np.ndarray
    geometry: tuple[Geometry, ...]
    name: str = ""
    on_object: float = float("nan")
    verdict: Verdict | None = None


@dataclass(frozen=True, eq=False)
class Discovery:
    """Clusters of what a model looks at for one class, the most suspicious first.

    Attributes:
        clusters: ordered by the share of wrong answers; concepts by what the audit found of them.
        eigenvalues: smallest of the graph's normalised Laplacian; as many near 0 as clusters.
        by: "features", "maps" or "concepts".
    """

    object: str
    clusters: tuple[Cluster, ...]
    eigenvalues: tuple[float, ...]
    by: str
    data: Any

    def sheet(
        self, cluster: int, *, columns: int = 6, images: int = 12, side: int = 128,
        maps: bool = False,
    ) -> Any:  # fmt: skip
        """Return a contact sheet of a cluster as a PIL image, worst examples first.

        Args:
            cluster: which, the most suspicious is 0.
            columns: tiles in a row.
            images: most tiles.
            side: of a tile in pixels; photos keep their shape.
            maps: under each photo the same with its map over it.
        """
        from PIL import Image

        from ..data.boatwater import contact_sheet
        from ..render import overlay

        chosen = self.clusters[cluster]
        tiles = []
        for place, number in enumerate(chosen.images[:images]):
            photo = self.data[number].read()
            shown = [photo]
            if maps:
                values = chosen.maps[place]
                shown.append(
                    overlay(photo, values / max(float(values.max()), 1e-12),
                            geometry=chosen.geometry[place])
                )  # fmt: skip
            tiles.append(np.concatenate([_tile(x, side) for x in shown]))
        return Image.fromarray(contact_sheet(np.stack(tiles), columns=min(columns, len(tiles))))

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the maps as JSON values."""
        return plain(
            {
                "object": self.object, "by": self.by, "eigenvalues": list(self.eigenvalues),
                "clusters": [
                    {"images": len(c.images), "share": c.share, "wrong": c.wrong,
                     "score": c.score, "labels": [list(pair) for pair in c.labels],
                     "ids": list(c.ids), "name": c.name, "on_object": c.on_object,
                     "verdict": c.verdict}
                    for c in self.clusters
                ],
            }
        )  # fmt: skip

    def save(self, folder: Any, *, force: bool = False) -> dict[str, Any]:
        """Write discovery.html (contact sheets) and discovery.json; return their paths.

        Raises:
            OutputExists: one is there and `force` is off.
        """
        from ..report import write_discovery

        return write_discovery(self, folder, force=force)


def _tile(image: np.ndarray, side: int) -> np.ndarray:
    """Return an image (h, w, 3) uint8 in a white square, whole and in its own shape."""
    import cv2

    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    small = cv2.resize(image, size, interpolation=way)
    tile = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = small
    return tile


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
    fills: Sequence[str] = DEFAULT_FILLS,
    words: DensePrompts | None = None,
    device: Any = None,
    batch_size: int = 32,
    seed: int = 0,
) -> Discovery:
    """Find what a model looks at in the images that it calls the object.

    Args:
        model, data, object, target, preprocess, labels, layer, fills, device, batch_size: see
            `confusion`.
        by: "features": clusters by the mean feature vector under the map; "maps": by the map
            itself (SpRAy); "concepts": the layer's concepts (`attnviz.concepts`), which need not
            part the images, each judged by an audit of up to `limit` images in which it is the
            context. Needs masks or boxes of the object in some images.
        clusters: how many; None takes the largest gap of the spectrum, 2 to 6, or 6 concepts.
        limit: most images that are looked at, drawn by the seed.
        words: prompts that name the concepts.
        seed: of the drawing and of k-means.

    Raises:
        DataError: fewer than 8 images are called the object; concepts without annotation.
    """
    if by not in BY:
        raise DataError(f"by={by!r} is not one of {', '.join(BY)}{did_you_mean(by, BY)}")
    samples = as_samples(data)
    module, loaded = resolve_model(model, device)
    prepare, _ = preparation(preprocess, module, loaded, data)
    runner = Audited(module)
    labels = labels if labels is not None else labels_of(module, loaded)
    order = np.random.default_rng((seed, 3)).permutation(len(samples)).tolist()
    found = _Called([], [], [], [], [], [] if by == "concepts" else None)
    aim, read, start = None, "", 0
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        prepared = [prepare(samples[i].read()) for i in part]
        inputs = torch.stack([tensor for tensor, _ in prepared]).to(runner.device)
        if aim is None:
            with runner.running(), torch.no_grad():
                total = logits_of(module(inputs)).shape[1]
            if labels is None and total == len(getattr(data, "classes", ())):
                labels = data.classes
            aim = find_target(target, object, classes=total, labels=labels)
            read = layer or default_layer(module, inputs)
        found.add(part, [place for _, place in prepared], _look(runner, inputs, read, aim), aim)
        if len(found.numbers) >= limit:
            break
    if len(found.numbers) < 8:
        raise DataError(
            f"{len(found.numbers)} images are called {object!r} with evidence, at least 8 are "
            "needed to find clusters"
        )
    if found.seen is not None and aim is not None:
        candidates = Candidates.found(runner, prepare, read, torch.stack(found.seen), clusters or 6)
        options = {
            "object": object, "target": aim.indices, "layer": read, "fills": fills, "seed": seed,
            "preprocess": "unit" if prepare is unit_range else preprocess,
            "batch_size": batch_size,
        }  # fmt: skip
        seen = [samples[i] for i in order[: start + batch_size]][:limit]
        judged = _concepts(candidates, samples, found, loaded or module, seen, words, options)
        return Discovery(object, judged, (), by, samples)
    described = found.features if by == "features" else [m.flatten() for m in found.maps]
    group, values = spectral(torch.stack(described), clusters, seed=seed)
    made = [
        _cluster(samples, object, (group == k).nonzero()[:, 0].tolist(), found)
        for k in range(int(group.max()) + 1)
    ]
    made.sort(key=lambda c: (-(c.wrong if c.wrong == c.wrong else 0), -c.share))
    return Discovery(object, tuple(made), tuple(values.tolist()), by, samples)


@dataclass(frozen=True, eq=False)
class _Called:
    """The images that are called the object, with evidence."""

    numbers: list[int]
    scores: list[float]
    maps: list[Tensor]
    features: list[Tensor]
    places: list[Geometry]
    seen: list[Tensor] | None

    def add(
        self, part: Sequence[int], places: Sequence[Geometry], looked: Sequence[Tensor],
        aim: LogOdds,
    ) -> None:  # fmt: skip
        maps, features, seen, logits = looked
        kept = called(logits, aim.indices) & (maps.sum((1, 2)) > 0)
        scores = score_of(logits, aim.indices).tolist()
        for k in kept.nonzero()[:, 0].tolist():
            self.numbers.append(part[k])
            self.scores.append(scores[k])
            self.maps.append(maps[k])
            self.features.append(features[k])
            self.places.append(places[k])
            if self.seen is not None:
                self.seen.append(seen[k])


def _concepts(
    candidates: Candidates, samples: Any, found: _Called, model: Any, judged: Sequence[Any],
    words: DensePrompts | None, options: dict[str, Any],
) -> tuple[Cluster, ...]:  # fmt: skip
    """Return the concepts, those that are relied on most first."""
    present = candidates.present()
    on_object = candidates.on_object(samples, found.numbers, options["object"]).tolist()
    made = []
    for k in range(len(on_object)):
        maps = candidates.maps[:, k]
        maps = maps * (maps > candidates.thresholds[k])  # as it is audited
        inside = present[:, k].nonzero()[:, 0]
        inside = inside[maps[inside].mean((1, 2)).argsort(descending=True)].tolist()
        if not inside:
            continue
        name = f"concept {k}"
        if words is not None:
            photos = (samples[found.numbers[i]].read() for i in inside[:NAMED_BY])
            name += f" ({candidates.name(k, words, photos)})"
        verdict = None
        if not on_object[k] > 0.5:
            verdict = candidates.judge(k, name, model, judged, **options)
        total = maps.sum((1, 2), keepdim=True).clamp_min(1e-30)
        cluster = _cluster(samples, options["object"], inside, found, _small(maps / total))
        made.append(replace(cluster, name=name, on_object=on_object[k], verdict=verdict))

    def rank(cluster: Cluster) -> tuple[bool, float]:
        verdict = cluster.verdict
        if verdict is None or verdict.severity is None:
            return True, 1.0
        return not verdict.alarm, -verdict.severity.value

    return tuple(sorted(made, key=rank))


def _look(
    runner: Audited, inputs: Tensor, layer: str, aim: LogOdds
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return maps (B, 16, 16) that sum to 1, features under them (B, C), activation and logits."""
    request = Request(runner.module, inputs, len(inputs), target=aim, input_size=size_of(inputs))
    with runner.running(), warnings.catch_warnings():
        # an image without any gradient has an empty map here, and belongs to no cluster
        warnings.simplefilter("ignore", AttnvizWarning)
        done = forward_pass(request, layers=[layer])
        gradient = done.gradients()[layer]
    activation, logits = done.activations[layer], done.logits
    assert logits is not None  # the log-odds are read off them
    values = (activation * gradient).sum(1).relu().float().cpu()  # HiResCAM
    total = values.sum((1, 2), keepdim=True)
    weights = values / torch.where(total > 0, total, torch.ones_like(total))
    activation = activation.detach().float().cpu()
    feature = torch.einsum("bchw,bhw->bc", activation, weights)
    found = logits.detach().float().cpu()
    return _small(weights), F.normalize(feature, dim=1), activation, found


def _small(maps: Tensor) -> Tensor:
    """Return maps (B, h, w) as (B, 16, 16)."""
    return F.interpolate(maps[:, None], (_SIDE, _SIDE), mode="bilinear", align_corners=False)[:, 0]


def _cluster(
    samples: Any, object: str, inside: list[int], found: _Called, maps: Tensor | None = None
) -> Cluster:
    """Return a cluster of some of the images: worst first, or as they come where maps are given."""
    numbers, scores = found.numbers, found.scores
    labelled = any(samples[i].labels for i in numbers)
    absent = {i: object not in samples[numbers[i]].labels for i in inside}
    order = inside
    if maps is None:
        maps, order = (
            torch.stack(found.maps),
            sorted(inside, key=lambda i: (not absent[i], -scores[i])),
        )
    mine: Counter[str] = Counter()
    rest: Counter[str] = Counter()
    for i, image in enumerate(numbers):
        (mine if i in absent else rest).update(samples[image].labels)
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
        maps[order].numpy(),
        tuple(found.places[i] for i in order),
    )
