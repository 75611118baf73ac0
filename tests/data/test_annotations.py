"""Images to annotate go out, corrected annotations come back: COCO and Label Studio."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from attnviz.data import open_dataset, polygon_mask, rle_decode, rle_encode
from attnviz.data.proposing import Proposal, polygon_of, write_proposals
from attnviz.errors import DataError, OutputExists

SOURCE = "map: gradcam of net"


def blob(seed: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    """A connected region without holes: discs along a walk."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    mask, y, x = np.zeros(size, bool), *rng.uniform((6, 8), (14, 22))
    for _ in range(4):
        mask |= np.hypot(rows - y, columns - x) < rng.uniform(2, 5)
        y, x = y + rng.uniform(-1.5, 1.5), x + rng.uniform(-2, 2)
    return mask


def test_an_outline_gives_its_region_back_to_the_pixel() -> None:
    for seed in range(30):
        mask = blob(seed)
        np.testing.assert_array_equal(polygon_mask(polygon_of(mask), mask.shape), mask)
        np.testing.assert_array_equal(rle_decode(rle_encode(mask), mask.shape), mask)
        coarse = polygon_mask(polygon_of(mask, tolerance=1.0), mask.shape)
        assert (coarse & mask).sum() / (coarse | mask).sum() > 0.7
    one = np.zeros((4, 5), bool)
    one[0, 0] = True
    np.testing.assert_array_equal(polygon_mask(polygon_of(one), one.shape), one)
    assert rle_encode(one) == [0, 1, 19]
    assert polygon_of(~one & one) == []


@pytest.fixture
def folder(tmp_path):
    for k, name in enumerate(("boat/1.png", "boat/2.png", "other/1.png", "other/3.png")):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(k).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / name)
    return tmp_path / "data"


def proposed(folder, out):
    data = open_dataset(folder)
    given = [Proposal(data[i], data[i].label, blob(i), SOURCE, 0.5) for i in (0, 1, 2)]
    given.append(Proposal(data[3], "other", np.zeros((20, 30), bool), SOURCE, 0.1))
    return write_proposals(given, out, root=folder), given


def test_what_goes_out_is_coco_and_says_that_a_map_made_it(folder, tmp_path) -> None:
    out = tmp_path / "annotate"
    paths, given = proposed(folder, out)
    data = open_dataset(out)  # the folder stands by itself
    assert (data.format, data.classes) == ("coco", ("boat", "other"))
    assert [s.id for s in data] == ["boat/1.png", "boat/2.png", "other/1.png", "other/3.png"]
    data.check()
    for sample, one in zip(data, given, strict=True):
        np.testing.assert_array_equal(sample.read(), one.sample.read())
        if one.mask.any():
            mask = sample.mask(one.label)
            assert (mask & one.mask).sum() / (mask | one.mask).sum() > 0.8
            assert sample.mask_source(one.label) == SOURCE
        else:
            assert not sample.masks
    tasks = json.loads(paths["label_studio"].read_text())
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=images/boat/1.png"
    assert tasks[0]["predictions"][0]["model_version"] == SOURCE
    assert all("annotations" not in task for task in tasks)
    assert '<Label value="boat"/>' in paths["labels"].read_text()
    with pytest.raises(OutputExists):
        proposed(folder, out)


def test_an_image_of_two_classes_is_one_image_with_two_regions(folder, tmp_path) -> None:
    from dataclasses import replace

    sample = replace(open_dataset(folder)[0], labels=("boat", "dog"))
    two = [Proposal(sample, n, blob(k), SOURCE, 0.5) for k, n in enumerate(("boat", "dog"))]
    paths = write_proposals(two, tmp_path / "a", root=folder)
    (found,) = open_dataset(tmp_path / "a")
    assert sorted(found.masks) == ["boat", "dog"]
    (task,) = json.loads(paths["label_studio"].read_text())
    assert len(task["predictions"][0]["result"]) == 2
    other = replace(sample, id="x", image=tmp_path / "1.png")
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "1.png")
    both = [*two, Proposal(other, "boat", blob(3), SOURCE, 0.5)]
    with pytest.raises(DataError, match="would both be called '1.png'"):
        write_proposals(both, tmp_path / "b", root=None)


def submitted(tasks, corrections):
    """What Label Studio exports once people have drawn `corrections` {file: mask}."""
    done = []
    for number, task in enumerate(tasks):
        mask = corrections.get(task["data"]["file"])
        results = []
        if mask is not None:
            flat = polygon_of(mask)
            points = [[100 * x / 30, 100 * y / 20] for x, y in zip(flat[::2], flat[1::2])]
            results = [{
                "id": "a", "type": "polygonlabels", "from_name": "label", "to_name": "image",
                "original_width": 30, "original_height": 20, "image_rotation": 0,
                "value": {"points": points, "polygonlabels": [task["data"]["label"]]},
            }]  # fmt: skip
        cancelled = {"was_cancelled": True, "result": [{"type": "polygonlabels", "value": {}}]}
        done.append({**task, "id": number, "annotations": [cancelled, {"result": results}]})
    return done


def test_label_studio_round_trip(folder, tmp_path) -> None:
    paths, _ = proposed(folder, tmp_path / "annotate")
    drawn = {"boat/1.png": blob(11), "other/1.png": blob(12)}
    export = tmp_path / "project-1-at-2026.json"
    export.write_text(json.dumps(submitted(json.loads(paths["label_studio"].read_text()), drawn)))
    data = open_dataset(folder, masks=export)
    for sample in data:
        if sample.id in drawn:
            np.testing.assert_array_equal(sample.mask(sample.label), drawn[sample.id])
            assert sample.mask_source(sample.label) == ""
        else:  # a prediction that nobody submitted is no mask
            assert not sample.masks
    alone = open_dataset(export, images=tmp_path / "annotate" / "images")
    assert (alone.format, len(alone)) == ("label_studio", 4)
    np.testing.assert_array_equal(alone[0].mask("boat"), drawn["boat/1.png"])


def test_rectangles_uploads_and_what_is_not_read(folder, tmp_path) -> None:
    region = {
        "type": "rectanglelabels", "original_width": 30, "original_height": 20,
        "value": {"x": 10, "y": 20, "width": 50, "height": 40, "rotation": 0,
                  "rectanglelabels": ["boat"]},
    }  # fmt: skip
    task = {
        "data": {"image": "/data/upload/7/0a1b2c3d-2.png"},
        "annotations": [{"result": [region]}],
    }
    export = tmp_path / "export.json"
    export.write_text(json.dumps([task]))
    data = open_dataset(folder, masks=export)
    expected = np.zeros((20, 30), bool)
    expected[4:12, 3:18] = True
    (found,) = [s for s in data if s.masks]
    assert found.id == "boat/2.png"
    np.testing.assert_array_equal(found.mask("boat"), expected)
    for changes, said in (
        ({"type": "brushlabels"}, "'brushlabels' is not read"),
        ({"value": {**region["value"], "rotation": 12}}, "turned"),
        ({"original_width": None, "original_height": None}, "are missing"),
    ):
        export.write_text(json.dumps([{**task, "annotations": [{"result": [region | changes]}]}]))
        with pytest.raises(DataError, match=said):
            open_dataset(folder, masks=export)
    export.write_text(json.dumps([{**task, "data": {"image": "nowhere.png"}}]))
    with pytest.raises(DataError, match="none of its 1 annotated images is one of the data's"):
        open_dataset(folder, masks=export)
    region["value"]["rectanglelabels"] = ["vessel"]
    export.write_text(json.dumps([task]))
    with pytest.raises(DataError, match="marks vessel, and the data has the classes boat, other"):
        open_dataset(folder, masks=export)


def test_a_corrected_coco_file_comes_back(folder, tmp_path) -> None:
    paths, given = proposed(folder, tmp_path / "annotate")
    document = json.loads(paths["coco"].read_text())
    new = blob(21)
    document["annotations"][1] |= {"segmentation": [polygon_of(new)]}
    del document["annotations"][1]["masks_from"]  # as a tool writes it
    (tmp_path / "corrected.json").write_text(json.dumps(document))
    data = open_dataset(folder, masks=tmp_path / "corrected.json")
    np.testing.assert_array_equal(data[1].mask("boat"), new)
    assert [s.mask_source(s.label) for s in data] == [SOURCE, "", SOURCE, ""]
    # it takes the place of the masks that are there
    grey = tmp_path / "masks" / "boat"
    grey.mkdir(parents=True)
    Image.fromarray(np.ones((20, 30), np.uint8)).save(grey / "2.png")
    first = open_dataset(folder, masks=tmp_path / "masks")
    from attnviz.data.mask_folders import add_masks

    np.testing.assert_array_equal(
        add_masks(first, tmp_path / "corrected.json", None)[1].mask("boat"), new
    )
    assert first[1].mask("boat").all()
