"""Perturbation methods against slow loops written here, peers, and identities."""

import copy
import warnings

import pytest
import timm
import torch
import torchvision.models as tv
from torch import nn
from torch.nn import functional as F

import attnviz
from attnviz.errors import AttnvizWarning, MethodError, TargetError
from attnviz.methods import METHODS
from attnviz.methods.altered import Passes
from attnviz.methods.perturbation.extremal import SmoothMask
from attnviz.methods.perturbation.rise import shown_parts
from attnviz.methods.perturbation.tail import Tail
from attnviz.methods.progress import watched
from attnviz.methods.request import Request

NAMES = "scorecam sscam iscam ablationcam groupcam rise extremal occlusion lime kernel_shap".split()
QUICK = {"rise": {"masks": 20}, "lime": {"samples": 20}, "kernel_shap": {"samples": 20},
         "extremal": {"steps": 3}, "sscam": {"samples": 2}, "iscam": {"samples": 2}}  # fmt: skip


class Small(nn.Module):
    """Two convolutions and a head that is not linear in the average."""

    def __init__(self, linear=False):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(inplace=True),
                                      nn.Conv2d(6, 5, 3, 1, 1), nn.ReLU())  # fmt: skip
        nn.init.constant_(self.features[2].bias, 0.3)  # every channel is active somewhere
        self.head = nn.Linear(5, 4)
        self.linear = linear

    def forward(self, x):
        a = self.features(x).mean((2, 3))
        return self.head(a if self.linear else torch.tanh(a * 3))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Small().double().eval()


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.rand(2, 3, 12, 16, dtype=torch.float64)


def explain(model, x, method, **options):
    return attnviz.explain(model, x, method=method, **options).values


# -- slow loops ---------------------------------------------------------------------------------


def slow_masks(activation, size):
    up = F.interpolate(activation, size, mode="bilinear", align_corners=False)
    low, high = up.amin((2, 3), keepdim=True), up.amax((2, 3), keepdim=True)
    return (up - low) / (high - low)


def slow_score_cam(model, x, cls, strengths=(1.0,)):
    with torch.no_grad():
        activation = model.features(x)
        masks = slow_masks(activation, x.shape[2:])
        maps = []
        for i in range(len(x)):
            alive = [k for k in range(masks.shape[1]) if not masks[i, k].isnan().any()]
            gains = torch.stack([
                torch.stack([model(x[i : i + 1] * s * masks[i, k])[0, cls] for s in strengths])
                .mean() for k in alive
            ])  # fmt: skip
            weights = gains.softmax(0)
            maps.append(sum(w * activation[i, k] for w, k in zip(weights, alive, strict=True)))
        return torch.stack(maps).relu()


def test_score_cam(model, x):
    with torch.no_grad():
        model.features[2].bias[1] = -50  # a channel that is nowhere active
    got = explain(model, x, "scorecam", classes=[0, 3], layer="features")
    torch.testing.assert_close(got[0::2], slow_score_cam(model, x, 0))
    torch.testing.assert_close(got[1::2], slow_score_cam(model, x, 3))


def test_is_cam(model, x):
    got = explain(model, x, "iscam", target=1, layer="features", samples=4)
    torch.testing.assert_close(got, slow_score_cam(model, x, 1, (0.25, 0.5, 0.75, 1.0)))


def test_score_cam_is_is_cam_of_one_step_and_ss_cam_without_noise(model, x):
    want = explain(model, x, "scorecam", target=1, layer="features")
    one = explain(model, x, "iscam", target=1, layer="features", samples=1)
    torch.testing.assert_close(one, want, rtol=0, atol=0)
    for where in ("activation", "input"):
        still = explain(
            model, x, "sscam", target=1, layer="features", noise=0.0, samples=3, where=where
        )
        torch.testing.assert_close(still, want)


@pytest.mark.parametrize("where", ["activation", "input"])
def test_ss_cam(model, x, where):
    samples, noise = 3, 0.5
    got = explain(model, x, "sscam", target=2, layer="features", samples=samples, noise=noise,
                  where=where, seed=4)  # fmt: skip
    with torch.no_grad():
        activation = model.features(x)
        for i in range(len(x)):
            gains = []
            for k in range(5):
                total = torch.zeros(()).double()
                for s in range(samples):
                    job = 4 * 1_000_003 + k * samples + s
                    generator = torch.Generator().manual_seed(job)
                    a, shape = activation[i : i + 1, k : k + 1], x[i : i + 1].shape
                    if where == "activation":
                        drawn = torch.randn(a.shape[1:], generator=generator)[None]
                        a = a + noise * drawn.double()
                    seen = x[i : i + 1] * slow_masks(a, x.shape[2:])
                    if where == "input":
                        seen = seen + noise * torch.randn(shape, generator=generator).double()
                    total += model(seen)[0, 2] / samples
                gains.append(total)
            want = (torch.stack(gains).softmax(0)[:, None, None] * activation[i]).sum(0).relu()
            torch.testing.assert_close(got[i], want)


def test_group_cam(model, x):
    a, g = [], []

    def keep(module, args, out):
        a.append(out)
        out.register_hook(g.append)

    handle = model.features.register_forward_hook(keep)
    model(x)[:, 3].sum().backward()
    handle.remove()
    model.zero_grad()
    activation, channels = a[0].detach(), (g[0].mean((2, 3), keepdim=True) * a[0]).detach()
    behind = attnviz.metrics.blur(x)
    maps = torch.zeros(2, 6, 8, dtype=torch.float64)
    with torch.no_grad():
        for i in range(2):
            for part in ([0, 1], [2, 3], [4]):
                mask = channels[i, part].sum(0).relu()
                mask = torch.where(mask >= mask.flatten().quantile(0.6), mask, 0.0)
                if mask.max() == mask.min():
                    continue
                mask = (mask - mask.min()) / (mask.max() - mask.min())
                up = F.interpolate(mask[None, None], x.shape[2:], mode="bilinear")[0, 0]
                seen = x[i] * up + behind[i] * (1 - up)
                gain = model(seen[None])[0, 3] - model(behind[i : i + 1])[0, 3]
                maps[i] += gain * mask
    got = explain(model, x, "groupcam", target=3, layer="features", groups=3, quantile=0.6)
    torch.testing.assert_close(got, maps.relu())
    assert activation.shape[1] == 5


def test_rise(model, x):
    got = explain(model, x, "rise", classes=[0, 2], masks=40, cells=3, keep=0.4, seed=7)
    generator = torch.Generator().manual_seed(7)
    grids = torch.rand(40, 4, 4, generator=generator) < 0.4
    shifts = torch.rand(40, 2, generator=generator)
    for i in range(2):
        for n, cls in enumerate((0, 2)):
            total, weight, mean = 0.0, 0.0, 0.0
            for grid, shift in zip(grids, shifts, strict=True):
                up = F.interpolate(grid[None, None].float(), (16, 24), mode="bilinear")[0, 0]
                top, left = int(shift[0] * 4), int(shift[1] * 6)
                mask = up[top : top + 12, left : left + 16].double()
                with torch.no_grad():
                    score = model(x[i : i + 1] * mask)[0, cls]
                total, weight, mean = total + score * mask, weight + mask, mean + score / 40
            torch.testing.assert_close(got[2 * i + n], total / weight - mean)


def test_rise_masks_show_the_share_asked_for():
    generator = torch.Generator().manual_seed(0)
    grids = torch.rand(400, 8, 8, generator=generator) < 0.3
    shown = shown_parts(grids, torch.rand(400, 2, generator=generator), 7, (30, 50))
    assert shown.shape == (400, 30, 50)
    assert shown.min() >= 0
    assert shown.max() < 1 + 1e-6
    assert (shown.mean(0) - 0.3).abs().max() < 0.1


def test_occlusion_equals_captum(model, x):
    captum = pytest.importorskip("captum.attr")
    want = captum.Occlusion(model).attribute(
        x, sliding_window_shapes=(3, 4, 4), strides=(3, 2, 2), target=1
    )
    got = explain(model, x, "occlusion", target=1, window=4, stride=2)
    torch.testing.assert_close(got.float(), want[:, 0].float(), rtol=1e-5, atol=1e-7)


def test_occlusion_covers_every_pixel_and_is_exact_on_a_linear_model():
    torch.manual_seed(0)
    weight = torch.randn(1, 10, 13, dtype=torch.float64)

    class Linear(nn.Module):
        def forward(self, x):
            return (x * weight).sum((1, 2, 3))[:, None]

    x = torch.rand(1, 1, 10, 13, dtype=torch.float64)
    got = explain(Linear(), x, "occlusion", target=lambda y: y[:, 0], window=1, stride=1)
    torch.testing.assert_close(got, (x * weight)[:, 0])
    wide = explain(Linear(), x, "occlusion", target=lambda y: y[:, 0], window=4, stride=3)
    assert wide.isfinite().all()


# -- Ablation-CAM -------------------------------------------------------------------------------


def slow_ablation(model, x, layer, cls, ablate):
    """Whole passes with a hook that empties one channel."""
    with torch.no_grad():
        scores = model(x)[:, cls]
        drops, state = [], {}

        def empty(module, args, out):
            state["raw"] = out.clone()
            if state["k"] is None:
                return None
            out = out.clone()
            ablate(out, state["k"])
            return out

        handle = model.get_submodule(layer).register_forward_hook(empty)
        state["k"] = None
        model(x)
        activation = state["raw"]
        for k in range(activation.shape[1] if activation.ndim == 4 else activation.shape[2]):
            state["k"] = k
            drops.append(scores - model(x)[:, cls])
        handle.remove()
    return torch.stack(drops, 1), activation


def first(out, k):
    out[:, k] = 0


def patches(out, k):
    out[:, 1:, k] = 0


def test_ablation_cam_on_a_linear_head_is_read_off():
    torch.manual_seed(0)
    model = Small(linear=True).double().eval()
    x = torch.rand(2, 3, 12, 16, dtype=torch.float64)
    runs = []
    handle = model.register_forward_hook(lambda *args: runs.append(1))
    got = explain(model, x, "ablationcam", classes=[0, 2], layer="features", signed=True)
    handle.remove()
    assert len(runs) == 1
    for n, cls in enumerate((0, 2)):
        drops, activation = slow_ablation(model, x, "features", cls, first)
        want = (drops[:, :, None, None] * activation).sum(1)
        torch.testing.assert_close(got[n::2], want)


MODELS = {
    "small": (lambda: Small(), "features", first),
    "inside a sequence": (lambda: Small(), "features.2", first),
    "resnet18": (lambda: tv.resnet18(num_classes=5), "layer3", first),
    "within a block": (lambda: tv.resnet18(num_classes=5), "layer3.1.conv1", first),
    "densenet": (lambda: tv.DenseNet(8, (2, 2), 8, num_classes=4),
                 "features.denseblock1.denselayer1", first),
    "vit": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3, num_classes=4),
            "blocks.1.norm1", patches),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_ablation_cam_runs_the_tail_only(name):
    factory, layer, ablate = MODELS[name]
    torch.manual_seed(0)
    model = factory().eval()
    x = torch.rand(2, 3, 64, 64)
    passes = Passes(Request(model, x, 2, target=1)).first()
    group = passes.groups()[0]
    tail = Tail(model, layer, group.inputs)
    assert tail.cheap
    with torch.no_grad():  # the layer's own activation gives the model's own output
        drops, activation = slow_ablation(model, x, layer, 1, ablate)
        torch.testing.assert_close(tail(activation[:1]), model(x[:1]), rtol=1e-4, atol=1e-5)
    got = explain(model, x, "ablationcam", target=1, layer=layer, signed=True)
    if activation.ndim == 3:
        activation = activation[:, 1:].unflatten(1, got.shape[1:]).permute(0, 3, 1, 2)
    want = (drops[:, :, None, None] * activation).sum(1)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=2e-5 * float(want.abs().max()) + 1e-6)


class Skips(nn.Module):
    """In-place code between modules, a module used before and behind the layer."""

    def __init__(self, copies=True):
        super().__init__()
        self.stem, self.mid, self.end = (nn.Conv2d(i, 4, 3, 1, 1) for i in (3, 4, 4))
        self.head = nn.Linear(4, 3)
        self.lock = None if copies else (n for n in range(3))  # a generator can't be copied

    def forward(self, x):
        early = self.stem(x)
        early += 0.5
        late = self.end(torch.relu_(self.mid(early)))
        late += self.stem(x) * early
        return self.head(torch.tanh(late.mean((2, 3))))


@pytest.mark.parametrize("copies", [True, False])
def test_ablation_cam_with_code_between_modules(copies):
    torch.manual_seed(0)
    model = Skips(copies).double().eval()
    x = torch.rand(2, 3, 9, 7, dtype=torch.float64)
    assert Tail(model, "mid", x[:1]).cheap == copies
    got = explain(model, x, "ablationcam", target=1, layer="mid", signed=True)
    drops, activation = slow_ablation(model, x, "mid", 1, first)
    torch.testing.assert_close(got, (drops[:, :, None, None] * activation).sum(1))


def test_ablation_cam_runs_what_stands_before_the_layer_once():
    runs = []

    class Counted(nn.Conv2d):
        def forward(self, x):
            runs.append(1)
            return super().forward(x)

    torch.manual_seed(0)
    model = nn.Sequential(
        Counted(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3), nn.Tanh(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Tanh(), nn.Linear(5, 3),
    ).eval()  # fmt: skip
    x = torch.rand(2, 3, 9, 9)
    got = explain(model, x, "ablationcam", target=1, layer="2", signed=True)
    assert len(runs) == 1
    drops, activation = slow_ablation(model, x, "2", 1, first)
    torch.testing.assert_close(got, (drops[:, :, None, None] * activation).sum(1))


# -- extremal perturbation ----------------------------------------------------------------------


class Reads(nn.Module):
    """The score is the contrast (not the mean colour) of a square: blurring it loses the score."""

    def forward(self, x):
        square = x[:, 0, 8:16, 20:28]
        other = x[:, 0, 20:28, 4:12]
        return torch.stack([square.std((1, 2)), other.std((1, 2))], 1)


def test_extremal_perturbation_finds_what_the_score_reads():
    torch.manual_seed(0)
    x = torch.rand(1, 1, 32, 32)
    got = explain(Reads(), x, "extremal", classes=[0, 1], areas=(0.1,), steps=80)
    for values, inside in ((got[0], (slice(8, 16), slice(20, 28))),
                           (got[1], (slice(20, 28), slice(4, 12)))):  # fmt: skip
        assert values[inside].mean() > 0.8
        assert (values.sum() - values[inside].sum()) < 0.8 * values[inside].sum()
        assert 0.05 < values.mean() < 0.16  # the area asked for


def test_smooth_mask_is_the_maximum_over_the_kernel():
    smooth = SmoothMask((9, 11), 4, torch.zeros(1))
    grid = torch.rand(2, *smooth.grid)
    got = smooth(grid)
    assert smooth(torch.ones(1, *smooth.grid)).min() > 0.9
    assert smooth(torch.zeros(1, *smooth.grid)).max() == 0
    y, x = 5, 7
    z = []
    for v in range(-3, 4):
        for u in range(-3, 4):
            row, column = round(y / 4) + v, round(x / 4) + u
            distance = ((y - 4 * row) ** 2 + (x - 4 * column) ** 2) ** 0.5
            k = torch.exp(torch.tensor(-0.5 * (max(0.0, distance - 4) / 4.8) ** 2))
            row = min(max(row, 0), smooth.grid[0] - 1)
            column = min(max(column, 0), smooth.grid[1] - 1)
            z.append(k * grid[:, row, column])
    z = torch.stack(z)
    weights = (z / 0.05).softmax(0)
    torch.testing.assert_close(got[:, y, x], (z * weights).sum(0))


# -- what holds for all -------------------------------------------------------------------------


def test_the_family_is_registered():
    assert set(NAMES) <= set(METHODS.names("perturbation"))


@pytest.mark.parametrize("name", NAMES)
def test_passes_of_any_size_give_one_map(name, model, x):
    options = QUICK.get(name, {})
    few = explain(model, x, name, target=1, budget=1, **options)
    many = explain(model, x, name, target=1, budget=10**9, **options)
    torch.testing.assert_close(few, many)
    assert few.dtype == x.dtype


@pytest.mark.parametrize("name", NAMES)
def test_classes_share_the_passes(name, model, x):
    runs = []
    handle = model.register_forward_hook(lambda *args: runs.append(1))
    options = {**QUICK.get(name, {}), "budget": 10**6}
    if METHODS.get(name).meta["reads_layer"]:
        options["layer"] = "features"  # finding it is a pass of its own
    together = explain(model, x, name, classes=[0, 3], **options)
    both = len(runs)
    alone = [explain(model, x, name, target=c, **options) for c in (0, 3)]
    handle.remove()
    for n in range(2):
        torch.testing.assert_close(together[n::2], alone[n])
    # Group-CAM's masks are each class's own, and so are an optimiser's
    if name not in ("groupcam", "extremal"):
        assert both * 2 == len(runs) - both


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_left_alone(name, model, x):
    model.train()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    model.head.bias.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    names = [set(vars(m)) for m in model.modules()]
    random = torch.get_rng_state()

    class Boom(Exception):
        pass

    def boom(logits):
        if len(runs) > 1:
            raise Boom
        runs.append(1)
        return logits[:, 0]

    explain(model, x, name, target=1, **QUICK.get(name, {}))
    runs = []
    with pytest.raises(Boom):
        explain(model, x, name, target=boom, **QUICK.get(name, {}))
    assert all(m.training for m in model.modules())
    assert [set(vars(m)) for m in model.modules()] == names
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert not model.head.bias.requires_grad
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("name", NAMES)
def test_a_function_of_the_batch_is_given_the_batch(name, model, x):
    wanted = torch.tensor([1, 3])

    def own(logits):
        return logits.gather(1, wanted[:, None])[:, 0]

    options = QUICK.get(name, {})
    got = explain(model, x, name, target=own, **options)
    want = explain(model, x, name, target=[1, 3], **options)
    torch.testing.assert_close(got, want)


def test_memory_that_is_missing_halves_the_passes_and_is_said_once(model, x):
    class Tight(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.most = model, 0

        def forward(self, x):
            if len(x) > 2:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] can't allocate memory: 5 bytes")
            self.most = max(self.most, len(x))
            return self.inner(x)

    tight = Tight()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        got = explain(tight, x, "occlusion", target=1, budget=10**9)
    assert [w.category for w in said] == [AttnvizWarning]
    assert "do not fit into memory" in str(said[0].message)
    assert tight.most == 2
    torch.testing.assert_close(got, explain(model, x, "occlusion", target=1))


def test_other_errors_are_not_taken_for_missing_memory(model, x):
    class Broken(nn.Module):
        def forward(self, x):
            if float(x.flatten()[0]) == 0:
                raise RuntimeError("shape mismatch")
            return x.mean((2, 3))

    with pytest.raises(RuntimeError, match="shape mismatch"):
        explain(Broken(), x, "occlusion", target=1)


def test_progress_counts_every_copy(model, x):
    seen = []

    class Bar:
        def __init__(self, what, total):
            seen.append([what, total, 0])

        def __enter__(self):
            def step(n):
                seen[-1][2] += n

            return step

        def __exit__(self, *error):
            pass

    with watched(Bar):
        explain(model, x, "rise", target=1, masks=30)
    assert seen == [["RISE", 30, 30]] * 2


@pytest.mark.parametrize(
    ("name", "options"),
    [("rise", {"keep": 1.0}), ("occlusion", {"window": 40}), ("occlusion", {"stride": 9}),
     ("sscam", {"where": "x"}), ("iscam", {"samples": 0}), ("groupcam", {"groups": 0}),
     ("extremal", {"areas": (2,)}), ("rise", {"baseline": "imputed"}), ("rise", {"layer": "head"}),
     ("rise", {"budget": 0}), ("rise", {"signed": False})],
)  # fmt: skip
def test_options_out_of_range(name, options, model, x):
    with pytest.raises(MethodError):
        explain(model, x, name, target=1, **options)


def test_a_part_of_a_batch_has_no_score_of_the_whole():
    from attnviz.targets import resolve

    (column,) = resolve(lambda y: y[:, 0], torch.rand(3, 2), batch=3)
    with pytest.raises(TargetError, match="one at a time"):
        column.copies(torch.rand(2, 2), [1, 1])


# -- peers --------------------------------------------------------------------------------------


def normalised(maps):
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / maps.amax((1, 2), keepdim=True)


def test_score_cam_equals_torchcam():
    methods = pytest.importorskip("torchcam.methods")
    torch.manual_seed(0)
    model = Small().eval()
    x = torch.rand(2, 3, 12, 16)
    with methods.ScoreCAM(model, "features", input_shape=(3, 12, 16)) as extractor:
        model(x)
        theirs = extractor(3)[0]
    with torch.no_grad():  # it stretches before upsampling, which differs unless extremes stay
        activation = model.features(x)
    ours = explain(model, x, "scorecam", target=3, layer="features")
    assert activation.amax((2, 3)).min() > 0
    torch.testing.assert_close(normalised(ours), normalised(theirs), rtol=0.02, atol=0.02)


def test_ablation_cam_equals_pytorch_grad_cam():
    peer = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    torch.manual_seed(0)
    model = Small().eval()
    nn.init.constant_(model.head.bias, 5.0)  # positive scores: it divides by them
    x = torch.rand(2, 3, 16, 16)
    every = explain(model, x, "ablationcam", classes=range(4), layer="features.3")
    every = every.unflatten(0, (2, 4))
    cls = int(every.amax((2, 3)).amin(0).argmax())
    ours = every[:, cls]
    assert ours.amax((1, 2)).min() > 0
    with peer.AblationCAM(model, [model.features[3]]) as cam:
        theirs = torch.from_numpy(cam(x, [ClassifierOutputTarget(cls)] * 2))
    ours = F.interpolate(normalised(ours)[:, None], (16, 16), mode="bilinear")[:, 0]
    # it resizes with OpenCV and stretches again
    torch.testing.assert_close(normalised(ours), theirs, rtol=0, atol=0.01)
