"""Small models of many kinds, with random weights, for the tests of attention."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def timm_model(name: str, *, fused: bool = True, size: int = 64, **config) -> nn.Module:
    """A timm model with random, larger than usual weights (attention is far from uniform)."""
    timm = pytest_import("timm")
    layers = pytest_import("timm.layers")
    torch.manual_seed(0)
    layers.set_fused_attn(fused)
    try:
        try:
            model = timm.create_model(name, img_size=size, **config)
        except TypeError:
            model = timm.create_model(name, **config)
    finally:
        layers.set_fused_attn(True)
    return sharpen(model).eval()


def pytest_import(name: str):
    import pytest

    return pytest.importorskip(name)


def sharpen(model: nn.Module, factor: float = 3.0) -> nn.Module:
    """Make queries and keys larger: the default initialisation attends to all alike."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and any(
                part in name for part in ("qkv", "q_proj", "query", "in_proj", ".q.", "to_q")
            ):
                parameter.mul_(factor)
    return model


class PlainViT(nn.Module):
    """A vision transformer written as the papers do, softmax written out, of a user's own."""

    def __init__(self, dim: int = 24, heads: int = 3, depth: int = 2, classes: int = 5,
                 fused: bool = False, cls: bool = True) -> None:  # fmt: skip
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 8, 8)
        self.cls = nn.Parameter(torch.randn(1, 1, dim)) if cls else None
        self.pos = nn.Parameter(torch.randn(1, 16 + cls, dim) * 0.5)
        self.blocks = nn.ModuleList(PlainBlock(dim, heads, fused) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        if self.cls is not None:
            x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        x = x + self.pos
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, 0] if self.cls is not None else x.mean(1))


class PlainBlock(nn.Module):
    def __init__(self, dim: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = PlainAttention(dim, heads, fused)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PlainAttention(nn.Module):
    def __init__(self, dim: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.fused:
            out = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
            self.kept = weights
            if weights.requires_grad:
                weights.retain_grad()
            out = weights @ v
        return self.proj(out.transpose(1, 2).reshape(b, n, c))


def plain(*, double: bool = True, seed: int = 0, **config) -> PlainViT:
    torch.manual_seed(seed)
    model = sharpen(PlainViT(**config), 2.0).eval()
    return model.double() if double else model


def first(output):
    """The tensor to compare in any model's output."""
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "last_hidden_state", "logits_per_image"):
        found = getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    return output[0]


def text_batch(length: int = 9) -> dict[str, Tensor]:
    """Two texts, the second of six words and padding."""
    torch.manual_seed(1)
    ids = torch.randint(3, 90, (2, length))
    mask = torch.ones(2, length, dtype=torch.long)
    mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


_TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 64}  # fmt: skip
_SEEN = {**_TEXT, "image_size": 32, "patch_size": 8}
_PAIR = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
         "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}  # fmt: skip
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _photo(size: int = 32) -> dict[str, Tensor]:
    torch.manual_seed(2)
    return {"pixel_values": torch.randn(2, 3, size, size)}


def hf_config(kind: str):
    """Return (transformers configuration, class with from_config or None) of a tiny model."""
    t = pytest_import("transformers")
    text = {**_TEXT, "vocab_size": 100}
    simple: dict[str, Callable] = {
        "bert": lambda: t.BertConfig(**text),
        "gpt2": lambda: t.GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4,
                                     bos_token_id=1, eos_token_id=2),
        "t5": lambda: t.T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2,
                                 num_heads=4),
        "bart": lambda: t.BartConfig(vocab_size=100, max_position_embeddings=64, **_PAIR, **_IDS,
                                     decoder_start_token_id=1, forced_eos_token_id=2),
        "llama": lambda: t.LlamaConfig(num_key_value_heads=2, **text),
        "mistral": lambda: t.MistralConfig(num_key_value_heads=2, sliding_window=4, **text),
        "distilbert": lambda: t.DistilBertConfig(vocab_size=100, dim=32, n_layers=2, n_heads=4,
                                                 hidden_dim=64),
        "albert": lambda: t.AlbertConfig(embedding_size=16, **text),
        "vit": lambda: t.ViTConfig(**_SEEN),
        "deit": lambda: t.DeiTConfig(**_SEEN),
        "beit": lambda: t.BeitConfig(**_SEEN),
        "dinov2": lambda: t.Dinov2Config(**_SEEN),
        "dinov2_registers": lambda: t.Dinov2WithRegistersConfig(**_SEEN),
        "mae": lambda: t.ViTMAEConfig(**_SEEN, mask_ratio=0.5),
        "swin": lambda: t.SwinConfig(image_size=32, patch_size=2, embed_dim=16, depths=[2, 2],
                                     num_heads=[2, 4], window_size=4),
        "swinv2": lambda: t.Swinv2Config(image_size=32, patch_size=2, embed_dim=16,
                                         depths=[2, 2], num_heads=[2, 4], window_size=4),
        "segformer": lambda: t.SegformerConfig(hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1],
                                               num_attention_heads=[1, 2, 4, 4]),
        "clip": lambda: t.CLIPConfig(text_config={**text, **_IDS}, vision_config=_SEEN,
                                     projection_dim=16),
        "siglip": lambda: t.SiglipConfig(text_config=text, vision_config=_SEEN),
        "blip": lambda: t.BlipConfig(text_config={**text, **_IDS, "sep_token_id": 2},
                                     vision_config=_SEEN),
        "detr": lambda: t.DetrConfig(
            backbone_config=t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 16],
                                           depths=[1, 1, 1, 1], layer_type="basic",
                                           out_features=["stage4"]),
            use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, num_queries=5,
            **_PAIR),
    }  # fmt: skip
    return simple[kind]()


def hf_model(kind: str, *, implementation: str = "sdpa") -> tuple[nn.Module, dict]:
    """Return a tiny Hugging Face model and its inputs."""
    t = pytest_import("transformers")
    torch.manual_seed(0)
    config = hf_config(kind)
    make = t.BlipForConditionalGeneration._from_config if kind == "blip" else (
        t.AutoModel.from_config
    )  # fmt: skip
    model = sharpen(make(config, attn_implementation=implementation), 5.0).eval()
    if kind in ("t5", "bart"):
        return model, {**text_batch(), "decoder_input_ids": text_batch(5)["input_ids"]}
    if kind in ("clip", "blip"):
        return model, {**_photo(), **text_batch()}
    if kind == "siglip":
        return model, {**_photo(), "input_ids": text_batch()["input_ids"]}
    if kind == "mae":
        return model, {**_photo(), "noise": torch.rand(2, 16, generator=torch.Generator())}
    if kind == "segformer":
        return model, _photo(64)
    if kind == "detr":
        return model, {"pixel_values": torch.randn(2, 3, 128, 160)}
    if kind in ("vit", "deit", "beit", "dinov2", "dinov2_registers", "swin", "swinv2"):
        return model, _photo()
    return model, text_batch()
