"""Robustness, randomisation, similarity and grids."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import attnviz.metrics as am
from attnviz.errors import MetricError


def gradient_maps(model, x, target=0):
    """Input gradient, absolute, summed over channels: (B, H, W)."""
    x = x.detach().clone().requires_grad_()
    target = torch.as_tensor(target).expand(len(x))
    with torch.enable_grad():
        score = model(x).gather(1, target[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, x)
    return gradient.abs().sum(1)


def test_max_sensitivity_agrees_with_captum(convnet, photos):
    captum_metrics = pytest.importorskip("captum.metrics")
    net = convnet.eval()
    noise = 0.1 * (torch.rand(5, 6, 3, 8, 8, dtype=torch.float64) - 0.5)

    def explain(x):
        return gradient_maps(net, x)

    theirs = captum_metrics.sensitivity_max(
        lambda inputs: (explain(inputs if isinstance(inputs, torch.Tensor) else inputs[0]),),
        photos,
        perturb_func=lambda inputs: inputs + noise.flatten(0, 1),
        n_perturb_samples=6,
    )
    ours = am.max_sensitivity(explain, photos, perturbations=noise)
    torch.testing.assert_close(ours.values, theirs)


def test_max_sensitivity_of_known_maps(photos):
    constant = am.max_sensitivity(lambda x: torch.ones(len(x), 4, 4), photos)
    assert constant.values.tolist() == [0.0] * 5
    own = am.max_sensitivity(lambda x: x[:, 0], photos, radius=0.1, samples=20)
    # the map is the image, so its change is the noise itself
    bound = 0.1 * 8 / photos[:, 0].flatten(1).norm(dim=1)
    assert (own.values <= bound).all()
    assert (own.values > 0.4 * bound).all()  # uniform noise has 1/sqrt(3) of its greatest norm
    assert am.max_sensitivity(lambda x: torch.zeros(len(x), 4, 4), photos).skip_counts == {
        "empty map": 5
    }
    again = am.max_sensitivity(lambda x: x[:, 0], photos[[3]], radius=0.1, samples=20)
    assert torch.equal(again.values[0], own.values[3])


def test_stability_of_equivariant_and_rigid_maps():
    x = torch.randn(3, 3, 28, 28)
    follows = am.stability(lambda x: x.mean(1), x)
    torch.testing.assert_close(follows.values, torch.ones(3), check_dtype=False)
    ramp = torch.arange(28.0).expand(28, 28)
    rigid = am.stability(lambda x: ramp.expand(len(x), 28, 28), x, transforms=("flip",))
    torch.testing.assert_close(rigid.values, -torch.ones(3), check_dtype=False)
    assert set(follows.extra) == {"flip", "shift"}
    assert am.stability(lambda x: torch.ones(len(x), 7, 7), x).skip_counts == {"flat map": 3}
    with pytest.raises(MetricError, match="transforms"):
        am.stability(lambda x: x[:, 0], x, transforms=("turn",))


def test_similarity_agrees_with_references():
    stats = pytest.importorskip("scipy.stats")
    a, b = torch.rand(3, 20, 24, dtype=torch.float64), torch.rand(3, 20, 24, dtype=torch.float64)
    b = (b + a).mul(4).round()  # ties
    for i in range(3):
        p, q = a[i].flatten().numpy(), b[i].flatten().numpy()
        found = am.similarity(a, b, "spearman")[i]
        assert float(found) == pytest.approx(stats.spearmanr(p, q).statistic, abs=1e-12)
        assert float(am.similarity(a, b, "pearson")[i]) == pytest.approx(
            stats.pearsonr(p, q).statistic, abs=1e-12
        )
    assert am.similarity(a, a).tolist() == pytest.approx([1, 1, 1])
    assert am.similarity(a, torch.ones(3, 5, 5)).isnan().all()


def test_ssim_agrees_with_skimage():
    metrics = pytest.importorskip("skimage.metrics")
    a = torch.rand(3, 20, 24, dtype=torch.float64)
    b = a + torch.rand(3, 20, 24, dtype=torch.float64)
    for i in range(3):
        scaled = [(m - m.min()) / (m.max() - m.min()) for m in (a[i].numpy(), b[i].numpy())]
        expected = metrics.structural_similarity(
            *scaled,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            full=True,
        )[1][5:-5, 5:-5].mean()
        assert float(am.similarity(a, b, "ssim")[i]) == pytest.approx(expected, abs=1e-9)
    assert am.similarity(a, a, "ssim").tolist() == pytest.approx([1, 1, 1])
    assert am.similarity(torch.ones(1, 5, 5), torch.zeros(1, 5, 5), "ssim").tolist() == [1]


class TinyViT(nn.Module):
    """Class token, position embedding, joint projection of q, k and v: all bare parameters."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.randn(1, 17, 8))
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        tokens = self.embed(x).flatten(2).mT
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1) + self.pos_embed
        n = self.norm(tokens)
        tokens = tokens + self.attention(n, n, n)[0]
        tokens = tokens + self.second(self.first(tokens).tanh())
        return self.head(tokens[:, 0])


def test_every_parameter_is_randomised():
    model = TinyViT()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    names = [name for group in am.parameter_groups(model) for name in group]
    # Quantus never touches q/k/v projections, class tokens and position embeddings
    assert sorted(names) == sorted(before)
    assert {"cls_token", "pos_embed", "attention.in_proj_weight"} <= set(names)
    *_, (_, last) = am.randomised(model)
    after = last.state_dict()
    for name, value in before.items():
        assert (after[name] != value).all(), name
        if value.std() > 0.1:
            ratio = float(after[name].std() / value.std())
            assert 0.3 < ratio < 3
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    # equal-shaped layers get different numbers
    assert not torch.equal(after["first.weight"], after["second.weight"])


def test_cascade_goes_from_output_to_input_and_independent_one_at_a_time():
    model = TinyViT()
    groups = am.parameter_groups(model)
    assert groups[0] == ["head.weight", "head.bias"]
    assert groups[-1] == ["cls_token", "pos_embed"]
    original = {k: v.clone() for k, v in model.state_dict().items()}
    for mode in ("cascading", "independent"):
        for step, (_, network) in enumerate(am.randomised(model, mode=mode, stages=None)):
            changed = {
                k for k, v in network.state_dict().items() if not torch.equal(v, original[k])
            }
            reach = groups[: step + 1] if mode == "cascading" else groups[step : step + 1]
            assert changed == {name for group in reach for name in group}
    assert len(am.parameter_groups(model, 3)) == 3
    merged = [n for g in am.parameter_groups(model, 3) for n in g]
    assert merged == [n for g in groups for n in g]
    with pytest.raises(MetricError, match="no parameters"):
        am.parameter_groups(nn.ReLU())


def test_randomisation_separates_a_map_of_the_model_from_one_of_the_image():
    torch.manual_seed(0)
    model, x = TinyViT(), torch.randn(4, 3, 16, 16)
    state = torch.get_rng_state()
    edges = am.parameter_randomisation(lambda m, x: x.abs().mean(1), model, x)
    assert edges.values.tolist() == pytest.approx([1.0] * 4)
    assert edges.extra["floor"].tolist() == pytest.approx([1.0] * 4)
    own = am.parameter_randomisation(gradient_maps, model, x, stages=4)
    assert own.summary() < 0.9
    assert own.extra["by_stage"].shape == (4, 4)  # the original is not among the stages
    assert (own.extra["final"].abs() < 0.6).all()
    assert torch.equal(own.values, own.extra["by_stage"].mean(1))
    assert torch.equal(torch.get_rng_state(), state)
    flat = am.parameter_randomisation(lambda m, x: torch.ones(len(x), 4, 4), model, x)
    assert flat.skip_counts == {"flat map": 4}


def test_random_logit():
    x = torch.randn(6, 3, 16, 16)

    def blind(x, target):
        return x[:, 0]

    same = am.random_logit(blind, x, [0] * 6, classes=5)
    assert same.values.tolist() == pytest.approx([1.0] * 6)
    seen = []

    def sees(x, target):
        seen.append(list(target))
        return torch.stack([x[i, t % 3] for i, t in enumerate(target)])

    found = am.random_logit(sees, x, [0, 1, 2, 3, 4, 0], classes=5)
    assert all(a != b and 0 <= b < 5 for a, b in zip(*seen, strict=True))
    assert found.summary() < 0.9
    with pytest.raises(MetricError, match="no other"):
        am.random_logit(blind, x, [0] * 6, classes=1)


class Brightness(nn.Module):
    """Class k answers to the mean of channel k, anywhere in the image."""

    def forward(self, x):
        return x.mean((2, 3))


def test_grids_hold_every_image_once_and_different_classes():
    x = torch.arange(9.0)[:, None, None, None].expand(9, 3, 4, 5)
    classes = [0, 0, 1, 1, 2, 2, 3, 3, 3]
    grids = am.make_grids(x, classes)
    assert grids.images.shape == (2, 3, 8, 10)
    assert grids.unused == 1
    assert len(grids.members.flatten().unique()) == 8
    for image, members, cls in zip(grids.images, grids.members, grids.classes, strict=True):
        assert len(cls.unique()) == 4
        for cell, member in enumerate(members.tolist()):
            part = image[:, cell // 2 * 4 :, cell % 2 * 5 :][:, :4, :5]
            assert (part == member).all()
            assert classes[member] == int(cls[cell])
    with pytest.raises(MetricError, match="4 different classes, got 3"):
        am.make_grids(x[:3], [0, 1, 2])


def test_cell_energy_by_hand():
    maps = torch.zeros(2, 4, 4)
    maps[0, 0, 3], maps[0, 3, 3], maps[0, 2, 0] = 3.0, 1.0, -50.0
    found, reasons = am.cell_energy(maps, [1, 0], 2)
    assert float(found[0]) == 0.75
    assert reasons == [None, "no positive evidence"]
    odd, _ = am.cell_energy(torch.ones(1, 7, 7), [2], 2)  # no whole number of cells
    assert float(odd[0]) == pytest.approx(0.25)


def test_grid_pointing_of_a_perfect_and_of_a_blind_explainer():
    x = torch.zeros(4, 4, 6, 6)
    for cls in range(4):
        x[cls, cls] = 1.0

    def perfect(model, images, target):
        return torch.stack([image[t] for image, t in zip(images, target, strict=True)])

    assert am.grid_pointing(perfect, Brightness(), x, [0, 1, 2, 3]).values.tolist() == [1.0] * 4

    def blind(model, images, target):
        return torch.ones(len(images), 5, 5)

    found = am.grid_pointing(blind, Brightness(), x, [0, 1, 2, 3])
    assert found.values.tolist() == pytest.approx([0.25] * 4)
    assert sorted(found.extra["image"].tolist()) == [0, 1, 2, 3]


def test_difull_truth_by_construction(convnet):
    net = convnet.eval()
    x = torch.randn(4, 3, 12, 12, dtype=torch.float64)
    # gradients of the disconnected model are exactly zero outside the cell
    found = am.difull(gradient_maps, net, x, [0, 1, 2, 3])
    assert found.values.tolist() == [1.0] * 4
    # on the connected model they are not
    connected = am.grid_pointing(gradient_maps, net, x, [0, 1, 2, 3])
    assert (connected.values < 0.9).all()
    grids = am.make_grids(x, [0, 1, 2, 3])
    logits = am.DisconnectedGrid(net, 2)(grids.images).view(1, 4, 5)
    torch.testing.assert_close(logits[0], net(x[grids.members[0]]))

    def of_a_layer(model, images, target):
        """One row per cell, as the activations of a layer inside come."""
        maps = gradient_maps(model, images, target)
        cells = maps.view(-1, 2, 12, 2, 12).permute(0, 1, 3, 2, 4).reshape(-1, 12, 12)
        return cells[:, ::3, ::3]

    assert am.difull(of_a_layer, net, x, [0, 1, 2, 3]).values.tolist() == [1.0] * 4
