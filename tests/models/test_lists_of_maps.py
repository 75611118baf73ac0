"""Layers that return maps of several sizes: one of them is named, and none stands for all."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attnviz import explain
from attnviz.errors import CaptureError, LayerNotFound
from attnviz.hooks import find_layers
from attnviz.models import default_layer, list_layers
from attnviz.targets import RegionTarget


def _conv(inward, outward, stride=1):
    return nn.Sequential(nn.Conv2d(inward, outward, 3, stride, 1), nn.ReLU())


class Exchange(nn.Module):
    """HRNet's module: a branch of every size, and every output the sum over all of them."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList([_conv(4, 4), _conv(8, 8)])
        self.fuse = nn.ModuleList([nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 3, 2, 1)])
        self.act = nn.ReLU()

    def forward(self, parts):
        fine, coarse = (branch(x) for branch, x in zip(self.branches, parts, strict=True))
        up = F.interpolate(self.fuse[0](coarse), fine.shape[2:])
        return [self.act(fine + up), self.act(self.fuse[1](fine) + coarse)]


class Parallel(nn.Module):
    def __init__(self, reads):
        super().__init__()
        torch.manual_seed(0)
        self.reads = reads
        self.stem, self.down = _conv(3, 4, 2), _conv(4, 8, 2)
        self.stage = nn.Sequential(Exchange(), Exchange())
        self.seen = nn.Sequential(nn.Conv2d(12, 16, 1), nn.ReLU(), nn.Conv2d(16, 3, 1))
        self.dense, self.head = nn.Conv2d(8, 3, 1), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        fine, coarse = self.stage([x, self.down(x)])
        if self.reads == "both":
            both = torch.cat([fine, F.interpolate(coarse, fine.shape[2:])], 1)
            return F.interpolate(self.seen(both), scale_factor=2)
        if self.reads == "coarse":
            return F.interpolate(self.dense(coarse), scale_factor=4)
        return self.head(coarse.mean((2, 3)))


def by_hand(model, x, score, stage):
    """Grad-CAM of the coarse map, caught where a stage returns it."""
    kept = []

    def hook(module, inputs, output):
        output[1].retain_grad()
        kept.append(output[1])

    handle = model.get_submodule(stage).register_forward_hook(hook)
    score(model(x)).backward()
    handle.remove()
    model.zero_grad()
    weights = kept[0].grad.mean((2, 3), keepdim=True)
    return (weights * kept[0]).sum(1).detach()


@pytest.fixture
def x():
    return 4 * torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize(
    ("reads", "stage"),
    # behind the last stage of "coarse" there is no bend: its gradient is the same for any region
    [("both", "stage"), ("coarse", "stage.0"), ("logits", "stage")],
)
def test_the_default_is_what_the_last_stage_returns(reads, stage, x):
    model = Parallel(reads).double().eval()
    assert default_layer(model, x) == f"{stage}[1]"
    rows = {row.name: row for row in list_layers(model, x)}
    assert rows["stage[1]"].shape == (8, 6, 8)
    assert rows[f"{stage}[1]"].note.startswith("default")
    assert "stage" not in rows
    if reads == "logits":
        maps = explain(model, x, target=2, signed=True)
        hand = by_hand(model, x, lambda y: y[:, 2].sum(), stage)
    else:
        mask = torch.zeros(24, 32)
        mask[:12] = 1
        maps = explain(model, x, target=RegionTarget(1, mask), signed=True)
        hand = by_hand(model, x, lambda y: y[:, 1, :12].sum() / mask.sum(), stage)
    assert maps.layer == f"{stage}[1]"
    assert hand.abs().max() > 0
    torch.testing.assert_close(maps.values, hand)


def test_one_of_the_maps_can_be_named_and_no_other_is_taken(x):
    model = Parallel("both").double().eval()
    fine = explain(
        model, x, layer="stage[0]", method="eigencam", target=RegionTarget(0, torch.ones(24, 32))
    )
    assert fine.values.shape == (2, 12, 16)
    with pytest.raises(CaptureError, match=r"stage\[0\] \(4, 12, 16\), stage\[1\] \(8, 6, 8\)"):
        explain(model, x, layer="stage", target=RegionTarget(0, torch.ones(24, 32)))
    with pytest.raises(CaptureError, match=r"there are stage\[0\], stage\[1\]"):
        explain(model, x, layer="stage[2]", target=RegionTarget(0, torch.ones(24, 32)))
    with pytest.raises(LayerNotFound, match="choose a layer that returns one"):
        find_layers(model, "stage[1]")


def test_ablation_cuts_the_one_that_is_named(x):
    model = Parallel("logits").double().eval()
    maps = explain(model, x, method="ablationcam", layer="stage[1]", target=2)
    drops = []
    with torch.no_grad():
        plain = model(x)[:, 2]
        for channel in range(8):

            def without(module, inputs, output, channel=channel):
                return [output[0], output[1].index_fill(1, torch.tensor([channel]), 0.0)]

            handle = model.stage.register_forward_hook(without)
            drops.append(plain - model(x)[:, 2])
            handle.remove()
        kept = []
        handle = model.stage.register_forward_hook(lambda m, i, y: kept.append(y[1]))
        model(x)
        handle.remove()
    hand = (torch.stack(drops, 1)[..., None, None] * kept[0]).sum(1).relu()
    torch.testing.assert_close(maps.values, hand)


def test_tokens_behind_maps_lie_on_their_grid():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.models.efficientformer.EfficientFormer(
        depths=(1, 1, 1, 2), embed_dims=(8, 8, 16, 16), num_vit=1, num_classes=3
    ).eval()
    x = torch.randn(1, 3, 224, 224)
    assert default_layer(model, x) == "norm"  # was the last block in front of the attention
    kept = []
    handle = model.norm.register_forward_hook(lambda m, i, y: kept.append(y))
    model(x)
    handle.remove()
    head = (model.head.weight + model.head_dist.weight)[1] / 2
    hand = (kept[0] @ head).relu().unflatten(1, (7, 7)).detach() / 49
    torch.testing.assert_close(explain(model, x, target=1).values, hand)
