"""Objectives without labels, for the gallery's small vision transformers.

The published networks are far larger and trained on photos; these have the same objectives at a
size that trains in a minute.
"""

from __future__ import annotations

import copy

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from attnviz.gallery.cards._vits import GRID, HEADS, PATCH, WIDTH

KOLEO = 0.5


def views(images: Tensor, draw: Generator) -> Tensor:
    """The same pictures moved by up to 4 pixels, mirrored, brighter or darker, with noise."""
    count, _, height, width = images.shape
    flip = torch.rand(count, generator=draw) < 0.5
    out = torch.where(flip[:, None, None, None], images.flip(3), images)
    down, across = torch.randint(9, (2,), generator=draw).tolist()
    out = F.pad(out, (4, 4, 4, 4), mode="replicate")[
        :, :, down : down + height, across : across + width
    ]
    light = 0.3 * torch.rand(count, 1, 1, 1, generator=draw) - 0.15
    return out + light + 0.05 * torch.randn(out.shape, generator=draw)


class Contrast(nn.Module):
    """A student and a teacher that follows it: MoCo v3 (Chen et al. 2021, arXiv:2104.02057)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.project = _head(WIDTH, 64)
        self.predict = _head(64, 64)
        self.teacher = copy.deepcopy(nn.Sequential(encoder, self.project)).requires_grad_(False)

    def loss(self, images: Tensor, draw: Generator) -> Tensor:
        """InfoNCE of one view's prediction of the other, among the pictures of the batch."""
        one, two = views(images, draw), views(images, draw)
        total = images.new_zeros(())
        for a, b in ((one, two), (two, one)):
            query = F.normalize(self.predict(self.project(self.encoder(a))), dim=1)
            with torch.no_grad():
                key = F.normalize(self.teacher(b), dim=1)
            total = total + F.cross_entropy(query @ key.mT / 0.2, torch.arange(len(images)))
        return total

    @torch.no_grad()
    def follow(self) -> None:
        """Move the teacher a little towards the student."""
        student = [*self.encoder.parameters(), *self.project.parameters()]
        for old, new in zip(self.teacher.parameters(), student, strict=True):
            old.lerp_(new, 0.04)


class Distillation(nn.Module):
    """A student that learns its teacher's answers: DINO (Caron et al. 2021, arXiv:2104.14294).

    With DINOv2's KoLeo term, without which so small a batch ends in one answer for everything.
    """

    centre: Tensor

    def __init__(self, encoder: nn.Module, *, answers: int = 128) -> None:
        super().__init__()
        self.encoder = encoder
        last = nn.Linear(64, answers, bias=False).requires_grad_(False)  # fixed, rows of length 1
        last.weight.copy_(F.normalize(last.weight, dim=1))
        self.project = nn.Sequential(_head(WIDTH, 64), _Unit(), last)
        self.teacher = copy.deepcopy(nn.Sequential(encoder, self.project)).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(answers))

    def loss(self, images: Tensor, draw: Generator) -> Tensor:
        """Cross-entropy of the student's answer to one view with the teacher's to the other."""
        one, two = views(images, draw), views(images, draw)
        total = images.new_zeros(())
        for a, b in ((one, two), (two, one)):
            features = self.encoder(a)
            answer = (self.project(features) / 0.1).log_softmax(1)
            with torch.no_grad():
                told = self.teacher(b)
                wanted = ((told - self.centre) / 0.04).softmax(1)
                self.centre.lerp_(told.mean(0), 0.1)
            total = total - (wanted * answer).sum(1).mean() + KOLEO * _spread(features)
        return total

    follow = Contrast.follow


class Masked(nn.Module):
    """Guess hidden patches' colours: BEiT (Bao et al. 2022, arXiv:2106.08254), mask tokens in the
    encoder; discrete targets, here the nearest of 27 colours instead of a learnt tokeniser's codes.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.mask = nn.Parameter(torch.zeros(WIDTH))
        self.guess = nn.Linear(WIDTH, 27)

    def loss(self, images: Tensor, draw: Generator) -> Tensor:
        """Cross-entropy of the hidden patches, 40 % of them."""
        colour = F.avg_pool2d(images, PATCH).flatten(2).mT  # (B, N, 3)
        level = (colour * 3).long().clamp(0, 2)
        token = level @ torch.tensor([9, 3, 1])
        hidden = torch.rand(token.shape, generator=draw) < 0.4

        def hide(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            return torch.where(hidden[..., None], self.mask, output)

        handle = self.encoder.patch_embed.register_forward_hook(hide)
        try:
            features = self.encoder.forward_features(images)[:, -token.shape[1] :]
        finally:
            handle.remove()
        return F.cross_entropy(self.guess(features)[hidden], token[hidden])


class Autoencoder(nn.Module):
    """See some patches, rebuild the others: MAE (He et al. 2022, arXiv:2111.06377)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        self.encoder = encoder
        self.mask = nn.Parameter(torch.zeros(WIDTH))
        self.place = nn.Parameter(0.02 * torch.randn(GRID[0] * GRID[1], WIDTH))
        self.decode = nn.Sequential(Block(WIDTH, HEADS, mlp_ratio=2.0), nn.LayerNorm(WIDTH))
        self.rebuild = nn.Linear(WIDTH, 3 * PATCH**2)

    def loss(self, images: Tensor, draw: Generator) -> Tensor:
        """Mean squared error of the pixels of the hidden patches, 60 % of them."""
        encoder, count = self.encoder, GRID[0] * GRID[1]
        pixels = F.unfold(images, PATCH, stride=PATCH).mT
        order = torch.rand(len(images), count, generator=draw).argsort(1)
        seen = order[:, : round(0.4 * count)]
        tokens = encoder._pos_embed(encoder.patch_embed(images))
        prefix = tokens.shape[1] - count
        index = (prefix + seen)[..., None].expand(-1, -1, WIDTH)
        known = encoder.norm(
            encoder.blocks(torch.cat((tokens[:, :prefix], tokens.gather(1, index)), 1))
        )[:, prefix:]
        full = self.mask.expand(len(images), count, -1)
        full = full.scatter(1, seen[..., None].expand(-1, -1, WIDTH), known) + self.place
        error = (self.rebuild(self.decode(full)) - pixels).square().mean(2)
        hidden = torch.ones_like(error).scatter(1, seen, 0.0)
        return (error * hidden).sum() / hidden.sum()


def _spread(features: Tensor) -> Tensor:
    """KoLeo (Sablayrolles et al. 2019), as in DINOv2: features of a batch keep apart."""
    unit = F.normalize(features, dim=1)
    gap = torch.cdist(unit, unit) + 4 * torch.eye(len(unit))
    return -(gap.amin(1) + 1e-6).log().mean()


class _Unit(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1)


def _head(inside: int, outside: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inside, 96), nn.GELU(), nn.Linear(96, outside))
