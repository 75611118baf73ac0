"""What stands where an image was removed: zeros, its mean, a blur, noise, imputed pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import MetricError
from ._random import image_keys, normal
from .imputation import impute

BASELINES = ("zero", "mean", "blur", "noise", "imputed")

#: standard deviation of the noise added to imputed pixels, in the input's units (ROAD's)
IMPUTATION_NOISE = 0.01


@dataclass(frozen=True)
class Baseline:
    """A baseline made ready for a batch.

    Attributes:
        name: as a protocol prints it.
        values: (B, C, H, W) what replaces removed pixels; None where that depends on which are.
        noise: (B, C, H, W) what is added to imputed pixels, or None.
    """

    name: str
    values: Tensor | None
    noise: Tensor | None = None

    def apply(self, x: Tensor, image: Tensor, keep: Tensor) -> Tensor:
        """Return altered images (n, C, H, W).

        Args:
            x: (B, C, H, W) the batch.
            image: (n,) which image each is made from.
            keep: (n, H, W) bool, True where the image stays.
        """
        if self.values is not None:
            return torch.where(keep[:, None], x[image], self.values[image])
        noise = None if self.noise is None else self.noise[image]
        return impute(x[image], ~keep, noise=noise)


def baseline(kind: str | Tensor, x: Tensor, *, seed: int = 0) -> Baseline:
    """Return a baseline for a batch.

    Args:
        kind: "zero": 0 in the input's units (with the usual normalisation, the data set's mean
            colour, not black). "mean": each image's own mean colour. "blur": the image blurred
            with a standard deviation of a twentieth of its shorter side. "noise": normal noise
            with each image's own mean and deviation per channel. "imputed": the removed pixels
            interpolated from those that stay, plus a little noise (ROAD). Or a tensor that
            broadcasts to x.
        x: (B, C, H, W) the images.
        seed: of the noise, which is drawn per image and does not depend on the batch.

    Raises:
        MetricError: unknown, or a tensor of another shape.
    """
    if isinstance(kind, Tensor):
        try:
            values = kind.detach().to(x).expand_as(x)
        except RuntimeError:
            raise MetricError(
                f"the baseline has shape {tuple(kind.shape)}, the images {tuple(x.shape)}; give "
                "one that broadcasts to them, such as (C, 1, 1) or (B, C, H, W)"
            ) from None
        # named by its values, so that two different tensors are two protocols
        return Baseline(f"tensor {image_keys(kind.detach()[None])[0] & 0xFFFFFFFF:08x}", values)
    if kind == "zero":
        return Baseline(kind, torch.zeros_like(x))
    if kind == "mean":
        return Baseline(kind, _each(x, lambda i: _mean(i).expand_as(i)))
    if kind == "blur":
        return Baseline(kind, blur(x))
    if kind in ("noise", "imputed"):
        keys = image_keys(x)
        noise = torch.stack(
            [normal(tuple(i.shape), seed, k, kind, i) for i, k in zip(x, keys, strict=True)]
        )
        if kind == "imputed":
            return Baseline(kind, None, noise * IMPUTATION_NOISE)
        mean = _each(x, _mean)
        spread = _each(x, lambda i: i.std(_places(i), keepdim=True, correction=0))
        return Baseline(kind, mean + noise * spread)
    raise MetricError(
        f"baseline={kind!r}, expected one of {', '.join(BASELINES)}, or a tensor like the images"
    )


def _places(image: Tensor) -> tuple[int, ...]:
    return tuple(range(1, image.ndim))


def _mean(image: Tensor) -> Tensor:
    return image.mean(_places(image), keepdim=True)


def _each(x: Tensor, fn) -> Tensor:
    # image by image: a reduction over a batch may sum in another order than over one image
    return torch.stack([fn(image) for image in x])


def blur(x: Tensor, sigma: float | None = None) -> Tensor:
    """Return images blurred by a Gaussian, edges continued by their last pixel.

    Args:
        x: (B, C, H, W); signals (B, C, T) and volumes (B, C, D, H, W) likewise.
        sigma: standard deviation in pixels; None takes a twentieth of the shortest side.
    """
    sigma = min(x.shape[2:]) / 20 if sigma is None else sigma
    radius = max(1, round(3 * sigma))
    at = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    weights = torch.exp(-0.5 * (at / max(sigma, 1e-6)) ** 2)
    weights = weights / weights.sum()
    for axis in range(2, x.ndim):
        line = x.movedim(axis, -1)
        flat = F.pad(line.reshape(-1, 1, line.shape[-1]), (radius, radius), mode="replicate")
        x = F.conv1d(flat, weights.view(1, 1, -1)).view_as(line).movedim(-1, axis)
    return x.contiguous()
