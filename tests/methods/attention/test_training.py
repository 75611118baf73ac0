"""Maps of attention in the training graph, by finite differences."""

import pytest
import torch

import attnviz
from attnviz import attention
from attnviz.errors import MethodError
from attnviz.guidance import class_map
from tests.support.attention_models import plain, timm_model


def _differences(model, weight, loss, at=(3, 5)):
    (gradient,) = torch.autograd.grad(loss(), weight)
    step = torch.zeros_like(weight)
    step[at] = 1e-6
    with torch.no_grad():
        weight += step
    up = loss().item()
    with torch.no_grad():
        weight -= 2 * step
    down = loss().item()
    with torch.no_grad():
        weight += step
    return gradient[at].item(), (up - down) / 2e-6


@pytest.mark.parametrize(
    "method", ["generic_relevance", "legrad", "rollout", "gradient_attention", "raw_attention"]
)
@pytest.mark.parametrize("cls", [True, False])
def test_class_maps_of_attention_have_the_gradient_that_differences_give(method, cls):
    model = plain(fused=True, depth=3, cls=cls)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)).double()

    def loss():
        logits, maps = class_map(model, x, torch.tensor([1, 2]), method=method)
        assert logits.shape == (2, 5)
        return maps[:, :2].sum()

    for weight in (model.blocks[0].attn.qkv.weight, model.blocks[1].mlp[0].weight):
        mine, wanted = _differences(model, weight, loss)
        assert mine == pytest.approx(wanted, rel=1e-4, abs=1e-9)
    shown = attnviz.explain(model, x, method=method, target=attnviz.targets.ClassTarget(1))
    assert shown.values.shape == (2, 4, 4)


def test_class_map_of_attention_is_the_map_that_is_explained():
    model = plain(fused=True, depth=3)
    x = torch.randn(2, 3, 32, 32).double()
    for method in ("generic_relevance", "legrad", "rollout"):
        _, maps = class_map(model, x, 3, against=None, method=method)
        wanted = attnviz.explain(model, x, method=method, target=3).values
        torch.testing.assert_close(maps.detach(), wanted.to(maps.dtype))


def test_region_mass_as_a_loss():
    model = plain(fused=True, depth=2)
    x = torch.randn(2, 3, 32, 32).double()
    mask = torch.zeros(1, 32, 32).double()
    mask[:, :16] = 1
    mine, wanted = _differences(
        model, model.blocks[0].attn.qkv.weight,
        lambda: attention.region_mass(model, x, mask).mean(),
    )  # fmt: skip
    assert mine == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("method", ["generic_relevance", "legrad", "gradcam"])
def test_gradient_checkpointing_changes_nothing(method):
    model = timm_model("vit_tiny_patch16_224", depth=3, num_classes=5).double()
    x = torch.randn(2, 3, 64, 64).double()
    wanted = attnviz.explain(model, x, method=method, target=1).values
    _, trained = class_map(model, x, 1, against=None, method=method)
    model.set_grad_checkpointing(True)
    got = attnviz.explain(model, x, method=method, target=1).values
    torch.testing.assert_close(got, wanted)
    graph = attnviz.explain(model, x, method=method, target=1, create_graph=True).values
    torch.testing.assert_close(graph.detach(), wanted)
    _, maps = class_map(model, x, 1, against=None, method=method)
    torch.testing.assert_close(maps, trained)
    maps.sum().backward()
    assert model.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    assert model.grad_checkpointing is True


def test_gradient_checkpointing_of_a_hugging_face_model():
    transformers = pytest.importorskip("transformers", "5.20")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=48,
        image_size=32, patch_size=8, num_labels=5, hidden_dropout_prob=0.0,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).double().train()
    x = torch.randn(2, 3, 32, 32).double()
    _, wanted = class_map(model, x, 1, method="generic_relevance")
    model.activation_checkpointing_enable()
    _, got = class_map(model, x, 1, method="generic_relevance")
    torch.testing.assert_close(got, wanted)
    assert model.is_activation_checkpointing
    for method in ("attnlrp", "cplrp"):
        assert attnviz.explain(model, x, method=method, target=1).values.shape == (2, 32, 32)


@pytest.mark.parametrize("method", ["attnlrp", "cplrp"])
def test_maps_whose_graph_is_not_their_derivative_refuse(method):
    model, x = plain(fused=True), torch.randn(1, 3, 32, 32).double()
    with pytest.raises(MethodError, match="not its derivative"):
        attnviz.explain(model, x, method=method, target=1, create_graph=True)


def test_a_cam_of_fused_attention_can_be_trained_on():
    model = timm_model("vit_tiny_patch16_224", depth=2, num_classes=5)
    x, layer = torch.randn(1, 3, 64, 64), "blocks.0.norm1"
    maps = attnviz.explain(model, x, method="gradcam", layer=layer, target=1, create_graph=True)
    maps.values.sum().backward()
    assert model.blocks[0].attn.qkv.weight.grad is not None
