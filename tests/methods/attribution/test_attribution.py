"""Attributions against captum, identities, and slow computations written here."""

import copy
import itertools
import math
import warnings

import pytest
import torch
import torchvision.models as tv
from torch import nn
from torch.nn import functional as F

import attnviz
from attnviz.errors import AttnvizWarning, MethodError
from attnviz.methods import METHODS, Request
from attnviz.methods.altered import CPU_BUDGET, Passes
from attnviz.methods.twin import twin

NAMES = (
    "saliency smoothgrad input_x_gradient integrated_gradients gradient_shap guided_backprop "
    "guided_gradcam deeplift lrp jacobian fullgrad"
).split()
pytestmark = pytest.mark.filterwarnings(
    "ignore:Input Tensor 0 did not already", "ignore:Setting (backward|forward)"
)
captum = pytest.importorskip("captum.attr")


class Small(nn.Module):
    """Convolutions, a pool, ReLU modules; every module is used once."""

    def __init__(self, bias=True):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=bias), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 5, 3, padding=1, bias=bias), nn.ReLU(),
        )  # fmt: skip
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(5, 4, bias=bias)

    def forward(self, x):
        return self.head(self.pool(self.features(x)).flatten(1))


class Functional(Small):
    """The same by functions, in place, with one ReLU module used twice elsewhere."""

    def forward(self, x):
        f = self.features
        x = F.relu(f[0](x), inplace=True)
        x = f[3](F.max_pool2d(x, 2)).relu_()
        return self.head(x.mean((2, 3)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Small().double().eval()


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(2, 3, 12, 16, dtype=torch.float64)


def explain(model, x, method, **options):
    return attnviz.explain(model, x, method=method, **options)


def same(ours, theirs, rtol=1e-6):
    theirs = theirs.to(ours)  # captum goes through float32 in places
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol * float(theirs.abs().max()))


def test_the_family_is_registered():
    assert set(NAMES) <= set(METHODS.names("attribution"))


# -- captum's values ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Small, Functional])
def test_equal_captum(kind, x):
    torch.manual_seed(0)
    reference = Small().double().eval()
    model = kind().double().eval()
    model.load_state_dict(reference.state_dict())
    zero = torch.zeros_like(x)
    target = [1, 3]
    pairs = {
        "saliency": captum.Saliency(reference).attribute(x.clone(), target).amax(1),
        "input_x_gradient": captum.InputXGradient(reference).attribute(x.clone(), target).sum(1),
        "guided_backprop": captum.GuidedBackprop(reference).attribute(x.clone(), target).sum(1),
        "integrated_gradients": captum.IntegratedGradients(reference)
        .attribute(x, zero, target, n_steps=50).sum(1),
    }  # fmt: skip
    for name, want in pairs.items():
        got = explain(model, x, name, target=target)
        same(got.values, want.detach())
        assert got.layer == "input"


def test_deeplift_equals_captum_without_max_pools(x):
    torch.manual_seed(0)
    reference = Small().double().eval()
    reference.features[2] = nn.AvgPool2d(2)
    behind = 0.5 * torch.randn_like(x)
    want = captum.DeepLift(reference).attribute(x.clone(), behind, [1, 3]).sum(1)
    same(explain(reference, x, "deeplift", target=[1, 3], baseline=behind).values, want.detach())


def test_deeplift_at_a_max_pool_by_hand(x):
    """captum 0.9 gives the plain gradient where a max pool follows a ReLU, and is not complete."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 2, 3, padding=1)
    model = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = model.double().eval()
    x = x[:1]
    behind = 0.8 * torch.randn_like(x)
    got = explain(model, x, "deeplift", target=1, baseline=behind)
    with torch.no_grad():
        before = [conv(x)[0, 1], conv(behind)[0, 1]]
        after = [z.relu() for z in before]
        slope = torch.zeros_like(after[0])
        for i, j in itertools.product(range(6), range(8)):
            at = (slice(2 * i, 2 * i + 2), slice(2 * j, 2 * j + 2))
            above, below = (z[at].flatten() for z in after)
            most = max(above.max(), below.max())
            sent = torch.zeros(4, dtype=torch.float64)
            sent[above.argmax()] += most - below.max()
            sent[below.argmax()] += above.max() - most
            difference = above - below
            sent = torch.where(difference == 0, 0.0, sent / difference)
            slope[at] = sent.view(2, 2) / 48
        slope = slope * (after[0] - after[1]) / (before[0] - before[1])
        back = F.conv_transpose2d(slope[None, None], conv.weight[1:2], padding=1)
        torch.testing.assert_close(got.values, (back * (x - behind)).sum(1))


def test_lrp_is_captums_and_sums_to_the_score(x):
    torch.manual_seed(0)
    model = Small(bias=False).double().eval()
    want = captum.LRP(copy.deepcopy(model)).attribute(x.clone(), target=2).detach().sum(1)
    got = explain(model, x, "lrp", target=2)
    same(got.values, want)
    torch.testing.assert_close(got.values.sum((1, 2)), got.score, rtol=1e-4, atol=1e-6)


def test_lrp_passes_through_what_only_reshapes(x):
    """Flattening by a module and by a function is one thing; captum knows the function alone.

    So is what does nothing, alone or in a chain.
    """

    class Net(nn.Module):
        def __init__(self, flat):
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 4, 3, bias=False)
            self.fc = nn.Linear(4 * (x.shape[2] - 2) * (x.shape[3] - 2), 3, bias=False)
            self.flat, self.act = flat, nn.ReLU()

        def forward(self, x):
            return self.fc(self.flat(self.act(self.conv(x))))

    want = explain(Net(lambda a: a.flatten(1)).double().eval(), x, "lrp", target=1)
    got = explain(Net(nn.Flatten()).double().eval(), x, "lrp", target=1)
    torch.testing.assert_close(got.values, want.values)
    chain = nn.Sequential(nn.Identity(), nn.Dropout2d(), nn.Flatten(), nn.Identity())
    got = explain(Net(chain).double().eval(), x, "lrp", target=1)
    torch.testing.assert_close(got.values, want.values)


@pytest.mark.parametrize(("budget", "rows"), [(None, 4), (10**9, 100), (1, 1)])
def test_a_pass_with_a_graph_takes_a_few_copies_unless_memory_is_bounded(x, budget, rows):
    """A pixel's copy is small: many fit, and as few as the budget says."""
    passes = Passes(Request(nn.Identity(), x, len(x)), budget=budget)
    passes._each = CPU_BUDGET // 6 if budget is None else 10**9 // 400
    assert passes.graph_rows() == rows


def test_lrp_refuses_what_its_rules_do_not_cover(x):
    class Gelu(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.LazyLinear(3))

        def forward(self, x):
            return self.net(x)

    model = Gelu().double().eval()
    model(x)
    with pytest.raises(MethodError, match="does not cover"):
        explain(model, x, "lrp", target=1)
    with pytest.raises(MethodError, match="not conserved|does not cover"):
        explain(tv.resnet18(num_classes=3), torch.randn(1, 3, 64, 64), "lrp", target=1)


def test_guided_grad_cam_equals_captum_up_to_its_upsampling(model, x):
    layer = model.features[4]
    cam = captum.LayerGradCam(model, layer).attribute(x, 1, relu_attributions=True)
    cam = F.interpolate(cam, x.shape[2:], mode="bilinear")
    want = (captum.GuidedBackprop(model).attribute(x.clone(), 1) * cam).sum(1)
    same(explain(model, x, "guided_gradcam", target=1, layer="features.4").values, want.detach())


# -- identities ---------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["zero", "mean", "blur", "noise"])
def test_completeness(model, x, baseline):
    behind = attnviz.metrics.baseline(baseline, x, seed=3).values
    with torch.no_grad():
        wanted = (model(x) - model(behind))[:, 2]
    for name, options in (("integrated_gradients", {"steps": 2000}), ("deeplift", {})):
        got = explain(model, x, name, target=2, baseline=baseline, seed=3, **options)
        limit = 1e-4 * float(wanted.abs().max())
        assert (got.values.sum((1, 2)) - wanted).abs().max() < limit
        assert got.meta["convergence_delta"] < limit


def test_deeplift_is_complete_on_a_resnet_whose_relus_are_used_twice():
    torch.manual_seed(0)
    model = tv.resnet18(num_classes=5).eval()
    x = torch.randn(2, 3, 64, 64)
    got = explain(model, x, "deeplift", classes=[0, 3])
    with torch.no_grad():
        wanted = (model(x) - model(torch.zeros_like(x)))[:, [0, 3]].flatten()
    assert (got.values.sum((1, 2)) - wanted).abs().max() < 1e-4 * float(wanted.abs().max()) + 1e-6


def test_a_gap_is_warned_of(model, x):
    with pytest.warns(AttnvizWarning, match="miss the score difference"):
        got = explain(model, 3 * x, "integrated_gradients", target=2, steps=1)
    assert got.meta["convergence_delta"] > 0


def test_gradient_shap_is_complete_in_expectation_and_ig_for_a_fixed_baseline(model, x):
    got = explain(model, x, "gradient_shap", target=2, samples=3000, baseline="zero").values
    want = explain(model, x, "integrated_gradients", target=2, steps=2000).values
    assert (got - want).norm() < 0.02 * want.norm()
    got = explain(model, x, "gradient_shap", target=2, samples=2000).values
    behind = [attnviz.metrics.baseline("noise", x, seed=s).values for s in range(2000)]
    with torch.no_grad():
        below = torch.stack([model(b)[:, 2] for b in behind]).mean(0)
        wanted = model(x)[:, 2] - below
    torch.testing.assert_close(got.sum((1, 2)), wanted, rtol=0.05, atol=0.005)


def test_smoothgrad(model, x):
    options = {"samples": 5, "noise": 0.2, "seed": 2, "target": 1}
    spread = 0.2 * (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))[:, None, None, None]
    gradients = []
    for n in range(5):
        generator = torch.Generator().manual_seed(2 * 1_000_003 + n)
        noise = torch.randn(x.shape[1:], generator=generator).double()
        noisy = (x + spread * noise).requires_grad_()
        gradients.append(torch.autograd.grad(model(noisy)[:, 1].sum(), noisy)[0])
    g = torch.stack(gradients)
    wants = {"smoothgrad": g.mean(0).abs(), "squared": g.square().mean(0),
             "variance": g.var(0, correction=0)}  # fmt: skip
    for kind, want in wants.items():
        got = explain(model, x, "smoothgrad", kind=kind, **options).values
        torch.testing.assert_close(got, want.amax(1), rtol=1e-6, atol=1e-12)
    plain = explain(model, x, "smoothgrad", samples=1, noise=0.0, target=1).values
    torch.testing.assert_close(plain, explain(model, x, "saliency", target=1).values)


def test_jacobian(model, x):
    full = torch.autograd.functional.jacobian(lambda z: model(z).sum(0), x)  # (4, 2, 3, 12, 16)
    want = full.square().sum((0, 2)).sqrt()
    got = explain(model, x, "jacobian", samples=None)
    torch.testing.assert_close(got.values, want)
    assert got.meta["class_specific"] is False
    same(explain(model, x, "jacobian", samples=3).values.pow(2).mean(), want.pow(2).mean(), 0.8)
    wide = nn.Sequential(model, nn.Linear(4, 300)).double().eval()
    exact = explain(wide, x, "jacobian", samples=None).values
    rough = explain(wide, x, "jacobian", samples=250, seed=1).values
    assert (rough - exact).norm() < 0.15 * exact.norm()


def test_guided_backprop_refuses_networks_without_relus(x):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(MethodError, match="no ReLU ran"):
        explain(model.double().eval(), x, "guided_backprop", target=1)


# -- FullGrad -----------------------------------------------------------------------------------


def test_full_grad_is_complete_on_a_resnet():
    torch.manual_seed(0)
    model = tv.resnet18(num_classes=5).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.normal_(module.bias, std=0.1)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    got = explain(model, x, "fullgrad", classes=[0, 3], rescale=False)
    assert got.meta["convergence_delta"] < 1e-9
    # the head's bias has no place in the map
    bias = model.fc.bias.detach()[[0, 3]].repeat(2)
    torch.testing.assert_close(got.values.sum((1, 2)) + bias, got.score)


def test_full_grad_by_hand(x):
    """One convolution of kernel 1, a ReLU, a mean: every term is known."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = model.double().eval()
    got = explain(model, x, "fullgrad", target=1, layer=None).values
    with torch.no_grad():
        weight, bias = model[0].weight[1, :, 0, 0], model[0].bias[1]
        on = (model[0](x)[:, 1] > 0).double() / (12 * 16)
        parts = [(x * weight[:, None, None] * on[:, None]).abs(), (bias * on).abs()[:, None]]
        want = sum(
            (p / p.amax((1, 2, 3), keepdim=True)).sum(1)
            for p in (q - q.amin((1, 2, 3), keepdim=True) for q in parts)
        )
    torch.testing.assert_close(got, want)


def test_full_grad_says_where_the_identity_does_not_hold():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.warns(AttnvizWarning, match="miss the score"):
        explain(model.eval(), torch.randn(1, 3, 9, 9), "fullgrad", target=1)


# -- Shapley values and LIME --------------------------------------------------------------------


def cells_of(maps, cell):
    return F.avg_pool2d(maps[:, None], cell)[:, 0].flatten(1) * cell * cell


def test_kernel_shap_of_few_cells_is_exact(model, x):
    """Against the definition: 6 cells of 6 x 6 pixels (the last column's are 6 x 4)."""
    x = x[..., :18] if x.shape[-1] >= 18 else F.pad(x, (0, 2))
    got = explain(model, x, "kernel_shap", target=1, cell=6, samples=62, baseline="zero").values
    label = (torch.arange(12)[:, None] // 6) * 3 + torch.arange(18) // 6

    def value(players):
        keep = torch.zeros(12, 18, dtype=torch.bool)
        for p in players:
            keep |= label == p
        with torch.no_grad():
            return model(x * keep)[:, 1]

    values = {frozenset(s): value(s) for r in range(7) for s in itertools.combinations(range(6), r)}
    for player in range(6):
        shapley = 0.0
        for s, v in values.items():
            if player not in s:
                share = math.factorial(len(s)) * math.factorial(5 - len(s)) / math.factorial(6)
                shapley += share * (values[s | {player}] - v)
        torch.testing.assert_close(cells_of(got, 6)[:, player], shapley)


class Additive(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("weight", torch.randn(1, 12, 16, dtype=torch.float64))

    def forward(self, x):
        score = (x * self.weight).sum((1, 2, 3))
        return torch.stack([score, -score], 1)


def test_sampled_shapley_values_and_lime_on_an_additive_model(x):
    model = Additive()
    want = cells_of((x * model.weight).sum(1), 4)
    shap = explain(model, x, "kernel_shap", classes=[0, 1], cell=4, baseline="zero", samples=100)
    torch.testing.assert_close(cells_of(shap.values[0::2], 4), want)
    torch.testing.assert_close(cells_of(shap.values[1::2], 4), -want)
    lime = explain(model, x, "lime", target=0, cell=4, baseline="zero", ridge=0.0, samples=100)
    torch.testing.assert_close(cells_of(lime.values, 4), want)


def test_lime_equals_weighted_ridge_regression(model, x):
    linear = pytest.importorskip("sklearn.linear_model")
    got = explain(model, x, "lime", target=1, cell=4, baseline="zero", samples=60, seed=5).values
    shown = torch.rand(60, 12, generator=torch.Generator().manual_seed(5)) < 0.5
    shown[0] = True
    label = (torch.arange(12)[:, None] // 4) * 4 + torch.arange(16) // 4
    cosine = F.cosine_similarity(shown.double(), torch.ones(1, 12).double())
    weight = torch.exp(-((1 - cosine) ** 2) / 0.25**2)
    for i in range(2):
        with torch.no_grad():
            scores = model(x[i] * shown[:, label][:, None])[:, 1]
        ridge = linear.Ridge(alpha=1.0).fit(shown.numpy(), scores.numpy(), weight.numpy())
        torch.testing.assert_close(
            cells_of(got, 4)[i], torch.from_numpy(ridge.coef_), rtol=1e-6, atol=1e-9
        )


# -- what holds for all -------------------------------------------------------------------------


def quiet(fn):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttnvizWarning)
        return fn()


@pytest.mark.parametrize("name", NAMES)
def test_batches_of_any_size_give_one_map(name, x):
    torch.manual_seed(0)
    model = Small(bias=name != "lrp").double().eval()
    few = quiet(lambda: explain(model, x, name, classes=[1, 2], budget=1).values)
    many = quiet(lambda: explain(model, x, name, classes=[1, 2], budget=10**9).values)
    torch.testing.assert_close(few, many, rtol=1e-5, atol=1e-8)
    alone = quiet(lambda: explain(model, x, name, target=2).values)
    torch.testing.assert_close(many[1::2], alone, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_left_alone(name, x):
    torch.manual_seed(0)
    model = Small(bias=name != "lrp").double().train()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    model.features[0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    names = [set(vars(m)) for m in model.modules()]
    random = torch.get_rng_state()
    x.requires_grad_(False)

    class Boom(Exception):
        pass

    def boom(logits):
        if len(runs):
            raise Boom
        runs.append(1)
        return logits[:, 0]

    quiet(lambda: explain(model, x, name, target=1))
    runs = []
    if name != "jacobian":  # which never asks for a score again
        with pytest.raises(Boom):
            quiet(lambda: explain(model, x, name, target=boom))
    assert all(m.training for m in model.modules())
    assert [set(vars(m)) for m in model.modules()] == names
    for module in model.modules():
        assert not {**module._forward_hooks, **module._backward_hooks, **module._forward_pre_hooks}
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * (
        len(list(model.parameters())) - 1
    )
    assert not x.requires_grad
    assert torch.equal(torch.get_rng_state(), random)


def test_a_twin_shares_the_weights_and_nothing_else(model):
    copied = twin(model)
    assert copied.head.weight.data_ptr() == model.head.weight.data_ptr()
    assert not any(p.requires_grad for p in copied.parameters())
    assert all(p.requires_grad for p in model.parameters())
    own = twin(model, share=False)
    own.head.weight.data.zero_()
    assert model.head.weight.abs().sum() > 0


def test_options_out_of_range(model, x):
    for name, options in (
        ("smoothgrad", {"kind": "x"}), ("smoothgrad", {"noise": -1.0}),
        ("integrated_gradients", {"steps": 0}), ("integrated_gradients", {"baseline": "imputed"}),
        ("gradient_shap", {"samples": 0}), ("jacobian", {"samples": 0}), ("lime", {"width": 0}),
        ("kernel_shap", {"cell": 99}), ("saliency", {"signed": True}), ("saliency", {"steps": 2}),
    ):  # fmt: skip
        with pytest.raises(MethodError):
            explain(model, x, name, target=1, **options)


def test_the_gap_is_the_largest_of_all_batches(model, x):
    gaps = [explain(model, x[i : i + 1], "integrated_gradients", target=2) for i in range(2)]
    both = explain(model, x, "integrated_gradients", target=2, batch_size=1)
    assert both.meta["convergence_delta"] == max(g.meta["convergence_delta"] for g in gaps)


def of_rank(rank):
    """A small network of signals (1) or volumes (3), and a batch for it."""
    torch.manual_seed(0)
    conv, pool, mean = (getattr(nn, f"{n}{rank}d") for n in ("Conv", "MaxPool", "AdaptiveAvgPool"))
    net = nn.Sequential(
        conv(2, 4, 3, padding=1, bias=False), nn.ReLU(), pool(2),
        conv(4, 5, 3, padding=1, bias=False), nn.ReLU(), mean(1), nn.Flatten(),
        nn.Linear(5, 3, bias=False),
    )  # fmt: skip
    return net.double().eval(), torch.randn(2, 2, *{1: (32,), 3: (6, 8, 10)}[rank]).double()


@pytest.mark.parametrize("rank", [1, 3])
def test_signals_and_volumes_are_attributed_as_captum_does(rank):
    model, x = of_rank(rank)
    ask = dict(target=1)
    wanted = {
        "saliency": captum.Saliency(model).attribute(x.clone(), **ask).amax(1),
        "input_x_gradient": captum.InputXGradient(model).attribute(x.clone(), **ask).sum(1),
        "integrated_gradients": captum.IntegratedGradients(model).attribute(x, **ask).sum(1),
        "guided_backprop": captum.GuidedBackprop(copy.deepcopy(model))
        .attribute(x.clone(), **ask).sum(1),
        "occlusion": None,
    }  # fmt: skip
    for name, want in wanted.items():
        got = explain(model, x, name, **ask)
        assert got.values.shape == (2, *x.shape[2:]), name
        if want is not None:
            same(got.values, want.detach().abs() if name == "saliency" else want.detach())
    single = explain(model, x, "occlusion", window=1, stride=1, **ask).values
    place = (3,) * rank
    covered = x.clone()
    covered[(..., *place)] = 0
    with torch.no_grad():
        torch.testing.assert_close(single[(..., *place)], (model(x) - model(covered))[:, 1])
    torch.testing.assert_close(
        explain(model, x, "lrp", **ask).values.sum(tuple(range(1, rank + 1))),
        model(x)[:, 1].detach(), rtol=1e-4, atol=1e-6,
    )  # fmt: skip
    for behind in ("zero", "blur", "mean", "noise"):
        got = explain(model, x, "deeplift", baseline=behind, **ask)
        assert got.meta["convergence_delta"] < 1e-12
