"""YOLO: images/ beside labels/, a text file an image, a line a box."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ... import limits
from ...errors import DataError
from ..dataset import READERS, SPLIT_NAMES, Dataset, build, split_name
from ..masks import PolygonMask
from ..sample import Box, Sample
from ._common import number
from .imagefolder import images_below

_NAMES = ("data.yaml", "dataset.yaml", "data.yml", "classes.txt", "obj.names")


def detect(root: Path) -> bool:
    """Return whether a folder has images/ and labels/ with text files in it."""
    labels = root / "labels"
    return (root / "images").is_dir() and labels.is_dir() and any(labels.rglob("*.txt"))


@READERS.register("yolo", aliases=("ultralytics",), detect=detect)
def read_yolo(root: Path, *, images: Path | None = None, faults: str = "raise") -> Dataset:
    """`images/train/1.jpg` and `labels/train/1.txt`, a line `class x y width height` a box.

    Numbers are shares of the image's sides, x and y the box's centre; a line with more of them is
    a polygon `class x1 y1 x2 y2 ...`, whose box is the one round it. Names of the classes stand in
    data.yaml (`names:`) or classes.txt; without either they are called by their numbers. An image
    without a text file is one without objects.
    """
    base = images or root / "images"
    if not detect(root):
        raise DataError(f"{root}: expected folders 'images' and 'labels', as YOLO has them")
    names = _names(root)
    files = list(images_below(base))
    entries = [partial(_sample, root, base, file, names) for file in files]
    return build(entries, classes=names or None, root=root, format="yolo", faults=faults)


def _names(root: Path) -> tuple[str, ...]:
    from ...models import read_labels

    file = next((root / name for name in _NAMES if (root / name).is_file()), None)
    return () if file is None else read_labels(file)


def _sample(root: Path, base: Path, file: Path, names: tuple[str, ...]) -> Sample:
    inside = file.relative_to(base)
    notes = root / "labels" / inside.with_suffix(".txt")
    split = inside.parts[0] if len(inside.parts) > 1 else None
    sample = Sample(
        str(inside),
        file,
        split=split_name(split) if split and split.lower() in (*SPLIT_NAMES, "train") else None,
    )
    if not notes.is_file():
        return sample
    limits.check("xml_bytes", notes.stat().st_size, str(notes))
    height, width = sample.image_size()
    boxes: list[Box] = []
    polygons: dict[str, list[tuple[float, ...]]] = {}
    for count, line in enumerate(notes.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{notes}, line {count}"
        first, *rest = line.split()
        label = _label(first, names, where)
        shares = [number(value, where) for value in rest]
        if len(shares) == 4:
            x, y, w, h = shares
            points = [(x - w / 2, y - h / 2), (x + w / 2, y + h / 2)]
        elif len(shares) >= 6 and len(shares) % 2 == 0:
            points = list(zip(shares[::2], shares[1::2], strict=True))
            flat = tuple(v for px, py in points for v in (px * width, py * height))
            polygons.setdefault(label, []).append(flat)
        else:
            raise DataError(f"{where}: {len(shares)} numbers behind the class, expected 4 or pairs")
        xs, ys = zip(*points, strict=True)
        box = Box(min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height, label)
        boxes.append(box.checked((height, width), where))
    labels = tuple(dict.fromkeys(box.label for box in boxes))
    # a mask of some of a class's things would call the others background
    whole = {n: p for n, p in polygons.items() if len(p) == sum(b.label == n for b in boxes)}
    return Sample(
        sample.id, file, labels=labels, boxes=tuple(boxes), size=(height, width),
        masks={n: PolygonMask(tuple(p)) for n, p in whole.items()}, split=sample.split,
    )  # fmt: skip


def _label(text: str, names: tuple[str, ...], where: str) -> str:
    if not text.isdecimal():
        raise DataError(f"{where}: class {text!r} is no number")
    if names and int(text) >= len(names):
        raise DataError(f"{where}: class {text}, and there are names of {len(names)} classes")
    return names[int(text)] if names else text
