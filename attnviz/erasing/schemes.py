"""`SCHEMES`: ways to erase in training, each a loss that takes the place of cross-entropy.

    loss = SCHEMES.get("has").fn(model, images, labels, generator=generator)

One file each; the losses return a number with graph and leave the model without hooks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..errors import MethodError
from ..hooks import find_layers, unwrap
from ..registry import Registry
from ..targets import logits_of

#: name -> fn(model, images (B, C, H, W), labels (B,), *, layer, generator, ...) -> ()
SCHEMES = Registry("erasing scheme", "attnviz.erasing", plugins="attnviz.erasing")


def flat_logits(output: Any) -> Tensor:
    """Return logits (B, classes) in single precision or better; anything else is refused."""
    logits = logits_of(output)
    if logits.ndim != 2:
        raise MethodError(
            f"erasing schemes train classifiers with logits (B, classes), got {tuple(logits.shape)}"
        )
    return logits if logits.dtype.itemsize >= 4 else logits.float()


def run_with_branches(
    model: nn.Module,
    images: Tensor,
    layer: str | nn.Module | None,
    branch: Callable[[Tensor], list[Tensor]],
) -> list[Tensor]:
    """Run a model once up to a layer, and what follows on several versions of its activation.

    Args:
        model: run in the mode it is in; the hook is removed afterwards, also on errors.
        images: (B, C, H, W).
        layer: whose output (B, C, h, w) is branched; None is the model's default layer.
        branch: activation -> versions of it, each (B, C, h, w).

    Returns:
        The logits of each version, (B, classes).
    """
    model = unwrap(model)
    if layer is None:
        from ..models import default_layer

        layer = default_layer(model)
    ((name, module),) = find_layers(model, layer).items()
    counts: list[int] = []

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise MethodError(
                f"erasing inside the network needs a layer with an activation (B, C, h, w); "
                f"{name!r} gives {got}"
            )
        versions = branch(output)
        counts.append(len(versions))
        return versions[0] if len(versions) == 1 else _joined(versions)

    handle = module.register_forward_hook(hook)
    try:
        logits = flat_logits(model(images))
    finally:
        handle.remove()
    if len(counts) != 1 or len(logits) != counts[0] * len(images):
        raise MethodError(
            f"layer {name!r} ran {len(counts)} times and gave {len(logits)} rows for "
            f"{len(images)} images; choose a layer that runs once and keeps the batch"
        )
    return list(logits.chunk(counts[0]))


def _joined(versions: list[Tensor]) -> Tensor:
    import torch

    return torch.cat(versions)
