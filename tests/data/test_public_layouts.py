"""Layouts of public data sets, on tiny fakes, and the page that says what is read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnviz import audit
from attnviz.data import READERS, open_dataset
from attnviz.data import boatwater as bw
from attnviz.errors import DataError
from tests.support import planting


def unit(photo):
    import torch

    return torch.from_numpy(np.array(photo).transpose(2, 0, 1).copy()).float() / 255


@pytest.fixture(scope="module")
def waterbirds(tmp_path_factory) -> Path:
    """Waterbirds' layout, filled with generated boats for waterbirds; masks of one in four."""
    root = tmp_path_factory.mktemp("waterbirds")
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    made = bw.generate(groups=bw.balanced(44), seed=5, marked=True)
    for i, sample in enumerate(made.dataset()):
        name = f"{i % 7:03d}.Bird/{i}.jpg"
        y, place = int(sample.label == "boat"), int("water" in sample.labels)
        for folder in (root, root / "segmentations"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.read()).save(root / name, "PNG")
        if i % 16 < 4:  # CUB's masks are grey where annotators did not agree
            mask = sample.mask(sample.label).astype(np.uint8) * 204
            Image.fromarray(mask).save((root / "segmentations" / name).with_suffix(".png"))
        lines.append(f"{i},{name},{y},{i % 3},{place},/o/ocean/{i}.jpg")
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    return root


def test_waterbirds_with_cub_masks(waterbirds) -> None:
    data = open_dataset(waterbirds)
    assert (data.format, len(data)) == ("waterbirds", 176)
    assert data.classes == ("landbird", "waterbird", "land", "water")
    first = data[3]
    assert (first.label, first.group, first.split) == ("waterbird", "waterbird/water", "train")
    assert first.meta["background"] == "/o/ocean/3.jpg"
    assert sum(s.has_mask(s.label) for s in data) == 44
    assert first.mask("waterbird").any()
    assert len(open_dataset(waterbirds, split="test")) == 58
    data.check()


@pytest.mark.parametrize(("reads", "verdict"), [("water", "context"), ("object", "object")])
def test_an_audit_of_waterbirds(waterbirds, reads, verdict) -> None:
    found = audit.confusion(
        planting.planted(reads), open_dataset(waterbirds), object="waterbird", context="water",
        labels=("landbird", "waterbird"), preprocess=unit, fills=("blur",), methods=("gradcam",),
        examples=0, resamples=200,
    )  # fmt: skip
    assert found.verdict.kind == verdict
    assert found.settings["annotated"] == {"masks": 22, "boxes": 0, "none": 66}
    assert {line.name for line in found.verdict.lines} == {"groups", "transplant"}


def test_faults_of_waterbirds_are_named(tmp_path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    head = "img_id,img_filename,y,split,place,place_filename\n"
    for line, said in (
        ("1,a.jpg,2,0,0,", "y '2', expected 0 to 1"),
        ("1,../a.jpg,0,0,0,", "leads out"),
        ("1,b.jpg,0,0,0,", "b.jpg does not exist"),
    ):
        (tmp_path / "metadata.csv").write_text(head + line + "\n")
        with pytest.raises(DataError, match=said):
            open_dataset(tmp_path)


def test_the_page_s_tables_are_read(repo, tmp_path) -> None:
    """The two functions of .github/docs/data.md, run as they stand."""
    page = (repo / ".github" / "docs" / "data.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    names: dict = {}
    exec(compile(code, "data.md", "exec"), names)
    for k, name in enumerate(("0/snow/corgi/1.png", "0/beach/corgi/1.png", "1/snow/pug/1.png")):
        path = tmp_path / "spawrious224" / name
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full((4, 4, 3), k, np.uint8)).save(path)
    names["spawrious"](tmp_path / "spawrious224", tmp_path / "spawrious.csv")
    data = open_dataset(tmp_path / "spawrious.csv")
    assert [(s.label, s.group) for s in data] == [
        ("corgi", "corgi/beach"), ("corgi", "corgi/snow"), ("pug", "pug/snow"),
    ]  # fmt: skip
    (tmp_path / "isic").mkdir()
    for k in range(2):
        Image.fromarray(np.full((4, 4, 3), k, np.uint8)).save(tmp_path / "isic" / f"ISIC_{k}.jpg")
    truth = tmp_path / "truth.csv"
    truth.write_text("image,MEL,NV\nISIC_0,0.0,1.0\nISIC_1,1.0,0.0\n")
    names["isic"](truth, tmp_path / "isic", tmp_path / "isic.csv")
    assert [s.label for s in open_dataset(tmp_path / "isic.csv")] == ["NV", "MEL"]


def test_the_page_names_our_readers(repo) -> None:
    page = (repo / ".github" / "docs" / "data.md").read_text("utf-8")
    known = {
        "coco": "| COCO |", "csv": "| CSV |", "imagefolder": "| class folders |",
        "images_masks": "| `images/` and `masks/` |", "label_studio": "| Label Studio |",
        "masks": "| label images |", "voc": "| Pascal VOC |", "waterbirds": "| Waterbirds |",
        "yolo": "| YOLO |", "webdataset": "| WebDataset |", "hf": "| Hugging Face |",
    }  # fmt: skip
    assert set(known) <= set(READERS.names())
    assert all(row in page for row in known.values())
