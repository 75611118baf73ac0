"""Does erasing or pooling localise better than plain CAM? The table, with paired intervals.

    python notebooks/studies/localising.py --data PHOTOS_WITH_MASKS --out RUN
        [--seeds 3] [--folds 2]

Photos that show one kind of thing are classified by the embedded EfficientNet-Lite0, trained from
labels alone by `guidance.fit`, as `attnviz guide --loss none --erasing ... --pooling ...` does, in
its tail. What the frozen part computes is kept, so the schemes that hide parts of the picture hide
parts of its features (7 x 7). The map is the CAM of the true class (patch scores, for pooling
heads; the larger of two, for ACoL). One variant goes on from the trained plain one: erasing at test
time. A share of each fold's held-out photos chooses the box threshold (MaxBoxAccV2), and between
the variants for the row "chosen"; the rest is measured, once.

By a loop of its own, which trained one block more (271 scenes of 14 classes, 3 seeds x 2 folds;
MaxBoxAccV2 and PxAP less CAM's 50.8 and 64.2): better in both were LSE pooling (+2.6, +6.2),
CutMix (+2.7, +2.2) and top-k pooling (+1.3, +3.0); ACoL (+4.1) and attention-MIL (+1.9) in PxAP
only; erasing at test time changed nothing; hide-and-seek, ADL, EIL, SeeNet, the cascade and maximum
pooling were worse. A blob in the middle, which looks at nothing, has 53.2 and 67.6: these objects
are large and central.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from study.local_table import table
from torch import Tensor, nn

from attnviz.erasing import ACoL, erase, top_region
from attnviz.errors import DataError
from attnviz.guidance import class_map, fit, new_head
from attnviz.guidance.pooling import PooledModel
from attnviz.models import load
from attnviz.models.outputs import logits_of
from attnviz.writing import write_file

SIZE = 224
#: maps are measured on a grid of so many pixels a side, at so many thresholds
GRID, THRESHOLDS = 112, 34
#: what may be the one thing in a photo; the rest is ground
THINGS = (
    *("cow", "sheep", "aeroplane", "car", "bicycle", "flower", "sign", "bird", "book", "chair"),
    *("cat", "dog", "boat", "face"),
)


@dataclass(frozen=True, eq=False)
class Photos:
    """Photos of one thing each, as examples for `fit`.

    Attributes:
        images: (N, 3, H, W), preprocessed.
        labels: (N,).
        masks: (N, h, w) bool, where the thing is.
        boxes: per photo (n, 4), around its connected parts.
        classes: names.
        flip: mirror at random when asked for by number.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    boxes: list[Tensor]
    classes: tuple[str, ...]
    flip: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.example(i, mirrored=self.flip and bool(torch.rand(()) < 0.5))

    def example(self, i: int, *, mirrored: bool = False) -> tuple[Tensor, int]:
        """Return one photo and its label, as it is or mirrored."""
        image = self.images[i]
        return image.flip(-1) if mirrored else image, int(self.labels[i])


@dataclass(frozen=True)
class Variant:
    """One way to train and to draw the map: an erasing scheme, a pooling head, or plain CAM.

    Attributes:
        name: as in the table.
        settings: of `fit`.
        mined: goes on from the trained plain network, erasing at test time.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    mined: bool = False


CAM = Variant("cam")
_OPTIONS = {"acol": {"width": 64}, "cascade": {"rounds": 2}}
VARIANTS = (
    CAM,
    *(
        Variant(f"erasing {n}", {"erasing": n, "erasing_options": _OPTIONS.get(n, {})})
        for n in ("has", "cutmix", "adl", "eil", "seenet", "acol", "cascade")
    ),
    Variant("erasing at test time", mined=True),
    Variant("pooling gmp", {"pooling": "gmp"}),
    Variant("pooling lse", {"pooling": "lse", "pooling_options": {"r": 1.0}}),
    Variant("pooling topk", {"pooling": "topk"}),
    Variant("pooling attention-mil", {"pooling": "attention-mil"}),
)
#: what all variants share: a short training on labels
SHARED = {"loss": "none", "exchange": False, "balanced": False, "steps": 80}


def read_photos(data: str | Path, *, things: Sequence[str] = THINGS) -> Photos:
    """Return the photos that show exactly one of `things`, at least 8 of each class."""
    from attnviz.data import open_dataset
    from attnviz.data.prepared import mask_on_input
    from attnviz.metrics.iou import component_boxes
    from attnviz.models import Preprocess

    dataset = open_dataset(data)
    preprocess = Preprocess(resize=(SIZE, SIZE), crop=None, mean=(0.5,) * 3, std=(0.5,) * 3)
    found = []
    for sample in dataset:
        shown = [n for n in things if n in sample.labels]
        if len(shown) == 1 and sample.has_mask(shown[0]):
            found.append((sample, shown[0]))
    counts = {n: sum(name == n for _, name in found) for n in things}
    classes = tuple(n for n in things if counts[n] >= 8)
    found = [(s, n) for s, n in found if n in classes]
    if len(classes) < 2:
        raise DataError(f"too few photos with a single thing: {counts}; 8 of two classes needed")
    images, masks = [], []
    for sample, name in found:
        tensor, geometry = preprocess(sample.read())
        images.append(tensor)
        masks.append(mask_on_input(sample.mask(name), geometry))
    stacked = torch.stack(masks)[:, :: SIZE // GRID, :: SIZE // GRID]
    boxes = [component_boxes(m)[0] for m in stacked]
    labels = torch.tensor([classes.index(n) for _, n in found])
    return Photos(torch.stack(images), labels, stacked, boxes, classes)


def split(labels: Tensor, fold: int, folds: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return indices to train on, to choose the threshold on, and to measure on, by class."""
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    draws = torch.Generator().manual_seed(0)
    for label in labels.unique().tolist():
        own = (labels == label).nonzero()[:, 0]
        own = own[torch.randperm(len(own), generator=draws)].tolist()
        held = [i for k, i in enumerate(own) if k % folds == fold]
        chooses = max(1, round(0.3 * len(held)))
        parts[0].extend(i for k, i in enumerate(own) if k % folds != fold)
        parts[1].extend(held[:chooses])
        parts[2].extend(held[chooses:])
    return tuple(torch.tensor(sorted(p)) for p in parts)


class Rows:
    """Some of the photos, as examples."""

    def __init__(self, photos: Photos, rows: Tensor) -> None:
        self.photos, self.rows, self.flip = photos, rows.tolist(), photos.flip

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.photos[self.rows[i]]

    def example(self, i: int, *, mirrored: bool = False) -> tuple[Tensor, int]:
        """Return one photo and its label, as it is or mirrored."""
        return self.photos.example(self.rows[i], mirrored=mirrored)


def train(variant: Variant, photos: Photos, rows: Tensor, seed: int, **settings: Any) -> nn.Module:
    """Train a variant on the labels of some photos; returns the model in eval mode.

    Args:
        variant: which.
        photos, rows: what to train on.
        seed: of weights and order.
        **settings: of `fit`, instead of those that all share.
    """
    net = new_head(load().module, len(photos.classes), seed=seed)
    # in the features of the frozen part: hiding them in the picture would have it run each time
    hides = {"cache": True} if variant.settings.get("erasing") in ("has", "cutmix") else {}
    chosen = {**SHARED, **hides, **variant.settings, **settings, "seed": seed}
    return fit(net, Rows(photos, rows), **chosen).model.eval()


def draw(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the maps of the classes y, (B, h, w)."""
    rows = torch.arange(len(y))
    with torch.no_grad():
        if isinstance(model, ACoL):
            return model(x, y).maps[rows, y]
        if isinstance(model, PooledModel):
            return model.patch_scores(x)[rows, y]
    return class_map(model, x, y, against=None).maps.detach()


def mined_maps(model: nn.Module, x: Tensor, y: Tensor, *, steps: int = 3) -> Tensor:
    """Return the largest of the maps of `steps` looks, each without the regions of those before.

    All are in the units of the first, so that weak evidence stays weak.
    """
    found = maps = draw(model, x, y)
    left = x
    for _ in range(steps - 1):
        left = erase(left, top_region(maps, tuple(x.shape[-2:]), 0.6), fill="mean")
        maps = draw(model, left, y)
        found = torch.maximum(found, maps)
    return found


def measure(maps: Tensor, photos: Photos, choosing: Tensor, testing: Tensor) -> dict[str, Any]:
    """Return figures of maps (N, h, w), image by image; box thresholds come from `choosing`."""
    from attnviz.metrics import maxboxacc_v2, pooled_pxap, pxap

    size = tuple(photos.masks.shape[-2:])

    def overlaps(rows: Tensor) -> Any:
        boxes = [photos.boxes[i] for i in rows.tolist()]
        return maxboxacc_v2(maps[rows], boxes, size=size, thresholds=THRESHOLDS)

    chooser = overlaps(choosing)
    best = chooser.accuracies().argmax(0)
    tested = overlaps(testing)
    hits = torch.stack(
        [(tested.overlap[:, b] >= r).double() for b, r in zip(best, tested.required, strict=True)],
        1,
    )
    large = F.interpolate(maps[testing][:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return {
        "rows": testing.tolist(),
        "choosing": chooser.summary(),
        "maxbox": hits.mean(1).tolist(),
        "pxap": pxap(large, photos.masks[testing]).values.tolist(),
        "pooled_pxap": pooled_pxap(large, photos.masks[testing]).summary(),
    }


def _centre(photos: Photos) -> Tensor:
    """The control: a blob in the middle of every picture."""
    axis = torch.linspace(-1, 1, 7)
    return (-(axis[:, None] ** 2) - axis[None] ** 2).exp().expand(len(photos), 7, 7)


def run(
    data: str | Path, out: str | Path, *, seeds: int = 3, folds: int = 2, say: Any = print
) -> str:
    """Run variants x seeds x folds, write `localisation.jsonl` and `localisation.md`."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / "localisation.jsonl"
    rows = []
    if journal.exists():
        rows = [json.loads(t) for t in journal.read_text(encoding="utf-8").splitlines() if t]
    done = {(r["variant"], r["fold"], r["seed"]) for r in rows}
    photos = read_photos(data)
    say(f"{len(photos)} photos of {len(photos.classes)} classes: {', '.join(photos.classes)}")
    for seed in range(seeds):
        for fold in range(folds):
            parts = split(photos.labels, fold, folds)
            plain: nn.Module | None = None
            for variant in (*VARIANTS, Variant("centre")):
                if (variant.name, fold, seed) in done:
                    continue
                if variant.mined and plain is None:
                    plain = train(CAM, photos, parts[0], seed)
                model, row = _one(variant, photos, parts, seed, plain)
                plain = model if variant == CAM else plain
                rows.append({"variant": variant.name, "fold": fold, "seed": seed} | row)
                with journal.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                mean = sum(row["maxbox"]) / len(row["maxbox"])
                say(f"fold {fold} seed {seed} {variant.name:24} {100 * mean:.1f}")
    text = table(rows)
    write_file(folder / "localisation.md", text + "\n", force=True)
    say(text)
    return text


def _one(
    variant: Variant, photos: Photos, parts: Sequence[Tensor], seed: int, plain: nn.Module | None
) -> tuple[nn.Module | None, dict[str, Any]]:
    """Train and measure one variant; only held-out photos are drawn."""
    training, choosing, testing = parts
    if variant.name == "centre":
        return None, {"accuracy": None} | measure(_centre(photos), photos, choosing, testing)
    model = plain if variant.mined else train(variant, photos, training, seed)
    held = torch.cat([choosing, testing])
    look = mined_maps if variant.mined else draw
    drawn = torch.cat([look(model, photos.images[r], photos.labels[r]) for r in held.split(16)])
    maps = drawn.new_zeros(len(photos), *drawn.shape[-2:])
    maps[held] = drawn
    right = _accuracy(model, photos, testing)
    return model, {"accuracy": right} | measure(maps, photos, choosing, testing)


@torch.no_grad()
def _accuracy(model: nn.Module, photos: Photos, rows: Tensor) -> float:
    right = [
        logits_of(model(photos.images[r])).argmax(1) == photos.labels[r] for r in rows.split(16)
    ]
    return float(torch.cat(right).float().mean())


def main(words: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=2)
    options = parser.parse_args(words)
    run(options.data, options.out, seeds=options.seeds, folds=options.folds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
