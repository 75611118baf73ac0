"""One query of DETR-type detectors as target, against hooks by hand; boxes of altered copies."""

import numpy as np
import pytest
import torch

import attnviz
from attnviz.errors import TargetError
from attnviz.geometry import Geometry
from attnviz.models import default_layer
from attnviz.models.detections import Detections, detections, overlaps
from attnviz.targets import BoxTarget, Setting

transformers = pytest.importorskip("transformers")

SMALL = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_queries": 9,
    "num_labels": 4,
}  # fmt: skip
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1] * 4,
          "layer_type": "basic"}  # fmt: skip


def build(name):
    """A detector with random weights, whose queries have boxes and classes of their own."""
    torch.manual_seed(0)
    t = transformers
    if name == "yolos":
        config = t.YolosConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
            image_size=[96, 160], patch_size=16, num_detection_tokens=9, num_labels=4,
        )  # fmt: skip
        model = t.YolosForObjectDetection(config)
    elif name == "rt_detr":
        stages = t.RTDetrResNetConfig(**STAGES, out_features=["stage2", "stage3", "stage4"])
        config = t.RTDetrConfig(
            backbone_config=stages, encoder_hidden_dim=16, encoder_in_channels=[16, 16, 32],
            decoder_in_channels=[16] * 3, feat_strides=[8, 16, 32], num_denoising=0, **SMALL,
        )  # fmt: skip
        model = t.RTDetrForObjectDetection(config)
    else:
        kind = {"detr": "Detr", "conditional_detr": "ConditionalDetr"}[name]
        stages = t.ResNetConfig(**STAGES, out_features=["stage4"])
        config = getattr(t, f"{kind}Config")(
            use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
            backbone_config=stages, **SMALL,
        )  # fmt: skip
        model = getattr(t, f"{kind}ForObjectDetection")(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.copy_(torch.randn_like(weight) / weight[0].numel() ** 0.5)
    return model.double().eval()


@pytest.mark.parametrize("name", ["detr", "yolos"])
@pytest.mark.filterwarnings("ignore:the attributions miss")
def test_integrated_gradients_follow_one_query(name):
    model = build(name)
    x = torch.rand(1, 3, 96, 160, dtype=torch.float64)
    steps = 6
    maps = attnviz.explain(model, x, target="box:2", method="integrated_gradients", steps=steps)
    index = maps.target[0]["class"]
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros_like(x)
    for node, weight in zip(nodes, weights, strict=True):
        copy = ((1 + node) / 2 * x).requires_grad_()
        score = model(pixel_values=copy).logits[0, 2].softmax(0)[index]
        total += weight / 2 * torch.autograd.grad(score, copy)[0]
    torch.testing.assert_close(maps.values, (total * x).sum(1), rtol=1e-6, atol=1e-9)
    with torch.no_grad():
        ends = [model(pixel_values=y).logits[0, 2].softmax(0)[index] for y in (x, 0 * x)]
    gap = float((maps.values.sum() - (ends[0] - ends[1])).abs())
    assert maps.meta["convergence_delta"] == pytest.approx(gap, abs=1e-9)


KINDS = ["detr", "conditional_detr", "rt_detr", "yolos"]


@pytest.mark.parametrize("name", KINDS)
def test_a_query_equals_grad_cam_by_hand(name):
    model = build(name)
    layer = default_layer(model)
    assert layer == (
        "vit.encoder.layer.1.layernorm_before"
        if name == "yolos"
        else "model.backbone.model.encoder.stages.3"
    )
    x = torch.rand(1, 3, 96, 160, dtype=torch.float64)
    kept = []

    def read(module, inputs, output):  # the backbone is frozen, so the graph starts here
        kept.append(output if output.requires_grad else output.requires_grad_())

    handle = model.get_submodule(layer).register_forward_hook(read)
    out = model(pixel_values=x)
    handle.remove()
    softmax = name in ("detr", "yolos")
    p = out.logits.softmax(-1)[..., :-1] if softmax else out.logits.sigmoid()
    real = [q for q in range(9) if out.logits[0, q].argmax() < 4]
    for query in real[:2]:
        cls = int(out.logits[0, query].argmax())
        (gradient,) = torch.autograd.grad(p[0, query, cls], kept[0], retain_graph=True)
        act = kept[0].detach()
        if name == "yolos":  # the class token, 6 x 10 patches, 9 detection tokens
            act, gradient = (
                z[:, 1:61].unflatten(1, (6, 10)).permute(0, 3, 1, 2) for z in (act, gradient)
            )
        by_hand = (gradient.mean((2, 3), keepdim=True) * act).sum(1)[0]
        maps = attnviz.explain(model, x, target=f"box:{query}", signed=True)
        torch.testing.assert_close(maps.score[0], p[0, query, cls].detach(), rtol=1e-6, atol=0)
        scale = by_hand.abs().max()
        assert scale > 0
        torch.testing.assert_close(maps.values[0] / scale, by_hand / scale, rtol=0, atol=1e-6)
        cx, cy, w, h = (
            out.pred_boxes[0, query].detach() * torch.tensor([160, 96, 160, 96])
        ).tolist()
        box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        assert maps.target[0]["class"] == cls
        np.testing.assert_allclose(maps.target[0]["box"], box, atol=1e-3)
        found = attnviz.explain(model, x, target=BoxTarget(box, cls)).target[0]
        assert found["class"] == cls
        np.testing.assert_allclose(found["box"], box, atol=1e-3)
    for query in set(range(9)) - set(real):
        with pytest.raises(TargetError, match=f"box {query} of image 0 is 'no object'"):
            attnviz.explain(model, x, target=f"box:{query}")


def test_whether_the_last_class_is_no_object_is_known_or_asked():
    out = {"pred_logits": torch.randn(1, 3, 5), "pred_boxes": torch.rand(1, 3, 4)}
    with pytest.raises(TargetError, match="'no object' is not known: pass labels="):
        detections(out, (10, 10))
    four, five = (detections(out, (10, 10), [str(k) for k in range(n)])[0] for n in (4, 5))
    assert four.table.shape[1] == 4
    torch.testing.assert_close(five.table, out["pred_logits"][0].sigmoid())
    torch.testing.assert_close(four.table, out["pred_logits"][0].softmax(-1)[:, :4])


def test_overlap_is_intersection_over_union():
    box = torch.tensor([0.0, 0.0, 2.0, 2.0])
    others = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [2, 2, 3, 3], [0, 0, 1, 1]])
    torch.testing.assert_close(overlaps(box, others), torch.tensor([1, 1 / 3, 0, 0.25]))


def test_altered_copies_are_searched_for_the_box():
    place = Geometry.identity(20, 20)
    found = {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([2]),
             "scores": torch.tensor([0.9])}  # fmt: skip
    (target,) = BoxTarget(0).ready(Setting(1, (20, 20), [place], None)).matched([found], 1, None)
    assert float(target.score([found])) == pytest.approx(0.9)
    altered = [
        {"boxes": torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]]), "labels": torch.tensor([1, 2]),
         "scores": torch.tensor([0.8, 0.6])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64),
         "scores": torch.zeros(0)},
        found,
    ]  # fmt: skip
    torch.testing.assert_close(
        target.copies([0, 0, 0]).score(altered), torch.tensor([0.3, 0.0, 0.9])
    )


@pytest.mark.parametrize("name", ["detr", "yolos"])
def test_a_method_that_alters_the_picture(name):
    model = build(name).float()
    x = torch.rand(1, 3, 96, 160)
    with torch.no_grad():
        logits = model(pixel_values=x).logits[0]
    query = next(q for q in range(9) if logits[q].argmax() < 4)
    maps = attnviz.explain(
        model, x, target=f"box:{query}", method="occlusion", window=48, stride=48
    )
    (target,) = (
        BoxTarget(query)
        .ready(Setting(1, (96, 160), None, None))
        .matched(model(pixel_values=x), 1, None)
    )
    assert maps.values.isfinite().all()
    torch.testing.assert_close(maps.score[0], logits[query].softmax(0)[target.index])


def test_detections_of_one_class():
    one = Detections(torch.zeros(2, 4), torch.tensor([1, 3]), torch.tensor([0.5, 0.4]))
    assert one.of(3).tolist() == pytest.approx([0.0, 0.4])


def test_texts_before_the_picture_do_not_count_as_samples():
    """OWL-ViT's processor gives the texts first, and as many as there are names to look for."""
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
             "num_attention_heads": 2}  # fmt: skip
    torch.manual_seed(0)
    config = transformers.OwlViTConfig(
        text_config=small | {"vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 0,
                             "eos_token_id": 1},
        vision_config=small | {"image_size": 64, "patch_size": 16}, projection_dim=16,
    )  # fmt: skip
    model = transformers.OwlViTForObjectDetection(config).eval()
    words = torch.randint(2, 50, (3, 8))
    inputs = {
        "input_ids": words,
        "attention_mask": torch.ones_like(words),
        "pixel_values": torch.rand(1, 3, 64, 64),
    }
    maps = attnviz.explain(model, inputs, target="box:5", layer="owlvit.vision_model.encoder")
    assert maps.values.shape == (1, 4, 4)
    with torch.no_grad():  # each name for itself: sigmoid, no class for nothing
        best = model(**inputs).logits.sigmoid()[0, 5].max()
    assert maps.score[0] == pytest.approx(best.item())
    assert attnviz.explain(model, inputs, target="box:5").layer == maps.layer
