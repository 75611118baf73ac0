"""Random numbers that belong to an image, not to its place in a batch.

A generator is seeded from the image's own bits, so noise, random maps and the breaking of ties
are the same alone, in any batch, in any order, on every device.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def image_keys(x: Tensor) -> list[int]:
    """Return a number per image that depends on its values only: a multiply-add of its bits.

    Integer sums wrap around exactly, so the result does not depend on how they are split up.
    """
    keys = []
    weight = None
    for image in x.detach():
        bits = image.contiguous().view(_INTEGER[image.element_size()]).flatten().long()
        if weight is None:
            # odd weights of full width, one per position
            weight = torch.arange(len(bits), device=bits.device).mul_(2).add_(1)
            weight.mul_(-7046029254386353131)
            weight.bitwise_xor_(weight >> 29)
        keys.append(int((bits * weight).sum().item()))
    return keys


def generator(seed: int, key: int, purpose: str) -> torch.Generator:
    """Return a CPU generator for one image and purpose."""
    digest = hashlib.blake2b(f"{seed} {key} {purpose}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def normal(shape: tuple[int, ...], seed: int, key: int, purpose: str, like: Tensor) -> Tensor:
    """Return standard normal noise of one image, drawn on the CPU, with the type of `like`."""
    noise = torch.randn(shape, generator=generator(seed, key, purpose), dtype=torch.float32)
    return noise.to(device=like.device, dtype=like.dtype)


def permutation(n: int, seed: int, key: int, purpose: str, device: torch.device) -> Tensor:
    """Return a random order of n things for one image."""
    return torch.randperm(n, generator=generator(seed, key, purpose)).to(device)
