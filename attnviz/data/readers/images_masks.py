"""`images/` beside `masks/`: one mask an image, of one thing that has no other name."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ...errors import DataError
from ..dataset import READERS, Dataset, build
from ..masks import MaskFile
from ..sample import Sample
from ._common import IMAGE_SUFFIXES

#: what the thing is called
OBJECT = "object"
_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")


def detect(root: Path) -> bool:
    """Return whether images and masks lie in two flat folders."""
    folders = (root / "images", root / "masks")
    return all(f.is_dir() for f in folders) and all(
        any(p.suffix.lower() in IMAGE_SUFFIXES for p in f.iterdir()) for f in folders
    )


@READERS.register("images_masks", detect=detect)
def read_images_masks(root: Path, *, images: Path | None = None, faults: str = "raise") -> Dataset:
    """Flat folders images/ and masks/: `masks/1.png` is where the object is in `images/1.jpg`.

    The class is called "object"; an image whose mask is 0 everywhere is without it. Each mask is
    read once to learn that, so every image needs one: whether the object is in an image without a
    mask is not known. With class folders inside both, see `imagefolder`.
    """
    base = images or root / "images"
    if not base.is_dir() or not (root / "masks").is_dir():
        raise DataError(f"{root}: expected the folders 'images' and 'masks'")
    files = [p for p in sorted(base.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES]
    entries = [partial(_sample, root / "masks", p) for p in files]
    return build(entries, classes=[OBJECT], root=root, format="images_masks", faults=faults)


def _sample(masks: Path, image: Path) -> Sample:
    file = next((f for s in _SUFFIXES if (f := masks / f"{image.stem}{s}").is_file()), None)
    if file is None:
        raise DataError(
            f"image {image} has no mask {masks / image.stem}.png, so it is not known whether the "
            "object is in it; add one (all 0 where it is not)"
        )
    mask = MaskFile(file)
    there = bool(mask.read(Sample(image.name, image).image_size()).any())
    return Sample(
        image.name, image, labels=(OBJECT,) if there else (), masks={OBJECT: mask} if there else {}
    )
