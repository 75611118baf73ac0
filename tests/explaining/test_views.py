"""Views that a model folds into its batch: a map for each, equal to hooks by hand."""

import pytest
import torch
from torch import nn

from attnviz import explain
from attnviz.errors import LayoutError
from attnviz.models import default_layer


class Views(nn.Module):
    """A small network of each view; logits of all views by their mean, maximum or attention."""

    def __init__(self, how, swapped=False):
        super().__init__()
        torch.manual_seed(0)
        self.how, self.swapped = how, swapped
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.body = nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())
        self.ask, self.head = nn.Linear(8, 1), nn.Linear(8, 4)

    def forward(self, x):
        batch, views = x.shape[:2]
        rows = (x.transpose(0, 1) if self.swapped else x).flatten(0, 1)
        rows = self.body(self.stem(rows).relu()).mean((2, 3))
        bag = rows.unflatten(0, (views, batch) if self.swapped else (batch, views))
        bag = bag.transpose(0, 1) if self.swapped else bag
        if self.how == "mean":
            return self.head(bag).mean(1)
        if self.how == "max":
            return self.head(bag.amax(1))
        return self.head((self.ask(bag).softmax(1) * bag).sum(1))


def by_hand(model, x, target):
    """Grad-CAM (B * V, h, w) of each view by the gradient of the sample's own score."""
    made = []
    handle = model.body.register_forward_hook(lambda m, i, y: made.append(y))
    logits = model(x)
    handle.remove()
    (slope,) = torch.autograd.grad(logits[:, target].sum(), made[0])
    return (slope.mean((2, 3), keepdim=True) * made[0]).sum(1).relu().detach()


@pytest.fixture
def x():
    return torch.randn(3, 5, 3, 24, 32, dtype=torch.float64)


@pytest.mark.parametrize("how", ["mean", "max", "attention"])
@pytest.mark.filterwarnings("ignore:.*no evidence")  # of a view that is nowhere the maximum
def test_each_view_has_the_map_of_hooks_by_hand(how, x):
    model = Views(how).double().eval()
    assert default_layer(model, x) == "body"
    maps = explain(model, x, target=2)
    assert maps.layer == "body"
    assert maps.meta["views"] == 5
    torch.testing.assert_close(maps.values, by_hand(model, x, 2))
    torch.testing.assert_close(maps.score, model(x)[:, 2].repeat_interleave(5).detach())
    alone = torch.cat([explain(model, one[None], target=2).values for one in x])
    torch.testing.assert_close(alone, maps.values)


def test_classes_stand_image_by_image_then_view_by_view(x):
    model = Views("attention").double().eval()
    maps = explain(model, x, classes=[0, 3], layer="body")
    wanted = torch.stack([by_hand(model, x, k).unflatten(0, (3, 5)) for k in (0, 3)], 1)
    torch.testing.assert_close(maps.values, wanted.flatten(0, 2))
    assert maps.target == (*(0,) * 5, *(3,) * 5) * 3
    earlier = explain(model, x, target=[1, 2, 0], layer="stem", method="hirescam", signed=True)
    assert earlier.values.shape == (15, 12, 16)
    assert earlier.target == (*(1,) * 5, *(2,) * 5, *(0,) * 5)


def test_rows_in_another_order_are_no_views_of_their_sample(x):
    model = Views("mean", swapped=True).double().eval()
    with pytest.raises(LayoutError, match="in this order"):
        explain(model, x, target=2, layer="body")
    with pytest.raises(LayoutError, match="first dimension is not the batch"):
        explain(model, x, target=2, layer="body", layout="channels_first")


def test_methods_with_a_pass_of_their_own_say_what_to_do(x):
    with pytest.raises(LayoutError, match=r"x.flatten\(0, 1\)"):
        explain(Views("mean").double().eval(), x, target=2, method="finercam", layer="body")


def test_nothing_is_altered(x):
    model = Views("mean").double().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    explain(model, x, target=2)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
