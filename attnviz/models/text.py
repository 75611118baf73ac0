"""Models that read or write text, of the Hugging Face hub or of a local folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError
from . import tiny_llava
from .checkpoints import load_checkpoint
from .environment import import_transformers


@dataclass(frozen=True)
class LoadedText:
    """A text model in eval mode, and how words become its input.

    Attributes:
        module: the model.
        tokenizer: a Hugging Face tokenizer.
        name: as it was asked for.
    """

    module: nn.Module
    tokenizer: Any
    name: str

    def encode(self, text: str) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
        """Return the model's keyword arguments for one text (1, N), and the names of its tokens.

        Raises:
            ModelError: the text gives no token, or more than the model takes.
        """
        inputs = dict(self.tokenizer(text, return_tensors="pt"))
        count = int(inputs["input_ids"].shape[1])
        limit = getattr(self.module.config, "max_position_embeddings", None)
        if count == 0 or (limit and count > limit):
            raise ModelError(
                f"the text has {count} tokens; {self.name} takes 1 to {limit}. Give less of it"
            )
        names = self.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
        # GPT-2's bytes: a leading space is shown as a thin mark and not as a letter
        return inputs, tuple(str(n).replace("Ġ", "·").replace("▁", "·") for n in names)


def load_text(
    name: str,
    *,
    device: str | None = None,
    random: bool = False,
    checkpoint: str | Path | None = None,
) -> LoadedText:
    """Load a text model and its tokenizer; no remote code is run.

    Args:
        name: `hf:NAME_OR_FOLDER`, or a folder.
        device: None leaves it on the CPU.
        random: random weights, from the configuration alone (with torch's random state).
        checkpoint: a file of weights for it.

    Raises:
        EnvironmentFault: transformers is not installed.
        ModelError: not found, no network, or without a tokenizer.
    """
    module, tokenizer = _fetched(name, partial(_read, random=random))
    if tokenizer is None:
        raise ModelError(f"{name} comes without a tokenizer, so a text cannot become its input")
    if checkpoint is not None:
        module, _ = load_checkpoint(checkpoint, lambda _: module, name=name)
    if device is not None:
        module.to(device)
    return LoadedText(module.eval(), tokenizer, name)


def load_writer(
    name: str, *, device: str | None = None, random: bool = False
) -> tuple[nn.Module, Any]:
    """Load a vision-language model in eval mode, and its processor; no remote code is run.

    Args:
        name: `hf:NAME_OR_FOLDER`, a folder, or `tiny-llava`, which comes along.
        device: None leaves it on the CPU.
        random: random weights, from the configuration alone (with torch's random state).

    Raises:
        EnvironmentFault: transformers is not installed.
        ModelError: not found, no network, or no model that writes about pictures.
    """
    if name == tiny_llava.NAME:
        return tiny_llava.build()
    module, processor = _fetched(name, partial(_read_writer, random=random))
    if not hasattr(processor, "tokenizer"):
        raise ModelError(f"{name} comes without a processor of pictures and text")
    if device is not None:
        module.to(device)
    return module.eval(), processor


def _fetched(name: str, read: Callable[..., tuple[nn.Module, Any]]) -> tuple[nn.Module, Any]:
    """Read a folder or what was fetched before, else ask the hub."""
    from .sources.offline import check_hub, fetching

    transformers = import_transformers()
    short = name.removeprefix("hf:")
    folder = Path(short).expanduser()
    place = str(folder) if folder.is_dir() else short
    with fetching(name):
        try:
            return read(transformers, place, local=True)
        except OSError:
            if folder.is_dir():
                raise
            check_hub()
            return read(transformers, place, local=False)


def _read_writer(
    transformers: Any, place: str, *, local: bool, random: bool
) -> tuple[nn.Module, Any]:
    options = {"trust_remote_code": False, "local_files_only": local}
    auto = transformers.AutoModelForImageTextToText
    config = transformers.AutoConfig.from_pretrained(place, **options)
    if type(config) not in auto._model_mapping:
        raise ModelError(
            f"{place} ({config.model_type}) writes nothing about pictures; a photo and a text go "
            "with vision-language models, such as LLaVA, Qwen2-VL or PaliGemma"
        )
    if random:
        module = auto.from_config(config, trust_remote_code=False)
    else:
        module = auto.from_pretrained(place, **options)
    return module, transformers.AutoProcessor.from_pretrained(place, **options)


def _read(
    transformers: Any, place: str, *, local: bool, random: bool = False
) -> tuple[nn.Module, Any]:
    options = {"trust_remote_code": False, "local_files_only": local}
    config = transformers.AutoConfig.from_pretrained(place, **options)
    named = next(iter(getattr(config, "architectures", None) or ()), "")
    # a classifier keeps its classifier; what writes words is read as an encoder
    auto = transformers.AutoModel
    if named.endswith("ForSequenceClassification"):
        auto = transformers.AutoModelForSequenceClassification
    if random:
        module = auto.from_config(config, trust_remote_code=False)
    else:
        module = auto.from_pretrained(place, **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(place, **options)
    return module, tokenizer


def inputs_of(module: Any, processor: Any, photo: np.ndarray, prompt: str) -> dict[str, Any]:
    """Return what a processor makes of a photo (H, W, 3) and a prompt, on the model's device."""
    from PIL import Image

    text = prompt
    marker = getattr(processor, "image_token", None) or ""
    marker = getattr(marker, "content", marker)
    # these processors put the image's tokens in front by themselves
    alone = type(processor).__name__.startswith(("Blip2", "InstructBlip"))
    if not marker or marker not in prompt:
        if getattr(processor, "chat_template", None):
            said = [{"type": "image"}, {"type": "text", "text": prompt}]
            text = processor.apply_chat_template(
                [{"role": "user", "content": said}], add_generation_prompt=True
            )
        elif marker and not alone:
            text = f"{marker}{prompt}"
    given = processor(images=[Image.fromarray(photo)], text=[text], return_tensors="pt")
    place = next(module.parameters())
    return {
        name: value.to(place.device, place.dtype if value.is_floating_point() else value.dtype)
        if isinstance(value, Tensor)
        else value
        for name, value in given.items()
        if name != "labels"
    }


def with_answer(module: Any, inputs: Mapping[str, Any], written: Tensor) -> dict[str, Any]:
    """Return the inputs with all written tokens but the last behind the prompt."""
    prompt = inputs["input_ids"]
    number = len(written) - 1
    whole = dict(inputs)
    whole["input_ids"] = torch.cat([prompt, written[None, :-1].to(prompt)], 1)
    for name in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
        if name in whole:
            # of PaliGemma 1 marks what is written, which is read causally
            pali = name == "token_type_ids" and module.config.model_type == "paligemma"
            fill = 1 if name == "attention_mask" or pali else 0
            whole[name] = torch.cat([whole[name], whole[name].new_full((1, number), fill)], 1)
    if "cross_attention_mask" in whole and number:
        last = whole["cross_attention_mask"][:, -1:].expand(-1, number, -1, -1)
        whole["cross_attention_mask"] = torch.cat([whole["cross_attention_mask"], last], 1)
    return whole


def offsets(tokenizer: Any, ids: list[int]) -> tuple[str, list[tuple[int, int]]]:
    """Return the text, and which part of it each token wrote."""
    text = ""
    spans = []
    for number in range(len(ids)):
        longer = tokenizer.decode(ids[: number + 1], skip_special_tokens=True)
        # a letter of several tokens is whole with the last of them, and each wrote it
        whole = text.rstrip("\ufffd")
        spans.append((min(len(whole), len(longer)), len(longer)))
        text = longer
    lead = len(text) - len(text.lstrip())
    return text.strip(), [(max(a - lead, 0), max(b - lead, 0)) for a, b in spans]


def members(pieces: list[tuple[int, int]], spans: list[tuple[int, int]]) -> list[list[int]]:
    """Return the tokens of each word: those that wrote a part of it."""
    found = []
    for start, end in pieces:
        own = [i for i, (a, b) in enumerate(spans) if a < end and b > start]
        if not own:  # written by a token whose letters joined those before
            own = [max(i for i, (a, _) in enumerate(spans) if a <= start)]
        found.append(own)
    return found
