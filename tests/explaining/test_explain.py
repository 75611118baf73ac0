"""explain: every registered CAM on many kinds of model, right and leaving no trace."""

import dataclasses
import threading
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import attnviz
from attnviz.errors import (
    AttnvizError,
    AttnvizWarning,
    FlatMapWarning,
    ImageError,
    LayerNotFound,
    MethodError,
    PreprocessError,
    TargetError,
)
from attnviz.methods.cam import METHODS
from attnviz.models import Preprocess

#: functions of an activation and a gradient; methods with their own pass are tested beside them
CAMS = [e.name for e in METHODS if e.family == "cam" and not e.meta["own_pass"]]


class Small(nn.Module):
    """Convolutions, GAP, one linear layer."""

    def __init__(self, classes=4, inplace=True):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace),
            nn.Conv2d(8, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace),
        )  # fmt: skip
        self.drop = nn.Dropout(0.4)
        self.head = nn.Linear(6, classes)

    def forward(self, x):
        return self.head(self.drop(self.features(x).mean((2, 3))))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Small().double()


@pytest.fixture
def x():
    return torch.randn(
        3, 3, 16, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def by_hand(model, x, cls=None):
    """Logits, activation, gradient of one class each, by a full graph in evaluation mode."""
    training = [m.training for m in model.modules()]
    model.eval()
    a = model.features(x)
    logits = model.head(a.mean((2, 3)))
    cls = logits.argmax(1) if cls is None else torch.as_tensor(cls).expand(len(x))
    score = logits.gather(1, cls[:, None])[:, 0]
    g = torch.autograd.grad(score.sum(), a)[0]
    for m, mode in zip(model.modules(), training, strict=True):
        m.training = mode
    return logits.detach(), a.detach(), g, cls, score.detach()


@pytest.mark.parametrize("name", CAMS)
def test_is_the_pure_function_on_activation_and_gradient(model, x, name):
    _, a, g, cls, score = by_hand(model, x)
    maps = attnviz.explain(model, x, method=name, layer="features")
    entry = METHODS.get(name)
    want = entry.fn(a, g)
    if entry.meta["signed"] is False:
        want = want.relu()
    torch.testing.assert_close(maps.values, want, rtol=1e-9, atol=1e-12)
    assert maps.target == tuple(cls.tolist())
    torch.testing.assert_close(maps.score, score, rtol=1e-12, atol=0)
    assert maps.layer == "features"
    assert maps.method == name
    assert not maps.values.requires_grad


def test_cam_at_a_layer_that_is_not_pooled(model, x):
    with pytest.raises(MethodError, match=r"cam needs logits that are one linear.*features\.3"):
        attnviz.explain(model, x, method="cam", layer="features.3")


def test_methods_and_layers_together(model, x):
    names = [n for n in CAMS if n != "cam"]
    together = attnviz.explain(model, x, method=names, layer=["features.3", "features"])
    assert list(together) == names
    for name in names:
        for layer in ("features.3", "features"):
            alone = attnviz.explain(model, x, method=name, layer=layer)
            torch.testing.assert_close(
                together[name][layer].values, alone.values, rtol=1e-12, atol=1e-14
            )


@pytest.mark.parametrize("name", CAMS)
def test_several_classes_from_one_forward(model, x, name):
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    maps = attnviz.explain(model, x, classes=[2, 0, 1], method=name, layer="features")
    handle.remove()
    assert len(calls) == 1
    assert maps.target == (2, 0, 1) * 3
    assert maps.values.shape == (9, 4, 3)
    for i in range(3):
        for k, cls in enumerate((2, 0, 1)):
            alone = attnviz.explain(model, x[i : i + 1], target=cls, method=name, layer="features")
            torch.testing.assert_close(
                maps.values[3 * i + k], alone.values[0], rtol=1e-9, atol=1e-12
            )
            torch.testing.assert_close(maps.score[3 * i + k], alone.score[0])


def test_classes_without_a_linear_head(x):
    torch.manual_seed(0)
    model = Small().double()
    model.head = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).double()
    maps = attnviz.explain(model, x, classes=[3, 1], layer="features")
    for k, cls in enumerate((3, 1)):
        alone = attnviz.explain(model, x, target=cls, layer="features")
        torch.testing.assert_close(maps.values[k::2], alone.values, rtol=1e-12, atol=1e-14)


def test_batch_size_order_and_mates_do_not_matter(model, x):
    want = attnviz.explain(model, x, layer="features").values
    one = attnviz.explain(model, x, layer="features", batch_size=1).values
    two = attnviz.explain(model, x, layer="features", batch_size=2).values
    back = attnviz.explain(model, x.flip(0), layer="features").values.flip(0)
    for other in (one, two, back):
        torch.testing.assert_close(want, other, rtol=1e-12, atol=1e-14)


# -- targets -----------------------------------------------------------------------------------

LABELS = ("grey whale, gray whale", "speedboat", "seashore, coast", "lakeside")


def test_targets(model, x):
    logits, a, g0, *_ = by_hand(model, x, 0)
    g = {i: by_hand(model, x, i)[2] for i in range(4)}

    def hires(activation, gradient):
        return (activation * gradient).sum(1).relu()

    def values(target, **options):
        return attnviz.explain(
            model, x, target=target, method="hirescam", layer="features", labels=LABELS, **options
        )

    maps = values("coast")
    assert maps.label == ("seashore, coast",) * 3
    torch.testing.assert_close(maps.values, hires(a, g[2]))
    torch.testing.assert_close(values("2").values, hires(a, g[2]))
    torch.testing.assert_close(values(np.int64(2)).values, hires(a, g[2]))
    # one for each image
    mixed = values([0, "speedboat", attnviz.ClassTarget(3)])
    assert mixed.target == (0, 1, 3)
    for i, cls in enumerate((0, 1, 3)):
        torch.testing.assert_close(mixed.values[i], hires(a, g[cls])[i])
        torch.testing.assert_close(mixed.score[i], logits[i, cls])
    torch.testing.assert_close(
        values(torch.tensor([0, 1, 3])).values, mixed.values, rtol=1e-12, atol=1e-14
    )
    # the difference of two logits
    contrast = values(attnviz.Contrast("speedboat", "seashore, coast"))
    torch.testing.assert_close(contrast.values, hires(a, g[1] - g[2]))
    torch.testing.assert_close(contrast.score, logits[:, 1] - logits[:, 2])
    assert contrast.label[0] == "speedboat - seashore, coast"
    # d p_1 = p_1 (d z_1 - sum_k p_k d z_k)
    p = logits.softmax(1)
    mean = sum(p[:, k, None, None, None] * g[k] for k in range(4))
    probability = values(attnviz.Probability("speedboat"))
    torch.testing.assert_close(
        probability.values, hires(a, p[:, 1, None, None, None] * (g[1] - mean))
    )
    torch.testing.assert_close(probability.score, p[:, 1])
    # a function of the output
    custom = values(lambda out: 2 * out[:, 0] + out[:, 3])
    torch.testing.assert_close(custom.values, hires(a, 2 * g[0] + g[3]))
    # several, a contrast among them
    both = attnviz.explain(
        model, x, classes=[attnviz.Contrast(1, 2), 3], method="hirescam", layer="features"
    )
    torch.testing.assert_close(both.values[::2], contrast.values)
    assert both.target[:2] == ("1 - 2", 3)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (4, "class 4 is out of range: this model has 4 classes, 0 to 3"),
        (-1, "class -1 is out of range"),
        ("speedbot", "did you mean 'speedboat'"),
        ("whale", "labels with that word: 'grey whale, gray whale'"),
        ([0, 1], "2 targets for 3 images"),
        ([], "0 targets for 3 images"),
        ([0, 1, 2, 3], "4 targets for 3 images"),
        (1.5, "a class is an index or a label, got float"),
        (torch.eye(4)[:3], r"of shape \(3, 4\); of rows that are one-hot"),
        (attnviz.Contrast(1, 1), "a contrast needs two classes"),
        (lambda out: out, r"one score per image, shape \(3,\); got \(3, 4\)"),
        (lambda out: out.sum(), "one number for 3 images"),
        (attnviz.RegionTarget(1), r"needs an output of shape \(B, classes, H, W\)"),
    ],
)
def test_wrong_targets(model, x, target, message):
    with pytest.raises(TargetError, match=message):
        attnviz.explain(model, x, target=target, layer="features", labels=LABELS)


def test_label_without_labels_and_both_kinds_of_target(model, x):
    with pytest.raises(TargetError, match="labels are not known"):
        attnviz.explain(model, x, target="boat", layer="features")
    with pytest.raises(TargetError, match="not both"):
        attnviz.explain(model, x, target=1, classes=[1, 2], layer="features")
    with pytest.raises(TargetError, match="at least one"):
        attnviz.explain(model, x, classes=[], layer="features")


# -- outputs -----------------------------------------------------------------------------------


@dataclasses.dataclass
class Output:
    logits: torch.Tensor


class Wrapped(Small):
    kind = "dict"

    def forward(self, x):
        logits = super().forward(x)
        return {
            "dict": lambda: {"aux": logits * 2, "out": logits},
            "dataclass": lambda: Output(logits),
            "tuple": lambda: (logits, x),
        }[self.kind]()


@pytest.mark.parametrize("kind", ["dict", "dataclass", "tuple"])
def test_kinds_of_output(model, x, kind):
    other = Wrapped().double()
    other.load_state_dict(model.state_dict())
    other.kind = kind
    want = attnviz.explain(model, x, target=1, layer="features").values
    assert torch.equal(attnviz.explain(other, x, target=1, layer="features").values, want)


class Dense(nn.Module):
    """A segmentation model: logits (B, 2, H, W) in a dict."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return {"out": self.head(self.backbone(x))}


def test_dense_output():
    torch.manual_seed(0)
    model, x = Dense().double(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    with pytest.raises(TargetError, match="RegionTarget"):
        attnviz.explain(model, x, target=1, layer="backbone")
    mask = torch.zeros(6, 6)
    mask[1:3, 2:5] = 1
    maps = attnviz.explain(
        model, x, target=attnviz.RegionTarget(1, mask), method="hirescam", layer="backbone"
    )
    a = model.backbone(x)
    want = (model.head.weight[1, :, 0, 0] @ a.flatten(2)).view(2, 6, 6) * mask / 6
    torch.testing.assert_close(maps.values, want.relu().detach())
    region = model.head(a)[:, 1, 1:3, 2:5].mean((1, 2))
    torch.testing.assert_close(maps.score, region.detach())
    same = attnviz.explain(
        model, x, target=lambda out: out["out"][:, 1, 1:3, 2:5].mean((1, 2)),
        method="hirescam", layer="backbone",
    )  # fmt: skip
    torch.testing.assert_close(same.values, maps.values)


# -- nothing altered ---------------------------------------------------------------------------


def snapshot(model):
    return (
        [m.training for m in model.modules()],
        {n: b.clone() for n, b in model.named_buffers()},
        [id(b) for b in model.buffers()],
        [p.requires_grad for p in model.parameters()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        {n: p.detach().clone() for n, p in model.named_parameters()},
        [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        torch.get_rng_state(),
        torch.is_grad_enabled(),
    )


def assert_same(a, b):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert a == b


@pytest.mark.parametrize("name", CAMS)
@pytest.mark.parametrize(
    "situation", ["train", "frozen", "no_grad", "inference", "autocast", "compiled", "dp", "error"]
)
def test_conformance(model, x, name, situation):
    want = attnviz.explain(model.eval(), x, method=name, layer="features").values
    model.train()
    model.features[1].eval()
    if situation == "frozen":
        model.requires_grad_(False)
    else:
        model.features[0].weight.requires_grad_(False)
        model.head.weight.grad = torch.randn_like(model.head.weight)
    given = model
    if situation == "compiled":
        given = torch.compile(model, backend="eager")
    if situation == "dp":
        given = nn.DataParallel(model)
    inputs = x.clone()
    before = snapshot(model)
    context = {
        "no_grad": torch.no_grad,
        "inference": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    }.get(situation, torch.enable_grad)
    if situation == "error":
        with pytest.raises(TargetError):
            attnviz.explain(given, x, target=99, method=name, layer="features")
    else:
        with context():
            got = attnviz.explain(given, x, method=name, layer="features").values
        assert got.dtype in (torch.float32, torch.float64)
        if situation == "autocast":  # doubles are not touched by autocast's convolutions
            assert torch.isfinite(got).all()
        else:
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    assert_same(before, snapshot(model))
    assert torch.equal(inputs, x)


def test_eight_threads_in_training_mode(model):
    inputs = [torch.randn(2, 3, 16, 12, dtype=torch.float64) for _ in range(8)]
    want = [attnviz.explain(model.eval(), x, method=CAMS, layer="features") for x in inputs]
    model.train()
    before = snapshot(model)
    wrong = []

    def work(i):
        for _ in range(5):
            try:
                got = attnviz.explain(model, inputs[i], method=CAMS, layer="features")
            except Exception as error:  # a thread's own error would go unseen
                wrong.append(error)
                continue
            wrong.extend(
                n for n in CAMS
                if not torch.allclose(got[n].values, want[i][n].values, rtol=1e-9, atol=1e-12)
            )  # fmt: skip

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert_same(before, snapshot(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(model, x, dtype):
    single = model.float().eval()
    want = attnviz.explain(single, x.float(), target=1, method=CAMS, layer="features")
    got = attnviz.explain(single.to(dtype), x.to(dtype), target=1, method=CAMS, layer="features")
    for name in CAMS:
        assert got[name].values.dtype == torch.float32
        if name == "fem":  # a cell at its threshold falls on either side of it
            continue
        a, b = want[name].values.flatten(1), got[name].values.flatten(1)
        both = torch.nn.functional.cosine_similarity(a, b)
        assert ((both > 0.99) | (a.norm(dim=1) == 0)).all(), name


def test_signed(model, x):
    raw = attnviz.explain(model, x, target=0, layer="features", signed=True)
    assert (raw.values < 0).any()
    plain = attnviz.explain(model, x, target=0, layer="features")
    assert torch.equal(plain.values, raw.values.relu())


def test_create_graph(model, x):
    model.eval()
    maps = attnviz.explain(model, x, target=1, layer="features", create_graph=True)
    maps.values.sum().backward()
    analytic = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    a = model.features(x)
    g = torch.autograd.grad(model.head(a.mean((2, 3)))[:, 1].sum(), a, create_graph=True)[0]
    (g.mean((2, 3), keepdim=True) * a).sum(1).relu().sum().backward()
    for name, p in model.named_parameters():
        if p.grad is not None and name != "head.bias":
            torch.testing.assert_close(analytic[name], p.grad, rtol=1e-10, atol=1e-12)
    assert analytic["features.0.weight"].abs().sum() > 0


# -- images ------------------------------------------------------------------------------------


def test_an_image_is_preprocessed_and_keeps_its_place(model):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (60, 100, 3), dtype=np.uint8)
    pipeline = Preprocess(resize=30, crop=(24, 24), mean=(0.5,) * 3, std=(0.5,) * 3)
    tensor, geometry = pipeline(image)
    want = attnviz.explain(model, tensor[None].double(), layer="features").values
    for given in (image, Image.fromarray(image), [image]):
        maps = attnviz.explain(model, given, preprocess=pipeline, layer="features")
        torch.testing.assert_close(maps.values, want, rtol=1e-6, atol=1e-9)
        assert maps.geometry == (geometry,)
        assert maps.geometry[0].image_size == (60, 100)
        assert maps.overlay().size == (100, 60)


def test_an_image_without_known_preprocessing(model):
    with pytest.raises(PreprocessError, match="preprocess="):
        attnviz.explain(model, np.zeros((20, 20, 3), np.uint8), layer="features")


# -- bad input ---------------------------------------------------------------------------------


def test_layout_that_cannot_be_told(model):
    odd = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(27, 2)).double()
    cube = torch.randn(1, 3, 3, 3, dtype=torch.float64)
    with pytest.raises(AttnvizError, match="layout="):
        attnviz.explain(odd, cube, target=0, method="hirescam", layer="0")
    first = attnviz.explain(
        odd, cube, target=0, method="hirescam", layer="0", layout="channels_first", signed=True
    )
    product = (odd[2].weight[0] * cube.flatten()).view(3, 3, 3).detach()
    torch.testing.assert_close(first.values[0], product.sum(0))
    last = attnviz.explain(
        odd, cube, target=0, method="hirescam", layer="0", layout="channels_last", signed=True
    )
    torch.testing.assert_close(last.values[0], product.sum(2))


def test_bad_input(model, x):
    with pytest.raises(MethodError, match="did you mean .*'gradcam'"):
        attnviz.explain(model, x, method="grad_cam")
    with pytest.raises(LayerNotFound, match="did you mean 'features'"):
        attnviz.explain(model, x, layer="featuers")
    with pytest.raises(ImageError, match="no images"):
        attnviz.explain(model, [])
    with pytest.raises(ImageError, match="B > 0"):
        attnviz.explain(model, x[:0])
    with pytest.raises(AttnvizError, match="nn.Module"):
        attnviz.explain(42, x)
    with pytest.raises(AttnvizError, match="batch_size"):
        attnviz.explain(model, x, batch_size=0)
    with pytest.raises(AttnvizError, match="the model is on cpu"):
        attnviz.explain(model, x, device="meta", layer="features")


def test_nan_weights(model, x):
    with torch.no_grad():
        model.head.weight[0] = torch.nan
    with pytest.raises(AttnvizError, match="not finite .*check the weights"):
        attnviz.explain(model, x, layer="features")


def test_dead_layer_is_said(model, x):
    with torch.no_grad():
        model.features[4].weight.zero_()
        model.features[4].bias.fill_(-1.0)
    with pytest.warns(AttnvizWarning, match="no evidence"):
        maps = attnviz.explain(model, x, target=0, layer="features.3")
    assert torch.equal(maps.values, torch.zeros_like(maps.values))


def test_maps_without_evidence_are_said_once_with_the_reason():
    net = nn.Sequential(
        nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    net.append(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[4].weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    x = torch.rand(2, 3, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attnviz.explain(net, x, target=0, layer="1")  # there is something to see
        shown = attnviz.explain(net, x, target=1, layer="1", signed=True)
    assert not any(shown.flat)
    why = "flat; nothing is above zero, and what is below is cut off: signed=True"
    for method in ("gradcam", "layercam"):
        with pytest.warns(FlatMapWarning, match=f"all maps of {method} at '1' is {why}"):
            attnviz.explain(net, x, target=1, layer="1", method=method)
    with pytest.warns(FlatMapWarning, match=r"all maps of eigencam at '1' is flat$"):
        attnviz.explain(net, torch.ones(2, 3, 4, 4), target=1, layer="1", method="eigencam")
    with pytest.warns(FlatMapWarning, match=r"map 1 of gradcam") as said:
        attnviz.explain(net, x, target=[0, 1], layer="1")
    assert len(said) == 1
