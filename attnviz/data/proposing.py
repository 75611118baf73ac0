"""Images to annotate, written for people's tools with regions filled in beforehand.

`annotations.json` is COCO's format (CVAT, Label Studio, `open_dataset`), `label-studio.json` tasks
to import, `label-studio.xml` the labels to draw with, and `images/` the images. What was filled in
carries where it came from (`masks_from`), until a tool writes the corrected file anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from ..errors import DataError, OutputExists
from ..writing import write_file, write_files
from .sample import Sample

FILES = ("annotations.json", "label-studio.json", "label-studio.xml")


@dataclass(frozen=True, eq=False)
class Proposal:
    """An image to annotate.

    Attributes:
        sample: with a file as its image.
        label: what is to be marked.
        mask: (h, w) bool, where it may be; empty for no region.
        source: where the mask is from, in words ("map: gradcam of model").
        score: how much the image is wanted.
    """

    sample: Sample
    label: str
    mask: np.ndarray
    source: str
    score: float


def polygon_of(mask: np.ndarray, *, tolerance: float = 0.0) -> list[float]:
    """Return the outline of the largest region of a mask, [x0, y0, x1, y1, ...] in pixels.

    With tolerance 0 `polygon_mask` gives the region back, without holes; [] for an empty mask.

    Args:
        mask: (h, w) bool.
        tolerance: pixels that the outline may be off, for fewer points.
    """
    import cv2

    # twice as large: the outline then runs between the centres of pixels, not through them
    large = np.repeat(np.repeat(mask.astype(np.uint8), 2, 0), 2, 1)
    found, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not found:
        return []
    outline = max(found, key=cv2.contourArea)
    if tolerance > 0:
        outline = cv2.approxPolyDP(outline, 2 * tolerance, True)
    points = (outline[:, 0].astype(float) + 0.5) / 2
    return points.ravel().tolist() if len(points) >= 3 else []


def write_proposals(
    proposals: Sequence[Proposal], folder: str | Path, *, root: Path | None, force: bool = False
) -> dict[str, Path]:
    """Write the images to annotate, as COCO and for Label Studio; return the paths.

    Args:
        proposals: in the order in which they are wanted.
        folder: made where it is missing.
        root: names in the files are relative to it; None takes the samples' ids.
        force: overwrite.

    Raises:
        OutputExists: a file is there and `force` is off.
        DataError: an image is no file.
    """
    folder = Path(folder)
    by_name = _by_name(proposals, root)
    paths = {n: folder / n for n in FILES}
    taken = [p for p in paths.values() if p.exists()]
    if taken and not force:
        raise OutputExists(f"{str(taken[0])!r} exists already; pass force=True (--force)")
    classes = list(dict.fromkeys(p.label for p in proposals))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    tasks = []
    for number, (name, own) in enumerate(by_name.items(), 1):
        height, width = own[0].mask.shape
        images.append({"id": number, "file_name": name, "height": height, "width": width,
                       "score": round(own[0].score, 6)})  # fmt: skip
        outlines = [(p, polygon_of(p.mask, tolerance=1.0)) for p in own]
        marked = [(p, polygon) for p, polygon in outlines if polygon]
        for proposal, polygon in marked:
            entry = _coco(
                proposal, polygon, image=number, category=classes.index(proposal.label) + 1
            )
            annotations.append({"id": len(annotations) + 1, **entry})
        tasks.append(_task(name, own, marked))
    document = {
        "info": {"description": "Regions come from a model's map: correct them."},
        "images": images, "annotations": annotations,
        "categories": [{"id": k, "name": n} for k, n in enumerate(classes, 1)],
    }  # fmt: skip
    labels = "\n".join(f"    <Label value={quoteattr(name)}/>" for name in classes)
    view = (
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <PolygonLabels name="label" toName="image">\n{labels}\n  </PolygonLabels>\n'
        f'  <RectangleLabels name="box" toName="image">\n{labels}\n  </RectangleLabels>\n</View>\n'
    )
    for name, own in by_name.items():
        write_file(folder / "images" / name, _file(own[0].sample).read_bytes(), force=True)
    texts = (json.dumps(document, indent=1), json.dumps(tasks, indent=1), view)
    write_files({paths[n]: text for n, text in zip(FILES, texts, strict=True)}, force=force)
    return {"coco": paths[FILES[0]], "label_studio": paths[FILES[1]], "labels": paths[FILES[2]],
            "images": folder / "images"}  # fmt: skip


def _by_name(proposals: Sequence[Proposal], root: Path | None) -> dict[str, list[Proposal]]:
    """Return name of an image in the files -> what is proposed on it."""
    found: dict[str, list[Proposal]] = {}
    for proposal in proposals:
        file = _file(proposal.sample)
        inside = root is not None and file.is_relative_to(root)
        name = file.relative_to(root).as_posix() if inside and root is not None else file.name
        own = found.setdefault(name, [])
        if own and own[0].sample.image != file:
            raise DataError(
                f"{own[0].sample.image} and {file} would both be called {name!r}; put the images "
                "below the folder of the data"
            )
        own.append(proposal)
    return found


def _file(sample: Sample) -> Path:
    if not isinstance(sample.image, Path):
        raise DataError(f"sample {sample.id!r} is no file, so it cannot be handed to annotators")
    return sample.image


def _coco(proposal: Proposal, polygon: list[float], *, image: int, category: int) -> dict[str, Any]:
    xs, ys = polygon[::2], polygon[1::2]
    return {
        "image_id": image, "category_id": category, "iscrowd": 0,
        "segmentation": [[round(v, 2) for v in polygon]], "area": int(proposal.mask.sum()),
        "bbox": [round(v, 2) for v in (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))],
        "masks_from": proposal.source,
    }  # fmt: skip


def _task(
    name: str, own: Sequence[Proposal], marked: Sequence[tuple[Proposal, list[float]]]
) -> dict[str, Any]:
    regions = []
    for proposal, polygon in marked:
        height, width = proposal.mask.shape
        points = [
            [round(100 * x / width, 4), round(100 * y / height, 4)]
            for x, y in zip(polygon[::2], polygon[1::2], strict=True)
        ]
        regions.append({
            "type": "polygonlabels", "from_name": "label", "to_name": "image",
            "original_width": width, "original_height": height,
            "value": {"points": points, "polygonlabels": [proposal.label], "closed": True},
        })  # fmt: skip
    source = own[0].source
    return {
        "data": {"image": f"/data/local-files/?d=images/{name}", "file": name,
                 "label": ", ".join(p.label for p in own)},
        "predictions": [{"model_version": source, "result": regions}] if regions else [],
    }  # fmt: skip
