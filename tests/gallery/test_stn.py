"""Spatial transformers: what is read is theta, and the picture shows what theta says."""

import math

import numpy as np
import pytest
import torch

import attnviz
from attnviz.errors import DataError, EnvironmentFault
from attnviz.gallery import cards
from attnviz.gallery import modules as reference
from attnviz.gallery.drawings import warp
from attnviz.gallery.modules.spatial_transformer import STNClassifier, make_theta, read_theta


def shown(name):
    """A card's picture; skips while its weights are not there."""
    try:
        return cards(name)[0].show()
    except EnvironmentFault as error:
        pytest.skip(str(error))


def turned(degrees, *, x=0.0, y=0.0, scale=1.0):
    angle = torch.tensor([math.radians(degrees)], dtype=torch.float64)
    shift = torch.tensor([[x, y]], dtype=torch.float64)
    return make_theta(angle, translation=shift, scale=torch.full((1, 2), scale).double())[0]


def test_inventory_reads_the_theta_that_the_localisation_computes():
    torch.manual_seed(0)
    model = STNClassifier(side=16).double().eval()
    torch.nn.init.normal_(model.transformer.localisation[-1].weight, std=0.1)
    image = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    (entry,) = attnviz.inspect(model, image)
    assert (entry.name, entry.kind, entry.shape) == ("transformer", "spatial", (2, 3))
    assert entry.mechanism == "spatial transformer"
    net = model.transformer.localisation
    x = torch.nn.functional.conv2d(image, net[0].weight, net[0].bias, padding=2).clamp_min(0)
    x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    x = torch.nn.functional.conv2d(x, net[3].weight, net[3].bias, padding=1).clamp_min(0)
    x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5)).flatten(1)
    hidden = torch.tanh(x @ net[7].weight.T + net[7].bias)
    theta = (hidden @ net[9].weight.T + net[9].bias).view(2, 2, 3)
    assert (entry.read() - theta).abs().max() < 1e-12
    assert theta.std() > 0.05


def test_quadrilateral_of_a_known_turn_by_hand():
    # half as wide, turned by 90 degrees clockwise, moved 4 pixels right on 16 pixels
    figure = warp.window(turned(90, x=0.5, scale=0.5), torch.rand(1, 16, 16))
    (quad,) = figure.axes[0].patches
    # the output's top left comes from the window's top right, and so on clockwise
    by_hand = [[16, 4], [16, 12], [8, 12], [8, 4]]
    assert np.allclose(quad.get_xy()[:4], by_hand, atol=1e-9)
    text = figure._supxlabel.get_text()
    assert "(+4.0, +0.0) pixels" in text
    assert "scale 0.50 x 0.50" in text
    assert "turned +90.0°" in text


def test_the_grid_and_what_is_seen_are_those_of_theta():
    torch.manual_seed(1)
    photo, theta = torch.rand(1, 12, 12), turned(25, x=0.1, y=-0.2, scale=0.7)
    figure = warp.window(theta, photo, every=3)
    dots = np.stack(figure.axes[1].lines[0].get_data(), 1)
    centres = (np.arange(12)[::3] + 0.5) / 6 - 1  # pixel centres, -1 and 1 at the edges
    by_hand = [theta.numpy() @ [x, y, 1] for y in centres for x in centres]
    assert np.allclose(dots, (np.array(by_hand) + 1) * 6, atol=1e-9)
    # the seen picture, one pixel by hand: bilinear between the four pixels around its source
    seen = figure.axes[2].images[0].get_array()
    x, y = (theta.numpy() @ [(4 + 0.5) / 6 - 1, (7 + 0.5) / 6 - 1, 1] + 1) * 6 - 0.5
    column, row = math.floor(x), math.floor(y)
    value = sum(
        photo[0, row + i, column + j].item() * (1 - abs(y - row - i)) * (1 - abs(x - column - j))
        for i in (0, 1)
        for j in (0, 1)
    )
    assert seen[7, 4, 0] == pytest.approx(value, abs=1e-6)


def test_whole_window_is_the_photo_itself():
    photo = torch.rand(3, 10, 14)
    figure = warp.window(turned(0), photo)
    assert np.allclose(figure.axes[0].patches[0].get_xy()[:4], [[0, 0], [14, 0], [14, 10], [0, 10]])
    assert np.allclose(figure.axes[2].images[0].get_array(), photo.permute(1, 2, 0), atol=1e-6)
    with pytest.raises(DataError, match=r"expected \(2, 3\)"):
        warp.window(torch.eye(3), photo)


def test_several_windows_stand_over_what_they_show():
    thetas = torch.stack([turned(0), turned(-30, scale=0.6)])
    photos, warped = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    figure = warp.windows(thetas, photos, warped)
    assert [ax.get_title() for ax in figure.axes[:2]] == ["+0°", "-30°"]
    quad = figure.axes[1].patches[0].get_xy()[:4]
    cos, sin = 0.6 * math.cos(math.radians(-30)), 0.6 * math.sin(math.radians(-30))
    by_hand = [(cos * x - sin * y, sin * x + cos * y) for x, y in [(-1, -1), (1, -1), (1, 1)]]
    assert np.allclose(quad[:3], (np.array(by_hand) + 1) * 4)
    assert np.array_equal(figure.axes[3].images[0].get_array()[..., 0], warped[1, 0].numpy())


def test_only_bilinear_sampling_has_a_derivative():
    photo = torch.tensor([[[0.0, 0.2, 0.8, 0.1, 0.5]]]).expand(1, 5, 5)
    shift = torch.tensor([-0.75, -0.25, 0.25, 0.75, 1.25])
    value, slope = warp.shift_response(photo, (2, 2), shift, mode="bilinear")
    # between columns 1 and 2, twice; between 2 and 3, twice; between 3 and 4
    assert torch.allclose(value, torch.tensor([0.35, 0.65, 0.625, 0.275, 0.2]), atol=1e-6)
    assert torch.allclose(slope, torch.tensor([0.6, 0.6, -0.7, -0.7, 0.4]), atol=1e-5)
    value, slope = warp.shift_response(photo, (2, 2), shift, mode="nearest")
    assert torch.allclose(value, torch.tensor([0.2, 0.8, 0.8, 0.1, 0.1]))
    assert torch.equal(slope, torch.zeros(5))
    figure = warp.shift_curves(shift, {"nearest": value}, {"nearest": slope})
    assert np.allclose(figure.axes[0].lines[0].get_ydata(), value)
    assert np.allclose(figure.axes[1].lines[0].get_ydata(), 0)


def test_card_of_the_spatial_transformer():
    card = shown("stn")
    batch = reference.sample("stn", 64)
    model = reference.load("stn")
    index = int(read_theta(batch.truth["theta"]).rotation.abs().argmax())
    example = batch.inputs[0][index : index + 1]
    with torch.no_grad():
        theta = model(example).theta
    assert torch.allclose(card.tensor, theta, atol=1e-6)
    assert card.numbers["rotation_correlation"] > 0.9
    assert abs(card.numbers["rotation_degrees"] - card.numbers["true_rotation_degrees"]) < 25
    # corners by hand from the theta that was read
    a, b, c, d, e, f = card.tensor[0].flatten().tolist()
    corner = ((-a - b + c + 1) * 16, (-d - e + f + 1) * 16)
    assert np.allclose(card.figure.axes[0].patches[0].get_xy()[0], corner, atol=1e-4)
    names = {"model": model, "example": example}
    exec(cards("stn")[0].code, names)
    assert torch.equal(names["theta"], card.tensor)


def test_card_of_the_sampling_kernels():
    card = shown("stn_sampling")
    bilinear, nearest = card.tensor
    assert bilinear.abs().max() > 0.1
    assert nearest.abs().max() == 0
    assert card.numbers["largest_jump_nearest"] > 0.1
    names = {"example": reference.sample("stn", 1, seed=3).inputs[0]}
    exec(cards("stn_sampling")[0].code, names)
    assert torch.equal(names["slope"], bilinear)
