"""Local attention: look only at a window of the source, 2 D + 1 positions around p_t.

Equations (Luong, Pham, Manning 2015, arXiv:1508.04025, section 3.2), positions counted from 0::

    local-m:  p_t = t                                       monotone: the window walks along
    local-p:  p_t = S sigmoid(v . tanh(W h_t))              predictive: S is the source's length
    a_t(s) = softmax over the window of score(h_t, h_s)     both
    local-p:  a_t(s) <- a_t(s) exp(-(s - p_t)^2 / (2 sigma^2)),   sigma = D / 2

The Gaussian gives p_t its gradient. As in the paper the weights of local-p are not renormalised,
so they sum to less than 1. Where t runs past the source's end, local-m's window stays on its last
token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LocalAttention(nn.Module):
    """Local attention, monotone or predictive.

    Args:
        score: maps query (B, d) and keys (B, S, e) to scores (B, S).
        half: D; the window is [p - D, p + D].
        predict: size of the query for local-p; None for local-m.
        hidden: size of the predictor's hidden layer.
    """

    def __init__(
        self, score: nn.Module, *, half: int = 2, predict: int | None = None, hidden: int = 64
    ) -> None:
        super().__init__()
        if half < 1:  # below 1 the window around p_t = S would hold no token
            raise ValueError(f"half must be at least 1, got {half}")
        self.score, self.reach = score, half
        self.predictor = None
        if predict is not None:
            self.predictor = nn.Sequential(
                nn.Linear(predict, hidden, bias=False), nn.Tanh(), nn.Linear(hidden, 1, bias=False)
            )

    def centre(self, query: Tensor, mask: Tensor, step: int) -> Tensor:
        """p_t (B,), in source positions."""
        length = mask.sum(1).to(query.dtype)
        if self.predictor is None:
            return torch.full_like(length, step).minimum(length - 1)
        return length * torch.sigmoid(self.predictor(query).squeeze(1))

    def forward(
        self, query: Tensor, keys: Tensor, mask: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """Attend once; arguments as in `GlobalAttention.forward`, `step` is t, from 0.

        Returns:
            Context (B, e) and weights (B, S), exactly 0 outside the window.
        """
        centre = self.centre(query, mask, step)[:, None]
        distance = torch.arange(keys.shape[1], device=keys.device) - centre
        inside = (distance.abs() <= self.reach) & mask
        score = self.score(query, keys).masked_fill(~inside, -torch.inf)
        weights = score.softmax(-1)
        if self.predictor is not None:
            sigma = self.reach / 2
            weights = weights * torch.exp(-distance.square() / (2 * sigma**2))
        return (weights[:, None] @ keys).squeeze(1), weights
