"""`POOLINGS`: from patch scores to the score of the image.

Each takes scores (B, K, h, w), logits of each class at each position, and returns logits (B, K).
The mean reads all positions alike, the maximum one; the others lie between.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import GuidanceError
from ...registry import Registry

#: name -> class of a module (scores (B, K, h, w), features (B, C, h, w)) -> (B, K)
POOLINGS = Registry("pooling", error=GuidanceError)


class Pooling(nn.Module):
    """Base of all poolings."""

    def forward(self, scores: Tensor, features: Tensor) -> Tensor:
        """Return (B, K) of scores (B, K, h, w); features (B, C, h, w) are there for attention."""
        raise NotImplementedError

    def weights(self, scores: Tensor, features: Tensor) -> Tensor | None:
        """Return how much each position counts, (B, K or 1, h, w), where the score is their sum.

        With these, sum(weights * scores) is the pooled logit; None where it is not of that form.
        """
        return None


def _flat(scores: Tensor) -> Tensor:
    return scores.flatten(2)


@POOLINGS.register("gap", paper="arXiv:1512.04150", aliases=("mean",))
class GAP(Pooling):
    """The mean over positions: pooled patch scores are the logits of GAP + linear (Zhou 2016)."""

    def forward(self, scores: Tensor, features: Tensor) -> Tensor:
        """Return the mean."""
        return _flat(scores).mean(2)

    def weights(self, scores: Tensor, features: Tensor) -> Tensor:
        """Return one over the number of positions."""
        return torch.full_like(scores[:, :1], 1 / (scores.shape[-2] * scores.shape[-1]))


@POOLINGS.register("gmp", paper="doi:10.1109/CVPR.2015.7298668", aliases=("max",))
class GMP(Pooling):
    """The maximum over positions (Oquab et al. 2015): one patch decides, and alone learns."""

    def forward(self, scores: Tensor, features: Tensor) -> Tensor:
        """Return the maximum."""
        return _flat(scores).amax(2)

    def weights(self, scores: Tensor, features: Tensor) -> Tensor:
        """Return one where the maximum is, shared among equals."""
        best = (scores == scores.amax((-2, -1), keepdim=True)).to(scores)
        return best / best.sum((-2, -1), keepdim=True)


@POOLINGS.register("lse", paper="arXiv:1411.6228")
class LSE(Pooling):
    """Log-sum-exp: (1/r) log mean exp(r s), the mean for r to 0, the maximum for large r.

    Args:
        r: sharpness, above 0 (Pinheiro & Collobert 2015).
    """

    def __init__(self, r: float = 4.0) -> None:
        super().__init__()
        if not 0 < r < math.inf:
            raise GuidanceError(f"lse: r is above 0, got {r}; use 'gap' for the mean")
        self.r = r

    def forward(self, scores: Tensor, features: Tensor) -> Tensor:
        """Return the log-mean-exp."""
        flat = _flat(scores)
        return ((self.r * flat).logsumexp(2) - math.log(flat.shape[2])) / self.r


@POOLINGS.register("topk", paper="doi:10.1109/CVPR.2017.631", aliases=("wildcat",))
class TopK(Pooling):
    """WILDCAT: (mean of the k highest + alpha mean of the k lowest) / 2 (Durand et al. 2017).

    Differs from the paper in having one map a class.

    Args:
        k: share of the positions, in (0, 1], at least one position.
        alpha: weight of the lowest, which speak against the class.
    """

    def __init__(self, k: float = 0.2, alpha: float = 0.7) -> None:
        super().__init__()
        if not 0 < k <= 1:
            raise GuidanceError(f"topk: k is a share of the positions in (0, 1], got {k}")
        self.k, self.alpha = k, alpha

    def forward(self, scores: Tensor, features: Tensor) -> Tensor:
        """Return the mean of the highest and lowest."""
        flat = _flat(scores)
        count = max(1, round(self.k * flat.shape[2]))
        high = flat.topk(count, dim=2).values.mean(2)
        low = flat.topk(count, dim=2, largest=False).values.mean(2)
        return (high + self.alpha * low) / 2


@POOLINGS.register("noisy-or", paper="arXiv:1411.4952", aliases=("noisyor",))
class NoisyOr(Pooling):
    """Noisy-or: the image shows the class unless no patch does, 1 - prod(1 - p).

    p = sigmoid(score). Returned as the logit of that probability, which goes with
    binary cross-entropy; computed by logarithms, so that many patches do not round to 1.
    """

    def forward(self, scores: Tensor, features: Tensor) -> Tensor:
        """Return the logit of one minus the product."""
        none = -F.softplus(_flat(scores)).sum(2)  # log of the probability that no patch does
        # log(1 - e^x) in the form that is exact at either end
        some = torch.where(
            none > -math.log(2), (-torch.expm1(none)).clamp_min(1e-30).log(),
            torch.log1p(-none.clamp_max(-math.log(2)).exp()),
        )  # fmt: skip
        return some - none


@POOLINGS.register("attention-mil", paper="arXiv:1802.04712", aliases=("attention",))
class AttentionMIL(Pooling):
    """Attention-based MIL: positions weighted by softmax(w tanh(V h)) (Ilse et al. 2018).

    Args:
        channels: C of the features.
        hidden: rows of V.
    """

    def __init__(self, channels: int, hidden: int = 128) -> None:
        super().__init__()
        self.v = nn.Conv2d(channels, hidden, 1, bias=False)
        self.w = nn.Conv2d(hidden, 1, 1, bias=False)
        # equal weights to begin with: a swapped head starts as the mean, and forgets nothing
        nn.init.zeros_(self.w.weight)

    def weights(self, scores: Tensor, features: Tensor) -> Tensor:
        """Return the attention, (B, 1, h, w), adding up to 1."""
        raw = self.w(torch.tanh(self.v(features)))
        return raw.flatten(1).softmax(1).view_as(raw)

    def forward(self, scores: Tensor, features: Tensor) -> Tensor:
        """Return the scores' weighted sum, which is the linear layer on the weighted features."""
        return _flat(self.weights(scores, features) * scores).sum(2)
