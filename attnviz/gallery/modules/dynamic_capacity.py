"""Dynamic capacity network: look again, with a finer model, where the answer is undecided.

Equations (Almahairi, Ballas, Cooijmans, Zheng, Larochelle, Courville 2016, arXiv:1511.07838)::

    c_ij = f_c(x)                      coarse vectors, cheap, everywhere
    H = -sum_k o_k log o_k,  o = h(c)   entropy of the prediction from coarse vectors alone
    M_ij = || dH / dc_ij ||_2           saliency: where the prediction's uncertainty is decided
    f_ij = f_f(x_ij)                   fine vectors, only at the k largest M_ij
    o = h(r),  r_ij = f_ij at the chosen places, c_ij elsewhere

The attention is hard and needs no training of its own: it is read off the entropy's gradient. The
paper adds a hint, sum |c_ij - f_ij|^2 at the chosen places, which keeps both kinds of vector alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DCNOutput(NamedTuple):
    """Prediction, and where the fine model looked."""

    logits: Tensor
    """(B, classes), from coarse and fine vectors."""
    saliency: Tensor
    """(B, h, w): the attention, norm of the entropy's gradient at each coarse vector, >= 0."""
    chosen: Tensor
    """(B, k, 2): row and column of the k places given to the fine model, most salient first."""
    coarse_logits: Tensor
    """(B, classes), from coarse vectors alone."""
    hint: Tensor
    """Scalar: mean squared distance between coarse and fine vectors at the chosen places."""


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of softmax(logits) along the last axis."""
    log = F.log_softmax(logits, -1)
    return -(log.exp() * log).sum(-1)


def entropy_saliency(vectors: Tensor, top: Callable[[Tensor], Tensor]) -> Tensor:
    """Norm of dH/dc at each place; works also under `no_grad` and inference mode.

    Args:
        vectors: (B, D, h, w) coarse vectors.
        top: maps them to logits (B, classes), each image by itself.

    Returns:
        (B, h, w), without a graph.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = vectors.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(entropy(top(leaf)).sum(), leaf)
    return gradient.norm(dim=1)


class DynamicCapacityNetwork(nn.Module):
    """Coarse everywhere, fine at k places, for grey images whose sides divide by `cell`.

    Args:
        classes: number of classes.
        cell: side in pixels of the square that one vector stands for.
        context: pixels added on each side of the square that a fine vector reads.
        channels: D, length of a vector.
        k: places given to the fine model.
    """

    def __init__(
        self,
        *,
        classes: int = 10,
        cell: int = 8,
        context: int = 4,
        channels: int = 32,
        k: int = 3,
    ) -> None:
        super().__init__()
        self.cell, self.context, self.k = cell, context, k
        side = cell + 2 * context
        # the coarse model sees one number per 4 x 4 pixels: enough to find, too little to read
        self.coarse = nn.Sequential(
            nn.AvgPool2d(4),
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, channels, cell // 4, stride=cell // 4),
            nn.ReLU(),
        )
        self.fine = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(24, 48, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(48 * (side // 4) ** 2, channels),
            nn.ReLU(),
        )
        self.mix = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.head = nn.Linear(2 * channels, classes)

    @staticmethod
    def hard_attention(inputs: tuple[Tensor, ...], output: DCNOutput) -> tuple[Tensor, str, str]:
        """Tell `attnviz.inspect`: the chosen cells (B, k, 2), row and column."""
        height, width = output.saliency.shape[1:]
        attends = f"{output.chosen.shape[1]} cells (row, column) of {height} x {width} are refined"
        return output.chosen, "dynamic capacity", attends

    def top(self, vectors: Tensor) -> Tensor:
        """Shared top layers h: (B, D, h, w) -> logits (B, classes)."""
        return self.head(F.relu(self.mix(vectors)).amax((2, 3)))

    def patches(self, image: Tensor, chosen: Tensor) -> Tensor:
        """The (B, k, side, side) pixels around the chosen cells; 0 outside the image."""
        side = self.cell + 2 * self.context
        windows = F.unfold(image, side, stride=self.cell, padding=self.context)
        flat = chosen[..., 0] * (image.shape[-1] // self.cell) + chosen[..., 1]
        picked = windows.gather(2, flat[:, None, :].expand(-1, windows.shape[1], -1))
        return picked.transpose(1, 2).reshape(*chosen.shape[:2], side, side)

    def forward(self, image: Tensor) -> DCNOutput:
        """(B, 1, H, W) -> DCNOutput."""
        if image.shape[-1] % self.cell or image.shape[-2] % self.cell:
            raise ValueError(f"image sides must divide by {self.cell}, got {image.shape[-2:]}")
        vectors = self.coarse(image)
        batch, channels, _, columns = vectors.shape
        saliency = entropy_saliency(vectors, self.top)
        flat = saliency.flatten(1).topk(self.k, dim=1).indices
        chosen = torch.stack((flat // columns, flat % columns), 2)
        fine = self.fine(self.patches(image, chosen).flatten(0, 1)[:, None])
        fine = fine.view(batch, self.k, channels).transpose(1, 2)
        index = flat[:, None, :].expand(-1, channels, -1)
        hint = (vectors.flatten(2).gather(2, index) - fine).square().mean()
        refined = vectors.flatten(2).scatter(2, index, fine).view_as(vectors)
        return DCNOutput(self.top(refined), saliency, chosen, self.top(vectors), hint)
