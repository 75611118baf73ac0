"""Train the tiny CLIP that comes along as `tiny-clip`, on generated scenes, and measure it.

    python notebooks/studies/train_tiny_clip.py [--steps N] [--out FILE]

Every prompt is a class of its own over the batch: its cosines with all images are a softmax whose
target is spread over the images that it is true of (text to image), and each image's cosines with
all prompts likewise (image to text). The batch holds boats and other things on water and on land
alike, so "water" cannot be told by the boat. One CPU thread, some three minutes.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

import attnviz
from attnviz.data import boatwater as bw
from attnviz.data.boatwater.arrays import OBJECT, WATER
from attnviz.metrics import energy
from attnviz.models.tiny_clip import TinyClip, build, tokenize

OUT = Path(__file__).resolve().parents[2] / "assets" / "models" / "tiny_clip.safetensors"
TRAINED_ON, TESTED_ON = 11, 12  # seeds of scenes


def captions(data: bw.GroupedImages) -> tuple[list[str], Tensor]:
    """Return all prompts that are true of some scene, and which is true of which, (N, K)."""
    told = []
    for kind, label, context in zip(
        data.kind, data.label.tolist(), data.context.tolist(), strict=True
    ):
        place = bw.CONTEXTS[context]
        names = [f"a {kind}", *(["a boat"] if label else [])]
        told.append({place, *names, *(f"{name} on {place}" for name in names)})
    prompts = sorted(set().union(*told))
    return prompts, torch.tensor([[p in true for p in prompts] for true in told]).float()


def loss_of(logits: Tensor, true: Tensor) -> Tensor:
    """Return the mean of both directions' cross entropies, for prompts that have images."""
    images = true[:, true.any(0)]
    texts = -(F.log_softmax(logits[:, true.any(0)], 0) * images / images.sum(0)).sum(0).mean()
    seen = -(F.log_softmax(logits, 1) * true / true.sum(1, keepdim=True)).sum(1).mean()
    return texts + seen


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images flipped at random and shifted by up to four pixels."""
    flip = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    down, right = torch.randint(-4, 5, (2,), generator=generator).tolist()
    return images.roll((down, right), (2, 3))


def train(steps: int, scenes: int, batch: int, seed: int = 0) -> TinyClip:
    """Train from scratch; returns the model in eval mode."""
    data = bw.generate(groups=bw.balanced(scenes // 4), seed=TRAINED_ON)
    prompts, true = captions(data)
    tokens = tokenize(prompts)
    images = torch.from_numpy(data.images).permute(0, 3, 1, 2)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TinyClip().train()
    rate = 2e-3
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02)
    begun = time.monotonic()
    for step in range(steps):
        for group in optimiser.param_groups:
            warm = min(1.0, (step + 1) / (steps // 10 + 1))
            group["lr"] = rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        rows = torch.randint(len(images), (batch,), generator=generator)
        pixels = (augmented(images[rows], generator).float() / 255 - 0.5) / 0.25
        seen, read, scale = model(pixels, tokens)
        value = loss_of(scale * seen @ read.T, true[rows])
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % max(steps // 10, 1) == 0:
            print(f"step {step + 1}: {value.item():.3f}, {time.monotonic() - begun:.0f} s",
                  file=sys.stderr, flush=True)  # fmt: skip
    return model.eval()


def measure(path: Path | None = None, count: int = 200) -> dict[str, dict[str, str]]:
    """Return what holds on scenes of a seed that training never saw: accuracy, and energy."""
    data = bw.generate(groups=bw.balanced(count // 4), seed=TESTED_ON)
    loaded = build()
    images = list(data.images)
    found: dict[str, dict[str, str]] = {}
    prompts = {"a boat": (OBJECT, data.label == 1), "water": (WATER, data.context == 1)}
    other = {"a boat": ["a car", "a truck", "a house", "a tree", "a cow", "a bird", "a plane",
                        "a tent"], "water": ["land"]}  # fmt: skip
    for prompt, (region, shown) in prompts.items():
        rivals = attnviz.models.zero_shot(loaded, [prompt, *other[prompt]])
        logits = attnviz.explain(rivals, images, target=prompt).logits
        right = (logits.argmax(1) == 0).numpy() == shown
        found[prompt] = {"accuracy": f"{right.mean():.3f}"}
        rows = [i for i in range(len(images)) if shown[i]]
        masks = torch.from_numpy(data.region[rows] == region)
        for method in ("gradcam", "grad_eclip", "legrad", "generic_relevance", "rollout"):
            maps = attnviz.explain(
                loaded, [images[i] for i in rows], target=attnviz.TextTarget(prompt), method=method
            )
            scores = energy(maps.values, masks)
            gain = scores.extra["ratio"]
            gain = gain[~gain.isnan()]
            half = 1.96 * gain.std() / len(gain) ** 0.5
            found[prompt][method] = f"{gain.mean():.2f} +- {half:.2f} of chance ({len(gain)})"
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.process_time()
    model = train(options.steps, options.scenes, options.batch)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, options.out)
    print(f"{options.out}: {options.out.stat().st_size} bytes, "
          f"{time.process_time() - begun:.0f} s of one core")  # fmt: skip
    if options.out == OUT:
        for prompt, numbers in measure().items():
            print(prompt, numbers)


if __name__ == "__main__":
    main()
