"""What the metrics cost above their forward passes: CPU-time ratios in one process, interleaved.

    python tests/benchmarks/bench_metrics.py [--rounds 7] [--threads 1]

"Pure forwards" are the network alone on as many images in the same batches, under `no_grad`.
Random weights: speed does not depend on them.
"""

import argparse
import statistics

import torch
import torch.nn.functional as F
import torchvision
from timing import compare, ratio

import attnviz.metrics as am


def forwards(net, x, jobs, batch_size):
    """The network alone: the originals, then `jobs` images."""

    def run():
        with torch.no_grad():
            net(x)
            for start in range(0, jobs, batch_size):
                net(x[:1].expand(min(batch_size, jobs - start), -1, -1, -1).contiguous())

    return run


def smooth_maps(batch):
    """What a CAM of a 224 px image looks like: 7 x 7 cells, some of them zero."""
    return torch.randn(batch, 7, 7, generator=torch.Generator().manual_seed(0)).relu()


def curves(args):
    net = torchvision.models.resnet18().eval()
    for batch, steps, size in ((1, 32, 32), (4, 16, 32)):
        x = torch.randn(batch, 3, 224, 224)
        maps = smooth_maps(batch)
        jobs = batch * (1 + 2 * (steps - 1))
        times = compare(
            {
                "curves": lambda x=x, maps=maps, steps=steps, size=size: am.faithfulness_curves(
                    net, x, maps, 0, steps=steps, batch_size=size
                ),
                "pure": forwards(net, x, jobs, size),
            },
            args.rounds,
        )
        print(
            f"deletion + insertion + least-relevant, ResNet-18, {batch} x 224 px, {steps} steps: "
            f"{ratio(times, 'curves', 'pure')} of the pure forwards (bar: 1.1)"
        )


def roads(args):
    for name in ("resnet18", "resnet50"):
        net = getattr(torchvision.models, name)().eval()
        for batch in (1, 4):
            x = torch.randn(batch, 3, 224, 224)
            maps = smooth_maps(batch)
            runs = {
                "road": lambda x=x, maps=maps, net=net: am.road(net, x, maps, 0),
                "pure": forwards(net, x, 4 * batch, 32),
            }
            if batch == 1:
                runs.update(peer(net, x, maps))
            times = compare(runs, args.rounds)
            print(
                f"ROAD at 4 percentiles, {name}, {batch} x 224 px: {ratio(times, 'road', 'pure')} "
                "of the pure forwards (bar: 2)"
            )
            if "peer" in times:
                print(f"  pytorch-grad-cam: {ratio(times, 'peer', 'pure')}")


def peer(net, x, maps):
    try:
        from pytorch_grad_cam.metrics.road import ROADMostRelevantFirstAverage
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
    except ImportError:
        print("pytorch-grad-cam is not installed: not compared")
        return {}
    metric = ROADMostRelevantFirstAverage(percentiles=[20, 40, 60, 80])
    full = F.interpolate(maps[:, None], size=(224, 224), mode="bilinear")[:, 0].numpy()
    full = full + torch.rand(full.shape).numpy() * 1e-6  # it removes everything where values tie
    return {"peer": lambda: metric(x, full, [ClassifierOutputSoftmaxTarget(0)], net)}


def imputation(args):
    photo = F.interpolate(torch.randn(1, 3, 28, 28), size=(224, 224), mode="bicubic")
    photo = photo + 0.2 * torch.randn_like(photo)
    blobs = F.interpolate(torch.rand(1, 1, 7, 7), size=(224, 224), mode="bilinear").flatten()
    for share in (0.1, 0.2, 0.4, 0.5, 0.6, 0.8, 0.9):
        removed = torch.zeros(224 * 224, dtype=torch.bool)
        removed[blobs.argsort(descending=True)[: round(share * 224 * 224)]] = True
        removed = removed.view(1, 224, 224)
        times = compare({"it": lambda removed=removed: am.impute(photo, removed)}, args.rounds)
        exact = am.impute(photo.double(), removed, tolerance=1e-10)
        error = (am.impute(photo, removed) - exact)[removed[:, None].expand_as(exact)]
        print(
            f"imputation, 224 px, {share:.0%} removed: "
            f"{1e3 * statistics.median(times['it']):.0f} ms of CPU (bar: 100), "
            f"error {error.square().mean().sqrt():.4f} (noise: .01)"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    imputation(args)
    roads(args)
    curves(args)
