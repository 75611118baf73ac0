"""Hierarchical attention: which words decide a sentence, which sentences decide the document.

Equations (Yang, Yang, Dyer, He, Smola, Hovy 2016, NAACL, doi:10.18653/v1/N16-1174), for words t of
sentence i; sentences likewise, with their own W, b and context vector u_s::

    u_it = tanh(W_w h_it + b_w),   alpha_it = softmax_t(u_it . u_w),   s_i = sum_t alpha_it h_it
    u_i  = tanh(W_s h_i + b_s),    alpha_i  = softmax_i(u_i . u_s),    v   = sum_i alpha_i h_i
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

PAD = 0


class DocumentOutput(NamedTuple):
    """A document's class, and what decided it."""

    logits: Tensor
    """(B, classes)."""
    sentences: Tensor
    """(B, L): weight of each sentence, summing to 1; 0 on padding."""
    words: Tensor
    """(B, L, W): weight of each word in its sentence, summing to 1 in each; 0 on padding."""


class ContextAttention(nn.Module):
    """Pool a sequence by its agreement with a learned context vector.

    Args:
        dim: size of each element.
        hidden: size of u.
    """

    def __init__(self, dim: int, *, hidden: int = 32) -> None:
        super().__init__()
        self.w = nn.Linear(dim, hidden)
        self.u = nn.Linear(hidden, 1, bias=False)

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, T, dim), mask (B, T) -> pooled (B, dim), weights (B, T).

        A row without any element gets zero weights.
        """
        score = self.u(torch.tanh(self.w(states))).squeeze(-1)
        # an empty row would be softmax(-inf ...) = NaN; its weights are zeroed instead
        empty = ~mask.any(1, keepdim=True)
        weights = score.masked_fill(~(mask | empty), -torch.inf).softmax(-1)
        weights = weights.masked_fill(empty, 0.0)
        return (weights[:, None] @ states).squeeze(1), weights


class HierarchicalAttention(nn.Module):
    """Hierarchical attention network.

    Args:
        vocabulary: number of words, 0 is padding.
        classes: number of classes.
        embed: embedding size.
        hidden: size of a bidirectional state (both directions together).
    """

    def __init__(
        self, vocabulary: int, *, classes: int = 2, embed: int = 24, hidden: int = 32
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embed, padding_idx=PAD)
        self.word_gru = nn.GRU(embed, hidden // 2, batch_first=True, bidirectional=True)
        self.word_attention = ContextAttention(hidden)
        self.sentence_gru = nn.GRU(hidden, hidden // 2, batch_first=True, bidirectional=True)
        self.sentence_attention = ContextAttention(hidden)
        self.head = nn.Linear(hidden, classes)

    @staticmethod
    def run(gru: nn.GRU, x: Tensor, mask: Tensor) -> Tensor:
        """Run a GRU over rows of unequal length; states past the end are 0."""
        length = mask.sum(1).clamp_min(1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(
            x, length, batch_first=True, enforce_sorted=False
        )
        states, _ = nn.utils.rnn.pad_packed_sequence(
            gru(packed)[0], batch_first=True, total_length=x.shape[1]
        )
        return states

    def forward(self, document: Tensor) -> DocumentOutput:
        """(B, L, W) word numbers, 0 on padding (words last, sentences last) -> DocumentOutput."""
        batch, length, width = document.shape
        flat = document.view(-1, width)
        mask = flat != PAD
        states = self.run(self.word_gru, self.embed(flat), mask)
        vectors, words = self.word_attention(states, mask)
        present = mask.any(1).view(batch, length)
        states = self.run(self.sentence_gru, vectors.view(batch, length, -1), present)
        pooled, sentences = self.sentence_attention(states, present)
        return DocumentOutput(self.head(pooled), sentences, words.view(batch, length, width))
