"""Each map against values computed by hand, and the identities that tie the methods together."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attnviz.methods.cam import METHODS, apply_cam
from attnviz.methods.cam.eigencam import principal_projection
from attnviz.methods.cam.gradcampp import gradcampp_from_derivatives

NAMES = "cam gradcam gradcam++ hirescam xgradcam layercam eigencam eigengradcam".split()


def run(name, activation, gradient, *, relu=None):
    signed = None if relu is None else not relu
    return apply_cam(METHODS.get(name), activation, gradient, signed=signed)


def test_the_family_is_registered():
    assert set(NAMES) <= set(METHODS.names("cam"))
    for name in NAMES:
        entry = METHODS.get(name)
        assert entry.summary
        assert entry.paper
        assert entry.meta["units"]


# -- by hand: two channels of 1 x 2 positions ---------------------------------------------------

A = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]], dtype=torch.float64)
G = torch.tensor([[[[0.5, -1.5]], [[2.0, 1.0]]]], dtype=torch.float64)


def hand_gradcampp():
    total = {0: 1.0 + 2.0, 1: 3.0 - 1.0}
    values = [0.0, 0.0]
    for k, (a, g) in enumerate(((A[0, 0, 0], G[0, 0, 0]), (A[0, 1, 0], G[0, 1, 0]))):
        weight = 0.0
        for gi in g.tolist():
            alpha = gi**2 / (2 * gi**2 + total[k] * gi**3)
            weight += alpha * max(gi, 0.0)
        values = [v + weight * ai for v, ai in zip(values, a.tolist(), strict=True)]
    return values


HAND = {
    # weights: sums of the gradients, -1 and 3
    "cam": [-1 * 1 + 3 * 3, -1 * 2 + 3 * -1],
    # means, -.5 and 1.5
    "gradcam": [-0.5 * 1 + 1.5 * 3, -0.5 * 2 + 1.5 * -1],
    "gradcam++": hand_gradcampp(),
    "hirescam": [0.5 * 1 + 2 * 3, -1.5 * 2 + 1 * -1],
    # (.5*1 - 1.5*2) / 3 and (2*3 - 1*1) / 2
    "xgradcam": [-2.5 / 3 * 1 + 2.5 * 3, -2.5 / 3 * 2 + 2.5 * -1],
    "layercam": [0.5 * 1 + 2 * 3, 0 * 2 + 1 * -1],
}


@pytest.mark.parametrize("name", HAND)
def test_hand_values(name):
    want = torch.tensor([[HAND[name]]], dtype=torch.float64)
    torch.testing.assert_close(run(name, A, G, relu=False), want, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(run(name, A, G, relu=True), want.relu(), rtol=1e-14, atol=1e-14)


def test_eigencam_by_hand():
    # one position pair, rows of O are (1, 3) and (2, -1): O O^T = [[10, -1], [-1, 5]]
    largest = (15 + math.sqrt(29)) / 2
    u = torch.tensor([1.0, 10 - largest], dtype=torch.float64)  # (10 - l) u0 - u1 = 0
    u = u / u.norm() * math.sqrt(largest)
    want = (u if u.sum() > 0 else -u).view(1, 1, 2)
    got = principal_projection(A)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("channels", "side"), [(40, 4), (5, 7)])  # both Gram matrices
def test_principal_projection_is_the_singular_vector(channels, side):
    torch.manual_seed(0)
    features = torch.randn(3, channels, side, side, dtype=torch.float64) * 1e-120
    rows = features.flatten(2).mT
    u, s, v = torch.linalg.svd(rows, full_matrices=False)
    want = (rows @ v[:, :1].mT)[..., 0].view(3, side, side)
    sign = torch.where(want.sum((1, 2)) < 0, -1.0, 1.0)[:, None, None]
    got = principal_projection(features)
    torch.testing.assert_close(got, want * sign, rtol=1e-9, atol=1e-130)
    assert (got.sum((1, 2)) >= 0).all()
    torch.testing.assert_close(got.flatten(1).norm(dim=1), s[:, 0], rtol=1e-10, atol=0)


def test_eigengradcam_agrees_with_hirescam_in_sign():
    torch.manual_seed(0)
    activation, gradient = torch.randn(2, 32, 6, 5, 5, dtype=torch.float64)
    eigen = run("eigengradcam", activation, gradient, relu=False)
    hires = run("hirescam", activation, gradient, relu=False)
    assert ((eigen * hires).sum((1, 2)) >= 0).all()
    assert torch.equal(eigen.abs(), principal_projection(gradient * activation).abs())


# -- identities on real heads, float64 ----------------------------------------------------------


def features(batch=4, channels=7, side=5, *, positive=False):
    torch.manual_seed(3)
    a = torch.randn(batch, channels, side, side, dtype=torch.float64)
    return (a.relu() if positive else a).requires_grad_()


def test_gap_linear_head():
    head = nn.Linear(7, 3).double()
    a = features()
    logits = head(a.mean((2, 3)))
    for cls in range(3):
        g = torch.autograd.grad(logits[:, cls].sum(), a, retain_graph=True)[0]
        cam = run("cam", a, g)
        signed = run("gradcam", a, g, relu=False)
        # CAM = h w Grad-CAM, before and after ReLU and bilinear upsampling
        torch.testing.assert_close(cam, 25 * signed, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(run("cam", a, g, relu=True), 25 * run("gradcam", a, g))
        up = [
            F.interpolate(m[:, None], size=(32, 32), mode="bilinear", align_corners=False)
            for m in (cam, signed)
        ]
        torch.testing.assert_close(up[0], 25 * up[1], rtol=1e-11, atol=1e-12)
        # mean(CAM) + bias = logit; pooling first or mapping first is the same
        torch.testing.assert_close(cam.mean((1, 2)) + head.bias[cls], logits[:, cls])
        by_map = F.conv2d(a, head.weight[:, :, None, None], head.bias)
        torch.testing.assert_close(by_map.mean((2, 3)), logits)
        torch.testing.assert_close(cam, by_map[:, cls] - head.bias[cls])
        # a spatially constant gradient makes three methods one
        for other in ("hirescam", "xgradcam"):
            torch.testing.assert_close(run(other, a, g, relu=False), signed, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("pool", ["gap", "flatten", "max"])
def test_hirescam_is_complete(pool):
    a = features()
    width = 7 * 25 if pool == "flatten" else 7
    head = nn.Linear(width, 3).double()
    pooled = {"gap": a.mean((2, 3)), "flatten": a.flatten(1), "max": a.amax((2, 3))}[pool]
    logits = head(pooled)
    g = torch.autograd.grad(logits[:, 1].sum(), a)[0]
    total = run("hirescam", a, g, relu=False).sum((1, 2)) + head.bias[1]
    torch.testing.assert_close(total, logits[:, 1], rtol=1e-12, atol=1e-13)
    # XGrad-CAM is built to keep the same sum, whatever the head
    torch.testing.assert_close(
        run("xgradcam", a, g, relu=False).sum((1, 2)) + head.bias[1], logits[:, 1]
    )


def test_layercam_bounds_gradcam_on_gap_nets():
    a = features(positive=True)
    head = nn.Linear(7, 2).double()
    g = torch.autograd.grad(head(a.mean((2, 3)))[:, 0].sum(), a)[0]
    layer, grad = run("layercam", a, g), run("gradcam", a, g)
    assert (layer >= grad - 1e-15).all()
    assert (layer > grad + 1e-6).any()  # some active channel has a negative weight
    # equal where no active channel has one
    positive = g.abs()
    torch.testing.assert_close(run("layercam", a, positive), run("gradcam", a, positive))


def derivatives(score, a):
    """First, second and third derivative of exp(score) by each single element, by autograd."""
    flat = a.detach().flatten().requires_grad_()
    y = score(flat.view_as(a)).exp()
    first = torch.autograd.grad(y, flat, create_graph=True)[0]
    second, third = [], []
    for i in range(flat.numel()):
        d2 = torch.autograd.grad(first[i], flat, create_graph=True)[0][i]
        second.append(d2)
        third.append(torch.autograd.grad(d2, flat, retain_graph=True)[0][i])
    return (t.detach().view_as(a) for t in (first, torch.stack(second), torch.stack(third)))


@pytest.mark.parametrize("smooth", [False, True])
def test_gradcampp_closed_form_is_exact_for_piecewise_linear_scores(smooth):
    torch.manual_seed(1)
    a = torch.rand(1, 3, 2, 2, dtype=torch.float64)
    w1 = torch.randn(12, 6, dtype=torch.float64)
    w2 = torch.randn(6, dtype=torch.float64)

    def score(x):
        hidden = x.reshape(1, -1) @ w1
        hidden = hidden * torch.sigmoid(hidden) if smooth else hidden.relu()
        return (hidden @ w2).sum()

    exact = gradcampp_from_derivatives(a, *derivatives(score, a))
    leaf = a.clone().requires_grad_()
    value = score(leaf)
    g = torch.autograd.grad(value, leaf)[0]
    closed = run("gradcam++", a, g) * value.exp().detach()
    assert torch.allclose(exact, closed, rtol=1e-8) != smooth
    assert exact.max() > 0


def test_gradcampp_without_gradient_is_zero_not_nan():
    zero = torch.zeros(1, 2, 2, 2)
    assert torch.equal(run("gradcam++", torch.ones(1, 2, 2, 2), zero), torch.zeros(1, 2, 2))


@pytest.mark.parametrize("name", NAMES)
class TestEveryMethod:
    def test_scales_with_the_gradient_and_not_across_the_batch(self, name):
        torch.manual_seed(0)
        a = torch.randn(3, 5, 4, 4, dtype=torch.float64)
        g = torch.randn_like(a)
        together = run(name, a, g)
        alone = torch.cat([run(name, a[i : i + 1], g[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-11)
        if METHODS.get(name).meta["needs_gradient"] and name != "gradcam++":
            torch.testing.assert_close(run(name, a, 3 * g), 3 * together, rtol=1e-9, atol=1e-11)

    def test_inputs_are_not_changed(self, name):
        torch.manual_seed(0)
        a, g = torch.randn(2, 2, 5, 4, 4)
        before = a.clone(), g.clone()
        run(name, a, g)
        assert torch.equal(a, before[0])
        assert torch.equal(g, before[1])

    def test_differentiable(self, name):
        torch.manual_seed(0)
        a = torch.rand(1, 3, 2, 2, dtype=torch.float64) + 0.1
        g = torch.rand_like(a) + 0.1
        a.requires_grad_()
        if METHODS.get(name).meta["needs_gradient"]:
            g.requires_grad_()
        assert torch.autograd.gradcheck(lambda *t: run(name, *t), (a, g))

    def test_channel_order_is_irrelevant(self, name):
        torch.manual_seed(0)
        a, g = torch.randn(2, 2, 5, 3, 4, dtype=torch.float64)
        order = torch.randperm(5)
        torch.testing.assert_close(
            run(name, a, g), run(name, a[:, order], g[:, order]), rtol=1e-9, atol=1e-11
        )

    def test_turning_the_image_turns_the_map(self, name):
        torch.manual_seed(0)
        a, g = torch.randn(2, 2, 5, 3, 4, dtype=torch.float64)
        turned = run(name, a.rot90(1, (2, 3)), g.rot90(1, (2, 3)))
        torch.testing.assert_close(turned, run(name, a, g).rot90(1, (1, 2)), rtol=1e-9, atol=1e-11)
