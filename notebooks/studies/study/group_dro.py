"""Group DRO: training that weighs the groups by how badly they are answered."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnviz.guidance import GuideConfig, batchnorm_frozen
from attnviz.guidance.batches import batches
from attnviz.guidance.checkpoints import own_random_state
from attnviz.guidance.optimisers import make_optimiser
from attnviz.guidance.settling import choose_trained, resolve_config, split
from attnviz.guidance.tails import Features
from attnviz.models import default_layer
from attnviz.models.outputs import logits_of
from study.arm_data import evenly


class GroupWeights:
    """Weights of groups, moved towards those with a high loss by exponentiated gradients.

    Sagawa et al. 2020, arXiv:1911.08731, algorithm 1.

    Args:
        groups: how many.
        rate: step size of the weights; theirs is .01.
    """

    def __init__(self, groups: int, rate: float = 0.01) -> None:
        self.q, self.rate = torch.full((groups,), 1 / groups), rate

    def loss(self, losses: Tensor, groups: Tensor) -> Tensor:
        """Return sum_g q_g mean loss of g, with q moved first; groups without an image rest."""
        total = losses.new_zeros(())
        means = {g: losses[groups == g].mean() for g in groups.unique().tolist()}
        for g, mean in means.items():
            self.q[g] *= float((self.rate * mean.detach()).exp())
        self.q /= self.q.sum()
        for g, mean in means.items():
            total = total + float(self.q[g]) * mean
        return total


def group_dro(net: nn.Module, data: Any, groups: Tensor, config: GuideConfig) -> GuideConfig:
    """Train a network in place on examples of known groups; returns the settings, settled.

    Groups are drawn equally often. Steps, learning rate and what is trained are the other arms'.
    The weights of the last step are kept, in evaluation mode.
    """
    rows = torch.tensor(evenly(groups))
    example = torch.stack([data.example(i)[0] for i in range(2)])
    config = replace(config, layer=default_layer(net, example))
    steps = -(-len(rows) // config.batch_size)
    config, _ = resolve_config(config, net, None, steps, example)
    choose_trained(net, config, example)
    prefix = split(net, config, data, example)
    device = next(net.parameters()).device
    module: nn.Module = net if prefix is None else prefix.rest
    seen = data if prefix is None else Features(data, prefix, data.flip, device)
    optimiser = make_optimiser([p for p in net.parameters() if p.requires_grad], config)
    weights, draws = GroupWeights(4), torch.Generator().manual_seed(config.seed)
    for part in net.train().modules():
        own = list(part.parameters())
        if own and not any(p.requires_grad for p in own):
            part.eval()
    still = batchnorm_frozen(net) if config.batchnorm == "eval" else contextlib.nullcontext()
    with own_random_state(config.seed), still:
        for epoch in range(config.epochs):
            order = rows[torch.randperm(len(rows), generator=draws)]
            stream = batches(seen, config.batch_size, order=order.tolist(), degenerate="skip")
            for step, batch in enumerate(stream):
                batch = batch.to(device)
                own_groups = groups[order[step * config.batch_size :][: len(batch.labels)]]
                for part in optimiser.param_groups:
                    part["lr"] = config.lr_at((epoch + step / steps) / config.epochs)
                logits = logits_of(module(batch.images))
                losses = F.cross_entropy(logits, batch.labels, reduction="none")
                weights.loss(losses, own_groups.to(device)).backward()
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    net.eval()
    return config
