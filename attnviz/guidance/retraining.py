"""Deep feature reweighting: the last layer retrained on data whose context does not tell the class.

The cheapest cure there is, where such data exists: features of the object are often learned beside
those of its context, and only the last layer leans on the wrong ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DataError, ModelError
from ..hooks import preserved, unwrap
from ..models.outputs import logits_of
from .batches import batches

#: 1 / (C n) times the sum of |weights| is added to the mean loss, for C of these
STRENGTHS = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)


@dataclass(frozen=True)
class HeadResult:
    """What retraining the head did.

    Attributes:
        layer: dotted name of the linear layer.
        images: used.
        groups: images of each group.
        c: the inverse strength of the L1 penalty that was chosen.
        worst: share right in the worst group of the half that chose it.
        zeros: share of the weights that the penalty set to nothing.
    """

    layer: str
    images: int
    groups: Mapping[int, int]
    c: float
    worst: float
    zeros: float

    def __str__(self) -> str:
        return (
            f"{self.layer} retrained on {self.images} images of {len(self.groups)} groups "
            f"(C {self.c:g}, {self.zeros:.0%} of the weights zero); {self.worst:.0%} right in the "
            "worst group of the half that chose C"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self) | {"groups": {str(k): v for k, v in self.groups.items()}}


def retrain_head(
    model: nn.Module,
    data: Any,
    *,
    groups: Sequence[int] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    repeats: int = 10,
    steps: int = 300,
    batch_size: int = 32,
    seed: int = 0,
) -> HeadResult:
    """Retrain a classifier's last linear layer, in place (DFR; Kirichenko et al. 2022).

    arXiv:2204.02937. The features are standardised, a softmax regression with an L1 penalty is
    fitted to group-balanced subsets, and the weights of `repeats` such fits are averaged. The
    penalty's strength is the one with the best worst group on a half of the data, when fitted to
    the other. Differs from the paper in the solver (accelerated proximal gradients).

    Args:
        model: a classifier whose logits are one linear layer's output.
        data: examples (image, label, ...), see `fit`, that training has not seen.
        groups: of each example, such as 2 * class + context; None takes the classes, so that
            the data itself must be balanced by context.
        strengths: values of C that are tried.
        repeats: subsets.
        steps: of the solver.
        batch_size: images at a time.
        seed: of halves and subsets.

    Returns:
        `HeadResult`.

    Raises:
        DataError: fewer than two images of a group, or one class only.
        ModelError: the logits are not the output of a linear layer.
    """
    model = unwrap(model)
    name, head, x, y = _features(model, data, batch_size)
    g = y.clone() if groups is None else torch.as_tensor(list(groups))
    if len(g) != len(y):
        raise DataError(f"{len(g)} groups for {len(y)} images; give one for each")
    counts = dict(zip(*(t.tolist() for t in g.unique(return_counts=True)), strict=True))
    if len(y.unique()) < 2 or min(counts.values()) < 2:
        raise DataError(
            "the head is retrained on two classes or more with at least two images of each group; "
            f"got {len(y.unique())} class(es) and groups of {sorted(counts.values())}"
        )
    draws = torch.Generator().manual_seed(seed)
    first = torch.zeros(len(y), dtype=torch.bool)
    for group in counts:
        rows = (g == group).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=draws)]
        first[rows[: len(rows) // 2]] = True
    tried = {}
    for c in strengths:
        rows = _balanced(g[first], draws)
        w, b = _fit(x[first][rows], y[first][rows], head.out_features, c, steps)
        right = ((x[~first] @ w.T + b).argmax(1) == y[~first]).double()
        worst = min(float(right[g[~first] == k].mean()) for k in counts)
        tried[c] = (worst, float(right.mean()))
    best = max(strengths, key=lambda c: tried[c])
    fits = []
    for _ in range(repeats):
        rows = _balanced(g, draws)
        fits.append(_fit(x[rows], y[rows], head.out_features, best, steps))
    weight = torch.stack([w for w, _ in fits]).mean(0)
    bias = torch.stack([b for _, b in fits]).mean(0)
    with torch.no_grad():
        head.weight.copy_(weight.to(head.weight))
        if head.bias is not None:
            head.bias.copy_(bias.to(head.bias))
    zeros = float((weight == 0).double().mean())
    return HeadResult(name, len(y), counts, best, tried[best][0], zeros)


def _features(
    model: nn.Module, data: Any, batch_size: int
) -> tuple[str, nn.Linear, Tensor, Tensor]:
    """What the last linear layer is given, (N, F) float64, and the labels."""
    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise ModelError(f"{type(model).__name__} has no linear layer to retrain")
    name, head = linear[-1]
    device = head.weight.device
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(_module: nn.Module, given: Any, output: Tensor) -> None:
        seen.append((given[0], output))

    handle = head.register_forward_hook(keep)
    inputs, labels = [], []
    try:
        with preserved(model), torch.no_grad():
            model.eval()
            for batch in batches(data, batch_size, degenerate="skip"):
                seen.clear()
                logits = logits_of(model(batch.images.to(device)))
                if len(seen) != 1 or seen[0][0].ndim != 2 or not torch.equal(seen[0][1], logits):
                    raise ModelError(
                        f"the logits of {type(model).__name__} are not the output of its linear "
                        f"layer {name!r}, so that layer cannot be retrained alone"
                    )
                inputs.append(seen[0][0].double().cpu())
                labels.append(batch.labels)
    finally:
        handle.remove()
    if not inputs:
        raise DataError("there is no image to retrain the head on")
    return name, head, torch.cat(inputs), torch.cat(labels)


def _balanced(groups: Tensor, draws: torch.Generator) -> Tensor:
    """As many rows of each group as the smallest has, at random."""
    found = [(groups == k).nonzero()[:, 0] for k in groups.unique().tolist()]
    least = min(len(r) for r in found)
    return torch.cat([r[torch.randperm(len(r), generator=draws)[:least]] for r in found])


def _fit(x: Tensor, y: Tensor, classes: int, c: float, steps: int) -> tuple[Tensor, Tensor]:
    """Softmax regression with L1 on standardised features, by FISTA; (classes, F), (classes,)."""
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-8)
    z = torch.cat([(x - mean) / deviation, torch.ones(len(x), 1).to(x)], 1)
    penalty = 1 / (c * len(x))
    rate = 2 * len(x) / float(torch.linalg.matrix_norm(z, 2)) ** 2  # the softmax bends by 1/2
    target = F.one_hot(y, classes).to(z)
    w = step_from = z.new_zeros(classes, z.shape[1])
    t = 1.0
    for _ in range(steps):
        gradient = ((z @ step_from.T).softmax(1) - target).T @ z / len(x)
        moved = step_from - rate * gradient
        shrunk = moved.sign() * (moved.abs() - rate * penalty).clamp_min(0)
        new = torch.cat([shrunk[:, :-1], moved[:, -1:]], 1)  # the bias is not penalised
        after = (1 + (1 + 4 * t * t) ** 0.5) / 2
        step_from, w, t = new + (t - 1) / after * (new - w), new, after
    weight = w[:, :-1] / deviation
    return weight, w[:, -1] - weight @ mean
