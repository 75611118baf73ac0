"""Image classifiers and image-text models of the Hugging Face hub or of a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import AttnvizError, ModelError
from ..checkpoints import patterns_of, read_checkpoint, without
from ..environment import import_transformers
from ..labels import labels_of
from ..loaded import LoadedModel
from ..prompts import is_image_text
from ..resolving import from_hf
from ..transforms import ImageTransform
from .offline import check_hub, fetching


def names() -> list[str]:
    """Return nothing: the hub is not listed."""
    return []


def build(name: str, *, pretrained: bool, num_classes: int | None) -> LoadedModel:
    """Build an image classifier, or an image-text model, from a hub name or a local folder.

    No remote code is run.

    Raises:
        EnvironmentFault: transformers is not installed.
        ModelError: not found, no network, or a checkpoint without a trained classification head.
    """
    transformers = import_transformers()
    options = {"pretrained": pretrained, "num_classes": num_classes}
    with fetching(f"hf:{name}"):
        try:  # a folder's files, or what was fetched before: no network
            module, processor, missing = _read(transformers, name, local=True, **options)
        except OSError:
            if Path(name).is_dir():
                raise
            check_hub()
            module, processor, missing = _read(transformers, name, local=False, **options)
    if missing:
        raise ModelError(
            f"hf:{name} has no weights for {', '.join(missing[:3])}"
            f"{' and more' if len(missing) > 3 else ''}: it is not a trained image classifier, and "
            "its scores would be random; choose a checkpoint that was trained to classify"
        )
    if is_image_text(module) or type(module) in _writers(transformers):
        tokenizer = _tokenizer(transformers, name, processors=not is_image_text(module))
        return LoadedModel(module.eval(), f"hf:{name}", processor, None, tokenizer)
    labels = labels_of(module) if pretrained else None
    return LoadedModel(module.eval(), f"hf:{name}", processor, labels)


def build_from_checkpoint(
    name: str,
    checkpoint: Path,
    num_classes: int | None,
    *,
    key: str | None = None,
    drop: Sequence[str] = (),
) -> LoadedModel:
    """Build the architecture of a hub name or folder and fill it from a checkpoint.

    transformers does the filling: it knows the names that its own releases gave the weights.

    Raises:
        EnvironmentFault: transformers is not installed.
        ModelError: the config is not found, or the weights do not fit.
    """
    stored, labels = read_checkpoint(checkpoint, key=key)
    for prefix in ("module.", "_orig_mod.", "module."):
        if all(key.startswith(prefix) for key in stored):
            stored = {key.removeprefix(prefix): value for key, value in stored.items()}
    stored = without(stored, drop, checkpoint)
    if num_classes is None and "classifier.weight" in stored:
        num_classes = stored["classifier.weight"].shape[0]
    loaded = build(name, pretrained=False, num_classes=num_classes)
    kind: Any = type(loaded.module)
    config = loaded.module.config
    try:
        module, info = kind.from_pretrained(
            None, config=config, state_dict=stored, output_loading_info=True
        )
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"checkpoint {checkpoint} does not fit hf:{name}: {str(error).splitlines()[0][:200]}; "
            "name the architecture it was trained with (--model), and num_classes if its head is "
            "not the default one"
        ) from error
    problems = [
        f"{len(info[key])} {what} ({', '.join(sorted(map(str, info[key]))[:3])})"
        for key, what in (("missing_keys", "missing"), ("unexpected_keys", "unexpected"))
        if info.get(key)
    ]
    if problems:
        extra = sorted(map(str, info.get("unexpected_keys") or ()))
        patterns = patterns_of(extra, module.state_dict())
        raise ModelError(
            f"checkpoint {checkpoint} does not fit hf:{name}: {'; '.join(problems)}; "
            + (
                "name the architecture it was trained with (--model)"
                if info.get("missing_keys")
                else f"if these are no part of the model, leave them out: drop_keys={patterns} "
                f"(--drop-keys '{','.join(patterns)}')"
            )
        )
    return replace(loaded, module=module.eval(), labels=labels or loaded.labels)


def _read(
    transformers: Any, name: str, *, local: bool, pretrained: bool, num_classes: int | None
) -> tuple[Any, ImageTransform | None, list[str]]:
    """Return the model, its preprocessing, and the names of the weights it has none for."""
    auto = transformers.AutoModelForImageClassification
    options = {"trust_remote_code": False, "local_files_only": local}
    config = transformers.AutoConfig.from_pretrained(name, **options)
    named = next(iter(getattr(config, "architectures", None) or ()), "")
    by_words = transformers.AutoModelForZeroShotImageClassification
    if type(config) in by_words._model_mapping and not named.endswith("ForImageClassification"):
        auto, num_classes = by_words, None
    writing = transformers.AutoModelForImageTextToText
    if (
        type(config) in writing._model_mapping
        and named == writing._model_mapping[type(config)].__name__
    ):
        auto, num_classes = writing, None
    if num_classes is not None and num_classes != config.num_labels:
        if pretrained:
            raise ModelError(
                f"hf:{name} has {config.num_labels} classes, asked for num_classes="
                f"{num_classes}; pass pretrained=False or a checkpoint of your own"
            )
        config.num_labels = num_classes
    if not pretrained:
        module = auto.from_config(config, trust_remote_code=False)
        return module, _processor(transformers, name, local), []
    module, info = auto.from_pretrained(name, config=config, output_loading_info=True, **options)
    return module, _processor(transformers, name, local), sorted(info.get("missing_keys") or [])


def _writers(transformers: Any) -> tuple[type, ...]:
    """Return the classes of models that write about pictures."""
    return tuple(transformers.AutoModelForImageTextToText._model_mapping.values())


def _tokenizer(transformers: Any, name: str, *, processors: bool) -> Any:
    """Return the tokenizer, or where it is to be the whole processor that, if there is one."""
    try:
        if processors:
            return transformers.AutoProcessor.from_pretrained(name, local_files_only=True)
        return transformers.AutoTokenizer.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError, ImportError):
        return None  # it is then asked for with the first prompt


def _processor(transformers: Any, name: str, local: bool) -> ImageTransform | None:
    try:
        return from_hf(
            transformers.AutoImageProcessor.from_pretrained(name, local_files_only=local)
        )
    except AttnvizError:
        raise
    except (OSError, ValueError, ImportError):
        return None  # the preprocessing is then asked for when a photo is to be prepared
