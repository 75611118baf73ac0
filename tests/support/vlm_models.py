"""Tiny vision-language models with random weights, each with its own processor, made offline."""

from __future__ import annotations

from typing import Any

import torch

WORDS = ["a", "boat", "on", "water", "what", "is", "in", "the", "picture", "?", "house", "tree"]
_TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0,
         "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 2048}  # fmt: skip
_SEEN = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
         "num_attention_heads": 2}  # fmt: skip

FAMILIES = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "paligemma", "idefics3", "smolvlm",
            "internvl", "blip-2", "mllama")  # fmt: skip


def tokenizer(*marks: str, **named: str) -> Any:
    """Return a word-level tokenizer; `marks` are further special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = {piece: i for i, piece in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    made = Tokenizer(models.WordLevel(pieces, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        unk_token="<unk>", extra_special_tokens=named,
    )  # fmt: skip
    fast.add_special_tokens({"additional_special_tokens": list(marks)})
    return fast


def family(kind: str, implementation: str = "sdpa") -> tuple[Any, Any]:
    """Return a model and its processor."""
    model, processor = globals()["_" + kind.replace("-", "_")]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = model[0]._from_config(model[1], attn_implementation=implementation)
        for name, parameter in made.named_parameters():  # far from a fresh model's even attention
            if parameter.ndim > 1 and "embed" not in name:
                parameter.data += 0.15 * torch.randn_like(parameter)
            elif "gate" in name and parameter.ndim == 1 and parameter.numel() == 1:
                parameter.data += 0.5
    made.generation_config.eos_token_id = None  # it writes as many tokens as it is let
    return made.eval(), processor


def _llava() -> tuple[Any, Any]:
    import transformers as t

    words = tokenizer("<image>")
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**_SEEN, image_size=32, patch_size=8),
        text_config=t.LlamaConfig(**_TEXT, vocab_size=len(words)),
        image_token_id=words.convert_tokens_to_ids("<image>"), vision_feature_layer=-1,
    )  # fmt: skip
    looks = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = t.LlavaProcessor(
        looks, words, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    return (t.LlavaForConditionalGeneration, config), processor


def _llava_next() -> tuple[Any, Any]:
    import transformers as t

    words = tokenizer("<image>")
    pinpoints = [[32, 64], [64, 32], [64, 64], [32, 96]]
    config = t.LlavaNextConfig(
        vision_config=t.CLIPVisionConfig(**_SEEN, image_size=32, patch_size=8),
        text_config=t.LlamaConfig(**_TEXT, vocab_size=len(words)),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints, vision_feature_layer=-1,
    )  # fmt: skip
    looks = t.LlavaNextImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32},
        image_grid_pinpoints=pinpoints,
    )  # fmt: skip
    processor = t.LlavaNextProcessor(
        looks, words, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    return (t.LlavaNextForConditionalGeneration, config), processor


def _qwen(config: Any, kind: Any, processor: Any) -> tuple[Any, Any]:
    import transformers as t

    marks = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    words = tokenizer(*marks)
    ids = dict(
        zip(
            ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"),
            words.convert_tokens_to_ids(marks),
            strict=True,
        )
    )
    text = {**_TEXT, "vocab_size": len(words),
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2],
                                "rope_theta": 1e4}}  # fmt: skip
    made = config(text_config=text, **ids)
    looks = t.Qwen2VLImageProcessor(patch_size=8, merge_size=2, min_pixels=16 * 16,
                                    max_pixels=64 * 64)  # fmt: skip
    return (kind, made), processor(looks, words, t.Qwen2VLVideoProcessor(patch_size=8))


def _qwen2_vl() -> tuple[Any, Any]:
    import transformers as t

    seen = {"depth": 2, "embed_dim": 16, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2,
            "patch_size": 8}  # fmt: skip
    return _qwen(
        lambda **given: t.Qwen2VLConfig(vision_config=seen, **given),
        t.Qwen2VLForConditionalGeneration, t.Qwen2VLProcessor,
    )  # fmt: skip


def _qwen2_5_vl() -> tuple[Any, Any]:
    import transformers as t

    seen = {"depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24,
            "out_hidden_size": 32, "patch_size": 8, "window_size": 32,
            "fullatt_block_indexes": [1]}  # fmt: skip
    return _qwen(
        lambda **given: t.Qwen2_5_VLConfig(vision_config=seen, **given),
        t.Qwen2_5_VLForConditionalGeneration, t.Qwen2_5_VLProcessor,
    )  # fmt: skip


def _paligemma() -> tuple[Any, Any]:
    import transformers as t

    words = tokenizer(image_token="<image>")
    text = {**_TEXT, "head_dim": 8, "vocab_size": len(words) + 1200, "model_type": "gemma"}
    config = t.PaliGemmaConfig(
        vision_config={**_SEEN, "image_size": 32, "patch_size": 8, "projection_dim": 32,
                       "model_type": "siglip_vision_model", "vision_use_head": False},
        text_config=text, image_token_index=words.convert_tokens_to_ids("<image>"),
        projection_dim=32, hidden_size=32,
    )  # fmt: skip
    looks = t.SiglipImageProcessor(size={"height": 32, "width": 32}, image_seq_length=16)
    looks.image_seq_length = 16
    return (t.PaliGemmaForConditionalGeneration, config), t.PaliGemmaProcessor(looks, words)


def _idefics(config: Any, kind: Any, processor: Any, looks: Any) -> tuple[Any, Any]:
    import transformers as t

    marks = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
    marks += [f"<row_{i}_col_{j}>" for i in range(1, 5) for j in range(1, 5)]
    named = {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>",
             "global_image_token": "<global-img>",
             "end_of_utterance_token": "<end_of_utterance>"}  # fmt: skip
    words = tokenizer(*marks, **named)
    made = config(
        vision_config={**_SEEN, "image_size": 32, "patch_size": 8},
        text_config=t.LlamaConfig(**_TEXT, vocab_size=len(words)), scale_factor=2,
        image_token_id=words.convert_tokens_to_ids("<image>"), pad_token_id=0,
    )  # fmt: skip
    made.text_config.pad_token_id = 0
    return (kind, made), processor(looks, words)


def _idefics3() -> tuple[Any, Any]:
    import transformers as t

    looks = t.Idefics3ImageProcessor(
        size={"longest_edge": 96}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    return _idefics(
        t.Idefics3Config, t.Idefics3ForConditionalGeneration,
        lambda a, b: t.Idefics3Processor(a, b, image_seq_len=4), looks,
    )  # fmt: skip


def _smolvlm() -> tuple[Any, Any]:
    import transformers as t

    looks = t.Idefics3ImageProcessor(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    return _idefics(  # its own processor of photos needs another package, and gives the same
        t.SmolVLMConfig, t.SmolVLMForConditionalGeneration,
        lambda a, b: t.Idefics3Processor(a, b, image_seq_len=4), looks,
    )  # fmt: skip


def _internvl() -> tuple[Any, Any]:
    import transformers as t

    named = {"start_image_token": "<img>", "end_image_token": "</img>",
             "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}  # fmt: skip
    words = tokenizer(**named)
    config = t.InternVLConfig(
        vision_config={**_SEEN, "image_size": [32, 32], "patch_size": [8, 8]},
        text_config=t.Qwen2Config(**_TEXT, vocab_size=len(words)).to_dict(),
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"), image_seq_length=4,
    )  # fmt: skip
    looks = t.GotOcr2ImageProcessor(
        size={"height": 32, "width": 32}, crop_to_patches=True, min_patches=1, max_patches=6
    )
    processor = t.InternVLProcessor(looks, words, t.InternVLVideoProcessor(), image_seq_length=4)
    return (t.InternVLForConditionalGeneration, config), processor


def _blip_2() -> tuple[Any, Any]:
    import transformers as t

    words = tokenizer()
    text = {k: v for k, v in _TEXT.items() if k not in ("intermediate_size", "num_key_value_heads")}
    looks = t.BlipImageProcessor(size={"height": 32, "width": 32})
    processor = t.Blip2Processor(looks, words, 5)
    config = t.Blip2Config(
        vision_config={**_SEEN, "image_size": 32, "patch_size": 8},
        qformer_config={**_SEEN, "encoder_hidden_size": 16, "cross_attention_frequency": 1,
                        "vocab_size": 20},
        text_config=t.OPTConfig(
            **text, ffn_dim=48, word_embed_proj_dim=32, vocab_size=len(words)
        ).to_dict(),
        num_query_tokens=5, image_token_index=words.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    return (t.Blip2ForConditionalGeneration, config), processor


def _mllama() -> tuple[Any, Any]:
    import transformers as t

    words = tokenizer("<|python_tag|>", image_token="<|image|>")
    seen = {**_SEEN, "image_size": 32, "patch_size": 8, "max_num_tiles": 4, "num_global_layers": 1,
            "attention_heads": 2, "intermediate_layers_indices": [1], "vision_output_dim": 32,
            "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1],
                                        [4, 1]]}  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e4}
    text = {
        **_TEXT,
        "vocab_size": len(words) - 8,
        "cross_attention_layers": [1],
        "rope_parameters": rope,
    }
    config = t.MllamaConfig(
        vision_config=seen, text_config=text,
        image_token_index=words.convert_tokens_to_ids("<|image|>"),
    )  # fmt: skip
    looks = t.MllamaImageProcessor(size={"height": 32, "width": 32}, max_image_tiles=4)
    return (t.MllamaForConditionalGeneration, config), t.MllamaProcessor(looks, words)
