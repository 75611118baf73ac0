"""`attnviz choose`, and what it leaves for `guide` and `audit` to read."""

import json

import numpy as np
import pytest
from PIL import Image

from attnviz.data import open_dataset
from attnviz.guidance import choose

TINY = ["--model", "tests.cli.tiny:colours", "--preprocess", "imagenet", "--device", "cpu"]


def photo(spots, size=224):
    """A grey photo with coloured squares (row, column, side, colour)."""
    pixels = np.full((size, size, 3), 128, np.uint8)
    for row, column, side, colour in spots:
        pixels[row : row + side, column : column + side] = colour
    return pixels


@pytest.fixture
def data(tmp_path):
    """Red things in one place and in several, and blue ones; one has a mask."""
    red, blue = (255, 0, 0), (0, 0, 255)
    photos = {
        "red/one.png": [(32, 48, 64, red)],
        "red/two.png": [(32, 32, 64, red), (144, 128, 64, red)],
        "red/three.png": [(16, 16, 48, red), (144, 16, 48, red), (80, 144, 48, red)],
        "red/known.png": [(0, 0, 32, red), (64, 64, 32, red), (128, 128, 32, red)],
        "blue/one.png": [(96, 96, 64, blue)],
    }
    for name, spots in photos.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(spots)).save(tmp_path / "data" / name)
    masks = tmp_path / "data" / "masks" / "red"
    masks.mkdir(parents=True)
    Image.fromarray(np.eye(224, dtype=np.uint8)).save(masks / "known.png")
    return tmp_path / "data"


def test_the_spread_maps_come_first_and_the_annotated_are_left_out(run, data, tmp_path):
    words = ["choose", str(data), *TINY, "--labels", "red,green,blue", "--out", str(tmp_path / "a")]
    done = run(*words, "--object", "red", "--budget", "2", "--json")
    assert done.code == 0, done.err
    chosen = done.json["chosen"]
    assert [c["id"] for c in chosen] == ["red/three.png", "red/two.png"]
    assert done.json["pool"] == 3
    # two of three equal squares, one of two: what lies outside of the largest part
    assert [c["score"] for c in chosen] == pytest.approx([2 / 3, 1 / 2], abs=0.08)
    found = open_dataset(tmp_path / "a")
    assert found.format == "coco"
    assert [s.id for s in found] == ["red/three.png", "red/two.png"]
    mask = found[1].mask("red")
    squares = [np.s_[32:96, 32:96], np.s_[144:208, 128:192]]
    # the region filled in is one of the two squares
    shares = [mask[s].sum() / mask.sum() for s in squares]
    assert max(shares) > 0.7
    assert found[1].mask_source("red") == "map: gradcam of tests.cli.tiny:colours"
    assert run(*words, "--object", "red").code == 1  # nothing is overwritten
    turns = run(*words, "--force", "--budget", "2")
    assert turns.code == 0, turns.err
    assert "2 of 4 images without annotation, by 'outside': blue 1, red 1" in turns.out


def test_what_comes_back_is_read_by_guide_and_said_to_be_a_map_s(run, data, tmp_path):
    words = ["choose", str(data), *TINY, "--labels", "red,green,blue", "--out", str(tmp_path / "a")]
    assert run(*words, "--object", "red").code == 0
    file = tmp_path / "a" / "annotations.json"
    read = open_dataset(data, masks=file)
    assert [s.id for s in read if s.mask_source("red")] == [
        "red/one.png", "red/three.png", "red/two.png",
    ]  # fmt: skip
    document = json.loads(file.read_text())
    for annotation in document["annotations"]:
        del annotation["masks_from"]
    file.write_text(json.dumps(document))
    assert not any(s.mask_source("red") for s in open_dataset(data, masks=file))
    nothing = run("choose", str(data), *TINY, "--labels", "red,green,blue", "--object", "red",
                  "--masks", str(file), "--out", str(tmp_path / "b"))  # fmt: skip
    assert nothing.code == 1
    assert "no image of red is without a mask or box" in nothing.err


def test_classes_that_the_model_has_not(run, data, tmp_path):
    words = ["choose", str(data), *TINY, "--out", str(tmp_path / "a")]
    done = run(*words, "--labels", "rot,gruen,blau")
    assert done.code == 1
    assert "--classes boat=speedboat" in done.err
    done = run(*words, "--labels", "rot,gruen,blau", "--classes", "red=rot", "--budget", "1")
    assert done.code == 0, done.err
    assert "red 1" in done.out


def test_it_is_the_order_of_guidance_choose(data):
    """The files hold what `guidance.choose` says of the same inputs."""
    from attnviz.guidance import propose
    from attnviz.models import LoadedModel, Preprocess
    from tests.cli.tiny import colours

    model = colours()
    prepare = Preprocess(resize=None, crop=None, mean=(0.0,) * 3, std=(1.0,) * 3)
    loaded = LoadedModel(model.eval(), "colours", prepare)
    dataset = open_dataset(data)
    found, pool = propose(loaded, dataset, 3, classes={"red": 0})
    rest = [s for s in dataset if s.label == "red" and not s.has_mask("red")]
    examples = [(prepare(s.read())[0], 0) for s in rest]
    want = choose(model, examples, 3)
    assert pool == 3
    assert [p.sample.id for p in found] == [rest[i].id for i in want.order]
    assert [p.score for p in found] == [float(want.scores[i]) for i in want.order]
