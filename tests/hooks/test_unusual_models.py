"""Models that copy, script, checkpoint, freeze or quantise parts of themselves."""

import copy
import threading
import warnings

import pytest
import timm
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import attnviz
from attnviz import guidance
from attnviz.errors import CaptureError, ImageError
from attnviz.hooks import preserved, without_checkpointing


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.deep(self.conv(x)).mean((2, 3)))


@pytest.fixture
def x():
    torch.manual_seed(3)
    return torch.rand(2, 3, 16, 16)


def reference(net, x, layer="conv"):
    return attnviz.explain(net, x, layer=layer, target=1, method="layercam").values


def test_hooks_do_nothing_in_a_copy_made_during_the_forward(x):
    class Copies(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net().eval()
            self.kept = None

        def forward(self, x):
            if self.kept is None:
                self.__dict__["kept"] = copy.deepcopy(self.net)
                return self.net(x)
            return self.kept(x)

    model = Copies()
    expected = reference(model.net, x)
    torch.testing.assert_close(reference(model, x, "net.conv"), expected)
    plain = model.net(x)
    for _ in range(2):  # every later call of the user's own
        torch.testing.assert_close(model(x), plain)
    assert model.kept(x).grad_fn is not None
    with pytest.raises(CaptureError, match="a copy of itself"):
        reference(model, x, "net.conv")
    torch.testing.assert_close(model(x), plain)


@pytest.mark.parametrize("how", ["script", "trace"])
def test_a_scripted_part_is_left_as_it_was(x, how):
    net = Net().train()
    inner = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "script":
            net.deep = torch.jit.script(inner)
        else:
            net.deep = torch.jit.trace(inner.eval(), torch.rand(1, 8, 14, 14))
    modes = [m.training for m in net.modules()]
    buffers = {k: v.clone() for k, v in net.state_dict().items()}
    maps = attnviz.explain(net, x, layer="conv", target=1)
    assert maps.values.abs().sum() > 0
    with preserved(net, eval_mode=False), torch.no_grad():
        net(x)
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in buffers.items())
    if how == "script":
        with pytest.raises(CaptureError, match="'deep' is scripted"):
            attnviz.explain(net, x, layer="deep", target=1)
    unrelated = Net()
    torch.manual_seed(5)
    first = torch.rand(3)
    torch.manual_seed(5)
    with preserved(unrelated):  # an unrelated model's random state is put back, then and later
        torch.rand(7)
    assert torch.equal(torch.rand(3), first)


def test_a_part_that_refuses_its_mode_does_not_keep_the_others_from_theirs():
    class Stubborn(nn.Module):
        def __setattr__(self, name, value):
            if name == "training" and value is True and "born" in self.__dict__:
                raise AttributeError("training cannot be set")
            super().__setattr__(name, value)

    net = nn.Sequential(nn.Linear(2, 2), Stubborn(), nn.Linear(2, 2)).train()
    net[1].__dict__["born"] = True
    torch.manual_seed(5)
    first = torch.rand(3)
    torch.manual_seed(5)
    with pytest.raises(AttributeError, match="cannot be set"), preserved(net):
        torch.rand(2)
    assert torch.equal(torch.rand(3), first)
    assert net[0].training
    assert net[2].training


@pytest.mark.parametrize("whole", [True, False])
def test_a_backbone_under_no_grad_gives_the_map_it_gives_without(x, whole):
    class Frozen(Net):
        def forward(self, x):
            if whole:
                with torch.no_grad():
                    return super().forward(x)
            with torch.no_grad():
                features = self.conv(x)
            return self.head(self.deep(features).mean((2, 3)))

    net = Net().eval()
    frozen = Frozen().eval()
    frozen.load_state_dict(net.state_dict())
    torch.testing.assert_close(reference(frozen, x), reference(net, x))


def test_checkpointing_of_the_layer_is_recorded_and_of_the_tail_named(x):
    class Checkpointed(Net):
        def forward(self, x):
            features = checkpoint(self.conv, x, use_reentrant=self.reentrant)
            return self.head(checkpoint(self.deep, features, use_reentrant=self.reentrant)
                             .mean((2, 3)))  # fmt: skip

    net = Net().eval()
    own = Checkpointed().eval()
    own.load_state_dict(net.state_dict())
    own.reentrant = False
    torch.testing.assert_close(reference(own, x, "conv"), reference(net, x, "conv"))
    own.reentrant = True
    with pytest.raises(CaptureError, match=r"gradient checkpointing.*turn"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reference(own, x, "conv")


@pytest.mark.parametrize("method", ["gradcam", "generic_relevance", "attnlrp"])
def test_timm_checkpointing_makes_no_difference(method):
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=48, num_classes=7, depth=3).eval()
    images = torch.rand(2, 3, 48, 48)
    plain = attnviz.explain(vit, images, method=method, target=1)
    _, expected = guidance.class_map(vit, images, torch.tensor([1, 2]), layer="blocks.1")
    vit.set_grad_checkpointing(True)
    torch.testing.assert_close(
        attnviz.explain(vit, images, method=method, target=1).values, plain.values
    )
    _, maps = guidance.class_map(vit, images, torch.tensor([1, 2]), layer="blocks.1")
    torch.testing.assert_close(maps, expected)
    maps.square().sum().backward()
    assert vit.grad_checkpointing is True


def test_threads_count_who_holds_a_checkpointing_flag():
    model = nn.Linear(2, 2)
    model.grad_checkpointing = True
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with without_checkpointing(model):
            inside.set()
            leave.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(20)
    with without_checkpointing(model):
        assert model.grad_checkpointing is False
    assert model.grad_checkpointing is False  # the other thread is still at it
    leave.set()
    thread.join()
    assert model.grad_checkpointing is True


def test_a_quantised_part_is_named(x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = torch.ao.quantization.quantize_dynamic(Net().eval(), {nn.Linear}, torch.qint8)
    with pytest.raises(CaptureError, match=r"'head'.*is quantised.*eigencam"):
        attnviz.explain(net, x, layer="conv", target=1)
    maps = attnviz.explain(net, x, layer="conv", target=1, method="eigencam")
    assert maps.values.abs().sum() > 0


def test_inputs_of_another_type_or_width_are_named(x):
    net = Net().eval()
    with pytest.raises(ImageError, match=r"float64.*float32.*x\.to\(torch\.float32\)"):
        attnviz.explain(net, x.double(), layer="conv", target=1)
    with pytest.raises(ImageError, match="has 1 channels where Net takes 3"):
        attnviz.explain(net, x[:, :1], layer="conv", target=1)


def test_a_batch_norm_in_evaluation_keeps_its_very_buffers():
    net = Net().train()
    mean = net.conv[1].running_mean
    with preserved(net):
        assert net.conv[1].running_mean is mean
    with preserved(net, eval_mode=False):
        net(torch.rand(4, 3, 8, 8))
        assert net.conv[1].running_mean is not mean
    assert net.conv[1].running_mean is mean
    assert torch.equal(mean, torch.zeros(8))


def test_a_shared_layer_is_read_at_the_call_named(x):
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
            self.head = nn.Linear(8, 5)

        def forward(self, pair):
            one, two = (self.trunk(p) for p in pair.chunk(2, 1))
            return self.head((one - two).abs().mean((2, 3)))

    model = Siamese().eval()
    pair = torch.cat([x, torch.rand_like(x)], 1)
    for call in (0, 1, -1):
        maps = attnviz.explain(model, pair, layer="trunk", target=2, call=call)
        one, two = (model.trunk(p).detach().requires_grad_() for p in pair.chunk(2, 1))
        read = (one, two)[call]
        score = model.head((one - two).abs().mean((2, 3)))[:, 2].sum()
        (gradient,) = torch.autograd.grad(score, read)
        by_hand = (gradient.mean((2, 3), keepdim=True) * read).sum(1).relu().detach()
        torch.testing.assert_close(maps.values, by_hand)
    with pytest.raises(CaptureError, match="call=0"):
        attnviz.explain(model, pair, layer="trunk", target=2)
