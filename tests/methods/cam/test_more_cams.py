"""CAMs that run the model themselves, or read several layers: hand values, identities, peers."""

import copy

import pytest
import torch
import torchvision.models as tv
from torch import nn
from torch.nn import functional as F

import attnviz
from attnviz.errors import MethodError, TargetError
from attnviz.methods import METHODS, Request
from attnviz.methods.cam._run import read_own
from attnviz.methods.cam._stages import stages
from attnviz.methods.cam.shapleycam import shapley_gradient

OWN = ["finercam", "shapleycam", "smoothgradcam++", "refinecam", "layercam_fused"]


class Net(nn.Module):
    """Three stages of three resolutions; the head is curved or linear in the last average."""

    def __init__(self, curved=True):
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(4, 5, 3, 2, 1), nn.ReLU())
        self.c = nn.Sequential(nn.Conv2d(5, 6, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(6, 4)
        self.curved = curved

    def forward(self, x):
        z = self.c(self.b(self.a(x))).mean((2, 3))
        return self.head(torch.tanh(4 * z) if self.curved else z)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net().double().eval()


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(2, 3, 24, 32, dtype=torch.float64)


def explain(model, x, method, **options):
    return attnviz.explain(model, x, method=method, **options)


def fn(name):
    return METHODS.get(name).fn


# -- of one activation --------------------------------------------------------------------------


def test_fem_by_hand():
    activation = torch.zeros(1, 2, 2, 4, dtype=torch.float64)
    activation[0, 0, 0, 0] = 8.0  # mean 1, deviation sqrt(7): only this one is marked
    activation[0, 1] = 3.0  # constant: marks nothing
    want = torch.zeros(1, 2, 4, dtype=torch.float64)
    want[0, 0, 0] = 1.0
    torch.testing.assert_close(fn("fem")(activation, sigmas=2.0), want)


@pytest.mark.parametrize("kernel", ["sigmoid", "rbf", "linear"])
def test_kpca_cam_equals_scikit_learn(kernel):
    decomposition = pytest.importorskip("sklearn.decomposition")
    torch.manual_seed(0)
    activation = torch.randn(2, 7, 3, 4, dtype=torch.float64)
    got = fn("kpcacam")(activation, kernel=kernel)
    for i in range(2):
        rows = activation[i].flatten(1).T
        rows = rows - rows.mean(0)
        want = decomposition.KernelPCA(1, kernel=kernel).fit_transform(rows.numpy())[:, 0]
        want = torch.from_numpy(want).view(3, 4)
        level = activation[i].mean(0)
        if (want * (level - level.mean())).sum() < 0:
            want = -want
        torch.testing.assert_close(got[i], want)


# -- ShapleyCAM ---------------------------------------------------------------------------------


def test_shapley_cam_equals_grad_cam_where_the_score_is_linear(x):
    torch.manual_seed(0)
    model = Net(curved=False).double().eval()
    want = explain(model, x, "gradcam", classes=[0, 2], layer="c")
    got = explain(model, x, "shapleycam", classes=[0, 2], layer="c")
    torch.testing.assert_close(got.values, want.values)
    torch.testing.assert_close(got.score, want.score)


def test_shapley_cam_by_the_hessian(model, x):
    """The Hessian of the tail, written down in full."""
    got = explain(model, x, "shapleycam", target=1, layer="c", signed=True).values
    with torch.no_grad():
        activation = model.c(model.b(model.a(x)))

    def tail(a):
        return model.head(torch.tanh(4 * a.mean((1, 2))))[1]

    for i in range(2):
        a = activation[i]
        gradient = torch.autograd.functional.jacobian(tail, a)
        hessian = torch.autograd.functional.hessian(tail, a).reshape(a.numel(), a.numel())
        weight = gradient - (hessian @ a.flatten()).view_as(a) / 2
        want = (weight.mean((1, 2), keepdim=True) * a).sum(0)
        torch.testing.assert_close(got[i], want)
    assert (got - explain(model, x, "gradcam", target=1, layer="c", signed=True).values).norm() > 0


def test_the_elements_of_a_quadratic_score_get_their_shapley_values():
    class Quadratic(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a = nn.Conv2d(1, 2, 1, dtype=torch.float64)
            self.q = nn.Parameter(torch.randn(4, 4, dtype=torch.float64))

        def forward(self, x):
            v = self.a(x).flatten(1)
            score = torch.einsum("bi,ij,bj->b", v, self.q, v) + 3 * v.sum(1)
            return torch.stack([score, -score], 1)

    model = Quadratic().eval()
    x = torch.rand(1, 1, 1, 2, dtype=torch.float64)
    done = read_own(Request(model, x, 1, target=0, layers=["a"], create_graph=True))
    a = done.activations["a"].detach().flatten()
    got = a * shapley_gradient(done, 0)["a"].flatten()

    def value(members):
        v = torch.zeros(4, dtype=torch.float64)
        v[list(members)] = a[list(members)]
        return v @ model.q @ v + 3 * v.sum()

    from itertools import permutations

    want = torch.zeros(4, dtype=torch.float64)
    for order in permutations(range(4)):
        for n, player in enumerate(order):
            want[player] += (value(order[: n + 1]) - value(order[:n])).detach() / 24
    torch.testing.assert_close(got, want)


def test_shapley_cam_behind_a_transformer_runs_without_the_prefix():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3, num_classes=5).eval()
    x = torch.randn(1, 3, 64, 64)
    got = explain(vit, x, "shapleycam", target=1)
    assert got.values.shape == (1, 4, 4)
    assert got.values.isfinite().all()


# -- Finer-CAM ----------------------------------------------------------------------------------


def test_finer_cam_is_the_cam_of_a_weighted_difference(model, x):
    logits = model(x).detach()
    got = explain(model, x, "finercam", target=1, layer="c", similar=2, gamma=0.6)

    def difference(out):
        picked = []
        for i in range(2):
            others = [k for k in range(4) if k != 1]
            others.sort(key=lambda k: abs(float(logits[i, k] - logits[i, 1])))
            picked.append(out[i, 1] - 0.6 * out[i, others[:2]].mean())
        return torch.stack(picked)

    want = explain(model, x, "gradcam", target=difference, layer="c")
    torch.testing.assert_close(got.values, want.values)
    torch.testing.assert_close(got.score, want.score)
    assert got.target == (1, 1)
    one = explain(model, x[:1], "finercam", target=0, layer="c", similar=1, gamma=1.0)
    rival = min((1, 2, 3), key=lambda k: abs(float(logits[0, k] - logits[0, 0])))
    contrast = explain(model, x[:1], "gradcam", target=attnviz.Contrast(0, rival), layer="c")
    torch.testing.assert_close(one.values, contrast.values)


def test_finer_cam_without_comparison_is_its_base(model, x):
    for base in ("gradcam", "layercam"):
        got = explain(model, x, "finercam", classes=[0, 3], layer="b", gamma=0.0, base=base)
        want = explain(model, x, base, classes=[0, 3], layer="b")
        torch.testing.assert_close(got.values, want.values)


# -- Smooth Grad-CAM++ --------------------------------------------------------------------------


def test_smooth_grad_cam_pp(model, x):
    still = explain(model, x, "smoothgradcam++", classes=[0, 2], layer="b", noise=0.0, samples=2)
    want = explain(model, x, "gradcam++", classes=[0, 2], layer="b")
    torch.testing.assert_close(still.values, want.values)
    got = explain(model, x, "smoothgradcam++", target=2, layer="b", noise=0.3, samples=3, seed=5)
    spread = 0.3 * (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))[:, None, None, None]
    gradients = []
    for n in range(3):
        generator = torch.Generator().manual_seed(5 * 1_000_003 + n)
        noisy = x + spread * torch.randn(x.shape[1:], generator=generator).double()
        a = model.b(model.a(noisy)).detach().requires_grad_()
        score = model.head(torch.tanh(4 * model.c(a).mean((2, 3))))[:, 2].sum()
        gradients.append(torch.autograd.grad(score, a)[0])
    g = torch.stack(gradients)
    with torch.no_grad():
        a = model.b(model.a(x))
        second, third = g.square().mean(0), g.pow(3).mean(0)
        below = 2 * second + a.sum((2, 3), keepdim=True) * third
        alpha = torch.where(below == 0, 0.0, second / torch.where(below == 0, 1.0, below))
        weight = (alpha * g.mean(0).relu()).sum((2, 3), keepdim=True)
        torch.testing.assert_close(got.values, (weight * a).sum(1).relu())


def test_the_target_of_noisy_pictures_is_that_of_the_picture(model, x):
    got = explain(model, x, "smoothgradcam++", layer="c", noise=5.0)
    assert got.target == tuple(model(x).argmax(1).tolist())


# -- several layers -----------------------------------------------------------------------------


def test_stages_are_the_last_layers_of_every_resolution(model, x):
    assert stages(Request(model, x, 2)) == ["c", "b", "a"]
    resnet = tv.resnet18(num_classes=3).eval()
    x = torch.randn(1, 3, 64, 64)
    names = stages(Request(resnet, x, 1, input_size=(64, 64)))
    assert names == ["layer4", "layer3", "layer2", "layer1", "relu"]


def each(model, x, base):
    names = ["c", "b", "a"]
    maps = explain(model, x, base, target=1, layer=names)
    return [maps[n].values.relu() for n in names]


def one(maps):
    return maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-30)


def up(maps):
    return F.interpolate(maps[:, None], (12, 16), mode="bilinear")[:, 0]


def test_refine_cam_is_the_product(model, x):
    got = explain(model, x, "refinecam", target=1)
    want = torch.stack([up(one(m)) for m in each(model, x, "gradcam++")]).prod(0)
    torch.testing.assert_close(got.values, want)
    assert got.values.shape == (2, 12, 16)
    assert got.layer == "c x b x a"
    alone = explain(model, x, "refinecam", target=1, layer="c", base="layercam")
    torch.testing.assert_close(alone.values, one(each(model, x, "layercam")[0]))


def test_fused_layer_cam_is_the_maximum(model, x):
    got = explain(model, x, "layercam_fused", target=1)
    coarse, *fine = each(model, x, "layercam")
    want = [up(one(coarse)), *(up(torch.tanh(2 * one(m))) for m in fine)]
    torch.testing.assert_close(got.values, torch.stack(want).amax(0))


# -- segmentation -------------------------------------------------------------------------------


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.head = nn.Conv2d(6, 3, 3, 1, 1)

    def forward(self, x):
        return self.head(self.encoder(x))


def test_seg_grad_cam(x):
    torch.manual_seed(0)
    model = Dense().double().eval()
    inside = model(x).argmax(1) == 1
    assert inside.flatten(1).any(1).all()
    want = explain(
        model, x, "gradcam", layer="encoder",
        target=lambda out: (out[:, 1] * inside).sum((1, 2)),
    )  # fmt: skip
    got = explain(model, x, "seggradcam", target=1, layer="encoder")
    torch.testing.assert_close(got.values, want.values)
    assert got.target == (1, 1)
    region = attnviz.RegionTarget(1, inside)
    mean = explain(model, x, "seggradcam", target=region, layer="encoder").values
    torch.testing.assert_close(mean * inside.sum((1, 2))[:, None, None], want.values)
    with pytest.raises(MethodError, match="needs a target"):
        explain(model, x, "seggradcam", layer="encoder")
    with pytest.raises(TargetError, match="for a classifier use gradcam"):
        explain(Net().double().eval(), x, "seggradcam", target=1, layer="c")
    with torch.no_grad():
        model.head.bias[2] = -1e3
    with pytest.raises(TargetError, match="predicted nowhere"):
        explain(model, x, "seggradcam", target=2, layer="encoder")


# -- what holds for all -------------------------------------------------------------------------


@pytest.mark.parametrize("name", OWN)
def test_the_model_is_left_alone(name, model, x):
    model.train()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    explain(model, x, name, target=1)
    assert all(m.training for m in model.modules())
    assert not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_they_run_beside_others_and_give_logits(model, x):
    names = ["gradcam", "shapleycam", "finercam"]
    got = explain(model, x, names, classes=[0, 1], layer="c")
    assert list(got) == names
    for name in names:
        alone = explain(model, x, name, classes=[0, 1], layer="c")
        torch.testing.assert_close(got[name].values, alone.values)
        assert got[name].probability is not None


def test_options_out_of_range(model, x):
    for name, options in (
        ("finercam", {"similar": 0}), ("finercam", {"base": "eigencam"}),
        ("finercam", {"target": lambda out: out[:, 0]}), ("smoothgradcam++", {"samples": 0}),
        ("refinecam", {"base": "rise"}), ("refinecam", {"signed": True}),
        ("kpcacam", {"kernel": "x"}), ("shapleycam", {"create_graph": True}),
    ):  # fmt: skip
        with pytest.raises((MethodError, TargetError)):
            explain(model, x, name, **({"target": 1} | options))


def test_training_takes_functions_of_activation_and_gradient_only(model, x):
    with pytest.raises(MethodError, match="no function of activation"):
        attnviz.guidance.class_map(model, x, 1, method="refinecam", layer="c")
