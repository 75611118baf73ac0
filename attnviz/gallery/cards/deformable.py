"""Deformable convolution: a convolution that chooses where it reads."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from ... import inspection
from ..card import Shown, register_card
from ..drawings.deformable import offset_arrows, sampled_at
from ..tasks import scenes
from ._trained import SceneNetwork, drawn, scene_network

DILATION = 2


class Deformable(nn.Module):
    """Modulated deformable convolution with its two small heads, from torchvision.

    Args:
        channels: in and out.
        few: channels that are read at moved places.
    """

    def __init__(self, channels: int, *, few: int = 8) -> None:
        from torchvision.ops import DeformConv2d

        super().__init__()
        self.offset = nn.Conv2d(channels, 18, 3, padding=1)
        self.modulation = nn.Conv2d(channels, 9, 3, padding=1)
        for head in (self.offset, self.modulation):  # at first a plain convolution, halved
            nn.init.zeros_(head.weight)
            assert head.bias is not None
            nn.init.zeros_(head.bias)
        # few channels go through it: its backward pass is slow on a CPU
        self.reduce = nn.Conv2d(channels, few, 1)
        self.conv = DeformConv2d(few, channels, 3, padding=DILATION, dilation=DILATION)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        moved = self.conv(self.reduce(x), self.offset(x), torch.sigmoid(self.modulation(x)))
        return torch.relu(moved) + x


@cache
def network() -> SceneNetwork:
    """Return the trained network."""
    return scene_network("deformable_convolution", lambda: Deformable(32))


def example(number: int = 0) -> tuple[Tensor, Tensor, str]:
    """Return one test scene: image (1, 3, 40, 40), labels (20, 20), what is on it in words."""
    batch = drawn(64, 7, training=False)
    words = " ".join(batch.text["caption"][number])
    return batch.inputs[0][number : number + 1], batch.truth["label"][number], words


def subject() -> tuple[nn.Module, Tensor]:
    """The network and the example that the card shows."""
    return network(), example()[0]


@register_card(
    "deformable_convolution",
    title="Deformable convolution",
    family="spatial",
    sentence="Each output position reads its kernel's places where a small head moves them, and "
    "weighs each by a modulation.",
    equation=r"y(p) = \sum_k w_k\; m_k(p)\; x(p + p_k + \Delta p_k(p))",
    paper="Dai and others 2017, arXiv:1703.06211; modulated: Zhu and others 2019, arXiv:1811.11168",
    reads="torchvision.ops.DeformConv2d inputs: offsets (B, 18, H, W), modulation (B, 9, H, W)",
    subject=subject,
    code="""
import attnviz
entries = [e for e in attnviz.inspect(model, example) if e.module == "DeformConv2d"]
offsets = entries[0].read()  # (B, 2 kh kw, H, W), dy before dx; entries[1]: modulation
""",
)
def deformable_convolution() -> Shown:
    """Draw the places that two positions of an object and one of the background read."""
    model = network()
    image, label, words = example()
    found = [e for e in inspection.inspect(model, image) if e.module == "DeformConv2d"]
    offsets, modulation = (entry.read() for entry in found)
    objects = (label > 0).nonzero()
    rows = [objects[len(objects) // 5], objects[4 * len(objects) // 5]]
    background = (label == 0).nonzero()
    rows.append(background[len(background) // 2])
    places = [(int(r), int(c)) for r, c in rows]
    far = offsets.view(1, 9, 2, *label.shape).norm(dim=2).mean()
    same, plain = own_region(offsets[0], modulation[0], label)
    return Shown(
        offset_arrows(
            offsets[0], clean(label), places, mask=modulation[0], padding=DILATION,
            dilation=DILATION, title=f"{words} (drawn without the noise that the network sees)",
        ),
        offsets,
        f"On the objects {same:.0%} of the modulated samples fall on the object itself; at the "
        f"regular places it would be {plain:.0%}. A sample moves by {far:.1f} cells on average.",
        "A scene of two shapes, three times: white squares of a regular grid with arrows to dots "
        "of unequal size.",
        {"same_region": same, "same_region_regular": plain, "mean_offset_cells": float(far)},
    )  # fmt: skip


def clean(label: Tensor) -> Tensor:
    """Return cells' colours (3, H, W) from their numbers (H, W); the background is grey."""
    paint = torch.tensor([(0.5, 0.5, 0.5), *scenes.COLOURS.values()])
    return paint[label].permute(2, 0, 1)


def own_region(offsets: Tensor, modulation: Tensor, label: Tensor) -> tuple[float, float]:
    """Return the share of samples that fall on the reading cell's own object, moved and regular.

    Args:
        offsets: (18, H, W).
        modulation: (9, H, W), the samples' weights.
        label: (H, W), 0 is background; cells of objects are counted.
    """
    shares = []
    size = np.array(label.shape[::-1])
    for row, column in (label > 0).nonzero().tolist():
        own = label[row, column]
        weights = modulation[:, row, column].double()
        pair = []
        for points in sampled_at(offsets, (row, column), padding=DILATION, dilation=DILATION):
            cells = np.floor(points).astype(int)
            inside = ((cells >= 0) & (cells < size)).all(1)
            hit = torch.zeros(len(cells), dtype=torch.bool)
            for number in np.flatnonzero(inside):
                hit[number] = label[cells[number, 1], cells[number, 0]] == own
            pair.append(hit.double())
        shares.append((float((pair[1] * weights).sum() / weights.sum()), float(pair[0].mean())))
    moved, regular = zip(*shares, strict=True)
    return sum(moved) / len(moved), sum(regular) / len(regular)
