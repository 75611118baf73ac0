from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attnviz.errors import MethodError
from attnviz.metrics import Protocol, Scores
from attnviz.models import LoadedModel
from attnviz.selftest import double_copy, identities, read, selftest, synthetic_photos
from attnviz.selftest.gates import (
    against_random,
    batch_independence,
    determinism,
    randomisation_gate,
)
from attnviz.selftest.identities import completeness_gap, spread

LAYER = "features"


class Net(nn.Module):
    """One convolution and ReLU to 6 x 6 positions, then a head."""

    def __init__(self, head: nn.Module, channels: int = 6, bias: bool = True) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, channels, 4, 4, bias=bias), nn.ReLU())
        self.head = head

    def forward(self, x):
        return self.head(self.features(x))


def gap_linear() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))


def gap_hidden() -> nn.Module:
    hidden = [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)]
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *hidden)


def flat_linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(216, 5))


def flat_two_linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(216, 7), nn.Dropout(), nn.Linear(7, 5))


def conv_head() -> nn.Module:
    convs = [nn.Conv2d(6, 6, 3, padding=1), nn.GELU(), nn.MaxPool2d(2)]
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(54, 5))


def make(head) -> nn.Module:
    torch.manual_seed(0)
    return Net(head()).eval()


X = torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(2))


def found(head) -> dict[str, tuple[str, str]]:
    reading = read(double_copy(make(head)), X.double(), LAYER)
    return {f.name: (f.verdict, f.words) for f in identities(reading)}


HIRES = "HiResCAM completeness: sum + bias = logit"
CAM = "CAM = h w x Grad-CAM"
SAME = "HiResCAM = Grad-CAM = XGrad-CAM"
FLAT = "the gradient is the same everywhere"
ABOVE = "LayerCAM >= Grad-CAM"
MEAN = "mean(CAM) + bias = logit"


@pytest.mark.parametrize(
    ("head", "verdicts"),
    [
        (gap_linear, dict.fromkeys((HIRES, CAM, SAME, FLAT, ABOVE, MEAN), "holds")),
        (
            gap_hidden,
            {
                **dict.fromkeys((SAME, FLAT, ABOVE), "holds"),
                HIRES: "fails",
                **dict.fromkeys((CAM, MEAN), "does not apply"),
            },
        ),
        (
            flat_linear,
            {
                HIRES: "holds",
                FLAT: "fails",
                **dict.fromkeys((CAM, MEAN, SAME, ABOVE), "does not apply"),
            },
        ),
        (
            flat_two_linear,
            {
                HIRES: "holds",
                FLAT: "fails",
                **dict.fromkeys((CAM, MEAN, SAME, ABOVE), "does not apply"),
            },
        ),
        (
            conv_head,
            {
                **dict.fromkeys((HIRES, FLAT), "fails"),
                **dict.fromkeys((CAM, MEAN, SAME, ABOVE), "does not apply"),
            },
        ),
    ],
    ids=["gap linear", "gap hidden", "flat linear", "flat two linear", "conv head"],
)
def test_identities_hold_where_theory_says_so(head, verdicts):
    assert {name: verdict for name, (verdict, _) in found(head).items()} == verdicts


def test_the_reason_names_the_layers():
    words = found(gap_hidden)[HIRES][1]
    assert "1 nonlinear layer follows it: head.3 (ReLU)" in words
    assert "% of the logit" in words
    words = found(conv_head)[HIRES][1]
    assert "2 nonlinear layers follow it: head.1 (GELU), head.2 (MaxPool2d)" in words
    assert "head.1 (GELU)" in found(conv_head)[CAM][1]
    behind = found(flat_linear)[CAM][1]
    assert "Flatten, Linear" in behind


def test_numbers_by_hand():
    model = make(gap_hidden).double()
    reading = read(model, X.double(), LAYER)
    a = model.features(X.double()).detach()
    torch.testing.assert_close(reading.activation, a)
    logits = model(X.double()).detach()
    torch.testing.assert_close(reading.logits, logits)
    # the gradient through the hidden layer, written out
    first, _, last = model.head[2], model.head[3], model.head[4]
    active = (first(a.mean((2, 3))) > 0).double()
    by_hand = (last.weight[reading.target] * active) @ first.weight / 36
    torch.testing.assert_close(
        reading.gradient, by_hand.detach()[:, :, None, None].expand(-1, -1, 6, 6)
    )
    silent = model.head(torch.zeros_like(a)).detach().gather(1, reading.target[:, None])[:, 0]
    torch.testing.assert_close(reading.bias, silent)
    total = (reading.gradient * a).sum((1, 2, 3)) + silent
    expected = ((reading.score - total).abs() / reading.score.abs()).mean()
    assert completeness_gap(reading) == pytest.approx(float(expected))
    assert spread(reading) < 1e-12


def test_a_network_without_biases_is_complete_though_it_bends():
    """A piecewise linear network that maps 0 to 0 is the sum of gradient times activation."""

    def head():
        hidden = [nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 5, bias=False)]
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *hidden)

    assert found(head)[HIRES][0] == "holds"


def test_methods_are_judged():
    loaded = LoadedModel(make(gap_linear), "net")
    report = selftest(loaded, X, layer=LAYER)
    worth = {m.name: m for m in report.methods}
    assert worth["cam"].verdict == worth["gradcam"].verdict == worth["hirescam"].verdict == "exact"
    assert worth["eigencam"].verdict == "meaningless"
    assert "whatever the class" in worth["eigencam"].words
    assert worth["eigencam"].other_class == pytest.approx(1)
    assert worth["layercam"].verdict == "approximate"
    other = selftest(LoadedModel(make(conv_head), "net"), X, layer=LAYER)
    worth = {m.name: m for m in other.methods}
    assert worth["cam"].verdict == "does not apply"
    assert worth["gradcam"].verdict == worth["hirescam"].verdict == "approximate"
    assert "miss the logit by" in worth["hirescam"].words
    # averaging a constant gradient loses nothing, but the head bends what the map adds up
    report = selftest(LoadedModel(make(gap_hidden), "net"), X, layer=LAYER, methods=["gradcam"])
    assert report.methods[0].verdict == "approximate"
    assert "miss the logit by" in report.methods[0].words
    with pytest.raises(MethodError, match="none of the methods applies"):
        selftest(LoadedModel(make(conv_head), "net"), X, layer=LAYER, methods=["cam"])


def test_the_model_is_left_as_it_was():
    model = make(gap_hidden).train()
    model.head(model.features(X)).sum().backward()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    gradients = [p.grad.clone() for p in model.parameters()]
    random = torch.get_rng_state()
    report = selftest(LoadedModel(model, "net"), X, layer=LAYER, methods=["gradcam"])
    assert next(f for f in report.findings if f.name.startswith("explaining")).verdict == "holds"
    assert model.training
    assert model.features.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert model.features[0].weight.dtype == torch.float32


class AlwaysDropping(Net):
    def forward(self, x):
        return self.head(F.dropout(self.features(x), 0.5, training=True))


class OverTheBatch(Net):
    def forward(self, x):
        a = self.features(x)
        return self.head(a / a.mean())


def test_gates_catch_what_they_are_for():
    torch.manual_seed(0)
    restless = AlwaysDropping(gap_linear()).eval()
    finding = determinism(restless, X)
    assert finding.verdict == "fails"
    assert finding.gate
    assert "evaluation mode" in finding.words
    mixed = OverTheBatch(gap_linear()).eval()
    assert determinism(mixed, X).verdict == "holds"
    finding = batch_independence(mixed, X)
    assert finding.verdict == "fails"
    assert "over the batch" in finding.words
    report = selftest(LoadedModel(mixed, "net"), X, layer=LAYER, methods=["hirescam"])
    assert not report.passed
    assert batch_independence(make(gap_linear), X).verdict == "holds"


def test_randomisation_gate_by_its_numbers():
    def scores(final: float) -> Scores:
        extra = {"final": torch.tensor([final, final]), "floor": torch.tensor([0.1, 0.1])}
        return Scores(torch.tensor([0.2, 0.2]), Protocol.of("MPRT"), (), extra)

    assert randomisation_gate("edges", scores(0.9)).verdict == "fails"
    assert "0.90" in randomisation_gate("edges", scores(0.9)).words
    assert randomisation_gate("gradcam", scores(0.1)).verdict == "holds"
    nan = torch.full((2,), float("nan"))
    flat = Scores(nan, Protocol.of("MPRT"), ("flat map",) * 2, {"final": nan, "floor": nan})
    assert randomisation_gate("flat", flat).verdict == "fails"
    model = make(gap_linear)
    measured = against_random(model, X, "hirescam", LAYER, [0, 1, 2, 3])
    assert measured.extra["final"].abs().max() < 1


def test_report_is_json_and_text():
    report = selftest(LoadedModel(make(gap_linear), "net"), X, layer=LAYER, methods=["cam"])
    document = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert document["passed"] == report.passed
    assert {f["name"] for f in document["findings"]} >= {CAM, HIRES}
    text = "\n".join(report.lines())
    assert "CAM = h w x Grad-CAM: holds (largest difference" in text
    assert "  cam: exact (its mean and the bias are the logit)" in text


def test_synthetic_photos_are_pictures():
    photos = synthetic_photos(3, 64)
    assert [p.shape for p in photos] == [(64, 64, 3)] * 3
    assert all(p.std() > 20 for p in photos)
    assert not (photos[0] == photos[1]).all()
