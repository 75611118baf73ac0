"""Contexts without annotation: cluster what the maps of one class cover.

SpRAy (Lapuschkin et al., Nature Communications 2019) clusters relevance maps by their spectrum;
here maps, or the features that they weight. A cluster of images in which the model relies on
something else than in the rest shows itself as a group of its own.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import AttnvizWarning, DataError
from ..geometry import Geometry, size_of
from ..methods import Request, forward_pass
from ..models import default_layer, labels_of, resolve_model
from ..statistics.clustering import spectral
from ..targets import logits_of
from .log_odds import LogOdds, called, find_target, score_of
from .measuring import Audited
from .pictures import as_samples
from .result import plain
from .running import preparation

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
        maps: (images, 16, 16) normalised maps, in the order of `images`.
        geometry: where each map lies on its photo.
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
                     "ids": list(c.ids)}
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
    module, loaded = resolve_model(model, device)
    prepare, _ = preparation(preprocess, module, loaded, data)
    runner = Audited(module)
    labels = labels if labels is not None else labels_of(module, loaded)
    order = np.random.default_rng((seed, 3)).permutation(len(samples)).tolist()
    numbers: list[int] = []
    scores: list[float] = []
    rows: list[Tensor] = []
    maps: list[Tensor] = []
    places: list[Geometry] = []
    aim, read = None, ""
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
        found, feature, logits = _look(runner, inputs, read, aim)
        for k, number in enumerate(part):
            if bool(called(logits, aim.indices)[k]) and bool(found[k].sum() > 0):
                numbers.append(number)
                scores.append(float(score_of(logits, aim.indices)[k]))
                rows.append(feature[k])
                maps.append(found[k])
                places.append(prepared[k][1])
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
        _cluster(samples, object, k, group, numbers, scores, torch.stack(maps), places)
        for k in range(int(group.max()) + 1)
    ]
    made.sort(key=lambda c: (-(c.wrong if c.wrong == c.wrong else 0), -c.share))
    return Discovery(object, tuple(made), tuple(values.tolist()), by, samples)


def _look(
    runner: Audited, inputs: Tensor, layer: str, aim: LogOdds
) -> tuple[Tensor, Tensor, Tensor]:
    """Return maps (B, 16, 16) that sum to 1, features under them (B, C), and logits."""
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
    feature = torch.einsum("bchw,bhw->bc", activation.detach().float().cpu(), weights)
    small = F.interpolate(weights[:, None], (_SIDE, _SIDE), mode="bilinear", align_corners=False)
    return small[:, 0], F.normalize(feature, dim=1), logits.detach().float().cpu()


def _cluster(
    samples: Any, object: str, number: int, group: Tensor, numbers: list[int],
    scores: list[float], maps: Tensor, places: Sequence[Geometry],
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
        maps[order].numpy(),
        tuple(places[i] for i in order),
    )
