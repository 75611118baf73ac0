"""`explain`: what in the image is associated with the score, for any model and method."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, overload

import torch
from torch import Tensor, nn

from .batching import in_chosen_batches
from .errors import AttnvizError, AttnvizWarning, MethodError, TargetError
from .heatmaps import ByName, Heatmaps, warn_of_flat
from .hooks import compiled, eager, find_layers, preserved, walked
from .images import asked
from .inputs import Given, gather, mismatch, size_of
from .methods import METHODS, RawMaps, Request, check_compiling, check_options, runner
from .methods.frame import check_frame, of_layer
from .models import Layout, LoadedModel, labels_of, reading, resolve_model, resolve_preprocess
from .models.activation import PROBABILITIES, stated_activation
from .models.argument import device_of, half_of
from .models.captions import CaptionScorer
from .models.inner import inner_geometry
from .models.outputs import Choice
from .preparing import PreparedBatch, preparation, preparing
from .registry import Entry
from .targets import Setting, parsed, prompted, ready


def output_for(module: nn.Module, loaded: LoadedModel | None, preprocess: Any, photo: Any) -> Any:
    """Return the model's output for one photo, without a graph, the model left as it was.

    Args:
        module, loaded: as `resolve_model` returns them.
        preprocess: as in `explain`.
        photo: anything `read_image` reads.
    """
    inputs = preparation(module, loaded, preprocess)([photo])
    with torch.no_grad(), preserved(module):
        return module(inputs.tensor)


def _methods(method: str | Sequence[str]) -> dict[str, list[Entry]]:
    names = [method] if isinstance(method, str) else list(method)
    if not names:
        raise AttnvizError("method is a name or a list of at least one; see `attnviz methods`")
    families: dict[str, list[Entry]] = {}
    for name in dict.fromkeys(names):
        entry = METHODS.get(name)
        families.setdefault(entry.family, []).append(entry)
    return families


def _slice(target: Any, batch: slice, total: int) -> Any:
    """The part of a per-image list that belongs to a batch; anything else serves every batch."""
    if isinstance(target, str) or not hasattr(target, "__len__"):
        return target
    if getattr(target, "ndim", 1) == 0:
        return target
    if len(target) != total:
        raise TargetError(
            f"{len(target)} targets for {total} image{'s' * (total != 1)}; give one per image, or "
            "a single one for all (several classes for every image: classes=[...])"
        )
    return target[batch]


Model = nn.Module | LoadedModel | str | None


@overload
def explain(
    model: Model, images: Any, *, method: str = ..., layer: str | nn.Module | None = ...,
    target: Any = ..., classes: Sequence[Any] | None = ..., preprocess: Any = ...,
    labels: Sequence[str] | None = ..., device: Any = ..., batch_size: int | None = ...,
    create_graph: bool = ..., signed: bool | None = ..., layout: Layout | str | None = ...,
    output: Choice | None = ..., activation: str | None = ..., call: int | None = ...,
    amp: bool = ..., compile: bool = ...,
    **options: Any,
) -> Heatmaps: ...  # fmt: skip


@overload
def explain(
    model: Model, images: Any, *, method: Sequence[str], layer: str | nn.Module | None = ...,
    target: Any = ..., classes: Sequence[Any] | None = ..., preprocess: Any = ...,
    labels: Sequence[str] | None = ..., device: Any = ..., batch_size: int | None = ...,
    create_graph: bool = ..., signed: bool | None = ..., layout: Layout | str | None = ...,
    output: Choice | None = ..., activation: str | None = ..., call: int | None = ...,
    amp: bool = ..., compile: bool = ...,
    **options: Any,
) -> dict[str, Heatmaps]: ...  # fmt: skip


@overload
def explain(
    model: Model, images: Any, *, method: str | Sequence[str] = ...,
    layer: list[Any] | tuple[Any, ...],
    target: Any = ..., classes: Sequence[Any] | None = ..., preprocess: Any = ...,
    labels: Sequence[str] | None = ..., device: Any = ..., batch_size: int | None = ...,
    create_graph: bool = ..., signed: bool | None = ..., layout: Layout | str | None = ...,
    output: Choice | None = ..., activation: str | None = ..., call: int | None = ...,
    amp: bool = ..., compile: bool = ...,
    **options: Any,
) -> dict[str, Any]: ...  # fmt: skip


def explain(
    model: Model,
    images: Any,
    *,
    target: Any = None,
    classes: Sequence[Any] | None = None,
    method: str | Sequence[str] = "gradcam",
    layer: Any = None,
    preprocess: Any = None,
    labels: Sequence[str] | None = None,
    device: Any = None,
    batch_size: int | None = None,
    create_graph: bool = False,
    signed: bool | None = None,
    layout: Layout | str | None = None,
    output: Choice | None = None,
    activation: str | None = None,
    call: int | None = None,
    amp: bool = False,
    compile: bool = False,
    **options: Any,
) -> Heatmaps | dict[str, Any]:
    """Return heatmaps of the regions associated with a score.

    The model is run in evaluation mode and is afterwards exactly as it was: gradients, modes,
    buffers, hooks, random state. All methods of the CAM family share one forward and one backward
    pass through the part behind the layer.

    Args:
        model: an `nn.Module` (compiled or DataParallel-wrapped too), a name
            (`torchvision:resnet50`, `timm:...`, `hf:...`), what `attnviz.load` returned, or None
            for the embedded EfficientNet-Lite0.
        images: a path, a folder, a PIL image, uint8 array (H, W, 3); or a float tensor that is
            preprocessed already: (B, C, H, W) or (C, H, W), or of the rank that the model's
            convolutions have, (B, C, T) or (B, C, D, H, W). Lists, loaders and data sets of these
            are explained whole; of an (image, label) sample the image is taken. A mapping, or a
            tuple for a model that takes several tensors, is a batch of several inputs; methods that
            alter or attribute the input explain one of them (`vary=1`, or a key), the others fixed.
        target: a class index, a label, a `Target`, a text such as "contrast:boat,seashore" (see
            `attnviz.targets.parse`), a function of the model's output that returns (B,) scores,
            or a list with one of these per image. None explains each image's
            predicted class; the result says which.
        classes: K targets for every image, from one forward: B * K maps, image by image.
        method: a name of `attnviz methods`, or several.
        layer: a dotted name or module, or several; None takes the model's default and the result
            says which. Of a layer that returns maps of several sizes, "stage4[3]" is one.
        preprocess: how an image becomes input: a `Preprocess`, torchvision's weights or
            transforms, a timm data config, a Hugging Face processor, a callable, or "imagenet".
            None takes what the model itself states, and is an error where it states nothing.
        labels: class names, if the model's own are not known.
        device: for models loaded by name; a module stays where it is.
        batch_size: images per forward. None chooses: few on a CPU, 32 elsewhere, halved where
            memory runs out; `meta["batch_size"]` says.
        create_graph: keep the graph in `values` and `score`, to train on the map. Runs the model
            in the mode it is in, as one batch.
        signed: True keeps negative values, False drops them; None does as the method's paper.
        layout: "channels_first", "channels_last" or a `Layout`, where a layer's output cannot be
            told apart; None finds it out.
        output: which part of the model's output are the logits, where there are several: an
            index, a key, an attribute, a dotted path ("heads.species") or a function of the
            output. None finds them and refuses where several would do; `meta["output"]` says.
        activation: how logits become probabilities: "softmax", "sigmoid" (a single logit, or
            several classes at once) or "none" (regression). None reads it off the model and its
            logits; `meta["activation"]` says, where a probability was asked for.
        call: which call of a layer that runs several times in one forward (a siamese network, a
            shared block): 0, 1, ... or -1 for the last. None makes a second call an error.
        amp: run a float32 model in half-precision autocast, bfloat16 where the device has it;
            maps are float32 all the same, and `meta["amp"]` says which half.
        compile: run what of the model nothing is read from compiled (`torch.compile`): worth its
            minute for thousands of images. For class activation maps and perturbation.
        **options: further options of the methods chosen; each is taken by at least one of them.

    Returns:
        `Heatmaps` with raw values (B, h, w), of signals (B, t), of volumes and video (B, d, h, w)
        (there by the CAM family). A model that folds views or frames (B, V, C, H, W) into its
        batch gives a map for each, view by view (`meta["views"]`). With several methods a dict
        {method: Heatmaps}, with several layers {layer: Heatmaps}, with both
        {method: {layer: Heatmaps}}.

    Raises:
        LayerNotFound, TargetError, MethodError, PreprocessError, ImageError, ModelError: each says
            what was given, what is possible, and what to do.

    Warns:
        FlatMapWarning: maps that are the same everywhere, with the method and the images.
    """
    families = _methods(method)
    check_options(options, [e for part in families.values() for e in part], _ARGUMENTS)
    if batch_size is not None and batch_size < 1:
        raise AttnvizError(f"batch_size is at least 1, got {batch_size}")
    module, loaded = resolve_model(model, device)
    if labels is None:
        labels = labels_of(module, loaded)
    target, classes = parsed(target, labels), parsed(classes, labels)
    by_words = prompted(module, loaded, (target, classes))
    if by_words is not None:
        module, loaded, labels = by_words.module, by_words, by_words.labels
    layers = None if layer is None else list(find_layers(module, layer, parts=True))

    given = gather(images, module.writer if isinstance(module, CaptionScorer) else module)
    total = given.count if isinstance(given, Given) else len(given)

    how = activation or stated_activation(module)
    facts: dict[str, Any] = {"model": loaded.name if loaded is not None else type(module).__name__}
    half = half_of(module) if amp else None
    if half is not None:
        facts["amp"] = str(half).removeprefix("torch.")
    if compile:
        check_compiling([e for part in families.values() for e in part], create_graph)
        facts["compile"] = True
    plain = [f"{k}={v}" for k, v in options.items() if isinstance(v, int | float | str)]
    if plain:
        facts["options"] = ", ".join(plain)
    if not isinstance(given, Given):
        facts["preprocess"] = resolve_preprocess(preprocess, module, loaded).describe()
        facts |= asked().facts()
    prepare = preparing(given, module, loaded, preprocess)

    def one(part: slice) -> tuple[PreparedBatch, list[RawMaps]]:
        inputs, names = prepare(part), labels
        if isinstance(module, CaptionScorer):  # what is said differs from picture to picture
            inputs = replace(inputs, tensor=module.hear(inputs.tensor))
            names = module.captions
        shape = size_of(inputs.tensor, module)
        rank = 2 if shape is None else len(shape)
        flat = (shape[0], shape[1]) if shape is not None and rank == 2 else None
        if shape is not None and flat is None:
            facts["input_size"] = list(shape)
        _check_rank(rank, families)
        setting = Setting(
            part.stop - part.start,
            flat,
            inputs.geometry,
            partial(output_for, module, loaded, preprocess),
            module.spoken if isinstance(module, CaptionScorer) else (),
        )
        inner = inner_geometry(module, setting.input_size)
        if inner is not None:
            check_frame(inner, families)
            seen = tuple(place.inside(inner) for place in setting.places())
            inputs = replace(inputs, inner=seen)
        request = Request(
            module,
            inputs.tensor,
            setting.batch,
            target=ready(_slice(target, part, total), setting),
            classes=ready(classes, setting),
            labels=names,
            layers=layers,
            input_size=shape,
            create_graph=create_graph,
            signed=signed,
            layout=Layout(layout, rank=rank) if isinstance(layout, str) else layout,
            call=call,
            options=options,
        )
        with reading(output, labels=names, activation=how) as read:
            done = _run(request, families, half, compile)
        facts.update(read.facts())
        return inputs, done

    size = 1 if isinstance(module, CaptionScorer) else total if create_graph else batch_size
    if size is None and total > 1:
        few = prepare(slice(0, 1)).tensor
        batches, facts["batch_size"] = in_chosen_batches(one, total, few)
    else:
        size = size or 1
        batches = [one(slice(i, min(i + size, total))) for i in range(0, total, size)]
        facts["batch_size"] = min(size, total)
    found = [
        _join(
            [(inputs, maps[i]) for inputs, maps in batches], len(classes) if classes else 1, facts
        )
        for i in range(len(batches[0][1]))
    ]
    if facts.get("activation") == "as it is":
        warnings.warn(PROBABILITIES, AttnvizWarning, stacklevel=2)
    if not create_graph:
        warn_of_flat(found, signed)
    return _shape(found, method, layer)


_ARGUMENTS = tuple(name for name in inspect.signature(explain).parameters if name != "options")


def _check_rank(rank: int, families: dict[str, list[Entry]]) -> None:
    other = [
        e.name
        for family, entries in families.items()
        for e in entries
        if family != "cam" and not e.meta.get("any_rank")
    ]
    if rank != 2 and other:
        raise MethodError(
            f"{', '.join(other)} explain{'s' * (len(other) == 1)} pictures (B, C, H, W); for "
            f"{'signals' if rank == 1 else 'volumes and video'} use a class activation map, such "
            "as gradcam, hirescam or layercam, or an attribution, such as integrated_gradients"
        )


def _run(
    request: Request, families: dict[str, list[Entry]], half: torch.dtype | None, fast: bool
) -> list[RawMaps]:
    try:
        with ExitStack() as stack:
            stack.enter_context(walked(request.model))
            if half is not None:
                stack.enter_context(torch.autocast(device_of(request.model).type, dtype=half))
            if not request.create_graph:
                stack.enter_context(torch.inference_mode(False))
                stack.enter_context(eager(request.model))
                stack.enter_context(preserved(request.model, eval_mode=True))
            if fast:
                stack.enter_context(compiled(request.model))
            return [m for family, e in families.items() for m in runner(family)(request, e)]
    except RuntimeError as error:
        why = mismatch(error, request.inputs, request.model)
        if why is not None:
            raise why from error
        raise


def _join(
    parts: list[tuple[PreparedBatch, RawMaps]], repeat: int, facts: dict[str, Any]
) -> Heatmaps:
    """Put the batches of one method and layer together; rows of one image stand together."""
    first = parts[0][1]
    repeat *= first.meta.get("views", 1)
    inner = parts[0][0].inner is not None and of_layer(first)

    def spread(field: str) -> tuple[Any, ...] | None:
        if getattr(parts[0][0], field) is None:
            return None
        return tuple(
            value for inputs, _ in parts for value in getattr(inputs, field) for _ in range(repeat)
        )

    return Heatmaps(
        values=torch.cat([maps.values for _, maps in parts]),
        method=first.method,
        layer=first.layer,
        target=tuple(t for _, maps in parts for t in maps.targets),
        label=tuple(t for _, maps in parts for t in maps.labels),
        score=torch.cat([maps.score for _, maps in parts]),
        logits=_together([maps.logits for _, maps in parts]),
        probability=_together([maps.probability for _, maps in parts]),
        geometry=spread("inner" if inner else "geometry"),
        images=spread("images"),
        sources=spread("sources"),
        units=first.units,
        meta={**_merged([maps.meta for _, maps in parts]), **facts},
    )


def _together(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Put the batches of one field together; None if any has none, or a batch differs in width."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or len({part.shape[1:] for part in known}) > 1:
        return None
    return torch.cat(known)


def _merged(metas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The facts of the first batch; of a gap that attributions leave, the largest of all."""
    merged = dict(metas[0])
    if "convergence_delta" in merged:
        merged["convergence_delta"] = max(m["convergence_delta"] for m in metas)
    return merged


def _shape(found: list[Heatmaps], method: Any, layer: Any) -> Heatmaps | dict[str, Any]:
    several_methods = not isinstance(method, str)
    several_layers = isinstance(layer, list | tuple)
    if not several_methods and not several_layers:
        return found[0]
    if several_methods and not several_layers:
        named = {maps.method: maps for maps in found}
        return ByName({METHODS.get(n).name: named[METHODS.get(n).name] for n in method})
    if not several_methods:
        return ByName({maps.layer: maps for maps in found})
    nested: dict[str, Any] = {METHODS.get(name).name: ByName() for name in method}
    for maps in found:
        nested[maps.method][maps.layer] = maps
    return nested
