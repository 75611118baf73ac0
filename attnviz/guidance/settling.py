"""What the settings leave open, settled by the model and the data, and said in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..erasing import SCHEMES, ACoL
from ..errors import AttnvizError, GuidanceError
from ..hooks import find_layers
from .changed import exchangeable
from .class_maps import differentiable
from .config import GuideConfig
from .losses import LOSSES
from .pooling import with_pooling
from .survey import Survey
from .tails import Prefix, divide, trained_names

#: weights of guidance: of a tail with objects of two classes to exchange, and else
STRONG, WEAK = 30.0, 1.0


def rebuilt(
    model: nn.Module, config: GuideConfig, example: Tensor
) -> tuple[nn.Module, GuideConfig]:
    """Return the model with the pooling or the two heads asked for, and the layer settled."""
    layer = config.layer
    whole = differentiable(config.method).family == "attention"  # read of all layers
    if layer is None and not (whole and config.pooling is None and config.erasing is None):
        built = config.pooling is not None or config.erasing == "acol"
        needed = built or config.loss != "none" or config.train == "tail"
        layer = _default(model, example, needed=needed)
    names: list[str] = []
    if layer is not None:
        asked = layer if isinstance(layer, str | nn.Module) else list(layer)
        names = list(find_layers(model, asked))
        layer = names[0] if len(names) == 1 else tuple(names)
    if config.pooling is None and config.erasing != "acol":
        return model, replace(config, layer=layer)
    if config.pooling is not None and config.erasing == "acol":
        raise GuidanceError("erasing='acol' has two heads of its own: leave pooling out")
    first = names[0]
    if config.pooling is not None:
        made: nn.Module = with_pooling(
            model, config.pooling, layer=first, example=torch.cat([example, example.flip(-1)]),
            **config.pooling_options,
        )  # fmt: skip
        named = [f"trunk.{n}" for n in names]
        layer = named[0] if len(named) == 1 else tuple(named)
        return made, replace(config, layer=layer)
    if config.loss != "none":
        raise GuidanceError(
            "erasing='acol' draws maps of its own, which a guidance loss does not reach; use "
            "loss='none' with it"
        )
    from ..hooks import capture

    with torch.no_grad(), capture(model, [first], gradients=False) as seen:
        output = model(example)
    from ..models.outputs import logits_of

    made = ACoL(
        model, first, seen.activations[first].shape[1], logits_of(output).shape[1],
        **config.erasing_options,
    )  # fmt: skip
    made = made.to(example.device)
    return made.train(model.training), replace(config, layer=f"trunk.{first}")


def _default(model: nn.Module, example: Tensor, *, needed: bool) -> str | None:
    from ..models import default_layer

    try:
        return next(iter(find_layers(model, default_layer(model, example))))
    except AttnvizError:
        if needed:
            raise
        return None


def _annotated_classes(known: Survey | None) -> int:
    if known is None:
        return 0
    return len(set(known.labels[known.regions].tolist()) - known.absent)


def resolve_config(
    config: GuideConfig, model: nn.Module, known: Survey | None, steps: int | None, example: Tensor
) -> tuple[GuideConfig, tuple[str, ...]]:
    """Return the settings without None, and a sentence for each choice."""
    notes: list[str] = []
    if config.epochs is None:
        each = -(-(steps or config.steps) // config.accumulate)
        epochs = max(1, -(-config.steps // each))
        config = replace(config, epochs=epochs)
        notes.append(f"{epochs} epochs of {each} steps")
    if config.exchange is None:
        able = known is not None and exchangeable(known)
        config = replace(config, exchange=able and config.loss != "none")
        if not config.exchange and config.loss != "none":
            notes.append(
                "exchange: left out, since no objects of two classes have masks or boxes; the map "
                "may move without the answer"
            )
    if config.weight is None:
        several = bool(config.exchange) and _annotated_classes(known) > 1
        weight = STRONG if several and config.train != "all" else WEAK
        config = replace(config, weight=weight)
        if config.loss != "none":
            why = "objects of several classes" if several else "objects of one class at most"
            why = f"{why} to exchange"
            if several and weight == WEAK:
                why = "all of the network is trained, which a strong map loss keeps from learning"
            notes.append(f"guidance: {config.loss}, weight {weight:g} ({why})")
    if config.balanced is None:
        uneven = known is not None and known.imbalance >= 1.5
        config = replace(config, balanced=uneven)
        if known is not None and uneven:
            counts = ", ".join(f"{n} of class {c}" for c, n in known.counts().items())
            notes.append(f"classes are drawn equally often, since there are {counts}")
    if config.batchnorm is None:
        config = replace(config, batchnorm="train" if config.train == "all" else "eval")
    tail = config.train == "tail"
    settled = {
        "label_smoothing": 0.1 if config.exchange else 0.0,
        "pull": 0.3 if tail else 0.0,
        "keep": 0.7 if tail and config.exchange else 1.0,
    }
    config = replace(config, **{n: v for n, v in settled.items() if getattr(config, n) is None})
    return config, tuple(notes)


def choose_trained(model: nn.Module, config: GuideConfig, example: Tensor) -> tuple[str, ...]:
    """Leave gradients to what is trained; say what that is."""
    if config.train == "all":
        return ()
    layer = config.layer if isinstance(config.layer, str) else (config.layer or (None,))[-1]
    if layer is None:
        layer = _default(model, example, needed=config.train == "tail") or ""
    if config.pooling or config.erasing == "acol":  # heads of their own train always
        inside = trained_names(
            model.get_submodule("trunk"), config.train, layer.removeprefix("trunk."), example
        )
        kept = {f"trunk.{n}" for n in inside}
        kept |= {n for n, _ in model.named_parameters() if not n.startswith("trunk.")}
    else:
        kept = set(trained_names(model, config.train, layer, example))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name in kept)
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    if not trained:
        return ()
    numbers = sum(p.numel() for _, p in trained), sum(p.numel() for p in model.parameters())
    return (
        f"trained: {trained[0][0].rpartition('.')[0]} to {trained[-1][0].rpartition('.')[0]}, "
        f"{numbers[0] / numbers[1]:.0%} of the weights (train={config.train!r})",
    )


def split(model: nn.Module, config: GuideConfig, data: Any, example: Tensor) -> Prefix | None:
    """Return the frozen prefix where its features may be kept, else None.

    Raises:
        GuidanceError: cache=True, and the prefix cannot be cut off.
    """
    wanted = config.cache is not False and hasattr(data, "example")
    wanted = wanted and config.train != "all" and config.batchnorm == "eval" and not config.amp
    if config.cache is None:
        needs = () if config.loss == "none" else LOSSES.get(config.loss).meta["needs"]
        wanted = wanted and not {"forward", "input_gradient", "layers"} & set(needs)
        scheme = config.erasing
        inside = scheme in (None, "acol") or (
            scheme in SCHEMES and SCHEMES.get(scheme).family == "features"
        )
        wanted = wanted and inside
    prefix = divide(model, example) if wanted else None
    if config.cache is True and prefix is None:
        raise GuidanceError(
            "cache=True needs a dataset with example(i, mirrored=) (such as guidance.Examples), "
            "train='tail' or 'head', BatchNorm in evaluation, no amp, and a network whose frozen "
            "modules follow each other; leave cache out"
        )
    return prefix
