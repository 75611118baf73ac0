"""Files that somebody damaged, by accident or not: read, or refused with a `DataError`."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

from attnviz import guidance, shards
from attnviz.data import Sample, open_dataset
from attnviz.errors import AttnvizError
from attnviz.geometry import Geometry
from attnviz.heatmaps import Heatmaps
from attnviz.images import read_image
from attnviz.models import read_labels
from attnviz.models.checkpoints import read_state_dict
from attnviz.models.preprocess import Preprocess

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


@pytest.fixture(autouse=True)
def _ceiling():
    """No file may make its reader ask for 2 GB: that is a failure, and spares the machine."""
    resource = pytest.importorskip("resource")
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + (2 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((6, 8, 3), 90, np.uint8)).save(tmp_path / name)
    mask = np.zeros((6, 8), np.uint8)
    mask[1:3, 1:5] = 1
    Image.fromarray(mask).save(tmp_path / "m.png")
    return tmp_path


def attempt(read) -> str:
    """Return "read" or "refused" (by an error of attnviz); any other error is the test's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read()
        except AttnvizError:
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
        for _ in range(campaign(4000)):
            wrong = mutated(document, rng)
            file.write_text(json.dumps(wrong))
            attempt(lambda: everything(folder))
        for _ in range(campaign(1000)):
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
        for _ in range(campaign(1000)):
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
    for data in [postscript, *(damaged(whole, rng) for _ in range(campaign(1000)))]:
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
    for _ in range(campaign(3000)):
        path.write_bytes(save(arrays, {"attnviz.heatmaps": json.dumps(mutated(described, rng))}))
        attempt(lambda: use(path))
    for _ in range(campaign(1000)):
        path.write_bytes(damaged(whole, rng))
        attempt(lambda: use(path))
    path = maps.save(tmp_path / "maps.npz")
    whole = path.read_bytes()
    for _ in range(campaign(1000)):
        path.write_bytes(damaged(whole, rng))
        attempt(lambda: use(path))


def test_json_nested_a_million_deep_and_with_numbers_that_json_has_not(folder):
    """JSON nested a million deep, and numbers that JSON has not."""
    for text in ("[" * 1_000_000, "[" * 200 + "]" * 200, '{"images": [NaN], "annotations": []}'):
        (folder / "annotations.json").write_text(text)
        assert attempt(lambda: everything(folder)) == "refused"


LABEL_STUDIO = [
    {"data": {"image": "/data/upload/1/0123abcd-a.png", "file": "a.png"}, "annotations": [
        {"was_cancelled": False, "result": [
            {"type": "polygonlabels", "original_width": 8, "original_height": 6,
             "value": {"points": [[10, 10], [60, 10], [60, 60]], "polygonlabels": ["boat"]}},
            {"type": "rectanglelabels", "original_width": 8, "original_height": 6, "value":
             {"x": 1, "y": 1, "width": 50, "height": 50, "rectanglelabels": ["car"]}},
        ]},
    ]},
    {"data": {"image": "b.png"}, "annotations": []},
]  # fmt: skip
BIRDS = """img_filename,y,split,place,place_filename
a.png,1,0,1,sea.jpg
b.png,0,1,0,
"""


def test_label_studio_and_waterbirds(folder, campaign):
    """Label Studio's JSON and Waterbirds' table, fields and bytes changed."""
    rng = random.Random(15)
    file = folder / "tasks.json"
    file.write_text(json.dumps(LABEL_STUDIO))
    assert attempt(lambda: everything(file)) == "read"
    for _ in range(campaign(2000)):
        file.write_text(json.dumps(mutated(LABEL_STUDIO, rng)))
        attempt(lambda: everything(file))
    file.unlink()
    table = folder / "metadata.csv"
    table.write_bytes(BIRDS.encode())
    assert attempt(lambda: everything(folder)) == "read"
    assert len(open_dataset(folder)) == len(BIRDS.strip().splitlines()) - 1
    for _ in range(campaign(500)):
        table.write_bytes(damaged(BIRDS.encode(), rng))
        attempt(lambda: everything(folder))


LABELS = {
    "l.json": json.dumps({"id2label": {"0": "ant", "1": "bee"}, "more": [1, {"a": None}]}),
    "l.txt": "ant\nbee\n", "l.csv": "index,name\n0,ant\n1,bee\n",
    "l.yaml": "names:\n  0: ant\n  1: 'b''ee'\nnc: 2\n", "m.yaml": "names: [ant, 'bee', cat]\n",
}  # fmt: skip


def test_labels_and_settings(tmp_path, campaign):
    """Label files of every form and preprocess.json, fields and bytes changed."""
    rng = random.Random(16)
    for name, text in LABELS.items():
        path = tmp_path / name
        path.write_text(text)
        assert attempt(lambda: read_labels(path)) == "read"
        for _ in range(campaign(400)):
            path.write_bytes(damaged(text.encode(), rng))
            attempt(lambda: read_labels(path))
    stored = {"resize": [8, 8], "crop": None, "mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2]}
    for document, read in (
        (json.loads(LABELS["l.json"]), read_labels),
        (stored, lambda p: Preprocess.read(p).resized_size(30, 40)),
    ):
        path = tmp_path / "document.json"
        for wrong in [document, *(mutated(document, rng) for _ in range(campaign(1500)))]:
            path.write_text(json.dumps(wrong))
            attempt(lambda: read(path))


def test_checkpoints(tmp_path, campaign):
    """Checkpoints in both formats, bytes changed."""
    rng = random.Random(17)
    tensors = {"conv.weight": torch.rand(2, 3, 3, 3), "head.bias": torch.rand(2)}
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "c.pt")
    (tmp_path / "c.safetensors").write_bytes(save(tensors))
    for name in ("c.pt", "c.safetensors"):
        path = tmp_path / name
        whole = path.read_bytes()
        assert attempt(lambda: read_state_dict(path)) == "read"
        for _ in range(campaign(1000)):
            path.write_bytes(damaged(whole, rng))
            attempt(lambda: read_state_dict(path))


def test_runs_that_go_on(tmp_path, campaign):
    """Journals, results and states of runs, fields and bytes changed, then gone on with."""
    rng = random.Random(18)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 2, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(2, 2),
    )  # fmt: skip
    images, labels = torch.rand(4, 3, 8, 8), [0, 1, 0, 1]
    data = [(x, y) for x, y in zip(images, labels, strict=True)]
    options = {"epochs": 1, "loss": "none", "batch_size": 4, "train": "all", "exchange": False}
    photos = [Sample(str(k), np.full((8, 8, 3), 60 * k, np.uint8)) for k in range(2)]

    def guide():
        guidance.fit(copy.deepcopy(net), data, out=tmp_path / "guide", resume=True, **options)

    def shard():
        shards.explain_dataset(
            net, photos, tmp_path / "shards", target=0, preprocess="unit", shard=1
        )

    guide()
    shard()
    for run, names in ((guide, ("run.json",)), (shard, ("run.json", "index.jsonl"))):
        for name in names:
            path = tmp_path / ("guide" if run is guide else "shards") / name
            whole = path.read_bytes()
            for _ in range(campaign(300)):
                if name.endswith(".json") and rng.random() < 0.7:
                    path.write_text(json.dumps(mutated(json.loads(whole), rng)))
                else:
                    path.write_bytes(damaged(whole, rng))
                attempt(run)
            path.write_bytes(whole)
            assert attempt(run) == "read"
    path = next((tmp_path / "guide").glob("state-*.safetensors"))
    whole = path.read_bytes()
    for _ in range(campaign(300)):
        path.write_bytes(damaged(whole, rng))
        attempt(guide)
