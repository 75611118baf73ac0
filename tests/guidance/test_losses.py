"""Every loss: its derivative, a value worked out by hand, and what it does without annotation."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attnviz import errors
from attnviz.guidance import ContextClassifier, annotate, class_map, losses
from attnviz.guidance.losses import LOSSES, LossParts
from attnviz.guidance.normalising import normalised, positive_part

FORMS = [
    ("energy", {"form": "abs"}), ("energy", {"form": "relu"}), ("energy", {"form": "softplus"}),
    ("l1", {}), ("hint", {}), ("ppce", {}), ("ppce", {"inside": True}), ("scribble", {}),
    ("res", {}), ("res", {"border": 1}), ("area", {}), ("tv", {}), ("consistency", {"form": "abs"}),
    ("rrr", {}), ("rrr", {"explained": "target", "reduction": "mean"}), ("cdep", {}),
    ("cdep", {"form": "softmax"}), ("gain", {"fill": "zero"}),
    ("gain", {"fill": "zero", "score": "probability", "only": (0, 1)}),
    ("gain", {"fill": "zero", "score": "logit"}), ("gain", {"fill": "zero", "score": "sigmoid"}),
    ("gain_ext", {"fill": "zero"}), ("box", {"fill": "mean"}),
    ("box", {"fill": "mean", "score": "margin"}), ("mixed", {}),
]  # fmt: skip
#: every further loss as it is; the adversary learns beside, and has a test of its own
FORMS += [(n, {}) for n in LOSSES.names() if n not in {"box_adversary", *dict(FORMS)}]


def small_net(activation=nn.Softplus):
    torch.manual_seed(6)
    return nn.Sequential(
        nn.Conv2d(3, 3, 3, stride=2, padding=1), activation(),
        nn.Conv2d(3, 3, 3, padding=1), nn.Identity(),
        nn.AvgPool2d(3), nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 3),
    ).double()  # fmt: skip


def given_for(name, masks):
    if name == "mixed":
        mixed = [masks[0], None, None]
        return annotate(
            3, (12, 12), masks=mixed, boxes=[None, (1, 5, 6, 11), None],
            scribbles=[None, None, stroke()],
        )  # fmt: skip
    if name == "box":
        return annotate(3, (12, 12), masks=[masks[0], masks[1], None])
    return annotate(3, (12, 12), masks=list(masks), weights=[1.0, 0.5, 2.0])


def stroke():
    s = torch.zeros(12, 12)
    s[1, 2:9] = 1
    s[9, 2:9] = -1
    return s


@pytest.mark.parametrize(("name", "options"), FORMS)
def test_gradcheck(name, options, batch, masks, frozen_scale):
    """Finite differences in double precision, through the map into every parameter."""
    x, y = batch
    # tanh is smooth, so that finite differences do not step over a kink; the decomposition
    # knows both
    model = small_net(nn.Tanh if name == "cdep" else nn.Softplus)
    annotation = given_for(name, masks)
    if name in ("mixed", "box"):
        options = {"coarse_options": {"fill": "mean"}} if name == "mixed" else options
    layer = ["2", "0"] if name == "consistency" else "2"

    def value(*parameters):
        frozen_scale()
        seen = class_map(
            model, x, y, layer=layer, input_gradient=name == "rrr",
        )  # fmt: skip
        return losses.get(name)(seen, annotation, **options).total

    parameters = [p for p in model.parameters() if p.ndim > 1][:3]
    value()
    # an aggregated check in random directions sees every entry at once
    assert torch.autograd.gradcheck(value, parameters, fast_mode=True, atol=1e-6, rtol=1e-5)


def test_the_adversary_learns_and_the_features_unlearn(batch, masks):
    x, y = batch
    model = small_net()
    torch.manual_seed(0)
    adversary = ContextClassifier(3, 3, strength=0.7).double()

    def both():
        seen = class_map(model, x, y, layer="2")
        total = losses.box_adversary(seen, masks, adversary=adversary).total
        return torch.autograd.grad(total, [adversary.linear.weight, model[0].weight])

    head, features = both()
    adversary.strength = -1.0  # the plain gradient
    plain_head, plain_features = both()
    torch.testing.assert_close(head, plain_head)
    torch.testing.assert_close(features, -0.7 * plain_features)
    # and the plain one is the derivative
    seen = class_map(model, x, y, layer="2")
    grid = F.adaptive_avg_pool2d(1 - masks[:, None].double(), 6)
    pooled = (seen.activation * grid).sum((2, 3)) / grid.sum((2, 3))
    by_hand = F.cross_entropy(adversary.linear(pooled), y)
    total = losses.box_adversary(seen, masks, adversary=adversary).total
    torch.testing.assert_close(total, by_hand)


# -- values by hand --------------------------------------------------------------------------

MAP = torch.tensor([[[4.0, -2.0], [1.0, 0.0]]], dtype=torch.float64)
MASK = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])


def total(name, maps=MAP, mask=MASK, **options):
    return losses.get(name)(maps, mask, **options).total.item()


def test_energy_by_hand():
    assert total("energy", form="relu") == pytest.approx(1 - 4 / 5)
    assert total("energy", form="abs") == pytest.approx(1 - 4 / 7)
    s = [math.log1p(math.exp(10 * v)) / 10 for v in (1, -0.5, 0.25, 0)]
    assert total("energy", form="softplus") == pytest.approx(1 - s[0] / sum(s))
    assert total("energy", mask=torch.full((1, 2, 2), 0.25), form="relu") == pytest.approx(0.75)


def test_pixel_losses_by_hand():
    # normalised and cut off: 1, 0, .25, 0 against 1, 0, 0, 0
    assert total("l1") == pytest.approx(0.25 / 4)
    assert total("hint") == pytest.approx(0.0625 / 4)
    assert total("res", tolerance=0.0) == pytest.approx(0.25 / 3)
    assert total("res", tolerance=0.1) == pytest.approx(0.25 / 3 - 0.1 if 0.25 / 3 > 0.1 else 0)
    assert total("area") == pytest.approx(1.25 / 4)
    assert total("area", most=0.3) == pytest.approx(1.25 / 4 - 0.3)
    # rows: |1 - -.5| + |.25 - 0| over 2; columns: |1 - .25| + |-.5 - 0| over 2
    assert total("tv") == pytest.approx((1.5 + 0.25) / 2 + (0.75 + 0.5) / 2)


def test_cross_entropy_by_hand():
    p = [1 / (1 + math.exp(-10 * (v - 0.5))) for v in (1, -0.5, 0.25, 0)]
    terms = [-math.log(p[0]), *(-math.log(1 - q) for q in p[1:])]
    assert total("ppce") == pytest.approx(sum(terms) / 4)
    assert total("ppce", inside=True) == pytest.approx(terms[0])
    strokes = torch.tensor([[1, 0], [0, -1]])
    parts = losses.scribble(MAP, annotate(1, (2, 2), scribbles=[strokes])).parts
    assert parts["object"].item() == pytest.approx(0.5 * terms[0])
    assert parts["background"].item() == pytest.approx(0.5 * terms[3])
    points = annotate(1, (2, 2), points=[[(0.5, 0.5), (1.5, 1.5)]])
    only = losses.scribble(MAP, points).parts
    assert only["object"].item() == pytest.approx(0.5 * (terms[0] - math.log(p[3])) / 2)
    assert only["background"].item() == 0


def test_rrr_of_a_linear_model_is_its_weights_outside():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    x = torch.randn(1, 1, 2, 2, dtype=torch.float64)
    seen = class_map(model, x, [1], layer="0", input_gradient=True)
    got = losses.rrr(seen, MASK).total.item()
    # log p_k = z_k - logsumexp z: the sum over two classes has gradient (1 - 2 p_k) dz_k
    p = model(x).softmax(1)[0]
    slope = ((1 - 2 * p) * model[0].weight.view(2)).sum() / 4
    assert got == pytest.approx(3 * slope.item() ** 2)


def test_decomposition_of_a_linear_model_is_its_masked_product(masks):
    from attnviz.guidance.contextual import decompose

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 2, 3, bias=False), nn.Flatten(), nn.Linear(200, 2, bias=False)
    )
    x = torch.randn(3, 3, 12, 12)
    pair = decompose(model, x, masks)
    torch.testing.assert_close(pair.relevant, model(x * masks[:, None]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pair.rest, model(x * (1 - masks[:, None])), rtol=1e-5, atol=1e-6)


def test_decomposition_adds_up_and_a_whole_region_gives_all(masks):
    torchvision = pytest.importorskip("torchvision")
    from attnviz.guidance.contextual import decompose

    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=4).double().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    region = F.interpolate(masks[:, None], 32)[:, 0]
    pair = decompose(model, x, region)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    torch.testing.assert_close(sum(pair), model.eval()(x), rtol=1e-9, atol=1e-10)
    whole = decompose(model, x, torch.ones_like(region))
    torch.testing.assert_close(whole.relevant, model(x), rtol=1e-9, atol=1e-10)
    # one block by hand: relu of the relevant part, and the bias shared by size
    one = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())
    one[0].weight.data.fill_(2.0)
    one[0].bias.data.fill_(0.5)
    x = torch.tensor([[[[1.0, -1.0]]]])
    got = decompose(one, x, torch.tensor([[[1.0, 0.0]]]))
    assert got.relevant.flatten().tolist() == [2.5, 0.0]
    assert got.rest.flatten().tolist() == [0.0, 0.0]
    with pytest.raises(errors.MethodError, match="LSTM"):
        decompose(nn.Sequential(nn.Flatten(2), nn.LSTM(12, 3)), x, torch.ones(1, 1, 2))


def test_gain_by_hand(batch):
    """The two-stream form written out."""
    x, y = batch
    model = small_net()
    seen = class_map(model, x, y, layer="2")
    scale = seen.maps.abs().amax((1, 2), keepdim=True).clamp_min(1e-3)
    t = torch.sigmoid(10 * (seen.maps / scale - 0.5))
    t = F.interpolate(t[:, None], (12, 12), mode="bilinear", align_corners=False)
    p = model(x - t * x).softmax(1)[range(3), y]
    parts = losses.gain(seen, None, fill="zero", area=0.2).parts
    assert parts["mining"].item() == pytest.approx((-(1 - p).log()).mean().item())
    assert parts["area"].item() == pytest.approx(0.2 * t.mean().item())
    logit = losses.gain(seen, None, fill="zero", score="logit", area=0, alpha=2.0).parts
    assert list(logit) == ["mining"]
    own = model(x - t * x)[range(3), y]
    assert logit["mining"].item() == pytest.approx(2 * own.mean().item())


def test_erased_passes_leave_batchnorm_alone(batch, masks):
    x, y = batch
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 3, 3),
        nn.BatchNorm2d(3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 3),
    ).double()
    model.train()
    seen = class_map(model, x, y, layer="1")
    after = model[1].running_mean.clone()
    losses.gain(seen, None)
    losses.box(seen, annotate(3, (12, 12), masks=[masks[0], None, None]))
    assert torch.equal(model[1].running_mean, after)
    assert model[1].training
    assert int(model[1].num_batches_tracked) == 1


def test_box_erases_negatives_with_the_same_boxes(batch):
    """The controls: same fill, same boxes, their own class to keep."""
    x, y = batch
    model = small_net()
    seen = class_map(model, x, y, layer="2")
    given = annotate(3, (12, 12), boxes=[(2, 3, 9, 8), None, None])
    parts = losses.box(seen, given, fill="zero", score="margin").parts
    erased = x.clone()
    erased[:, :, 3:8, 2:9] = 0
    logits = model(erased)
    assert parts["context"].item() == pytest.approx(-math.log(1 - logits.softmax(1)[0, 0].item()))
    assert parts["controls"].item() == pytest.approx(F.cross_entropy(logits[1:], y[1:]).item())
    undecided = losses.box(seen, given, fill="zero").parts["context"].item()
    p = logits[0].softmax(0)
    assert undecided == pytest.approx(-p.log().mean().item() - math.log(3))


def test_mixed_is_the_sum_of_its_losses(batch, masks):
    x, y = batch
    seen = class_map(small_net(), x, y, layer="2")
    given = annotate(3, (12, 12), masks=[masks[0], None, None], boxes=[None, (1, 1, 8, 8), None])
    mixed = losses.mixed(seen, given, coarse="energy")
    fine = losses.energy(seen, [masks[0], None, None]).total
    coarse = losses.energy(seen, annotate(3, (12, 12), boxes=[None, (1, 1, 8, 8), None])).total
    assert mixed.total.item() == pytest.approx((fine + coarse).item())
    assert set(mixed.parts) == {"fine.outside", "coarse.outside"}


def test_consistency_of_equal_maps_is_zero(batch):
    x, y = batch
    model = nn.Sequential(
        nn.Conv2d(3, 3, 1), nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)
    ).double()
    seen = class_map(model, x, y, layer=["1", "0"])
    assert losses.consistency(seen, None).total.item() == pytest.approx(0, abs=1e-15)
    seen = class_map(small_net(), x, y, layer=["2", "0"])
    a, b = (normalised(m).relu() for m in seen.by_layer.values())
    assert losses.consistency(seen).parts["0"].item() == pytest.approx(((a - b) ** 2).mean().item())


# -- any subset annotated ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["energy", "l1", "hint", "ppce", "scribble", "res"])
def test_mean_over_annotated_images_only(name):
    """Images without annotation change nothing, not even by NaN; weights are factors."""
    torch.manual_seed(0)
    maps = torch.randn(4, 6, 6, dtype=torch.float64)
    mask = torch.zeros(6, 6)
    mask[1:3, 2:5] = 1
    fn = losses.get(name)
    alone = [fn(maps[i : i + 1], mask[None]).total for i in (0, 2)]
    maps[1] = float("nan")
    both = fn(maps, [mask, None, mask, None])
    assert both.count == 2
    torch.testing.assert_close(both.total, (alone[0] + alone[1]) / 2)
    heavy = annotate(4, (6, 6), masks=[mask, None, mask, None], weights=[3.0, 1.0, 0.5, 1.0])
    torch.testing.assert_close(fn(maps, heavy).total, (3 * alone[0] + 0.5 * alone[1]) / 2)


@pytest.mark.parametrize("name", sorted(LOSSES.names()))
def test_nothing_annotated_is_zero_with_a_graph(name, batch):
    x, y = batch
    model = small_net()
    layer = ["2", "0"] if name == "consistency" else "2"
    seen = class_map(model, x, y, layer=layer, input_gradient=name == "rrr")
    options = {"adversary": ContextClassifier(3, 3).double()} if name == "box_adversary" else {}
    result = losses.get(name)(seen, None, **options)
    assert isinstance(result, LossParts)
    result.total.backward()
    torch.testing.assert_close(sum(result.parts.values()), result.total)
    if LOSSES.get(name).meta["annotated"]:
        assert result.count == 0
        assert result.total.item() == 0
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_a_live_scale_is_no_way_to_cheat():
    """Raising the largest value alone must not lower a loss through the normaliser."""
    maps = torch.tensor([[[1.0, 0.5]]], dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(normalised(maps)[0, 0, 1], maps)
    assert g[0, 0].tolist() == [0.0, 1.0]
    tiny = torch.full((1, 2, 2), 1e-16, requires_grad=True)
    (g,) = torch.autograd.grad(normalised(tiny).sum(), tiny)
    assert float(g.max()) == pytest.approx(1e3)
    with pytest.raises(ValueError, match="form"):
        positive_part(maps, "square")


def test_refusals(batch):
    x, y = batch
    maps = torch.randn(2, 4, 4)
    with pytest.raises(errors.GuidanceError, match="seen = guidance.class_map"):
        losses.gain(maps, None)
    with pytest.raises(errors.GuidanceError, match=r"maps are a float tensor \(B, h, w\)"):
        losses.energy(maps[0], None)
    with pytest.raises(errors.GuidanceError, match="did you mean 'energy'"):
        losses.get("enrgy")
    seen = class_map(small_net(), x, y, layer="2")
    with pytest.raises(errors.GuidanceError, match="input_gradient=True"):
        losses.rrr(seen, None)
    with pytest.raises(errors.GuidanceError, match="ContextClassifier\\(3, 3\\)"):
        losses.box_adversary(seen, None)
    with pytest.raises(errors.GuidanceError, match="layer=\\[deep, shallow\\]"):
        losses.consistency(seen, None)
