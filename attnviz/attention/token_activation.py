"""TAM: which image tokens speak for a word, less what the words before it explain."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def activation_maps(
    words: Tensor,
    image: Tensor,
    context: Tensor,
    context_ids: Tensor,
    before: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """Return the token activation maps of generated tokens over the image tokens.

    A logit lens of the last layer's tokens: a = (h_image . w_word)+, of the text before the word
    likewise. What other tokens explain is the average of their own maps, each weighted by how
    strongly it speaks for the word; the multiple of it that fits best (least squares) is taken
    away, and what is left below zero. Li et al. 2025, arXiv:2506.23270, equations 3 to 6; the
    tokens of the prompt count as themselves throughout (the authors' code takes the first one's
    prediction).

    Args:
        words: (W,) ids of the tokens.
        image: (P, C) last hidden states of image tokens.
        context: (T, C) of text tokens.
        context_ids: (T,) their ids; those equal to a word are no context of it.
        before: (W, T) which of them come before each word.
        weight, bias: of the output embedding, (V, C) and (V,).

    Returns:
        (W, P), >= 0, in logits; not yet filtered, see `rank_gaussian`.
    """

    def speaks_for(tokens: Tensor, states: Tensor) -> Tensor:
        logits = weight[tokens].float() @ states.float().T
        return (logits if bias is None else logits + bias[tokens, None]).clamp(min=0)

    found = speaks_for(words, image)
    share = speaks_for(words, context) * (before & (context_ids != words[:, None]))
    # the words share one product with the image: each asking for its own cost more than reading
    explained = (share / (share.sum(1, keepdim=True) + 1e-8)) @ speaks_for(context_ids, image)
    fit = (found * explained).sum(1) / (explained * explained).sum(1).clamp(min=1e-12)
    return (found - fit[:, None] * explained).clamp(min=0)


def rank_gaussian(maps: Tensor, size: int = 3) -> Tensor:
    """Return maps denoised by a filter over ranks: a Gaussian about each window's median.

    The values of a window are sorted and weighted by exp(-r^2 / 2 s^2), r being the rank counted
    from the median and s the window's deviation over its mean: even windows are left to their
    median, and a single peak is taken away. Li et al. 2025, arXiv:2506.23270.

    Args:
        maps: (..., h, w), >= 0.
        size: side of the window, odd.
    """
    height, width = maps.shape[-2:]
    pad = size // 2
    flat = maps.reshape(-1, 1, height, width)
    mode = "reflect" if min(height, width) > pad else "replicate"
    windows = F.unfold(F.pad(flat, (pad,) * 4, mode=mode), size).sort(1).values
    mean = windows.mean(1, keepdim=True)
    spread = windows.std(1, keepdim=True, correction=0) / mean.clamp(min=1e-12)
    rank = torch.arange(size * size, device=maps.device) - size * size // 2
    kernel = torch.exp(-(rank[:, None] ** 2) / (2 * spread**2 + 1e-12))
    filtered = (windows * kernel).sum(1) / kernel.sum(1)
    return filtered.where(mean[:, 0] > 0, torch.zeros_like(filtered)).view(maps.shape)
