"""Perturbation methods on detectors: masked forwards by hand, the box looked for in plain loops."""

from collections import OrderedDict
from functools import cache
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attnviz import explain
from attnviz.targets import BoxTarget

detection = pytest.importorskip("torchvision.models.detection")
ops = pytest.importorskip("torchvision.ops")

NUMBER = 2


class _Backbone(nn.Module):
    """Three strided convolutions below a feature pyramid, as torchvision's backbones are built."""

    out_channels = 32  # FCOS norms groups of 32

    def __init__(self):
        super().__init__()
        widths = (3, 8, 8, 12)
        self.body = nn.Sequential(*(
            nn.Sequential(nn.Conv2d(a, b, 3, 4 if a == 3 else 2, 1), nn.ReLU())
            for a, b in pairwise(widths)
        ))  # fmt: skip
        self.fpn = ops.FeaturePyramidNetwork([8, 8, 12], 32)

    def forward(self, x):
        stages = OrderedDict()
        for name, part in self.body.named_children():
            stages[name] = x = part(x)
        return self.fpn(stages)


@cache
def build(kind):
    torch.manual_seed(3)
    anchors = detection.anchor_utils.AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    sizes = {"min_size": 32, "max_size": 64, "num_classes": 3}
    stated = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    if kind == "FasterRCNN":
        model = detection.FasterRCNN(
            _Backbone(), rpn_anchor_generator=anchors, box_score_thresh=0.0,
            box_detections_per_img=10, rpn_post_nms_top_n_test=20, **sizes, **stated,
        )  # fmt: skip
    else:
        model = getattr(detection, kind)(
            _Backbone(), anchor_generator=anchors, score_thresh=0.0, detections_per_img=10,
            **sizes, **stated,
        )  # fmt: skip
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            nn.init.kaiming_normal_(weight)
            weight.data.mul_(0.05 if "bbox_" in name else 1.0)  # boxes near their anchors
        elif name.endswith("bbox_reg.bias"):
            weight.data.fill_(1.0)  # FCOS: distances from the centre, no box without area
    return model.double().eval()


def scores(found, wanted):
    """The highest IoU times score among the detections of the same class, image by image."""
    values = []
    for one, (box, cls) in zip(found, wanted, strict=True):
        best = 0.0
        for other, label, score in zip(
            *(one[k].tolist() for k in ("boxes", "labels", "scores")), strict=True
        ):
            w = max(min(other[2], box[2]) - max(other[0], box[0]), 0.0)
            h = max(min(other[3], box[3]) - max(other[1], box[1]), 0.0)
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (other, box)]
            if label == cls:
                best = max(best, w * h / (sum(areas) - w * h) * score)
        values.append(best)
    return torch.tensor(values, dtype=torch.float64)


def occluded(model, x, ask, plain):
    maps = torch.zeros(len(x), 32, 64, dtype=x.dtype)
    for top in range(0, 32, 16):
        for left in range(0, 64, 16):
            covered = x.clone()
            covered[:, :, top : top + 16, left : left + 16] = 0
            drop = plain - ask(model(covered))
            maps[:, top : top + 16, left : left + 16] = drop[:, None, None]
    return maps


def randomly(model, x, ask, plain):
    generator = torch.Generator().manual_seed(0)
    grids = torch.rand(8, 4, 4, generator=generator) < 0.5
    shifts = torch.rand(8, 2, generator=generator)
    total = torch.zeros(len(x), 32, 64, dtype=x.dtype)
    weight, mean = torch.zeros_like(total[0]), torch.zeros_like(plain)
    for grid, (down, right) in zip(grids, shifts.tolist(), strict=True):
        large = F.interpolate(grid[None, None].float(), (4 * 11, 4 * 22), mode="bilinear")[0, 0]
        top, left = int(down * 11), int(right * 22)
        mask = large[top : top + 32, left : left + 64].double()
        score = ask(model(x * mask))
        total += score[:, None, None] * mask
        weight += mask
        mean += score / 8
    return total / weight - mean[:, None, None]


def by_channels(model, x, ask, plain, layer, masks):
    kept = []
    part = model.get_submodule(layer)
    handle = part.register_forward_hook(lambda m, i, y: kept.append(y))
    model(x)
    handle.remove()
    (activation,), gains = kept, []
    for channel in range(activation.shape[1]):
        if masks:
            one = F.interpolate(activation[:, channel, None], (32, 64), mode="bilinear")
            low, high = one.amin((2, 3), keepdim=True), one.amax((2, 3), keepdim=True)
            gain = ask(model(x * ((one - low) / (high - low).clamp_min(1e-30))))
            gains.append(gain.where((high > low)[:, 0, 0, 0], -torch.inf))
            continue

        def without(module, inputs, output, channel=channel):
            return output.index_fill(1, torch.tensor([channel]), 0.0)

        handle = part.register_forward_hook(without)
        gains.append(plain - ask(model(x)))
        handle.remove()
    weights = torch.stack(gains, 1)
    weights = weights.softmax(1) if masks else weights
    return (weights[..., None, None] * activation).sum(1).relu()


@pytest.mark.parametrize("kind", ["FCOS", "RetinaNet", "FasterRCNN"])
@torch.no_grad()
def test_each_method_equals_masked_forwards_by_hand(kind):
    model = build(kind)
    x = torch.rand(2, 3, 32, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = model(x)
    wanted = [(one["boxes"][NUMBER].tolist(), int(one["labels"][NUMBER])) for one in found]
    plain = torch.stack([one["scores"][NUMBER] for one in found])

    def ask(output):
        return scores(output, wanted)

    torch.testing.assert_close(ask(found), plain)

    def maps(method, **options):
        return explain(model, x, target=BoxTarget(NUMBER), method=method, **options)

    checks = [
        (maps("occlusion", window=16, stride=16).values, occluded(model, x, ask, plain)),
        (maps("rise", masks=8, cells=3).values, randomly(model, x, ask, plain)),
    ]
    for method in ("scorecam", "ablationcam"):
        hand = by_channels(model, x, ask, plain, "backbone.body.2", method == "scorecam")
        checks.append((maps(method, layer="backbone.body.2").values, hand))
    assert all(hand.abs().max() > 1e-3 for _, hand in checks)
    for made, hand in checks:
        torch.testing.assert_close(made, hand, rtol=1e-9, atol=1e-9)
