"""An image-text model (CLIP, SigLIP) and prompts as a classifier: one class a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ModelError, TargetError
from ..hooks.modules import unwrap
from ..hooks.preserve import preserved
from .loaded import LoadedModel

#: parts of an image-text model that read the text (open_clip's plain form has three of no prefix)
_TEXT_PARTS = ("transformer", "token_embedding", "ln_final")


class OfTexts(nn.Module):
    """Another model's parts, under the same names, whose logits are texts; nothing is copied."""

    def stated_activation(self) -> str:
        """Return how the logits become probabilities."""
        raise NotImplementedError


def named(model: Any) -> tuple[LoadedModel | None, nn.Module, str]:
    """Return what was loaded, if it was; the model itself; and its name."""
    loaded = model if isinstance(model, LoadedModel) else None
    module = unwrap(model.module if isinstance(model, LoadedModel) else model)
    return loaded, module, type(module).__name__ if loaded is None else loaded.name


def check_different(what: str, texts: Sequence[str]) -> None:
    """Raise where there are none, or one twice."""
    if not texts or len(set(texts)) < len(texts):
        raise TargetError(f"{what} are one or more different texts, got {list(texts)!r}")


class ZeroShot(OfTexts):
    """The image half of an image-text model, with the cosines to given prompts as logits.

    Its modules are those of the model, under the same names; nothing is copied. The text half has
    run once, when this was made.

    Attributes:
        labels: of the logits' classes: the prompts. SigLIP's single prompt is a binary classifier.
        activation: "softmax" over the prompts; "sigmoid" for SigLIP; "none" for a single prompt of
            CLIP, whose logit is no probability.
        text_features: (K, D), each of length 1.
    """

    text_features: Tensor

    def __init__(self, model: Any, text_features: Tensor, prompts: Sequence[str]) -> None:
        super().__init__()
        for name, part in model.named_children():
            if _sees(model, name):
                self.add_module(name, part)
        self.logit_scale = model.logit_scale
        self.logit_bias = getattr(model, "logit_bias", None)
        self.register_buffer("text_features", text_features, persistent=False)
        self.__dict__["source"] = model  # by itself it is no part: its text half has no say
        if hasattr(model, "config"):
            self.config = model.config
        self.image_size = getattr(getattr(model, "visual", None), "image_size", None)
        single = len(prompts) == 1
        self.activation = "sigmoid" if self.logit_bias is not None else "softmax"
        if single and self.logit_bias is None:
            self.activation = "none"
        binary = single and self.activation == "sigmoid"
        self.labels = (f"not {prompts[0]}", *prompts) if binary else tuple(prompts)
        self.train(model.training)

    def stated_activation(self) -> str:
        """Return how the logits become probabilities."""
        return self.activation

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of images (B, 3, H, W): cosines, times the model's scale."""
        model = self.__dict__["source"]
        found = _features(
            model.get_image_features(pixel_values=images)
            if hasattr(model, "get_image_features")
            else model.encode_image(images)
        )
        logits = F.normalize(found, dim=-1) @ self.text_features.to(found.dtype).T
        logits = logits * self.logit_scale.exp()
        return logits if self.logit_bias is None else logits + self.logit_bias


def is_image_text(model: Any) -> bool:
    """Say whether a model embeds images and texts, as CLIP does (Hugging Face's, open_clip's)."""
    pairs = (("get_image_features", "get_text_features"), ("encode_image", "encode_text"))
    return hasattr(model, "logit_scale") and any(
        all(callable(getattr(model, name, None)) for name in pair) for pair in pairs
    )


def zero_shot(model: Any, prompts: Sequence[str], *, tokenizer: Any = None) -> LoadedModel:
    """Return an image-text model as a classifier of prompts, to explain, audit or measure.

    Its logits (B, K) are the model's own: the cosines of image and prompt times its scale, plus
    SigLIP's bias. The prompts run through the model once, here.

    Args:
        model: `CLIPModel`, `SiglipModel` and their like of Hugging Face, open_clip's models
            (`encode_image`, `encode_text`, `logit_scale`), or what `attnviz.load` returned.
        prompts: different texts, one a class.
        tokenizer: a Hugging Face tokenizer or processor, or a function of a list of texts that
            gives their tokens (`open_clip.get_tokenizer(...)`). None takes what was loaded with
            the model.

    Raises:
        ModelError: the model embeds no texts, or no tokenizer is known.
        TargetError: no prompts, or one of them twice.

    Example:
        >>> model = zero_shot(attnviz.load("tiny-clip"), ["a boat", "water"])  # doctest: +SKIP
        >>> maps = attnviz.explain(model, photo, target="a boat")  # doctest: +SKIP
    """
    loaded, module, name = named(model)
    if not is_image_text(module):
        raise ModelError(
            f"{name} embeds no texts, so it knows no prompts; they go with image-text models such "
            "as Hugging Face's CLIPModel and SiglipModel, or open_clip's"
        )
    check_different("prompts", prompts)
    tokenizer = tokenizer or (loaded and loaded.tokenizer)
    if tokenizer is None:
        raise ModelError(
            f"the tokenizer of {name} is not known: pass it, TextTarget(text, tokenizer=...) or "
            "zero_shot(..., tokenizer=...): a Hugging Face tokenizer or processor, or "
            "open_clip.get_tokenizer(name)"
        )
    weight = next(module.parameters())
    with torch.no_grad(), preserved(module, eval_mode=True):
        features = _text_features(module, _tokens(tokenizer, module, list(prompts)), weight.device)
    made = ZeroShot(module, F.normalize(features.detach(), dim=-1), prompts)
    preprocess = loaded.preprocess if loaded is not None else None
    if preprocess is None and hasattr(tokenizer, "image_processor"):
        from .resolving import from_hf

        preprocess = from_hf(tokenizer.image_processor)
    return LoadedModel(made, name, preprocess, made.labels)


def image_half(loaded: LoadedModel) -> nn.Module:
    """Return what photos alone go through: of an image-text model that half, else the model."""
    if loaded.tokenizer is None:
        return loaded.module
    if not is_image_text(loaded.module):
        raise ModelError(
            f"{loaded.name} writes about photos, and runs on a photo and text together: explain a "
            "word (token:WORD as target); attend has its attention (`attnviz attend PHOTO --text`)"
        )
    # which prompt it is makes no difference to the layers
    return zero_shot(loaded, ["a"]).module


def _sees(model: Any, name: str) -> bool:
    if hasattr(model, "encode_image") and hasattr(model, "visual"):
        return name == "visual"
    return not name.startswith("text") and name not in _TEXT_PARTS


def _tokens(tokenizer: Any, module: Any, prompts: list[str]) -> Any:
    tokenizer = getattr(tokenizer, "tokenizer", None) or tokenizer  # a processor's
    if not hasattr(tokenizer, "convert_ids_to_tokens") or not hasattr(module, "config"):
        return tokenizer(prompts)
    kind = str(getattr(module.config, "model_type", ""))
    options: dict[str, Any] = {"padding": True}
    if kind.startswith("siglip"):  # trained on texts filled up to their full length
        length = module.config.text_config.max_position_embeddings
        options = {"padding": "max_length", "max_length": length, "truncation": True}
    return tokenizer(prompts, return_tensors="pt", **options)


def _text_features(module: Any, tokens: Any, device: torch.device) -> Tensor:
    if not hasattr(module, "get_text_features"):
        return _features(module.encode_text(tokens.to(device)))
    if not isinstance(tokens, Mapping):
        tokens = {"input_ids": tokens}
    kept = {k: v.to(device) for k, v in tokens.items() if k in ("input_ids", "attention_mask")}
    if str(module.config.model_type).startswith("siglip"):
        kept.pop("attention_mask", None)  # what fills a text up is read as well, as in training
    return _features(module.get_text_features(**kept))


def _features(found: Any) -> Tensor:
    """Return (B, D) of what a model's feature function gives, in older releases and newer."""
    return found if isinstance(found, Tensor) else found.pooler_output
