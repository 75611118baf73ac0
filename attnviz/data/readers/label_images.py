"""index.json beside images and label images, where a pixel's value is its class's number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..dataset import READERS, Dataset, build, split_name
from ..masks import MaskFile
from ..sample import Sample
from ._common import inside, read_json, text, whole_size


@dataclass(frozen=True)
class _LabelMasks(Mapping[str, MaskFile]):
    """Class name -> its mask in one label image; a class that does not occur has an empty one."""

    path: Path
    numbers: Mapping[str, int]

    def __getitem__(self, name: str) -> MaskFile:
        return MaskFile(self.path, (self.numbers[name],))

    def __iter__(self) -> Iterator[str]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


def detect(root: Path) -> bool:
    """Return whether a folder holds an index.json."""
    return (root / "index.json").is_file()


@READERS.register("masks", aliases=("label_images",), detect=detect)
def read_label_images(root: Path, *, images: Path | None = None, faults: str = "raise") -> Dataset:
    """Folder with index.json: `classes` {number: name}, `void`, `images` [{image, mask, ...}].

    Each entry names an image and a label image (one number a pixel) relative to the folder, and
    may give `width`, `height`, `area` {class: share}, `label`, `source`, `split`, `group`. The
    void value (default 0) is readable as the mask "void". Without `area`, every label image is
    read once to learn its classes.
    """
    file = root / "index.json"
    if not file.is_file():
        raise DataError(f"{root}: expected a file index.json that lists images and masks")
    document = read_json(file)
    if (
        not isinstance(document, dict)
        or not isinstance(document.get("classes"), dict)
        or not isinstance(document.get("images"), list)
    ):
        raise DataError(f"{file}: expected 'classes' {{number: name}} and a list 'images'")
    try:
        values = {name: int(value) for value, name in document["classes"].items()}
    except (ValueError, TypeError) as fault:
        raise DataError(f"{file}: 'classes' maps numbers to names: {fault}") from fault
    if not all(isinstance(name, str) and name for name in values):
        raise DataError(f"{file}: 'classes' maps numbers to names, which are texts")
    void = document.get("void", 0)
    if type(void) is not int or void in values.values():
        raise DataError(f"{file}: void {void!r} must be a number that no class has")
    base = images or root
    numbers = {**values, "void": void}  # one table, shared by all samples
    entries = [partial(_sample, root, base, i, numbers, void) for i in document["images"]]
    return build(entries, classes=list(values), root=root, format="masks", faults=faults)


def _sample(root: Path, base: Path, item: Any, values: dict[str, int], void: int) -> Sample:
    if not isinstance(item, dict) or "image" not in item or "mask" not in item:
        raise DataError(f"index.json: entry {str(item)[:80]} has no 'image' or no 'mask'")
    where = f"index.json, {item['image']!r}"
    mask = inside(root, item["mask"], where)
    if not mask.is_file():
        raise DataError(f"{where}: mask {mask} does not exist")
    area = item.get("area")
    if not isinstance(area, dict | list | None):
        raise DataError(f"{where}: 'area' is {area!r:.60}, expected {{class: share}}")
    if area is None:
        import numpy as np

        from ..masks import read_label_image

        here = set(np.unique(read_label_image(mask)).tolist())
        unknown = here - set(values.values())
        if unknown:
            raise DataError(f"{where}: mask values {sorted(unknown)} are no class and not void")
        area = [name for name, value in values.items() if value in here and value != void]
    unknown = [name for name in area if not isinstance(name, str) or name not in values]
    if unknown:
        raise DataError(f"{where}: classes {unknown} of 'area' are not in 'classes'")
    split = text(item, "split", where)
    return Sample(
        id=str(item["image"]),
        image=inside(base, item["image"], where),
        label=text(item, "label", where),
        labels=tuple(area),
        masks=_LabelMasks(mask, values),
        source=text(item, "source", where) or "",
        split=split_name(split) if split else None,
        group=text(item, "group", where) or "",
        size=whole_size(item.get("height"), item.get("width"), where),
        meta={k: v for k, v in item.items() if k in ("area", "author", "licence", "license")},
    )
