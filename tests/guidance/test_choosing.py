"""Choosing what to annotate: planted certainty and doubt come out in the right order."""

import pytest
import torch
from torch import nn

from attnviz import errors
from attnviz.guidance import budget_curve, choose


class Reader(nn.Module):
    """Class 0 reads channel 0, class 1 channel 1; the map is the channel itself."""

    def __init__(self, flipping=False):
        super().__init__()
        self.read = nn.Conv2d(2, 2, 1, bias=False)
        self.read.weight.data.copy_(torch.eye(2)[..., None, None])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2, 2, bias=False)
        self.head.weight.data.copy_(torch.eye(2))

    def forward(self, x):
        return self.head(self.pool(self.read(x)).flatten(1))


def blob(y, x, channel=0, value=1.0):
    image = torch.zeros(2, 12, 12)
    image[channel, y : y + 3, x : x + 3] = value
    return image


CERTAIN = blob(2, 2)
TWO = blob(2, 2) + blob(8, 8)
THREE = TWO + blob(2, 8)
DATA = [(CERTAIN, 0), (THREE, 0), (TWO, 0)]


def test_evidence_outside_the_probable_region():
    choice = choose(Reader(), DATA, 3, criterion="outside", layer="read")
    assert choice.order == (1, 2, 0)
    assert choice.scores.tolist() == pytest.approx([0, 2 / 3, 1 / 2], abs=1e-6)
    assert choose(Reader(), DATA, 1, layer="read", exclude=[1]).order == (2,)


def test_disagreement_of_flips():
    class Lefty(Reader):
        """Sees the left half only, so that a mirrored object is lost."""

        def forward(self, x):
            left = torch.zeros(12)
            left[:6] = 1
            return self.head(self.pool(self.read(x * left)).flatten(1))

    data = [(blob(2, 1) + blob(2, 8), 0), (blob(2, 1) + blob(7, 8), 0)]
    scores = choose(Reader(), data, 2, criterion="flip", layer="read").scores
    assert scores.tolist() == pytest.approx([0, 0], abs=1e-6)
    # what the mirrored image shows it, mirrored back, lies on the other half: nothing in common
    scores = choose(Lefty(), data, 2, criterion="flip", layer="read").scores
    assert scores.tolist() == pytest.approx([1, 1], abs=1e-6)


def test_disagreement_of_layers():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(2, 2, 1, bias=False)
            self.b = nn.Conv2d(2, 2, 3, padding=1, bias=False)
            self.tail = Reader()
            self.a.weight.data.copy_(torch.eye(2)[..., None, None])
            self.b.weight.data.zero_()
            self.b.weight.data[0, 0, 1, 1] = self.b.weight.data[1, 1, 1, 1] = 1

        def forward(self, x):
            return self.tail(self.b(self.a(x)))

    same = Two()
    scores = choose(same, DATA, 3, criterion="layers", layer=["b", "a"]).scores
    assert scores.tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    same.b.weight.data[0, 0] = 1 / 9  # blurs: the maps differ
    assert (choose(same, DATA, 3, criterion="layers", layer=["b", "a"]).scores > 0.1).all()
    with pytest.raises(errors.GuidanceError, match="layer=\\[deep, shallow\\]"):
        choose(same, DATA, 1, criterion="layers", layer="a")


def test_disagreement_of_heads():
    """Attention worked out from the weights; two equal heads do not disagree."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, depth=2, num_heads=2, embed_dim=16, num_classes=2
    ).eval()
    x = torch.randn(3, 3, 64, 64)
    data = [(image, 0) for image in x]
    qkv = vit.blocks[1].attn.qkv
    qkv.weight.data *= 20  # far from even attention
    scores = choose(vit, data, 3, criterion="heads").scores
    tokens = vit.blocks[0](vit.pos_drop(vit._pos_embed(vit.patch_embed(x))))
    q, k, _ = qkv(vit.blocks[1].norm1(tokens)).view(3, 17, 3, 2, 8).permute(2, 0, 3, 1, 4)
    a = (q[:, :, 0, None] * k).sum(-1).div(8**0.5).softmax(-1)[:, :, 1:]  # class token to patches
    a = a / a.sum(-1, keepdim=True)
    # of two heads, each is half their difference away from the mean
    by_hand = 0.25 * (a[:, 0] - a[:, 1]).abs().sum(-1)
    torch.testing.assert_close(scores, by_hand.detach(), rtol=1e-4, atol=1e-5)
    assert by_hand.min() > 0.05
    named = choose(vit, data, 3, criterion="heads", layer="blocks.1.attn").scores
    assert torch.equal(named, scores)
    for part in (qkv.weight.data.view(3, 2, 8, 16), qkv.bias.data.view(3, 2, 8)):
        part[:, 1] = part[:, 0]
    assert choose(vit, data, 3, criterion="heads").scores.abs().max() < 1e-6
    with pytest.raises(errors.LayerNotFound, match=r"'blocks.7'.*blocks.1.attn"):
        choose(vit, data, 1, criterion="heads", layer="blocks.7")
    with pytest.raises(errors.AttentionUnavailable, match="Reader has none; use 'outside'"):
        choose(Reader(), DATA, 1, criterion="heads")


def test_class_confusion_and_turns():
    sure, unsure = blob(2, 2, 0, 80.0), blob(2, 2, 0, 1.0)
    other = blob(2, 2, 1, 40.0)
    data = [(sure, 0), (unsure, 0), (other, 1), (unsure * 0.5, 0)]
    choice = choose(Reader(), data, 4, criterion="confusion", per_class=False)
    assert choice.order == (3, 1, 2, 0)
    p = torch.tensor([9 / 144.0, 0]).softmax(0)
    assert choice.scores[1].item() == pytest.approx(1 - (p[0] - p[1]).item(), rel=1e-5)
    assert choose(Reader(), data, 4, criterion="confusion").order == (3, 2, 1, 0)


def test_random_is_repeatable_and_the_model_untouched():
    model = Reader().train()
    a, b = (
        choose(model, DATA, 3, criterion="random", generator=torch.Generator().manual_seed(3)).order
        for _ in range(2)
    )
    assert a == b
    choose(model, DATA, 3, criterion="outside", layer="read")
    assert model.training
    with pytest.raises(errors.GuidanceError, match="did you mean 'confusion'"):
        choose(model, DATA, 3, criterion="confuson")
    with pytest.raises(errors.GuidanceError, match="at least 1"):
        choose(model, DATA, 0)


def test_the_budget_curve_compares_with_random_choice():
    worth = [5.0, 4, 3, 2, 1, 0]
    curve = budget_curve(
        range(6), [1, 2, 6], lambda chosen: sum(worth[i] for i in chosen), seeds=50
    )
    assert curve["chosen"] == [5, 9, 15]
    assert len(curve["random"]) == 50
    assert all(r[2] == 15 for r in curve["random"])
    assert curve["gain"][0] == pytest.approx(2.5, abs=0.8)
    with pytest.raises(errors.GuidanceError, match="between 1 and 6"):
        budget_curve(range(6), [7], len)
