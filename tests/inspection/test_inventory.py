"""The inventory: every mechanism named rightly, what it reads is what ran, and nothing invented."""

import json

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import attnviz
from attnviz.errors import ModelError
from attnviz.inspection import KINDS, inspect


def resnet18(attention):
    return timm.create_model("resnet18", num_classes=2, block_args={"attn_layer": attention})


#: name -> (model, input size, kind, how many, shape of the first without the batch)
MODELS = {
    "se": (lambda: timm.create_model("seresnet18"), 64, "channel", 8, (64, 1, 1)),
    "eca": (lambda: timm.create_model("ecaresnet26t"), 64, "channel", 8, (256, 1, 1)),
    "cbam channel": (lambda: resnet18("cbam"), 64, "channel", 8, (64, 1, 1)),
    "cbam spatial": (lambda: resnet18("cbam"), 64, "spatial", 8, (1, 16, 16)),
    "selective kernel": (lambda: timm.create_model("skresnet18"), 64, "branch", 8, (2, 64, 1, 1)),
    "resnest": (lambda: timm.create_model("resnest14d"), 64, "branch", 4, (2, 64, 1, 1)),
    "global context": (lambda: timm.create_model("gcresnext26ts"), 64, "spatial", 8, (1, 1, 256)),
    "coordinate": (lambda: resnet18("coord"), 64, "channel & spatial", 16, (64, 1, 16)),
    "halo": (lambda: timm.create_model("halonet26t"), 256, "self", 3, None),
    "bottleneck": (lambda: timm.create_model("botnet26t_256"), 256, "self", 3, (4, 256, 256)),
    "lambda": (lambda: timm.create_model("lambda_resnet26t"), 256, "spatial", 3, None),
    "efficientnet": (lambda: timm.create_model("efficientnet_b0"), 64, "channel", 16, (32, 1, 1)),
    "mobilenetv3": (lambda: timm.create_model("mobilenetv3_small_100"), 64, "channel", 9,
                    (16, 1, 1)),
    "regnety": (lambda: timm.create_model("regnety_002"), 64, "channel", 13, (24, 1, 1)),
    "tv efficientnet": (lambda: torchvision.models.efficientnet_b0(), 64, "channel", 16,
                        (32, 1, 1)),
    "vit": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3), 64, "self", 3,
            (3, 17, 17)),
    "tv vit": (lambda: torchvision.models.VisionTransformer(64, 16, 2, 2, 32, 64), 64, "self", 2,
               (2, 17, 17)),
}  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_every_mechanism_is_listed(case):
    factory, side, kind, count, shape = MODELS[case]
    model, x = factory().eval(), torch.randn(1, 3, side, side)
    inventory = inspect(model, x)
    found = inventory.of_kind(kind)
    assert len(found) == count
    assert shape is None or found[0].shape == shape
    assert {e.kind for e in inventory} <= set(KINDS)
    assert inventory.missed == ()
    for entry in found:
        module = model.get_submodule(entry.name)
        assert entry.module == type(module).__name__
        assert entry.parameters == sum(p.numel() for p in module.parameters())
        assert entry.read().shape[1:] == entry.shape or entry.shape[0] == entry.source.windows


@pytest.mark.parametrize(
    "factory",
    [
        torchvision.models.resnet18,
        lambda: torchvision.models.vgg16(num_classes=2),
        lambda: torchvision.models.convnext_tiny(num_classes=2),
        torchvision.models.mobilenet_v2,
    ],
    ids=["resnet18", "vgg16", "convnext_tiny", "mobilenet_v2"],
)
def test_nothing_is_invented(factory):
    inventory = inspect(factory().eval(), torch.randn(1, 3, 64, 64))
    assert list(inventory) == []
    assert "none" in repr(inventory)


def hooked(model, pick, x):
    """What the modules gave that `pick` chooses, by forward hooks."""
    seen, handles = [], []
    for module in model.modules():
        if pick(module):
            handles.append(module.register_forward_hook(lambda m, i, o: seen.append(o)))
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize(("case", "gate"), [("se", "gate"), ("cbam channel", "gate"),
                                            ("efficientnet", "gate")])  # fmt: skip
def test_gates_are_what_the_module_computed(case, gate):
    factory, side, kind, *_ = MODELS[case]
    model, x = factory().eval(), torch.randn(2, 3, side, side)
    gates = {id(getattr(m, gate)) for m in model.modules() if hasattr(m, gate)}
    want = hooked(model, lambda m: id(m) in gates, x)
    if case == "cbam channel":
        want = want[::2]  # channel and spatial take turns
    got = [e.read() for e in inspect(model, x).of_kind(kind)]
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_self_attention_is_the_softmax():
    factory, side, *_ = MODELS["vit"]
    model, x = factory().eval(), torch.randn(2, 3, side, side)
    entry = inspect(model, x)[0]
    with torch.no_grad():
        tokens = model.norm_pre(model._pos_embed(model.patch_embed(x)))
        qkv = model.blocks[0].attn.qkv(model.blocks[0].norm1(tokens))
    q, k, _ = qkv.unflatten(-1, (3, 3, 64)).permute(2, 0, 3, 1, 4)
    want = (q @ k.mT / 8).softmax(-1)
    torch.testing.assert_close(entry.read(), want, rtol=0, atol=1e-6)
    assert entry.attends == "4 x 4 patches and 1 more token attend each other"


class Warp(nn.Module):
    """A spatial transformer: theta from the picture, through affine_grid and grid_sample."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Linear(3 * 64, 6)

    def forward(self, x):
        theta = self.theta(x.flatten(1)).view(-1, 2, 3)
        return F.grid_sample(
            x, F.affine_grid(theta, x.shape, align_corners=False), align_corners=False
        )


class Deformed(nn.Module):
    def __init__(self):
        super().__init__()
        self.offset = nn.Conv2d(3, 18, 3, padding=1)
        self.conv = torchvision.ops.DeformConv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x, self.offset(x))


def test_warps_and_deformed_sampling():
    x = torch.randn(2, 3, 8, 8)
    warp = nn.Sequential(nn.Identity(), Warp()).eval()
    [entry] = inspect(warp, x)
    assert (entry.name, entry.kind, entry.mechanism) == ("1", "spatial", "spatial transformer")
    assert entry.shape == (2, 3)
    torch.testing.assert_close(entry.read(), warp[1].theta(x.flatten(1)).view(2, 2, 3).detach())
    deformed = Deformed().eval()
    [entry] = inspect(deformed, x)
    assert (entry.name, entry.kind) == ("conv", "spatial")
    assert entry.attends == "each output position reads 9 places of its own"
    torch.testing.assert_close(entry.read(), deformed.offset(x).detach())


class Glimpse(nn.Module):
    @staticmethod
    def hard_attention(inputs, output):
        return output, "glimpse", "one place a step"

    def forward(self, x):
        return x.flatten(1)[:, :2].tanh()


def test_a_module_can_declare_hard_attention():
    x = torch.randn(2, 3, 4, 4)
    [entry] = inspect(Glimpse(), x)
    assert (entry.kind, entry.mechanism, entry.shape) == ("hard", "glimpse", (2,))
    torch.testing.assert_close(entry.read(), x.flatten(1)[:, :2].tanh())


def test_costs():
    model, x = MODELS["vit"][0](), torch.randn(1, 3, 64, 64)
    inventory = inspect(model, x)
    total = sum(p.numel() for p in model.parameters())
    assert inventory.parameters == total
    # qkv and the projection of 192 channels, with biases
    own = 192 * 576 + 576 + 192 * 192 + 192
    assert inventory[0].parameters == own
    assert inventory[0].parameter_share == pytest.approx(own / total)
    n, d = 17, 192
    spent = 2 * (n * d * 3 * d + n * d * d + 2 * n * n * d)
    assert inventory[0].flops == spent
    assert 0 < inventory[0].flop_share < 1 / 3


def test_the_model_is_left_as_it_was():
    model, x = resnet18("cbam"), torch.randn(2, 3, 64, 64)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    state = torch.get_rng_state()
    inspect(model, x)
    assert all(m.training for m in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_json_and_bad_input():
    inventory = attnviz.inspect(MODELS["se"][0](), torch.randn(1, 3, 64, 64), name="SE")
    document = json.loads(inventory.to_json())
    assert document["schema"] == "attnviz.inspect"
    assert len(document["mechanisms"]) == 8
    assert document["mechanisms"][0]["kind"] == "channel"
    assert len(inventory.table()) == 8
    with pytest.raises(ModelError, match="does not run on the example"):
        inspect(MODELS["se"][0](), torch.randn(1, 5, 64, 64))


def test_drawing_marks_what_was_found():
    from matplotlib.colors import to_hex

    from attnviz.inspection.drawing import COLOURS, draw

    model = resnet18("cbam")
    figure = draw(model, inspect(model, torch.randn(1, 3, 64, 64)))
    ax = figure.axes[0]
    marks = [to_hex(patch.get_facecolor()).upper() for patch in ax.patches]
    # eight blocks with one gate of each kind
    assert marks.count(COLOURS["channel"]) == 8
    assert marks.count(COLOURS["spatial"]) == 8
    texts = [t.get_text() for t in ax.texts]
    assert {"layer1", "layer2", "layer3", "layer4"} <= set(texts)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["channel: 8", "spatial: 8"]
    plain = torchvision.models.resnet18()
    empty = draw(plain, inspect(plain, torch.randn(1, 3, 64, 64))).axes[0]
    colours = {to_hex(patch.get_facecolor()).upper() for patch in empty.patches}
    assert not colours & set(COLOURS.values())
    assert any("no attention mechanism" in t.get_text() for t in empty.texts)


def test_drawing_has_an_arrow_from_each_box_to_the_next():
    from attnviz.inspection.drawing import draw

    plain = torchvision.models.resnet18()
    ax = draw(plain, inspect(plain, torch.randn(1, 3, 64, 64))).axes[0]
    boxes = 2 + 4 * 2 + 1  # stem, four stages of two blocks, head
    assert len(ax.patches) == boxes
    arrows = [t for t in ax.texts if getattr(t, "arrow_patch", None) is not None]
    assert len(arrows) == boxes + 1  # one into each, and one out
    assert [t.get_text() for t in ax.texts].count("0 BasicBlock") == 4


def test_command(tmp_path, capsys):
    from attnviz.cli import main

    picture = tmp_path / "net.svg"
    assert main(["inspect", "timm:seresnet18", "--size", "64", "--draw", str(picture)]) == 0
    out = capsys.readouterr().out
    assert out.count("gate (sigmoid)") == 8
    assert picture.read_text().startswith("<?xml")
    again = tmp_path / "again.svg"
    assert main(["inspect", "timm:seresnet18", "--size", "64", "--draw", str(again)]) == 0
    assert again.read_bytes() == picture.read_bytes()
    capsys.readouterr()
    assert main(["inspect", "timm:seresnet18", "--size", "64", "--draw", str(picture)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["inspect", "torchvision:resnet18", "--size", "64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mechanisms"] == []
    assert main(["inspect", "torchvision:resnet18", "--size", "64"]) == 0
    assert "torchvision:resnet18 (random weights): none" in capsys.readouterr().out
