"""Dense prompt maps: equal to NACLIP written by hand, and on the water of scenes never seen."""

import numpy as np
import pytest
import torch

import attnviz
from attnviz.data import boatwater as bw
from attnviz.data.boatwater.arrays import OBJECT, WATER
from attnviz.errors import ModelError, TargetError
from attnviz.models.dense import dense_prompts
from attnviz.models.tiny_clip import tokenize
from tests.support.image_text import clip_model, letters, siglip_model

UNSEEN = 91  # training took seed 11


def scores(scenes, prompts, region):
    """Share of what is marked that lies in the region, over the region's share of the scene."""
    find = dense_prompts(attnviz.load("tiny-clip"), prompts)
    ratios, overlaps = [], []
    for photo, where in zip(scenes.images, scenes.region == region, strict=True):
        marked = find(np.asarray(photo))
        if marked.any():
            ratios.append((marked & where).sum() / marked.sum() / where.mean())
        overlaps.append((marked & where).sum() / (marked | where).sum())
    ratios = np.array(ratios)
    low = ratios.mean() - 1.96 * ratios.std() / len(ratios) ** 0.5
    return low, float(np.mean(overlaps)), len(ratios)


def test_water_and_boats_are_found_where_they_are():
    scenes = bw.generate(groups=["boat/water"] * 30, seed=UNSEEN)
    low, overlap, found = scores(scenes, ["water", "land"], WATER)
    assert (found, low > 1.4, overlap > 0.7) == (30, True, True), (low, overlap)
    low, overlap, found = scores(scenes, ["a boat", "water", "land"], OBJECT)
    assert (found > 25, low > 4) == (True, True), (found, low)


def test_there_is_hardly_any_water_on_land():
    find = dense_prompts(attnviz.load("tiny-clip"), ["water", "land"])
    scenes = bw.generate(groups=["other/land"] * 20, seed=UNSEEN)
    assert np.mean([find(np.asarray(photo)).mean() for photo in scenes.images]) < 0.05


def naclip(seen, k, v, heads, prefix, spread):
    """The last block's attention by NACLIP's formula, a head and a patch at a time."""
    size = k.shape[-1] // heads
    side = int((seen.shape[1] - prefix) ** 0.5)
    made = torch.zeros_like(v)
    for image in range(len(seen)):
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            for q in range(side * side):
                logits = k[image, :, part] @ k[image, prefix + q, part] / size**0.5
                for t in range(side * side):
                    apart = (t // side - q // side) ** 2 + (t % side - q % side) ** 2
                    logits[prefix + t] += np.exp(-apart / (2 * spread**2))
                made[image, prefix + q, part] = logits.softmax(0) @ v[image, :, part]
    return made[:, prefix:], side


@pytest.mark.parametrize("name", ["clip", "siglip", "tiny-clip"])
def test_the_maps_are_the_formula_by_hand(name):
    torch.manual_seed(0)
    if name == "tiny-clip":
        model, tokenizer = attnviz.load("tiny-clip").module, tokenize
        x, block, prefix = torch.rand(2, 3, 64, 64), model.visual.blocks[-1], 1
    else:
        pytest.importorskip("transformers")
        model = clip_model() if name == "clip" else siglip_model()
        tokenizer, x = letters, torch.rand(2, 3, 32, 32, dtype=torch.float64)
        block, prefix = model.vision_model.encoder.layers[-1], int(name == "clip")
    find = dense_prompts(model, ["a boat", "water"], tokenizer=tokenizer, spread=1.5)
    found = find.maps(x)
    assert not any(part._forward_hooks for part in model.modules())
    kept = []
    handle = block.register_forward_pre_hook(lambda part, inputs: kept.append(inputs[0]))
    with torch.no_grad():
        find.model.module(x)
        handle.remove()
        if name == "tiny-clip":
            seen = block.norm1(kept[0])
            _, k, v = block.attn.qkv(seen).split(64, -1)
            read, side = naclip(seen, k, v, 4, prefix, 1.5)
            one = model.visual.forward_head(
                model.visual.norm(block.attn.proj(read)).flatten(0, 1)[:, None]
            )
        else:
            seen, attention = block.layer_norm1(kept[0]), block.self_attn
            k, v = attention.k_proj(seen), attention.v_proj(seen)
            read, side = naclip(seen, k, v, 2, prefix, 1.5)
            vision = model.vision_model
            one = vision.post_layernorm(attention.out_proj(read)).flatten(0, 1)
            one = model.visual_projection(one) if name == "clip" else vision.head(one[:, None])
        logits = torch.nn.functional.normalize(one, dim=-1) @ find.model.module.text_features.T
        logits = logits * model.logit_scale.exp() + getattr(model, "logit_bias", 0)
    expected = logits.unflatten(0, (2, side, side)).movedim(-1, 1)
    torch.testing.assert_close(found, expected)
    assert found.std() > 0.01


def test_what_cannot_be_read_patch_by_patch_is_refused():
    model = attnviz.load("tiny-clip")
    with pytest.raises(TargetError, match="contest without a rival"):
        dense_prompts(model, ["water"])
    with pytest.raises(ModelError, match="square images"):
        dense_prompts(model, ["a boat", "water"]).maps(torch.rand(1, 3, 64, 128))
