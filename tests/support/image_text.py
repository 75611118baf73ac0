"""Tiny image-text models with random weights, and a tokenizer that is a file away from CLIP's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_PIECES = ["<|startoftext|>", "<|endoftext|>", *"abotwer", *(f"{c}</w>" for c in "abotwer")]
_SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}


def clip_folder(folder: Path, **vision: Any) -> Path:
    """Save a tiny CLIP with its processor; its tokenizer knows the letters of "a boat, water"."""
    import transformers

    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(_PIECES)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    looks = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    clip_model(**vision).save_pretrained(folder)
    transformers.CLIPProcessor(looks, tokenizer).save_pretrained(folder)
    return folder


def clip_model(**options: Any) -> Any:
    """Return a tiny CLIPModel with random weights."""
    import transformers

    text = {**_SMALL, "num_hidden_layers": 1, "vocab_size": len(_PIECES), "bos_token_id": 0,
            "eos_token_id": 1, "pad_token_id": 1, "max_position_embeddings": 16}  # fmt: skip
    vision = {**_SMALL, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    return _made(transformers.CLIPModel, config, **options)


def siglip_model(**options: Any) -> Any:
    """Return a tiny SiglipModel with random weights."""
    import transformers

    text = {**_SMALL, "num_hidden_layers": 1, "vocab_size": len(_PIECES), "bos_token_id": 0,
            "eos_token_id": 1, "pad_token_id": 1, "max_position_embeddings": 16}  # fmt: skip
    vision = {**_SMALL, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8}
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    return _made(transformers.SiglipModel, config, **options)


def _made(kind: Any, config: Any, implementation: str = "sdpa") -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind._from_config(config, attn_implementation=implementation)
        for parameter in model.parameters():  # far from the flat answers of fresh weights
            if parameter.ndim > 1:
                parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval().double()


def letters(prompts: list[str]) -> Tensor:
    """Return the tokens (K, 16) of prompts by their letters, the last one the end."""
    rows = [[ord(c) % (len(_PIECES) - 2) + 2 for c in p][:14] for p in prompts]
    return torch.tensor([[0, *row, *[1] * (15 - len(row))] for row in rows])
