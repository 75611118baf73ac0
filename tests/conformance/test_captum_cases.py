"""The cases that captum tests its layer Grad-CAM and guided Grad-CAM by, run on ours.

Networks are captum's own (`captum.testing.helpers`), inputs and expected values those of its
tests/attr/layer/test_grad_cam.py and tests/attr/test_guided_grad_cam.py (BSD-3, PyTorch team).
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attnviz
from attnviz.errors import CaptureError
from attnviz.methods import METHODS
from attnviz.methods.attribution._rules import guided

models = pytest.importorskip("captum.testing.helpers.basic_models")


class LayerGradCam:
    """Our Grad-CAM in the shape of captum's class: `attribute(inputs, target, ...)`."""

    def __init__(self, model: nn.Module, layer: nn.Module) -> None:
        self.model, self.layer = model, layer

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: int = 0,
        *,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        materialize_grads: bool = False,
    ) -> Tensor | tuple[Tensor, ...]:
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        layers, handles = [self.layer], []
        if attribute_to_layer_input:  # the layer's input is what an identity before it returns
            self.model.probe = nn.Identity()
            handles.append(
                self.layer.register_forward_pre_hook(lambda m, x: (self.model.probe(x[0]),))
            )
            layers = [self.model.probe]
        elif isinstance(self.layer, models.MultiRelu):  # it returns what its two parts do
            layers = list(self.layer.children())
        try:
            with attnviz.capture(self.model, layers=layers) as read:
                score = self.model(*inputs)[:, target].sum()
            gradients = read.gradients(score)
        except CaptureError as error:
            if not materialize_grads or "does not depend" not in str(error):
                raise
            gradients = {n: torch.zeros_like(a) for n, a in read.activations.items()}
        finally:
            for handle in handles:
                handle.remove()
            if attribute_to_layer_input:
                del self.model.probe
        fn = METHODS.get("gradcam").fn
        found = []
        for name, activation in read.activations.items():
            a, g = (t if t.ndim == 4 else t[..., None, None] for t in (activation, gradients[name]))
            parts = [fn(a[:, k : k + 1], g[:, k : k + 1]) for k in range(a.shape[1])]
            maps = fn(a, g)[:, None] if attr_dim_summation else torch.stack(parts, 1)
            maps = maps.relu() if relu_attributions else maps
            found.append(maps if activation.ndim == 4 else maps[..., 0, 0])
        return found[0] if len(found) == 1 else tuple(found)


class GuidedGradCam:
    """Our guided gradients and Grad-CAM in the shape of captum's class of that name."""

    def __init__(self, model: nn.Module, layer: nn.Module) -> None:
        self.model, self.cam = model, LayerGradCam(model, layer)

    def attribute(
        self, inputs: Tensor | tuple[Tensor, ...], *, mode: str = "nearest", **options: bool
    ) -> Tensor | tuple[Tensor, ...]:
        several = inputs if isinstance(inputs, tuple) else (inputs,)
        cam = self.cam.attribute(several, relu_attributions=True, **options)
        leaves = [x.detach().clone().requires_grad_() for x in several]
        with guided():
            score = self.model(*leaves)[:, 0].sum()
        gradients = torch.autograd.grad(score, leaves)
        found = []
        for x, gradient in zip(leaves, gradients, strict=True):
            # captum's: no map where it cannot be laid over an input
            fits = x.ndim == cam.ndim and mode == "nearest"
            up = F.interpolate(cam, x.shape[2:], mode=mode) if fits else None
            found.append(torch.empty(0) if up is None else gradient * up)
        return tuple(found) if isinstance(inputs, tuple) else found[0]


PICTURE = torch.arange(16).view(1, 1, 4, 4).float()
ONES = torch.ones(1, 1, 4, 4)
DIPPED = PICTURE.clone()
DIPPED[0, 0, 1, 1] = -4.0
HALF = 0.5625 * DIPPED
FLAT = torch.tensor([[0.0, 100.0, 0.0]])
CONV = [[[[11.25, 13.5], [20.25, 22.5]]]]


def frozen(net: nn.Module) -> nn.Module:
    return net.requires_grad_(False)


def conv(inplace: bool = False) -> nn.Module:
    return models.BasicModel_ConvNet_One_Conv(inplace=inplace)


LAYER_CASES = {
    "dense": (models.BasicModel_MultiLayer, "linear0", FLAT, [[400.0]], {}),
    "two outputs": (
        lambda: models.BasicModel_MultiLayer(multi_input_module=True), "multi_relu",
        torch.tensor([[0.0, 6.0, 0.0]]), ([[21.0]], [[21.0]]), {},
    ),
    "convolution": (conv, "conv1", PICTURE, CONV, {}),
    "channels apart": (
        conv, "conv1", PICTURE,
        [[[[-3.75, 3.0], [23.25, 30.0]], [[15.0, 10.5], [-3.0, -7.5]]]],
        {"attr_dim_summation": False},
    ),
    "no parameter needs a gradient": (lambda: frozen(conv()), "conv1", PICTURE, CONV, {}),
    "relu": (conv, "relu1", PICTURE, [[[[0.0, 4.0], [28.0, 32.5]]]], {}),
    "input of the layer": (conv, "conv1", DIPPED, HALF, {"attribute_to_layer_input": True}),
    "input of the layer, rectified": (
        conv, "conv1", DIPPED, HALF.relu(),
        {"attribute_to_layer_input": True, "relu_attributions": True},
    ),
    "two inputs": (conv, "conv1", (PICTURE, ONES), [[[[14.5, 19.0], [32.5, 37.0]]]], {}),
    "layer not used": (
        lambda: models.BasicModel_MultiLayer(multi_input_module=True), "relu",
        torch.tensor([[0.0, 6.0, 0.0]]), [[0.0]], {"materialize_grads": True},
    ),
}  # fmt: skip

BOTH = [
    [14.5, 29.0, 38.0, 19.0],
    [29.0, 58.0, 76.0, 38.0],
    [65.0, 130.0, 148.0, 74.0],
    [32.5, 65.0, 74.0, 37.0],
]
ONE = [
    [0.0, 0.0, 4.0, 4.0],
    [0.0, 0.0, 12.0, 8.0],
    [28.0, 84.0, 97.5, 65.0],
    [28.0, 56.0, 65.0, 32.5],
]
GUIDED_CASES = {
    "one input": (conv, "relu1", PICTURE, ONE, {}),
    "two inputs": (conv, "conv1", (PICTURE, ONES), (BOTH, BOTH), {}),
    "input of an in-place relu": (
        lambda: conv(True), "relu1", (PICTURE, ONES), (BOTH, BOTH),
        {"attribute_to_layer_input": True},
    ),
    "in place": (lambda: conv(True), "conv1", (PICTURE, ONES), (BOTH, BOTH), {}),
    "an input without positions": (conv, "conv1", (PICTURE, torch.ones(1)), (BOTH, []), {}),
    "an unknown interpolation": (
        conv, "conv1", (PICTURE, torch.ones(1)), ([], []), {"mode": "triilinear"},
    ),
}  # fmt: skip


def check(cases: dict, name: str, adapter: type) -> None:
    build, layer, inputs, expected, options = cases[name]
    net = build()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    got = adapter(net, getattr(net, layer)).attribute(inputs, **options)
    pairs = zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]
    for one, wanted in pairs:
        wanted = torch.as_tensor(wanted)
        torch.testing.assert_close(one.detach().view(wanted.shape), wanted, rtol=0, atol=0.01)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize("name", LAYER_CASES)
def test_layer_grad_cam(name: str) -> None:
    check(LAYER_CASES, name, LayerGradCam)


@pytest.mark.parametrize("name", GUIDED_CASES)
def test_guided_grad_cam(name: str) -> None:
    check(GUIDED_CASES, name, GuidedGradCam)
