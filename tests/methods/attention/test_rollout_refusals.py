"""Transformers whose tokens are pooled inside an attention or run in branches: the true reason."""

import pytest
import torch

import attnviz
from attnviz.errors import MethodError

timm = pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("name", "layer"),
    [("mvitv2_tiny", "stages.0.blocks.0.attn"), ("crossvit_9_240", "blocks.2.blocks.1.2.attn")],
)
@pytest.mark.filterwarnings("ignore:rollout leaves out")
def test_tokens_that_cannot_be_followed_are_refused_by_name(name, layer):
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    x = torch.rand(1, 3, *model.pretrained_cfg["input_size"][1:])
    with pytest.raises(MethodError, match="last tokens that could be followed on") as error:
        attnviz.explain(model, x, method="rollout")
    assert layer in str(error.value)
    assert "gradcam" in str(error.value)


def test_rollout_over_windows_that_overlap_is_a_share():
    torch.manual_seed(0)
    model = timm.create_model("volo_d1_224", pretrained=False).eval()
    maps = attnviz.explain(model, torch.rand(1, 3, 224, 224), method="rollout", row="mean")
    # at the border a window looks beyond the picture, and that share is on none of its patches
    assert 0.9 < float(maps.values.sum()) <= 1 + 1e-5
    assert bool((maps.values >= 0).all())
