"""One forward pass serves every method, and says what the model said."""

import pytest
import timm
import torch
from torch import nn

import attnviz
from attnviz.errors import AttnvizError
from attnviz.methods import METHODS, Request, forward_pass
from attnviz.methods.attention._register import register_attention
from attnviz.targets import Contrast


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    ).eval()


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=48, num_classes=7, depth=2).eval()


def count_forwards(model):
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_activation_gradient_logits_and_head_by_hand(model):
    x = torch.rand(2, 3, 12, 10)
    request = Request(model, x, 2, classes=[1, 4], input_size=(12, 10))
    done = forward_pass(request, layers=["1"], heads=True)
    activation = model[:2](x)
    torch.testing.assert_close(done.activations["1"], activation)
    torch.testing.assert_close(done.logits, model(x))
    assert [c.descriptions for c in done.columns] == [(1, 1), (4, 4)]
    torch.testing.assert_close(done.scores[1], model(x)[:, 4])
    positions = activation.shape[-1] * activation.shape[-2]
    for number, index in enumerate([1, 4]):
        by_hand = (model[4].weight[index] / positions)[None, :, None, None].expand_as(activation)
        torch.testing.assert_close(done.gradients(number)["1"], by_hand)
        torch.testing.assert_close(done.gradients(number, read_off=False)["1"], by_hand)
    assert done.layouts["1"].kind == "channels_first"


@pytest.mark.parametrize("batch_size", [32, 2])
def test_heatmaps_carry_logits_and_probability(model, batch_size):
    x = torch.rand(3, 3, 12, 12)
    calls = count_forwards(model)
    maps = attnviz.explain(
        model, x, layer="1", classes=[2, Contrast(0, 1)], method=["gradcam", "eigencam"],
        batch_size=batch_size,
    )  # fmt: skip
    assert len(calls) == -(-3 // batch_size)  # one forward a batch, whatever was asked
    with torch.no_grad():
        logits = model(x)
    for found in maps.values():
        torch.testing.assert_close(found.logits, logits.repeat_interleave(2, 0))
        assert found.probability[1::2].isnan().all()  # a contrast has none
        torch.testing.assert_close(found.probability[::2], logits.softmax(1)[:, 2])
        assert not found.logits.requires_grad
        assert found[3:5].logits.shape == (2, 5)
    only = attnviz.explain(model, x, layer="1", target=Contrast(0, 1))
    assert only.probability is None
    assert only.logits.shape == (3, 5)


def test_a_function_as_target_needs_no_logits(model):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            return {"first": self.net(x), "second": self.net(x).sum(1)}

    x = torch.rand(2, 3, 12, 12)
    maps = attnviz.explain(
        Named(), x, layer="net.0", target=lambda out: out["second"], call=1
    )  # the network runs twice
    torch.testing.assert_close(maps.score, model(x).sum(1))
    assert maps.probability is None


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_logits_and_probability_are_saved_and_read(model, tmp_path, ending):
    maps = attnviz.explain(model, torch.rand(2, 3, 12, 12), layer="1", target=3)
    back = attnviz.Heatmaps.load(maps.save(tmp_path / f"maps{ending}"))
    assert torch.equal(back.logits, maps.logits)
    assert torch.equal(back.probability, maps.probability)


def test_attention_maps_carry_them_too_from_one_forward(vit):
    x = torch.rand(2, 3, 48, 48)
    calls = count_forwards(vit)
    maps = attnviz.explain(vit, x, method=["rollout", "generic_relevance"], target=3)
    assert len(calls) == 1
    with torch.no_grad():
        logits = vit(x)
    for found in maps.values():
        torch.testing.assert_close(found.logits, logits)
        torch.testing.assert_close(found.probability, logits.softmax(1)[:, 3])


def test_methods_with_and_without_tokens_share_a_pass(vit):
    x = torch.rand(1, 3, 48, 48)
    both = attnviz.explain(vit, x, method=["generic_relevance", "legrad"], target=3)
    for name, found in both.items():
        alone = attnviz.explain(vit, x, method=name, target=3)
        torch.testing.assert_close(found.values, alone.values)


def test_an_attention_method_declares_that_it_reads_values(vit):
    @register_attention("values_for_test", paper="", units="", keep="qkv")
    def value_norm(reading, column):
        """The norm of each patch's value, which needs no gradient."""
        site = reading.last
        norms = site.values().flatten(1, 1).norm(dim=-1).mean(1)
        return norms[:, site.prefix :].unflatten(1, site.grid)

    try:
        x = torch.rand(2, 3, 48, 48)
        maps = attnviz.explain(vit, x, method="values_for_test")
        seen = {}
        block = vit.blocks[-1].attn
        handle = block.qkv.register_forward_hook(lambda m, i, o: seen.update(v=o.chunk(3, -1)[2]))
        with torch.no_grad():
            vit(x)
        handle.remove()
        v = seen["v"].unflatten(-1, (block.num_heads, -1)).norm(dim=-1).mean(-1)[:, 1:]
        torch.testing.assert_close(maps.values, v.unflatten(1, (3, 3)))
        assert maps.meta["class_specific"] is False
    finally:
        METHODS._entries.pop("values_for_test")


def test_an_image_whose_score_is_not_finite_is_named(model, vit):
    for network, method, size in ((model, "gradcam", 12), (vit, "rollout", 48)):
        x = torch.rand(3, 3, size, size)
        x[1] = torch.nan
        with pytest.raises(AttnvizError, match="image 1 of the batch"):
            attnviz.explain(
                network, x, method=method, target=0, layer="1" if network is model else None
            )


def test_training_on_a_gradcam_of_a_transformer_has_a_second_derivative(vit):
    maps = attnviz.explain(vit, torch.rand(1, 3, 48, 48), target=2, create_graph=True)
    maps.values.square().sum().backward()
    assert vit.patch_embed.proj.weight.grad.abs().sum() > 0
