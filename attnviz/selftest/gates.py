"""Gates: what must hold before any map of this model is worth a look."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import AttnvizError, AttnvizWarning
from ..explaining import explain
from ..metrics import Scores, parameter_randomisation, random_logit
from ..metrics.forward import untouched
from ..targets import logits_of
from .findings import FAILS, HOLDS, Finding

#: maps more alike than this to those of a random network do not explain the network
ALIKE = 0.5


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    with untouched(model):
        return logits_of(model(x)).detach()


def determinism(model: nn.Module, x: Tensor) -> Finding:
    """The same image gives the same logits, in every bit."""
    # within one block: leaving it puts the random state back, so two blocks would draw the same
    with untouched(model):
        first, second = (logits_of(model(x)).detach() for _ in range(2))
    if torch.equal(first, second):
        return Finding("determinism: the same image, the same logits", HOLDS, "in every bit",
                       gate=True)  # fmt: skip
    gap = float((first - second).abs().max() / first.abs().max())
    return Finding(
        "determinism: the same image, the same logits",
        FAILS,
        f"two runs differ by {gap:.1g} of the greatest logit; look for random operations that stay "
        "on in evaluation mode",
        {"gap": gap},
        gate=True,
    )


def batch_independence(model: nn.Module, x: Tensor) -> Finding:
    """An image's logits do not depend on the other images of its batch."""
    name = "independence: alone or in a batch, the same logits"
    together = _logits(model, x)
    alone = torch.cat([_logits(model, row[None]) for row in x])
    gap = float((together - alone).abs().max() / together.abs().max())
    # sums of other batch shapes round otherwise
    allowed = {torch.float64: 1e-10, torch.float32: 1e-3}.get(together.dtype, 5e-2)
    if gap <= allowed:
        return Finding(name, HOLDS, f"up to rounding, {gap:.1g}", {"gap": gap}, gate=True)
    return Finding(
        name,
        FAILS,
        f"they differ by {gap:.1%} of the greatest logit; look for normalisation over the batch",
        {"gap": gap},
        gate=True,
    )


def model_untouched(model: nn.Module, x: Tensor, method: str, layer: str) -> Finding:
    """Explaining leaves parameters, buffers, modes and gradients as they were."""
    name = "explaining leaves the model as it was"

    def state() -> tuple[list[bool], list[Tensor | None]]:
        tensors = [*model.parameters(), *model.buffers()]
        gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        return [m.training for m in model.modules()], [
            t.detach().clone() for t in tensors
        ] + gradients

    before = state()
    _maps(model, x, [method], layer)
    after = state()
    same = before[0] == after[0] and all(
        (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))
        for a, b in zip(before[1], after[1], strict=True)
    )
    words = "parameters, buffers, modes and gradients" if same else "something has changed"
    return Finding(name, HOLDS if same else FAILS, words, gate=True)


def _maps(
    model: nn.Module,
    x: Tensor,
    methods: Sequence[str],
    layer: str,
    target: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttnvizWarning)
        found = explain(
            model,
            x,
            method=list(methods),
            layer=layer,
            target=None if target is None else list(target),
        )
    return {name: maps.values for name, maps in found.items()}


def against_random(
    model: nn.Module, x: Tensor, method: str, layer: str, target: Sequence[int]
) -> Scores:
    """Return how alike a method's maps stay as the weights are destroyed, see the metric."""

    def run(network: nn.Module, images: Tensor) -> Tensor:
        try:
            return _maps(network, images, [method], layer, target)[method]
        except AttnvizError:  # a random network may give no finite score
            return images.new_full((len(images), 1, 1), float("nan"))

    return parameter_randomisation(run, model, x, stages=1)


def against_other_class(
    model: nn.Module, x: Tensor, method: str, layer: str, target: Sequence[int], classes: int
) -> Scores:
    """Return how alike a method's maps of the class and of another are, see the metric."""

    def run(images: Tensor, wanted: Sequence[int]) -> Tensor:
        return _maps(model, images, [method], layer, wanted)[method]

    return random_logit(run, x, target, classes=classes)


def randomisation_gate(method: str, scores: Scores) -> Finding:
    """A method's maps change when the weights are replaced by random ones."""
    name = f"randomisation gate: {method}"
    valid = scores.valid
    if not bool(valid.any()):
        return Finding(name, FAILS, "its maps are flat on this model: there is nothing to compare",
                       gate=True)  # fmt: skip
    final = float(scores.extra["final"][valid].mean())
    floor = float(scores.extra["floor"][valid].mean())
    numbers = {"final": final, "floor": floor}
    words = (
        f"rank correlation with maps of random networks {final:.2f}; of random networks among "
        f"each other {floor:.2f}"
    )
    if final <= ALIKE:
        return Finding(name, HOLDS, words, numbers, gate=True)
    return Finding(
        name,
        FAILS,
        f"{words}: above {ALIKE} the map shows the image or the architecture, not what was learnt",
        numbers,
        gate=True,
    )
