"""Datasets as training examples: annotation lands where the image lands."""

import numpy as np
import pytest
import torch
from torch import nn

from attnviz.data import Box, Dataset, Sample
from attnviz.data.masks import ArrayMask
from attnviz.data.prepared import boxes_on_input, mask_on_input
from attnviz.errors import DataError, ModelError
from attnviz.geometry import Geometry
from attnviz.guidance import Examples, new_head
from attnviz.models import Preprocess


def white_square(k, label, *, box=False, mask=True):
    """The object is white on black, so the image itself says where the mask belongs."""
    image = np.zeros((40, 60, 3), np.uint8)
    y, x = 8 + k % 3, 12 + 3 * (k % 5)
    image[y : y + 16, x : x + 20] = 255
    where = image[..., 0] > 0
    boxes = (Box(x, y, x + 20, y + 16, label),) if box else ()
    masks = {label: ArrayMask(where)} if mask else {}
    return Sample(f"{k:02d}", image, label=label, boxes=boxes, masks=masks)


@pytest.fixture
def dataset():
    samples = [white_square(k, "cat" if k % 2 else "dog") for k in range(20)]
    return Dataset(tuple(samples), ("cat", "dog"))


PREPROCESS = Preprocess(resize=32, crop=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)


def test_masks_follow_resize_crop_and_flip(dataset):
    torch.manual_seed(0)
    for flip in (False, True):
        for image, _, where in (Examples(dataset, PREPROCESS, flip=flip)[i] for i in range(20)):
            inside = image[0] > 0.5
            # but for the blurred edge
            assert (inside == (where["mask"] > 0)).float().mean() > 0.97


def test_boxes_follow_too_and_come_from_masks_where_there_are_none():
    torch.manual_seed(0)
    drawn = Dataset(tuple(white_square(k, "cat", box=True, mask=False) for k in range(6)), ("cat",))
    masked = Dataset(tuple(white_square(k, "cat") for k in range(6)), ("cat",))
    for flip in (False, True):
        for data in (drawn, masked):
            examples = Examples(data, PREPROCESS, masks=0.0, boxes=1.0, flip=flip)
            for i in range(6):
                image, _, where = examples[i]
                rows, columns = (image[0] > 0.5).nonzero().unbind(1)
                seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert where["boxes"][0].tolist() == pytest.approx([float(v) for v in seen], abs=1)


def test_placing_by_hand():
    geometry = Geometry((4, 6), (2, 2), (1.0, 0.0, 5.0, 4.0))  # the middle 4 x 4, halved
    mask = np.zeros((4, 6), bool)
    mask[1, 2] = mask[3, 4] = True
    assert mask_on_input(mask, geometry).tolist() == [[1, 0], [0, 1]]
    assert boxes_on_input([(1, 0, 3, 2), (5, 0, 6, 4), (0, 0, 6, 4)], geometry).tolist() == [
        [0, 0, 1, 1], [0, 0, 2, 2],
    ]  # fmt: skip
    padded = Geometry((2, 2), (4, 4), (-1.0, -1.0, 3.0, 3.0))
    assert mask_on_input(np.ones((2, 2), bool), padded).sum() == 4


def test_shares_are_balanced_by_class_and_repeatable(dataset):
    examples = Examples(dataset, PREPROCESS, masks=0.2, boxes=0.5, seed=3)
    assert examples.counts() == {"masks": 4, "boxes": 8, "none": 8}
    for label in (0, 1):
        own = [k for k, y in zip(examples.kinds, examples.labels) if y == label]
        assert own.count("masks") == 2
    assert examples.kinds == Examples(dataset, PREPROCESS, masks=0.2, boxes=0.5, seed=3).kinds
    assert examples.kinds != Examples(dataset, PREPROCESS, masks=0.2, boxes=0.5, seed=4).kinds


def test_one_object_against_the_rest(dataset):
    examples = Examples(dataset, PREPROCESS, object="cat")
    assert examples.classes == ("other", "cat")
    assert examples.labels == [k % 2 for k in range(20)]
    assert examples[0][2] is None  # a dog has no mask of a cat
    assert examples[1][2] is not None
    with pytest.raises(DataError, match="did you mean 'cat'"):
        Examples(dataset, PREPROCESS, object="cats")
    with pytest.raises(DataError, match="no label among"):
        Examples(dataset, PREPROCESS, classes=["cat"])
    with pytest.raises(DataError, match="shares from 0 to 1"):
        Examples(dataset, PREPROCESS, masks=25)


def test_a_new_head():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 7)).double()
    state = torch.get_rng_state()
    new_head(model, 2)
    assert model[3].weight.shape == (2, 3)
    assert model[3].weight.dtype == torch.float64
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ModelError, match="2 outputs"):
        new_head(nn.Conv2d(1, 1, 1), 2)


def test_a_new_head_forgets_the_old_classes():
    """Names of ImageNet do not go to two new outputs, and maps of the new model can be made."""
    pytest.importorskip("timm")
    from attnviz import explain, load
    from attnviz.models import labels_of

    net = load().module
    assert len(labels_of(net)) == 1000
    new_head(net, 2)
    assert labels_of(net) is None
    assert explain(net, torch.randn(1, 3, 64, 64), target=1).label == ("class 1",)
    transformers = pytest.importorskip("transformers")
    small = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=8, id2label={0: "cat", 1: "dog", 2: "cow"},
        label2id={"cat": 0, "dog": 1, "cow": 2},
    )  # fmt: skip
    net = new_head(transformers.ViTForImageClassification(small), 2)
    assert labels_of(net) is None
