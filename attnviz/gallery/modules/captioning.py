"""Captioning with attention: for each word written, a map of where the model looked.

Equations (Xu and others 2015, Show, Attend and Tell, arXiv:1502.03044), a_i the image's vectors::

    e_ti = f_att(a_i, h_{t-1}),   alpha_ti = softmax_i(e_ti)
    soft:  z_t = sum_i alpha_ti a_i                             the expected context
    hard:  s_t ~ Multinoulli(alpha_t),  z_t = a_{s_t}            one place; trained by REINFORCE
    h_t = GRU(h_{t-1}, [E y_{t-1}; z_t]),   p(y_t) from [h_t; z_t; E y_{t-1}]

Differs from the paper in a GRU instead of an LSTM, in vectors that know their place, and in a first
state that has not seen the image (the paper's is made of the mean vector, past the attention): all
that the writer knows came through the maps. When not sampling, hard attention takes the likeliest
place, as the paper's decoder does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .alignment import AdditiveScore

PAD, START, END = 0, 1, 2


class Captioned(NamedTuple):
    """A caption and its maps."""

    logits: Tensor
    """(B, T, vocabulary)."""
    attention: Tensor
    """(B, T, h, w): alpha; the map behind each word, summing to 1."""
    tokens: Tensor
    """(B, T): the caption given, or the one written, up to and with END."""
    places: Tensor
    """(B, T): hard attention's chosen cell, row by row; the likeliest cell for soft attention."""
    log_prob: Tensor
    """(B, T): log alpha of that cell."""


class ConvEncoder(nn.Module):
    """Few convolutions: a vector stands for 18 x 18 pixels around its cell and knows its place.

    Args:
        channels: D.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(5, 32, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
            nn.ReLU(),
        )

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D, H / 4, W / 4); places join the colours as two more channels."""
        height, width = image.shape[-2:]
        y = torch.linspace(-1, 1, height).to(image)[:, None].expand(height, width)
        x = torch.linspace(-1, 1, width).to(image).expand(height, width)
        place = torch.stack((x, y)).expand(len(image), -1, -1, -1)
        return self.layers(torch.cat((image, place), 1))


class Look(nn.Module):
    """Look at the vectors of an image: at all of them, weighed, or at one.

    Args:
        query_dim: size of the state that asks.
        key_dim: D, size of an image vector.
        hard: one place instead of the weighed mean.
    """

    def __init__(self, query_dim: int, key_dim: int, *, hard: bool = False) -> None:
        super().__init__()
        self.hard = hard
        self.score = AdditiveScore(query_dim, key_dim)

    def forward(
        self,
        query: Tensor,
        vectors: Tensor,
        *,
        sample: bool = False,
        expected: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """State (B, query_dim), vectors (B, N, D) -> context (B, D), weights (B, N), place (B,).

        The place is the likeliest one, or drawn where `sample` is set and the attention is hard;
        images in `expected` (B,) see the weighed mean all the same.
        """
        weights = self.score(query, vectors).softmax(-1)
        place = weights.argmax(1)
        if not self.hard:
            return (weights[:, None] @ vectors).squeeze(1), weights, place
        if sample:
            place = torch.multinomial(weights.detach(), 1, generator=generator).squeeze(1)
        chosen = F.one_hot(place, weights.shape[1]).to(weights.dtype)
        if expected is not None:
            chosen = torch.where(expected[:, None], weights, chosen)
        return (chosen[:, None] @ vectors).squeeze(1), weights, place


class Captioner(nn.Module):
    """Convolutional reader and attending writer, for RGB images whose sides divide by 4.

    Args:
        vocabulary: number of words (0 pad, 1 start, 2 end).
        hard: sample one place a word instead of averaging.
        channels: D, size of an image vector.
        embed: word embedding size.
        hidden: state size.
        longest: longest caption.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        hard: bool = False,
        channels: int = 48,
        embed: int = 24,
        hidden: int = 64,
        longest: int = 12,
    ) -> None:
        super().__init__()
        self.longest = longest
        self.reader = ConvEncoder(channels)
        self.begin = nn.Parameter(torch.zeros(hidden))
        self.word = nn.Embedding(vocabulary, embed, padding_idx=PAD)
        self.attend = Look(hidden, channels, hard=hard)
        self.cell = nn.GRUCell(embed + channels, hidden)
        self.head = nn.Linear(hidden + channels + embed, vocabulary)

    def forward(
        self,
        image: Tensor,
        caption: Tensor | None = None,
        *,
        sample: bool = False,
        generator: torch.Generator | None = None,
    ) -> Captioned:
        """Describe (B, 3, H, W).

        Args:
            image: (B, 3, H, W).
            caption: (B, T) tokens with END, for teacher forcing; None writes greedily.
            sample: hard attention draws its places (training) instead of taking the likeliest. As
                in the paper, half of the images see the expected context instead, which tells the
                weights more than the draws do; the log probability of their places is given as 0.
            generator: where the draws come from.
        """
        maps = self.reader(image)
        count, _, height, width = maps.shape
        vectors = maps.flatten(2).transpose(1, 2)
        state = torch.tanh(self.begin).expand(count, -1)
        token = torch.full((count,), START, device=image.device)
        done = torch.zeros(count, dtype=torch.bool, device=image.device)
        expected = None
        if self.attend.hard and sample:
            expected = torch.rand(count, generator=generator).to(image.device) < 0.5
        rows: list[tuple[Tensor, ...]] = []
        for step in range(self.longest if caption is None else caption.shape[1]):
            seen, weights, place = self.attend(
                state, vectors, sample=sample, expected=expected, generator=generator
            )
            word = self.word(token)
            state = self.cell(torch.cat((word, seen), 1), state)
            logits = self.head(torch.cat((state, seen, word), 1))
            token = logits.argmax(1) if caption is None else caption[:, step]
            token = token.masked_fill(done, PAD)
            log_prob = weights.gather(1, place[:, None]).squeeze(1).clamp_min(1e-12).log()
            if expected is not None:
                log_prob = log_prob.masked_fill(expected, 0.0)
            rows.append((logits, weights.view(-1, height, width), token, place, log_prob))
            if caption is None:
                done = done | (token == END)
                if bool(done.all()):
                    break
        return Captioned(*(torch.stack(column, 1) for column in zip(*rows, strict=True)))


class HardCaptioner(Captioner):
    """A `Captioner` that looks at one place a word; arguments as there, `hard` left out."""

    def __init__(self, vocabulary: int, **options: int) -> None:
        super().__init__(vocabulary, hard=True, **options)

    @staticmethod
    def hard_attention(inputs: tuple[Tensor, ...], output: Captioned) -> tuple[Tensor, str, str]:
        """Tell `attnviz.inspect`: the cells (B, T, 2), row and column, one a word."""
        height, width = output.attention.shape[-2:]
        cells = torch.stack((output.places // width, output.places % width), 2)
        attends = f"each word one cell (row, column) of {height} x {width}"
        return cells, "one place a word", attends
