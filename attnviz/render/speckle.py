"""Maps of single pixels, made legible: attributions that alternate from pixel to pixel."""

from __future__ import annotations

import numpy as np

#: maps with fewer cells along a side are never smoothed
FINE = 64
#: a fine map that agrees with its smoothed self less than this (correlation) is speckled
AGREEMENT = 0.8
#: its smoothing, as a share of the longer side (4 pixels of 224)
SPREAD = 1 / 56
#: its colours end at these percentiles, so that no outlier blanks the rest
PERCENTILES = (1.0, 99.0)


def smoothed(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Return a map as it is drawn, and over how many of its cells it was smoothed (0: not at all).

    A fine map whose neighbouring cells hardly agree (input gradients, layer-wise relevance) is
    smoothed by a Gaussian, signs included, so that what adds up in a region shows; every other
    map is returned as it is. For drawing only: raw values stay raw.

    Args:
        values: (h, w) raw map.
    """
    if min(values.shape) < FINE or not np.isfinite(values).all():
        return values, 0.0
    import cv2

    sigma = max(values.shape) * SPREAD
    soft = cv2.GaussianBlur(values.astype(np.float32), (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    spread = float(values.std() * soft.std())
    agreement = float(((values - values.mean()) * (soft - soft.mean())).mean())
    if spread == 0.0 or agreement > AGREEMENT * spread:
        return values, 0.0
    return soft, sigma


def clipped(values: np.ndarray) -> np.ndarray:
    """Return a map cut at its 1st and 99th percentile."""
    low, high = np.nanpercentile(values, PERCENTILES)
    return np.clip(values, low, high)
