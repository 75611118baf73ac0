"""The training map: exact on GAP + linear heads, alive elsewhere, and part of the user's step."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attnviz import errors
from attnviz.guidance import class_map, losses
from attnviz.guidance.class_maps import differentiable_attention

from .conftest import GapNet


def gradients(loss, model):
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, model.parameters())]


def test_map_is_the_weighted_sum_of_channels(gap_net, batch):
    x, y = batch
    seen = class_map(gap_net, x, y, layer="body")
    assert not seen.exact  # an activation function stands between body and pooling
    linear = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    linear = linear.double()
    seen = class_map(linear, x, y, layer="0")
    assert seen.exact
    by_hand = torch.einsum("bk,bkhw->bhw", linear[3].weight[y], linear[0](x)) / 100
    torch.testing.assert_close(seen.maps, by_hand, rtol=0, atol=1e-14)
    torch.testing.assert_close(seen.logits, linear(x), rtol=0, atol=0)
    # in units of score / (h w): the mean of CAM is the logit without its bias
    torch.testing.assert_close(
        seen.maps.sum((1, 2)) + linear[3].bias[y], seen.logits[range(3), y], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("name", ["energy", "l1", "hint", "ppce", "res", "gain", "box"])
def test_analytic_and_double_backward_maps_train_alike(batch, masks, name):
    """The gradients of the loss agree to 1e-10, for maps, prefix and head alike."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Softplus(), nn.Conv2d(4, 4, 3, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).double()  # fmt: skip
    x, y = batch
    options = {"fill": "zero"} if name in ("gain", "box") else {}
    seen = class_map(model, x, y, layer="2")
    assert seen.exact
    exact = gradients(losses.get(name)(seen, masks, **options).total, model)

    features = model[:3](x)
    logits = model[3:](features)
    (g,) = torch.autograd.grad(logits.gather(1, y[:, None]).sum(), features, create_graph=True)
    maps = (g.mean((2, 3), keepdim=True) * features).sum(1)
    twice = type(seen)(**{**seen.__dict__, "maps": maps, "logits": logits, "exact": False})
    other = gradients(losses.get(name)(twice, masks, **options).total, model)
    for a, b in zip(exact, other):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert exact[-2].abs().max() > 0  # the head's weight trains through the map


def test_double_backward_of_the_tail_is_that_of_the_whole(tail_net, batch, masks):
    x, y = batch
    seen = class_map(tail_net, x, y, layer="body")
    assert not seen.exact
    ours = gradients(losses.energy(seen, masks).total, tail_net)
    features = tail_net.body(tail_net.act(tail_net.stem(x)))
    hidden = torch.tanh(tail_net.hidden(tail_net.pool(tail_net.act(features)).flatten(1)))
    score = tail_net.head(hidden).gather(1, y[:, None]).sum()
    (g,) = torch.autograd.grad(score, features, create_graph=True)
    maps = (g.mean((2, 3), keepdim=True) * features).sum(1)
    by_hand = gradients(losses.energy(maps, masks_on(maps, masks)).total, tail_net)
    for a, b in zip(ours, by_hand):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert ours[0].abs().max() > 0  # the prefix trains through its activation


def masks_on(maps, masks):
    return F.adaptive_avg_pool2d(masks[:, None], maps.shape[-2:])[:, 0]


def test_batchnorm_and_random_state_move_as_in_a_plain_step(batch):
    x, y = batch
    torch.manual_seed(1)
    plain, guided = GapNet(batchnorm=True).double(), GapNet(batchnorm=True).double()
    guided.load_state_dict(plain.state_dict())
    torch.manual_seed(2)
    logits = plain.train()(x)
    after = torch.get_rng_state()
    torch.manual_seed(2)
    seen = class_map(guided.train(), x, y, layer="body")
    assert torch.equal(logits, seen.logits)
    assert torch.equal(after, torch.get_rng_state())
    for a, b in zip(plain.buffers(), guided.buffers()):
        assert torch.equal(a, b)
    assert guided.training
    assert not guided.body._forward_hooks


def test_several_layers_and_unpacking(gap_net, batch):
    x, y = batch
    seen = class_map(gap_net, x, y, layer=["body", "stem"])
    logits, maps = seen
    assert logits is seen.logits
    assert maps is seen.by_layer["body"]
    assert list(seen.by_layer) == ["body", "stem"]
    assert seen.classes.tolist() == [0, 2, 1]


def test_vit_map_has_a_second_derivative():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=2,
        num_classes=3,
    ).double()  # fmt: skip
    x, y = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 2])
    seen = class_map(vit, x, y)
    weight = vit.blocks[0].attn.qkv.weight
    loss = losses.energy(seen, mask32()).total
    (g,) = torch.autograd.grad(loss, weight)
    direction = torch.randn_like(weight)

    def at(step):
        with torch.no_grad():
            weight.add_(step * direction)
        value = losses.energy(class_map(vit, x, y), mask32()).total.item()
        with torch.no_grad():
            weight.sub_(step * direction)
        return value

    slope = (at(1e-6) - at(-1e-6)) / 2e-6
    assert slope == pytest.approx((g * direction).sum().item(), rel=1e-5)
    # the fused kernel is what fails here; without the block it would
    q = torch.randn(1, 1, 4, 8, requires_grad=True)
    with differentiable_attention():
        out = F.scaled_dot_product_attention(q, q, q)
    (first,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    assert torch.autograd.grad(first.sum(), q)[0].shape == q.shape


def mask32():
    m = torch.zeros(2, 32, 32)
    m[:, 8:24, 4:20] = 1
    return m


def test_refusals(gap_net, batch):
    x, y = batch
    with torch.no_grad(), pytest.raises(errors.GuidanceError, match="no_grad"):
        class_map(gap_net, x, y, layer="body")
    with pytest.raises(errors.GuidanceError, match="float batch"):
        class_map(gap_net, x.to(torch.uint8), y, layer="body")
    with pytest.raises(errors.TargetError, match="2 targets for 3"):
        class_map(gap_net, x, y[:2], layer="body")
    with pytest.raises(errors.LayerNotFound, match="body"):
        class_map(gap_net, x, y, layer="bodi")


def test_bfloat16_autocast_keeps_maps_in_single_precision(batch):
    x, y = batch
    model = GapNet().float()
    with torch.autocast("cpu", torch.bfloat16):
        seen = class_map(model, x.float(), y, layer="body")
        loss = losses.energy(seen, None)
    assert seen.maps.dtype == torch.float32
    assert loss.total.dtype == torch.float32
