"""Class tokens that stand behind the patches, brought to where most models have them."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from .fold import take
from .site import Site


def in_order(site: Site) -> Site:
    """Return the site with its patches last, where class tokens stand behind them.

    So that every map finds them where most models have them.
    """
    places = site._places("keys") if site.windows == 1 and site.kind == "self" else None
    if places is None or site.queries != site.keys or site.grid is not None or site.causal:
        return site
    inside = places.position >= 0
    patches = math.prod(places.grid)
    line = torch.arange(patches)
    alike = bool((places.position == places.position[:1]).all())
    if not alike or not torch.equal(places.position[0][inside[0]], line):
        return site
    order = torch.cat([(~inside[0]).nonzero()[:, 0], inside[0].nonzero()[:, 0]])
    layout = site._layout
    assert layout is not None
    held = {n: take(t, 2, order) for n in ("q", "k", "v", "output", "probabilities")
            if (t := getattr(site, n)) is not None}  # fmt: skip
    if "probabilities" in held:
        held["probabilities"] = take(held["probabilities"], 3, order)
    mask = site.mask
    for dim in (-2, -1):
        if mask is not None and mask.shape[dim] != 1:
            mask = take(mask, mask.ndim + dim, order)
    return replace(
        site, **held, mask=mask, stated=places.grid, _layout=replace(layout, order=order)
    )
