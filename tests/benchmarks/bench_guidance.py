"""What guidance costs a training step: CPU-time and peak-memory ratios to the plain step.

    python tests/benchmarks/bench_guidance.py [--rounds 15] [--threads 1] [--check]

ResNet-18, 128 px, batch 16, SGD; one process, every step between two plain ones, medians of the
ratios. Peak memory is what the step allocates above what stands before it (torch's own allocation
events).
`--check` exits with 3 if a ratio is above its bar.
"""

import argparse
import statistics
import sys
import time
from unittest import mock

import torch
import torch.nn.functional as F
import torchvision

from attnviz.guidance import class_map, losses
from attnviz.methods.heads import HeadProbe

#: name -> (time, memory) that a step may cost
BARS = {
    "energy": (1.1, 1.3),
    "l1": (1.1, 1.3),
    "ppce": (1.1, 1.3),
    "gain": (2.2, 2.2),
    "energy, double backward": (2.3, 2.2),
}


def steps(size=128, batch=16):
    """Return {name: one training step}, and what drops the gradients."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    x = torch.randn(batch, 3, size, size)
    y = torch.arange(batch) % 10
    masks = torch.zeros(batch, size, size)
    masks[:, size // 4 : size // 2, size // 4 : size // 2] = 1

    def finish(loss):
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def plain():
        finish(F.cross_entropy(model(x), y))

    def guided(name, **options):
        def step():
            seen = class_map(model, x, y, layer="layer4")
            finish(F.cross_entropy(seen.logits, y) + losses.get(name)(seen, masks, **options).total)

        return step

    def two_forwards():
        finish(F.cross_entropy(model(x), y) + F.cross_entropy(model(x * 0.5), y))

    def twice(name):
        step = guided(name)

        def run():
            with mock.patch.object(HeadProbe, "head", return_value=None):
                step()

        return run

    def all_twice():
        """Grad-CAM by backward hooks that keep the graph of the whole network (public code)."""
        found = {}
        handle = model.layer4.register_forward_hook(lambda m, i, o: found.update(a=o))
        logits = model(x)
        handle.remove()
        score = logits.gather(1, y[:, None]).sum()
        wanted = [found["a"], *model.parameters()]
        g = torch.autograd.grad(score, wanted, create_graph=True, allow_unused=True)[0]
        maps = (g.mean((2, 3), keepdim=True) * found["a"]).sum(1)
        t = F.interpolate(torch.sigmoid(10 * maps)[:, None], x.shape[-2:])
        left = model(x - t * x).gather(1, y[:, None]).mean()
        finish(F.cross_entropy(logits, y) + left)

    return {
        "plain": plain,
        "energy": guided("energy"),
        "l1": guided("l1"),
        "ppce": guided("ppce"),
        "gain": guided("gain"),
        "energy, double backward": twice("energy"),
        "gain, double backward": twice("gain"),
        "two forwards and backwards": two_forwards,
        "gain, public double backward of all": all_twice,
    }, optimiser.zero_grad


def times(runs, rounds):
    """Return {name: quartiles of its ratio to the plain steps right before and after it}."""
    for fn in runs.values():
        fn()

    def spent(fn):
        start = time.process_time()
        fn()
        return time.process_time() - start

    ratios = {name: [] for name in runs}
    for k in range(rounds):
        order = list(runs)
        before = spent(runs["plain"])
        for name in order[k % len(order) :] + order[: k % len(order)]:
            own = spent(runs[name])
            after = spent(runs["plain"])
            ratios[name].append(2 * own / (before + after))
            before = after
    return {name: statistics.quantiles(r, n=4) for name, r in ratios.items()}


def peak(fn, clear):
    """Return the bytes that a call holds at most, above what stood before it.

    `clear` drops the gradients of the step before: freeing them would count as less held.
    """
    from torch.profiler import ProfilerActivity, profile

    clear()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        fn()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs, clear = steps()
    quartiles = times(runs, options.rounds)
    memory = {name: peak(fn, clear) for name, fn in runs.items()}
    above = []
    print(f"{'':36} {'time':>6} {'(quartiles)':>14} {'memory':>7}   bars")
    for name, (low, middle, high) in quartiles.items():
        share = memory[name] / memory["plain"]
        bars = BARS.get(name)
        text = "" if bars is None else f"{bars[0]:.1f} {bars[1]:.1f}"
        print(f"{name:36} {middle:6.2f} ({low:5.2f}-{high:5.2f}) {share:7.2f}   {text}")
        if bars and (middle > bars[0] or share > bars[1]):
            above.append(name)
    print(f"plain: {memory['plain'] / 2**20:.0f} MiB; {options.threads} thread(s)")
    if above:
        print("above its bar: " + ", ".join(above))
    return 3 if above and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
