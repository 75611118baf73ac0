"""How each reference module of the gallery is trained: its loss, and the numbers of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from attnviz.gallery.modules.glimpses import GlimpsePath, reinforce
from attnviz.gallery.tasks.base import TaskBatch

Loss = Callable[[nn.Module, TaskBatch, Generator], Tensor]


@dataclass(frozen=True)
class Recipe:
    """How a reference module is trained.

    Attributes:
        loss: (model, batch, generator) -> scalar.
        steps: training steps.
        batch: batch size.
        rate: peak learning rate.
        slow: parameter-name prefix -> factor on the rate.
        decay: weight decay.
        bank: training examples drawn once and used again and again; 0 draws every batch anew.
        seed: of weights, data and sampling.
    """

    loss: Loss
    steps: int = 3000
    batch: int = 64
    rate: float = 2e-3
    slow: Mapping[str, float] = field(default_factory=dict)
    decay: float = 1e-4
    bank: int = 0
    seed: int = 0


def label_loss(model: nn.Module, batch: TaskBatch, generator: Generator) -> Tensor:
    """Cross-entropy of the class (or of each cell's); where it is decided is not shown."""
    return F.cross_entropy(model(*batch.inputs).logits, batch.truth["label"])


def highway_loss(model: nn.Module, batch: TaskBatch, generator: Generator) -> Tensor:
    """Cross-entropy of the class, and a small price on open gates."""
    out = model(*batch.inputs)
    return F.cross_entropy(out.logits, batch.truth["label"]) + 0.5 * out.gates.mean()


def gate_loss(model: nn.Module, batch: TaskBatch, generator: Generator) -> Tensor:
    """Cross-entropy per pixel, and a price on what the gate lets through.

    Without the price a gate may as well stand open where there is nothing to pass.
    """
    out = model(*batch.inputs)
    return F.cross_entropy(out.logits, batch.truth["disc"]) + 0.03 * out.gate.mean()


def word_loss(model: nn.Module, batch: TaskBatch, generator: Generator) -> Tensor:
    """Cross-entropy of each word, the true ones before it given. Alignments are not shown."""
    target = batch.truth["target"]
    out = model(*batch.inputs, target)
    return F.cross_entropy(out.logits.flatten(0, 1), target.flatten(), ignore_index=0)


def dcn_loss(model: nn.Module, batch: TaskBatch, generator: Generator) -> Tensor:
    """Class from refined and from coarse vectors, and the hint between the two."""
    out, label = model(*batch.inputs), batch.truth["label"]
    coarse = F.cross_entropy(out.coarse_logits, label)
    return F.cross_entropy(out.logits, label) + 0.5 * coarse + 0.1 * out.hint


def ram_loss(path: GlimpsePath, label: Tensor, *, policy: float = 0.3) -> Tensor:
    """Cross-entropy for the class, REINFORCE for the places.

    Differs from the paper in three ways that make it learn in minutes. The class is asked for after
    every glimpse but the first. Each place is paid by the mean log probability of the true class in
    all later answers (the paper pays all places alike, by whether the last answer is right). The
    baseline is the batch's mean at that step, and advantages are scaled by their spread (the paper
    learns a baseline).

    Args:
        path: of a run with `explore=True`.
        label: (B,) true classes.
        policy: weight of the REINFORCE term beside the cross-entropy.
    """
    log = F.log_softmax(path.steps[:, 1:], 2)
    told = log.gather(2, label[:, None, None].expand(-1, log.shape[1], 1)).squeeze(2)
    gain = told.detach().clamp_min(-3.0)  # one hopeless image must not outweigh the batch
    later = gain.flip(1).cumsum(1).flip(1)
    reward = later / torch.arange(later.shape[1], 0, -1, device=later.device)
    spread = reward.std(0, keepdim=True) + 0.1
    baseline = reward.mean(0, keepdim=True)
    return policy * reinforce(path.log_prob, reward / spread, baseline / spread) - told.mean()


def explored_loss(model: nn.Module, batch: TaskBatch, generator: Generator) -> Tensor:
    """RAM's hybrid loss on sampled places."""
    path = model(*batch.inputs, explore=True, generator=generator)
    return ram_loss(path, batch.truth["label"])


def caption_loss(hard: bool) -> Loss:
    """Cross-entropy of each word; hard attention adds REINFORCE; objects' places are not shown."""

    def loss(model: nn.Module, batch: TaskBatch, generator: Generator) -> Tensor:
        caption = batch.truth["caption"]
        out = model(*batch.inputs, caption, sample=hard, generator=generator)
        losses = F.cross_entropy(out.logits.transpose(1, 2), caption, reduction="none")
        alpha = out.attention.flatten(2)
        entropy = -(alpha * alpha.clamp_min(1e-9).log()).sum(2).mean()
        if not hard:  # a small price on looking everywhere
            return losses.mean() + 0.003 * entropy
        # a place is paid by the word written from it, against the batch's mean for that word
        reward = -losses.detach()
        gain = (reward - reward.mean(0)) / (reward.std(0) + 0.1)
        return losses.mean() - 0.3 * (out.log_prob * gain).mean() - 0.01 * entropy

    return loss


_REGION = {"steps": 700, "batch": 16, "rate": 4e-3}
_CLUTTER = {"steps": 9000, "batch": 32, "rate": 3e-3, "bank": 20_000}
_CAPTION = {"batch": 48, "rate": 3e-3, "bank": 8000}
_ALIGNED = ("bahdanau", "luong_dot", "luong_general", "luong_concat", "cosine", "luong_location",
            "local_m", "local_p")  # fmt: skip

RECIPES = {
    "stn": Recipe(label_loss, steps=2500, batch=128),
    "ram": Recipe(explored_loss, steps=4000, batch=128, bank=20_000),
    "dcn": Recipe(dcn_loss, bank=20_000),
    "transformer_softmax": Recipe(label_loss, **_CLUTTER),
    "transformer_relu": Recipe(label_loss, **_CLUTTER),
    "dates": Recipe(word_loss, steps=1200),
    **{name: Recipe(word_loss, steps=700) for name in _ALIGNED},
    "hierarchical": Recipe(label_loss, steps=800),
    "captioning_soft": Recipe(caption_loss(False), steps=1500, **_CAPTION),
    "captioning_hard": Recipe(caption_loss(True), steps=2000, **_CAPTION),
    **{name: Recipe(label_loss, **_REGION) for name in
       ("criss_cross", "stand_alone", "ema", "hamburger")},
    "attention_gate": Recipe(gate_loss, **_REGION),
    "temporal": Recipe(label_loss, steps=1000),
    "highway": Recipe(highway_loss, steps=1500),
}  # fmt: skip
