"""Tokens of outlying norm: the registers that a vision transformer makes for itself."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import DataError


def outlier_tokens(features: Tensor, *, prefix: int = 0, threshold: float = 6.0) -> Tensor:
    """Return which patches carry an outlying norm.

    Large ViTs keep global information in a few patches of little content, whose norm is several
    times the others' (Darcet et al. 2024, "Vision Transformers Need Registers",
    arXiv:2309.16588). The paper cuts at a norm read off its histogram; here the cut is robust and
    needs no model of its own: more than `threshold` scaled median absolute deviations above the
    sample's median norm.

    Args:
        features: (B, N, C) tokens of a late layer.
        prefix: tokens before the patches, which never count.
        threshold: in deviations.

    Returns:
        (B, N - prefix) bool. All False where all norms are alike.

    Raises:
        DataError: features are not (B, N, C) with patches.
    """
    if features.ndim != 3 or features.shape[1] <= prefix or prefix < 0:
        raise DataError(
            f"features of shape {tuple(features.shape)} with prefix={prefix}: expected tokens "
            "(B, N, C) with at least one patch behind the prefix"
        )
    norms = features[:, prefix:].detach().double().norm(dim=-1)
    middle = norms.median(1, keepdim=True).values
    # 1.4826 makes it the standard deviation of a normal distribution
    spread = 1.4826 * (norms - middle).abs().median(1, keepdim=True).values
    # a floor: identical norms differ by rounding only
    spread = torch.maximum(spread, 1e-6 * middle)
    return norms > middle + threshold * spread
