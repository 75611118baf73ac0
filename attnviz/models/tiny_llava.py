"""A tiny captioner in LLaVA's form that knows generated scenes: "a sailboat on water".

Trained by notebooks/studies/train_tiny_llava.py on `attnviz.data.boatwater` scenes, for examples
and tests of vision-language models without a download. It sees with the tower of `tiny-clip`
and writes with a Llama of two layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError, did_you_mean
from . import tiny_clip
from .environment import import_transformers

NAME = "tiny-llava"
FILE = "tiny_llava.safetensors"
_MARKS = ("<pad>", "<s>", "</s>", "<image>")
_PATCHES = 64


class Seeing(nn.Module):
    """The tokens behind the last block but one of an image tower, as LLaVA asks for them."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.tower.parameters()).dtype

    def forward(self, pixel_values: Tensor, **_: Any) -> Any:
        """Return class token and patches (B, 1 + 64, C), images (B, 3, 64, 64)."""
        from transformers.modeling_outputs import BaseModelOutput

        found = self.tower.forward_intermediates(
            pixel_values, indices=[len(self.tower.blocks) - 2], return_prefix_tokens=True,
            output_fmt="NLC", intermediates_only=True,
        )  # fmt: skip
        patches, prefix = found[0]
        tokens = torch.cat([prefix, patches], 1)
        return BaseModelOutput(last_hidden_state=tokens, hidden_states=(tokens,))


class WordTokenizer:
    """One token a word; others than the model's own are an error and not a guess."""

    words = (*_MARKS, *tiny_clip.WORDS)
    all_special_ids = tuple(range(len(_MARKS)))

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text in which words are parted by spaces."""
        ids = []
        for word in text.replace("<image>", " <image> ").split():
            if word not in self.words:
                raise ModelError(
                    f"{NAME} does not know the word {word!r}"
                    f"{did_you_mean(word, self.words) or '.'} It knows: "
                    f"{', '.join(tiny_clip.WORDS)}"
                )
            ids += [self.words.index(word)] * (_PATCHES if word == "<image>" else 1)
        return ids

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Return the words of tokens."""
        return [self.words[i] for i in ids]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of tokens."""
        skipped = self.all_special_ids if skip_special_tokens else ()
        return " ".join(self.words[i] for i in ids if i not in skipped)


class Processor:
    """Makes the model's input of photos and texts, as Hugging Face's processors do."""

    image_token = "<image>"
    image_processor = None

    def __init__(self) -> None:
        self.tokenizer = WordTokenizer()

    def __call__(self, images: Sequence[Any], text: Sequence[str], **_: Any) -> dict[str, Tensor]:
        """Return input ids, their mask and pixels, for one photo and one text."""
        ids = torch.tensor([[1, *self.tokenizer.encode(text[0])]])
        pixels = [tiny_clip.PREPROCESS(np.asarray(image))[0] for image in images]
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": torch.stack(pixels),
        }


def empty() -> Any:
    """Return the model without trained words, seeing with tiny-clip.

    Raises:
        EnvironmentFault: transformers is not installed.
    """
    t = import_transformers()
    small = {"hidden_size": 64, "num_attention_heads": 4}
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(
            **small, intermediate_size=64, num_hidden_layers=1, image_size=64, patch_size=8
        ),
        text_config=t.LlamaConfig(
            **small, intermediate_size=128, num_hidden_layers=2, num_key_value_heads=4,
            vocab_size=len(WordTokenizer.words), max_position_embeddings=128, pad_token_id=0,
            bos_token_id=1, eos_token_id=2,
        ),
        image_token_id=_MARKS.index("<image>"), vision_feature_layer=-1,
    )  # fmt: skip
    model = t.LlavaForConditionalGeneration(config)
    model.model.vision_tower = Seeing(tiny_clip.build().module.visual)
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    return model.eval()


def build(pretrained: bool = True) -> tuple[Any, Processor]:
    """Return the trained model (or its random words) in eval mode, and its processor.

    Raises:
        EnvironmentFault: transformers is not installed, or the weights are missing.
    """
    from .checkpoints import read_state_dict

    model = empty()
    if not pretrained:
        return model, Processor()
    state = {k: v.float() for k, v in read_state_dict(tiny_clip.weights_path(FILE)).items()}
    kept = {k: v for k, v in model.state_dict().items() if ".vision_tower." in k}
    model.load_state_dict({**kept, **state})
    return model, Processor()
