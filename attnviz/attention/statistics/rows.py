"""Statistics of attention rows, one pass over row chunks of a site: O(H K) memory, not O(H Q K)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import AttentionUnavailable, DataError
from ..tap import Site
from ..tap.fold import BUDGET


@dataclass(frozen=True, eq=False)
class SiteStatistics:
    """What the rows of one attention are like; each (H,) float64, a mean over rows and samples.

    Rows that may attend to nothing (fully masked) are left out. A number that has no meaning
    here (a distance without places, a class token where there is none) is NaN.

    Attributes:
        name: of the module.
        entropy: of a row, in nats; 0 for one key, log K for all alike.
        distance: mean distance from a query to what it attends, weighted by attention: in pixels
            of the input between patch centres where tokens are patches (Dosovitskiy et al. 2021,
            arXiv:2010.11929, figure 7; tokens that are no patch left out and the rest rescaled),
            else in tokens |i - j|.
        unit: "px" or "tokens".
        hoyer: sparsity (sqrt K - |a|_1 / |a|_2) / (sqrt K - 1): 0 all alike, 1 a single key
            (Hurley & Rickard 2009, arXiv:0811.4706). NaN for one key.
        top_mass: share of the `top` largest weights.
        sink_mass: largest share that a single key receives, averaged over the queries
            (attention sinks: Xiao et al. 2024, arXiv:2309.17453).
        sink_key: which key that is, (H,) int64, of the first sample.
        class_share: share that patches give the first token before them.
        prefix_share: share that patches give all tokens before them (class, registers).
        previous: weight of the token before: mean a[i, i - 1] (Voita et al. 2019,
            arXiv:1905.09418). Only where queries are the keys.
        duplicate: weight on earlier tokens equal to the query's, over queries that have one (Wang
            et al. 2023, arXiv:2211.00593). Needs token ids.
        similarity: (H, H) mean cosine between the rows of two heads.
        top: the k of `top_mass`.
    """

    name: str
    entropy: Tensor
    distance: Tensor
    unit: str
    hoyer: Tensor
    top_mass: Tensor
    sink_mass: Tensor
    sink_key: Tensor
    class_share: Tensor
    prefix_share: Tensor
    previous: Tensor
    duplicate: Tensor
    similarity: Tensor
    top: int

    @property
    def redundancy(self) -> Tensor:
        """(H,) mean similarity of a head to the other heads; NaN for a single head."""
        heads = len(self.similarity)
        if heads < 2:
            return torch.full((heads,), math.nan, dtype=torch.float64)
        return (self.similarity.sum(1) - self.similarity.diagonal()) / (heads - 1)


def site_statistics(
    site: Site,
    *,
    token_ids: Tensor | None = None,
    padding: Tensor | None = None,
    top: int = 10,
    budget: int | None = None,
) -> SiteStatistics:
    """Return the statistics of one attention's rows.

    Args:
        site: from `attention.tap`.
        token_ids: (B, K) ids of the tokens, for `duplicate`.
        padding: (B, Q) bool, true for queries that are padding; their rows count nowhere.
        top: how many weights `top_mass` adds up.
        budget: bytes that row chunks and what is computed of them may take (default 64 MiB).

    Raises:
        AttentionUnavailable: the site's q and k were not kept.
        DataError: `token_ids` do not fit, or there are no rows.
    """
    if top < 1:
        raise DataError(f"top={top}: expected at least 1")
    same = site.queries == site.keys and site.kind != "cross"
    if token_ids is not None and token_ids.shape != (site.batch, site.keys):
        raise DataError(
            f"token_ids of shape {tuple(token_ids.shape)} for {site.batch} samples of {site.keys} "
            f"keys at {site.name!r}; expected one id per key"
        )
    if padding is not None and padding.shape != (site.batch, site.queries):
        raise DataError(
            f"padding of shape {tuple(padding.shape)} for {site.batch} samples of {site.queries} "
            f"queries at {site.name!r}; expected one flag per query"
        )
    sums = _Sums(site, min(top, site.keys), same, token_ids, padding)
    # weights in double, their square, logarithm and product with a distance beside each other
    own = (BUDGET if budget is None else budget) // 8
    for rows, weights in site.chunks(budget=own):
        sums.add(rows, weights.detach().double())
    return sums.result(top)


class _Sums:
    """Running sums over rows; one number per head."""

    def __init__(
        self, site: Site, top: int, same: bool, token_ids: Tensor | None, padding: Tensor | None
    ) -> None:
        self.site, self.top, self.same, self.ids = site, top, same, token_ids
        self.padding = padding
        self.live = torch.zeros(site.batch, site.heads, dtype=torch.float64)
        self.points, self.patch = _points(site, same)
        self.heads = site.heads
        self.values: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        self.received = torch.zeros(site.batch, site.heads, site.keys, dtype=torch.float64)
        self.similarity = torch.zeros(site.heads, site.heads, dtype=torch.float64)
        self.prefix = _prefix(site)

    def _put(self, name: str, values: Tensor, where: Tensor) -> None:
        """Add (B, H, R) values of the rows `where` (B, H, R) is true."""
        kept = torch.where(where, values, 0.0).sum((0, 2)).cpu()
        self.values[name] = self.values.get(name, 0) + kept
        self.counts[name] = self.counts.get(name, 0) + where.double().sum((0, 2)).cpu()

    def add(self, rows: slice, a: Tensor) -> None:
        if self.padding is not None:
            a = a.masked_fill(self.padding.to(a.device)[:, None, rows, None], 0.0)
        live = a.sum(-1) > 0
        self.live += live.sum(-1).cpu()
        self._put("entropy", -torch.special.xlogy(a, a).sum(-1), live)
        if self.site.keys > 1:
            root = math.sqrt(self.site.keys)
            norm = a.norm(dim=-1).clamp_min(1e-300)
            self._put("hoyer", (root - a.sum(-1) / norm) / (root - 1), live)
        self._put("top_mass", a.topk(self.top, -1).values.sum(-1), live)
        self.received += a.sum(2).cpu()
        unit = a / a.norm(dim=-1, keepdim=True).clamp_min(1e-300)
        self.similarity += torch.einsum("bhrk,bgrk->hg", unit, unit).cpu()
        self._places(rows, a, live)
        if self.same:
            self._tokens(rows, a, live)

    def _places(self, rows: slice, a: Tensor, live: Tensor) -> None:
        if self.points is not None and self.patch is not None:
            points = self.points.to(a)
            patch = self.patch.to(a.device)
            distance = torch.cdist(points[:, rows], points)  # (B, R, K)
            inside = a * patch[:, None, None]
            mass = inside.sum(-1)
            mean = (inside * distance[:, None]).sum(-1) / mass.clamp_min(1e-300)
            self._put("distance", mean, live & patch[:, None, rows] & (mass > 0))
        elif self.same:
            index = torch.arange(self.site.keys, device=a.device, dtype=a.dtype)
            distance = (index[rows, None] - index[None]).abs()
            self._put("distance", (a * distance).sum(-1), live)
        if self.prefix:
            patches = torch.arange(self.site.queries, device=a.device)[rows] >= self.prefix
            where = live & patches
            self._put("class_share", a[..., 0], where)
            self._put("prefix_share", a[..., : self.prefix].sum(-1), where)

    def _tokens(self, rows: slice, a: Tensor, live: Tensor) -> None:
        index = torch.arange(self.site.keys, device=a.device)[rows]
        before = a.gather(-1, (index - 1).clamp_min(0).expand(*a.shape[:2], -1)[..., None])
        self._put("previous", before[..., 0], live & (index > 0))
        if self.ids is not None:
            ids = self.ids.to(a.device)
            earlier = torch.arange(self.site.keys, device=a.device)[None] < index[:, None]
            equal = (ids[:, rows, None] == ids[:, None]) & earlier  # (B, R, K)
            has = equal.any(-1)[:, None].expand_as(live)
            self._put("duplicate", (a * equal[:, None]).sum(-1), live & has)

    def _mean(self, name: str) -> Tensor:
        if name not in self.values:
            return torch.full((self.heads,), math.nan, dtype=torch.float64)
        count = self.counts[name]
        return torch.where(count > 0, self.values[name] / count.clamp_min(1), math.nan)

    def result(self, top: int) -> SiteStatistics:
        rows = self.counts.get("entropy")
        if rows is None or not (rows > 0).any():
            raise DataError(
                f"no row of {self.site.name!r} attends to anything (batch {self.site.batch}, "
                f"{self.site.queries} queries): there is nothing to count"
            )
        received = self.received / self.live.clamp_min(1)[..., None]
        sink, key = received.max(-1)
        return SiteStatistics(
            name=self.site.name,
            entropy=self._mean("entropy"),
            distance=self._mean("distance"),
            unit="px" if self.points is not None else "tokens",
            hoyer=self._mean("hoyer"),
            top_mass=self._mean("top_mass"),
            sink_mass=sink.mean(0),
            sink_key=key[0],
            class_share=self._mean("class_share"),
            prefix_share=self._mean("prefix_share"),
            previous=self._mean("previous"),
            duplicate=self._mean("duplicate"),
            similarity=self.similarity / rows.mean(),
            top=top,
        )


def _prefix(site: Site) -> int:
    """Return the number of tokens before the patches, where queries are the keys."""
    if site.queries != site.keys or site.windows > 1 or site.kind != "self":
        return 0
    return site.prefix if site.grid is not None else 0


def _points(site: Site, same: bool) -> tuple[Tensor | None, Tensor | None]:
    """Return the patch centres (B, T, 2) in pixels and which tokens are patches (B, T)."""
    if not same or site.picture is None:
        return None, None
    try:
        places = site.places()
    except AttentionUnavailable:
        return None, None
    rows, columns = places.grid
    if rows == 1 or columns == 1:
        return None, None
    cell = torch.tensor([site.picture[0] / rows, site.picture[1] / columns])
    position = places.position.expand(site.batch, -1)
    at = torch.stack([position.clamp_min(0) // columns, position.clamp_min(0) % columns], -1)
    return (at + 0.5) * cell, position >= 0
