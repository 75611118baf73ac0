"""The self-test of a model: identities, gates, and what each method is worth on it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import AttnvizError, AttnvizWarning, MethodError
from ..explaining import explain
from ..hooks import find_layers, unwrap
from ..methods import METHODS
from ..models import LoadedModel, default_layer
from . import gates
from .findings import Finding, MethodFinding, Report
from .identities import identities
from .reading import double_copy, read
from .verdicts import verdict


def selftest(
    loaded: LoadedModel,
    x: Tensor,
    *,
    layer: str | None = None,
    methods: Sequence[str] | None = None,
    step: Callable[[str], None] = lambda what: None,
) -> Report:
    """Return which identities hold on a model, whether its gates hold, and what methods are worth.

    The identities are measured on a copy in double precision; the model itself is not changed.

    Args:
        loaded: the model.
        x: (B, C, H, W) inputs, a few of the kind the model is meant for.
        layer: where maps are made; None is the model's default.
        methods: names of `attnviz methods`; None is every class activation map that is a function
            of activation and gradient.
        step: called with a word on what comes next.

    Raises:
        MethodError: no method applies, or the model is no classifier.
    """
    model = unwrap(loaded.module)
    (layer,) = find_layers(model, layer or default_layer(model))
    simple = [e.name for e in METHODS if e.family == "cam" and not e.meta["own_pass"]]
    names = [METHODS.get(m).name for m in methods] if methods else simple
    step("identities")
    findings: list[Finding] = []
    reading = read(double_copy(model), x.detach().to("cpu", torch.float64), layer)
    findings += identities(reading)
    step("determinism")
    findings.append(gates.determinism(model, x))
    if len(x) > 1:
        findings.append(gates.batch_independence(model, x))
    target = gates._logits(model, x).argmax(1).tolist()
    refused = {name: _refusal(model, x, name, layer, target) for name in names}
    applies = [name for name, why in refused.items() if why is None]
    if not applies:
        reasons = "; ".join(f"{name}: {why}" for name, why in refused.items())
        raise MethodError(f"none of the methods applies to this model. {reasons}")
    findings.append(gates.model_untouched(model, x, applies[0], layer))
    worth: list[MethodFinding] = []
    for name in names:
        if refused[name] is not None:
            worth.append(verdict(name, reading, refused=refused[name]))
            continue
        step(name)
        random = gates.against_random(model, x, name, layer, target)
        classes = reading.logits.shape[1]
        other = (
            gates.against_other_class(model, x, name, layer, target, classes)
            if classes > 1
            else None
        )
        findings.append(gates.randomisation_gate(name, random))
        worth.append(verdict(name, reading, random_network=random, other_class=other))
    return Report(loaded.name, layer, tuple(findings), tuple(worth))


def _refusal(
    model: torch.nn.Module, x: Tensor, name: str, layer: str, target: Sequence[int]
) -> str | None:
    """Return why a method does not apply to a model, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AttnvizWarning)
            explain(model, x[:1], method=name, layer=layer, target=list(target[:1]))
    except AttnvizError as error:
        return str(error)
    return None


def synthetic_photos(count: int = 4, side: int = 256) -> list[np.ndarray]:
    """Return pictures of coloured blobs (side, side, 3) uint8, where no photos are at hand."""
    draw = torch.Generator().manual_seed(0)
    blobs = torch.rand(count, 3, 9, 9, generator=draw)
    fine = torch.rand(count, 3, 65, 65, generator=draw)
    size = (side, side)
    coarse = torch.nn.functional.interpolate(blobs, size=size, mode="bicubic")
    detail = torch.nn.functional.interpolate(fine, size=size, mode="bilinear")
    values = (0.8 * coarse + 0.2 * detail).clamp(0, 1) * 255
    return list(values.permute(0, 2, 3, 1).to(torch.uint8).numpy())
