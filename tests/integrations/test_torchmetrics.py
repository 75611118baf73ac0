"""attnviz's metrics as torchmetrics': the mean of the same values, batch by batch."""

from __future__ import annotations

import pytest
import torch

from attnviz.metrics import METRICS

pytest.importorskip("torchmetrics", reason="the extra 'torchmetrics' brings it")


@pytest.mark.parametrize("name", ["iou", "pointing", "energy"])
def test_batches_give_the_mean_over_all_images(name: str) -> None:
    from torchmetrics import MetricCollection

    from attnviz.integrations.torchmetrics import MapMetric

    draw = torch.Generator().manual_seed(0)
    maps, masks = torch.rand(7, 8, 8, generator=draw), torch.zeros(7, 8, 8)
    masks[:, 2:5, 3:7] = 1
    metrics = MetricCollection({"map": MapMetric(name), "again": MapMetric(name)})
    for part in (slice(0, 3), slice(3, 7)):
        metrics.update(maps[part], masks[part])
    wanted = METRICS.get(name).fn(maps, masks).values.double()
    assert float(metrics.compute()["map"]) == pytest.approx(float(wanted.nanmean()), rel=1e-6)
    metric = MapMetric(name)
    first = metric(maps[:3], masks[:3])  # the batch's own value
    assert float(first) == pytest.approx(float(wanted[:3].nanmean()), rel=1e-6)
    metric.reset()
    metric.update(maps[3:], masks[3:])
    assert float(metric.compute()) == pytest.approx(float(wanted[3:].nanmean()), rel=1e-6)
    assert metric.higher_is_better is True
