from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnviz.data import READERS, Box, Sample, open_dataset, refuse_leaks
from attnviz.errors import AttnvizWarning, DataError


def picture(path: Path, height: int = 6, width: int = 8, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def grey(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


# ---------------------------------------------------------------- image folder


def test_imagefolder_gives_labels_in_order_and_pixels(tmp_path) -> None:
    for k, name in enumerate(("other/b.png", "boat/a.png", "boat/deep/c.png")):
        picture(tmp_path / name, seed=k)
    (tmp_path / "boat" / "notes.txt").write_text("left alone")
    dataset = open_dataset(tmp_path)
    assert dataset.format == "imagefolder"
    assert dataset.classes == ("boat", "other")
    assert [(s.id, s.label) for s in dataset] == [
        ("boat/a.png", "boat"),
        ("boat/deep/c.png", "boat"),
        ("other/b.png", "other"),
    ]
    np.testing.assert_array_equal(
        dataset[0].read(), np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
    )
    assert dataset.counts() == {"boat": 2, "other": 1}
    dataset.check()


def test_imagefolder_with_splits_and_one_split(tmp_path) -> None:
    picture(tmp_path / "train" / "boat" / "a.png")
    picture(tmp_path / "val" / "boat" / "a.png", seed=1)
    dataset = open_dataset(tmp_path)
    assert [(s.split, s.label) for s in dataset] == [("train", "boat"), ("validation", "boat")]
    assert [s.id for s in open_dataset(tmp_path, split="valid")] == ["val/boat/a.png"]
    with pytest.raises(DataError, match=r"no split 'test'.*'train', 'validation'"):
        open_dataset(tmp_path, split="test")


def test_an_image_in_two_splits_of_a_folder_is_refused(tmp_path) -> None:
    for k, name in enumerate(("train/boat/a.png", "train/boat/b.png", "test/boat/c.png")):
        picture(tmp_path / name, seed=k)
    dataset = open_dataset(tmp_path)
    assert {n: len(p) for n, p in dataset.parts().items()} == {"test": 1, "train": 2}
    refuse_leaks(dataset.parts())
    picture(tmp_path / "test" / "boat" / "again.png", seed=1)
    with pytest.raises(DataError, match=r"leak: 1 images.*again.png = train/train/boat/b.png"):
        refuse_leaks(open_dataset(tmp_path).parts())
    with pytest.raises(DataError, match="has no split"):
        open_dataset(tmp_path / "train").parts()


def test_imagefolder_masks_mirror_the_names(tmp_path) -> None:
    picture(tmp_path / "photos" / "boat" / "a.jpg")
    picture(tmp_path / "photos" / "other" / "a.jpg", seed=1)
    grey(tmp_path / "masks" / "boat" / "a.png", np.eye(6, 8) * 255)
    grey(tmp_path / "water" / "boat" / "a.png", 1 - np.eye(6, 8))
    one = open_dataset(tmp_path / "photos", masks=tmp_path / "masks")
    np.testing.assert_array_equal(one[0].mask("boat"), np.eye(6, 8, dtype=bool))
    assert not one[1].has_mask("other")
    two = open_dataset(
        tmp_path / "photos", masks={"boat": tmp_path / "masks", "water": tmp_path / "water"}
    )
    np.testing.assert_array_equal(two[0].mask("water"), ~np.eye(6, 8, dtype=bool))
    assert two.classes == ("boat", "other", "water")
    # a flat folder would give one mask to both photos called a.jpg, so it is not searched
    grey(tmp_path / "flat" / "a.png", np.eye(6, 8))
    with pytest.raises(DataError, match="no mask matches an image"):
        open_dataset(tmp_path / "photos", masks=tmp_path / "flat")


def test_mask_of_another_size_is_found_by_check(tmp_path) -> None:
    picture(tmp_path / "photos" / "boat" / "a.png")
    grey(tmp_path / "masks" / "boat" / "a.png", np.ones((8, 6)))
    dataset = open_dataset(tmp_path / "photos", masks=tmp_path / "masks")
    with pytest.raises(DataError, match=r"'boat/a.png'.*8 x 6 .*the image 6 x 8 .*swapped"):
        dataset.check()


def test_imagefolder_faults(tmp_path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(tmp_path / "none")
    with pytest.raises(DataError, match="no layout that is known"):
        open_dataset(tmp_path)
    picture(tmp_path / "boat" / "a.png")
    picture(tmp_path / "loose.png")
    with pytest.raises(DataError, match=r"beside the class folders.*loose.png"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="did you mean 'imagefolder'"):
        open_dataset(tmp_path, format="imagefoldr")


# ---------------------------------------------------------------- COCO


def coco(folder: Path, **changes: object) -> Path:
    picture(folder / "images" / "a.png")
    picture(folder / "images" / "b.png", seed=1)
    document = {
        "images": [
            {"id": 1, "file_name": "a.png", "height": 6, "width": 8},
            {"id": 2, "file_name": "b.png", "height": 6, "width": 8},
        ],
        "categories": [{"id": 9, "name": "boat"}, {"id": 3, "name": "cow"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 9,
                "bbox": [2, 1, 3, 4],
                "segmentation": [[2, 1, 5, 1, 5, 5, 2, 5]],
                "iscrowd": 0,
            },
            {
                "id": 2,
                "image_id": 1,
                "category_id": 9,
                "bbox": [7, 0, 1, 6],
                "segmentation": {"size": [6, 8], "counts": [42, 6]},
                "iscrowd": 1,
            },
        ],
    }
    document.update(changes)
    file = folder / "annotations.json"
    file.write_text(json.dumps(document))
    return file


def test_coco_boxes_are_half_open_and_masks_united(tmp_path) -> None:
    coco(tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.format == "coco"
    assert dataset.classes == ("boat", "cow")
    first, second = dataset
    assert [b.coordinates for b in first.boxes] == [(2, 1, 5, 5), (7, 0, 8, 6)]
    assert [b.crowd for b in first.boxes] == [False, True]
    expected = np.zeros((6, 8), bool)
    expected[1:5, 2:5] = True
    np.testing.assert_array_equal(first.boxes[0].mask.read((6, 8)), expected)
    expected[:, 7] = True
    np.testing.assert_array_equal(first.mask("boat"), expected)
    np.testing.assert_array_equal(first.box_mask("boat"), expected)
    assert second.labels == ()
    assert len(open_dataset(tmp_path / "annotations.json").with_label("boat")) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": [2, 1, 30, 4]}, r"lies outside the image of width 8 and height 6"),
        ({"bbox": [2, 1, 0, 4]}, "is empty"),
        ({"bbox": [2, 1, 3]}, r"expected \[x, y, width, height\]"),
        ({"bbox": [2, 1, None, 4]}, "None is not a number"),
        ({"bbox": [2, 1, float("nan"), 4]}, "is not a number"),
        ({"category_id": 77}, "77 is not in 'categories'"),
        ({"segmentation": [[1, 2, 3]]}, "expected x, y pairs"),
        ({"segmentation": {"size": [8, 6], "counts": [48]}}, r"size \[8, 6\], the image has"),
        ({"image_id": 5}, "not in 'images', the first 5"),
    ],
)
def test_coco_faulty_annotations(tmp_path, changes: dict, message: str) -> None:
    annotation = {"id": 4, "image_id": 1, "category_id": 9, "bbox": [2, 1, 3, 4], **changes}
    coco(tmp_path, annotations=[annotation])
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path)


def test_coco_box_that_overhangs_by_rounding_is_clipped(tmp_path) -> None:
    annotation = {"id": 4, "image_id": 1, "category_id": 9, "bbox": [-0.4, 1, 8.9, 4]}
    coco(tmp_path, annotations=[annotation])
    assert open_dataset(tmp_path)[0].boxes[0].coordinates == (0, 1, 8, 5)


def test_coco_names_cannot_lead_out_of_the_folder(tmp_path) -> None:
    for name in ("../secret.png", "/etc/passwd", "..\\secret.png", "C:\\x.png"):
        coco(tmp_path, images=[{"id": 1, "file_name": name}], annotations=[])
        with pytest.raises(DataError, match="leads out of the image folder"):
            open_dataset(tmp_path)


def test_missing_images_are_listed_or_skipped(tmp_path) -> None:
    images = [{"id": k, "file_name": f"{n}.png"} for k, n in enumerate("axyb")]
    coco(tmp_path, images=images, annotations=[])
    with pytest.raises(DataError, match=r"(?s)2 faults in 4 entries.*x\.png.*y\.png.*skip"):
        open_dataset(tmp_path)
    with pytest.warns(AttnvizWarning, match="left out 2 faults"):
        dataset = open_dataset(tmp_path, faults="skip")
    assert [s.id for s in dataset] == ["a.png", "b.png"]


def test_coco_as_it_is_downloaded(tmp_path) -> None:
    picture(tmp_path / "val2017" / "a.png")
    (tmp_path / "annotations").mkdir()
    file = coco(tmp_path / "annotations", images=[{"id": 1, "file_name": "a.png"}], annotations=[])
    for k in "ab":
        (tmp_path / "annotations" / "images" / f"{k}.png").unlink()
    (tmp_path / "annotations" / "images").rmdir()
    file = file.rename(file.with_name("instances_val2017.json"))
    assert open_dataset(file)[0].image.samefile(tmp_path / "val2017" / "a.png")


def test_an_image_listed_twice_is_refused(tmp_path) -> None:
    images = [{"id": k, "file_name": "a.png"} for k in (1, 2)]
    coco(tmp_path, images=images, annotations=[])
    with pytest.raises(DataError, match="more than once, the first 'a.png'"):
        open_dataset(tmp_path)


def test_stated_size_that_is_not_the_images_own(tmp_path) -> None:
    images = [{"id": 1, "file_name": "a.png", "height": 8, "width": 6}]
    coco(tmp_path, images=images, annotations=[])
    with pytest.raises(DataError, match="6 x 8 pixels .* its annotation says 8 x 6"):
        open_dataset(tmp_path)[0].read()


# ---------------------------------------------------------------- VOC

XML = """<annotation><filename>{name}</filename><size><width>8</width><height>6</height></size>
<object><name>boat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>{xmax}</xmax><ymax>6</ymax>
</bndbox></object></annotation>"""


def voc(folder: Path, text: str = XML, **values: object) -> None:
    picture(folder / "JPEGImages" / "a.png")
    (folder / "Annotations").mkdir(exist_ok=True)
    values = {"name": "a.png", "xmax": 3, **values}
    (folder / "Annotations" / "a.xml").write_text(text.format(**values))


def test_voc_counts_from_one_and_includes_the_last_pixel(tmp_path) -> None:
    voc(tmp_path)
    segmentation = np.zeros((6, 8))
    segmentation[1:, :3] = 4  # boat is VOC's class 4
    segmentation[0] = 255
    grey(tmp_path / "SegmentationClass" / "a.png", segmentation)
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("a  1\n")
    dataset = open_dataset(tmp_path)
    (sample,) = dataset
    assert dataset.format == "voc"
    assert len(dataset.classes) == 20
    assert sample.boxes == (Box(0, 1, 3, 6, "boat"),)
    assert sample.split == "validation"
    np.testing.assert_array_equal(sample.mask("boat"), sample.box_mask("boat"))
    np.testing.assert_array_equal(sample.mask("void"), segmentation == 255)


def test_voc_stale_file_name_falls_back_on_the_stem(tmp_path) -> None:
    voc(tmp_path, name="IMG_renamed.png")
    assert open_dataset(tmp_path)[0].image.name == "a.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + XML, "document type or entities"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "document type or entities"),
        ("<annotation>", "not readable as XML"),
        ("<a>" * 40 + "</a>" * 40, "deeper than 32"),
        (XML.replace("<xmin>1</xmin>", ""), "None is not a number"),
        (XML.replace("<name>boat</name>", ""), "object has no name"),
        (XML.replace("<xmax>{xmax}", "<xmax>99"), "outside the image of width 8"),
    ],
)
def test_voc_faults(tmp_path, text: str, message: str) -> None:
    voc(tmp_path, text)
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path)


def test_voc_refuses_a_document_type_in_any_encoding(tmp_path) -> None:
    voc(tmp_path)
    text = '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE a [<!ENTITY b "c">]><annotation/>'
    (tmp_path / "Annotations" / "a.xml").write_bytes(text.encode("utf-16"))
    with pytest.raises(DataError, match="document type or entities"):
        open_dataset(tmp_path)


# ---------------------------------------------------------------- CSV


def table(folder: Path, text: str, name: str = "index.csv") -> Path:
    for k in "ab":
        picture(folder / f"{k}.png", seed=ord(k))
    (folder / name).write_text(text)
    return folder / name


def test_csv_rows_of_one_path_are_one_image(tmp_path) -> None:
    grey(tmp_path / "m.png", np.eye(6, 8))
    table(
        tmp_path,
        "path,label,x0,y0,x1,y1,box_label,mask:water,source,split,author\n"
        "a.png,boat,1,2,3,4,,m.png,film-1,test,Ann\n"
        "a.png,boat,0,0,8,6,mast,,,,\n"
        "b.png,other,,,,,,,film-1,test,Bob\n",
    )
    first, second = open_dataset(tmp_path)
    assert first.boxes == (Box(1, 2, 3, 4, "boat"), Box(0, 0, 8, 6, "mast"))
    assert first.labels == ("boat", "mast")
    assert (first.source, first.split, first.meta["author"]) == ("film-1", "test", "Ann")
    np.testing.assert_array_equal(first.mask("water"), np.eye(6, 8, dtype=bool))
    assert second.boxes == ()
    assert not second.has_mask("water")


def test_csv_box_outside_is_found_when_the_size_is_known(tmp_path) -> None:
    table(tmp_path, "path,x0,y0,x1,y1\na.png,1,2,30,4\n")
    dataset = open_dataset(tmp_path)  # a table states no sizes
    with pytest.raises(DataError, match="outside the image of width 8 and height 6"):
        dataset.check()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\na.png,boat\n", "no column 'path'"),
        ("path,label\na.png\n", "line 2: expected 2 columns"),
        ("path,label\na.png,boat,3\n", "line 2: expected 2 columns"),
        ("path,label\na.png,boat\na.png,cow\n", r"different values of 'label': \['boat', 'cow'\]"),
        ("path,x0,y0,x1,y1\na.png,1,2,one,4\n", "line 2, x1: 'one' is not a number"),
        ("path,x0,y0,x1,y1\na.png,5,2,1,4\n", "is empty"),
        ("path,mask\na.png,m.png\n", "a mask but no label"),
        ("path,label,mask\na.png,boat,m.png\n", "m.png does not exist"),
        ("path,label\n../a.png,boat\n", "leads out"),
        ("path,label\n", "no image found"),
    ],
)
def test_csv_faults(tmp_path, text: str, message: str) -> None:
    table(tmp_path, text)
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path)


def test_csv_paths_may_be_absolute(tmp_path) -> None:
    picture(tmp_path / "x.png")
    file = table(tmp_path / "sub", f"path,label\n{tmp_path / 'x.png'},boat\n")
    assert open_dataset(file)[0].image == tmp_path / "x.png"


# ---------------------------------------------------------------- label images


def label_images(folder: Path, **changes: object) -> np.ndarray:
    values = np.zeros((6, 8), np.uint8)
    values[2:, :] = 10
    values[3, 3:6] = 23
    picture(folder / "images" / "a.png")
    grey(folder / "masks" / "a.png", values)
    entry = {"image": "images/a.png", "mask": "masks/a.png", "width": 8, "height": 6, **changes}
    document = {"classes": {"10": "water", "23": "boat", "4": "cow"}, "void": 0, "images": [entry]}
    (folder / "index.json").write_text(json.dumps(document))
    return values


@pytest.mark.parametrize("area", [{"water": 0.6, "boat": 0.06}, None])
def test_label_images(tmp_path, area: object) -> None:
    values = label_images(tmp_path, area=area)
    (sample,) = open_dataset(tmp_path)
    assert sample.labels == ("water", "boat")
    for name, value in (("water", 10), ("boat", 23), ("cow", 4), ("void", 0)):
        np.testing.assert_array_equal(sample.mask(name), values == value)
    with pytest.raises(DataError, match="no mask of 'boats'; did you mean 'boat'"):
        sample.mask("boats")


def test_label_images_of_unknown_values(tmp_path) -> None:
    values = label_images(tmp_path)
    values[0, 0] = 7
    grey(tmp_path / "masks" / "a.png", values)
    with pytest.raises(DataError, match=r"mask values \[7\] are no class"):
        open_dataset(tmp_path)


# ---------------------------------------------------------------- samples and the registry


def test_sample_refuses_other_arrays_and_boxes_outside() -> None:
    with pytest.raises(DataError, match=r"float64 \(4, 4, 3\), expected uint8"):
        Sample("a", np.zeros((4, 4, 3)))
    with pytest.raises(DataError, match="outside the image of width 4 and height 4"):
        Sample("a", np.zeros((4, 4, 3), np.uint8), boxes=(Box(0, 0, 9, 9),))


def test_sample_pixels_cannot_be_changed_through_a_copy() -> None:
    sample = Sample("a", np.zeros((4, 4, 3), np.uint8))
    sample.read()[:] = 9
    assert not sample.read().any()
    assert sample.image_size() == (4, 4)


def test_exif_turned_photo_has_the_size_that_is_shown(tmp_path) -> None:
    image = Image.fromarray(np.zeros((6, 8, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    sample = Sample("a", tmp_path / "a.jpg")
    assert sample.image_size() == sample.read().shape[:2] == (8, 6)


def test_every_reader_is_registered_with_a_summary_and_detection() -> None:
    assert {"coco", "csv", "imagefolder", "masks", "voc"} <= set(READERS.names())
    for entry in READERS:
        assert len(entry.summary) > 20
        assert callable(entry.meta["detect"])


def test_shared_data_is_read_whole(shared_data: Path) -> None:
    scenes = open_dataset(shared_data / "scenes")
    assert (len(scenes), scenes.format) == (354, "masks")
    assert scenes.counts()["boat"] == 19
    boat = scenes.with_label("boat")[0]
    assert boat.mask("boat").mean() == pytest.approx(boat.meta["area"]["boat"], abs=1e-4)
    boxes = open_dataset(shared_data / "boxes")
    assert (len(boxes), sum(len(s.boxes) for s in boxes)) == (111, 965)
    assert len(open_dataset(shared_data / "photos")) == 300


# ---------------------------------------------------------------- masks beside, COCO's own root


def test_class_folders_with_masks_beside_need_no_option(tmp_path) -> None:
    for layout, base in (("a", "."), ("b", "images")):
        root = tmp_path / layout
        for k, name in enumerate(("boat/1.jpg", "boat/2.jpg", "other/1.jpg")):
            picture(root / base / name, seed=k)
        grey(root / "masks" / "boat" / "2.png", np.eye(6, 8) * 255)
        data = open_dataset(root)
        assert (data.format, data.classes) == ("imagefolder", ("boat", "other"))
        assert [s.id for s in data] == ["boat/1.jpg", "boat/2.jpg", "other/1.jpg"]
        assert [s.has_mask("boat") for s in data] == [False, True, False]
        np.testing.assert_array_equal(data[1].mask("boat"), np.eye(6, 8, dtype=bool))


def test_a_class_called_masks_stays_a_class(tmp_path) -> None:
    picture(tmp_path / "masks" / "1.jpg")
    picture(tmp_path / "faces" / "1.jpg", seed=1)
    assert open_dataset(tmp_path).classes == ("faces", "masks")


def test_flat_images_and_masks(tmp_path) -> None:
    for k in range(3):
        picture(tmp_path / "images" / f"{k}.jpg", seed=k)
    grey(tmp_path / "masks" / "0.png", np.eye(6, 8))
    grey(tmp_path / "masks" / "1.png", np.zeros((6, 8)))
    with pytest.raises(DataError, match=r"(?s)1 faults in 3.*2\.jpg has no mask .*2\.png"):
        open_dataset(tmp_path)
    grey(tmp_path / "masks" / "2.png", np.ones((6, 8)))
    data = open_dataset(tmp_path)
    assert data.format == "images_masks"
    assert [s.labels for s in data] == [("object",), (), ("object",)]
    np.testing.assert_array_equal(data[0].mask("object"), np.eye(6, 8, dtype=bool))


@pytest.mark.parametrize("export", ["coco", "roboflow"])
def test_a_root_of_several_coco_files(tmp_path, export) -> None:
    square = [1, 1, 4, 1, 4, 3, 1, 3]
    for k, split in enumerate(("train", "val")):
        # both splits call their image alike
        picture(tmp_path / (f"{split}2017" if export == "coco" else split) / "1.png", seed=k)
        document = {
            "images": [{"id": 1, "file_name": "1.png", "height": 6, "width": 8}],
            "categories": [{"id": 1, "name": "boat"}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 2],
                             "segmentation": [square]}] if k else [],
        }  # fmt: skip
        file = (
            tmp_path / "annotations" / f"instances_{split}2017.json" if export == "coco"
            else tmp_path / split / "_annotations.coco.json"
        )  # fmt: skip
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(document))
    data = open_dataset(tmp_path)
    assert (data.format, len(data), data.classes) == ("coco", 2, ("boat",))
    assert [(s.split, s.labels) for s in data] == [("train", ()), ("validation", ("boat",))]
    np.testing.assert_array_equal(
        data[1].read(), np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
    )
    assert data[1].mask("boat").sum() == 6
    alone = tmp_path / "annotations" / "instances_val2017.json"
    if export == "coco":
        assert open_dataset(alone)[0].split is None
        assert open_dataset(alone)[0].image == tmp_path / "annotations" / ".." / "val2017/1.png"


def test_metashift_folders_name_the_context(tmp_path) -> None:
    picture(tmp_path / "cat" / "cat(sofa)" / "1.png")
    picture(tmp_path / "dog" / "crane (bird)" / "1.png", seed=1)
    data = open_dataset(tmp_path)
    assert data.classes == ("cat", "dog", "sofa")
    assert [(s.labels, s.group) for s in data] == [(("cat", "sofa"), "cat/sofa"), (("dog",), "")]
