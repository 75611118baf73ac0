"""Deformable convolution: offsets and modulation are read, and the arrows end where it samples."""

import numpy as np
import pytest
import torch

import attnviz
from attnviz.errors import DataError
from attnviz.gallery import cards
from attnviz.gallery.cards.deformable import Deformable, own_region
from attnviz.gallery.drawings.deformable import offset_arrows, sampled_at


def test_offsets_and_modulation_are_found_and_are_those_of_the_heads():
    model = Deformable(4).eval()
    for head in (model.offset, model.modulation):
        torch.nn.init.normal_(head.weight)
    x = torch.rand(2, 4, 6, 5)
    offsets, modulation = (e for e in attnviz.inspect(model, x) if e.name == "conv")
    assert (offsets.kind, offsets.shape) == ("spatial", (18, 6, 5))
    assert (modulation.kind, modulation.shape) == ("spatial", (9, 6, 5))
    assert offsets.mechanism == "deformable convolution, modulated"
    assert modulation.mechanism == "modulation of a deformable convolution"
    assert offsets.attends == "each output position reads 9 places of its own"
    # one place of each, written out in float64
    patch = x[1, :, 1:4, 2:5].double()
    for entry, head in ((offsets, model.offset), (modulation, model.modulation)):
        value = torch.einsum("kcij,cij->k", head.weight.double(), patch) + head.bias.double()
        value = value if entry is offsets else 1 / (1 + torch.exp(-value))
        assert (entry.read()[1, :, 2, 3] - value).abs().max() < 1e-5


def test_without_a_mask_there_is_one_entry():
    from torchvision.ops import DeformConv2d

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = DeformConv2d(2, 2, 3, padding=1)

        def forward(self, x):
            return self.conv(x, x[:, :1].expand(-1, 18, -1, -1))

    (entry,) = attnviz.inspect(Plain().eval(), torch.rand(1, 2, 4, 4))
    assert entry.mechanism == "deformable convolution"


def test_places_are_where_torchvision_samples():
    from torchvision.ops import deform_conv2d

    # the picture holds its own coordinates, so that a kernel of one tap reads where it is
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(11.0), indexing="ij")
    feature = torch.stack((x, y))[None]
    torch.manual_seed(5)
    offsets = torch.rand(1, 18, 4, 5) - 0.5
    options = {"stride": 2, "padding": 0, "dilation": 1}
    regular, moved = sampled_at(offsets[0], (1, 2), kernel=(3, 3), **options)
    for tap in range(9):
        weight = torch.zeros(2, 2, 3, 3)
        weight[0, 0, tap // 3, tap % 3] = weight[1, 1, tap // 3, tap % 3] = 1
        read = deform_conv2d(feature, offsets, weight, **options)[0, :, 1, 2]
        assert np.allclose(moved[tap], read + 0.5, atol=1e-5)  # centres of pixels lie at + 0.5
    assert regular[0].tolist() == [4.5, 2.5]
    assert regular[8].tolist() == [6.5, 4.5]


def test_arrows_end_where_the_offsets_say():
    offsets = torch.zeros(18, 4, 4)
    offsets[:, 1, 2] = torch.arange(18) / 4  # dy 0, dx 0.25, dy 0.5, dx 0.75 ...
    mask = torch.rand(9, 4, 4)
    figure = offset_arrows(offsets, torch.rand(3, 8, 8), [(1, 2), (0, 0)], mask=mask)
    first, second = figure.axes
    (arrows,) = [c for c in first.collections if hasattr(c, "U")]
    (dots,) = [c for c in first.collections if not hasattr(c, "U")]
    # the photo is twice the feature map's size, so lengths double
    assert np.allclose(arrows.U, 2 * offsets[1::2, 1, 2])
    assert np.allclose(arrows.V, 2 * offsets[0::2, 1, 2])
    assert np.allclose(first.lines[0].get_xydata()[0], [3, 1])  # (1.5, 0.5) on the feature map
    ends = first.lines[0].get_xydata() + 2 * np.stack((offsets[1::2, 1, 2], offsets[0::2, 1, 2]), 1)
    assert np.allclose(dots.get_offsets(), ends)
    assert np.allclose(dots.get_sizes(), 70 * mask[:, 1, 2])
    (still,) = [c for c in second.collections if hasattr(c, "U")]
    assert np.abs(still.U).max() == np.abs(still.V).max() == 0
    with pytest.raises(DataError, match="multiple of 18"):
        offset_arrows(offsets[:16], torch.rand(3, 8, 8), [(0, 0)])
    with pytest.raises(DataError, match="there are 4 x 4 places"):
        sampled_at(offsets, (4, 0))
    with pytest.raises(DataError, match="a mask of shape"):
        offset_arrows(offsets, torch.rand(3, 8, 8), [(0, 0)], mask=mask[:3])


def test_share_of_samples_on_the_own_region_by_hand():
    label = torch.zeros(6, 6, dtype=torch.long)
    label[2, 2] = 3  # one cell; the regular grid, two cells apart, meets it once in nine
    offsets, even = torch.zeros(18, 6, 6), torch.ones(9, 6, 6)
    assert own_region(offsets, even, label) == pytest.approx((1 / 9, 1 / 9))
    offsets[0:2, 2, 2] = 2.0  # the top left tap comes to the middle
    moved, regular = own_region(offsets, even, label)
    assert (moved, regular) == pytest.approx((2 / 9, 1 / 9))
    even[2:4, 2, 2] = 0  # two taps that miss are switched off
    assert own_region(offsets, even, label)[0] == pytest.approx(2 / 7)


@pytest.mark.slow
def test_card():
    from attnviz.gallery.cards.deformable import example, network

    card = cards("deformable_convolution")[0].show()
    names = {"model": network(), "example": example()[0]}
    exec(cards("deformable_convolution")[0].code, names)
    assert torch.equal(names["offsets"], card.tensor)
    assert card.numbers["same_region"] > card.numbers["same_region_regular"] + 0.1
    assert len(card.figure.axes) == 3
