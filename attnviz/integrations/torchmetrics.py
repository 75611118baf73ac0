"""torchmetrics: any of attnviz's metrics as a `Metric`, in collections and across processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ..metrics import METRICS


class MapMetric(Metric):
    """The mean over images of a metric of `attnviz.metrics`; images without a value are left out.

    Args:
        name: of `attnviz benchmark --metrics list`, one whose result is a mean over images.
        **options: fixed keyword arguments of the metric's function.

    Example:
        >>> iou = MapMetric("iou", threshold=0.5)
        >>> iou.update(torch.eye(4)[None], torch.eye(4)[None])
        >>> iou.compute()
        tensor(1., dtype=torch.float64)
    """

    values: Any
    is_differentiable = False
    full_state_update = False

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__()
        self.entry = METRICS.get(name)
        self.options = options
        self.add_state("values", default=[], dist_reduce_fx="cat")

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]  (a constant there)
        """True, False, or None where neither end is better."""
        return self.entry.meta["higher_is_better"]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Add a batch; arguments as of the metric's function."""
        scores = self.entry.fn(*args, **{**self.options, **kwargs})
        self.values.append(scores.values.detach().double().to(self.device))

    def compute(self) -> Tensor:
        """Return the mean, () float64; NaN if no image has a value."""
        return torch.nanmean(dim_zero_cat(self.values))


__all__ = ["MapMetric"]
