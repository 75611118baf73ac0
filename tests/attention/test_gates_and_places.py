"""Gates against hand computations; windows against the partition that the model itself makes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attnviz import attention
from tests.support.attention_models import timm_model


def _gates(model, x):
    with torch.no_grad():
        plain = model(x)
        with attention.tap(model, required=False) as tap:
            out = model(x)
    assert torch.equal(plain, out)
    return tap


@pytest.mark.parametrize(
    ("name", "count", "axes", "function"),
    [
        ("seresnet18", 8, ("channel",), "sigmoid"),
        ("ecaresnet26t", 8, ("channel",), "sigmoid"),
        ("skresnet18", 8, ("branch", "channel"), "softmax"),
        ("resnest14d", 4, ("branch", "channel"), "softmax"),
        ("tf_efficientnet_b0", 16, ("channel",), "sigmoid"),
        ("mobilenetv3_small_100", 9, ("channel",), "hardsigmoid"),
        ("regnety_002", 13, ("channel",), "sigmoid"),
    ],
)
def test_gates_of_convolutional_networks(name, count, axes, function):
    tap = _gates(timm_model(name), torch.randn(2, 3, 64, 64))
    assert len(tap.gates) == count == len(tap.sites)
    assert {g.axes for g in tap.gates} == {axes}
    assert {g.function for g in tap.gates} == {function}
    assert all(g.weights().min() >= 0 and g.weights().max() <= 1 for g in tap.gates)
    if function == "softmax":
        for gate in tap.gates:
            torch.testing.assert_close(gate.weights().sum(1), torch.ones_like(gate.weights()[:, 0]))


def test_squeeze_and_excitation_equals_its_equation():
    layers = pytest.importorskip("timm.layers")
    module = layers.SEModule(16).eval()
    x = torch.randn(2, 16, 5, 4)
    (gate,) = _gates(module, x).gates
    squeezed = x.mean((2, 3))[:, :, None, None]
    wanted = module.fc2(F.relu(module.fc1(squeezed))).sigmoid()
    torch.testing.assert_close(gate.tensor, wanted, atol=1e-6, rtol=0)
    assert (gate.broadcast, gate.target_shape, gate.axes) == ((2, 3), (2, 16, 5, 4), ("channel",))
    torch.testing.assert_close(module(x), x * gate.tensor)


def test_cbam_has_a_channel_and_a_spatial_gate():
    cbam = pytest.importorskip("timm.layers.cbam")
    module = cbam.CbamModule(16).eval()
    x = torch.randn(2, 16, 6, 5)
    channel, spatial = _gates(module, x).gates
    assert (channel.name, channel.axes) == ("channel", ("channel",))
    assert (spatial.name, spatial.axes) == ("spatial", ("height", "width"))
    after = x * channel.tensor
    both = torch.cat([after.mean(1, keepdim=True), after.amax(1, keepdim=True)], 1)
    torch.testing.assert_close(spatial.tensor, module.spatial.conv(both).sigmoid())
    torch.testing.assert_close(module(x), after * spatial.tensor)


class _Gated(nn.Module):
    def __init__(self, rule):
        super().__init__()
        self.rule = rule
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.rule(self, x)


NO_GATE = {
    "silu": lambda m, x: x * torch.sigmoid(x),
    "quick_gelu": lambda m, x: x * torch.sigmoid(1.702 * x),
    "hard_swish": lambda m, x: x * (F.relu6(x + 3) / 6),
    "learned_scalar": lambda m, x: x * torch.sigmoid(m.conv.bias[:1]),
    "probabilities": lambda m, x: m.conv(x).softmax(1),
}
GATE = {
    "expanded": (lambda m, x: x * m.conv(x.mean((2, 3), True)).sigmoid().expand_as(x),
                 ("channel",)),
    "hard_by_hand": (lambda m, x: x * (F.relu6(m.conv(x.mean((2, 3), True)) + 3) / 6),
                     ("channel",)),
    "in_place": (lambda m, x: x.clone().mul_(m.conv(x.mean((2, 3), True)).sigmoid_()),
                 ("channel",)),
    "one_minus": (lambda m, x: x * (1 - m.conv(x).mean(1, True).sigmoid()),
                  ("height", "width")),
    "coordinate": (lambda m, x: x * m.conv(x.mean(3, True)).sigmoid(), ("channel", "height")),
    "highway": (lambda m, x: x * m.conv(x).sigmoid(), ("element",)),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_GATE)
def test_activation_functions_are_no_gates(name):
    assert _gates(_Gated(NO_GATE[name]), torch.randn(2, 4, 5, 3)).sites == ()


@pytest.mark.parametrize("name", GATE)
def test_gates_written_by_hand(name):
    rule, axes = GATE[name]
    model, x = _Gated(rule), torch.randn(2, 4, 5, 3)
    (gate,) = _gates(model, x).gates
    assert gate.axes == axes
    torch.testing.assert_close(model(x), x * gate.tensor)


def test_attention_pooling_by_hand_is_a_softmax_gate_that_was_summed():
    class Pool(nn.Module):
        def __init__(self):
            super().__init__()
            self.score = nn.Linear(6, 1)

        def forward(self, h):
            return (self.score(h).softmax(1) * h).sum(1)

    model, h = Pool(), torch.randn(2, 7, 6)
    (gate,) = _gates(model, h).gates
    assert (gate.function, gate.axes, gate.summed) == ("softmax", ("token",), (1,))
    torch.testing.assert_close((gate.tensor * h).sum(1), model(h))


# -- windows --------------------------------------------------------------------------------------


def _window_positions(height, width, window, shift, pad_to):
    """(W, T) positions of Swin's windows, straight from its definition."""
    rows, columns = pad_to
    grid = torch.full((rows, columns), -1)
    grid[:height, :width] = torch.arange(height * width).view(height, width)
    grid = grid.roll((-shift[0], -shift[1]), (0, 1))
    return (
        grid.view(rows // window, window, columns // window, window)
        .permute(0, 2, 1, 3)
        .reshape(-1, window * window)
    )


@pytest.mark.parametrize("fused", [True, False])
def test_timm_swin_windows_lie_where_the_definition_puts_them(fused):
    config = {"window_size": 4, "depths": (2, 2), "num_heads": (2, 4), "embed_dim": 32}
    model = timm_model("swin_tiny_patch4_window7_224", fused=fused, **config)
    with torch.no_grad(), attention.tap(model) as tap:
        model(torch.randn(2, 3, 64, 64))
    for site, side, shift in zip(tap.attention, (16, 16, 8, 8), (0, 2, 0, 2), strict=True):
        places = site.places()
        wanted = _window_positions(side, side, 4, (shift, shift), (side, side))
        assert (places.grid, places.images) == ((side, side), 2)
        assert torch.equal(places.position, wanted.repeat(2, 1))
        assert torch.equal(places.image, torch.arange(2).repeat_interleave(len(wanted))[:, None]
                           .expand(-1, 16))  # fmt: skip


def test_torchvision_swin_windows_with_padding():
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model = models.swin_t(num_classes=3).eval()
    with torch.no_grad(), attention.tap(model) as tap:
        model(torch.randn(2, 3, 64, 96))
    first, shifted = tap.attention[:2]
    for site, shift in ((first, 0), (shifted, 3)):
        wanted = _window_positions(16, 24, 7, (shift, shift), (21, 28))
        assert site.places().grid == (16, 24)
        assert torch.equal(site.places().position, wanted.repeat(2, 1))


@pytest.mark.parametrize("name", ["maxvit_rmlp_pico_rw_256", "mobilevit_xxs", "halonet26t"])
def test_every_position_of_other_windows_is_covered(name):
    size = 128 if name != "halonet26t" else 256
    model = timm_model(name, size=size)
    with torch.no_grad(), attention.tap(model) as tap:
        model(torch.randn(2, 3, size, size))
    windowed = [s for s in tap.attention if s.windows > 1]
    assert windowed
    for site in windowed:
        places = site.places()
        count = places.scatter(torch.ones(site.batch, site.keys))
        if name == "halonet26t":  # its windows overlap
            assert (count >= 1).all()
        else:
            assert (count == 1).all()


def test_scatter_puts_values_back():
    position = torch.tensor([[0, 1], [2, -1], [3, 0], [1, 2]])
    image = torch.tensor([[0, 0], [0, 0], [1, 1], [1, 1]])
    places = attention.Places(image, position, (2, 2), 2)
    values = torch.tensor([[1.0, 2], [3, 9], [4, 5], [6, 7]])
    wanted = torch.tensor([[[1.0, 2], [3, 0]], [[5, 6], [7, 4]]])
    assert torch.equal(places.scatter(values), wanted)
    heads = places.scatter(torch.stack([values, 2 * values], 1))
    assert torch.equal(heads, torch.stack([wanted, 2 * wanted], 1))
    twice = attention.Places(image, torch.zeros(4, 2, dtype=torch.long), (1, 1), 2)
    assert torch.equal(twice.scatter(values, reduce="mean").flatten(), torch.tensor([15 / 4, 5.5]))
    with pytest.raises(ValueError, match="expected 'sum' or 'mean'"):
        places.scatter(values, reduce="max")


@pytest.mark.parametrize("name", ["_C._current_graph_task_id", "_C", "no_such_thing"])
def test_a_torch_without_a_private_name_is_told(name, monkeypatch):
    from attnviz.attention.tap import functions
    from attnviz.errors import EnvironmentFault

    assert not functions.in_backward()

    class Other:
        __version__ = "9.9"

    monkeypatch.setattr(functions, "torch", Other)
    with pytest.raises(EnvironmentFault, match=rf"torch 9.9 has no torch.{name}, by which"):
        functions.private(name)
