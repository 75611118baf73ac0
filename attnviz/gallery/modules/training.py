"""The one training loop of all reference modules: AdamW, warm-up, cosine, clipped gradients."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import nn

from ..tasks.base import Task


def fit(
    task: Task, *, seed: int = 0, steps: int | None = None, say: Callable[[str], None] | None = None
) -> nn.Module:
    """Train a task's model from scratch on the CPU.

    Args:
        task: what to train.
        seed: of the weights, the data and the sampling; the caller's random state is left alone.
        steps: fewer or more than the task's own.
        say: receives a progress line now and then.

    Returns:
        The model in eval mode.
    """
    steps = steps or task.steps
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = task.build().train()
    bank = task.sample(task.bank, generator, True) if task.bank else None
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factor = next((f for prefix, f in task.slow.items() if name.startswith(prefix)), 1.0)
        groups.setdefault(factor, []).append(parameter)
    optimiser = torch.optim.AdamW(
        [{"params": p, "lr": task.rate * f, "peak": task.rate * f} for f, p in groups.items()],
        weight_decay=task.decay,
    )
    warm, begun, mean = max(steps // 20, 1), time.monotonic(), 0.0
    for step in range(steps):
        progress = min(step / warm, 1.0) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * progress
        if bank is None:
            batch = task.sample(task.batch, generator, True)
        else:
            batch = bank.take(torch.randint(task.bank, (task.batch,), generator=generator))
        value = task.loss(model, batch, generator)
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        mean += (value.item() - mean) * (1 / (step + 1) if step < 100 else 0.01)
        if say and (step + 1) % max(steps // 8, 1) == 0:
            took = time.monotonic() - begun
            say(f"{task.name}: step {step + 1}/{steps}, loss {mean:.4f}, {took:.0f} s")
    return model.eval()
