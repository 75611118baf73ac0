"""The table of all heads of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import AttentionUnavailable
from ...hooks import preserved, unwrap
from ..tap import Site, tap
from .importance import head_importance
from .rows import SiteStatistics, site_statistics

#: column -> what it is, as a legend says it
COLUMNS = {
    "layer": "number of the attention, in the order of the forward pass",
    "name": "module",
    "head": "number of the head",
    "entropy": "of a row, nats",
    "distance": "mean distance to what is attended (px of the input, or tokens)",
    "hoyer": "sparsity, 0 all alike to 1 a single key",
    "top_mass": "share of the largest weights",
    "sink_mass": "largest share that one key receives",
    "class_share": "share that patches give the class token",
    "previous": "weight of the token before",
    "duplicate": "weight on earlier equal tokens",
    "redundancy": "mean cosine to the other heads' rows",
    "importance": "|d score / d gate|",
}


@dataclass(frozen=True, eq=False)
class HeadTable:
    """Statistics of every head.

    Attributes:
        sites: one `SiteStatistics` for each attention, with its index.
        importance: {index of the site: (H,)}, empty if it was not asked for.
        missed: attention that could not be read, as text.
    """

    sites: tuple[tuple[int, SiteStatistics], ...]
    importance: Mapping[int, Tensor]
    missed: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a head with the keys of `COLUMNS`; None where a number has no meaning."""
        out = []
        for index, site in self.sites:
            for head in range(len(site.entropy)):
                row: dict[str, Any] = {"layer": index, "name": site.name, "head": head}
                for column in COLUMNS:
                    if column in row:
                        continue
                    if column == "importance":
                        values = self.importance.get(index)
                    else:
                        values = getattr(site, column)
                    value = math.nan if values is None else float(values[head])
                    row[column] = None if math.isnan(value) else value
                out.append(row)
        return out

    @property
    def unit(self) -> str:
        """Unit of `distance`: "px", "tokens", or "mixed" over the layers."""
        units = {site.unit for _, site in self.sites}
        return units.pop() if len(units) == 1 else "mixed"


def head_table(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Any],
    *,
    target: Any = None,
    importance: bool = False,
    token_ids: Tensor | None = None,
    top: int = 10,
) -> HeadTable:
    """Return the statistics of every head on a batch.

    Args:
        model: any model that `attention.tap` reads; it is left as it was.
        inputs: a batch, or keyword arguments.
        target: what `importance` is about, as in `explain`.
        importance: also differentiate the score by each head (a forward and a backward more).
        token_ids: (B, N) for `duplicate`; taken from `inputs["input_ids"]` if that is there.
        top: how many weights `top_mass` adds up.

    Raises:
        AttentionUnavailable: there is no attention between tokens.
    """
    module = unwrap(model)
    if token_ids is None and isinstance(inputs, Mapping):
        token_ids = inputs.get("input_ids")
    with preserved(module), torch.no_grad(), tap(module, keep="qk") as taken:
        module(**inputs) if isinstance(inputs, Mapping) else module(inputs)
    found = []
    for site in taken.attention:
        if site.kind in ("channel", "pooling") or not site.queries:
            continue
        fits = token_ids is not None and token_ids.shape == (site.batch, site.keys)
        statistics = site_statistics(
            site, token_ids=token_ids if fits else None, padding=_padding(inputs, site), top=top
        )
        found.append((site.index, statistics))
    if not found:
        raise AttentionUnavailable(
            "no attention between tokens was read, so there is no table; "
            "attnviz.attention.tap(model).sites lists what there is"
        )
    heads = head_importance(module, inputs, target=target) if importance else {}
    return HeadTable(tuple(found), heads, tuple(map(str, taken.missed)))


def _padding(inputs: Any, site: Site) -> Tensor | None:
    """Return which queries are padding, by the masks that the model was given."""
    if not isinstance(inputs, Mapping):
        return None
    for name in ("attention_mask", "decoder_attention_mask"):
        mask = inputs.get(name)
        own = site.queries == site.keys or name.startswith("decoder")
        if own and isinstance(mask, Tensor) and mask.shape == (site.batch, site.queries):
            return mask == 0
    return None
