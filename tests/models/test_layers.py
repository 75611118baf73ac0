"""Default layers: the layer is the one that the family's code pools or reads, and it is alive."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch
from torch import nn

import attnviz
from attnviz.errors import LayerNotFound, ModelError
from attnviz.models import default_layer, infer_layout, list_layers
from attnviz.models.choosing import choose
from attnviz.models.families import static_layer
from attnviz.models.probing import probe

from .model_zoo import CASES, Case, run

CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@CASE
def test_default_layer(case: Case) -> None:
    model = case.model()
    forwards: list[int] = []
    model.register_forward_pre_hook(lambda *_: forwards.append(1))
    image = torch.randn(1, 3, *case.size)
    assert default_layer(model, image) == case.layer
    assert bool(forwards) != case.static, "a known family costs no forward"
    del forwards[:]
    assert default_layer(model) == case.layer
    assert not forwards, "asked again, it is remembered"

    activation, gradient = run(model, case.layer, image)
    layout = infer_layout(model, model.get_submodule(case.layer), activation, case.size, batch=1)
    assert (layout.kind, layout.prefix) == (case.kind, case.prefix)
    spatial = layout.to_spatial(gradient)
    assert spatial.shape[2] * spatial.shape[3] > 1
    assert spatial.isfinite().all()
    assert spatial.ne(0).any(), "the map would be zero by construction"
    if case.pooled:  # what is averaged has one gradient at every position
        mean = spatial.mean((2, 3), keepdim=True).expand_as(spatial)
        torch.testing.assert_close(spatial, mean, rtol=1e-4, atol=1e-7)
    # a behind-the-layer oracle: the output of a class-token network's last block is dead
    if case.kind == "tokens" and case.layer.endswith(("norm1", "ln_1", "layernorm_before")):
        block = case.layer.rsplit(".", 1)[0]
        _, dead = run(model, block, image)
        if "dinov2" not in case.layer.split(".")[0]:  # reads the mean of the patches as well
            assert layout.to_spatial(dead).eq(0).all()


@pytest.mark.slow
@CASE
def test_the_probe_agrees_with_the_static_table(case: Case) -> None:
    if not case.static or "siglip" in case.name:
        pytest.skip("only the probe knows it, and the first test holds it")
    model = case.model()
    image = torch.randn(1, 3, *case.size)
    probed = choose(probe(model, image))
    ours, gradient = run(model, case.layer, image)
    theirs, _ = run(model, probed, image)
    if case.pooled:  # two names of one tensor, or its permutation
        torch.testing.assert_close(theirs.double().sum(), ours.double().sum(), rtol=1e-5, atol=1e-6)
        assert theirs.numel() == ours.numel()
    elif probed != case.layer:
        # VGG and AlexNet: in front of the last pooling; CaiT: the class attention's input, with
        # the class token; DINOv2: before the last block, which feeds both of the head's inputs
        known = ("vgg", "alexnet", "cait", "dinov2", "squeezenet", "densenet", "maxvit")
        assert any(family in case.name for family in known), (probed, case.layer)


class _Stub(nn.Module):
    """A network nobody knows."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def _gap(channels: int = 8) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)


def test_unknown_network_is_probed_to_its_last_map() -> None:
    model = _Stub(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), *_gap())
    assert default_layer(model, torch.randn(1, 3, 16, 16)) == "layers.2"


def test_grey_images_are_probed_with_one_channel() -> None:
    model = _Stub(nn.Conv2d(1, 8, 3), nn.ReLU(), *_gap())
    assert default_layer(model) == "layers.1"


def test_a_head_of_zeros_does_not_hide_the_layers() -> None:
    model = _Stub(nn.Conv2d(3, 8, 3), nn.ReLU(), *_gap())
    nn.init.zeros_(model.layers[-1].weight)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert default_layer(model, torch.randn(1, 3, 16, 16)) == "layers.1"
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_class_maps_are_no_default() -> None:
    model = _Stub(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1),
                  nn.Flatten())  # fmt: skip
    assert default_layer(model, torch.randn(1, 3, 16, 16)) == "layers.1"


def test_as_many_channels_as_classes_are_no_class_maps_before_a_head() -> None:
    model = _Stub(nn.Conv2d(3, 4, 3), nn.ReLU(), *_gap(4))
    assert default_layer(model, torch.randn(1, 3, 16, 16)) == "layers.1"


def test_a_layer_that_runs_twice_is_no_default() -> None:
    shared = nn.ReLU()
    model = _Stub(nn.Conv2d(3, 8, 3), shared, nn.Conv2d(8, 8, 3), shared, *_gap())
    assert default_layer(model, torch.randn(1, 3, 16, 16)) == "layers.2"


def test_no_positions_is_an_error() -> None:
    model = _Stub(nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(LayerNotFound, match=r"no layer with positions .* `attnviz layers MODEL`"):
        default_layer(model, torch.randn(1, 3, 16, 16))


class _Tokens(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(x.flatten(2), (3, 0)).transpose(1, 2)  # three tokens in front


class _Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1)


def test_the_stem_of_a_network_of_unknown_tokens_is_no_default() -> None:
    model = _Stub(nn.Conv2d(3, 8, 4, 4), _Tokens(), *[nn.Linear(8, 8) for _ in range(4)], _Mean())
    with pytest.raises(LayerNotFound, match="pass layer="):
        default_layer(model, torch.randn(1, 3, 16, 16))


def test_a_small_network_with_a_large_head() -> None:
    head = [nn.Flatten(), nn.Linear(8 * 14 * 14, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 4)]
    model = _Stub(nn.Conv2d(3, 8, 3), nn.ReLU(), *head)
    assert default_layer(model, torch.randn(1, 3, 16, 16)) == "layers.1"


def test_a_model_that_runs_on_no_input_is_an_error() -> None:
    model = _Stub(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(7, 4))
    with pytest.raises(ModelError, match=r"does not run on the inputs tried .* pass layer="):
        default_layer(model)


def test_probing_alters_nothing() -> None:
    model = _Stub(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(), *_gap()).train()
    model.layers[0].weight.requires_grad_(False)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    with torch.inference_mode():
        list_layers(model, torch.randn(2, 3, 16, 16).clone())
    torch.set_rng_state(random)
    random = torch.get_rng_state()
    default_layer(model)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert all(m.training for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert [p.requires_grad for p in model.parameters()][:2] == [False, True]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_memory_of_models_is_weak() -> None:
    model = _Stub(nn.Conv2d(3, 8, 3), nn.ReLU(), *_gap())
    default_layer(model, torch.randn(1, 3, 16, 16))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_wrappers_are_seen_through() -> None:
    from torchvision.models import resnet18

    model = resnet18()
    assert default_layer(nn.DataParallel(model)) == "layer4"
    assert default_layer(torch.compile(model)) == "layer4"


def test_threads_agree() -> None:
    model = _Stub(nn.Conv2d(3, 8, 3), nn.ReLU(), *_gap())
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(default_layer(model))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["layers.1"] * 4
    assert not any(m._forward_hooks for m in model.modules())


def test_table_of_layers() -> None:
    model = _Stub(nn.Conv2d(3, 8, 3), nn.ReLU(), *_gap())
    rows = {row.name: row for row in list_layers(model, torch.randn(1, 3, 16, 16))}
    assert rows["layers.1"] == ("layers.1", "ReLU", (8, 14, 14), "default; channels first")
    assert rows["layers.2"].note == "a single position"
    assert rows["layers.4"][2:] == ((4,), "no positions")


def test_table_marks_layers_whose_map_would_be_zero() -> None:
    case = next(c for c in CASES if c.name == "timm vit")
    rows = {row.name: row.note for row in list_layers(case.model())}
    assert rows["blocks.1"] == "tokens: 1 prefix + 3 x 4, gradient zero by construction"
    assert rows["blocks.1.norm1"] == "default; tokens: 1 prefix + 3 x 4"


def test_a_block_that_normalises_behind_its_attention() -> None:
    import timm

    options = {"img_size": 64, "depth": 3, "embed_dim": 48, "num_heads": 3, "num_classes": 10}
    model = timm.create_model(
        "vit_relpos_base_patch32_plus_rpn_256", **options, class_token=True, global_pool="token"
    ).eval()
    block = type(model.blocks[-1]).__name__
    # norm1 of such a block sees attention's output: a class-token head leaves its patches dead
    assert block == "ResPostRelPosBlock"
    assert static_layer(model) == "blocks.1"
    image = torch.randn(1, 3, 64, 64)
    _, gradient = run(model, "blocks.1", image)
    assert gradient[:, 1:].ne(0).any()
    _, dead = run(model, "blocks.2.norm1", image)
    assert dead[:, 1:].eq(0).all()


def test_each_output_has_its_own_default():
    """Two heads on branches of their own: the layer kept for one says nothing of the other."""

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3)
            self.left, self.right = nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3)
            self.ends = nn.ModuleDict({"a": nn.Linear(6, 3), "b": nn.Linear(6, 3)})

        def forward(self, x):
            x = self.stem(x).relu()
            parts = {"a": self.left(x).relu(), "b": self.right(x).relu()}
            return {name: self.ends[name](v.mean((2, 3))) for name, v in parts.items()}

    model, x = Branches(), torch.rand(1, 3, 16, 16)
    layers = [attnviz.explain(model, x, output=name).layer for name in ("a", "b", "a")]
    assert layers == ["left", "right", "left"]
