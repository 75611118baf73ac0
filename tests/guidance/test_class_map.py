"""The training map: exact on GAP + linear heads, alive elsewhere, and part of the user's step."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attnviz import Contrast, errors
from attnviz.guidance import class_map, losses
from attnviz.hooks import differentiable_attention

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
    seen = class_map(linear, x, y, layer="0", against=None)
    assert seen.exact
    by_hand = torch.einsum("bk,bkhw->bhw", linear[3].weight[y], linear[0](x)) / 100
    torch.testing.assert_close(seen.maps, by_hand, rtol=0, atol=1e-14)
    torch.testing.assert_close(seen.logits, linear(x), rtol=0, atol=0)
    # in units of score / (h w): the mean of CAM is the logit without its bias
    torch.testing.assert_close(
        seen.maps.sum((1, 2)) + linear[3].bias[y], seen.logits[range(3), y], rtol=0, atol=1e-12
    )


def test_the_margin_is_what_is_explained(batch):
    """By hand: w_y less the others' mean weighted by their softmax; two classes: w_y - w_other."""
    x, y = batch
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).double()
    w, logits, a = model[3].weight, model(x), model[0](x)
    for against in ("all", "strongest"):
        seen = class_map(model, x, y, layer="0", against=against)
        rows = []
        for i, c in enumerate(y.tolist()):
            others = [k for k in range(3) if k != c]
            share = logits[i, others].softmax(0)
            if against == "strongest":
                share = (share == share.max()).double()
            rows.append(w[c] - share @ w[others])
        by_hand = torch.einsum("bk,bkhw->bhw", torch.stack(rows), a) / 100
        assert seen.exact
        torch.testing.assert_close(seen.maps, by_hand, rtol=0, atol=1e-14)
    odds = logits.softmax(1)[range(3), y].logit()
    seen = class_map(model, x, y, layer="0", against="all")
    torch.testing.assert_close(seen.score, odds, rtol=0, atol=1e-12)
    assert seen.targets.labels == ("class 0 - others", "class 2 - others", "class 1 - others")
    assert seen.classes.tolist() == y.tolist()
    two = nn.Sequential(*model[:3], nn.Linear(4, 2).double())
    seen = class_map(two, x, [0, 1, 1], layer="0")
    difference = two[3].weight[0] - two[3].weight[1]
    by_hand = torch.einsum("k,bkhw->bhw", difference, two[0](x)) / 100
    torch.testing.assert_close(
        seen.maps, by_hand * torch.tensor([1, -1, -1.0])[:, None, None], rtol=0, atol=1e-14
    )
    torch.testing.assert_close(
        class_map(two, x, [0, 1, 1], layer="0", against="all").maps, seen.maps
    )


def test_whose_margin(gap_net, batch):
    """None is the predicted class's; targets of one's own stay; one output has no others."""
    x, _ = batch
    predicted = gap_net(x).argmax(1)
    seen = class_map(gap_net, x, layer="body")
    assert torch.equal(seen.maps, class_map(gap_net, x, predicted, layer="body").maps)
    assert seen.classes.tolist() == predicted.tolist()
    own = class_map(gap_net, x, Contrast(0, 2), layer="body")
    contrast = [Contrast(0, 2)] * 3
    assert torch.equal(own.maps, class_map(gap_net, x, contrast, layer="body", against=None).maps)
    single = GapNet(classes=1).double()
    one = class_map(single, x, 0, layer="body")
    assert torch.equal(one.maps, class_map(single, x, 0, layer="body", against=None).maps)
    with pytest.raises(errors.TargetError, match="'strongest' or 'all'"):
        class_map(gap_net, x, 0, layer="body", against="every")


@pytest.mark.parametrize("against", ["strongest", "all"])
@pytest.mark.parametrize("name", ["energy", "l1", "hint", "ppce", "res", "gain", "box"])
def test_analytic_and_double_backward_maps_train_alike(batch, masks, name, against):
    """The gradients of the loss agree to 1e-10, for maps, prefix and head alike."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Softplus(), nn.Conv2d(4, 4, 3, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).double()  # fmt: skip
    x, y = batch
    options = {"fill": "zero"} if name in ("gain", "box") else {}
    seen = class_map(model, x, y, layer="2", against=against)
    assert seen.exact
    exact = gradients(losses.get(name)(seen, masks, **options).total, model)

    features = model[:3](x)
    logits = model[3:](features)
    (g,) = torch.autograd.grad(margin(logits, y, against).sum(), features, create_graph=True)
    maps = (g.mean((2, 3), keepdim=True) * features).sum(1)
    twice = type(seen)(**{**seen.__dict__, "maps": maps, "logits": logits, "exact": False})
    other = gradients(losses.get(name)(twice, masks, **options).total, model)
    for a, b in zip(exact, other):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert exact[-2].abs().max() > 0  # the head's weight trains through the map


def test_double_backward_of_the_tail_is_that_of_the_whole(tail_net, batch, masks):
    x, y = batch
    seen = class_map(tail_net, x, y, layer="body", against="all")
    assert not seen.exact
    ours = gradients(losses.energy(seen, masks).total, tail_net)
    features = tail_net.body(tail_net.act(tail_net.stem(x)))
    hidden = torch.tanh(tail_net.hidden(tail_net.pool(tail_net.act(features)).flatten(1)))
    score = margin(tail_net.head(hidden), y, "all").sum()
    (g,) = torch.autograd.grad(score, features, create_graph=True)
    maps = (g.mean((2, 3), keepdim=True) * features).sum(1)
    by_hand = gradients(losses.energy(maps, masks_on(maps, masks)).total, tail_net)
    for a, b in zip(ours, by_hand):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert ours[0].abs().max() > 0  # the prefix trains through its activation


def margin(logits, y, against):
    own = logits.gather(1, y[:, None])[:, 0]
    others = logits.scatter(1, y[:, None], float("-inf"))
    return own - (others.logsumexp(1) if against == "all" else others.amax(1))


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


@pytest.mark.parametrize("method", ["legrad", "generic_relevance"])
def test_maps_of_attention_follow_the_energy(method):
    """Adam on the energy alone, and a network whose first block is frozen has a graph as well."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=2
    )
    x, y = torch.randn(6, 3, 16, 16), torch.tensor([0, 1] * 3)
    masks = torch.zeros(6, 16, 16)
    masks[:, 4:12, 8:] = 1
    for name, parameter in vit.named_parameters():
        parameter.requires_grad_(name.startswith(("blocks.1.", "norm", "head")))
    optimiser = torch.optim.Adam([p for p in vit.parameters() if p.requires_grad], 3e-3)
    lost = []
    for _ in range(40):
        seen = class_map(vit, x, y, method=method)
        loss = losses.energy(seen, masks).total
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        lost.append(float(loss.detach()))
    assert lost[-1] < 0.8 * lost[0]
    assert vit.blocks[0].attn.qkv.weight.grad is None
