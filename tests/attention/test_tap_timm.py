"""The tap on torchvision and timm: output to the bit, weights as the written-out models have."""

import pytest
import torch

from attnviz import attention
from attnviz.errors import AttentionUnavailable
from tests.support.attention_models import first, sharpen, timm_model

# name, configuration, kinds of attention in order of first appearance
TIMM = {
    "vit": ("vit_tiny_patch16_224", {"depth": 2}, {"self": 2}),
    "vit_registers": ("vit_tiny_patch16_224", {"depth": 2, "reg_tokens": 4}, {"self": 2}),
    "deit_distilled": ("deit_tiny_distilled_patch16_224", {"depth": 2}, {"self": 2}),
    "eva": ("eva02_tiny_patch14_224", {"depth": 2, "size": 56}, {"self": 2}),
    "beit": ("beit_base_patch16_224", {"depth": 2, "embed_dim": 48, "num_heads": 3},
             {"self": 2}),
    "cait": ("cait_xxs24_224", {"depth": 2}, {"self": 4}),
    "xcit": ("xcit_nano_12_p16_224", {"depth": 2}, {"channel": 2, "self": 2}),
    "swin": ("swin_tiny_patch4_window7_224",
             {"window_size": 4, "depths": (2, 2), "num_heads": (2, 4), "embed_dim": 32},
             {"window": 4}),
    "swinv2": ("swinv2_tiny_window8_256",
               {"window_size": 4, "depths": (2, 2), "num_heads": (2, 4), "embed_dim": 32},
               {"window": 4}),
    "pit": ("pit_ti_224", {"depth": (1, 1, 1)}, {"self": 3}),
    "tnt": ("tnt_s_patch16_224", {"depth": 2},
            {"window": 2, "self": 2}),
    "levit": ("levit_128s", {"size": 128}, {"self": 11}),
    "relpos": ("vit_relpos_small_patch16_224", {"depth": 2}, {"self": 2}),
}  # fmt: skip
LARGER = {
    "maxvit": ("maxvit_rmlp_pico_rw_256", {"size": 64}, {"window", "self", "gate"}),
    "coatnet": ("coatnet_nano_rw_224", {"size": 64}, {"self", "gate"}),
    "mobilevit": ("mobilevit_xxs", {}, {"window"}),
    "crossvit": ("crossvit_tiny_240", {"size": 240}, {"self", "cross"}),
    "halonet": ("halonet26t", {"size": 256}, {"window", "self"}),
    "lambda": ("lambda_resnet26t", {}, {"pooling"}),
    "davit": ("davit_tiny", {}, {"window", "channel", "self"}),
}


def _run(model, x):
    with torch.no_grad():
        plain = model(x)
        with attention.tap(model) as tap:
            tapped = model(x)
    return plain, tapped, tap


def _kinds(tap):
    return {k: sum(s.kind == k for s in tap.attention) for k in {s.kind for s in tap.attention}}


@pytest.mark.parametrize("key", TIMM)
def test_fused_output_is_bit_identical_and_weights_are_the_written_out_ones(key):
    name, config, kinds = TIMM[key]
    size = config.get("size", 64)
    model = timm_model(name, **config)
    x = torch.randn(2, 3, size, size)
    plain, tapped, tap = _run(model, x)
    assert torch.equal(plain, tapped)
    assert _kinds(tap) == kinds
    assert not tap.missed
    assert max(s.error() for s in tap.attention) < 1e-5

    written = timm_model(name, fused=False, **config)
    written.load_state_dict(model.state_dict())
    plain, tapped, other = _run(written, x)
    assert torch.equal(plain, tapped)
    assert [s.name for s in other.attention] == [s.name for s in tap.attention]
    assert {s.source for s in other.attention} <= {"matmul", "einsum"}
    for mine, theirs in zip(tap.attention, other.attention, strict=True):
        assert (mine.heads, mine.kind) == (theirs.heads, theirs.kind)
        torch.testing.assert_close(mine.weights(), theirs.weights(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("key", LARGER)
def test_larger_hybrids(key):
    name, config, kinds = LARGER[key]
    model = timm_model(name, **config)
    size = config.get("size", 128)
    plain, tapped, tap = _run(model, torch.randn(2, 3, size, size))
    assert torch.equal(plain, tapped)
    assert {s.kind for s in tap.sites} == kinds
    assert not tap.missed
    assert max(s.error() for s in tap.attention) < 2e-5


@pytest.mark.parametrize("name", ["vit", "swin_t", "swin_v2_t"])
def test_torchvision(name):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model = (
        models.VisionTransformer(64, 16, 2, 4, 64, 128, num_classes=7)
        if name == "vit"
        else getattr(models, name)(num_classes=7)
    )
    x = torch.randn(2, 3, 64, 64)
    plain, tapped, tap = _run(sharpen(model).eval(), x)
    # MultiheadAttention leaves its native path while it is watched
    torch.testing.assert_close(plain, tapped, atol=1e-6 if name == "vit" else 0, rtol=0)
    assert len(tap.attention) == (2 if name == "vit" else 12)
    assert max(s.error() for s in tap.attention) < 1e-5
    if name == "vit":
        assert [s.name for s in tap.attention] == [
            f"encoder.layers.encoder_layer_{i}.self_attention" for i in range(2)
        ]
        block = model.encoder.layers[0]
        seen = block.ln_1(model.encoder.dropout(_embedded(model, x) + model.encoder.pos_embedding))
        weights = block.self_attention(seen, seen, seen, average_attn_weights=False)[1]
        torch.testing.assert_close(tap.attention[0].weights(), weights, atol=1e-6, rtol=0)
        assert (tap.attention[0].prefix, tap.attention[0].grid) == (1, (4, 4))


def _embedded(model, x):
    x = model._process_input(x)
    return torch.cat([model.class_token.expand(len(x), -1, -1), x], 1)


@pytest.mark.parametrize(
    "name",
    ["resnet18", pytest.param("vgg16", marks=pytest.mark.slow), "convnext_atto",
     "mobilenetv2_050", "densenet121", "resnetv2_50", "mixer_s16_224", "poolformer_s12"],
)  # fmt: skip
def test_nothing_is_found_where_there_is_none(name):
    size = 224 if name == "mixer_s16_224" else 64
    model = timm_model(name, size=size)
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        plain = model(x)
        with attention.tap(model, required=False) as tap:
            tapped = model(x)
    assert torch.equal(plain, tapped)
    assert tap.sites == ()
    with (
        pytest.raises(AttentionUnavailable, match="class activation"),
        attention.tap(model),
        torch.no_grad(),
    ):
        model(x)


SWEEP = (
    "cait_s24_224", "coat_tiny", "convit_tiny", "davit_tiny", "edgenext_small",
    "efficientformer_l1", "efficientformerv2_s0", "efficientvit_m0", "fastvit_sa12",
    "gcvit_xxtiny", "hiera_tiny_224", "mvitv2_tiny", "nest_tiny", "nextvit_small",
    "pvt_v2_b0", "samvit_base_patch16", "shvit_s1", "swinv2_cr_tiny_ns_224",
    "swin_tiny_patch4_window7_224", "tiny_vit_5m_224", "twins_svt_small", "visformer_tiny",
    "vitamin_small_224", "volo_d1_224", "xcit_tiny_12_p16_224", "maxvit_tiny_tf_224",
    "coatnet_0_rw_224", "botnet26t_256", "gcresnet33ts", "caformer_s18", "mobilevitv2_050",
    "bat_resnext26ts", "repvit_m1", "vit_base_patch16_224", "crossvit_small_240",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEP)
def test_sweep(name):
    size = {"convit": 224, "crossvi": 240, "botnet2": 256, "bat_res": 256}.get(name[:7], 224)
    model = timm_model(name, size=size)
    x = torch.randn(2, 3, size, size)
    plain, tapped, tap = _run(model, x)
    assert torch.equal(first(plain), first(tapped))
    assert tap.sites
    assert not [m for m in tap.missed if "not understood" in m.reason]
    assert max((s.error() for s in tap.attention), default=0.0) < 1e-5
