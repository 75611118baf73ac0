"""Metrics over many batches, with torchmetrics' method names, without depending on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..errors import MetricError
from ._register import METRICS
from .protocol import require_alike
from .scores import Curve, Scores


class StreamingMetric:
    """One metric over many batches: `update` with each, then `compute`.

    The state is the list of per-image results, so that `compute` gives every image's value (for
    intervals and paired tests) and not the mean alone.

    Args:
        metric: a name of `METRICS`, or a function that returns `Scores`.
        **options: fixed keyword arguments of the metric's function.

    Raises:
        MetricError: no metric has that name.

    Example:
        >>> import torch
        >>> from attnviz.metrics import StreamingMetric
        >>> iou = StreamingMetric("iou", threshold=0.5)
        >>> for _ in range(2):
        ...     iou.update(torch.eye(4)[None], torch.eye(4)[None])
        >>> iou.compute()
        iou[0.5 of range] = 1 (2 images)
    """

    def __init__(self, metric: str | Callable[..., Scores], **options: Any) -> None:
        self.function = metric if callable(metric) else METRICS.get(metric).fn
        self.options = options
        self._parts: list[Scores] = []

    @property
    def higher_is_better(self) -> bool | None:
        """True, False, or None where neither end is better; known after the first `update`."""
        return self._parts[0].protocol.higher_is_better if self._parts else None

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Add a batch; arguments as the metric's function, options as given at the start."""
        part = self.function(*args, **{**self.options, **kwargs})
        require_alike([p.protocol for p in (*self._parts[:1], part)])
        self._parts.append(part)

    def __call__(self, *args: Any, **kwargs: Any) -> Scores:
        """Add a batch and return the result of this batch alone."""
        self.update(*args, **kwargs)
        return self._parts[-1]

    def compute(self) -> Scores:
        """Return the result over all images so far.

        Raises:
            MetricError: there was no `update`.
        """
        if not self._parts:
            raise MetricError(f"{self} has seen no batch; call update first")
        return type(self._parts[0]).join(self._parts)

    def __repr__(self) -> str:
        return f"StreamingMetric({self.function.__name__})"

    def reset(self) -> None:
        """Forget all batches."""
        self._parts = []

    def merge_state(self, other: StreamingMetric | Sequence[StreamingMetric]) -> None:
        """Add the batches of other metrics of the same kind, such as those of other processes.

        Raises:
            MetricError: another metric, or another protocol.
        """
        for metric in [other] if isinstance(other, StreamingMetric) else other:
            if metric.function is not self.function:
                raise MetricError(f"cannot merge {metric} into {self}")
            if self._parts and metric._parts:
                require_alike([self._parts[0].protocol, metric._parts[0].protocol])
            self._parts = self._parts + metric._parts

    def plot(self, ax: Any = None) -> Any:
        """Draw the mean curve with its quartiles, or a histogram of the values; returns the axes.

        Args:
            ax: matplotlib axes; None makes a figure.
        """
        found = self.compute()
        if ax is None:
            from matplotlib.figure import Figure

            ax = Figure(figsize=(4, 3), layout="constrained").subplots()
        if isinstance(found, Curve):
            _plot_curve(found, ax)
        else:
            values = found.values[found.valid].double().cpu()
            ax.hist(values.numpy(), bins=20)
            ax.set_ylabel("images")
            ax.set_xlabel(str(found.protocol))
        skipped = f", {found.skipped} skipped" if found.skipped else ""
        ax.set_title(f"{found.summary():.4g} ({len(found)} images{skipped})")
        return ax


def _plot_curve(found: Curve, ax: Any) -> None:
    scores: Tensor = found.scores[found.valid].double().cpu()
    at = found.fraction.double().cpu().numpy()
    ax.plot(at, scores.mean(0).numpy())
    if len(scores) > 1:
        low, high = scores.quantile(0.25, 0), scores.quantile(0.75, 0)
        ax.fill_between(at, low.numpy(), high.numpy(), alpha=0.2, linewidth=0)
    ax.set_xlabel("fraction shown" if found.protocol.metric == "insertion" else "fraction removed")
    ax.set_ylabel(str(found.protocol))
