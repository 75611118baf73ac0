"""Models that no default layer is found in at once, and inputs that do not fit: the true cause."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attnviz import explain
from attnviz.errors import CaptureError, ImageError, LayerNotFound, LayoutError


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x).mean((2, 3)))


class _Frozen(_Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.backbone(x)
        return self.head(features.mean((2, 3)))


class _Silent(_Net):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class _Cut(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x).mean((2, 3)).detach())


class _Reentrant(_Net):
    def forward(self, x: Tensor) -> Tensor:
        for part in self.backbone:
            x = checkpoint(part, x, use_reentrant=True)
        return self.head(x.mean((2, 3)))


class _Answer(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).argmax(1)


class _Mixed(_Net):
    """Each frame is seen with the mean of all."""

    def forward(self, x: Tensor) -> Tensor:
        batch, views = x.shape[:2]
        x = x + x.mean(1, keepdim=True)
        return super().forward(x.flatten(0, 1)).view(batch, views, -1).mean(1)


@pytest.mark.parametrize("kind", [_Frozen, _Silent])
def test_a_backbone_under_no_grad_has_a_default_and_the_right_map(kind: type[_Net]) -> None:
    model, x = kind().eval(), torch.rand(2, 3, 32, 32)
    maps = explain(model, x, target=1, signed=True)
    assert maps.layer == "backbone"
    weights = model.head.weight[1] / 64  # of the mean over 8 x 8, by hand
    expected = torch.einsum("bchw,c->bhw", model.backbone(x), weights).detach()
    torch.testing.assert_close(maps.values, expected, rtol=1e-5, atol=1e-7)


def test_what_cuts_the_gradient_is_said() -> None:
    x = torch.rand(2, 3, 32, 32)
    with pytest.raises(LayerNotFound, match="it is cut by detach, by no_grad or by a step outside"):
        explain(_Cut().eval(), x, target=1)
    with pytest.raises(CaptureError, match=r"recomputes parts .* use_reentrant=False"):
        explain(_Reentrant().eval(), x, target=1)
    with pytest.raises(CaptureError, match=r"is torch.int64, made by a step without one \(argmax"):
        explain(_Answer().eval(), x, target=1)


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.rand(2, 3, 32, 32).half(), r"input is torch.float16, the model's .* torch.float32"),
        (torch.rand(2, 4, 32, 32), "has 4 channels where _Net takes 3"),
        (torch.rand(2, 32, 32, 3), r"channels second: x.movedim\(-1, 1\)"),
    ],
)
def test_inputs_of_another_type_or_shape(x: Tensor, match: str) -> None:
    for options in ({}, {"layer": "backbone"}):
        with pytest.raises(ImageError, match=match):
            explain(_Net().eval(), x, target=1, **options)


def test_views_that_a_layer_does_not_see_one_by_one_are_named_with_what_to_do() -> None:
    x = torch.rand(2, 5, 3, 32, 32)
    for options, kind in (({}, LayerNotFound), ({"layer": "backbone"}, LayoutError)):
        with pytest.raises(kind, match=r"folds 5 views or frames .* x.flatten\(0, 1\)"):
            explain(_Mixed().eval(), x, target=1, **options)


def test_a_quantised_head_says_so() -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates its own way to do it
        model = torch.ao.quantization.quantize_dynamic(_Net().eval(), {nn.Linear})
    with pytest.raises(LayerNotFound, match="part 'head' of _Net is quantised"):
        explain(model, torch.rand(2, 3, 32, 32), target=1)


def test_parts_that_take_no_hooks_are_passed_over() -> None:
    class Scripted(_Net):
        def __init__(self) -> None:
            super().__init__()
            self.deep = nn.Conv2d(8, 8, 3)
            self.backbone = torch.jit.script(self.backbone)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.deep(self.backbone(x)).relu().mean((2, 3)))

    model, x = Scripted().eval(), torch.rand(2, 3, 32, 32)
    maps = explain(model, x, target=1)
    assert maps.layer == "deep"
    features = model.deep(model.backbone(x)).detach().requires_grad_()
    model.head(features.relu().mean((2, 3)))[:, 1].sum().backward()
    weights = features.grad.mean((2, 3))
    expected = torch.einsum("bchw,bc->bhw", features, weights).relu().detach()
    torch.testing.assert_close(maps.values, expected)


def test_a_model_that_runs_a_copy_of_itself_says_so() -> None:
    class Copying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = _Net()

        def forward(self, x: Tensor) -> Tensor:
            return copy.deepcopy(self.net)(x)

    with pytest.raises(CaptureError, match="runs a copy of its network"):
        explain(Copying().eval(), torch.rand(2, 3, 32, 32), target=1)


def test_layers_that_all_run_twice_are_the_default_with_a_call() -> None:
    class Siamese(_Net):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            one, two = (self.backbone(i).mean((2, 3)) for i in (x, y))
            return torch.cosine_similarity(one, two)

    model, pair = Siamese().eval(), (torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32))
    with pytest.raises(CaptureError, match="choose with call=0, 1"):
        explain(model, pair, target=lambda cosine: cosine)
    other = model.backbone(pair[0]).mean((2, 3))
    features = model.backbone(pair[1]).detach().requires_grad_()
    torch.cosine_similarity(other, features.mean((2, 3))).sum().backward()
    expected = torch.einsum("bchw,bc->bhw", features, features.grad.mean((2, 3))).relu().detach()
    maps = explain(model, pair, target=lambda cosine: cosine, call=1)
    torch.testing.assert_close(maps.values, expected)


@pytest.mark.parametrize("layer", [None, "0"])
def test_weights_on_the_meta_device_are_named(layer):
    with torch.device("meta"):
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        ).eval()
    with pytest.raises(ImageError, match="on the meta device, which holds shapes and no numbers"):
        explain(model, torch.rand(2, 3, 8, 8), layer=layer)
