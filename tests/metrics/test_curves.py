from __future__ import annotations

import itertools

import pytest
import torch

from attnviz.errors import MetricError, TargetError
from attnviz.metrics import (
    METRICS,
    StreamingMetric,
    deletion,
    faithfulness_curves,
    insertion,
    lerf,
)
from attnviz.metrics.substrates import schedule


@pytest.mark.parametrize("baseline", ["zero", "mean", "blur", "noise", "imputed"])
@pytest.mark.parametrize("substrate", ["pixel", "patch"])
def test_lerf_is_insertion_backwards(convnet, photos, baseline, substrate):
    maps = torch.randn(5, 8, 8)
    options = {"baseline": baseline, "substrate": substrate, "patch": 3, "steps": 6}
    ins = insertion(convnet, photos, maps, **options)
    low = lerf(convnet, photos, maps, **options)
    # at k removed least relevant first = insertion at n - k, in every bit
    assert torch.equal(low.scores, ins.scores.flip(1))
    assert torch.equal(low.fraction, 1 - ins.fraction.flip(0))
    # an independent route to the same thing: deletion by the negated map (no ties here)
    negated = deletion(convnet, photos, -maps, **options)
    if substrate == "pixel":
        assert torch.equal(negated.scores, low.scores)


def test_linear_model_ranking_is_pointwise_optimal(linear, photos):
    best = linear.contributions(photos, 2)
    options = {"target": 2, "baseline": "zero", "score": "logit", "steps": 64}
    right = deletion(linear, photos, best, **options)
    # by hand: the logit less the sum of the k greatest contributions
    ordered = best.flatten(1).sort(1, descending=True).values
    whole = best.flatten(1).sum(1, keepdim=True)
    expected = torch.cat([whole, whole - ordered.cumsum(1)], 1)
    torch.testing.assert_close(right.scores, expected)
    assert right.fraction.tolist() == [k / 64 for k in range(65)]
    torch.testing.assert_close(right.auc, torch.trapezoid(expected, dx=1 / 64, dim=1))
    for other in (torch.randn(5, 8, 8), -best, best.abs(), torch.ones(5, 8, 8)):
        assert (deletion(linear, photos, other, **options).scores >= right.scores - 1e-9).all()
        assert (
            insertion(linear, photos, other, **options).scores
            <= insertion(linear, photos, best, **options).scores + 1e-9
        ).all()


def test_planted_patch_is_found_by_its_map_alone(planted, photos):
    x = photos.abs() + 0.5
    found = deletion(planted, x, planted.map(x), 0, score="logit", baseline="zero", steps=64).scores
    # nine pixels carry the score: gone after nine, equal before and after all others
    assert (found[:, 9:] == 0).all()
    assert (found[:, :9].diff(dim=1) < 0).all()
    outside = deletion(
        planted, x, 1 - planted.map(x), 0, score="logit", baseline="zero", steps=64
    ).scores
    torch.testing.assert_close(outside[:, :56], outside[:, :1].expand(-1, 56))


@pytest.mark.parametrize("n", [1, 2, 7, 49, 64, 100])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 32])
def test_schedule_is_symmetric_and_strict(n, steps):
    counts = schedule(n, steps)
    assert counts[0] == 0
    assert counts[-1] == n
    assert all(a < b for a, b in itertools.pairwise(counts)), counts
    assert len(counts) == min(n, steps) + 1
    if not (n % 2 and len(counts) % 2):  # an odd n has no middle
        assert [n - c for c in reversed(counts)] == counts


class Removed(torch.nn.Module):
    """The score is how many pixels are zero: counts removals."""

    def forward(self, x):
        gone = (x == 0).all(1).flatten(1).sum(1).double()
        return torch.stack([gone, -gone], 1)


def _mostly_zero() -> torch.Tensor:
    maps = torch.zeros(1, 16, 16)
    maps[:, 3:8, 3:9] = torch.rand(1, 5, 6) + 0.1
    assert (maps == 0).double().mean() > 0.88
    return maps


@pytest.mark.parametrize(
    "maps",
    [
        _mostly_zero(),
        torch.zeros(1, 16, 16),
        torch.ones(1, 16, 16),
        torch.full((1, 1, 1), 3.0),
        torch.full((1, 16, 16), -2.0),
        torch.randint(0, 3, (1, 16, 16)).float(),
        torch.randn(1, 4, 4),
    ],
    ids=["88% zero", "all zero", "constant", "1x1", "negative", "ties", "4x4"],
)
def test_exact_number_of_pixels_is_removed(maps):
    x = torch.rand(1, 3, 16, 16) + 1
    for function, factor in ((deletion, 1), (lerf, 1), (insertion, -1)):
        found = function(Removed(), x, maps, 0, score="logit", baseline="zero", steps=10)
        share = found.scores[0] / 256
        expected = found.fraction if factor == 1 else 1 - found.fraction
        torch.testing.assert_close(share.double(), expected)
        assert found.skipped == 0


def test_ties_are_ranked_at_random_not_from_the_top(counting):
    model = counting(Removed())
    x = torch.rand(1, 3, 16, 16) + 1
    deletion(model, x, torch.zeros(1, 16, 16), 0, score="logit", baseline="zero", steps=2)
    half = next(b for b in model.batches[1:] for b in b if 0 < (b[0] == 0).sum() < 256)
    rows = (half[0] == 0).sum(1)
    assert rows.min() > 0
    assert rows.max() < 16


def test_nan_maps_are_skipped_and_counted(convnet, photos):
    maps = torch.randn(5, 8, 8)
    clean = deletion(convnet, photos, maps)
    maps[1, 0, 0] = float("nan")
    maps[3, 2, 2] = float("inf")
    found = deletion(convnet, photos, maps)
    assert found.reasons == (None, "map not finite", None, "map not finite", None)
    assert found.skipped == 2
    assert found.skip_counts == {"map not finite": 2}
    kept = [0, 2, 4]
    assert torch.equal(found.auc[kept], clean.auc[kept])
    assert found.auc[[1, 3]].isnan().all()
    assert found.scores[[1, 3]].isnan().all()
    assert found.summary() == pytest.approx(float(clean.auc[kept].mean()), abs=1e-12)
    nothing = deletion(convnet, photos, torch.full((5, 8, 8), float("nan")))
    assert nothing.skipped == 5
    assert nothing.summary() != nothing.summary()


def test_one_schedule_serves_three_curves(convnet, photos, counting):
    model = counting(convnet)
    found = faithfulness_curves(model, photos, torch.randn(5, 8, 8), steps=8)
    # original and baseline once, seven points of deletion and seven of insertion
    assert model.images == 5 * (1 + 1 + 7 + 7)
    for name, function in (("deletion", deletion), ("insertion", insertion), ("lerf", lerf)):
        alone = function(convnet, photos, torch.randn(5, 8, 8), steps=8)
        assert str(alone.protocol) == str(found[name].protocol)
        assert alone.protocol == found[name].protocol


def test_model_and_inputs_are_left_alone(convnet, photos):
    maps = torch.randn(5, 8, 8, requires_grad=True)
    before = {k: v.clone() for k, v in convnet.state_dict().items()}
    copies = photos.clone(), maps.detach().clone()
    random = torch.get_rng_state()
    faithfulness_curves(convnet, photos, maps, baseline="noise")
    assert convnet.training
    assert convnet[7].training
    assert all(torch.equal(v, before[k]) for k, v in convnet.state_dict().items())
    assert torch.equal(photos, copies[0])
    assert torch.equal(maps, copies[1])
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in convnet.parameters())


def test_probability_is_softmax_and_single_logit_is_sigmoid(linear, photos):
    found = deletion(linear, photos, torch.randn(5, 8, 8), 1)
    expected = linear(photos).softmax(1)[:, 1]
    torch.testing.assert_close(found.scores[:, 0], expected.detach())

    def one(x):
        return x.mean((1, 2, 3))[:, None]

    for cls, sign in ((1, 1), (0, -1)):  # a binary classifier
        single = deletion(one, photos, torch.randn(5, 8, 8), cls)
        torch.testing.assert_close(single.scores[:, 0], (sign * one(photos)).sigmoid()[:, 0])


def test_target_is_the_prediction_unless_given(linear, photos):
    maps = torch.randn(5, 8, 8)
    predicted = linear(photos).argmax(1)
    assert torch.equal(
        deletion(linear, photos, maps).auc, deletion(linear, photos, maps, predicted.tolist()).auc
    )

    def function(output):
        return output[:, 3] * 2

    doubled = deletion(linear, photos, maps, function, score="logit")
    plain = deletion(linear, photos, maps, 3, score="logit")
    torch.testing.assert_close(doubled.auc, 2 * plain.auc)
    with pytest.raises(TargetError, match="4 classes"):
        deletion(linear, photos, maps, 9)
    with pytest.raises(TargetError, match="2 targets for 5 images"):
        deletion(linear, photos, maps, [0, 1])


def test_protocol_is_printed(convnet, photos):
    maps = torch.randn(5, 8, 8)
    assert str(deletion(convnet, photos, maps).protocol) == "del[softmax, mean, 32 steps, pixel]"
    other = insertion(
        convnet, photos, maps, baseline="blur", score="logit", substrate="patch", patch=4, steps=3
    )
    assert str(other.protocol) == "ins[logit, blur, 3 steps, 4 px patch]"
    black = deletion(convnet, photos, maps, baseline=torch.zeros(3, 1, 1))
    grey = deletion(convnet, photos, maps, baseline=torch.full((3, 1, 1), 0.5))
    assert black.protocol.differences(grey.protocol)


def test_patch_substrate_removes_whole_patches(linear, photos, counting):
    model = counting(linear)
    maps = torch.arange(64.0).view(1, 8, 8).expand(5, 8, 8)
    deletion(
        model, photos, maps, 0, baseline="zero", substrate="patch", patch=4, steps=4, score="logit"
    )
    first = model.batches[len(photos) + 1][0]  # the most relevant patch is the last one
    assert (first[:, 4:, 4:] == 0).all()
    assert (first[:, :4] == photos[0, :, :4]).all()


def test_streaming_equals_one_call(convnet, photos):
    maps = torch.randn(5, 8, 8)
    whole = deletion(convnet, photos, maps, steps=5)
    metric = StreamingMetric("deletion", steps=5)
    metric.update(convnet, photos[:2], maps[:2])
    other = StreamingMetric("deletion", steps=5)
    other.update(convnet, photos[2:], maps[2:])
    metric.merge_state(other)
    found = metric.compute()
    assert torch.equal(found.auc, whole.auc)
    assert torch.equal(found.scores, whole.scores)
    assert float(found) == whole.summary()
    assert metric.higher_is_better is False
    axes = metric.plot()
    assert axes.get_ylabel() == str(found.protocol)
    metric.reset()
    with pytest.raises(MetricError, match="no batch"):
        metric.compute()
    with pytest.raises(MetricError, match="not comparable.*steps: 5, not 7"):
        other.update(convnet, photos, maps, steps=7)
    with pytest.raises(MetricError, match=r"merge StreamingMetric\(road\) into .*deletion"):
        other.merge_state(StreamingMetric("road"))
    with pytest.raises(MetricError, match="did you mean 'deletion'"):
        StreamingMetric("deletoin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": torch.randn(4, 8, 8)}, "4 maps for 5 images"),
        ({"maps": torch.randn(5, 3, 8, 8)}, "attribution.sum"),
        ({"baseline": "black"}, "baseline='black'"),
        ({"baseline": torch.zeros(7, 7)}, "broadcasts"),
        ({"substrate": "superpixel"}, "substrate='superpixel'"),
        ({"score": "softmax"}, "score='softmax'"),
        ({"steps": 0}, "steps=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"curves": ("deletions",)}, "did you mean 'deletion'"),
        ({"x": torch.zeros(5, 8, 8)}, r"\(B, C, H, W\)"),
    ],
)
def test_errors_say_what_to_do(convnet, photos, change, message):
    arguments = {"x": photos, "maps": torch.randn(5, 8, 8)} | change
    x, maps = arguments.pop("x"), arguments.pop("maps")
    with pytest.raises(MetricError, match=message):
        faithfulness_curves(convnet, x, maps, **arguments)


def test_maps_of_other_libraries(convnet, photos):
    maps = torch.randn(5, 8, 8)
    expected = deletion(convnet, photos, maps).auc
    array = maps.numpy().copy()
    array.setflags(write=False)
    assert torch.equal(deletion(convnet, photos, array).auc, expected)
    assert torch.equal(deletion(convnet, photos, maps[:, None]).auc, expected)
    assert METRICS.get("least_relevant_first").name == "lerf"
