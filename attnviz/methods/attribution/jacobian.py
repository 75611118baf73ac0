"""The network's implicit attention: how much all of its outputs depend on each pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import MethodError
from ...models.outputs import logits_of
from ._register import register_attribution
from ._run import Job


@register_attribution("jacobian", paper="Graves 2020, lecture on attention and memory",
                      units="logits / input", class_specific=False, signed=None)  # fmt: skip
def jacobian(job: Job, *, samples: int | None = 32, seed: int = 0) -> Tensor:
    """Implicit attention: the norm of the full Jacobian d logits / d input at each pixel.

    sqrt(sum over logits and channels of (d y_k / d x_c)^2), for no class and all of them. With
    `samples` it is estimated from that many random combinations of the logits, without bias in
    the square; None goes through every logit, and so does a model of at most as many.

    Args:
        job: the images.
        samples: random combinations, or None.
        seed: of the combinations.

    Returns:
        (K, g, H, W), not negative, the same for every class.
    """
    if samples is not None and samples < 1:
        raise MethodError(f"samples={samples} is at least 1, or None")
    inputs = job.inputs.detach().requires_grad_()
    with torch.enable_grad():
        output = job.model(inputs)
        logits = logits_of(output)
        if logits.ndim != 2:
            raise MethodError(f"the Jacobian of logits (B, K) is shown, got {tuple(logits.shape)}")
        count = logits.shape[1]
        exact = samples is None or samples >= count
        if samples is None or exact:
            rows = torch.eye(count)
        else:
            rows = torch.randn(samples, count, generator=job.group.generator(seed))
        rows = rows.to(logits)
        total = torch.zeros_like(inputs[:, 0])
        for number, row in enumerate(rows):
            (found,) = torch.autograd.grad(
                logits, inputs, row.expand_as(logits), retain_graph=number < len(rows) - 1
            )
            total += found.square().sum(1)
    norm = (total if exact else total / len(rows)).sqrt().detach()
    return norm.expand(len(job.classes), *norm.shape)
