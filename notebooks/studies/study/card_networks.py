"""Trains the small networks of the gallery's cards, on generated scenes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Generator, nn
from torch.nn import functional as F

from attnviz.gallery.cards import _trained, _vits

from .unlabelled import Autoencoder, Contrast, Distillation, Masked

_SMALL = {"steps": 200, "batch": 6}
_GATES = {"steps": 400, "negatives": True}
_BRANCHES = {"steps": 250, "negatives": True}
#: card -> settings of `train_scenes`
SCENES: dict[str, dict[str, Any]] = {
    "se": _GATES,
    "eca": _GATES,
    "cbam_channel": _GATES,
    "global_context": _GATES,
    "coordinate": {"steps": 320},
    "deformable_convolution": {"steps": 110, "batch": 8},
    "bottleneck": _SMALL,
    "halo": _SMALL,
    "lambda_layer": _SMALL,
    "non_local": {"steps": 250, "batch": 6},
    "selective_kernel": _BRANCHES,
    "split_attention": _BRANCHES,
}
#: card -> the objective around its encoder, and settings of `train_unlabelled`
UNLABELLED: dict[str, tuple[type, dict[str, Any]]] = {
    "dino": (Distillation, {}),
    "moco_v3": (Contrast, {}),
    "registers": (Contrast, {}),
    "beit": (Masked, {"steps": 400, "rate": 4e-3}),
    "mae": (Autoencoder, {"steps": 400, "rate": 4e-3}),
}


class _Built(Exception):
    """Carries what a card would build."""


def builder(card: str) -> Callable[[], nn.Module]:
    """Return what makes the untrained network that a card restores."""

    def stop(name: str, build: Callable[[], nn.Module], **options: str) -> nn.Module:
        raise _Built(build)

    module = importlib.import_module(f"attnviz.gallery.cards.{card.removesuffix('_convolution')}")
    make = module.network if card == "deformable_convolution" else module.subject
    make = getattr(make, "__wrapped__", make)  # not the one kept by the cache
    with mock.patch.object(_trained, "restored", stop), mock.patch.object(_vits, "restored", stop):
        try:
            make()
        except _Built as found:
            return found.args[0]
    raise ValueError(f"card {card!r} restores no network")


def train_card(card: str, *, steps: int | None = None) -> nn.Module:
    """Return a card's network, trained anew; `steps` fewer or more than its own."""
    more = {} if steps is None else {"steps": steps}
    build = builder(card)
    if card in SCENES:
        return train_scenes(build, **{**SCENES[card], **more})
    objective, settings = UNLABELLED[card]
    return train_unlabelled(lambda: objective(build()), **{**settings, **more})


def train_scenes(
    build: Callable[[], nn.Module],
    *,
    steps: int,
    batch: int = 16,
    rate: float = 6e-3,
    negatives: bool = False,
    seed: int = 0,
) -> nn.Module:
    """Train to name the colour of each cell; `negatives` as in `attnviz.gallery.cards._trained`."""
    scenes = _trained.drawn(480, seed, training=True, negatives=negatives)
    images, label = scenes.inputs[0], scenes.truth["label"]
    order = Generator().manual_seed(seed)
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().train()
        optimizer = torch.optim.AdamW(model.parameters(), rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
        for _ in range(steps):
            chosen = torch.randint(len(images), (batch,), generator=order)
            loss = F.cross_entropy(model(images[chosen]), label[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def train_unlabelled(
    build: Callable[[], nn.Module],
    *,
    steps: int = 120,
    batch: int = 16,
    rate: float = 2e-3,
    seed: int = 0,
) -> nn.Module:
    """Train a module with `encoder` inside by its own loss of pictures alone."""
    images, _ = _vits.pictures(768, training=True)
    draw = Generator().manual_seed(seed)
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().train()
        optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], rate, weight_decay=0.02
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
        for _ in range(steps):
            chosen = torch.randint(len(images), (batch,), generator=draw)
            value = model.loss(images[chosen], draw)
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if hasattr(model, "follow"):
                model.follow()
    return model.eval()
