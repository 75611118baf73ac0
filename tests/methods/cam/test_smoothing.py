"""Test-time augmentation and eigen smoothing, by hand and by identities."""

import pytest
import torch
from torch import nn

import attnviz
from attnviz.errors import MethodError
from attnviz.methods import METHODS
from attnviz.methods.cam import apply_cam

ADDITIVE = [
    e.name
    for e in METHODS
    if e.family == "cam" and not e.meta["own_pass"] and e.meta["additive"]
]  # fmt: skip
#: of the copies, in any order
FACTORS = (0.9, 1.0, 1.1)


@pytest.fixture
def model():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 5, 3, 2, 1), nn.Tanh(),
        nn.Flatten(), nn.Linear(5 * 4 * 6, 4),
    ).double().eval()  # fmt: skip


@pytest.fixture
def x():
    torch.manual_seed(1)
    return 3 * torch.randn(3, 3, 16, 24, dtype=torch.float64)


def explain(model, x, method="gradcam", **options):
    return attnviz.explain(model, x, method=method, layer="2", **options)


@pytest.mark.parametrize("name", ADDITIVE)
def test_a_map_that_is_said_to_be_a_sum_over_channels_is_one(name):
    activation = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    gradient = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    entry = METHODS.get(name)
    whole = apply_cam(entry, activation, gradient, signed=True)
    alone = [
        apply_cam(entry, activation[:, k : k + 1], gradient[:, k : k + 1], signed=True)
        for k in range(5)
    ]
    torch.testing.assert_close(sum(alone), whole)


def test_eigen_smoothing_is_the_first_singular_vector_of_the_parts(model, x):
    a = model[:3](x)
    a.retain_grad()
    logits = model[3:](a)
    logits[:, 2].sum().backward()
    parts = (a.grad.mean((2, 3), keepdim=True) * a).detach()
    got = explain(model, x, target=2, eigen_smooth=True, signed=True).values
    for one, part in zip(got, parts, strict=True):
        rows = part.flatten(1).T
        _, _, v = torch.linalg.svd(rows)
        want = (rows @ v[0]).view(one.shape)
        want = want * torch.sign((want * part.sum(0)).sum())
        torch.testing.assert_close(one, want)
    kept = explain(model, x, target=2, eigen_smooth=True).values
    torch.testing.assert_close(kept, got.relu())


def test_hirescam_smoothed_is_eigengradcam(model, x):
    got = explain(model, x, "hirescam", target=1, eigen_smooth=True)
    torch.testing.assert_close(got.values, explain(model, x, "eigengradcam", target=1).values)


@pytest.mark.parametrize(("name", "said"), [("eigencam", "component already"),
                                            ("shapleycam", "no option of shapleycam")])  # fmt: skip
def test_eigen_smoothing_is_refused_where_there_is_no_sum(model, x, name, said):
    with pytest.raises(MethodError, match=said):
        explain(model, x, name, eigen_smooth=True)


@pytest.mark.parametrize("name", ["gradcam", "layercam", "finercam"])
def test_augmentation_averages_six_copies_for_the_target_of_the_picture(model, x, name):
    predicted = model(x).argmax(1).tolist()
    others = [model((x * f).flip(-1)).argmax(1).tolist() for f in FACTORS]
    assert any(o != predicted for o in others)  # else this test would show nothing
    want = 0
    for factor in FACTORS:
        want = want + explain(model, x * factor, name, target=predicted).values / 6
        mirrored = explain(model, (x * factor).flip(-1), name, target=predicted).values
        want = want + mirrored.flip(-1) / 6
    got = explain(model, x, name, augment=True)
    torch.testing.assert_close(got.values, want)
    plain = explain(model, x, name)
    assert got.target == plain.target == tuple(predicted)
    torch.testing.assert_close(got.score, plain.score)
    assert got.meta["copies"] == 6


def test_an_augmented_map_of_a_mirrored_picture_is_the_mirrored_map(model, x):
    got = explain(model, x, classes=[0, 3], augment=True, eigen_smooth=True).values
    mirrored = explain(model, x.flip(-1), classes=[0, 3], augment=True, eigen_smooth=True).values
    torch.testing.assert_close(mirrored.flip(-1), got)


def test_augmentation_keeps_the_graph(model, x):
    got = explain(model, x, target=0, augment=True, create_graph=True)
    (gradient,) = torch.autograd.grad(got.values.sum(), model[0].weight)
    assert gradient.abs().sum() > 0


def test_augmentation_is_refused_where_mirroring_moves_what_is_explained(x):
    dense = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).double().eval()
    mask = torch.zeros(16, 24, dtype=torch.bool)
    mask[:, :8] = True
    target = attnviz.RegionTarget(1, mask)
    with pytest.raises(MethodError, match="leave augment out"):
        attnviz.explain(dense, x, layer="1", target=target, augment=True)
    signal = nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    with pytest.raises(MethodError, match="mirrors pictures"):
        attnviz.explain(signal.eval(), torch.randn(1, 1, 16), layer="1", augment=True)
