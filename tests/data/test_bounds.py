"""What a file may ask for: sizes, depths and lengths are bounded before memory or time is spent."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import struct
import time
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from attnviz import limits
from attnviz.data import open_dataset
from attnviz.data.masks import BoxMask, MaskFile, PolygonMask, RunLengthMask, polygon_mask
from attnviz.data.readers.hf_disk import _Row
from attnviz.data.readers.waterbirds import _COLUMNS
from attnviz.errors import DataError, ImageError, ModelError, PreprocessError
from attnviz.heatmaps import Heatmaps
from attnviz.images import read_image
from attnviz.models import read_labels
from attnviz.models.checkpoints import read_state_dict
from attnviz.models.preprocess import Preprocess


@pytest.fixture
def coco(tmp_path):
    """A function: annotations, entry of the image -> the folder."""
    Image.fromarray(np.zeros((64, 48, 3), np.uint8)).save(tmp_path / "a.png")

    def write(annotations, **image):
        document = {
            "images": [{"id": 1, "file_name": "a.png", **image}],
            "annotations": [
                {"id": i, "image_id": 1, "category_id": 1, **a} for i, a in enumerate(annotations)
            ],
            "categories": [{"id": 1, "name": "boat"}],
        }
        (tmp_path / "annotations.json").write_text(json.dumps(document))
        return tmp_path

    return write


@pytest.mark.parametrize(
    "what", [{"bbox": [1, 1, 5, 5]}, {"segmentation": [[1, 1, 5, 1, 5, 5]]}], ids=["box", "polygon"]
)
def test_a_size_that_no_photo_has_is_refused_before_a_mask_is_made(coco, what):
    with pytest.raises(DataError, match="pixels, more than the limit"):
        open_dataset(coco([what], height=900_000, width=90_000))


def test_run_lengths_without_a_size_are_refused(coco):
    with pytest.raises(DataError, match=r"needs 'size' \[h, w\], got \[None, None\]"):
        open_dataset(coco([{"segmentation": {"size": [None, None], "counts": [3072]}}]))


@pytest.mark.parametrize(
    "mask",
    [
        BoxMask((0, 0, 3, 3)),
        PolygonMask(((0, 0, 4, 0, 4, 4),)),
        RunLengthMask((200_000_000,), (20_000, 10_000)),
    ],
    ids=["box", "polygon", "runs"],
)
def test_every_kind_of_mask_is_bounded_and_the_bound_can_be_raised(mask):
    with pytest.raises(DataError, match="mask pixels, more than the limit of 100,000,000"):
        mask.read((20_000, 10_000))
    with limits.raised(mask_pixels=200), pytest.raises(DataError, match="limit of 200"):
        (mask if not isinstance(mask, RunLengthMask) else RunLengthMask((225,), (15, 15))).read(
            (15, 15)
        )


def test_a_polygon_that_goes_to_and_fro_is_refused_before_it_takes_minutes():
    """Of 50,000 points across 4,000 rows: 200 million crossings."""
    points = [v for i in range(50_000) for v in (float(i % 4000), 4000.0 * (i % 2))]
    began = time.perf_counter()
    with pytest.raises(DataError, match="polygon crossings, more than the limit of 20,000,000"):
        polygon_mask(points, (4000, 4000))
    assert time.perf_counter() - began < 2


def test_a_polygon_that_crosses_a_row_more_than_256_times_is_exact():
    """The parity of crossings is kept in a byte."""
    teeth, points = 300, []
    for i in range(
        teeth
    ):  # columns 2 i, and not 2 i + 1; the line between them runs below the image
        points += [2.0 * i, 5.0, 2.0 * i, 0.0, 2.0 * i + 1, 0.0, 2.0 * i + 1, 5.0]
    mask = polygon_mask(points, (3, 2 * teeth))
    assert mask[:, ::2].all()
    assert not mask[:, 1::2].any()


def test_an_archive_that_opens_into_gigabytes_is_no_checkpoint(tmp_path, monkeypatch):
    torch.save({"w": torch.zeros(1_000_000)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for part in plain.infolist():
            packed.writestr(part.filename, plain.read(part))
    assert (tmp_path / "small.pt").stat().st_size < 20_000
    with limits.raised(bytes=3_000_000):
        with pytest.raises(ModelError, match=r"unpacked: 4,\d+,\d+ bytes, more than the limit"):
            read_state_dict(tmp_path / "small.pt")
        # as large as it looks: no trap
        assert read_state_dict(tmp_path / "plain.pt")["w"].shape == (1_000_000,)
    assert read_state_dict(tmp_path / "small.pt")["w"].shape == (1_000_000,)


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("text", [DEEP, "[" * 200 + "]" * 200], ids=["100000", "200"])
def test_labels_and_settings_nested_deep_are_refused(tmp_path, text):
    (tmp_path / "deep.json").write_text(text)
    with pytest.raises(ModelError, match="nests lists or objects"):
        read_labels(tmp_path / "deep.json")
    with pytest.raises(PreprocessError, match="nests lists or objects"):
        Preprocess.read(tmp_path / "deep.json")


def test_labels_are_bounded_and_odd_tables_refused(tmp_path):
    (tmp_path / "l.csv").write_text("name\n" + "x" * 200_000 + "\n")
    with pytest.raises(ModelError, match="field larger than field limit"):
        read_labels(tmp_path / "l.csv")
    (tmp_path / "l.txt").write_text("ant\nbee\n")
    with limits.raised(json_bytes=5), pytest.raises(ModelError, match="more than the limit of 5"):
        read_labels(tmp_path / "l.txt")
    os.mkfifo(tmp_path / "pipe.json")  # could block for ever
    with pytest.raises(PreprocessError, match="not a regular file"):
        Preprocess.read(tmp_path / "pipe.json")


LONG = "n" * 300


def test_names_too_long_for_a_file_are_no_files(tmp_path, coco):
    for read, error in (
        (open_dataset, DataError),
        (read_labels, ModelError),
        (read_state_dict, ModelError),
        (Preprocess.read, PreprocessError),
    ):
        for name in (LONG, f"{LONG}.json", f"{LONG}.pt"):
            with pytest.raises(error):
                read(str(tmp_path / name))
    folder = coco([])
    document = json.loads((folder / "annotations.json").read_text())
    document["images"].append({"id": 2, "file_name": f"{LONG}.png"})
    (folder / "annotations.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="n.png does not exist"):
        open_dataset(folder)


def test_a_link_that_leads_back_lists_no_image_twice(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name / "deep").mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / name / "deep" / "a.png")
    (tmp_path / "cat" / "round").symlink_to(tmp_path)
    (tmp_path / "cat" / "deep" / "up").symlink_to(tmp_path / "cat")
    (tmp_path / "all").symlink_to(tmp_path)
    away = tmp_path.with_name(f"{tmp_path.name}-away")  # a link elsewhere is a folder like others
    away.mkdir()
    Image.fromarray(np.ones((4, 4, 3), np.uint8)).save(away / "b.png")
    (tmp_path / "dog" / "more").symlink_to(away)
    found = open_dataset(tmp_path)
    assert [s.id for s in found] == ["cat/deep/a.png", "dog/deep/a.png", "dog/more/b.png"]
    assert found.classes == ("cat", "dog")


def test_a_link_to_itself_is_no_file(tmp_path):
    (tmp_path / "x.png").symlink_to("x.png")
    with pytest.raises(Exception, match="no such file") as caught:
        read_image(tmp_path / "x.png")
    assert type(caught.value).__name__ == "ImageError"


@pytest.mark.parametrize("index", [2**31, 2**70, 10**400])
def test_an_index_of_a_label_asks_for_no_memory(tmp_path, index):
    """All indices below it were made, to name three that are missing."""
    (tmp_path / "l.json").write_text(json.dumps({"0": "ant", str(index): "bee"}))
    with pytest.raises(ModelError, match=r"none for index 1, 2, 3\b"):
        read_labels(tmp_path / "l.json")


def test_an_archive_of_an_unknown_version_is_damaged(tmp_path):
    """zipfile raises NotImplementedError, on a byte that says what is needed to read it."""
    torch.save({"w": torch.zeros(2)}, tmp_path / "c.pt")
    data = bytearray((tmp_path / "c.pt").read_bytes())
    at = data.index(b"PK\1\2")
    data[at + 6] = 99
    (tmp_path / "c.pt").write_bytes(bytes(data))
    with pytest.raises(ModelError, match="is damaged"):
        read_state_dict(tmp_path / "c.pt")
    whole = bytearray(bytes(data[:at]) + b"PK\6\7" + bytes(12) + b"\2\0\0\0" + bytes(data[at:]))
    end = whole.rindex(b"PK\5\6")  # the end of an archive over two disks, before its last record
    whole[end:end] = b"PK\6\7" + bytes(4) + bytes(8) + b"\2\0\0\0"
    (tmp_path / "c.pt").write_bytes(bytes(whole))
    with pytest.raises(ModelError, match="is damaged|cannot be read"):
        read_state_dict(tmp_path / "c.pt")


@pytest.mark.parametrize("name", ["index.csv", "metadata.csv"])
def test_a_table_of_one_endless_line_is_not_held(tmp_path, name):
    head = {"index.csv": "path,label\na.png,", "metadata.csv": f"{','.join(_COLUMNS)}\na.png,"}
    (tmp_path / name).write_text(head[name] + "x" * 3_000_000)
    with pytest.raises(DataError, match=r"line 2: 1,000,001 line characters, more than the limit"):
        open_dataset(tmp_path)
    with limits.raised(rows=1), pytest.raises(DataError, match="2 rows, more than the limit of 1"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["[" + " " * 200_000 + "'x]", "[" + "a" * 200_000 + "'x]", "[\n" + "a,\n" * 200_000 + "]"],
)
def test_names_in_brackets_are_read_once(tmp_path, text):
    """An expression that tries every way to read them took hours for these."""
    (tmp_path / "names.yaml").write_text(f"names: {text}")
    began = time.perf_counter()
    found = read_labels(tmp_path / "names.yaml")
    assert time.perf_counter() - began < 20
    assert found[0][-2:] == "'x" or found == ("a",) * 200_000


def test_a_tensor_of_a_million_dimensions_is_refused(tmp_path):
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [0] * 1_000_000, "data_offsets": [0, 0]}}
    ).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelError, match="1,000,000 dimensions, at most 64"):
        read_state_dict(path)
    with pytest.raises(DataError, match="1,000,000 dimensions, at most 64"):
        Heatmaps.load(path)


def test_a_jpeg_that_goes_over_its_pixels_thousands_of_times_is_refused(tmp_path):
    file = io.BytesIO()
    Image.new("L", (64, 48), 90).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    assert read_image(data)[0, 0].tolist() == [90, 90, 90]
    start, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    path = tmp_path / "scans.jpg"
    path.write_bytes(data[:end] + 5000 * data[start:end] + data[end:])
    with pytest.raises(ImageError, match=r"5,0\d\d scans, more than the limit of 200"):
        read_image(path)
    with pytest.raises(DataError, match="more than the limit of 200"):
        MaskFile(path).read((48, 64))
    with limits.raised(scans=6000):
        assert read_image(path).shape == (48, 64, 3)


def test_bands_without_end_are_refused_before_they_are_asked_for(tmp_path):
    tags = {256: 10_000, 257: 10_000, 258: 8, 259: 1, 262: 1, 273: 8, 277: 60_000, 278: 10_000,
            279: 64}  # fmt: skip
    entries = b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in sorted(tags.items()))
    head = b"II*\0" + struct.pack("<I", 72) + bytes(64) + struct.pack("<H", len(tags))
    (tmp_path / "a.tif").write_bytes(head + entries + bytes(4))
    with pytest.raises(ImageError, match="6,000,000,000,000 bytes, more than the limit"):
        read_image(tmp_path / "a.tif", bands=(1, 2, 3))
    big = head + entries.replace(struct.pack("<I", 10_000), struct.pack("<I", 30_000))
    (tmp_path / "b.tif").write_bytes(big + bytes(4))
    with pytest.raises(ImageError, match="900 million pixels; at most 200 million"):
        read_image(tmp_path / "b.tif", bands=(1, 2, 3))


@pytest.mark.parametrize("path", ["/dev/zero", "/etc/passwd", "../photo.png"])
def test_rows_of_hugging_face_name_no_file_elsewhere(tmp_path, path):
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    row = _Row(tmp_path / "set", 0, "image", [{"image": {"bytes": None, "path": path}}])
    with pytest.raises(DataError, match="leads out of the image folder"):
        row.read_bytes()
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "photo.png").rename(tmp_path / "set" / "photo.png")
    row = _Row(tmp_path / "set", 0, "image", [{"image": {"bytes": None, "path": "photo.png"}}])
    assert read_image(row.read_bytes()).shape == (4, 4, 3)


def test_every_limit_is_documented_and_can_be_raised_by_the_environment(repo, monkeypatch):
    table = (repo / ".github" / "SECURITY.md").read_text(encoding="utf-8")
    for field in dataclasses.fields(limits.Limits):
        assert f"| `{field.name}` | {field.default:,} | " in table
        monkeypatch.setenv("ATTNVIZ_LIMITS", f"{field.name}={field.default + 1}")
        assert getattr(limits.current(), field.name) == field.default + 1
