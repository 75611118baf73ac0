"""Optimisers by name, and one call that takes a step whatever their kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import GuidanceError, did_you_mean, optional
from .config import GuideConfig

OPTIMISERS = ("sgd", "adam", "adamw", "sam")


def make_optimiser(
    parameters: Iterable[nn.Parameter], config: GuideConfig
) -> torch.optim.Optimizer:
    """Return the optimiser of a config.

    Raises:
        GuidanceError: an unknown name, or nothing to train.
        EnvironmentFault: "sam" without the package `pytorch-optimizer`.
    """
    parameters = list(parameters)
    if not parameters:
        raise GuidanceError(
            "nothing is trainable: every parameter has requires_grad=False or is frozen by "
            f"freeze={list(config.freeze)}"
        )
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, **common)
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, **common)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **common)
    if config.optimizer == "sam":
        sam = optional("pytorch_optimizer", "sam").SAM
        return sam(parameters, torch.optim.AdamW, rho=config.rho, **common)
    raise GuidanceError(
        f"optimizer {config.optimizer!r} is not known"
        f"{did_you_mean(config.optimizer, OPTIMISERS) or '.'} Known: {', '.join(OPTIMISERS)}"
    )


def take_step(
    optimiser: torch.optim.Optimizer,
    backward: Callable[[], object],
    scaler: torch.amp.GradScaler | None = None,
    clip: float | None = None,
) -> None:
    """Take one step with the gradients that `backward` has computed.

    Args:
        optimiser: any; sharpness-aware ones have `first_step`.
        backward: computes the gradients again, which sharpness-aware minimisation does at the
            perturbed weights.
        scaler: of float16 autocast.
        clip: largest gradient norm.
    """
    parameters: list[Tensor] = [p for group in optimiser.param_groups for p in group["params"]]
    if scaler is not None and scaler.is_enabled():
        scaler.unscale_(optimiser)
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(parameters, clip)
    sharpness_aware: Any = optimiser if hasattr(optimiser, "first_step") else None
    if sharpness_aware is not None:
        sharpness_aware.first_step(zero_grad=True)
        with torch.enable_grad():
            backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        sharpness_aware.second_step(zero_grad=True)
    elif scaler is not None and scaler.is_enabled():
        scaler.step(optimiser)
        scaler.update()
    else:
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
