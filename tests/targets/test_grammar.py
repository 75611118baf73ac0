"""Targets as text, places of the photo, and classes against those most like them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import attnviz
from attnviz.errors import TargetError
from attnviz.geometry import Geometry
from attnviz.targets import (
    ClassTarget,
    Contrast,
    FinerTarget,
    PhotoRegion,
    Probability,
    RegionTarget,
    Setting,
    parse,
)

LABELS = ["boat", "seashore", "car", "sea: rough", "dock"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    ).eval()


@pytest.fixture
def dense():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 5, 1)
    ).eval()


def explain(model, x, target, layer="1", **options):
    return attnviz.explain(model, x, layer=layer, target=target, labels=LABELS, **options)


def test_texts_and_objects_explain_the_same(model):
    x = torch.rand(2, 3, 12, 12)
    with torch.no_grad():
        logits = model(x)
    for text, target, score in (
        ("class:boat", "boat", logits[:, 0]),
        ("boat", 0, logits[:, 0]),
        ("class:sea: rough", 3, logits[:, 3]),
        ("sea: rough", 3, logits[:, 3]),
        ("contrast:boat,seashore", Contrast("boat", "seashore"), logits[:, 0] - logits[:, 1]),
        ("probability:car", attnviz.Probability("car"), logits.softmax(1)[:, 2]),
        ("finer:boat", FinerTarget("boat"), None),
    ):
        written, built = explain(model, x, text), explain(model, x, target)
        torch.testing.assert_close(written.values, built.values)
        assert written.label == built.label
        if score is not None:
            torch.testing.assert_close(written.score, score)
    both = explain(model, x, ["finer:car", "contrast:car,boat"])
    torch.testing.assert_close(both.score[1], logits[1, 2] - logits[1, 0])


@pytest.mark.parametrize(
    "target",
    [ClassTarget("boat"), Probability("boat"), Contrast("boat", "car"), FinerTarget("boat"),
     RegionTarget("boat")],
    ids=lambda target: type(target).__name__,
)  # fmt: skip
def test_a_target_that_no_model_has_bound_says_so(target):
    output = torch.rand(2, 5, 4, 4) if isinstance(target, RegionTarget) else torch.rand(2, 5)
    with pytest.raises(TargetError, match="not bound to a model's classes"):
        target.score(output)


def test_finer_is_the_class_minus_those_nearest_to_it(model):
    x = torch.rand(3, 3, 12, 12)
    with torch.no_grad():
        logits = model(x)
    maps = explain(model, x, FinerTarget("car", similar=2, gamma=0.6))
    for i, row in enumerate(logits):
        others = sorted((abs(float(row[2] - row[k])), k) for k in range(5) if k != 2)[:2]
        by_hand = row[2] - 0.6 * torch.stack([row[k] for _, k in others]).mean()
        torch.testing.assert_close(maps.score[i], by_hand)
    with pytest.raises(TargetError, match="similar of at least 1"):
        explain(model, x, FinerTarget("car", similar=0))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fine:boat", "did you mean 'finer'"),
        ("contrast:boat", "needs two classes"),
        ("pixel:12", "needs x and y"),
        ("region:", "names nothing"),
        ("box:3@boat", "needs a number"),
        ("text:", "names nothing"),
        ("zzz:boat", r"Forms: class:boat"),
    ],
)
def test_a_text_that_does_not_fit_is_told_the_forms(text, said):
    with pytest.raises(TargetError, match=said):
        parse(text)


def test_a_region_and_a_pixel_of_a_dense_output_by_hand(dense, tmp_path):
    x = torch.rand(2, 3, 12, 16)
    with torch.no_grad():
        out = dense(x)  # (2, 5, 6, 8)
    mask = np.zeros((12, 16), np.uint8)
    mask[2:5, 4:8] = 255  # covers row 1 of the output and half of row 2, columns 2 and 3
    Image.fromarray(mask).save(tmp_path / "mask.png")
    weights = torch.zeros(6, 8)
    weights[1, 2:4], weights[2, 2:4] = 1.0, 0.5
    weights /= weights.sum()
    for target in (f"region:{tmp_path}/mask.png@car", PhotoRegion(mask, "car")):
        maps = explain(dense, x, target)
        torch.testing.assert_close(maps.score, (out[:, 2] * weights).sum((1, 2)))
    best = (out * weights).sum((2, 3))
    torch.testing.assert_close(explain(dense, x, PhotoRegion(mask)).score, best.amax(1))
    maps = explain(dense, x, "pixel:5,3@1")
    torch.testing.assert_close(maps.score, out[:, 1, 1, 2])
    left, right = (explain(dense, x, f"pixel:{at},3@1", method="layercam").values for at in (1, 14))
    # two disjoint regions, two maps that hardly meet (Grad-CAM averages its weights)
    assert (left * right).sum() < 0.05 * (left.square().sum() * right.square().sum()).sqrt()
    with pytest.raises(TargetError, match="outside what the model sees"):
        explain(dense, x, "pixel:50,3")
    with pytest.raises(TargetError, match=r"is \(4, 4\).*the photo \(12, 16\)"):
        explain(dense, x, PhotoRegion(np.ones((4, 4), np.uint8)))


def test_a_pixel_is_one_of_the_photo_and_not_of_the_input(dense):
    photo = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)

    def prepare(image):  # the right half of the photo, at half its size
        tensor = torch.tensor(np.asarray(image) / 255).permute(2, 0, 1).float()
        return tensor[:, ::2, 30::2], Geometry((40, 60), (20, 15), (30.0, 0.0, 60.0, 40.0))

    x, _ = prepare(photo)
    with torch.no_grad():
        out = dense(x[None])
    target = PhotoRegion((45.0, 12.0), 1)
    ready = target.ready(Setting(1, (20, 15), [prepare(photo)[1]], None))
    assert ready.inside.nonzero().tolist() == [[0, 6, 7]]
    torch.testing.assert_close(ready.bind(5, None).score(out), out[:, 1, 3, 3])


def test_an_embedding_is_the_cosine_with_another_photo(model, tmp_path):
    other = np.random.default_rng(1).integers(0, 255, (12, 12, 3), np.uint8)
    Image.fromarray(other).save(tmp_path / "other.png")
    x = np.random.default_rng(2).integers(0, 255, (12, 12, 3), np.uint8)
    prepare = lambda a: torch.tensor(np.asarray(a) / 255).permute(2, 0, 1).float()  # noqa: E731
    maps = explain(model, x, f"embedding:{tmp_path}/other.png", preprocess=prepare)
    with torch.no_grad():
        a, b = model(prepare(x)[None]), model(prepare(other)[None])
    torch.testing.assert_close(maps.score, torch.cosine_similarity(a, b, dim=1))
    assert maps.label == ("embedding of other.png",)
