"""The liveness check passes what trains, and names the fault of what does not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attnviz.errors import GuidanceError
from attnviz.guidance import annotate, check_alive, class_map, losses

from .conftest import GapNet, TailNet


def features_and_logits(model, x):
    features = model.body(model.act(model.stem(x)))
    return features, model.classify(model.act(features))


@pytest.mark.parametrize("make", [GapNet, TailNet])
@pytest.mark.parametrize("name", ["energy", "gain", "l1", "ppce"])
def test_a_living_loss_moves_prefix_and_head(make, name, batch, masks):
    x, y = batch
    model = make().double()
    seen = class_map(model, x, y, layer="body")
    alive = check_alive(losses.get(name)(seen, masks), model, maps=seen)
    assert "stem.weight" in alive.moved
    assert "head.weight" in alive.moved
    assert alive.norm > 0
    assert all(p.grad is None for p in model.parameters())
    seen.logits.sum().backward()  # the graph is still there


def test_detached_weights(batch, masks):
    """Public GAIN, first fault: weights = gradients.detach()."""
    x, y = batch
    model = TailNet().double()
    features, logits = features_and_logits(model, x)
    (g,) = torch.autograd.grad(logits.gather(1, y[:, None]).sum(), features, retain_graph=True)
    maps = (g.mean((2, 3), keepdim=True).detach() * features).sum(1)
    loss = losses.energy(maps, F.adaptive_avg_pool2d(masks[:, None], 6)[:, 0])
    with pytest.raises(GuidanceError, match="channel weights are constants"):
        check_alive(loss, model, maps=maps)
    # also where a second forward gives the head a gradient that hides it
    t = torch.sigmoid(10 * (maps / maps.detach().abs().amax() - 0.5))
    t = F.interpolate(t[:, None], 12)
    mining = model(x - t * x).gather(1, y[:, None]).mean()
    with pytest.raises(GuidanceError, match="channel weights are constants"):
        check_alive(mining, model, maps=maps)


def test_maps_from_backward(batch):
    """Public GAIN, second fault: hooks store what .backward() brings, and no graph."""
    x, y = batch
    model = GapNet().double()
    stored = {}
    forward = model.body.register_forward_hook(lambda m, i, o: stored.update(activation=o))
    backward = model.body.register_full_backward_hook(lambda m, i, o: stored.update(gradient=o[0]))
    logits = model(x)
    logits.gather(1, y[:, None]).sum().backward(retain_graph=True)
    forward.remove()
    backward.remove()
    maps = (stored["gradient"].mean((2, 3), keepdim=True) * stored["activation"]).sum(1).relu()
    t = F.interpolate(torch.sigmoid(10 * maps)[:, None], 12)
    with pytest.raises(GuidanceError, match="channel weights are constants"):
        check_alive(model(x - t * x).mean(), model, maps=maps)
    copied = torch.tensor(maps.detach().numpy())
    t = F.interpolate(torch.sigmoid(10 * copied)[:, None], 12)
    with pytest.raises(GuidanceError, match="map has no graph"):
        check_alive(model(x - t * x).mean(), model, maps=copied)


def test_softmax_and_clipped_constants(batch):
    """Public GAIN, third fault: a saturated mask or score that is constant."""
    x, y = batch
    model = GapNet().double()
    seen = class_map(model, x, y, layer="body")
    clipped = (seen.maps * 1e6).clamp(0, 1)
    live = clipped.detach().clone()
    assert set(live.unique().tolist()) <= {0.0, 1.0}
    t = F.interpolate(clipped[:, None], 12)
    mining = model(x - t * x).softmax(1).gather(1, y[:, None]).mean()
    with pytest.raises(GuidanceError, match="d loss / d map is exactly zero"):
        check_alive(mining, model, maps=seen)
    with pytest.raises(GuidanceError, match="exactly zero"):
        check_alive((seen.logits * 1e5).softmax(1).clamp(1e-3, 1 - 1e-3).mean(), model)
    binary = (seen.maps > 0).double()
    t = F.interpolate(binary[:, None], 12)
    with pytest.raises(GuidanceError, match="does not depend on the map"):
        check_alive(model(x - t * x).mean(), model, maps=seen)


def test_dead_map(batch, masks):
    x, y = batch
    model = GapNet().double()
    with torch.no_grad():
        model.head.weight.copy_(-model.head.weight.abs())
        model.body.bias.fill_(50.0)
    seen = class_map(model, x, y, layer="body", against=None)
    assert (seen.maps <= 0).all()
    with pytest.raises(GuidanceError, match="nowhere positive"):
        check_alive(losses.energy(seen, masks, form="relu"), model, maps=seen)
    check_alive(losses.energy(seen, masks, form="abs"), model, maps=seen)


def test_frozen_and_detached(batch, masks):
    x, y = batch
    model = GapNet().double()
    seen = class_map(model, x, y, layer="body")
    loss = losses.energy(seen, masks)
    with pytest.raises(GuidanceError, match="the guidance loss has no graph"):
        check_alive(loss.total.detach(), model)
    with pytest.raises(GuidanceError, match="not finite"):
        check_alive(loss.total * float("nan"), model)
    with pytest.raises(GuidanceError, match="no image of this batch"):
        check_alive(losses.energy(seen, annotate(3, (12, 12))), model)
    with pytest.raises(GuidanceError, match="another model"):
        check_alive(loss, GapNet())
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(GuidanceError, match="everything is frozen"):
        check_alive(loss, model)


def test_a_frozen_prefix_with_a_live_head_is_alive(batch, masks):
    x, y = batch
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).double()
    model[0].requires_grad_(False)
    seen = class_map(model, x, y, layer="0")
    alive = check_alive(losses.energy(seen, masks), model, maps=seen)
    assert alive.moved == ("3.weight",)
    assert alive.still == ("3.bias",)
