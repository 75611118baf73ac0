"""Train the tiny captioner that comes along as `tiny-llava`, on generated scenes, and measure it.

    python notebooks/studies/train_tiny_llava.py [--steps N] [--out FILE]

The image tower is tiny-clip's and stays as it is, so its tokens are computed once; the projector
and the Llama learn to write "a sailboat on water". One CPU thread, two to three minutes.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from attnviz.attention import words
from attnviz.data import boatwater as bw
from attnviz.data.boatwater.arrays import OBJECT, WATER
from attnviz.metrics import energy
from attnviz.models import tiny_clip
from attnviz.models.tiny_llava import FILE, WordTokenizer, build, empty

OUT = Path(__file__).resolve().parents[2] / "assets" / "models" / FILE
TRAINED_ON, TESTED_ON = 21, 22  # seeds of scenes


def caption(kind: str, context: int) -> str:
    """Return what is said of a scene."""
    return f"a {kind} on {bw.CONTEXTS[context]}"


def material(model: Any, count: int) -> tuple[Tensor, Tensor]:
    """Return the image tokens (N, 64, C) and captions (N, T) of scenes, 0 behind their end."""
    data = bw.generate(groups=bw.balanced(count // 4), seed=TRAINED_ON)
    images = torch.from_numpy(data.images).permute(0, 3, 1, 2).float() / 255
    seen = []
    with torch.no_grad():
        for part in ((images - 0.5) / 0.25).split(200):
            seen.append(model.model.vision_tower(part).last_hidden_state[:, 1:].half())
    said = [
        [*WordTokenizer().encode(caption(kind, context)), 2]
        for kind, context in zip(data.kind, data.context.tolist(), strict=True)
    ]
    longest = max(map(len, said))
    return torch.cat(seen), torch.tensor([row + [0] * (longest - len(row)) for row in said])


def train(steps: int, scenes: int, batch: int, seed: int = 0) -> Any:
    """Train the words from scratch; returns the model in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = empty()
    images, said = material(model, scenes)
    inner, head = model.model, model.lm_head
    learned = [p for n, p in model.named_parameters() if ".vision_tower." not in n]
    optimiser = torch.optim.AdamW(learned, lr=2e-3, weight_decay=0.02)
    generator = torch.Generator().manual_seed(seed)
    begun = time.monotonic()
    for step in range(steps):
        for group in optimiser.param_groups:
            warm = min(1.0, (step + 1) / (steps // 10 + 1))
            group["lr"] = 2e-3 * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        rows = torch.randint(len(images), (batch,), generator=generator)
        first = torch.ones(batch, 1, dtype=torch.long)
        table = inner.language_model.embed_tokens
        given = torch.cat(
            [table(first), inner.multi_modal_projector(images[rows].float()),
             table(said[rows][:, :-1])], 1,
        )  # fmt: skip
        hidden = inner.language_model(inputs_embeds=given).last_hidden_state
        logits = head(hidden[:, -said.shape[1] :])
        value = F.cross_entropy(logits.flatten(0, 1), said[rows].flatten(), ignore_index=0)
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        if (step + 1) % max(steps // 10, 1) == 0:
            print(f"step {step + 1}: {value.item():.3f}, {time.monotonic() - begun:.0f} s",
                  file=sys.stderr, flush=True)  # fmt: skip
    return model.eval()


def measure(count: int = 80) -> dict[str, str]:
    """Return accuracy of the words, and energy over chance of their maps, on unseen scenes."""
    data = bw.generate(groups=["boat/water"] * count, seed=TESTED_ON)
    model, processor = build()
    right, gains = [], {}
    for image, region, kind in zip(data.images, data.region, data.kind, strict=True):
        found = words(model, processor, image, "", methods=["attention", "tam", "rollout"])
        right.append(found.text == caption(kind, 1))
        for word, where in (("boat", OBJECT), ("water", WATER)):
            at = len(found.words) - 1 if word == "water" else 1
            if (word == "water" and found.words[at] != "water") or at >= len(found.words):
                continue
            mask = torch.from_numpy(region == where)[None]
            for method in found.maps:
                ratio = energy(found.heatmaps(method).values[at][None], mask).extra["ratio"]
                gains.setdefault((word, method), []).append(float(ratio[0]))
    told = {"captions right": f"{sum(right) / len(right):.2f}"}
    for (word, method), values in gains.items():
        kept = torch.tensor([v for v in values if not math.isnan(v)])
        half = 1.96 * float(kept.std()) / len(kept) ** 0.5
        told[f"{word}, {method}"] = f"{kept.mean():.2f} +- {half:.2f} of chance ({len(kept)})"
    return told


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.process_time()
    model = train(options.steps, options.scenes, options.batch)
    state = {k: v for k, v in model.state_dict().items() if ".vision_tower." not in k}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in state.items()}, options.out)
    print(f"{options.out}: {options.out.stat().st_size} bytes, "
          f"{time.process_time() - begun:.0f} s of one core")  # fmt: skip
    if options.out == OUT:
        assert tiny_clip.weights_path(FILE) == OUT
        for name, number in measure().items():
            print(f"{name}: {number}")


if __name__ == "__main__":
    main()
