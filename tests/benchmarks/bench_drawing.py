"""What drawing costs, as CPU-time ratios in one process, interleaved; medians, one thread.

    python tests/benchmarks/bench_drawing.py [--rounds 200]

The base is OpenCV's own uint8 overlay: resize, applyColorMap, addWeighted with one opacity. Ours
also desaturates the photo and gives each pixel its own opacity.
"""

import argparse
import statistics
import time

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from attnviz.geometry import Geometry
from attnviz.heatmaps import Heatmaps
from attnviz.render import overlay
from attnviz.render.overlay import blend_on_device, packed_table


def runs(side):
    """Return {name: what to time} for one photo of side x side pixels and a 7 x 7 map."""
    photo = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    values = np.random.default_rng(1).random((7, 7), dtype=np.float32)
    maps = Heatmaps(
        torch.from_numpy(values)[None], "cam", "", (0,), ("",), torch.ones(1), None, (photo,)
    )
    batch = torch.from_numpy(photo).permute(2, 0, 1)[None].contiguous()
    lut = packed_table("inferno", False, 0.75, 0.7)
    whole = Geometry.identity(side, side)

    def base():
        index = cv2.convertScaleAbs(cv2.resize(values, (side, side)), alpha=255)
        return cv2.addWeighted(photo, 0.5, cv2.applyColorMap(index, cv2.COLORMAP_INFERNO), 0.5, 0)

    table = {
        "OpenCV": base,
        "attnviz overlay": lambda: overlay(photo, values),
        "Heatmaps.overlay": lambda: maps.overlay(),
        "torch path": lambda: blend_on_device(batch, maps.values, whole, False, lut, 0.7),
        "Heatmaps.panel": lambda: maps.panel(),
    }
    try:
        from pytorch_grad_cam.utils.image import show_cam_on_image
    except ImportError:
        pass
    else:
        floats = photo.astype(np.float32) / 255
        table["pytorch-grad-cam"] = lambda: show_cam_on_image(
            floats, cv2.resize(values, (side, side)), use_rgb=True
        )
    try:
        from torchcam.utils import overlay_mask
    except ImportError:
        pass
    else:
        picture, mask = Image.fromarray(photo), to_pil_image(torch.from_numpy(values))
        table["torchcam"] = lambda: overlay_mask(picture, mask)
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for side in (224, 1024):
        table = runs(side)
        times = {name: [] for name in table}
        for run in table.values():
            run()
        for _ in range(max(5, rounds * 224 // side)):
            for name, run in table.items():
                start = time.process_time()
                run()
                times[name].append(time.process_time() - start)
        base = statistics.median(times["OpenCV"])
        for name, seconds in times.items():
            median = statistics.median(seconds)
            print(f"{side:5} px  {name:18} {median * 1e3:8.2f} ms  {median / base:6.2f}")


if __name__ == "__main__":
    main()
