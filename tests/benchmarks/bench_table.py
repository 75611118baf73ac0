"""What users wait for beside floors and peers, as ratios of CPU time in one process; one thread.

    python tests/benchmarks/bench_table.py [--rounds 30]

Runs of a row are interleaved; a ratio is of the minima, its quartiles over the rounds. Attention,
guidance and metrics have benchmarks of their own beside this one.
"""

import argparse
import io
import statistics
import time

import cv2
import numpy as np
import timm
import torch
from PIL import Image
from torchvision.models import resnet18

import attnviz
from attnviz.images import picture_bytes
from attnviz.render import overlay


def grad_cam(prefix, tail, x):
    """Grad-CAM by hand: the prefix without a graph, the tail with one."""
    with torch.no_grad():
        a = prefix(x)
    a = a.detach().requires_grad_()
    logits = tail(a)
    (g,) = torch.autograd.grad(logits.gather(1, logits.argmax(1, keepdim=True)).sum(), a)
    return (g.mean((2, 3), keepdim=True) * a.detach()).sum(1).relu()


def fixed_cost():
    """Yield rows: a small call beside what it cannot do without."""
    net, x = resnet18().eval(), torch.randn(1, 3, 64, 64)
    parts = list(net.children())
    prefix = torch.nn.Sequential(*parts[:-2])
    ours = lambda: attnviz.explain(net, x)  # noqa: E731
    floor = lambda: grad_cam(prefix, lambda a: net.fc(net.avgpool(a).flatten(1)), x)  # noqa: E731
    yield "Grad-CAM, ResNet-18, 64 px, batch 1 / floor (bar 1.05)", ours, floor
    try:
        from pytorch_grad_cam import GradCAM

        peer = GradCAM(net, [net.layer4])
        yield "  the same, pytorch-grad-cam / ours", lambda: peer(x, None), ours
    except ImportError:
        pass
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32).eval()
    y = torch.randn(1, 3, 32, 32)

    def plain():
        with torch.no_grad():
            vit(y)

    yield (
        "Grad-CAM, ViT-tiny, 32 px / plain forward (bar 1.5)",
        lambda: attnviz.explain(vit, y),
        plain,
    )


def batches():
    """Yield rows: 32 photos of 224 px in the batches chosen, and in one."""
    net = timm.create_model("tf_efficientnet_lite0").eval()
    x = torch.randn(32, 3, 224, 224)
    yield (
        "32 photos, batches chosen / one batch of 32",
        lambda: attnviz.explain(net, x),
        lambda: attnviz.explain(net, x, batch_size=32),
    )


def pictures():
    """Yield rows: overlay beside pytorch-grad-cam, PNG beside OpenCV and Pillow."""
    for side in (224, 1024):
        y, x = np.mgrid[:side, :side] / side
        photo = np.stack([x * 255, y * 255, 127 + 120 * np.sin(40 * x * y)], -1).astype(np.uint8)
        values = np.random.default_rng(1).random((7, 7), dtype=np.float32)
        drawn = overlay(photo, values)
        try:
            from pytorch_grad_cam.utils.image import show_cam_on_image

            floats = photo.astype(np.float32) / 255

            def peer(floats=floats, values=values, side=side):
                show_cam_on_image(floats, cv2.resize(values, (side, side)), use_rgb=True)

            ours = lambda photo=photo, values=values: overlay(photo, values)  # noqa: E731
            yield f"overlay, {side} px / pytorch-grad-cam's (bar 1)", ours, peer
        except ImportError:
            pass
        png = lambda drawn=drawn: picture_bytes(drawn, ".png")  # noqa: E731
        yield (
            f"PNG, {side} px / OpenCV's",
            png,
            lambda drawn=drawn: cv2.imencode(".png", drawn),
        )
        yield (
            f"PNG, {side} px / Pillow's level 4",
            png,
            lambda drawn=drawn: Image.fromarray(drawn).save(io.BytesIO(), "PNG", compress_level=4),
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for rows, share in ((fixed_cost, 1.0), (pictures, 1.0), (batches, 0.1)):
        for name, ours, base in rows():
            times = ([], [])
            ours(), base()
            for _ in range(max(2, round(rounds * share))):
                for run, kept in zip((ours, base), times, strict=True):
                    start = time.process_time()
                    run()
                    kept.append(time.process_time() - start)
            low, _, high = statistics.quantiles([a / b for a, b in zip(*times, strict=True)], n=4)
            ratio = min(times[0]) / min(times[1])
            print(
                f"{name:56} {ratio:6.2f}   {low:.2f} to {high:.2f}   {min(times[0]) * 1e3:8.2f} ms"
            )


if __name__ == "__main__":
    main()
