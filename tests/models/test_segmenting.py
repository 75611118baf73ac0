"""Segmenters through transformers' own classes, with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from attnviz.data import open_dataset
from attnviz.data.segmented import with_segments
from attnviz.errors import DataError, ModelError
from attnviz.models.segmenting import load_segmenter

NAMES = {0: "land", 1: "boat", 2: "water, sea"}


def segformer(folder):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16],
        patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2],
        decoder_hidden_size=16, num_labels=3, id2label=NAMES,
        label2id={v: k for k, v in NAMES.items()},
    )  # fmt: skip
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.SegformerImageProcessor(size=size).save_pretrained(folder)
    return folder


def mask2former(folder):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    backbone = transformers.SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2],
        window_size=2, out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=16, encoder_layers=1, decoder_layers=2, dim_feedforward=16,
        num_attention_heads=2, num_queries=6, id2label=NAMES,
        label2id={v: k for k, v in NAMES.items()},
    )  # fmt: skip
    transformers.Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    size = {"height": 64, "width": 64}
    transformers.Mask2FormerImageProcessor(size=size).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("make", [segformer, mask2former])
def test_the_classes_are_those_of_transformers_itself(make, tmp_path) -> None:
    folder = make(tmp_path / "net")
    found = load_segmenter(f"hf:{folder}")
    assert found.labels == tuple(NAMES.values())
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    got = found(photo)
    assert got.shape == (40, 60)
    inputs = found.processor(images=Image.fromarray(photo), return_tensors="pt")
    with torch.no_grad():
        output = found.module(**inputs)
    if make is segformer:  # logits at a quarter, enlarged to the photo, the largest wins
        large = torch.nn.functional.interpolate(
            output.logits, (40, 60), mode="bilinear", align_corners=False
        )
        want = large.argmax(1)[0]
    else:  # each query's class times its mask, summed over queries
        classes = output.class_queries_logits.softmax(-1)[..., :-1]
        masks = torch.nn.functional.interpolate(
            output.masks_queries_logits, (384, 384), mode="bilinear", align_corners=False
        ).sigmoid()
        maps = torch.einsum("bqc,bqhw->bchw", classes, masks)
        want = torch.nn.functional.interpolate(
            maps, (40, 60), mode="bilinear", align_corners=False
        ).argmax(1)[0]
    np.testing.assert_array_equal(got, want.numpy())


def test_what_is_no_segmenter_is_refused(tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    with pytest.raises(ModelError, match="hf:NAME or hf:FOLDER"):
        load_segmenter("timm:resnet18")
    config = transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a ViT, which is no segmenter"):
        load_segmenter(f"hf:{tmp_path}")


def test_masks_are_added_where_there_is_none_and_say_what_made_them(tmp_path) -> None:
    for k, name in enumerate(("boat/1.png", "boat/2.png", "boat/3.png", "other/1.png")):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((6, 8, 3), 10 * k, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / name)
    masks = tmp_path / "masks" / "boat"
    masks.mkdir(parents=True)
    Image.fromarray(np.eye(6, 8, dtype=np.uint8)).save(masks / "1.png")
    asked = []

    def segment(photo):
        asked.append(int(photo[0, 0, 0]))
        found = np.zeros(photo.shape[:2], int)
        if photo[0, 0, 0] != 20:  # of the third it knows nothing
            found[1:3, 2:5] = 1
        found[5] = 2
        return found

    data = open_dataset(tmp_path / "data", masks=tmp_path / "masks")
    numbers = {"boat": 1, "water": 2}
    found, empty = with_segments(data, segment, numbers, source="hf:net", everywhere=["water"])
    assert (asked, empty) == ([0, 10, 20, 30], 1)
    expected = np.zeros((6, 8), bool)
    expected[1:3, 2:5] = True
    np.testing.assert_array_equal(found[0].mask("boat"), np.eye(6, 8, dtype=bool))
    np.testing.assert_array_equal(found[1].mask("boat"), expected)
    assert [s.has_mask("boat") for s in found] == [True, True, False, False]
    assert [s.mask_source("boat") for s in found] == ["", "hf:net", "", ""]
    assert all(s.mask("water").sum() == 8 for s in found)
    assert {s.mask_source("water") for s in found} == {"hf:net"}
    asked.clear()
    with_segments(data, segment, {"boat": 1}, source="hf:net")
    assert asked == [10, 20]  # only where a boat is and no mask of it
    with pytest.raises(DataError, match=r"hf:net gave \(2, 2\)"):
        with_segments(data, lambda p: np.zeros((2, 2)), {"boat": 1}, source="hf:net")
