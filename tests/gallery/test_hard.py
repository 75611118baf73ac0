"""Glimpses and dynamic capacity: the places read are those that the papers' formulas give."""

import numpy as np
import pytest
import torch

import attnviz
from attnviz.errors import DataError, EnvironmentFault
from attnviz.gallery import cards
from attnviz.gallery import modules as reference
from attnviz.gallery.cards.ram import digit, policy_gradient
from attnviz.gallery.drawings.glimpses import chosen_cells, glimpse_path
from attnviz.gallery.modules.dynamic_capacity import DynamicCapacityNetwork
from attnviz.gallery.modules.glimpses import RecurrentAttention


def shown(name):
    """A card's picture; skips while its weights are not there."""
    try:
        return cards(name)[0].show()
    except EnvironmentFault as error:
        pytest.skip(str(error))


def pixel(image, row, column):
    """One pixel of a picture (H, W), 0 outside."""
    if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
        return image[row, column]
    return 0.0


def retina(image, x, y, size, scales):
    """Patches (scales, size, size) around (x, y): windows read between pixels, averaged down."""
    height, width = image.shape
    out = []
    for scale in range(scales):
        side = size * 2**scale
        window = np.zeros((side, side))
        for i in range(side):
            for j in range(side):
                row = (y + 1) / 2 * height - side / 2 + i  # pixel centres cancel
                column = (x + 1) / 2 * width - side / 2 + j
                top, left = int(np.floor(row)), int(np.floor(column))
                down, right = row - top, column - left
                window[i, j] = (
                    pixel(image, top, left) * (1 - down) * (1 - right)
                    + pixel(image, top, left + 1) * (1 - down) * right
                    + pixel(image, top + 1, left) * down * (1 - right)
                    + pixel(image, top + 1, left + 1) * down * right
                )
        block = 2**scale
        out.append(window.reshape(size, block, size, block).mean((1, 3)))
    return np.stack(out)


@torch.no_grad()
def path_by_hand(model, image):
    """Locations (T, 2) of one picture (H, W), in float64."""
    x = torch.zeros(2, dtype=torch.float64)
    state = torch.zeros(1, model.cell.hidden_size, dtype=torch.float64)
    found = []
    for _ in range(model.glimpses):
        found.append(x)
        seen = torch.from_numpy(retina(image, x[0].item(), x[1].item(), model.size, model.scales))
        what = model.what.weight @ seen.flatten() + model.what.bias
        where = model.where.weight @ x + model.where.bias
        g = (what / (1 + torch.exp(-where))).clamp_min(0)
        g = (model.merge.weight @ g + model.merge.bias).clamp_min(0)
        state = model.cell(g[None], state)
        x = torch.tanh(model.locate.weight @ state[0] + model.locate.bias)
    return torch.stack(found)


def test_glimpses_are_found_once_and_equal_the_formula():
    torch.manual_seed(2)
    model = RecurrentAttention(size=4, scales=2, glimpses=3, hidden=16).double().eval()
    model.locate.weight.data.mul_(4)
    image = torch.rand(1, 1, 20, 20, dtype=torch.float64)
    inventory = attnviz.inspect(model, image)
    (entry,) = inventory.of_kind("hard")
    assert (entry.name, entry.shape, entry.mechanism) == ("", (3, 2), "glimpses")
    assert inventory.of_kind("spatial") == ()  # its own warps are no spatial transformers
    assert inventory.missed == ()
    expected = path_by_hand(model, image[0, 0].numpy())
    assert (entry.read()[0] - expected).abs().max() < 1e-9
    assert expected[1:].abs().min() > 1e-3


def test_path_shows_places_squares_and_patches():
    places = torch.tensor([[0.0, 0.0], [0.5, -0.5], [0.5, -0.5]])
    patches = torch.rand(3, 2, 4, 4)
    figure = glimpse_path(
        places, torch.rand(1, 16, 16), size=4, scales=2, box=[1, 2, 5, 8], patches=patches,
        notes=["a", "b", "c"],
    )  # fmt: skip
    ax, *strips = figure.subfigs[0].axes + figure.subfigs[1].axes
    assert np.allclose(np.stack(ax.lines[0].get_data(), 1), [[8, 8], [12, 4], [12, 4]])
    squares = [p for p in ax.patches if p.get_gid() == "glimpse"]
    corners = [(*p.get_xy(), p.get_width()) for p in squares]
    assert corners[:4] == [(6, 6, 4), (4, 4, 8), (10, 2, 4), (8, 0, 8)]
    (truth,) = [p for p in ax.patches if p.get_gid() == "truth"]
    assert (*truth.get_xy(), truth.get_width(), truth.get_height()) == (1, 2, 4, 6)
    labels = {t.get_text(): t.get_position() for t in ax.texts}
    assert labels["1"] == (8, 8)
    assert labels["2"] == (12, 4)
    assert labels["3"][0] > 12.7  # beside the second, not over it
    assert np.allclose(strips[1].images[0].get_array(), patches[1, 0])
    assert np.allclose(strips[3].images[0].get_array(), patches[0, 1])
    assert [s.get_xlabel() for s in strips[3:]] == ["a", "b", "c"]
    with pytest.raises(DataError, match="expected"):
        glimpse_path(torch.zeros(3, 3), torch.rand(1, 8, 8), size=4)
    with pytest.raises(DataError, match="for 3 glimpses of 1 scales"):
        glimpse_path(places, torch.rand(1, 16, 16), size=4, patches=patches)


def test_reinforce_agrees_with_a_finite_difference():
    torch.manual_seed(0)
    model = RecurrentAttention(size=4, scales=1, glimpses=2, hidden=12, std=0.3, classes=3).eval()
    model.head.weight.data.mul_(8)
    image = torch.zeros(1, 1, 12, 12)
    image[..., 4:9, 7:11] = 1
    before = [p.clone() for p in model.parameters()]
    found = policy_gradient(model, image, 1, push=0.1, count=20000)
    assert abs(found["difference"]) > 0.02
    assert abs(found["reinforce"] - found["difference"]) < 4 * found["error"] + 0.01
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def saliency_by_hand(model, image):
    """|| dH/dc || (h, w): the entropy's slope by logits written out, times the logits' slopes."""
    vectors = model.coarse(image).detach()
    logits = model.top(vectors)[0]
    p = logits.exp() / logits.exp().sum()
    entropy = -(p * p.log()).sum()
    slope = -p * (p.log() + entropy)
    jacobian = torch.autograd.functional.jacobian(model.top, vectors)[0, :, 0]
    return torch.einsum("k,kdhw->dhw", slope, jacobian).square().sum(0).sqrt().detach()


def test_chosen_cells_are_where_the_entropy_turns():
    torch.manual_seed(1)
    model = DynamicCapacityNetwork(classes=4, channels=8, k=3).double().eval()
    image = torch.rand(1, 1, 32, 32, dtype=torch.float64)
    inventory = attnviz.inspect(model, image)
    (entry,) = inventory.of_kind("hard")
    assert (entry.name, entry.shape, entry.mechanism) == ("", (3, 2), "dynamic capacity")
    expected = saliency_by_hand(model, image)
    assert (model(image).saliency[0] - expected).abs().max() < 1e-9
    order = sorted(
        ((-expected[i, j].item(), i, j) for i in range(4) for j in range(4)),
    )[:3]
    assert entry.read()[0].tolist() == [[i, j] for _, i, j in order]


def test_cells_on_the_picture():
    saliency = torch.tensor([[0.0, 0.5], [0.25, 0.125]])
    figure = chosen_cells(
        saliency,
        torch.tensor([[0, 1], [1, 0]]),
        torch.rand(1, 16, 16),
        context=2,
        box=[8, 0, 16, 8],
    )
    left, right = figure.axes[:2]
    assert np.array_equal(left.images[-1].get_array(), saliency)
    assert left.images[-1].get_clim() == (0, 0.5)
    squares = [p for p in right.patches if p.get_gid() == "fine"]
    assert [(*p.get_xy(), p.get_width()) for p in squares] == [(6, -2, 12), (-2, 6, 12)]
    assert [(t.get_text(), t.get_position()) for t in right.texts] == [
        ("1", (12, 4)),
        ("2", (4, 12)),
    ]


def test_card_of_glimpses():
    card = shown("ram")
    model, image = reference.load("ram"), digit("ram").inputs[0]
    expected = path_by_hand(model.double(), image[0, 0].double().numpy())
    assert (card.tensor[0] - expected).abs().max() < 1e-4
    drawn = np.stack(card.figure.subfigs[0].axes[0].lines[0].get_data(), 1)
    assert np.allclose(drawn, (card.tensor[0].numpy() + 1) / 2 * 40)
    assert card.numbers["on_digit"] >= 0.5
    assert card.numbers["sure_last"] > card.numbers["sure_first"]
    gap = abs(card.numbers["gradient_reinforce"] - card.numbers["gradient_difference"])
    assert gap < 4 * card.numbers["gradient_error"] + 0.02
    names = {"model": model.float(), "example": image}
    exec(cards("ram")[0].code, names)
    assert torch.equal(names["locations"], card.tensor)


def test_card_of_dynamic_capacity():
    card = shown("dynamic_capacity")
    model, image = reference.load("dcn"), digit("dcn").inputs[0]
    expected = saliency_by_hand(model, image)
    assert np.allclose(card.figure.axes[0].images[-1].get_array(), expected, atol=1e-5)
    best = expected.flatten().topk(card.tensor.shape[1]).indices
    assert card.tensor[0].tolist() == [[int(i) // 5, int(i) % 5] for i in best]
    assert card.numbers["on_digit"] >= 0.3
    names = {"model": model, "example": image}
    exec(cards("dynamic_capacity")[0].code, names)
    assert torch.equal(names["cells"], card.tensor)
