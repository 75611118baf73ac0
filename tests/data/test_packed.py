"""Data sets whose images are no files, and YOLO's: read as they were written."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnviz.cli import main
from attnviz.data import open_dataset
from attnviz.data.identity import data_stamp
from attnviz.errors import DataError
from attnviz.heatmaps import Heatmaps
from attnviz.shards import explain_dataset, verify
from tests.cli.tiny import Colours


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (20, 30, 3), np.uint8)


def png(number: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels(number)).save(data, "PNG")
    return data.getvalue()


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_tar_shards_hold_images_and_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tar(tmp_path / "w" / "a-000.tar", {
        "x/1.png": png(1), "x/1.cls": b"3\n", "x/2.png": png(2), "x/2.json": b'{"label": "boat"}',
    })  # fmt: skip
    tar(tmp_path / "w" / "a-001.tar", {"1.txt": b"sea", "1.png": png(3), "alone.txt": b"no image"})
    data = open_dataset(tmp_path / "w")
    assert data.format == "webdataset"
    assert [(s.id, s.label) for s in data] == [
        ("a-000/x/1", "3"), ("a-000/x/2", "boat"), ("a-001/1", "sea"),
    ]  # fmt: skip
    for sample, number in zip(data, (1, 2, 3), strict=True):
        assert np.array_equal(sample.read(), pixels(number))
        assert sample.image_size() == (20, 30)
    assert len(open_dataset(tmp_path / "w" / "a-001.tar")) == 1
    before = data_stamp(data)
    tar(tmp_path / "w" / "a-001.tar", {"1.txt": b"sea", "1.png": png(4)})
    assert data_stamp(open_dataset(tmp_path / "w")) != before
    out = tmp_path / "out"
    index = explain_dataset(Colours(), data, out, preprocess="imagenet", target=1)
    lines = [json.loads(line) for line in index.read_text().splitlines()]
    assert [line["sample"] for line in lines if "error" not in line] == [s.id for s in data]
    assert len(Heatmaps.load(out / "maps-00000.safetensors")) == 3
    with pytest.raises(DataError, match="no files of their own; give the data set again: samples="):
        verify(Colours(), out, preprocess="imagenet")
    again = verify(Colours(), out, samples=open_dataset(tmp_path / "w"))
    assert [(f["sample"], f["holds"]) for f in again] == [
        ("a-000/x/1", True), ("a-000/x/2", True), ("a-001/1", True),
    ]  # fmt: skip
    tar(tmp_path / "w" / "a-001.tar", {"1.txt": b"sea", "1.png": png(5)})
    tar(tmp_path / "w" / "a-000.tar", {"x/1.png": png(1)})
    model = ["--model", "tests.cli.tiny:colours"]
    assert main(["verify", str(out), "--data", str(tmp_path / "w"), "--json", *model]) == 3
    found = {f["sample"]: f for f in json.loads(capsys.readouterr().out)["checked"]}
    assert [f["holds"] for f in found.values()] == [True, False, False]
    assert found["a-000/x/2"]["reason"] == "the data set has no image of this name"
    assert found["a-001/1"]["difference"] > 0.01
    assert main(["verify", str(out), *model]) == 1
    assert "give the data set again: --data" in capsys.readouterr().err


def test_a_damaged_or_compressed_shard_is_said(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"1.png": png(1)}, "w:gz")
    with pytest.raises(DataError, match="no tar file, or is compressed"):
        open_dataset(path)
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="no tar file"):
        open_dataset(path)
    tar(path, {"1.png": png(1), "1.json": b'{"label": [1]}'})
    with pytest.raises(DataError, match="no name"):
        open_dataset(path)


def yolo(root: Path, notes: str) -> Path:
    for folder in ("images/train", "labels/train"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in (1, 2):
        (root / f"images/train/{number}.png").write_bytes(png(number))
    (root / "labels/train/1.txt").write_text(notes)
    return root


def test_yolo_boxes_are_pixels_and_polygons_masks(tmp_path: Path) -> None:
    root = yolo(tmp_path, "1 0.5 0.5 0.2 0.5\n0 0 0 0.5 0 0.5 0.5 0 0.5\n")
    assert [b.label for b in open_dataset(root)[0].boxes] == ["1", "0"]
    (root / "data.yaml").write_text("path: .\nnames:\n  0: sea\n  1: boat\n")
    data = open_dataset(root)
    assert (data.format, data.classes) == ("yolo", ("sea", "boat"))
    first, second = data
    assert [b.label for b in first.boxes] == ["boat", "sea"]
    # 30 wide, 20 high
    assert first.boxes[0].coordinates == pytest.approx((12, 5, 18, 15))
    assert first.boxes[1].coordinates == pytest.approx((0, 0, 15, 10))
    wanted = np.zeros((20, 30), bool)
    wanted[:10, :15] = True
    assert np.array_equal(first.mask("sea"), wanted)
    assert not first.has_mask("boat")
    assert (first.split, second.labels, second.boxes) == ("train", (), ())


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ("2 .5 .5 .1 .1", "class 2, and there are names of 2"),
        ("boat .5 .5 .1 .1", "'boat' is no number"),
        ("0 .5 .5 .1", "3 numbers"),
        ("0 .5 .5 x .1", "'x' is not a number"),
        ("0 5 5 1 1", "outside the image"),
    ],
)
def test_yolo_faults_name_file_and_line(tmp_path: Path, notes: str, said: str) -> None:
    root = yolo(tmp_path, notes)
    (root / "classes.txt").write_text("sea\nboat\n")
    with pytest.raises(DataError, match=said) as caught:
        open_dataset(root)
    assert "1.txt, line 1" in str(caught.value)


def test_hugging_face_rows_are_read_from_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra 'datasets' brings it")
    features = datasets.Features(
        {"photo": datasets.Image(), "kind": datasets.ClassLabel(names=["sea", "boat"])}
    )
    held = datasets.Dataset.from_dict(
        {"photo": [{"bytes": png(n), "path": None} for n in range(3)], "kind": [1, 0, -1]},
        features=features,
    )
    held.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": held, "test": held}).save_to_disk(str(tmp_path / "two"))
    data = open_dataset(tmp_path / "one")
    assert (data.format, data.classes) == ("hf", ("sea", "boat"))
    assert [s.label for s in data] == ["boat", "sea", None]
    for number, sample in enumerate(data):
        assert np.array_equal(sample.read(), pixels(number))
    both = open_dataset(tmp_path / "two")
    assert both.counts() == {"sea": 2, "boat": 2}
    explain_dataset(Colours(), data, tmp_path / "out", preprocess="imagenet", target=1)
    again = verify(Colours(), tmp_path / "out", samples=open_dataset(tmp_path / "one"))
    assert [f["holds"] for f in again] == [True] * 3
    assert both[3].id == "test/0"
    assert both[3].split == "test"
    assert np.array_equal(both[3].read(), pixels(0))
    assert data_stamp(both) != data_stamp(data)
