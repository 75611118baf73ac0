"""What explaining costs, as CPU-time ratios in one process, interleaved; medians.

    python tests/benchmarks/bench_explain.py [--rounds 7] [--threads 1] [--batches 1 8 32]

The floor is written by hand: the prefix without a graph, the tail forward and backward. Peers are
timed on the same model and input. Random weights: speed does not depend on them.
"""

import argparse
import statistics

import torch
import torchvision
from timing import compare, ratio
from torch import nn

import attnviz
from attnviz.methods.cam import METHODS

ALL = ["cam", "gradcam", "gradcam++", "hirescam", "xgradcam", "layercam", "eigencam"]
ALL.append("eigengradcam")
BOXES = 8


class GapNet(nn.Module):
    """ResNet-50 with its parts named, so that the floor can be written by hand."""

    def __init__(self):
        super().__init__()
        self.net = torchvision.models.resnet50().eval()

    def prefix(self, x):
        n = self.net
        x = n.maxpool(n.relu(n.bn1(n.conv1(x))))
        return n.layer4(n.layer3(n.layer2(n.layer1(x))))

    def tail(self, a):
        return self.net.fc(torch.flatten(self.net.avgpool(a), 1))


def floor(parts, x):
    with torch.no_grad():
        a = parts.prefix(x)
    a.requires_grad_()
    logits = parts.tail(a)
    score = logits.gather(1, logits.argmax(1, keepdim=True)).sum()
    g = torch.autograd.grad(score, a)[0]
    with torch.no_grad():
        return (g.mean((2, 3), keepdim=True) * a).sum(1).relu()


def peers(net, x):
    runs = {}
    try:
        from pytorch_grad_cam import GradCAM

        cam = GradCAM(net, [net.layer4])
        runs["pytorch-grad-cam"] = lambda: cam(x, None)
    except ImportError:
        print("pytorch-grad-cam is not installed: not compared")
    try:
        from torchcam.methods import GradCAM as TorchGradCAM

        def torchcam():
            with TorchGradCAM(net, "layer4") as extractor:
                logits = net(x)
                return extractor(logits.argmax(1).tolist(), logits)

        runs["torchcam"] = torchcam
    except ImportError:
        print("torchcam is not installed: not compared")
    return runs


def speed(args):
    parts = GapNet()
    net = parts.net
    for batch in args.batches:
        torch.manual_seed(0)
        x = torch.randn(batch, 3, 224, 224)
        want = floor(parts, x)
        got = attnviz.explain(net, x).values
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
        runs = {
            "floor": lambda x=x: floor(parts, x),
            "gradcam": lambda x=x: attnviz.explain(net, x),
            "all eight": lambda x=x: attnviz.explain(net, x, method=ALL),
            "20 classes": lambda x=x: attnviz.explain(net, x, classes=list(range(20))),
            **peers(net, x),
        }
        times = compare(runs, args.rounds if batch < 32 else max(3, args.rounds // 2))
        print(f"ResNet-50, 224 px, batch {batch}:")
        print(f"  gradcam / floor             {ratio(times, 'gradcam', 'floor')}")
        print(f"  all eight / gradcam         {ratio(times, 'all eight', 'gradcam')}")
        print(f"  20 classes / gradcam        {ratio(times, '20 classes', 'gradcam')}")
        for peer in ("pytorch-grad-cam", "torchcam"):
            if peer in times:
                print(f"  {peer + ' / gradcam':<27} {ratio(times, peer, 'gradcam')}")


def boxes(args):
    """K boxes of one photo: one forward and K backwards of the tail, and the same by hand."""
    from torchvision.models import detection

    torch.manual_seed(0)
    net = detection.fasterrcnn_mobilenet_v3_large_fpn(
        weights=None, weights_backbone=None, box_score_thresh=0.0, min_size=320, max_size=320
    ).eval()
    x, layer = torch.rand(1, 3, 320, 320), net.backbone.body["16"]

    def by_hand():
        kept = []

        def read(module, inputs, output):
            kept.append(output.detach().requires_grad_())
            torch.set_grad_enabled(True)
            return kept[0]

        handle = layer.register_forward_hook(read)
        with torch.no_grad():
            scores = net(x)[0]["scores"]
        handle.remove()
        for k in range(BOXES):
            g = torch.autograd.grad(scores[k], kept[0], retain_graph=k < BOXES - 1)[0]
            (g.mean((2, 3), keepdim=True) * kept[0].detach()).sum(1).relu()

    targets = [f"box:{k}" for k in range(BOXES)]
    runs = {
        "floor": by_hand,
        "boxes": lambda: attnviz.explain(net, x, classes=targets, signed=True),
    }
    times = compare(runs, args.rounds)
    print(f"Faster R-CNN, 320 px, {BOXES} boxes of one photo:")
    print(f"  boxes / floor               {ratio(times, 'boxes', 'floor')} (bar: 1.1)")


def eigen(args):
    a = torch.rand(1, 256, 56, 56)
    fn = METHODS.get("eigencam").fn
    times = compare({"eigencam": lambda: fn(a)}, 15)["eigencam"]
    print(f"Eigen-CAM, 256 x 56 x 56: {1e3 * statistics.median(times):.1f} ms of CPU (bar: 20)")


def memory():
    """Bytes that autograd saves for one forward of ResNet-50, 4 images."""
    net = torchvision.models.resnet50().eval()
    x = torch.randn(4, 3, 224, 224)

    def saved(run):
        parameters = {p.untyped_storage().data_ptr() for p in net.parameters()}
        seen = {}

        def pack(t):
            if t.untyped_storage().data_ptr() not in parameters:
                seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            run()
        return sum(seen.values()) / 2**20

    def captured():
        with attnviz.capture(net, "layer4"):
            net(x)

    print(f"saved for backward, 4 images: plain forward {saved(lambda: net(x)):.0f} MiB, ", end="")
    print(f"capture at layer4 {saved(captured):.2f} MiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    memory()
    eigen(args)
    boxes(args)
    speed(args)
