"""What reading a vision-language model's words costs: CPU time and memory beside `generate` alone.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_words.py [64] [--layers 4] [--width 512]

LLaVA with random weights over 64 x 64 image tokens, 24 tokens written, one thread. Runs are
interleaved in one process; the ratio is the median over rounds of CPU time over that of `generate`
beside it. Bars: 1.1 x, and 100 MB more at 4k tokens, for the attention of the words. Measured (two
shared and busy cores, 4100 tokens, 4 layers of 512): 1.04 to 1.09 x and 3 MiB more; TAM adds 0.02.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from bench_attention import MIB, peak_bytes

import attnviz
from attnviz import attention
from attnviz.models.text import inputs_of

WRITTEN = 24


class Words:
    """Numbers as words: `<image>` stands for all image tokens."""

    all_special_ids = (0, 1)

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"w{i}" for i in ids if i < self.vocabulary]

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return " ".join(f"w{i}" for i in ids)


class Processor:
    image_token, image_processor = "<image>", None

    def __init__(self, side: int, vocabulary: int) -> None:
        self.side, self.tokenizer = side, Words(vocabulary)

    def __call__(self, images: list[Any], text: list[str], **_: Any) -> dict[str, Any]:
        ids = torch.tensor([[3] + [1] * self.side**2 + [4, 5, 6]])
        pixels = torch.from_numpy(np.array(images[0])).permute(2, 0, 1)[None].float() / 255
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def build(side: int, layers: int, width: int) -> Any:
    import transformers as t

    torch.manual_seed(0)
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(
            hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
            image_size=8 * side, patch_size=8,
        ),
        text_config=t.LlamaConfig(
            hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
            num_attention_heads=8, num_key_value_heads=8, vocab_size=1000,
            max_position_embeddings=side**2 + 100, pad_token_id=0,
        ),
        image_token_id=1, vision_feature_layer=-1,
    )  # fmt: skip
    model = t.LlavaForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sides", nargs="*", type=int, default=[64])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"attnviz {attnviz.__version__}, torch {torch.__version__}, one thread")
    for side in options.sides:
        model = build(side, options.layers, options.width)
        processor = Processor(side, 1000)
        photo = np.random.default_rng(0).integers(0, 255, (8 * side, 8 * side, 3), dtype=np.uint8)
        asked = inputs_of(model, processor, photo, "what")

        def plain(model: Any = model, asked: Any = asked) -> Any:
            return model.generate(
                **asked, do_sample=False, max_new_tokens=WRITTEN, return_dict_in_generate=True,
                output_logits=True,
            )  # fmt: skip

        def read(methods: list[str], given: Any = (model, processor, photo)) -> Any:
            return attention.words(*given, "what", max_new_tokens=WRITTEN, methods=methods)

        base = peak_bytes(plain)
        print(f"\n{side**2 + 4} tokens and {WRITTEN} written; generate {base / MIB:.0f} MiB")
        for methods in (["attention"], ["attention", "tam"]):
            call: Callable[[], Any] = lambda methods=methods: read(methods)  # noqa: E731
            more = (peak_bytes(call) - base) / MIB
            found = []
            for _ in range(options.rounds):
                start = time.process_time()
                plain()
                middle = time.process_time()
                call()
                found.append((time.process_time() - middle) / (middle - start))
            print(f"{', '.join(methods):<16} {statistics.median(found):6.3f} x  {more:+7.1f} MiB")


if __name__ == "__main__":
    main()
