"""What perturbation and attribution cost: ratios of least CPU times in one process; memory beside.

    python tests/benchmarks/bench_methods.py [--rounds 3] [--threads 1] [--copies 48]

Floors are written by hand. Peers are timed on the same model and input. Random weights.
"""

import argparse
import threading
import time
import warnings

import timing
import torch
import torch.nn.functional as F
import torchvision

import attnviz


def compare(runs, rounds):
    """Return {name: least CPU seconds} of runs that take turns."""
    return {name: min(found) for name, found in timing.compare(runs, rounds).items()}


def peak(fn):
    """Return the MiB that the process grows by while `fn` runs, sampled every 2 ms."""

    def resident():
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4096

    most, stop = [0], threading.Event()
    start = resident()

    def watch():
        while not stop.is_set():
            most[0] = max(most[0], resident() - start)
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    fn()
    stop.set()
    thread.join()
    return most[0] / 2**20


def narrow(channels):
    """ResNet-18 whose last stage is read through fewer channels, so that a run takes seconds."""
    net = torchvision.models.resnet18().eval()
    net.layer4 = torch.nn.Sequential(net.layer4, torch.nn.Conv2d(512, channels, 1), torch.nn.ReLU())
    net.fc = torch.nn.Linear(channels, 1000)
    return net.eval()


def show(times, pairs):
    for name, base, *bar in pairs:
        bar = f" (bar {bar[0]})" if bar else ""
        if name in times and base in times:
            print(f"  {name} / {base}{bar}: {times[name] / times[base]:.3f}")


def score_cam(rounds, copies):
    net, x = narrow(copies), torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        a = {}
        handle = net.layer4.register_forward_hook(lambda m, i, o: a.update(v=o))
        net(x)
        handle.remove()

    def floor():
        with torch.no_grad():
            net(x)
            for part in a["v"][0].split(4):
                up = F.interpolate(part[:, None], (224, 224), mode="bilinear")
                low, high = up.amin((2, 3), True), up.amax((2, 3), True)
                net(x * (up - low) / (high - low).clamp_min(1e-9))

    runs = {
        "masked forwards": floor,
        "scorecam": lambda: attnviz.explain(net, x, method="scorecam", layer="layer4"),
    }
    memory = {"scorecam": runs["scorecam"]}
    try:
        from torchcam.methods import ScoreCAM

        def torchcam():
            with ScoreCAM(net, "layer4") as cam, torch.no_grad():
                cam(int(net(x).argmax()))

        runs["torchcam"] = memory["torchcam"] = torchcam
    except ImportError:
        print("torchcam is not installed: not compared")
    try:
        import pytorch_grad_cam

        peer = pytorch_grad_cam.ScoreCAM(net, [net.layer4])
        runs["pytorch-grad-cam"] = memory["pytorch-grad-cam"] = lambda: peer(x, None)
    except ImportError:
        print("pytorch-grad-cam is not installed: not compared")
    times = compare(runs, rounds)
    print(f"Score-CAM, ResNet-18, {copies} channels")
    show(
        times,
        [
            ("scorecam", "masked forwards", 1.05),
            ("scorecam", "torchcam"),
            ("scorecam", "pytorch-grad-cam"),
        ],
    )
    if rounds > 1:
        print("  peak MiB:", {name: round(peak(fn)) for name, fn in memory.items()})


def ablation(rounds, copies):
    net, x = torchvision.models.resnet18().eval(), torch.randn(1, 3, 224, 224)

    def forward():
        with torch.no_grad():
            net(x)

    runs = {
        "forward": forward,
        "last stage": lambda: attnviz.explain(net, x, method="ablationcam", layer="layer4"),
    }
    times = compare(runs, rounds)
    print("Ablation-CAM, ResNet-18")
    show(times, [("last stage", "forward", 3)])
    curved = narrow(copies)
    curved.avgpool = torch.nn.Sequential(curved.avgpool, torch.nn.Tanh())  # not to be read off

    def tail():
        with torch.no_grad():
            a = {}
            handle = curved.layer4.register_forward_hook(lambda m, i, o: a.update(v=o))
            curved(x)
            handle.remove()
            for start in range(0, copies, 4):
                without = a["v"].repeat(4, 1, 1, 1)
                without[range(4), range(start, start + 4)] = 0
                curved.fc(curved.avgpool(without).flatten(1))

    runs = {
        "tail": tail,
        "curved head": lambda: attnviz.explain(curved, x, method="ablationcam", layer="layer4"),
    }
    try:
        import pytorch_grad_cam

        peer = pytorch_grad_cam.AblationCAM(curved, [curved.layer4])
        runs["pytorch-grad-cam"] = lambda: peer(x, None)
    except ImportError:
        print("pytorch-grad-cam is not installed: not compared")
    times = compare(runs, rounds)
    show(times, [("curved head", "tail", 1.1), ("curved head", "pytorch-grad-cam")])


def rise(rounds, copies):
    net, x = torchvision.models.resnet18().eval(), torch.randn(1, 3, 224, 224)

    def floor():
        with torch.no_grad():
            net(x)
            for _ in range(copies // 4):
                net(x * torch.rand(4, 1, 224, 224))

    times = compare(
        {
            "masked forwards": floor,
            "rise": lambda: attnviz.explain(net, x, method="rise", masks=copies),
        },
        rounds,
    )
    print(f"RISE, ResNet-18, {copies} masks")
    show(times, [("rise", "masked forwards", 1.05)])


def gradients(rounds, steps):
    from captum.attr import IntegratedGradients

    net, x = torchvision.models.resnet18().eval(), torch.randn(1, 3, 224, 224)
    captum = IntegratedGradients(net)
    runs = {
        "captum, all at once": lambda: captum.attribute(x, target=3, n_steps=steps),
        "captum, 4 at once": lambda: captum.attribute(
            x, target=3, n_steps=steps, internal_batch_size=4
        ),
        "ig": lambda: attnviz.explain(net, x, target=3, method="integrated_gradients", steps=steps),
        "gradcam": lambda: attnviz.explain(net, x, target=3, method="gradcam", layer="layer3"),
        "shapleycam": lambda: attnviz.explain(
            net, x, target=3, method="shapleycam", layer="layer3"
        ),
    }
    times = compare(runs, rounds)
    print(f"Integrated gradients of {steps} steps; ShapleyCAM at the third stage; ResNet-18")
    show(
        times,
        [
            ("ig", "captum, all at once", 1.05),
            ("ig", "captum, 4 at once", 1.05),
            ("shapleycam", "gradcam", 3),
        ],
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=48, help="Masked; a multiple of 4.")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    for part in (ablation, score_cam, rise, gradients):
        part(args.rounds, args.copies)


if __name__ == "__main__":
    main()
