"""Datasets of annotated images behind one face, splits that do not leak, and boats on water.

`open_dataset` reads an image folder, COCO JSON, Pascal VOC, a CSV, images with label images, and
what Label Studio exports.
`splits` divides them by source. `attnviz.data.boatwater` is the benchmark of context confusion.

Boxes are half-open in pixels: (x0, y0, x1, y1) covers [x0, x1) x [y0, y1), pixel i spans
[i, i + 1). Masks are (h, w) bool at the size of their image.
"""

from .dataset import READERS, Dataset
from .masks import (
    ArrayMask,
    BoxMask,
    MaskFile,
    PolygonMask,
    RunLengthMask,
    mask_box,
    polygon_mask,
    rle_decode,
    rle_encode,
)
from .opening import open_dataset
from .sample import Box, Sample
from .splitting import Duplicate, find_duplicates, folds, refuse_leaks, splits

__all__ = [
    "READERS",
    "ArrayMask",
    "Box",
    "BoxMask",
    "Dataset",
    "Duplicate",
    "MaskFile",
    "PolygonMask",
    "RunLengthMask",
    "Sample",
    "find_duplicates",
    "folds",
    "mask_box",
    "open_dataset",
    "polygon_mask",
    "refuse_leaks",
    "rle_decode",
    "rle_encode",
    "splits",
]
