"""Attention that can be differentiated twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def differentiable_attention() -> Iterator[None]:
    """Attention by the math kernel inside the block: fused kernels have no second derivative."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield
