"""Spectral clustering of a few hundred points, with k-means; a threshold between two kinds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DataError


def spectral(
    points: Tensor, clusters: int | None = None, *, neighbours: int = 10, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Spectral clustering (Ng, Jordan & Weiss 2001) with a self-tuning affinity.

    Affinity exp(-d^2 / (s_i s_j)), s the distance to the 7th neighbour (Zelnik-Manor & Perona
    2004), kept for each point's nearest neighbours; normalised Laplacian; k-means on its first
    eigenvectors.

    Args:
        points: (n, d).
        clusters: how many; None takes the largest gap between eigenvalues 2 to 7.
        neighbours: of the graph.
        seed: of k-means.

    Returns:
        (n,) cluster numbers and the smallest eigenvalues.
    """
    n = len(points)
    distance = torch.cdist(points.double(), points.double())
    k = min(neighbours, n - 1)
    near, index = distance.topk(k + 1, largest=False)
    scale = near[:, min(7, k)].clamp_min(1e-12)
    affinity = torch.exp(-(distance**2) / (scale[:, None] * scale[None]))
    keep = torch.zeros(n, n, dtype=torch.bool)
    keep.scatter_(1, index, True)
    affinity = affinity * (keep | keep.T)
    affinity.fill_diagonal_(0)
    root = affinity.sum(1).clamp_min(1e-12).rsqrt()
    laplacian = torch.eye(n, dtype=torch.float64) - root[:, None] * affinity * root[None]
    values, vectors = torch.linalg.eigh(laplacian)
    if clusters is None:
        gaps = values[2 : min(7, n)] - values[1 : min(7, n) - 1]
        clusters = int(gaps.argmax()) + 2
    if not 1 <= clusters <= n:
        raise DataError(f"{clusters} clusters of {n} images: expected 1 to {n}")
    return kmeans(F.normalize(vectors[:, :clusters], dim=1), clusters, seed=seed), values[:8]


def kmeans(points: Tensor, clusters: int, *, seed: int = 0, starts: int = 10) -> Tensor:
    """Return cluster numbers (n,) of the best of several k-means++ starts."""
    rng = torch.Generator().manual_seed(seed)
    best, least = torch.zeros(len(points), dtype=torch.long), float("inf")
    for _ in range(starts):
        centres = points[torch.randint(len(points), (1,), generator=rng)]
        while len(centres) < clusters:
            apart = torch.cdist(points, centres).amin(1) ** 2
            weight = apart if float(apart.sum()) > 0 else torch.ones_like(apart)
            centres = torch.cat([centres, points[torch.multinomial(weight, 1, generator=rng)]])
        for _ in range(50):
            group = torch.cdist(points, centres).argmin(1)
            moved = torch.stack(
                [points[group == c].mean(0) if (group == c).any() else centres[c]
                 for c in range(clusters)]
            )  # fmt: skip
            if torch.equal(moved, centres):
                break
            centres = moved
        inertia = float((torch.cdist(points, centres).amin(1) ** 2).sum())
        if inertia < least:
            best, least = torch.cdist(points, centres).argmin(1), inertia
    # an empty cluster has no number
    return torch.unique(best, return_inverse=True)[1]


def otsu(values: Tensor) -> float:
    """Return the threshold with the largest variance between the two sides (Otsu 1979)."""
    ordered = values.double().sort().values
    count = torch.arange(1, len(ordered), device=ordered.device)
    below, total = ordered.cumsum(0)[:-1], ordered.sum()
    gap = (total - below) / (len(ordered) - count) - below / count
    at = int((count * (len(ordered) - count) * gap.square()).argmax())
    return float(ordered[at : at + 2].mean())
