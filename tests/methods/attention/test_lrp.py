"""Relevance propagation: conservation, hand rules, and lxt's own CP-LRP in a process of its own."""

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import attnviz
from attnviz.errors import MethodError
from attnviz.methods.attention.lrp_rules import LrpMode
from tests.support.attention_models import plain, timm_model

# lxt patches torchvision's modules for the whole process, so it gets one of its own
LXT = r"""
import json, sys, torch
import transformers.pytorch_utils as utils
from torchvision.models import vision_transformer
# lxt imports all its language models; newer transformers lacks two names that BERT's wants
for name in ("apply_chunking_to_forward", "find_pruneable_heads_and_indices", "prune_linear_layer"):
    if not hasattr(utils, name):
        setattr(utils, name, None)
from lxt.efficient import monkey_patch
from lxt.efficient.models.vit_torch import cp_LRP
print("attnviz: lxt imported", file=sys.stderr)
monkey_patch(vision_transformer, cp_LRP)
torch.manual_seed(0)
model = vision_transformer.VisionTransformer(32, 8, 2, 3, 24, 48, num_classes=5)
torch.nn.init.normal_(model.heads[0].weight)
model = model.double().eval()
x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
x.requires_grad_()
model(x)[:, 2].sum().backward()
print(json.dumps((x * x.grad).sum(1).tolist()))
"""


@pytest.mark.peer("lxt")
def test_cplrp_equals_lxt_on_torchvision():
    from torchvision import models

    run = subprocess.run([sys.executable, "-c", LXT], capture_output=True, text=True, check=False)
    if "attnviz: lxt imported" not in run.stderr:  # it adapts to one version of transformers
        pytest.skip(f"lxt does not import here: {run.stderr.strip().splitlines()[-1]}")
    assert run.returncode == 0, run.stderr
    wanted = torch.tensor(json.loads(run.stdout.strip().splitlines()[-1])).double()
    torch.manual_seed(0)
    model = models.VisionTransformer(32, 8, 2, 3, 24, 48, num_classes=5)
    nn.init.normal_(model.heads[0].weight)
    model = model.double().eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    got = attnviz.explain(model, x, method="cplrp", target=2).values.double()
    # lxt divides activations by x + 1e-10
    torch.testing.assert_close(got, wanted, atol=1e-6 * wanted.abs().max().item(), rtol=1e-5)


def test_attention_gets_a_quarter_a_quarter_and_a_half():
    q, k, v = (t.requires_grad_() for t in torch.randn(3, 1, 2, 5, 4).double().unbind(0))
    weight = torch.randn(1, 2, 5, 4).double()
    plain_gradients = torch.autograd.grad(
        (F.scaled_dot_product_attention(q, k, v) * weight).sum(), (q, k, v)
    )
    with LrpMode(False):
        fused = F.scaled_dot_product_attention(q, k, v)
        written = ((q @ k.transpose(-2, -1)) / 2).softmax(-1) @ v
    torch.testing.assert_close(fused, written)
    for out in (fused, written):
        got = torch.autograd.grad((out * weight).sum(), (q, k, v))
        for g, wanted, share in zip(got, plain_gradients, (0.25, 0.25, 0.5), strict=True):
            torch.testing.assert_close(g, share * wanted)
    with LrpMode(True):
        out = F.scaled_dot_product_attention(q, k, v)
    got = torch.autograd.grad((out * weight).sum(), (q, k, v), allow_unused=True)
    assert got[0] is None and got[1] is None  # noqa: PT018
    torch.testing.assert_close(got[2], plain_gradients[2])


def test_products_may_be_written_into():
    """MViT adds the positions to a part of the scores, in place."""
    a, b, c = (torch.randn(4, 4).double().requires_grad_() for _ in range(3))
    with LrpMode(False):
        y = a @ b
        y[1:, 1:] = y[1:, 1:] + c[1:, 1:]
    torch.testing.assert_close(y[1:, 1:], (a @ b + c)[1:, 1:])
    got = torch.autograd.grad(y.square().sum() / 2, (a, b, c))
    torch.testing.assert_close(got[0], (y @ b.T / 2).detach())
    torch.testing.assert_close(got[1], (a.T @ y / 2).detach())
    torch.testing.assert_close(got[2][1:, 1:], y[1:, 1:].detach())


@pytest.mark.parametrize("name", ["gelu", "silu", "relu", "tanh", "by_hand"])
def test_activation_functions_conserve_relevance(name):
    x = torch.randn(50).double()
    x[0] = 0
    x.requires_grad_()
    function = {"by_hand": lambda t: t * torch.sigmoid(t)}.get(name) or getattr(F, name)
    with LrpMode(False):
        y = function(x)
    assert torch.equal(y, function(x))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close((x * gradient).detach(), y.detach(), atol=1e-14, rtol=0)


@pytest.mark.parametrize("norm", ["layer", "rms", "rms_by_hand", "group"])
def test_normalisations_take_their_deviation_as_constant(norm):
    x = torch.randn(3, 8).double().requires_grad_()
    weight = torch.randn(8).double()
    root = (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    deviation = (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    functions = {
        "layer": lambda: F.layer_norm(x, (8,), weight, None, 1e-5),
        "rms": lambda: F.rms_norm(x, (8,), weight, 1e-5),
        "rms_by_hand": lambda: weight * (x * torch.rsqrt(x.square().mean(-1, True) + 1e-5)),
        "group": lambda: F.group_norm(x, 1, weight, None, 1e-5),
    }
    with LrpMode(False):
        y = functions[norm]()
    torch.testing.assert_close(y, functions[norm]())
    (gradient,) = torch.autograd.grad(y[:, 3].sum(), x)
    unit = torch.eye(8).double()[3] - (1 / 8 if norm in ("layer", "group") else 0)
    scale = (deviation if norm in ("layer", "group") else root).detach()
    torch.testing.assert_close(gradient, (weight[3] * unit / scale).detach())


@pytest.mark.parametrize("method", ["attnlrp", "cplrp"])
def test_relevance_of_a_network_without_biases_adds_up_to_the_score(method):
    model = plain(fused=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or name in ("pos", "cls"):
                parameter.zero_()
        for module in model.modules():
            # centring takes away relevance: the mean of the token is a bias of its own
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-12
    x = torch.randn(2, 3, 32, 32).double()
    found = attnviz.explain(model, x, method=method, target=1)
    if method == "cplrp":
        torch.testing.assert_close(found.values.sum((1, 2)), found.score, atol=1e-9, rtol=1e-6)
    # softmax passes on what its Taylor expansion does, which no identity fixes, but it is finite
    assert found.values.isfinite().all()
    assert found.values.shape == (2, 32, 32)


def test_gradients_and_modules_are_as_before():
    model = timm_model("vit_tiny_patch16_224", depth=2)
    x = torch.randn(1, 3, 64, 64)
    before = torch.autograd.grad(model(x)[0, 3], model.blocks[0].attn.qkv.weight)[0]
    attnviz.explain(model, x, method=["attnlrp", "cplrp"])
    after = torch.autograd.grad(model(x)[0, 3], model.blocks[0].attn.qkv.weight)[0]
    assert torch.equal(before, after)
    assert not torch.overrides._get_current_function_mode_stack()


def test_named_inputs_are_refused():
    from attnviz.methods import METHODS, Request
    from attnviz.methods.attention._run import run

    request = Request(plain(), {"x": torch.randn(1, 3, 32, 32)}, 1)
    with pytest.raises(MethodError, match="one image tensor"):
        run(request, [METHODS.get("attnlrp")])
