"""Files that somebody damaged, by accident or not: read, or refused with a `DataError`."""

from __future__ import annotations

import contextlib
import json
import random
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

from attnviz.data import open_dataset
from attnviz.errors import AttnvizError, DataError
from attnviz.geometry import Geometry
from attnviz.heatmaps import Heatmaps
from attnviz.images import read_image

from .mutating import damaged, mutated

COCO = {
    "images": [
        {"id": 1, "file_name": "a.png", "width": 8, "height": 6, "license": 1},
        {"id": 2, "file_name": "b.png", "width": 8, "height": 6},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 3], "area": 12, "iscrowd": 0,
         "segmentation": [[1, 1, 5, 1, 5, 4, 1, 4]]},
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [0, 0, 2, 2], "iscrowd": 1,
         "segmentation": {"size": [6, 8], "counts": [10, 4, 34]}},
        {"id": 3, "image_id": 2, "category_id": 1, "segmentation":
         {"size": [6, 8], "counts": "`1"}},
    ],
    "categories": [{"id": 1, "name": "boat"}, {"id": 2, "name": "car"}],
}  # fmt: skip
INDEX = {
    "classes": {"1": "boat", "2": "water"},
    "void": 0,
    "images": [
        {"image": "a.png", "mask": "m.png", "width": 8, "height": 6, "area": {"boat": 0.3},
         "label": "boat", "source": "s", "split": "train", "group": "boat/water"},
        {"image": "b.png", "mask": "m.png"},
    ],
}  # fmt: skip
TABLE = """path,label,x0,y0,x1,y1,box_label,mask,split
a.png,boat,1,1,4,3,,m.png,train
b.png,car,,,,,,,
"""
XML = (
    "<annotation><filename>a.png</filename><size><width>8</width><height>6</height></size>"
    "<object><name>boat</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>5</xmax><ymax>4</ymax>"
    "</bndbox></object></annotation>"
)


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((6, 8, 3), 90, np.uint8)).save(tmp_path / name)
    mask = np.zeros((6, 8), np.uint8)
    mask[1:3, 1:5] = 1
    Image.fromarray(mask).save(tmp_path / "m.png")
    return tmp_path


def attempt(read) -> str:
    """Return "read" or "refused"; any other error is the test's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read()
        except DataError:
            return "refused"
    return "read"


def everything(path) -> None:
    """Read all that a dataset holds."""
    dataset = open_dataset(path)
    dataset.check()
    dataset.counts()
    for sample in dataset:
        list(sample.masks.items())
        list(sample.masks.values())
        for box in sample.boxes:
            sample.box_mask(box.label)


def test_datasets_in_json(folder, campaign):
    """Data sets in JSON, fields and bytes changed."""
    rng = random.Random(11)
    for name, document in (("annotations.json", COCO), ("index.json", INDEX)):
        file = folder / name
        file.write_text(json.dumps(document))
        assert attempt(lambda: everything(folder)) == "read"
        for _ in range(campaign(700)):
            wrong = mutated(document, rng)
            file.write_text(json.dumps(wrong))
            attempt(lambda: everything(folder))
        for _ in range(campaign(200)):
            file.write_bytes(damaged(json.dumps(document).encode(), rng))
            attempt(lambda: everything(folder))
        file.unlink()


def test_tables_and_xml(folder, campaign):
    """CSV tables and XML, bytes changed."""
    rng = random.Random(12)
    (folder / "Annotations").mkdir()
    for name, text in (("index.csv", TABLE), ("Annotations/a.xml", XML)):
        file = folder / name
        path = folder if name != "index.csv" else file
        file.write_text(text)
        assert attempt(lambda: everything(path)) == "read"
        for _ in range(campaign(250)):
            file.write_bytes(damaged(text.encode(), rng))
            attempt(lambda: everything(path))
        file.unlink()


def test_masks_and_photos(folder, campaign, monkeypatch):
    """Masks and photos, bytes changed, PostScript in their name."""
    from PIL import EpsImagePlugin

    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: started.append(a))
    rng = random.Random(13)
    (folder / "index.json").write_text(json.dumps(INDEX))
    whole = (folder / "m.png").read_bytes()
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\nshowpage\n"
    for data in [postscript, *(damaged(whole, rng) for _ in range(campaign(300)))]:
        (folder / "m.png").write_bytes(data)
        attempt(lambda: everything(folder))
        with contextlib.suppress(AttnvizError):
            read_image(folder / "m.png")
    assert started == []


def test_results(tmp_path, campaign):
    """Saved maps, fields and bytes changed."""
    rng = random.Random(14)
    maps = Heatmaps(
        torch.rand(2, 3, 4), method="gradcam", layer="conv", target=(1, 2), label=("a", "b"),
        score=torch.rand(2), geometry=(Geometry((10, 20), (5, 7), (0.0, 0.0, 9.0, 8.0)),) * 2,
        sources=("a.jpg", None), units="logit", meta={"seed": 1, "deep": {"a": [1, None]}},
    )  # fmt: skip

    def use(path) -> None:
        found = Heatmaps.load(path)
        found.resize("photo")
        found.masks(0.5)
        found[0].detach().check_finite()
        repr(found)

    path = maps.save(tmp_path / "maps.safetensors")
    whole = path.read_bytes()
    with safe_open(path, "pt") as file:
        arrays = {k: file.get_tensor(k) for k in ("values", "score")}
        described = json.loads(file.metadata()["attnviz.heatmaps"])
    assert attempt(lambda: use(path)) == "read"
    for _ in range(campaign(700)):
        path.write_bytes(save(arrays, {"attnviz.heatmaps": json.dumps(mutated(described, rng))}))
        attempt(lambda: use(path))
    for _ in range(campaign(200)):
        path.write_bytes(damaged(whole, rng))
        attempt(lambda: use(path))
    path = maps.save(tmp_path / "maps.npz")
    whole = path.read_bytes()
    for _ in range(campaign(300)):
        path.write_bytes(damaged(whole, rng))
        attempt(lambda: use(path))


def test_json_nested_a_million_deep_and_with_numbers_that_json_has_not(folder):
    for text in ("[" * 1_000_000, "[" * 200 + "]" * 200, '{"images": [NaN], "annotations": []}'):
        (folder / "annotations.json").write_text(text)
        assert attempt(lambda: everything(folder)) == "refused"
