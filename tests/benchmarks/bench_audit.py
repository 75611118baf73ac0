"""What an audit costs beyond the model's own passes, and whether its memory grows.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_audit.py [--images 48] [--grow 2000]

The protocol's forwards and backwards are counted by running the same inputs through the bare
model: one forward and backward a picture, one forward a counterfactual. CPU time, one thread, both
in one process in turn. The second part audits lazily read images and prints resident memory.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from attnviz import audit
from attnviz.audit import measuring
from attnviz.data import Sample
from attnviz.data import boatwater as bw
from tests.support import planting

OPTIONS = {"object": "boat", "context": "water", "methods": ("gradcam",), "examples": 0}


def resized(data: bw.GroupedImages, size: int) -> object:
    """Return a function that squeezes photos to the model's size, and normalises."""
    from attnviz.models import Preprocess

    return Preprocess(resize=(size, size), crop=None)


def cost(images: int, size: int) -> None:
    """Print the ratio of the audit's CPU time to that of the bare passes."""
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=2).eval()
    data = bw.generate(groups=bw.balanced(images // 4), seed=1).dataset()
    prepare = resized(data, size)
    # imports and the first call of each kernel are paid once a process, by neither side
    audit.confusion(
        model, bw.generate(groups=bw.balanced(1), seed=2).dataset(), preprocess=prepare,
        labels=("other", "boat"), layer="layer4", resamples=20, **OPTIONS,
    )  # fmt: skip
    seen: list[int] = []
    forwards: list[int] = []
    whole = measuring.Instrument.logits
    maps = measuring.Instrument.maps

    def count_forward(self: object, inputs: torch.Tensor) -> torch.Tensor:
        forwards.append(len(inputs))
        return whole(self, inputs)

    def count_maps(self: object, inputs: torch.Tensor) -> object:
        seen.append(len(inputs))
        return maps(self, inputs)

    measuring.Instrument.logits, measuring.Instrument.maps = count_forward, count_maps
    start = time.process_time()
    audit.confusion(
        model, data, preprocess=prepare, labels=("other", "boat"), layer="layer4", batch_size=16,
        resamples=200, **OPTIONS,
    )  # fmt: skip
    total = time.process_time() - start
    measuring.Instrument.logits, measuring.Instrument.maps = whole, maps
    x = torch.rand(16, 3, size, size)
    kept: list[torch.Tensor] = []
    hook = model.layer4.register_forward_hook(lambda m, i, o: kept.append(o))

    def passes() -> float:
        """Time the same number of forwards and tail backwards of the bare model."""
        begun = time.process_time()
        with torch.no_grad():
            for count in forwards:
                for part in torch.arange(count).split(16):
                    model(x[: len(part)])
        for count in seen:
            with torch.no_grad():
                kept.clear()
                model(x[:count])
            top = kept[0].detach().requires_grad_()
            model.fc(model.avgpool(top).flatten(1))[:, 1].sum().backward()
        return time.process_time() - begun

    bare = passes()
    hook.remove()
    print(
        f"resnet18, {size} px, {images} images, {sum(forwards)} counterfactuals: audit "
        f"{total:.1f} s, bare passes {bare:.1f} s, ratio {total / bare:.3f}"
    )


class Lazy:
    """Images that exist only while they are read."""

    classes = ("other", "boat", "land", "water")

    def __init__(self, total: int) -> None:
        self.total = total

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.total:
            raise IndexError(index)
        rng = np.random.default_rng(index)
        has, wet = index % 2, index // 2 % 2
        image = rng.integers(60, 110, (32, 32, 3), dtype=np.uint8)
        image[16:] = (20, 60, 160) if wet else (60, 120, 50)
        inside, around = np.zeros((2, 32, 32), bool)
        around[16:] = True
        if has:
            inside[14:22, 8:20] = True
            image[inside] = (220, 30, 30)
        from attnviz.data import ArrayMask

        name = "boat" if has else "other"
        place = "water" if wet else "land"
        masks = {place: ArrayMask(around & ~inside)}
        if has:
            masks["boat"] = ArrayMask(inside)
        return Sample(str(index), image, name, (name, place), masks=masks)


def resident() -> float:
    """Return this process's resident memory in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


def grow(total: int) -> None:
    """Print resident memory while lazily made images are audited."""
    model = planting.PlantedCNN("water")
    marks: list[tuple[int, float]] = []

    def note(done: int, of: int) -> None:
        if done % max(of // 5 // 32 * 32, 32) == 0:
            marks.append((done, resident()))

    start = time.process_time()
    found = audit.confusion(
        model, Lazy(total), preprocess=lambda p: torch.from_numpy(
            np.array(p).transpose(2, 0, 1).copy()).float() / 255,
        labels=("other", "boat"), fills=("blur",), progress=note, resamples=200, **OPTIONS,
    )  # fmt: skip
    print(f"{total} images in {time.process_time() - start:.0f} s CPU; {found.verdict.kind}; "
          f"MB after images: {', '.join(f'{n}: {mb:.0f}' for n, mb in marks)}; "
          f"after the statistics: {resident():.0f}")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--grow", type=int, default=10_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.images:
        cost(given.images, given.size)
    if given.grow:
        grow(given.grow)
