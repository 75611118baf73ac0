"""All methods on photos whose object the network names: where they look, what removal does, time.

    python notebooks/studies/all_methods.py --data PHOTOS_WITH_MASKS --out RUN
        [--photos 100] [--steps 8] [--methods gradcam,rise] [--device cuda]

Of a folder with `index.json` and masks of class numbers it takes photos in which the embedded
EfficientNet-Lite0 names a thing that the mask shows, writes them as a dataset, RUN/photos.csv, and
runs on it what `attnviz benchmark RUN/photos.csv --out RUN` runs: every method of `attnviz methods`
with its own defaults for the predicted class, beside controls that look at nothing. A run that was
stopped goes on. Time is that of `attnviz.explain` with one photo: the median of three.
"""

from __future__ import annotations

import argparse
import io
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import attnviz
from attnviz.benchmark import Settings, Summary, evaluate, from_dataset
from attnviz.data import open_dataset
from attnviz.data.prepared import Prepared
from attnviz.errors import AttnvizWarning
from attnviz.methods import METHODS
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
#: an attention method has nothing to read in a convolutional network
FAMILIES = ("cam", "perturbation", "attribution")


def names(thing: str, index: int, label: str) -> bool:
    """Whether the network's class names a thing of the masks."""
    if thing in RANGES:
        return any(index in part for part in RANGES[thing])
    words = {word.strip() for word in WORDS.get(thing, "").split(",")}
    return any(part.strip().lower() in words for part in label.split(","))


def chosen(data: Path, model: Any, limit: int) -> list[tuple[Path, str, np.ndarray]]:
    """Return paths, things' names and masks (h, w) bool of photos that fit, in drawn order.

    Those of a smaller limit are the first of a larger one, so that a run can be shortened.
    """
    index = json.loads((data / "index.json").read_text(encoding="utf-8"))
    numbers = {name: int(number) for number, name in index["classes"].items()}
    prepare = resolve_preprocess(None, model.module, model)
    labels = labels_of(model.module, model)
    device = next(model.module.parameters()).device
    found = []
    for row in index["images"]:
        with torch.no_grad():
            x = Prepared.read(data / row["image"], prepare).input[None].to(device)
            answer = int(model.module(x).argmax())
        for thing, area in row["area"].items():
            if 0.03 < area < 0.5 and names(thing, answer, labels[answer]):
                mask = np.asarray(Image.open(data / row["mask"])) == numbers[thing]
                found.append((data / row["image"], thing, mask))
                break
    order = np.random.default_rng(0).permutation(len(found))[:limit]
    return [found[i] for i in order]


def as_dataset(rows: list[tuple[Path, str, np.ndarray]], out: Path) -> Path:
    """Write photos.csv with a mask of each photo's thing, and return its path."""
    lines = ["path,label,mask"]
    for number, (path, thing, mask) in enumerate(rows):
        stream = io.BytesIO()
        Image.fromarray(mask.astype(np.uint8) * 255).save(stream, "png")
        name = f"masks/{number:03}.png"
        if not (out / name).exists():  # a mask written anew would count as another
            write_file(out / name, stream.getvalue())
        lines.append(f"{path.resolve()},{thing},{name}")
    write_file(out / "photos.csv", ("\n".join(lines) + "\n").encode(), force=True)
    return out / "photos.csv"


def seconds(model: Any, photos: list[Path], name: str) -> float:
    """Return the seconds that one photo takes, of one thread where they are those of a CPU."""
    device = next(model.module.parameters()).device
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times = []
    for photo in photos:
        start = clock()
        attnviz.explain(model, photo, method=name)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return float(np.median(times))


def table(summary: Summary, times: dict[str, float]) -> str:
    """Return the results as Markdown, best energy first within a family."""
    rows = {t.key: {r.name: r for r in t.rows} for t in summary.tables}
    chance = rows["energy"]["constant"].interval.value

    def cell(metric: str, name: str, unit: float = 1) -> str:
        found = rows[metric][name].interval
        value, low, high = (x / unit for x in (found.value, found.low, found.high))
        return f"{value:.2f} [{low:.2f}, {high:.2f}]"

    lines = [
        "| method | family | energy over chance | deletion (low is good) "
        "| insertion (high is good) | ROAD (low is good) | s per photo |",
        "|---|---|---|---|---|---|---|",
    ]
    order = {f: i for i, f in enumerate((*FAMILIES, "control"))}
    families = {e.name: e.family for e in METHODS}
    kinds = {name: "control" if r.control else families[name] for name, r in rows["energy"].items()}
    # the tables come best first
    for name in sorted(kinds, key=lambda name: order[kinds[name]]):
        spent = f"{times[name]:.2g}" if name in times else ""
        cells = [cell("energy", name, chance)]
        cells += [cell(m, name) for m in ("deletion", "insertion", "road")]
        lines.append(f"| `{name}` | {kinds[name]} | {' | '.join(cells)} | {spent} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the study and write the benchmark's files, times.json and table.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--methods", default="")
    given = parser.parse_args()
    warnings.simplefilter("ignore", AttnvizWarning)
    model = load(None, device=given.device)
    wanted = [w for w in given.methods.split(",") if w]
    methods = wanted or [e.name for e in METHODS if e.family in FAMILIES]
    subjects = from_dataset(open_dataset(as_dataset(chosen(given.data, model, given.photos),
                                                    given.out)))  # fmt: skip
    metrics = ("energy", "deletion", "insertion", "road")
    settings = Settings(tuple(methods), metrics, ("mean",), steps=given.steps)
    summary = evaluate(
        model, subjects, settings, out=given.out, batch_size=given.batch_size,
        step=lambda done: print(done.id, done.error or "", flush=True),
    )  # fmt: skip
    photos = [Path(s.id) for s in subjects[:3]]
    times = {name: seconds(model, photos, name) for name in summary.plan["methods"]}
    write_file(given.out / "times.json", json.dumps(times, indent=1).encode(), force=True)
    write_file(given.out / "table.md", table(summary, times).encode(), force=True)


if __name__ == "__main__":
    main()
