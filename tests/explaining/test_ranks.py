"""Signals, volumes and video: maps of the input's own rank, found where the signal was planted."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import attnviz
from attnviz.errors import DataError, LayoutError, MethodError
from attnviz.heatmaps import Heatmaps, animate
from attnviz.models import Layout

#: by rank: the input (B, C, ...), and where the first sample's signal lies
SHAPES = {1: (3, 1, 256), 2: (3, 4, 32, 40), 3: (3, 1, 16, 24, 32)}
PLACES = {
    1: (slice(160, 192),),
    2: (slice(4, 12), slice(24, 32)),
    3: (slice(8, 14), slice(4, 12), slice(20, 28)),
}
SHARED = ("gradcam", "gradcam++", "hirescam", "layercam", "xgradcam", "eigencam", "eigengradcam",
          "fem", "kpcacam", "cam")  # fmt: skip


def network(rank: int, channels: int) -> nn.Sequential:
    """Two convolutions that hand on what is bright, then the average and a linear layer."""
    torch.manual_seed(0)
    conv = getattr(nn, f"Conv{rank}d")
    model = nn.Sequential(
        conv(channels, 8, 3, 2, 1), nn.ReLU(), conv(8, 8, 3, 2, 1), nn.ReLU(),
        getattr(nn, f"AdaptiveAvgPool{rank}d")(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.abs_()
            layer.bias.fill_(-0.05)
        model[6].weight[0].abs_()
    return model


def planted(rank: int) -> torch.Tensor:
    """Faint noise with something bright at PLACES: a burst, a square, a cube."""
    shape = SHAPES[rank]
    x = 0.02 * torch.rand(shape, generator=torch.Generator().manual_seed(1))
    for row in range(shape[0]):
        x[(row, slice(None), *PLACES[rank])] += 1.0 - 0.2 * row
    return x


def by_hand(model, x, target, method):
    """Return gradcam or hirescam with two plain hooks, one sample at a time."""
    found = []
    for row in x:
        held = {}
        hook = model[3].register_forward_hook(lambda m, i, o, held=held: held.update(a=o))
        score = model(row[None])[0, target]
        hook.remove()
        a = held["a"]
        (g,) = torch.autograd.grad(score, a)
        axes = tuple(range(2, a.ndim))
        weights = g.mean(axes, keepdim=True) if method == "gradcam" else g
        found.append((weights * a).sum(1).relu().detach()[0])
    return torch.stack(found)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
def test_equal_to_hooks_by_hand_at_the_default_layer(rank, method):
    x = planted(rank)
    model = network(rank, x.shape[1])
    maps = attnviz.explain(model, x, target=0, method=method)
    assert (maps.layer, maps.rank, maps.score.shape) == ("3", rank, (3,))
    torch.testing.assert_close(maps.values, by_hand(model, x, 0, method), rtol=1e-6, atol=1e-9)
    if method == "gradcam":
        torch.testing.assert_close(
            attnviz.explain(model, x, classes=[1, 0]).values[1::2], maps.values
        )


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("method", [*SHARED, "finercam", "shapleycam"])
def test_what_was_planted_is_found_at_its_place(rank, method):
    x = planted(rank)
    maps = attnviz.explain(network(rank, x.shape[1]), x, target=0, method=method)
    for row in range(len(x)):
        found = np.maximum(maps.volume(row), 0)
        assert found.shape == SHAPES[rank][2:]
        peak = np.unravel_index(found.argmax(), found.shape)
        # the peak within one cell of the layer, four samples
        for at, place in zip(peak, PLACES[rank], strict=True):
            assert place.start - 4 <= at < place.stop + 4
        assert maps.masks(0.5)[row].shape == maps.values.shape[1:]


@pytest.mark.parametrize("rank", [1, 3])
def test_batch_is_singles_and_nothing_is_altered(rank):
    x = planted(rank)
    model = network(rank, 1).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given, state = x.clone(), torch.get_rng_state()
    maps = attnviz.explain(model, x, target=[0, 1, 2], method=list(SHARED[:4]))
    for name, whole in maps.items():
        for row in range(3):
            one = attnviz.explain(model, x[row : row + 1], target=row, method=name)
            torch.testing.assert_close(one.values[0], whole.values[row])
            torch.testing.assert_close(
                attnviz.explain(model, x[row], target=row, method=name).values, one.values
            )
        torch.testing.assert_close(
            attnviz.explain(model, x, target=[0, 1, 2], method=name, batch_size=2).values,
            whole.values,
        )
    assert torch.equal(x, given)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_create_graph_trains_on_the_map_of_a_volume():
    model = network(3, 1)
    maps = attnviz.explain(model, planted(3), target=0, create_graph=True)
    maps.values.sum().backward()
    assert model[0].weight.grad.abs().sum() > 0


def test_video_in_either_order_gives_the_same_maps_and_size():
    class Clip(nn.Module):
        """Takes (B, T, C, H, W), as the processors of video models give it."""

        def __init__(self):
            super().__init__()
            self.net = network(3, 3)

        def forward(self, x):
            return self.net(x.transpose(1, 2))

    x = torch.rand(2, 3, 8, 16, 20)
    clip = Clip()
    first = attnviz.explain(clip.net, x, target=0)
    other = attnviz.explain(clip, x.transpose(1, 2), target=0)
    torch.testing.assert_close(first.values, other.values)
    assert first.meta["input_size"] == other.meta["input_size"] == [8, 16, 20]
    for mine, theirs in zip(first.images, other.images, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("rank", [1, 3])
def test_resizing_is_linear_in_every_axis_and_shrinking_averages(rank):
    values = torch.rand(2, *(6, 5, 4)[:rank])
    maps = Heatmaps(values, "m", "l", (0, 0), ("", ""), torch.zeros(2))
    size = tuple(3 * n for n in values.shape[1:])
    mode = {1: "linear", 3: "trilinear"}[rank]
    expected = nn.functional.interpolate(values[:, None], size, mode=mode)[:, 0]
    torch.testing.assert_close(maps.resize(size).values, expected)
    one = maps.resize(1).values.flatten()
    torch.testing.assert_close(one, values.flatten(1).mean(1))
    with pytest.raises(DataError, match="length|depth"):
        maps.resize((4, 4))
    with pytest.raises(DataError, match="axes"):
        maps.boxes()


@pytest.mark.parametrize("rank", [1, 3])
def test_files_keep_the_rank(rank, tmp_path):
    maps = attnviz.explain(network(rank, 1), planted(rank), target=0)
    for name in ("a.npz", "a.safetensors"):
        back = Heatmaps.load(maps.save(tmp_path / name))
        assert torch.equal(back.values, maps.values)
        np.testing.assert_array_equal(back.volume(), maps.volume())


@pytest.mark.parametrize("rank", [1, 3])
def test_pictures_of_every_kind(rank, tmp_path):
    maps = attnviz.explain(network(rank, 1), planted(rank), target=0, method="hirescam")
    before = maps.values.clone()
    for picture in (maps.overlay(0), maps.panel(), maps.grid(), maps[0].detach().panel()):
        assert np.asarray(picture).std() > 5
    assert "data:image/" in maps._repr_html_()
    assert torch.equal(maps.values, before)
    bare = Heatmaps(maps.values, "m", "", maps.target, maps.label, maps.score)
    assert np.asarray(bare.panel()).std() > 5
    with pytest.raises(DataError, match="no photo"):
        bare.overlay(0)
    again = bare.with_images(list(planted(rank)))
    assert np.asarray(again.overlay(0)).std() > 5
    if rank == 1:
        with pytest.raises(DataError, match="axes"):
            animate(maps, tmp_path / "a.webp")


def test_the_colour_of_a_signal_lies_over_its_burst():
    maps = attnviz.explain(network(1, 1), planted(1), target=0, method="hirescam")
    plain = np.asarray(maps.with_images(list(planted(1))).overlay(0)).astype(int)
    strength = np.abs(plain - plain[:, :1]).sum((0, 2))
    place = PLACES[1][0]
    middle = (np.arange(plain.shape[1]) + 0.5) * 256 / plain.shape[1]
    inside = (middle >= place.start) & (middle < place.stop)
    assert strength[inside].mean() > 3 * strength[~inside].mean()


def test_an_animation_has_a_frame_for_every_frame(tmp_path):
    maps = attnviz.explain(network(3, 3), torch.rand(1, 3, 6, 16, 20), target=0)
    path = animate(maps, tmp_path / "clip.webp", fps=5)
    with Image.open(path) as clip:
        assert clip.n_frames == 6
    assert np.asarray(maps.panel(frames=4)).std() > 5


def test_methods_and_layers_that_take_no_such_input_say_so():
    x, model = planted(3), network(3, 1)
    with pytest.raises(MethodError, match="rise explains pictures"):
        attnviz.explain(model, x, target=0, method="rise")
    for method in ("refinecam", "layercam_fused"):
        with pytest.raises(MethodError, match=r"positions \(h, w\)"):
            attnviz.explain(model, x, target=0, method=method)
    with pytest.raises(LayoutError, match="no .* positions"):
        attnviz.explain(model, x, target=0, layer="6")
    with pytest.raises(LayoutError, match="takes 4 dimensions, got"):
        attnviz.explain(model, x, target=0, layer="3", layout=Layout("channels_last"))
