"""Label Studio's JSON export: polygons and rectangles that people drew."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ...errors import DataError
from ..dataset import READERS, Dataset, build
from ..masks import BoxMask, MaskSource, PolygonMask, UnionMask
from ..sample import Box, Sample
from ._common import image_root, inside, number, read_json, whole_size

#: what Label Studio puts before the name of a file that was uploaded
_UPLOAD = re.compile(r"^[0-9a-f]{8}-")


def detect(root: Path) -> bool:
    """Return whether a JSON file begins as a list of Label Studio's tasks."""
    if root.suffix.lower() != ".json" or not root.is_file():
        return False
    with root.open("rb") as stream:
        start = stream.read(1 << 16)
    return start.lstrip()[:1] == b"[" and b'"data"' in start


@READERS.register("label_studio", detect=detect)
def read_label_studio(root: Path, *, images: Path | None = None, faults: str = "raise") -> Dataset:
    """Label Studio's JSON export: the polygons and rectangles of each task's annotations.

    What people submitted counts; predictions, and annotations that were cancelled, are not read.
    The image is the task's `data.image` below `images/` or the folder given.
    """
    base = image_root(root, images, "images")
    entries = [partial(make, base) for make in tasks(root)]
    return build(entries, classes=None, root=root, format="label_studio", faults=faults)


def annotations_of(root: Path) -> list[Sample]:
    """Return the samples of a file, without a look for their images."""
    return [make(root.parent) for make in tasks(root)]


def tasks(file: Path) -> list[Callable[[Path], Sample]]:
    """Return one function a task: folder of the images -> `Sample`, whose image is not looked at.

    Raises:
        DataError: no list of tasks.
    """
    document = read_json(file)
    if not isinstance(document, list):
        raise DataError(f"{file}: expected a list of tasks, as Label Studio exports it (JSON)")
    return [partial(_sample, file, task) for task in document]


def _sample(file: Path, task: Any, base: Path) -> Sample:
    data = task.get("data") if isinstance(task, dict) else None
    if not isinstance(data, dict) or not isinstance(data.get("image"), str):
        raise DataError(f"{file}: task {str(task)[:80]} has no 'data' with an 'image'")
    name = data.get("file") or _name_of(data["image"])
    where = f"{file.name}, task {name!r}"
    boxes: list[Box] = []
    parts: dict[str, list[MaskSource]] = {}
    size = None
    for result in _results(task, where):
        value, kind = result.get("value"), str(result.get("type"))
        if not isinstance(value, dict) or not kind.endswith("labels"):
            continue  # choices and texts about the whole image
        if kind not in ("polygonlabels", "rectanglelabels"):
            raise DataError(
                f"{where}: {kind!r} is not read; draw polygons or rectangles, or export as COCO"
            )
        size = whole_size(result.get("original_height"), result.get("original_width"), where)
        if size is None:
            raise DataError(f"{where}: 'original_width' and 'original_height' are missing")
        labels = value.get(kind)
        if not isinstance(labels, list) or not labels or not isinstance(labels[0], str):
            raise DataError(f"{where}: a {kind} region has no label")
        mask, box = _region(kind, value, size, where)
        parts.setdefault(labels[0], []).append(mask)
        boxes.append(Box(*box, labels[0], mask=mask).checked(size, where))
    return Sample(
        id=str(name), image=inside(base, name, where), labels=tuple(parts), boxes=tuple(boxes),
        masks={n: p[0] if len(p) == 1 else UnionMask(tuple(p)) for n, p in parts.items()},
        size=size,
    )  # fmt: skip


def _name_of(image: str) -> str:
    """Return a file's name in Label Studio's address of it: uploaded, local, or a path."""
    url = urlsplit(image)
    path = parse_qs(url.query).get("d", [url.path])[0]
    if "/upload/" in path:
        return _UPLOAD.sub("", Path(path).name)
    return path.removeprefix("/data/local-files/").lstrip("/").removeprefix("images/")


def _results(task: dict[str, Any], where: str) -> Iterable[dict[str, Any]]:
    annotations = task.get("annotations", [])
    if not isinstance(annotations, list):
        raise DataError(f"{where}: 'annotations' is no list")
    for annotation in annotations:
        if isinstance(annotation, dict) and not annotation.get("was_cancelled"):
            yield from (r for r in annotation.get("result", ()) if isinstance(r, dict))


def _region(
    kind: str, value: dict[str, Any], size: tuple[int, int], where: str
) -> tuple[MaskSource, tuple[float, float, float, float]]:
    """Return a region, given in percent of the image, as a mask and the box around it."""
    height, width = size[0] / 100, size[1] / 100
    if kind == "rectanglelabels":
        if value.get("rotation"):
            raise DataError(f"{where}: a rectangle is turned; draw it as a polygon")
        x, y, w, h = (number(value.get(k), f"{where}, {k}") for k in ("x", "y", "width", "height"))
        corners = (x * width, y * height, (x + w) * width, (y + h) * height)
        return BoxMask(corners), corners
    points = value.get("points")
    if not isinstance(points, list) or len(points) < 3:
        raise DataError(f"{where}: a polygon has fewer than 3 points")
    try:
        pairs = [(number(x, where) * width, number(y, where) * height) for x, y in points]
    except (TypeError, ValueError):
        raise DataError(f"{where}: points of a polygon are pairs of percents") from None
    xs, ys = zip(*pairs, strict=True)
    flat = tuple(v for pair in pairs for v in pair)
    return PolygonMask((flat,)), (min(xs), min(ys), max(xs), max(ys))
