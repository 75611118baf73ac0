"""Alignment: how well does each source position answer the decoder's query?

Scores between a query s and a key h, and the attention made of them::

    additive   v . tanh(W s + U h)              Bahdanau, Cho, Bengio 2015, arXiv:1409.0473
    dot        s . h                            Luong, Pham, Manning 2015, arXiv:1508.04025
    general    s . W h                          Luong and others 2015
    concat     v . tanh(W [s; h])               Luong and others 2015
    location   (W s)_j                          Luong and others 2015; reads no key at all
    cosine     beta cos(s, h)                   Graves, Wayne, Danihelka 2014, arXiv:1410.5401

    a_j = exp(score_j) / sum_j exp(score_j),    c = sum_j a_j h_j

Additive and concat are the same function: W [s; h] = W_s s + W_h h. The paper by Bahdanau scores
with the state before the step, the one by Luong with the state after it (see `seq2seq`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AdditiveScore(nn.Module):
    """v . tanh(W s + U h)."""

    def __init__(self, query_dim: int, key_dim: int, *, hidden: int = 64) -> None:
        super().__init__()
        self.query = nn.Linear(query_dim, hidden, bias=False)
        self.key = nn.Linear(key_dim, hidden, bias=False)
        self.v = nn.Linear(hidden, 1, bias=False)

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """Query (B, d), keys (B, S, e) -> scores (B, S)."""
        return self.v(torch.tanh(self.query(query)[:, None] + self.key(keys))).squeeze(-1)


class DotScore(nn.Module):
    """s . h; query and key have the same size."""

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """Query (B, d), keys (B, S, d) -> scores (B, S)."""
        return (keys @ query[:, :, None]).squeeze(-1)


class GeneralScore(nn.Module):
    """s . W h."""

    def __init__(self, query_dim: int, key_dim: int) -> None:
        super().__init__()
        self.w = nn.Linear(key_dim, query_dim, bias=False)

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """Query (B, d), keys (B, S, e) -> scores (B, S)."""
        return (self.w(keys) @ query[:, :, None]).squeeze(-1)


class ConcatScore(nn.Module):
    """v . tanh(W [s; h])."""

    def __init__(self, query_dim: int, key_dim: int, *, hidden: int = 64) -> None:
        super().__init__()
        self.w = nn.Linear(query_dim + key_dim, hidden, bias=False)
        self.v = nn.Linear(hidden, 1, bias=False)

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """Query (B, d), keys (B, S, e) -> scores (B, S)."""
        both = torch.cat((query[:, None].expand(-1, keys.shape[1], -1), keys), 2)
        return self.v(torch.tanh(self.w(both))).squeeze(-1)


class LocationScore(nn.Module):
    """(W s)_j: a position from the decoder's state alone, for sources of at most `longest`."""

    def __init__(self, query_dim: int, *, longest: int) -> None:
        super().__init__()
        self.w = nn.Linear(query_dim, longest, bias=False)

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """Query (B, d), keys (B, S, e) -> scores (B, S)."""
        if keys.shape[1] > self.w.out_features:
            raise ValueError(
                f"location score knows {self.w.out_features} positions, got {keys.shape[1]}"
            )
        return self.w(query)[:, : keys.shape[1]]


class CosineScore(nn.Module):
    """beta cos(s, h), with a trained sharpness beta > 0; query and key have the same size."""

    def __init__(self, *, sharpness: float = 5.0) -> None:
        super().__init__()
        self.log_beta = nn.Parameter(torch.tensor(float(sharpness)).log())

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """Query (B, d), keys (B, S, d) -> scores (B, S), within [-beta, beta]."""
        unit = F.normalize(query, dim=-1)[:, :, None]
        return self.log_beta.exp() * (F.normalize(keys, dim=-1) @ unit).squeeze(-1)


def make_score(name: str, query_dim: int, key_dim: int, *, longest: int = 32) -> nn.Module:
    """Return a score by its name: additive, dot, general, concat, location or cosine."""
    if name in ("dot", "cosine") and query_dim != key_dim:
        raise ValueError(f"{name} needs equal sizes, got query {query_dim} and key {key_dim}")
    if name == "additive":
        return AdditiveScore(query_dim, key_dim)
    if name == "dot":
        return DotScore()
    if name == "general":
        return GeneralScore(query_dim, key_dim)
    if name == "concat":
        return ConcatScore(query_dim, key_dim)
    if name == "location":
        return LocationScore(query_dim, longest=longest)
    if name == "cosine":
        return CosineScore()
    raise ValueError(
        f"score {name!r} is not one of additive, dot, general, concat, location, cosine"
    )


class GlobalAttention(nn.Module):
    """Attend to every source position.

    Args:
        score: maps query (B, d) and keys (B, S, e) to scores (B, S).
    """

    def __init__(self, score: nn.Module) -> None:
        super().__init__()
        self.score = score

    def forward(
        self, query: Tensor, keys: Tensor, mask: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """Attend once.

        Args:
            query: (B, d).
            keys: (B, S, e).
            mask: (B, S) boolean, True where there is a token.
            step: target position; not used, local attention needs it.

        Returns:
            Context (B, e) and weights (B, S), which sum to 1 and are 0 on padding.
        """
        score = self.score(query, keys).masked_fill(~mask, -torch.inf)
        weights = score.softmax(-1)
        return (weights[:, None] @ keys).squeeze(1), weights
