"""Mining a trained model: planted evidence is found region by region, and the score falls."""

import pytest
import torch
from torch import nn

from attnviz.erasing import mine
from attnviz.errors import DataError


class Reader(nn.Module):
    """GAP + linear on the first channel: evidence is brightness, exactly."""

    def __init__(self):
        super().__init__()
        self.read = nn.Conv2d(3, 2, 1, bias=False)
        self.read.weight.data.copy_(torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])[..., None, None])
        self.drop = nn.Dropout(0.5)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2, 3, bias=False)
        self.head.weight.data.copy_(torch.tensor([[1.0, 0], [0, 1.0], [0, 0]]))

    def forward(self, x):
        return self.head(self.drop(self.pool(self.read(x)).flatten(1))) * 64


def picture():
    image = torch.zeros(3, 16, 16)
    image[0, 0:4, 0:4] = 3.0  # the first evidence
    image[0, 8:12, 8:12] = 1.2  # the second
    image[1, 0:4, 8:12] = 1.0  # another class
    return image


def test_regions_come_in_the_order_of_their_evidence():
    model = Reader().train()
    image = picture()
    found = mine(model, image, steps=4, fill="zero", layer="read")
    assert found.target == 0
    assert found.stopped == "evidence"  # two regions, then nothing speaks for the class
    first, second = torch.zeros(2, 16, 16).bool()
    first[0:4, 0:4] = True
    second[8:12, 8:12] = True
    assert torch.equal(found.regions[0], first)
    assert torch.equal(found.regions[1], second)
    assert torch.equal(found.union, first | second)
    # 64 * mean: 16 * 3 / 256 * 64 = 12, 16 * 1.2 / 256 * 64 = 4.8
    assert found.scores.tolist() == pytest.approx([16.8, 4.8, 0.0])
    assert found.ranks == (1, 1, 2)
    assert found.probabilities[0] > 0.99
    assert torch.equal(found.images[0], image)
    assert found.images[2][0].abs().sum() == 0
    assert model.training  # put back
    assert image[0, 0, 0] == 3.0


def test_a_target_that_is_not_predicted_and_a_full_erasure():
    found = mine(Reader(), picture(), target=1, fill="zero", layer="read", steps=1)
    assert found.stopped == "steps"
    assert found.scores.tolist() == pytest.approx([4.0, 0.0])
    assert found.ranks == (2, 2)
    found = mine(Reader(), torch.ones(3, 8, 8), target=0, fill="zero", layer="read", most=0.5)
    assert found.stopped == "area"
    assert len(found.scores) == 2
    none = mine(Reader(), torch.zeros(3, 8, 8), target=0, layer="read")
    assert none.stopped == "evidence"
    assert none.regions.shape == (0, 8, 8)
    function = mine(
        Reader(), picture(), target=lambda out: out[:, 0] - out[:, 1], layer="read", steps=1
    )
    assert function.ranks is None


def test_refusals():
    with pytest.raises(DataError, match="one image"):
        mine(Reader(), torch.zeros(2, 3, 8, 8))
    with pytest.raises(DataError, match="at least 1"):
        mine(Reader(), torch.zeros(3, 8, 8), steps=0)
