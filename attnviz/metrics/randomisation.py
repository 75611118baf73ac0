"""Randomisation: a map that survives the destruction of the model does not explain the model.

Adebayo, Gilmer, Muelly, Goodfellow, Hardt & Kim, "Sanity Checks for Saliency Maps" (NeurIPS 2018,
arXiv:1810.03292); Sixt, Granz & Landgraf, "When Explanations Lie" (ICML 2020, arXiv:1912.09818).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MetricError
from ._inputs import as_images, as_maps, finite_reasons, is_flat, with_reason
from ._localise import skip
from ._random import generator, image_keys
from ._register import register_metric
from .protocol import Protocol
from .scores import Scores
from .similarity import similarity as alike


def parameter_groups(model: nn.Module, stages: int | None = None) -> list[list[str]]:
    """Return the names of all parameters, grouped from the output back to the input.

    A group holds the parameters that one module owns itself, so that a bare parameter (a class
    token, position embedding, or the joint projection of queries, keys and values) is in one too.

    Args:
        model: any module.
        stages: merge neighbouring groups into at most so many; None keeps one per module.
    """
    owners: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        owners.setdefault(name.rpartition(".")[0], []).append(name)
    groups = list(owners.values())[::-1]
    if not groups:
        raise MetricError(f"{type(model).__name__} has no parameters to randomise")
    if stages is None or stages >= len(groups):
        return groups
    if stages < 1:
        raise MetricError(f"stages={stages}, expected at least 1")
    cut = [len(groups) * i // stages for i in range(stages + 1)]
    return [[name for group in groups[a:b] for name in group] for a, b in itertools.pairwise(cut)]


def randomise_(model: nn.Module, names: Sequence[str] | None = None, *, seed: int = 0) -> None:
    """Replace parameters in place by normal numbers of the same mean and deviation.

    One generator serves all tensors, so that two of the same shape get different values. A tensor
    that hardly varies (a bias of zeros, a norm's ones) gets a deviation of .02 or a tenth of its
    mean, whichever is greater. Buffers stay.

    Args:
        model: changed in place: pass a copy of your model.
        names: which parameters; None is every one.
        seed: of the numbers.
    """
    draw = torch.Generator().manual_seed(seed)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in parameters if names is None else names:
            values = parameters[name]
            if not values.is_floating_point():
                continue
            mean = float(values.double().mean())
            spread = float(values.double().std(correction=0))
            if spread < 1e-3 * max(abs(mean), 1e-3):
                spread = max(0.02, abs(mean) / 10)
            fresh = torch.randn(values.shape, generator=draw) * spread + mean
            values.copy_(fresh.to(values))


def randomised(
    model: nn.Module, *, mode: str = "cascading", stages: int | None = 10, seed: int = 0
) -> Iterator[tuple[str, nn.Module]]:
    """Yield copies of a model, more and more of it randomised; the model is not changed.

    Args:
        model: any module.
        mode: "cascading" keeps what was randomised before, from the output to the input;
            "independent" randomises one group at a time.
        stages: number of groups; None is one per module with parameters.
        seed: of the numbers; each group has its own.

    Yields:
        The group's last module's name (where the cascade has come to) and the copy, which is
        overwritten by the next step.
    """
    if mode not in ("cascading", "independent"):
        raise MetricError(f"mode={mode!r}, expected 'cascading' or 'independent'")
    duplicate = copy.deepcopy(model)
    original = {name: value.detach().clone() for name, value in duplicate.named_parameters()}
    for number, names in enumerate(parameter_groups(duplicate, stages)):
        randomise_(duplicate, names, seed=seed * 1_000_003 + number)
        yield names[-1].rpartition(".")[0] or names[-1], duplicate
        if mode == "independent":
            with torch.no_grad():
                for name, value in duplicate.named_parameters():
                    value.copy_(original[name])


@register_metric(
    "parameter_randomisation",
    family="randomisation",
    needs=("explainer", "model"),
    higher_is_better=False,
    paper="arXiv:1810.03292",
    explanations=lambda o: 3 + (o.get("stages", 10) or 100),
)
def parameter_randomisation(
    explain: Callable[[nn.Module, Tensor], Any],
    model: nn.Module,
    x: Tensor,
    *,
    mode: str = "cascading",
    stages: int | None = 10,
    similarity: str = "spearman",
    seed: int = 0,
) -> Scores:
    """Parameter randomisation: how alike the map stays as weights are destroyed; low is good.

    Every parameter is replaced, those of attention, position embeddings and class tokens among
    them. The value is the mean over the stages; the original model is not one of them. What two
    wholly random networks have in common (edges, the image's centre) is the floor: no method can
    be expected to come below it.

    Args:
        explain: `explain(model, x)` -> (B, h, w), always for the same classes.
        model: any module; it is copied and not changed.
        x: (B, C, H, W) the model's input.
        mode: "cascading" from the output to the input, or "independent" groups.
        stages: number of groups; None is one per module with parameters.
        similarity: "spearman", "pearson" or "ssim".
        seed: of the weights.

    Returns:
        `Scores`; `extra["by_stage"]` (B, stages), `extra["floor"]` (B,) how alike the maps of two
        independently randomised networks are, and `extra["final"]` (B,) how alike the original's
        map is to those. Skipped: maps that are constant or not finite on the original model.
        Constant or non-finite maps of a random model have no likeness to the original: 0.
    """
    x = as_images(x)

    def maps_of(network: nn.Module) -> Tensor:
        return as_maps(explain(network, x), len(x), x.device)

    def likeness(a: Tensor, b: Tensor) -> Tensor:
        fine = torch.isfinite(a).flatten(1).all(1) & torch.isfinite(b).flatten(1).all(1)
        return torch.where(
            fine, alike(a.nan_to_num(), b.nan_to_num(), similarity), 0.0
        ).nan_to_num()

    first = maps_of(model)
    reasons = finite_reasons(first)
    reasons = with_reason(reasons, is_flat(first), "flat map")
    by_stage = torch.stack(
        [
            likeness(first, maps_of(network))
            for _, network in randomised(model, mode=mode, stages=stages, seed=seed)
        ],
        1,
    )
    wholly = []
    for number in (1, 2):
        network = copy.deepcopy(model)
        randomise_(network, seed=seed * 1_000_003 - number)
        wholly.append(maps_of(network))
    floor = likeness(*wholly)
    final = (likeness(first, wholly[0]) + likeness(first, wholly[1])) / 2
    protocol = Protocol.of(
        "parameter_randomisation",
        mode,
        f"{by_stage.shape[1]} stages",
        similarity,
        short="MPRT",
        higher_is_better=False,
        mode=mode,
        stages=stages,
        similarity=similarity,
        seed=seed,
    )
    extra = {"by_stage": by_stage, "floor": floor, "final": final}
    return Scores(skip(by_stage.mean(1), reasons), protocol, tuple(reasons), extra)


@register_metric(
    "random_logit",
    family="randomisation",
    needs=("explainer", "target"),
    higher_is_better=False,
    paper="arXiv:1912.09818",
    explanations=lambda o: 2,
)
def random_logit(
    explain: Callable[[Tensor, Sequence[int]], Any],
    x: Tensor,
    target: Sequence[int] | Tensor,
    *,
    classes: int,
    similarity: str = "spearman",
    seed: int = 0,
) -> Scores:
    """Random logit: how alike the maps of the class and of another class are; low is good.

    Args:
        explain: `explain(x, target)` -> (B, h, w) for a class index per image.
        x: (B, C, H, W) the model's input.
        target: (B,) the class of each image.
        classes: how many the model has.
        similarity: "spearman", "pearson" or "ssim".
        seed: of the other class, which is drawn per image.

    Returns:
        `Scores`. Skipped: constant maps, maps with NaN.
    """
    x = as_images(x)
    target = torch.as_tensor(target).flatten().tolist()
    if len(target) != len(x):
        raise MetricError(f"{len(target)} targets for {len(x)} images; give one class each")
    if classes < 2:
        raise MetricError(f"classes={classes}: a model of one class has no other one")
    others = []
    for key, cls in zip(image_keys(x), target, strict=True):
        step = torch.randint(1, classes, (), generator=generator(seed, key, "class"))
        others.append((cls + int(step)) % classes)
    first = as_maps(explain(x, target), len(x), x.device)
    second = as_maps(explain(x, others), len(x), x.device)
    values = alike(first.nan_to_num(), second.nan_to_num(), similarity)
    reasons = [
        a or b or ("flat map" if missing else None)
        for a, b, missing in zip(
            finite_reasons(first), finite_reasons(second), values.isnan().tolist(), strict=True
        )
    ]
    protocol = Protocol.of(
        "random_logit", similarity, higher_is_better=False, similarity=similarity, seed=seed
    )
    return Scores(skip(values, reasons), protocol, tuple(reasons))
