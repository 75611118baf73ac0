"""capture: what it reads is what the model computed, and the model is afterwards as it was."""

import threading
import weakref
from collections import namedtuple

import pytest
import torch
from torch import nn

import attnviz
from attnviz.errors import CaptureError, LayerNotFound
from attnviz.hooks import Capture


class Residual(nn.Module):
    """A block whose output is overwritten twice: by `out += identity` and by ReLU(inplace)."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.norm(self.conv(x))
        out += x
        return self.act(out)


class Net(nn.Module):
    def __init__(self, width=6, classes=5):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.block1 = Residual(width)
        self.block2 = Residual(width)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.block2(self.block1(self.stem(x)))
        return self.head(self.drop(x.mean((2, 3))))


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        net.block1.norm.running_mean.normal_()
        net.block2.norm.weight.normal_()
    return net.double().eval()


@pytest.fixture
def x():
    return torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_hand(net, x, cls=2):
    """The activations of block1.norm and block2 and their gradients, recomputed step by step."""
    stem = net.stem(x)
    norm1 = net.block1.norm(net.block1.conv(stem))
    block1 = torch.relu(norm1 + stem)
    block2 = torch.relu(net.block2.norm(net.block2.conv(block1)) + block1)
    logits = net.head(block2.mean((2, 3)))
    gradients = torch.autograd.grad(logits[:, cls].sum(), [norm1, block2])
    return logits.detach(), (norm1.detach(), block2.detach()), gradients


def test_reads_what_in_place_ops_would_overwrite(net, x):
    logits, activations, gradients = by_hand(net, x)
    with attnviz.capture(net, ["block1.norm", net.block2]) as cap:
        out = net(x)
    found = cap.gradients(out[:, 2].sum())
    assert torch.equal(out, logits)
    assert cap.layers == ("block1.norm", "block2")
    for name, activation, gradient in zip(cap.layers, activations, gradients, strict=True):
        torch.testing.assert_close(cap.activations[name], activation, rtol=0, atol=1e-14)
        torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-14)


def test_activation_has_no_graph_and_prefix_records_nothing(net, x):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        with attnviz.capture(net, "block2") as cap:
            out = net(x)
    assert cap.activations["block2"].grad_fn is None
    # all that is saved belongs to the pooling and the head
    assert {t.shape for t in saved} <= {torch.Size([3, 6]), torch.Size([5, 6]), torch.Size([6, 5])}
    assert out.requires_grad


def test_nothing_is_held_after_the_results_are_dropped(net, x):
    with attnviz.capture(net, "block2") as cap:
        out = net(x)
    watched = weakref.ref(cap._tensors["block2"])
    cap.gradients(out[:, 0].sum())
    del cap, out
    assert watched() is None


@pytest.mark.parametrize("situation", ["plain", "frozen", "no_grad", "inference", "compiled", "dp"])
def test_same_gradient_in_every_situation(net, x, situation):
    _, _, gradients = by_hand(net, x)
    model = net
    if situation == "frozen":
        net.requires_grad_(False)
    if situation == "compiled":
        model = torch.compile(net, backend="eager")
        model(x)  # hooks that are set after a compiled model's first call never fire
    if situation == "dp":
        model = nn.DataParallel(net)
    context = {"no_grad": torch.no_grad, "inference": torch.inference_mode}.get(situation)
    if context:
        with context():
            with attnviz.capture(model, "block2") as cap:
                out = model(x)
            assert not torch.is_grad_enabled()
            assert torch.is_inference_mode_enabled() == (situation == "inference")
            found = cap.gradients(lambda: out[:, 2].sum())
    else:
        with attnviz.capture(model, "block2") as cap:
            out = model(x)
        assert torch.is_grad_enabled()
        found = cap.gradients(out[:, 2].sum())
    torch.testing.assert_close(found["block2"], gradients[1], rtol=1e-12, atol=1e-14)


def test_inference_tensor_as_input(net, x):
    with torch.inference_mode():
        inputs = x.clone()
    with attnviz.capture(net, "stem") as cap:
        out = net(inputs)
    assert cap.gradients(out[:, 2].sum())["stem"].abs().sum() > 0


def test_several_scores_from_one_forward(net, x):
    with attnviz.capture(net, "block2") as cap:
        out = net(x)
    for cls in range(5):
        # GAP + linear: the gradient is the weight over h w, everywhere
        want = (net.head.weight[cls] / 64)[None, :, None, None].expand(3, 6, 8, 8)
        found = cap.gradients(out[:, cls].sum())["block2"]
        torch.testing.assert_close(found, want, rtol=1e-12, atol=0)
    cap.gradients(out[:, 0].sum(), retain_graph=False)
    with pytest.raises(CaptureError, match="freed"):
        cap.gradients(out[:, 0].sum())


def test_create_graph_reaches_every_parameter(net, x):
    net.train()
    with attnviz.capture(net, "block2", create_graph=True) as cap:
        out = net(x)
    gradient = cap.gradients(out[:, 1].sum())["block2"]
    loss = (gradient.mean((2, 3), keepdim=True) * cap.activations["block2"]).sum()
    loss.backward()
    assert net.stem.weight.grad.abs().sum() > 0
    # the weights of the map are differentiable too, not only the activation
    with attnviz.capture(net, "block2", create_graph=True) as cap:
        out = net(x)
    gradient = cap.gradients(out[:, 1].sum())["block2"]
    want = torch.zeros_like(net.head.weight)
    want[1] = gradient.shape[0] * torch.ones(6)  # d/dw_1 of sum_b sum_ij w_1 / hw
    net.zero_grad()
    gradient.sum().backward()
    # dropout in training scales some channels by 2 and others by 0; undo it through eval
    net.eval()
    with attnviz.capture(net, "block2", create_graph=True) as cap:
        out = net(x)
    net.zero_grad()
    cap.gradients(out[:, 1].sum())["block2"].sum().backward()
    torch.testing.assert_close(net.head.weight.grad, want, rtol=1e-12, atol=1e-12)


def snapshot(model):
    return {
        "modes": [m.training for m in model.modules()],
        "buffers": {n: b.clone() for n, b in model.named_buffers()},
        "identity": [id(b) for b in model.buffers()],
        "parameters": {n: p.detach().clone() for n, p in model.named_parameters()},
        "requires": [p.requires_grad for p in model.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "hooks": [
            (dict(m._forward_hooks), dict(m._forward_pre_hooks), dict(m._backward_hooks))
            for m in model.modules()
        ],
        "random": torch.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
    }


def assert_unaltered(before, model):
    after = snapshot(model)
    for key in ("modes", "identity", "requires", "hooks", "grad mode"):
        assert before[key] == after[key], key
    for key in ("buffers", "parameters"):
        assert all(torch.equal(before[key][n], after[key][n]) for n in before[key]), key
    for a, b in zip(before["grad"], after["grad"], strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    assert torch.equal(before["random"], after["random"])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_altered(net, x, training, fails):
    net.train(training)
    net.block1.norm.eval()  # a mixture of modes is a state too
    net.stem.weight.requires_grad_(False)
    net.head.weight.grad = torch.ones_like(net.head.weight)
    before = snapshot(net)
    try:
        with attnviz.capture(net, ["block1", "block2"]) as cap:
            out = net(x)
            if fails:
                raise KeyboardInterrupt
        cap.gradients(out[:, 0].sum())
    except KeyboardInterrupt:
        pass
    assert_unaltered(before, net)


def test_model_that_fails_inside(net, x):
    before = snapshot(net)
    with pytest.raises(RuntimeError), attnviz.capture(net, "block2"):
        net(x[:, :2])
    assert_unaltered(before, net)


def test_eight_threads_on_one_model(net):
    inputs = [torch.randn(2, 3, 8, 8, dtype=torch.float64) for _ in range(8)]
    want = [by_hand(net, x, cls=i % 5) for i, x in enumerate(inputs)]
    before = snapshot(net)
    wrong = []

    def work(i):
        for _ in range(20):
            with attnviz.capture(net, ["block1.norm", "block2"]) as cap:
                out = net(inputs[i])
            found = cap.gradients(out[:, i % 5].sum())
            same = (
                torch.allclose(cap.activations["block2"], want[i][1][1], rtol=0, atol=1e-13)
                and torch.allclose(found["block1.norm"], want[i][2][0], rtol=1e-11, atol=1e-13)
                and torch.equal(out.detach(), want[i][0])
            )
            if not same:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert_unaltered(before, net)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(self.conv(self.act(self.conv(x)))).sum((2, 3))


def test_layer_that_runs_twice():
    torch.manual_seed(0)
    net, x = Twice(), torch.randn(1, 2, 3, 3)
    with pytest.raises(CaptureError, match="ran twice.*call=0"), attnviz.capture(net, "conv"):
        net(x)
    first = net.conv(x)
    second = net.conv(first.relu())
    for call, want in ((0, first), (1, second), (-1, second)):
        with attnviz.capture(net, "conv", call=call) as cap:
            out = net(x)
        assert torch.equal(cap.activations["conv"], want.detach())
        expected = torch.autograd.grad(
            net.act(net.conv(net.act(first))).sum() if call == 0 else second.relu().sum(),
            first if call == 0 else second,
            retain_graph=True,
        )[0]
        torch.testing.assert_close(cap.gradients(out.sum())["conv"], expected)


Pair = namedtuple("Pair", "extra hidden")


class Containers(nn.Module):
    """A layer that returns a named tuple, and one that returns a dict."""

    class Inner(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.kind = kind
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, x):
            y = self.conv(x)
            index = torch.zeros(1, dtype=torch.long)
            return Pair(index, y) if self.kind == "tuple" else {"index": index, "hidden": y}

    def __init__(self):
        super().__init__()
        self.a = self.Inner("tuple")
        self.b = self.Inner("dict")

    def forward(self, x):
        return {"logits": self.b(self.a(x).hidden)["hidden"].flatten(1)}


def test_layers_that_return_containers():
    net, x = Containers(), torch.randn(2, 1, 2, 2)
    with attnviz.capture(net, ["a", "b"]) as cap:
        out = net(x)
    found = cap.gradients(out["logits"].sum())
    torch.testing.assert_close(cap.activations["a"], net.a.conv(x).detach())
    assert torch.equal(found["b"], torch.ones(2, 1, 2, 2))
    want = net.b.conv.weight.detach().expand(2, 1, 2, 2)
    torch.testing.assert_close(found["a"], want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast(net, x, dtype):
    half = net.to(dtype)
    with attnviz.capture(half, "block2") as cap:
        out = half(x.to(dtype))
    assert cap.activations["block2"].dtype == dtype
    want = (half.head.weight[1] / 64).detach()[None, :, None, None].expand(3, 6, 8, 8)
    torch.testing.assert_close(cap.gradients(out[:, 1].sum())["block2"], want, rtol=2e-2, atol=1e-4)
    single = Net().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16), attnviz.capture(single, "block2") as cap:
        out = single(x.float())
    gradient = cap.gradients(out[:, 1].float().sum())["block2"]
    want = (single.head.weight[1] / 64).detach()[None, :, None, None].expand(3, 6, 8, 8)
    torch.testing.assert_close(gradient.float(), want, rtol=2e-2, atol=1e-4)


class InsideNoGrad(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1))
        self.head = nn.Linear(2, 2)

    def forward(self, x):
        with torch.no_grad():
            x = self.backbone(x)
        return self.head(x.mean((2, 3)))


def test_layer_inside_the_models_own_no_grad():
    net, x = InsideNoGrad(), torch.randn(1, 1, 2, 2)
    with attnviz.capture(net, "backbone.1", prefix_graph=True) as cap:
        out = net(x)
    want = (net.head.weight[0] / 4).detach()[None, :, None, None].expand(1, 2, 2, 2)
    torch.testing.assert_close(cap.gradients(out[:, 0].sum())["backbone.1"], want)
    with attnviz.capture(net, "backbone.1") as cap:
        out = net(x)
    with pytest.raises(CaptureError, match="prefix_graph=True"):
        cap.gradients(out[:, 0].sum())


def test_layer_that_hands_on_its_input():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x):
            y = x * 2
            z = self.layer(y)
            y += 100  # the layer's output shares this memory
            return (z * y).flatten(1)

    net, x = Net(), torch.ones(1, 1, 2, 2)
    with attnviz.capture(net, "layer") as cap:
        out = net(x)
    assert torch.equal(cap.activations["layer"], torch.full((1, 1, 2, 2), 2.0))
    assert torch.equal(cap.gradients(out.sum())["layer"], torch.full((1, 1, 2, 2), 102.0))


def test_errors_say_what_to_do(net, x):
    with pytest.raises(LayerNotFound, match="block3.*did you mean .*'block1'"):
        attnviz.capture(net, "block3")
    with pytest.raises(LayerNotFound, match="Conv2d given is not a part of Net"):
        attnviz.capture(net, nn.Conv2d(1, 1, 1))
    with pytest.raises(LayerNotFound, match="no layer was given"):
        attnviz.capture(net, [])
    with attnviz.capture(net, "block1") as cap:
        pass
    with pytest.raises(CaptureError, match="did not run inside the block"):
        cap.activations
    with attnviz.capture(net, "block1") as cap:
        out = net(x)
    with pytest.raises(CaptureError, match="one number"):
        cap.gradients(out[:, 0])
    with pytest.raises(CaptureError, match="no graph"):
        cap.gradients(out[:, 0].sum().detach())
    with pytest.raises(CaptureError, match="does not depend"):
        cap.gradients(net.head.weight.sum())
    with pytest.raises(CaptureError, match="used already"), cap:
        pass
    with pytest.raises(CaptureError, match="one capture per forward"), attnviz.capture(net, "stem"):
        net(x)
        net(x)
    with pytest.raises(CaptureError, match="eager nn.Module"):
        attnviz.capture(torch.jit.trace(net, x), "block1")
    assert Capture(net, "block1").layers == ("block1",)


def test_reading_only_records_no_graph(net, x):
    with attnviz.capture(net, "block1", gradients=False) as cap:
        out = net(x)
    assert not out.requires_grad
    with pytest.raises(CaptureError, match="gradients=False"):
        cap.gradients(out.sum())
