"""FiftyOne: maps as heatmap files and a `fiftyone.Sample` for each photo, for its app."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DataError
from ..heatmaps import Heatmaps
from ..writing import write_files


def samples(maps: Heatmaps, folder: str | Path, *, force: bool = False) -> list[Any]:
    """Write maps as picture files and return a `fiftyone.Sample` for each photo.

    A file is an 8-bit PNG of the photo's size: 0 is zero and outside the model's crop, 255 the
    map's own maximum.

    Args:
        maps: unsigned, of photos that are files.
        folder: where the PNGs go.
        force: overwrite files.

    Returns:
        Samples with a `fiftyone.Heatmap` in the field of the method ("gradcam"), of a photo's
        further classes in "gradcam_2" ...; beside `map_path` each has `label`, `score`,
        `probability`, `layer` and `maximum`, to filter and sort by.

    Raises:
        DataError: signed maps, or maps that do not know their photos' files.
        OutputExists: a file is there and `force` is off.

    Example:
        >>> found = samples(attnviz.explain(None, "photos/"), "maps")  # doctest: +SKIP
        >>> fiftyone.Dataset("boats").add_samples(found)  # doctest: +SKIP
    """
    fo: Any = importlib.import_module("fiftyone")  # of no extra: it pins much that others need
    maps.check_finite()
    if maps.geometry is None or not maps.sources or None in maps.sources:
        raise DataError("these maps do not know their photos' files; explain files, not arrays")
    if bool((maps.values < 0).any()):
        raise DataError("a heatmap of FiftyOne has no sign; explain with signed=False")
    field, found = re.sub(r"\W", "_", maps.method), []
    files: dict[Path, Any] = {}
    for row, one in enumerate(maps):
        source = Path(str(maps.sources[row])).absolute()
        if not found or found[-1].filepath != str(source):
            found.append(fo.Sample(filepath=str(source)))
        count = sum(name.startswith(field) for name in found[-1].field_names)
        name = field if not count else f"{field}_{count + 1}"
        path = Path(folder).absolute() / f"{len(found):05d}-{source.stem}.{name}.png"
        placed = one.normalized("max").resize("photo").values[0].nan_to_num(0.0)
        files[path] = _Png(np.rint(255 * placed.cpu().numpy()).astype(np.uint8))
        known = maps.probability
        found[-1][name] = fo.Heatmap(
            map_path=str(path), range=[0, 255], label=maps.label[row], layer=maps.layer,
            score=float(maps.score[row]), maximum=float(one.values.max()),
            probability=None if known is None else float(known[row]),
        )  # fmt: skip
    write_files(files, force=force)
    return found


class _Png:
    """Writes an array as a PNG file at the path it is called with."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels

    def __call__(self, path: Path) -> None:
        Image.fromarray(self._pixels).save(path, "PNG")


__all__ = ["samples"]
