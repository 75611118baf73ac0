"""`open_dataset`, which reads any known layout."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from .dataset import READERS, Dataset, split_name
from .mask_folders import add_masks

#: detection asks these first, in this order, then further layouts, and last the folder of folders
_ORDER = ("label_studio", "coco", "masks", "voc", "csv", "yolo", "hf")
_PLAIN = "imagefolder"


def open_dataset(
    path: str | Path,
    *,
    format: str | None = None,
    images: str | Path | None = None,
    masks: str | Path | Mapping[str, str | Path] | None = None,
    split: str | None = None,
    faults: str = "raise",
) -> Dataset:
    """Read a dataset of images with labels, boxes or masks. Nothing is decoded yet.

    Layouts (`attnviz.data.READERS` lists them): "imagefolder" (a folder a class, below
    train/validation/test or not, with masks/ beside or not), "coco" (JSON), "voc" (Pascal VOC),
    "csv" (one row an image or a box), "masks" (index.json, images and label images),
    "images_masks" (flat images/ and masks/), "label_studio" (its JSON export), "yolo" (images/
    beside labels/), "webdataset" (.tar shards), "hf" (saved by Hugging Face's datasets).

    Args:
        path: the folder or annotation file.
        format: the layout's name; None recognises it.
        images: the folder that relative image names start from; None looks in the usual places.
        masks: a folder of mask files that mirror the images' names (not 0 = the image's label),
            or class name -> such a folder; or annotations of the same images, a COCO file or a
            Label Studio export. They add to the masks of the dataset itself.
        split: keep one split only ("train", "validation", "test"; "val" is validation).
        faults: "raise" lists all faulty entries in one error; "skip" drops them with a warning.

    Returns:
        `Dataset`.

    Raises:
        DataError: not found, not recognised, or with faulty entries; the message lists them.
    """
    root = Path(path).expanduser()
    if not os.path.exists(root):  # also of a name too long to be one
        raise DataError(f"dataset {root} does not exist")
    if format is None:
        format = _detect(root)
    entry = READERS.get(format)
    options: dict[str, Any] = {"faults": faults}
    if images is not None:
        images = Path(images).expanduser()
        if not os.path.isdir(images):
            raise DataError(f"image folder {images} does not exist or is no folder")
        options["images"] = images
    try:
        dataset = entry.fn(root, **options)
    except DataError:
        raise
    except OSError as fault:
        raise DataError(f"{root} cannot be read: {fault.strerror or fault}") from fault
    except (TypeError, ValueError, OverflowError, LookupError, AttributeError) as fault:
        raise DataError(
            f"{root} does not hold what the layout {format!r} has: {type(fault).__name__}: {fault}"
        ) from fault
    if masks is not None:
        dataset = add_masks(dataset, masks, images)
    if split is not None:
        dataset = _one_split(dataset, split)
    return dataset


def _detect(root: Path) -> str:
    further = [n for n in READERS.names() if n not in (*_ORDER, _PLAIN)]
    for name in (*_ORDER, *further, _PLAIN):
        if READERS.get(name).meta["detect"](root):
            return name
    what = (
        f"{root} has no layout that is known. Expected one of: a folder a class; COCO JSON; "
        "a folder with Annotations/*.xml (VOC); a CSV with a column 'path'; a folder with "
        "index.json"
    )
    raise DataError(
        f"{what}. Name it with format=..., one of {', '.join(READERS.names())}", command=what
    )


def _one_split(dataset: Dataset, split: str) -> Dataset:
    kept = dataset.filter(lambda s: s.split == split_name(split))
    if not len(kept):
        known = sorted({s.split for s in dataset if s.split})
        what = f"{dataset.root} has no split {split!r}; it has {known or 'none'}"
        raise DataError(
            what + ": make them with attnviz.data.splits" * (not known),
            command=what + ": leave --split out" * (not known),
        )
    return kept
