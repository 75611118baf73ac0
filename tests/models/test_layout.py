"""Layouts: a changed corner of the image must show in the same corner of the spatial map."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attnviz.errors import LayoutError
from attnviz.models import Layout, infer_layout

from .model_zoo import CASES, Case, corner_cell, corner_change

LOCAL = [case for case in CASES if case.early]
CORNERS = [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize("case", LOCAL, ids=lambda case: case.name)
def test_a_corner_stays_a_corner(case: Case) -> None:
    model = case.model()
    layer = model.get_submodule(case.early)
    for corner in CORNERS:
        one, two = corner_change(model, case.early, case.size, corner)
        layout = infer_layout(model, layer, one, case.size, batch=1)
        if case.kind == "tokens":
            assert (layout.kind, layout.prefix) == (case.kind, case.prefix)
        change = (layout.to_spatial(two) - layout.to_spatial(one)).abs().sum(1)[0]
        height, width = change.shape
        row, column = divmod(int(change.argmax()), width)
        expected = corner_cell(corner, (height, width))
        reach = max(1, height // 4), max(1, width // 4)
        assert abs(row - expected[0]) <= reach[0], (corner, change.shape, (row, column))
        assert abs(column - expected[1]) <= reach[1], (corner, change.shape, (row, column))
        if case.kind == "tokens":  # nothing has mixed the patches yet: one cell and no other
            change[row, column] = 0
            assert not change.any()


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.kind == "channels_last"], ids=lambda case: case.name
)
def test_channels_last_is_told_at_every_depth(case: Case) -> None:
    model = case.model()
    seen: dict[str, torch.Tensor] = {}
    names = [n for n, m in model.named_modules() if type(m).__name__.startswith("SwinTransformerB")]
    for name in [*names, case.layer]:
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output})
        )
    model(torch.randn(1, 3, *case.size))
    assert len(seen) == len(names) + 1
    for name, tensor in seen.items():
        layer = model.get_submodule(name)
        assert infer_layout(model, layer, tensor, case.size) == Layout("channels_last"), name
        assert infer_layout(model, layer, tensor) == Layout("channels_last"), name


# -- the layout itself -------------------------------------------------------------------------


def test_tokens_by_hand() -> None:
    tokens = torch.arange(2 * 9 * 1.0).view(2, 9, 1)  # 2 prefix, 2 x 3 patches, 1 suffix
    layout = Layout("tokens", prefix=2, grid=(2, 3), suffix=1)
    expected = torch.tensor([[2.0, 3, 4], [5, 6, 7]])
    assert torch.equal(layout.to_spatial(tokens)[0, 0], expected)
    assert torch.equal(layout.to_spatial(tokens)[1, 0], expected + 9)
    assert layout.describe() == "tokens: 2 prefix + 2 x 3 + 1 suffix"


def test_to_spatial_is_a_differentiable_view() -> None:
    for layout, shape in (
        (Layout("tokens", 1, (2, 3)), (2, 7, 4)),
        (Layout("channels_last"), (2, 2, 3, 4)),
        (Layout("channels_first"), (2, 4, 2, 3)),
    ):
        tensor = torch.randn(shape, requires_grad=True)
        spatial = layout.to_spatial(tensor)
        assert spatial.shape == (2, 4, 2, 3)
        assert spatial.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
        (gradient,) = torch.autograd.grad(spatial.sum(), tensor)
        assert gradient.sum() == 48
        if layout.kind == "tokens":
            assert not gradient[:, 0].any()


def test_a_wrong_shape_is_an_error() -> None:
    with pytest.raises(LayoutError, match=r"takes 7 tokens, got 8 in \(2, 8, 4\)"):
        Layout("tokens", 1, (2, 3)).to_spatial(torch.zeros(2, 8, 4))
    with pytest.raises(LayoutError, match="takes 4 dimensions"):
        Layout("channels_last").to_spatial(torch.zeros(2, 8, 4))


def test_contradictions_are_errors() -> None:
    with pytest.raises(LayoutError, match="channels_first, channels_last, tokens"):
        Layout("nchw")
    with pytest.raises(LayoutError, match="grid"):
        Layout("tokens")
    with pytest.raises(LayoutError, match="grid"):
        Layout("channels_last", grid=(2, 2))


# -- evidence ----------------------------------------------------------------------------------


class _Holder(nn.Module):
    """A model that holds one layer, and whatever parameters a test gives it."""

    def __init__(self, layer: nn.Module, **facts: object) -> None:
        super().__init__()
        self.layer = layer
        for name, fact in facts.items():
            setattr(self, name, fact)


def _infer(
    layer: nn.Module, shape: tuple[int, ...], size: object = None, **facts: object
) -> Layout:
    model = _Holder(layer, **facts)
    return infer_layout(model, layer, torch.zeros(shape), size)


def test_the_layers_own_type_settles_square_cubes() -> None:
    cube = (1, 8, 8, 8)
    assert _infer(nn.Conv2d(3, 8, 3), cube).kind == "channels_first"
    assert _infer(nn.BatchNorm2d(8), cube).kind == "channels_first"
    assert _infer(nn.LayerNorm(8), cube).kind == "channels_last"
    assert _infer(nn.Linear(8, 8), cube).kind == "channels_last"
    from timm.layers import LayerNorm2d

    assert _infer(LayerNorm2d(8), cube).kind == "channels_first"


def test_an_open_cube_is_an_error_and_not_a_guess() -> None:
    block = nn.Sequential(nn.LayerNorm(8), nn.Conv2d(8, 8, 1))
    for layer in (block, nn.ReLU()):  # beside a plain norm, channels may be anywhere
        with pytest.raises(LayoutError, match="channels come first or last cannot be told"):
            _infer(layer, (1, 8, 8, 8), (16, 16), norm=nn.LayerNorm(8))


def test_a_network_of_convolutions_keeps_channels_first() -> None:
    stem, head = nn.Conv2d(3, 8, 1), nn.Linear(8, 4)
    layout = _infer(nn.ReLU(), (1, 8, 8, 8), (8, 8), stem=stem, head=head)
    assert layout.kind == "channels_first"


def test_a_family_settles_an_open_cube() -> None:
    from torchvision.models.convnext import CNBlock
    from torchvision.models.swin_transformer import SwinTransformerBlock

    first, last = CNBlock(8, 1.0, 0.0), SwinTransformerBlock(8, 2, [4, 4], [0, 0])
    for block, kind in ((last, "channels_last"),):
        assert _infer(block, (1, 8, 8, 8), (32, 32)).kind == kind
    holder = nn.Module()
    holder.__class__ = type("ConvNeXt", (nn.Module,), {})
    holder.block = first
    assert infer_layout(holder, first, torch.zeros(1, 8, 8, 8), (32, 32)).kind == "channels_first"


def test_shape_settles_layers_without_weights() -> None:
    assert _infer(nn.ReLU(), (1, 32, 7, 7), (224, 224)).kind == "channels_first"
    assert _infer(nn.Identity(), (1, 7, 7, 32), (224, 224)).kind == "channels_last"
    assert _infer(nn.ReLU(), (1, 64, 4, 6), (64, 96)).kind == "channels_first"
    assert _infer(nn.Identity(), (1, 4, 6, 64), (64, 96)).kind == "channels_last"


def test_heads_and_attention_weights_are_no_pictures() -> None:
    with pytest.raises(LayoutError, match="no picture"):
        _infer(nn.LayerNorm(16), (1, 3, 197, 16), (224, 224))

    class SelfAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout()

    attention = SelfAttention()
    model = _Holder(attention)
    with pytest.raises(LayoutError, match="attention weights"):
        infer_layout(model, attention.drop, torch.zeros(1, 3, 16, 16), (64, 64))


def test_windows_are_no_batch() -> None:
    import timm

    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, window_size=4, depths=(1,), embed_dim=8,
        num_heads=(2,), num_classes=4,
    )  # fmt: skip
    seen: list[torch.Tensor] = []
    layer = model.layers[0].blocks[0].attn
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(torch.randn(1, 3, 32, 32))
    assert seen[0].shape == (4, 16, 8)
    for batch in (None, 1):
        with pytest.raises(LayoutError, match="windows"):
            infer_layout(model, layer, seen[0], (32, 32), batch=batch)
    with pytest.raises(LayoutError, match="not the batch"):
        infer_layout(model, nn.Linear(8, 8), seen[0], (32, 32), batch=1)


def test_tokens_first_is_an_error() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    with pytest.raises(LayoutError, match="batch_first=False"):
        _infer(layer, (16, 1, 8), (64, 64), patch_size=16)


def test_hiera_tokens_are_refused_where_they_are_out_of_order() -> None:
    import timm

    model = timm.create_model("hiera_tiny_224").eval()
    for block, fine in ((0, False), (6, False), (11, True)):
        layer = model.blocks[block]
        count = 3136 // 4 ** sum(block >= start for start in (1, 3, 10))
        tokens = torch.zeros(1, count, layer.mlp.fc2.out_features)
        if fine:
            assert infer_layout(model, layer, tokens, (224, 224)).grid == (7, 7)
        else:
            with pytest.raises(LayoutError, match="mask unit"):
                infer_layout(model, layer, tokens, (224, 224))


TOKEN = nn.Parameter(torch.zeros(1, 1, 8))


@pytest.mark.parametrize(
    ("count", "size", "facts", "expected"),
    [
        (16, (64, 64), {"patch_size": 16}, (0, (4, 4), 0)),
        (17, (64, 64), {"patch_size": 16, "cls_token": TOKEN}, (1, (4, 4), 0)),
        (16, (64, 64), {"patch_size": 16, "cls_token": TOKEN}, (0, (4, 4), 0)),
        (24, (64, 96), {"patch_size": 16}, (0, (4, 6), 0)),
        (24, (96, 64), {"patch_size": 16}, (0, (6, 4), 0)),
        (6, (64, 96), {"patch_size": 8, "stages": nn.Identity()}, (0, (2, 3), 0)),  # two halvings
        (32, (64, 64), {"patch_size": (16, 8)}, (0, (4, 8), 0)),
        (21, (64, 64), {"patch_size": 16, "class_token": TOKEN,
                        "register_tokens": nn.Parameter(torch.zeros(1, 4, 8))}, (5, (4, 4), 0)),
        (22, (64, 64), {"patch_size": 16, "cls_token": TOKEN,
                        "detection_tokens": nn.Parameter(torch.zeros(1, 5, 8))}, (1, (4, 4), 5)),
        (17, (64, 64), {"class_embedding": nn.Parameter(torch.zeros(8)), "patch_size": 16},
         (1, (4, 4), 0)),
        (17, None, {"patch_size": 16, "image_size": 64, "cls_token": TOKEN}, (1, (4, 4), 0)),
        (17, (64, 64), {"num_prefix_tokens": 1}, (1, (4, 4), 0)),
    ],
)  # fmt: skip
def test_grids_by_hand(
    count: int,
    size: tuple[int, int] | None,
    facts: dict,
    expected: tuple[int, tuple[int, int], int],
) -> None:
    layout = _infer(nn.LayerNorm(8), (1, count, 8), size, **facts)
    prefix, grid, suffix = expected
    assert layout == Layout("tokens", prefix, grid, suffix)


@pytest.mark.parametrize(
    ("shape", "size", "facts", "match"),
    [
        ((1, 17, 8), (64, 64), {"patch_size": 16}, "no grid of patches has that many"),
        ((1, 4, 8), (64, 64), {"patch_size": 16}, "no grid of patches has that many"),  # queries
        ((1, 16, 8), (64, 64), {}, "known of the model: nothing"),
        ((1, 16, 9), (64, 64), {"patch_size": 16}, "last dimension is none of the layer's widths"),
        ((1, 8), (64, 64), {}, "one vector per image"),
        ((1, 8, 2, 4, 4), (64, 64), {}, "5 dimensions"),
    ],
)
def test_doubt_is_an_error(shape: tuple, size: tuple, facts: dict, match: str) -> None:
    with pytest.raises(LayoutError, match=match):
        _infer(nn.LayerNorm(8), shape, size, **facts)
