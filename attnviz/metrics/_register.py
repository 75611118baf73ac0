"""The registry of metrics: name -> function, and what each needs to be called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import MetricError
from ..registry import Registry

METRICS = Registry("metric", "attnviz.metrics", error=MetricError, plugins="attnviz.metrics")

#: what a metric may need beside the maps, and so how it is called:
#: () -> fn(maps); ("model",) -> fn(model, x, maps, target); ("masks",) -> fn(maps, masks);
#: ("boxes",) -> fn(maps, boxes); ("explainer",) -> fn(explain, x);
#: ("explainer", "model") -> fn(explain, model, x), with "target" fn(explain, model, x, target);
#: ("explainer", "target") -> fn(explain, x, target, classes=), where `explain` takes targets;
#: ("grid",) -> fn(explain, model, x, target), of several images together
NEEDS = ("model", "masks", "boxes", "explainer", "target", "grid")


def register_metric(
    name: str,
    *,
    family: str,
    needs: tuple[str, ...] = (),
    higher_is_better: bool | None,
    paper: str = "",
    aliases: tuple[str, ...] = (),
    forwards: Callable[[Mapping[str, Any]], int] = lambda options: 0,
    explanations: Callable[[Mapping[str, Any]], int] = lambda options: 0,
    imputations: Callable[[Mapping[str, Any]], int] = lambda options: 0,
    **meta: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a metric's function; its first docstring line is its summary in tables.

    Args:
        name: how the command line and a protocol call it.
        family: faithfulness, robustness, randomisation, localisation or complexity.
        needs: what it is called with beside the maps, of `NEEDS`.
        higher_is_better: None where neither end is better.
        paper: the source.
        aliases: further names.
        forwards: images that pass through the model, for each image and map, given the options.
        explanations: maps that are made anew, for each image.
        imputations: images that are imputed, for each image and map.
        **meta: anything a table may want to know of it.
    """
    unknown = set(needs) - set(NEEDS)
    if unknown:
        raise ValueError(f"needs {sorted(unknown)} of metric {name!r} is not among {NEEDS}")
    return METRICS.register(
        name,
        paper=paper,
        family=family,
        aliases=aliases,
        needs=needs,
        higher_is_better=higher_is_better,
        forwards=forwards,
        explanations=explanations,
        imputations=imputations,
        **meta,
    )
