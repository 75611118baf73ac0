"""Our overlays beside those of pytorch-grad-cam and torchcam, on photos of yours.

    python notebooks/studies/contact_sheet.py PHOTO... --out sheet.png

Grad-CAM of the embedded EfficientNet-Lite0's predicted class at its last feature layer, drawn by
each package as its own README does it. The peers are optional (`uv sync --group peers`); a column
whose package is missing stays away. It also prints what each package left behind in the model.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

import attnviz
from attnviz.render.text import font, line_height, shorten
from attnviz.render.tiles import fit

SIDE, GAP, BLOCKS = 230, 8, 2


def ours(loaded, photo, layer):
    """The picture, and the class explained."""
    maps = attnviz.explain(loaded, photo, layer=layer)
    return np.asarray(maps.overlay(0)), maps.target[0], f"{maps.label[0]} {maps.probability[0]:.0%}"


def gradcam_package(net, photo, tensor, cls, layer):
    """As in pytorch-grad-cam's README: over the picture that the network was given."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.image import show_cam_on_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with GradCAM(model=net, target_layers=[net.get_submodule(layer)]) as cam:
        values = cam(input_tensor=tensor[None], targets=[ClassifierOutputTarget(cls)])[0]
    seen = ((tensor + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()
    return show_cam_on_image(seen, values, use_rgb=True)


def torchcam_package(net, photo, tensor, cls, layer):
    """As in torchcam's README: the whole photo is resized to the input, the map over the photo."""
    from torchcam.methods import GradCAM
    from torchcam.utils import overlay_mask
    from torchvision.transforms.v2.functional import pil_to_tensor, resize, to_pil_image

    image = Image.fromarray(photo)
    squeezed = resize(pil_to_tensor(image), [tensor.shape[-1]] * 2).float() / 127.5 - 1
    with GradCAM(net, target_layer=layer) as cam:
        out = net(squeezed[None].requires_grad_())
        values = cam(cls, out)[0]
    return np.asarray(overlay_mask(image, to_pil_image(values, mode="F"), alpha=0.5))


PEERS = {
    "pytorch-grad-cam": ("pytorch_grad_cam", gradcam_package),
    "torchcam": ("torchcam", torchcam_package),
}


def left_behind(net, run):
    """What a run changed of a model in training mode: modes, gradients, hooks."""
    for parameter in net.parameters():
        parameter.grad = None
    net.train()
    run()
    changed = []
    if not net.training:
        changed.append("evaluation mode")
    if any(p.grad is not None for p in net.parameters()):
        changed.append("gradients in .grad")
    if any(m._forward_hooks or m._backward_hooks for m in net.modules()):
        changed.append("hooks")
    net.eval()
    return ", ".join(changed) or "nothing"


def sheet(photos, layer="bn2"):
    """Return the contact sheet of some photos."""
    loaded = attnviz.load()
    net = loaded.module.eval()
    peers = {}
    for name, (module, draw) in PEERS.items():
        try:
            importlib.import_module(module)
            peers[name] = draw
        except Exception as error:
            print(f"{name} does not import: {type(error).__name__}: {error}")
    columns = ["photo", "attnviz", *peers]
    rows = []
    for path in photos:
        photo = attnviz.read_image(path)
        tensor, _ = loaded.preprocess(photo)
        drawn, cls, said = ours(loaded, photo, layer)
        pictures = [photo, drawn, *(d(net, photo, tensor, cls, layer) for d in peers.values())]
        rows.append((f"{Path(path).stem}: {said}", pictures))
    photo = attnviz.read_image(photos[0])
    tensor, _ = loaded.preprocess(photo)
    print("attnviz leaves:", left_behind(net, lambda: ours(loaded, photo, layer)))
    for name, draw in peers.items():
        print(f"{name} leaves:", left_behind(net, lambda d=draw: d(net, photo, tensor, 0, layer)))
    return laid_out(rows, columns)


def laid_out(rows, columns):
    """Rows of pictures under the names of their columns, in blocks side by side."""
    blocks = min(BLOCKS, len(rows))
    deep = -(-len(rows) // blocks)
    across, head = len(columns) * (SIDE + GAP), line_height(13) + GAP
    tall = SIDE + line_height(12) + GAP
    page = Image.new("RGB", (blocks * across + GAP, head + deep * tall), "white")
    draw = ImageDraw.Draw(page)
    for block in range(blocks):
        for at, name in enumerate(columns):
            x = GAP + block * across + at * (SIDE + GAP)
            draw.text((x, GAP), name, font=font(13, bold=True), fill="black")
    for number, (said, pictures) in enumerate(rows):
        block, row = divmod(number, deep)
        x, y = GAP + block * across, head + row * tall
        draw.text((x, y), shorten(said, 12, across - GAP), font=font(12), fill="black")
        for at, picture in enumerate(pictures):
            small = fit(np.ascontiguousarray(picture), SIDE)
            page.paste(Image.fromarray(small), (x + at * (SIDE + GAP), y + line_height(12)))
    return page


def main(words=None):
    """Draw the sheet that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("sheet.png"))
    given = parser.parse_args(words)
    torch.manual_seed(0)
    sheet(given.photos).save(given.out)
    print(given.out)


if __name__ == "__main__":
    main()
