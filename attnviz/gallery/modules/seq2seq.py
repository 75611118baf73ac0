"""Sequence to sequence with attention: a reader, a writer, and an alignment between them.

Equations, h_j the reader's annotations, s_i the writer's state::

    Bahdanau and others 2015 (arXiv:1409.0473), attend before the step:
        c_i = attend(s_{i-1}, h),  s_i = GRU(s_{i-1}, [y_{i-1}; c_i]),  p(y_i) from [s_i; c_i]
    Luong and others 2015 (arXiv:1508.04025), attend after the step, with input feeding:
        s_i = GRU(s_{i-1}, [y_{i-1}; s~_{i-1}]),  c_i = attend(s_i, h)
        s~_i = tanh(W_c [c_i; s_i]),              p(y_i) from s~_i

An annotation is the token's embedding beside a bidirectional GRU's state, mapped to `hidden`. The
less that state tells of a token's neighbours (`context`, `dropout`), the sharper the alignment.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .alignment import GlobalAttention, make_score
from .local_attention import LocalAttention

PAD, START, END = 0, 1, 2


class Translated(NamedTuple):
    """A translation and its alignment."""

    logits: Tensor
    """(B, T, vocabulary)."""
    attention: Tensor
    """(B, T, S): row t is where the writer looked for its t-th token; 0 on padding."""
    tokens: Tensor
    """(B, T): the target if it was given, else what was written, up to and with END."""


class Seq2Seq(nn.Module):
    """Encoder and decoder with one of the alignments.

    Args:
        source: source vocabulary size (0 pad, 1 start, 2 end).
        target: target vocabulary size, same convention.
        order: "bahdanau" (attend, then step) or "luong" (step, then attend).
        score: additive, dot, general, concat, location or cosine.
        local: None (global), "m" or "p".
        half: D of local attention.
        embed: embedding size.
        hidden: state size.
        context: size of the reader's state in each direction; None is half of hidden.
        dropout: share of that state dropped in training, so that a token is best read at its own
            place.
        longest: longest source (location score) and longest translation.
    """

    def __init__(
        self,
        source: int,
        target: int,
        *,
        order: str = "luong",
        score: str = "general",
        local: str | None = None,
        half: int = 2,
        embed: int = 32,
        hidden: int = 64,
        context: int | None = None,
        dropout: float = 0.0,
        longest: int = 32,
    ) -> None:
        super().__init__()
        if order not in ("bahdanau", "luong") or local not in (None, "m", "p"):
            raise ValueError(
                f"order is 'bahdanau' or 'luong' and local None, 'm' or 'p'; "
                f"got order={order!r}, local={local!r}"
            )
        self.order, self.longest, self.dropout = order, longest, dropout
        self.read = nn.Embedding(source, embed, padding_idx=PAD)
        context = context or hidden // 2
        self.encoder = nn.GRU(embed, context, batch_first=True, bidirectional=True)
        self.annotate = nn.Linear(2 * context + embed, hidden)
        self.begin = nn.Linear(2 * context, hidden)
        self.write = nn.Embedding(target, embed, padding_idx=PAD)
        self.cell = nn.GRUCell(embed + hidden, hidden)
        scorer = make_score(score, hidden, hidden, longest=longest)
        if local is None:
            self.attend: nn.Module = GlobalAttention(scorer)
        else:
            predict = hidden if local == "p" else None
            self.attend = LocalAttention(scorer, half=half, predict=predict)
        self.combine = nn.Linear(2 * hidden, hidden)
        self.head = nn.Linear(hidden, target)

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, S) tokens -> annotations (B, S, hidden), first state (B, hidden), mask (B, S)."""
        mask = source != PAD
        embedded = self.read(source)
        packed = nn.utils.rnn.pack_padded_sequence(
            embedded, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = nn.utils.rnn.pad_packed_sequence(
            self.encoder(packed)[0], batch_first=True, total_length=source.shape[1]
        )
        states = F.dropout(states, self.dropout, self.training)
        keys = torch.tanh(self.annotate(torch.cat((states, embedded), 2)))
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return keys, torch.tanh(self.begin(mean)), mask

    def forward(self, source: Tensor, target: Tensor | None = None) -> Translated:
        """Translate (B, S) tokens.

        Args:
            source: (B, S), 0 on padding.
            target: (B, T) tokens with END, without START, to be written word by word (teacher
                forcing). None writes the likeliest token at each step.
        """
        keys, state, mask = self.encode(source)
        count = len(source)
        token = torch.full((count,), START, device=source.device)
        feed = torch.zeros_like(state)
        done = torch.zeros(count, dtype=torch.bool, device=source.device)
        logits, attention, tokens = [], [], []
        for step in range(self.longest if target is None else target.shape[1]):
            if self.order == "bahdanau":
                context, weights = self.attend(state, keys, mask, step)
                state = self.cell(torch.cat((self.write(token), context), 1), state)
            else:
                state = self.cell(torch.cat((self.write(token), feed), 1), state)
                context, weights = self.attend(state, keys, mask, step)
            feed = torch.tanh(self.combine(torch.cat((context, state), 1)))
            logits.append(self.head(feed))
            attention.append(weights)
            token = logits[-1].argmax(1) if target is None else target[:, step]
            token = token.masked_fill(done, PAD)
            tokens.append(token)
            if target is None:
                done = done | (token == END)
                if bool(done.all()):
                    break
        return Translated(torch.stack(logits, 1), torch.stack(attention, 1), torch.stack(tokens, 1))
