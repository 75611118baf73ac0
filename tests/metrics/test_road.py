from __future__ import annotations

import pytest
import torch

from attnviz.errors import MetricError
from attnviz.metrics import StreamingMetric, impute, road


class Altered(torch.nn.Module):
    """The score is how many pixels differ from the images given."""

    def __init__(self, x):
        super().__init__()
        self.x = x

    def forward(self, x):
        differs = (x[:, None] != self.x[None]).any(2).flatten(2).sum(2).amin(1).double()
        return torch.stack([differs, -differs], 1)


def _mostly_zero(size=20):
    maps = torch.zeros(1, size, size)
    maps[:, 4:10, 4:12] = torch.rand(1, 6, 8) + 0.1
    return maps


@pytest.mark.parametrize("order", ["most", "least"])
@pytest.mark.parametrize(
    "maps",
    [_mostly_zero(), torch.zeros(1, 20, 20), torch.ones(1, 20, 20), torch.rand(1, 1, 1)],
    ids=["88% zero", "all zero", "constant", "1x1"],
)
def test_exactly_so_many_pixels_are_imputed(maps, order):
    # pytorch-grad-cam removes every pixel of a map that is 88 % zeros
    x = torch.randn(1, 3, 20, 20)
    found = road(
        Altered(x), x, maps, 0, percentiles=(0, 10, 25, 50, 90), order=order, score="logit"
    )
    assert found.scores[0].tolist() == [0, 40, 100, 200, 360]
    assert found.fraction.tolist() == [0, 0.1, 0.25, 0.5, 0.9]
    assert found.skipped == 0


@pytest.mark.peer("pytorch_grad_cam")
def test_pytorch_grad_cam_removes_everything_where_we_do_not():
    from pytorch_grad_cam.metrics import road as peer

    x = torch.randn(1, 3, 20, 20)
    seen = []

    def imputer(image, mask):
        seen.append(int((mask == 0).sum()))
        return image

    remover = peer.RemoveMostRelevantFirst(80, imputer)
    maps = _mostly_zero()
    maps[maps > 0] = 1.0  # saturated, as thresholded maps are
    remover(x[0], maps[0])
    assert seen == [400 - int((maps < 0).sum())]
    found = road(Altered(x), x, maps, 0, percentiles=(20,), score="logit")
    assert found.scores[0].tolist() == [80]


def test_scores_are_those_of_images_imputed_by_hand(linear, photos):
    maps = linear.contributions(photos, 1)
    found = road(linear, photos, maps, 1, percentiles=(25,), noise=0.0, score="logit")
    rank = maps.flatten(1).argsort(1, descending=True).argsort(1).view_as(maps)
    by_hand = linear(impute(photos, rank < 16))[:, 1].detach()
    torch.testing.assert_close(found.scores[:, 0], by_hand)
    least = road(
        linear, photos, maps, 1, percentiles=(25,), noise=0.0, score="logit", order="least"
    )
    torch.testing.assert_close(
        least.scores[:, 0], linear(impute(photos, rank >= 48))[:, 1].detach()
    )
    both = road(
        linear, photos, maps, 1, percentiles=(25,), noise=0.0, score="logit", order="combined"
    )
    torch.testing.assert_close(both.scores, (least.scores - found.scores) / 2)
    assert both.protocol.higher_is_better
    assert not found.protocol.higher_is_better


def test_noise_is_seeded_and_of_the_size_asked_for(photos, counting, linear):
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    model = counting(lambda x: x.flatten(1)[:, :2])
    model.forward = lambda image: (model.batches.append(image), image.flatten(1)[:, :2])[1]
    maps = torch.rand(1, 64, 64)
    road(model, x, maps, 0, percentiles=(50,), noise=0.1)
    noisy = model.batches[-1]
    road(model, x, maps, 0, percentiles=(50,), noise=0.0)
    plain = model.batches[-1]
    road(model, x, maps, 0, percentiles=(50,), noise=0.1)
    assert torch.equal(model.batches[-1], noisy)
    road(model, x, maps, 0, percentiles=(50,), noise=0.1, seed=1)
    assert not torch.equal(model.batches[-1], noisy)
    added = (noisy - plain)[noisy != plain]
    assert len(added) == 3 * 64 * 64 // 2
    assert added.std() == pytest.approx(0.1, rel=0.05)


def test_every_image_of_the_batch_counts(linear, photos):
    # Quantus keeps the first batch only
    maps = torch.randn(5, 8, 8)
    whole = road(linear, photos, maps, 0)
    metric = StreamingMetric("road")
    for i in range(5):
        metric.update(linear, photos[i : i + 1], maps[i : i + 1], 0)
    assert torch.equal(metric.compute().values, whole.values)
    assert len(whole) == 5


def test_protocol_and_errors(linear, photos):
    maps = torch.randn(5, 8, 8)
    found = road(linear, photos, maps, 0)
    assert str(found.protocol) == "road[softmax, 20, 40, 60, 80 %]"
    maps[2] = float("nan")
    assert road(linear, photos, maps, 0).skip_counts == {"map not finite": 1}
    with pytest.raises(MetricError, match="order='morf'"):
        road(linear, photos, maps, 0, order="morf")
    with pytest.raises(MetricError, match="percentiles"):
        road(linear, photos, maps, 0, percentiles=(120,))
