"""COCO's JSON: boxes, polygons and run-length masks of instances."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..dataset import READERS, Dataset, build, split_name
from ..masks import MaskSource, PolygonMask, RunLengthMask, UnionMask
from ..sample import Box, Sample
from ._common import image_root, inside, key, number, read_json, text, whole_size

_NAMES = ("annotations.json", "_annotations.coco.json", "instances.json")
#: files of several splits below one folder: COCO's own root, and what annotation tools export
_SPLIT_FILES = ("annotations/instances_*.json", "*/_annotations.coco.json")


def _files(root: Path) -> list[Path]:
    """Return the annotation files of a path: itself, one of the usual names, or one a split."""
    if root.is_file():
        return [root] if root.suffix.lower() == ".json" else []
    found = next(([root / n] for n in _NAMES if (root / n).is_file()), [])
    return found or sorted(file for pattern in _SPLIT_FILES for file in root.glob(pattern))


def _split_of(file: Path) -> str:
    """Return a file's split: "train" of annotations/instances_train2017.json, train/..."""
    own = file.stem.startswith("instances_")
    name = file.stem.removeprefix("instances_") if own else file.parent.name
    return split_name(name.rstrip("0123456789_-") or name)


def detect(root: Path) -> bool:
    """Return whether a JSON file (or the folder that holds it) looks like COCO's."""
    files = _files(root)
    if not files:
        return False
    if root.is_dir():
        return True
    with root.open("rb") as stream:
        # "annotations" may come after a long list of images, so a large file is searched through.
        tail = b""
        while chunk := stream.read(1 << 20):
            if b'"annotations"' in tail + chunk:
                return True
            tail = chunk[-16:]
    return False


@READERS.register("coco", detect=detect)
def read_coco(root: Path, *, images: Path | None = None, faults: str = "raise") -> Dataset:
    """COCO JSON: `images`, `annotations` (bbox, segmentation, iscrowd) and `categories`.

    A box (x, y, width, height) becomes the half-open (x, y, x + width, y + height). The masks of
    one class in an image are united; each box keeps its own. An annotation may name its category
    in `category` instead of by `category_id`. A folder with several files
    (annotations/instances_train2017.json beside train2017/, or train/_annotations.coco.json) is
    read whole, each file a split. `masks_from` of an annotation says what made its mask, if no
    person did (`Sample.mask_source`).
    """
    files = _files(root)
    if not files:
        raise DataError(
            f"{root}: expected a COCO .json file, or a folder with {', '.join(_NAMES)} or "
            f"{' or '.join(_SPLIT_FILES)}"
        )
    entries: list[Callable[[], Sample]] = []
    classes: dict[str, None] = {}
    for file in files:
        made, names = _entries(file, images, _split_of(file) if len(files) > 1 else None)
        entries += made
        classes |= dict.fromkeys(names)
    return build(entries, classes=list(classes) or None, root=root, format="coco", faults=faults)


def annotations_of(root: Path) -> list[Sample]:
    """Return the samples of all files of a path, without a look for their images."""
    return [make() for file in _files(root) for make in _entries(file, None, None)[0]]


def _entries(
    file: Path, images: Path | None, split: str | None
) -> tuple[list[Callable[[], Sample]], list[str]]:
    """Return one call a sample of an annotation file, and its categories."""
    document = read_json(file)
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        raise DataError(f"{file}: expected an object with a list 'images', as COCO writes it")
    annotations = document.get("annotations")
    if not isinstance(annotations, list):
        raise DataError(f"{file}: has no list 'annotations'; is it COCO's instances file?")
    categories = {}
    if not isinstance(document.get("categories", []), list):
        raise DataError(f"{file}: 'categories' is no list")
    for item in document.get("categories", []):
        if not isinstance(item, dict) or "id" not in item or not isinstance(item.get("name"), str):
            raise DataError(f"{file}: category {item!r}, expected {{'id': ..., 'name': '...'}}")
        categories[key(item["id"], f"{file}: category")] = item["name"]
    of_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for item in annotations:
        if not isinstance(item, dict) or "image_id" not in item:
            raise DataError(f"{file}: annotation {str(item)[:80]} has no 'image_id'")
        of_image[key(item["image_id"], f"{file}: image_id")].append(item)
    known = {
        key(i["id"], f"{file}: image")
        for i in document["images"]
        if isinstance(i, dict) and "id" in i
    }
    lost = [i for i in of_image if i not in known]
    if lost:
        raise DataError(
            f"{file}: {len(lost)} image ids of annotations are not in 'images', the first "
            f"{lost[0]!r}; do both lists belong to the same split?"
        )
    own = file.stem.removeprefix("instances_")
    base = image_root(file, images, "images", own, f"../{own}", "../images")
    entries: list[Callable[[], Sample]] = [
        partial(_sample, base, item, of_image, categories, file, split)
        for item in document["images"]
    ]
    return entries, list(categories.values())


def _sample(
    base: Path,
    item: Any,
    of_image: dict[Any, list[dict[str, Any]]],
    categories: dict[Any, str],
    file: Path,
    split: str | None,
) -> Sample:
    if not isinstance(item, dict) or "id" not in item or "file_name" not in item:
        raise DataError(f"{file}: image entry {str(item)[:80]} has no 'id' or no 'file_name'")
    where = f"{file.name}, image {item['id']!r}"
    path = inside(base, item["file_name"], where)
    size = whole_size(item.get("height"), item.get("width"), where)
    boxes = []
    parts: dict[str, list[MaskSource]] = defaultdict(list)
    made_by: dict[str, str] = {}
    for annotation in of_image.get(item["id"], ()):
        of = f"{where}, annotation {annotation.get('id')!r}"
        label = _label(annotation, categories, of)
        mask = _mask(annotation.get("segmentation"), size, of)
        if mask is not None:
            parts[label].append(mask)
            if source := text(annotation, "masks_from", of):
                made_by[label] = source
        box = annotation.get("bbox")
        if box is None:
            continue
        if not isinstance(box, (list, tuple)) or len(box) != 4:
            raise DataError(f"{of}: bbox {box!r}, expected [x, y, width, height]")
        x, y, width, height = (number(v, f"{of}, bbox") for v in box)
        crowd = annotation.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise DataError(f"{of}: iscrowd {crowd!r:.60}, expected 0 or 1")
        crowd = bool(crowd)
        boxes.append(Box(x, y, x + width, y + height, label, crowd, mask).checked(size, of))
    labels = dict.fromkeys([b.label for b in boxes] + list(parts))
    fields = ("license", "source", "flickr_url", "coco_url", "author")
    return Sample(
        # two splits may call their images alike
        id=f"{split}/{item['file_name']}" if split else str(item["file_name"]),
        image=path,
        split=split,
        labels=tuple(labels),
        boxes=tuple(boxes),
        masks={n: p[0] if len(p) == 1 else UnionMask(tuple(p)) for n, p in parts.items()},
        size=size,
        meta={k: item[k] for k in fields if k in item}
        | ({"masks_from": made_by} if made_by else {}),
    )


def _label(annotation: dict[str, Any], categories: dict[Any, str], where: str) -> str:
    if "category_id" in annotation:
        if key(annotation["category_id"], f"{where}, category_id") not in categories:
            raise DataError(
                f"{where}: category_id {annotation['category_id']!r} is not in 'categories' "
                f"({len(categories)} of them)"
            )
        return categories[annotation["category_id"]]
    name = annotation.get("category")
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: neither 'category_id' nor a name in 'category'")
    return name


def _mask(code: Any, size: tuple[int, int] | None, where: str) -> MaskSource | None:
    if not code:
        return None
    if isinstance(code, dict):
        stated, counts = code.get("size"), code.get("counts")
        if not isinstance(stated, list) or len(stated) != 2 or not isinstance(counts, (list, str)):
            raise DataError(f"{where}: run-length mask needs 'size' [h, w] and 'counts'")
        own = whole_size(stated[0], stated[1], where)
        if own is None:
            raise DataError(f"{where}: run-length mask needs 'size' [h, w], got {stated}")
        if size is not None and own != size:
            raise DataError(f"{where}: run-length mask of size {stated}, the image has {size}")
        return RunLengthMask(counts if isinstance(counts, str) else tuple(counts), own)
    if not isinstance(code, list) or not all(isinstance(p, list) for p in code):
        raise DataError(
            f"{where}: segmentation is neither a list of polygons nor a run-length code"
        )
    for polygon in code:
        if len(polygon) < 6 or len(polygon) % 2:
            raise DataError(
                f"{where}: a polygon has {len(polygon)} numbers, expected x, y pairs of at least "
                f"3 points"
            )
    return PolygonMask(tuple(tuple(number(v, where) for v in p) for p in code))
