"""Spatial transformer: the network chooses, per image, an affine window to look through.

Equation (Jaderberg, Simonyan, Zisserman, Kavukcuoglu 2015, arXiv:1506.02025)::

    theta = f_loc(U)                                      (2 x 3 per image)
    (x_s, y_s)^T = theta (x_t, y_t, 1)^T                  the sampling grid T_theta(G)
    V(x_t, y_t) = sum_nm U(n, m) k(x_s - m) k(y_s - n)    k(d) = max(0, 1 - |d|), bilinear

The attention is `theta`: what is seen is the parallelogram that the output's square becomes on the
input. Coordinates are normalised: x and y run from -1 (left, top edge) to 1 (right, bottom edge).

Why bilinear: V is piecewise linear in (x_s, y_s), so dV/dtheta exists almost everywhere and pulls
the window. With the nearest pixel, V is a step function of theta: its gradient is zero wherever it
exists, and the localisation network learns nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AffineParts(NamedTuple):
    """An affine window, taken apart. Each field has the batch as its first axis."""

    translation: Tensor
    """(B, 2): centre (x, y) of the window, normalised to [-1, 1] or in pixels from the centre."""
    scale: Tensor
    """(B, 2): window width and height over the input's; below 1 zooms in, negative mirrors."""
    rotation: Tensor
    """(B,): radians in (-pi, pi]; positive turns the window clockwise as seen (y points down)."""
    shear: Tensor
    """(B,): x moved per unit of y, before the rotation."""


class Sampled(NamedTuple):
    """What a spatial transformer returns."""

    warped: Tensor
    """(B, C, h, w): the input seen through the window."""
    theta: Tensor
    """(B, 2, 3): the attention, output coordinates to input coordinates."""
    grid: Tensor
    """(B, h, w, 2): where each output pixel is read, normalised (x, y)."""


class STNOutput(NamedTuple):
    """What the classifier behind a spatial transformer returns."""

    logits: Tensor
    theta: Tensor
    warped: Tensor


def read_theta(theta: Tensor, *, size: tuple[int, int] | None = None) -> AffineParts:
    """Take theta apart: A = R(rotation) [[1, shear], [0, 1]] diag(scale), and its translation.

    Args:
        theta: (B, 2, 3), normalised coordinates.
        size: input height and width in pixels. With it, angle, shear and translation are measured
            in pixels; without it in normalised units, which agree where the input is square.

    Raises:
        ValueError: theta is not (B, 2, 3).
    """
    if theta.dim() != 3 or theta.shape[1:] != (2, 3):
        raise ValueError(f"theta must be (B, 2, 3), got {tuple(theta.shape)}")
    if size is not None:
        half = theta.new_tensor([size[1] / 2, size[0] / 2])
        matrix = theta[:, :, :2] * half[:, None] / half[None, :]
        translation = theta[:, :, 2] * half
    else:
        matrix, translation = theta[:, :, :2], theta[:, :, 2]
    rotation = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0])
    cos, sin = rotation.cos(), rotation.sin()
    width = torch.hypot(matrix[:, 0, 0], matrix[:, 1, 0])
    height = cos * matrix[:, 1, 1] - sin * matrix[:, 0, 1]
    shear = (cos * matrix[:, 0, 1] + sin * matrix[:, 1, 1]) / height
    return AffineParts(translation, torch.stack((width, height), 1), rotation, shear)


def make_theta(
    rotation: Tensor,
    *,
    translation: Tensor | None = None,
    scale: Tensor | None = None,
    shear: Tensor | None = None,
) -> Tensor:
    """Build theta (B, 2, 3) from its parts, in normalised units; the inverse of `read_theta`."""
    zero, one = torch.zeros_like(rotation), torch.ones_like(rotation)
    cos, sin = rotation.cos(), rotation.sin()
    turn = torch.stack((cos, -sin, sin, cos), 1).view(-1, 2, 2)
    slant = torch.stack((one, zero if shear is None else shear, zero, one), 1).view(-1, 2, 2)
    matrix = turn @ slant
    if scale is not None:
        matrix = matrix * scale[:, None, :]
    shift = torch.stack((zero, zero), 1) if translation is None else translation
    return torch.cat((matrix, shift[:, :, None]), 2)


def quadrilateral(theta: Tensor) -> Tensor:
    """Corners (B, 4, 2) of the window on the input, normalised (x, y), clockwise from top left."""
    corners = theta.new_tensor([[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]])
    return corners @ theta.transpose(1, 2)


class SpatialTransformer(nn.Module):
    """Look through the window that `localisation` chooses.

    Args:
        localisation: maps (B, C, H, W) to 6 numbers per image (row-major theta).
        size: output height and width; None keeps the input's.
        mode: "bilinear" (trainable) or "nearest" (no gradient reaches theta).
    """

    def __init__(
        self,
        localisation: nn.Module,
        *,
        size: tuple[int, int] | None = None,
        mode: str = "bilinear",
    ) -> None:
        super().__init__()
        if mode not in ("bilinear", "nearest"):
            raise ValueError(f"mode must be 'bilinear' or 'nearest', got {mode!r}")
        self.localisation, self.size, self.mode = localisation, size, mode

    def forward(self, image: Tensor) -> Sampled:
        """(B, C, H, W) -> Sampled; pixels outside the input read as 0."""
        theta = self.localisation(image).view(-1, 2, 3)
        height, width = self.size or image.shape[-2:]
        shape = [image.shape[0], image.shape[1], height, width]
        grid = F.affine_grid(theta, shape, align_corners=False)
        warped = F.grid_sample(image, grid, mode=self.mode, align_corners=False)
        return Sampled(warped, theta, grid)


class STNClassifier(nn.Module):
    """A linear classifier behind a spatial transformer, for square grey images.

    The classifier is linear on purpose: it cannot turn a digit by itself, so what makes turned
    digits separable has to happen in theta.

    Args:
        side: image side in pixels, a multiple of 4.
        classes: number of classes.
        width: channels of the localisation network.
    """

    def __init__(self, *, side: int = 24, classes: int = 10, width: int = 16) -> None:
        super().__init__()
        last = nn.Linear(64, 6)
        nn.init.zeros_(last.weight)  # the first window is the whole image
        with torch.no_grad():
            last.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))
        localisation = nn.Sequential(
            nn.Conv2d(1, width, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * width * (side // 4) ** 2, 64),
            nn.Tanh(),
            last,
        )
        self.transformer = SpatialTransformer(localisation)
        self.head = nn.Linear(side * side, classes)

    def forward(self, image: Tensor) -> STNOutput:
        """(B, 1, side, side) -> logits (B, classes), theta (B, 2, 3), warped (B, 1, side, side)."""
        seen = self.transformer(image)
        return STNOutput(self.head(seen.warped.flatten(1)), seen.theta, seen.warped)
