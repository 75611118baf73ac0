"""`load`: a model by name, by checkpoint or from the user's code, with what is known of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch

from ..errors import ModelError, did_you_mean
from .checkpoints import load_checkpoint
from .loaded import LoadedModel
from .sources import embedded, from_hf, from_python, from_timm, from_torchvision

DEFAULT = embedded.NAME

_SOURCES: dict[str, ModuleType] = {
    "embedded": embedded,
    "torchvision": from_torchvision,
    "timm": from_timm,
    "hf": from_hf,
}


def load(
    name: str | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_key: str | None = None,
    drop_keys: Sequence[str] = (),
    device: str | torch.device | None = None,
    num_classes: int | None = None,
    pretrained: bool = True,
) -> LoadedModel:
    """Load a model in eval mode, with its preprocessing and labels where they are known.

    Only names that ask for pretrained weights of torchvision, timm or Hugging Face use the
    network. Loading leaves torch's random state as it was.

    Args:
        name: None is the embedded EfficientNet-Lite0 with ImageNet weights, `tiny-clip` a CLIP of
            generated boat scenes. `torchvision:NAME`,
            `timm:NAME`, `hf:NAME_OR_FOLDER` name a source; a bare name is looked for in the
            embedded models, torchvision and timm; `package.module:factory` is Python code that
            makes the model.
        checkpoint: weights for that architecture, .safetensors or .pth/.pt (tensors only: no
            pickled code is run). Nothing is downloaded then. A torchvision model then has the
            preprocessing of its default weights. Class names that it holds beside the weights
            (`class_to_idx`, `classes`, `names`, also under `meta` or `hyper_parameters`) are
            taken.
        checkpoint_key: where in the checkpoint the weights are, if there are several sets:
            `ema_state_dict`, or what their names begin with, `teacher`.
        drop_keys: names of tensors in the checkpoint that are no part of the model, with `*` for
            any letters: `["*total_ops", "loss.*"]`. What is left over otherwise is an error.
        device: where the model goes; None leaves it on the CPU.
        num_classes: of a model with random weights or a checkpoint; read off the checkpoint if
            not given.
        pretrained: False gives random weights and needs no network.

    Raises:
        ModelError: the name is unknown (with the nearest ones) or ambiguous, weights cannot be
            fetched, or the checkpoint does not fit.
        EnvironmentFault: a package that the model needs is missing or broken.
    """
    source, short = _find(DEFAULT if name is None else str(name).strip())
    place = _device(device)
    if checkpoint is None and (checkpoint_key or drop_keys):
        raise ModelError(
            "checkpoint_key= (--checkpoint-key) and drop_keys= (--drop-keys) say how to read a "
            "checkpoint, and there is none: give checkpoint=FILE (--checkpoint)"
        )
    with torch.random.fork_rng(devices=[]):
        if checkpoint is None:
            loaded = source.build(short, pretrained=pretrained, num_classes=num_classes)
            if not pretrained:
                loaded = replace(loaded, name=f"{loaded.name} (random weights)")
        else:
            drop = [drop_keys] if isinstance(drop_keys, str) else list(drop_keys)
            loaded = _from_checkpoint(
                source, short, Path(checkpoint), num_classes, checkpoint_key, drop
            )
    if place is not None:
        loaded.module.to(place)
    return loaded


def _from_checkpoint(
    source: ModuleType,
    name: str,
    checkpoint: Path,
    num_classes: int | None,
    key: str | None,
    drop: Sequence[str],
) -> LoadedModel:
    if source is from_hf:
        loaded = from_hf.build_from_checkpoint(name, checkpoint, num_classes, key=key, drop=drop)
        return replace(loaded, name=f"{loaded.name} ({checkpoint.name})")
    built: list[LoadedModel] = []

    def build(classes: int | None) -> torch.nn.Module:
        built.append(source.build(name, pretrained=False, num_classes=classes))
        return built[-1].module

    module, labels = load_checkpoint(
        checkpoint, build, name=name, num_classes=num_classes, key=key, drop=drop
    )
    loaded = replace(
        built[-1],
        module=module.eval(),
        name=f"{built[-1].name} ({checkpoint.name})",
        labels=labels or built[-1].labels,
    )
    if source is from_torchvision:
        loaded = replace(loaded, preprocess=from_torchvision.default_preprocess(name))
    return loaded


def _device(device: str | torch.device | None) -> torch.device | None:
    if device is None:
        return None
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise ModelError(f"device {str(device)!r} cannot be used: {first}; use 'cpu'") from error
    return place


def _find(name: str) -> tuple[ModuleType, str]:
    """Return the source of a name, and the name inside it."""
    if not name:
        raise ModelError("the model's name is empty; leave it out for the embedded model")
    prefix, colon, rest = name.partition(":")
    if colon and prefix in _SOURCES:
        source = _SOURCES[prefix]
        if not rest:
            raise ModelError(f"{name!r} names no model; expected {prefix}:NAME")
        known = source.names()
        if known and _plain(rest, prefix) not in known:
            raise ModelError(f"{prefix} has no model {rest!r}{_hint(rest, [prefix])}")
        return source, rest
    if colon:
        # a mistyped source must not import and run what lies in the working directory
        meant = did_you_mean(prefix.lower(), ("torchvision", "timm", "hf"))
        named = all(part.isidentifier() for side in (prefix, rest) for part in side.split("."))
        if meant or not named:
            raise ModelError(
                f"{name!r} names no model source{meant or '.'} Expected torchvision:NAME, "
                "timm:NAME, hf:NAME or package.module:factory"
            )
        return from_python, name
    return _find_bare(name)


def _plain(name: str, source: str) -> str:
    return name.split(".")[0] if source == "timm" else name


def _find_bare(name: str) -> tuple[ModuleType, str]:
    if name in embedded.names():
        return embedded, name
    found = [s for s in ("torchvision", "timm") if _plain(name, s) in _SOURCES[s].names()]
    if len(found) > 1:
        options = " or ".join(f"{s}:{name}" for s in found)
        raise ModelError(f"model {name!r} is ambiguous; say {options}")
    if found:
        return _SOURCES[found[0]], name
    if Path(name).suffix in (".safetensors", ".pth", ".pt"):
        gone = "" if Path(name).exists() else " that does not exist"
        raise ModelError(
            f"{name!r} is a checkpoint{gone}: give it as checkpoint= (--checkpoint) beside the "
            "name of its architecture"
        )
    if "/" in name:
        raise ModelError(f"model {name!r} is not known; a Hugging Face model is named hf:{name}")
    raise ModelError(
        f"model {name!r} is not known{_hint(name, ['embedded', 'torchvision', 'timm'])}"
        " Names: torchvision:NAME, timm:NAME, hf:NAME, package.module:factory, or none for the "
        "embedded model"
    )


def _hint(name: str, sources: list[str]) -> str:
    known = [n if s == "embedded" else f"{s}:{n}" for s in sources for n in _SOURCES[s].names()]
    # compared without the source, which would make everything look alike
    short = {n.split(":")[-1]: n for n in reversed(known)}
    hint = did_you_mean(_plain(name, "timm"), short)
    for near in short:
        hint = hint.replace(repr(near), repr(short[near]))
    return hint
