"""Grad-CAM on real architectures equals captum's, pytorch-grad-cam's and torchcam's."""

import pytest
import timm
import torch
import torchvision.models as tv
from torch import nn

import attnviz
from attnviz.models import default_layer


def convnext():
    return timm.create_model("convnext_tiny", depths=(1, 1, 2, 1))


def tokens_to_maps(tensor):
    return tensor[:, 1:].unflatten(1, (2, 2)).permute(0, 3, 1, 2)


def last_to_first(tensor):
    return tensor.permute(0, 3, 1, 2)


#: name -> (factory, the layer or None for the default, reshape for the peers)
MODELS = {
    "resnet18": (tv.resnet18, "layer4", None),
    "vgg16": (lambda: tv.vgg16(num_classes=10), None, None),
    "convnext_tiny": (convnext, "stages.3", None),
    "efficientnet_b0": (tv.efficientnet_b0, None, None),
    "mobilenet_v3": (tv.mobilenet_v3_small, None, None),
    "vit_b_16": (lambda: tv.VisionTransformer(64, 32, 3, 4, 96, 192), None, tokens_to_maps),
    "swin_t": (lambda: tv.SwinTransformer([4, 4], 24, [1, 1, 2], [2, 2, 4], [4, 4]), None,
               last_to_first),
}  # fmt: skip


@pytest.fixture(params=MODELS)
def case(request):
    torch.manual_seed(0)
    factory, layer, reshape = MODELS[request.param]
    model = factory().eval()
    for module in model.modules():  # statistics and biases that are not trivial
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
    if hasattr(model, "class_token"):
        nn.init.normal_(model.heads.head.weight)  # zero at the start
    x = torch.randn(2, 3, 64, 64)
    return model, layer or default_layer(model), reshape, x


def normalised(maps):
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / maps.amax((1, 2), keepdim=True)


def test_captum(case):
    import captum.attr as captum

    model, layer, reshape, x = case
    if reshape:
        pytest.skip("captum's LayerGradCam averages over the wrong axes of tokens")
    module = model.get_submodule(layer)
    attribution = captum.LayerGradCam(model, module).attribute(x, target=3)[:, 0]
    ours = attnviz.explain(model, x, target=3, layer=layer, signed=True).values
    scale = attribution.abs().max()
    torch.testing.assert_close(ours / scale, attribution / scale, rtol=1e-6, atol=1e-6)


@pytest.mark.peer("pytorch_grad_cam")
def test_pytorch_grad_cam(case):
    import pytorch_grad_cam as peer
    from pytorch_grad_cam.utils import model_targets as targets

    model, layer, reshape, x = case
    with peer.GradCAM(model, [model.get_submodule(layer)], reshape_transform=reshape) as cam:
        theirs = torch.from_numpy(cam(x, [targets.ClassifierOutputTarget(3)] * 2))
    ours = attnviz.explain(model, x, target=3, layer=layer)
    assert ours.values.amax((1, 2)).min() > 0
    import cv2

    resized = torch.stack(
        [torch.from_numpy(cv2.resize(m.numpy(), (64, 64))) for m in normalised(ours.values)]
    )
    # the peer stretches again after resizing, and adds 1e-7 before it divides
    limit = 1e-7 / float(ours.values.amax((1, 2)).min()) * 2 + 1e-4
    torch.testing.assert_close(normalised(resized), theirs, rtol=0, atol=limit)


@pytest.mark.peer("torchcam")
def test_torchcam(case):
    from torchcam import methods

    model, layer, reshape, x = case
    if reshape:
        pytest.skip("torchcam has no reshaping of tokens or channels-last activations")
    with methods.GradCAM(model, layer) as extractor:
        out = model(x)
        theirs = extractor(3, out)[0]
    ours = attnviz.explain(model, x, target=3, layer=layer).values
    torch.testing.assert_close(normalised(ours), normalised(theirs), rtol=1e-4, atol=1e-5)
