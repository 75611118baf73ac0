"""What reading attention costs: CPU time against the plain forward, and memory above it.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_attention.py [224] [518] [--rounds 5]

ViT-B/16 with random weights, batch 1, one thread. Runs are interleaved in one process; the ratio
is the median over rounds of CPU time over the CPU time of the plain forward beside it. Memory is
the peak of tensors alive above those before the call, counted by the profiler's allocations.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import attnviz
from attnviz import attention
from attnviz.methods import METHODS, Request
from attnviz.methods.attention._run import run

MIB = 2**20


def peak_bytes(call: Callable[[], object]) -> int:
    """Return the most bytes of tensors that a call holds at once."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    now = top = 0
    for event in _allocations(record):
        now += event
        top = max(top, now)
    return top


def _allocations(record: object) -> list[int]:
    events = record.profiler.kineto_results.events()  # type: ignore[attr-defined]
    found = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    return [size for _, size in sorted(found, key=lambda pair: pair[0])]


class Bench:
    def __init__(self, size: int, rounds: int) -> None:
        import timm

        torch.manual_seed(0)
        self.model: nn.Module = timm.create_model("vit_base_patch16_224", img_size=size).eval()
        self.x = torch.randn(1, 3, size, size)
        self.rounds = rounds
        self.size = size

    def plain(self) -> object:
        with torch.no_grad():
            return self.model(self.x)

    def queries_and_keys(self) -> object:
        with torch.no_grad(), attention.tap(self.model, keep="qk") as tap:
            self.model(self.x)
        return tap

    def method(self, name: str) -> object:
        return run(Request(self.model, self.x, 1, target=0), [METHODS.get(name)])

    def naive_rollout(self) -> object:
        """Every matrix kept, as with a hook on a written-out softmax."""
        with torch.no_grad(), attention.tap(self.model, keep="qk") as tap:
            self.model(self.x)
            kept = [site.weights() for site in tap.attention]
            eye = torch.eye(kept[0].shape[-1])
            product = eye
            for weights in kept:
                product = (0.5 * eye + 0.5 * weights.mean(1)) @ product
        return product, kept

    def forward_and_backward(self) -> object:
        """The floor of gradient-weighted maps: forward, backward to every attention's output."""
        outputs: list[Tensor] = []
        handles = [
            block.attn.proj.register_forward_pre_hook(lambda m, a: outputs.append(a[0]))
            for block in self.model.blocks
        ]
        try:
            score = self.model(self.x)[:, 0].sum()
        finally:
            for handle in handles:
                handle.remove()
        return torch.autograd.grad(score, outputs)

    def legrad_by_definition(self) -> object:
        """Each layer's score differentiated through all that was made of its tokens."""
        kept: list[Tensor] = []
        handles = [
            block.attn.proj.register_forward_pre_hook(lambda m, a: kept.append(a[0]))
            for block in self.model.blocks
        ]
        try:
            x = self.model._pos_embed(self.model.patch_embed(self.x))
            pooled = []
            for block in self.model.blocks:
                x = block(x)
                pooled.append(x.mean(1, keepdim=True))
        finally:
            for handle in handles:
                handle.remove()
        scores = self.model.head(self.model.norm(torch.cat(pooled))[:, 0])[:, 0]
        return [
            torch.autograd.grad(score, output, retain_graph=True)
            for score, output in zip(scores, kept, strict=True)
        ]

    def ratio(self, call: Callable[[], object], base: Callable[[], object]) -> float:
        call()
        base()
        found = []
        for _ in range(self.rounds):
            start = time.process_time()
            base()
            middle = time.process_time()
            call()
            found.append((time.process_time() - middle) / (middle - start))
        return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", type=int, default=[224, 518])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"attnviz {attnviz.__version__}, torch {torch.__version__}, one thread")
    for size in options.sizes:
        bench = Bench(size, options.rounds)
        tokens = (size // 16) ** 2 + 1
        stored = 12 * 2 * tokens * 768 * 4
        plain = peak_bytes(bench.plain)
        print(f"\n{size} px, {tokens} tokens; q, k of all layers {stored / MIB:.0f} MiB; "
              f"plain forward {plain / MIB:.0f} MiB")  # fmt: skip
        rows = {
            "q, k of all layers": (bench.queries_and_keys, bench.plain),
            "class-token rollout": (lambda b=bench: b.method("rollout"), bench.plain),
            "naive rollout": (bench.naive_rollout, bench.plain),
            "forward + backward": (bench.forward_and_backward, bench.plain),
            "LeGrad": (lambda b=bench: b.method("legrad"), bench.plain),
            "LeGrad, gradients through all later blocks": (bench.legrad_by_definition, bench.plain),
            "gradient attention / forward + backward": (
                lambda b=bench: b.method("gradient_attention"), bench.forward_and_backward),
            "generic relevance / forward + backward": (
                lambda b=bench: b.method("generic_relevance"), bench.forward_and_backward),
        }  # fmt: skip
        for name, (call, base) in rows.items():
            above = peak_bytes(call) - plain
            print(f"  {name:42s} {bench.ratio(call, base):5.2f} x  {above / MIB:7.0f} MiB above",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
