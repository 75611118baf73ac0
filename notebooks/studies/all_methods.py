"""All methods on photos whose object the network names: where they look, what removal does, time.

    python notebooks/studies/all_methods.py --data PHOTOS_WITH_MASKS --out RUN
        [--photos 40] [--device cuda] [--methods gradcam,rise]

Photos of the folder (`index.json`, masks of class numbers) in which the embedded EfficientNet-Lite0
names a thing that the mask shows. Every method of `attnviz methods` is run by `attnviz.explain`
with its own defaults, one photo at a time, for the predicted class, beside controls that look at
nothing. Energy is the share of the map's positive part inside the thing's mask, over the share
that a constant map has; deletion and insertion are the areas under the probability's curves with
the mean colour as baseline. Intervals are bootstrapped over photos.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import attnviz
from attnviz.data.prepared import Prepared, mask_on_input
from attnviz.errors import AttnvizError, AttnvizWarning
from attnviz.methods import METHODS
from attnviz.metrics import bootstrap, control_maps, deletion, energy, insertion
from attnviz.models import labels_of, load, resolve_preprocess
from attnviz.writing import write_file

#: what the masks call a thing -> words, one of which the network's label holds as a whole
WORDS = {
    "cow": "ox, water buffalo, bison",
    "sheep": "ram, bighorn, ibex, llama, hog",
    "aeroplane": "airliner, warplane, wing, airship",
    "car": "sports car, convertible, beach wagon, racer, cab, minivan, pickup, limousine, jeep, "
    "model t, grille, car wheel, passenger car",
    "bicycle": "mountain bike, bicycle-built-for-two, unicycle, tricycle",
    "cat": "tabby, tiger cat, egyptian cat, persian cat, siamese cat",
    "boat": "speedboat, lifeboat, canoe, fireboat, gondola, catamaran, trimaran, schooner, yawl, "
    "container ship, liner",
    "sign": "street sign, traffic light",
    "flower": "daisy, yellow lady's slipper",
    "chair": "folding chair, rocking chair, throne, barber chair, studio couch",
    "book": "bookcase, bookshop, comic book, library",
}
#: ImageNet's dogs and birds are ranges of classes
RANGES = {"dog": [range(151, 269)], "bird": [range(7, 25), range(80, 101), range(127, 147)]}
#: these go last, so that a run that is stopped has the others
SLOW = ("extremal", "iscam", "sscam")
#: an attention method has nothing to read in a convolutional network
FAMILIES = ("cam", "perturbation", "attribution")


def names(thing: str, index: int, label: str) -> bool:
    """Whether the network's class names a thing of the masks."""
    if thing in RANGES:
        return any(index in part for part in RANGES[thing])
    words = {word.strip() for word in WORDS.get(thing, "").split(",")}
    return any(part.strip().lower() in words for part in label.split(","))


def chosen(data: Path, model: Any, device: str, limit: int) -> tuple[Tensor, Tensor, list[str]]:
    """Return inputs (N, 3, H, W), masks (N, H, W) bool and things' names of photos that fit."""
    index = json.loads((data / "index.json").read_text(encoding="utf-8"))
    numbers = {name: int(number) for number, name in index["classes"].items()}
    prepare = resolve_preprocess(None, model.module, model)
    labels = labels_of(model.module, model)
    inputs, masks, things = [], [], []
    for row in index["images"]:
        prepared = Prepared.read(data / row["image"], prepare)
        with torch.no_grad():
            answer = int(model.module(prepared.input[None].to(device)).argmax())
        for thing, area in row["area"].items():
            if 0.03 < area < 0.5 and names(thing, answer, labels[answer]):
                mask = np.asarray(Image.open(data / row["mask"])) == numbers[thing]
                inputs.append(prepared.input)
                masks.append(torch.as_tensor(mask_on_input(mask, prepared.geometry)) > 0.5)
                things.append(thing)
                break
    # spread over the folder, which is ordered by thing
    pick = np.linspace(0, len(inputs) - 1, min(limit, len(inputs))).round().astype(int)
    return (
        torch.stack([inputs[i] for i in pick]),
        torch.stack([masks[i] for i in pick]),
        [things[i] for i in pick],
    )


def measured(module: Any, x: Tensor, masks: Tensor, maps: Tensor, target: list[int]) -> dict:
    """Return each metric's value and interval over the photos."""
    found = {"energy": energy(maps, masks)}
    size = tuple(x.shape[-2:])
    full = torch.nn.functional.interpolate(
        maps[:, None].float(), size, mode="bilinear", align_corners=False
    )[:, 0]
    found["deletion"] = deletion(module, x, full, target)
    found["insertion"] = insertion(module, x, full, target)
    rows: dict[str, Any] = {}
    for name, scores in found.items():
        interval = bootstrap(scores)
        rows[name] = [interval.value, interval.low, interval.high]
    ratio = found["energy"].extra["ratio"].double().cpu()
    rows["over_chance"] = float(ratio[ratio.isfinite()].mean())
    return rows


def one_method(model: Any, x: Tensor, name: str, target: list[int]) -> tuple[Tensor, float]:
    """Return maps (N, h, w) and the seconds that one photo takes, the first left out."""
    maps, times = [], []
    for image, cls in zip(x, target, strict=True):
        start = time.perf_counter()
        made = attnviz.explain(model, image[None], target=[cls], method=name)
        maps.append(made.values)
        if x.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return torch.cat(maps), float(np.median(times[1:] or times))


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as Markdown, best energy first within a family."""

    def cell(values: list[float]) -> str:
        value, low, high = values
        return f"{value:.3f} [{low:.3f}, {high:.3f}]"

    lines = [
        "| method | family | energy over chance | energy | deletion (low is good) "
        "| insertion (high is good) | s per photo |",
        "|---|---|---|---|---|---|---|",
    ]
    order = {f: i for i, f in enumerate((*FAMILIES, "control"))}
    for row in sorted(rows, key=lambda r: (order[r["family"]], -r["over_chance"])):
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.3g}"
        lines.append(
            f"| `{row['method']}` | {row['family']} | {row['over_chance']:.2f} | "
            f"{cell(row['energy'])} | {cell(row['deletion'])} | {cell(row['insertion'])} | "
            f"{seconds} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the study and write results.json and table.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--methods", default="")
    given = parser.parse_args()
    warnings.simplefilter("ignore", AttnvizWarning)
    model = load(None, device=given.device)
    x, masks, things = chosen(given.data, model, given.device, given.photos)
    x = x.to(given.device)
    masks = masks.to(given.device)
    with torch.no_grad():
        target = model.module(x).argmax(1).tolist()
    wanted = [w for w in given.methods.split(",") if w]
    entries = [e for e in METHODS if e.family in FAMILIES and (not wanted or e.name in wanted)]
    entries.sort(key=lambda e: e.name in SLOW)
    rows: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    controls = control_maps(x, masks)
    for name, maps in controls.items():
        rows.append({"method": name, "family": "control", "seconds": None}
                    | measured(model.module, x, masks, maps, target))  # fmt: skip
    for entry in entries:
        try:
            maps, seconds = one_method(model, x, entry.name, target)
        except AttnvizError as error:
            refused[entry.name] = str(error)
            continue
        rows.append({"method": entry.name, "family": entry.family, "seconds": seconds}
                    | measured(model.module, x, masks, maps, target))  # fmt: skip
        print(f"{entry.name}: {rows[-1]['over_chance']:.2f}, {seconds:.3g} s", flush=True)
        # written anew after every method, so that a run that is stopped has what it has
        result = {"photos": len(x), "things": things, "device": given.device, "rows": rows,
                  "refused": refused}  # fmt: skip
        given.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(result, indent=1)
        write_file(given.out / "results.json", text.encode(), force=True)
        write_file(given.out / "table.md", table(rows).encode(), force=True)


if __name__ == "__main__":
    main()
