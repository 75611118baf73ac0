from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import attnviz.metrics as am
from attnviz.benchmark import (
    Runner,
    Settings,
    Store,
    duration,
    evaluate,
    from_dataset,
    from_photos,
    lines,
)
from attnviz.benchmark.export import values_csv
from attnviz.benchmark.subjects import object_mask
from attnviz.data import Sample, open_dataset
from attnviz.data.prepared import Prepared, boxes_on_input, mask_on_input
from attnviz.errors import (
    DataError,
    ImageError,
    MethodError,
    MetricError,
    OutputExists,
    TargetError,
)
from attnviz.explaining import explain
from attnviz.geometry import Geometry
from attnviz.models import LoadedModel, Preprocess


class Blobs(nn.Module):
    """GAP + linear on two channels of 8 x 8 px cells: reads red and green."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.AvgPool2d(8)
        self.features = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.pool(self.relu(self.features(self.cells(x)))).flatten(1))


def prepare(size: int = 32) -> Preprocess:
    return Preprocess(
        resize=(size, size),
        crop=(size, size),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        interpolation="bilinear",
    )


@pytest.fixture
def loaded() -> LoadedModel:
    torch.manual_seed(0)
    model = Blobs().eval()
    with torch.no_grad():
        model.features.bias.fill_(0.5)
    return LoadedModel(model, "blobs", prepare(), ("red", "green", "blue"))


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "photos"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(5):
        pixels = draw.integers(0, 255, (4, 5, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((50, 40), Image.Resampling.BILINEAR)
        picture.save(folder / f"{number}.png")
    return sorted(folder.iterdir())


SETTINGS = {
    "methods": ("gradcam", "layercam"),
    "metrics": ("deletion", "insertion", "road", "gini"),
    "steps": 4,
    "check_steps": 2,
}


class Count:
    """Counts images through a model."""

    def __init__(self, model: nn.Module) -> None:
        self.images = 0
        self._handle = model.register_forward_hook(self)

    def __call__(self, module, inputs, output):
        self.images += len(inputs[0])

    def __enter__(self) -> Count:
        self.images = 0
        return self

    def __exit__(self, *error):
        self._handle.remove()


def test_values_are_the_metrics_own(loaded, photos, tmp_path):
    summary = evaluate(loaded, from_photos(photos), Settings(**SETTINGS), out=tmp_path / "out")
    # by another way: photos prepared here, one metric after the other
    x = torch.stack([prepare()(np.asarray(Image.open(p)))[0] for p in photos])
    with torch.no_grad():
        target = loaded.module(x).argmax(1).tolist()
    tables = {t.key: t for t in summary.tables}
    assert list(tables) == ["deletion", "insertion", "road", "gini"]
    for method in SETTINGS["methods"]:
        maps = explain(loaded.module, x, method=method, target=target).values
        expected = {
            "deletion": am.deletion(loaded.module, x, maps, target, steps=4),
            "insertion": am.insertion(loaded.module, x, maps, target, steps=4),
            "road": am.road(loaded.module, x, maps, target),
            "gini": am.gini(maps),
        }
        for key, scores in expected.items():
            row = next(r for r in tables[key].rows if r.name == method)
            assert row.interval.value == pytest.approx(scores.summary(), abs=1e-5), key
            assert tables[key].protocol == str(scores.protocol)
    assert [r.name for r in tables["gini"].rows][-5:] == [
        "random",
        "centre",
        "edge",
        "constant",
        "blurred image",
    ]
    order = [r.interval.value for r in tables["insertion"].rows if not r.control]
    assert order == sorted(order, reverse=True)
    assert tables["gini"].higher_is_better is None
    assert all(r.beats is None for r in tables["gini"].rows)
    # the ranking is checked over the four baselines, for the curves only
    assert set(tables["deletion"].ranking.orders) == {"mean", "zero", "blur", "imputed"}
    assert tables["road"].ranking is None
    text = "\n".join(lines(summary))
    assert "deletion (lower is better)  del[softmax, mean, 4 steps, pixel]" in text
    assert "over the baselines: " in text
    assert "5 images cannot show a difference in 11 tests: at least 9 are needed" in text


def test_cost_is_what_passes_through_the_model(loaded, photos, tmp_path):
    settings = Settings(
        ("gradcam", "hirescam"),
        ("deletion", "insertion", "lerf", "road", "average_drop", "saco", "gini"),
        steps=5,
        check_steps=3,
    )
    runner = Runner(loaded, from_photos(photos), settings)
    cost = runner.cost()
    store = Store(tmp_path / "results.jsonl", runner.plan())
    with Count(loaded.module) as count:
        done = list(runner.run(store))
    assert len(done) == 5
    # the two methods' maps and the prediction are of one forward pass; the constant control has no
    # groups for SaCo to remove
    assert count.images == 5 * (cost.forwards - 10)
    assert cost.explanations == {"gradcam": 1, "hirescam": 1}
    assert cost.imputations > 0
    assert cost.as_dict(5)["forwards"] == 5 * cost.forwards
    assert "forward passes" in cost.describe(5)
    assert duration(59.4) == "59 s"
    assert duration(200) == "3 min 20 s"
    assert duration(7500) == "2 h 5 min"


def test_a_stopped_run_goes_on_where_it_stopped(loaded, photos, tmp_path):
    settings = Settings(**SETTINGS)
    whole = evaluate(loaded, from_photos(photos), settings, out=tmp_path / "whole")

    class Stopped(Exception):
        pass

    seen = []

    def stop(done):
        seen.append(done.id)
        if len(seen) == 2:
            raise Stopped

    out = tmp_path / "part"
    runner = Runner(loaded, from_photos(photos), settings)
    runner.chunk = 2
    store = Store(out / "results.jsonl", runner.plan())
    with pytest.raises(Stopped):
        for done in runner.run(store, out / "pictures"):
            stop(done)
    results = out / "results.jsonl"
    with results.open("a") as file:  # killed while it wrote a line
        file.write('{"id": "half a li')
    with Count(loaded.module) as count:
        summary = evaluate(loaded, from_photos(photos), settings, out=out)
    forwards = runner.cost().forwards
    assert count.images < 3 * forwards + 3 + 20  # three images, and a few to set up
    assert len(results.read_text().splitlines()) == 2 + 5
    for one, other in zip(summary.tables, whole.tables, strict=True):
        for a, b in zip(one.rows, other.rows, strict=True):
            assert (a.name, a.skipped) == (b.name, b.skipped)
            assert a.interval.value == pytest.approx(b.interval.value, abs=1e-6)
    # finished: nothing is judged again, the summary is made from the file
    with Count(loaded.module) as count:
        again = evaluate(loaded, from_photos(photos), settings, out=out)
    assert count.images < 20
    assert again.tables == summary.tables


def test_a_changed_photo_is_judged_again_and_new_ones_are_added(loaded, photos, tmp_path):
    settings = Settings(**SETTINGS | {"metrics": ("gini",)})
    out = tmp_path / "out"
    before = evaluate(loaded, from_photos(photos[:3]), settings, out=out)
    Image.new("RGB", (50, 40), (250, 10, 10)).save(photos[1])
    os.utime(photos[1], ns=(1, 1))
    after = evaluate(loaded, from_photos(photos), settings, out=out)
    assert len(before.images) == 3
    assert len(after.images) == 5
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [r["id"] for r in rows if "id" in r].count(str(photos[1])) == 2
    assert [r["id"] for r in rows if "id" in r].count(str(photos[0])) == 1


def test_results_of_another_comparison_are_not_mixed_in(loaded, photos, tmp_path):
    out = tmp_path / "out"
    gini = SETTINGS | {"metrics": ("gini",)}
    evaluate(loaded, from_photos(photos), Settings(**gini), out=out)
    other = Settings(**gini | {"seed": 1})
    with pytest.raises(OutputExists, match="another comparison \\(other settings\\)"):
        evaluate(loaded, from_photos(photos), other, out=out)
    evaluate(loaded, from_photos(photos), other, out=out, force=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "results.jsonl").write_text("precious notes\n")
    with pytest.raises(DataError, match="no file of this command"):
        evaluate(loaded, from_photos(photos), other, out=tmp_path / "mine")
    assert (tmp_path / "mine" / "results.jsonl").read_text() == "precious notes\n"


def test_unreadable_photos_and_methods_that_do_not_apply(loaded, photos, tmp_path):
    broken = photos[0].with_name("broken.png")
    broken.write_bytes(b"not a picture")
    settings = Settings(("gradcam", "cam"), ("gini",))

    class NoGap(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Conv2d(3, 4, 8, 8)
            self.hidden = nn.Linear(64, 8)
            self.out = nn.Linear(8, 3)

        def forward(self, x):
            return self.out(self.hidden(self.features(x).flatten(1)).relu())

    other = LoadedModel(NoGap().eval(), "no gap", prepare())
    seen = []
    summary = evaluate(
        other, from_photos([broken, *photos]), settings, out=tmp_path / "out", step=seen.append
    )
    assert list(summary.failed) == [str(broken)]
    assert [d.error is None for d in seen] == [False, *[True] * 5]
    assert len(summary.images) == 5
    assert list(summary.refused) == ["cam"]
    assert "cam was left out: " in "\n".join(lines(summary))
    with pytest.raises(MethodError, match="none of the methods applies"):
        Runner(other, from_photos(photos), Settings(("cam",), ("gini",)))
    with pytest.raises(ImageError, match="none of 1 images can be read"):
        Runner(other, from_photos([broken]), settings)
    with pytest.raises(TargetError, match="3 classes"):
        Runner(other, from_photos(photos), Settings(("gradcam",), ("gini",), target=7))


def test_a_negative_value_stays_a_number_beside_names_that_are_made_safe():
    row = {"target": 0, "label": "=1+1"}
    store = SimpleNamespace(
        rows={"-x.png": row},
        results=lambda image: {"m": {"gradcam": {"value": -0.25}}},
        protocols={},
    )
    text = values_csv(SimpleNamespace(images=["-x.png"]), store)
    (line,) = csv.DictReader(text.splitlines())
    assert float(line["value"]) == -0.25
    assert (line["image"], line["label"]) == ("'-x.png", "'=1+1")


def test_a_name_that_a_spreadsheet_would_run_and_one_that_is_no_text(loaded, photos, tmp_path):
    names = ["=cmd|' 'A0", "caf\udce9"]
    subjects = [Sample(n, p) for n, p in zip(names, photos, strict=False)]
    named = replace(loaded, labels=("=1+1", "@x", "-2+3"))
    out = tmp_path / "out"
    evaluate(named, subjects, Settings(("gradcam",), ("gini",)), out=out)
    with (out / "values.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {r["image"] for r in rows} == {"'=cmd|' 'A0", "caf\\udce9"}
    assert {r["label"][:2] for r in rows} <= {"'=", "'@", "'-"}
    kept = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert kept["images"] == 2
    lines = (out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert {*names} <= {json.loads(line).get("id") for line in lines}


def test_csv_and_page(loaded, photos, tmp_path):
    wicked = photos[0].with_name("<script>alert(1)<.png")
    photos[0].rename(wicked)
    paths = [wicked, *photos[1:]]
    out = tmp_path / "out"
    summary = evaluate(loaded, from_photos(paths), Settings(**SETTINGS), out=out)
    with (out / "values.csv").open() as file:
        rows = list(csv.DictReader(file))
    # 5 images: 4 metrics of 7 maps, and 2 curves on 3 baselines of 2 methods
    assert len(rows) == 5 * (4 * 7 + 2 * 3 * 2)
    chosen = [
        float(r["value"]) for r in rows if r["map"] == "gradcam" and r["metric"] == "deletion"
    ]
    table = summary.tables[0]
    gradcam = next(r for r in table.rows if r.name == "gradcam")
    assert np.mean(chosen) == pytest.approx(gradcam.interval.value)
    page = (out / "index.html").read_text()
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<polyline") == 5 * 3 * 2  # deletion, insertion and ROAD of two methods
    assert page.count("data:image/jpeg") == 5 * 3
    assert "del[softmax, mean, 4 steps, pixel]" in page
    # worst first: the deletion area, low is good, falls from card to card
    by_image = {}
    for r in rows:
        if r["metric"] == "deletion" and r["map"] in SETTINGS["methods"]:
            by_image.setdefault(r["image"], []).append(float(r["value"]))
    worst = sorted(by_image, key=lambda i: -np.mean(by_image[i]))
    places = [page.index(Path(i).name.replace("<", "&lt;").replace(">", "&gt;")) for i in worst]
    assert places == sorted(places)
    document = json.loads((out / "summary.json").read_text())
    assert document["schema"] == "attnviz.benchmark"
    assert document["metrics"][0]["rows"][0]["images"] == 5


def test_masks_and_boxes_lie_where_the_model_sees_them():
    # resize-and-crop: the input shows columns 20 to 60 and rows 0 to 40 of the photo at 2 x
    geometry = Geometry((40, 80), (80, 80), (20.0, 0.0, 60.0, 40.0))
    mask = np.zeros((40, 80), bool)
    mask[10:20, 15:30] = True
    seen = mask_on_input(mask, geometry)
    expected = torch.zeros(80, 80, dtype=torch.bool)
    expected[20:40, 0:20] = True
    assert torch.equal(seen, expected)
    assert boxes_on_input([(15, 10, 30, 20)], geometry).tolist() == [[0.0, 20.0, 20.0, 40.0]]
    assert boxes_on_input([(0, 0, 20, 40)], geometry).tolist() == []
    # letterboxed: the input reaches beyond the photo
    padded = Geometry((40, 80), (80, 80), (0.0, -20.0, 80.0, 60.0))
    assert torch.equal(
        mask_on_input(np.ones((40, 80), bool), padded).any(1).nonzero()[:, 0], torch.arange(20, 60)
    )
    with pytest.raises(DataError, match="a mask is"):
        mask_on_input(mask[:20], geometry)


@pytest.fixture
def annotated(tmp_path: Path) -> Path:
    """Four photos with one box each, in COCO's format; the fourth has none."""
    folder = tmp_path / "coco"
    folder.mkdir()
    images, annotations = [], []
    for number in range(4):
        pixels = np.full((32, 32, 3), 40, np.uint8)
        pixels[8:16, 16:24] = 240
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 32, "width": 32})
        if number < 3:
            box = {"bbox": [16, 8, 8, 8], "area": 64, "iscrowd": 0}
            annotations.append({"id": number, "image_id": number, "category_id": 1, **box})
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "lamp"}],
    }
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder / "annotations.json"


def test_a_dataset_brings_its_masks(loaded, annotated, tmp_path):
    subjects = from_dataset(open_dataset(annotated))
    with torch.no_grad():  # a model that likes light
        for p in loaded.module.parameters():
            p.fill_(0.5)
    settings = Settings(("hirescam", "eigencam"), ("energy", "pointing", "box_iou", "maxboxacc"))
    summary = evaluate(loaded, subjects, settings, out=tmp_path / "out")
    tables = {t.key: t for t in summary.tables}
    energy = {r.name: r for r in tables["energy"].rows}
    assert energy["mask"].interval.value == 1
    assert energy["constant"].interval.value == pytest.approx(64 / 1024)
    assert energy["hirescam"].skipped == {"no mask": 1}
    # 0 at the random control, 1 at the mask
    place, chance = energy["hirescam"], energy["random"].interval.value
    assert place.relative == pytest.approx((place.interval.value - chance) / (1 - chance))
    assert tables["box_iou"].rows[-1].name == "mask"
    assert tables["box_iou"].rows[-1].interval.value == 1
    assert {r.name: r for r in tables["maxboxacc"].rows}["mask"].interval.value == 1
    assert from_dataset(open_dataset(annotated), "lamp")[0].boxes[0].coordinates == (16, 8, 24, 16)
    with pytest.raises(DataError, match="no sample has a mask or box of 'boat'"):
        from_dataset(open_dataset(annotated), "boat")


def test_without_any_number_nothing_is_claimed(loaded, annotated, tmp_path):
    empty = from_dataset(open_dataset(annotated))[3:]  # the photo without a box
    settings = Settings(("gradcam", "hirescam"), ("energy", "average_drop"))
    summary = evaluate(loaded, empty, settings, out=tmp_path / "out")
    for row in summary.tables[0].rows:
        assert row.skipped == {"no mask": 1}
        assert (row.beats, row.relative) == (None, None)
    assert "beats" not in "\n".join(lines(summary)).split("average_drop")[0]
    # how much a model needs the object says nothing of localisation
    assert all(row.relative is None for row in summary.tables[1].rows)


def test_measures_that_make_maps_anew(loaded, photos, tmp_path):
    settings = Settings(
        ("gradcam",), ("stability", "max_sensitivity", "parameter_randomisation", "random_logit")
    )
    before = {k: v.clone() for k, v in loaded.module.state_dict().items()}
    summary = evaluate(loaded, from_photos(photos[:2]), settings, out=tmp_path / "out")
    tables = {t.key: {r.name: r for r in t.rows} for t in summary.tables}
    # an edge detector does not know the model: nothing of it changes with the weights
    assert tables["parameter_randomisation"]["edge"].interval.value == pytest.approx(1)
    assert tables["random_logit"]["edge"].interval.value == pytest.approx(1)
    assert tables["max_sensitivity"]["centre"].interval.value == 0
    assert tables["stability"]["edge"].interval.value > 0.9
    assert tables["parameter_randomisation"]["gradcam"].interval.value < 1
    assert all(torch.equal(v, before[k]) for k, v in loaded.module.state_dict().items())


@pytest.fixture
def colourful(tmp_path):
    """A model of four colours, two photos of each, and one that is left over."""
    model = Blobs().eval()
    model.fc = nn.Linear(4, 4)
    with torch.no_grad():
        model.features.weight[:, :, 0, 0] = torch.tensor(
            [[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-0.08, -0.08, -0.08]]
        )
        model.features.bias.fill_(0.2)
        model.fc.weight.copy_(3 * torch.eye(4))
        model.fc.bias.zero_()
    draw = np.random.default_rng(3)
    paths = []
    for number in range(9):
        pixels = draw.integers(0, 90, (32, 32, 3), dtype=np.uint8)
        if number % 4 < 3:
            pixels[8:24, 8:24, number % 4] = 255
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    labels = ("red", "green", "blue", "dark")
    return LoadedModel(model, "colours", prepare(), labels), paths


def test_grids_of_images_are_judged_beside_the_images(colourful, tmp_path, monkeypatch):
    loaded, paths = colourful
    methods, metrics = (
        ("gradcam", "eigencam", "input_x_gradient"),
        ("average_drop", "grid_pointing", "difull"),
    )
    settings = Settings(methods, metrics)
    summary = evaluate(loaded, from_photos(paths), settings, out=tmp_path / "out")
    tables = {t.key: {r.name: r for r in t.rows} for t in summary.tables}
    assert list(tables) == list(metrics)
    # nothing outside its cell has a gradient, and Eigen-CAM asks for none
    for name in ("gradcam", "input_x_gradient"):
        assert tables["difull"][name].interval.value == 1
    assert tables["difull"]["eigencam"].interval.value < 0.6
    for table in ("difull", "grid_pointing"):
        assert tables[table]["constant"].interval.value == pytest.approx(0.25)
        assert {row.interval.images for row in tables[table].values()} == {8}
        assert all(row.skipped == {"in no grid": 1} for row in tables[table].values())
    # what the metric itself says of the first grid, in the order of the images
    pictures = [loaded.preprocess(np.asarray(Image.open(p)))[0] for p in paths[:4]]
    own = am.grid_pointing(
        lambda model, x, target: explain(model, x, method="eigencam", target=target).values,
        loaded.module, torch.stack(pictures), [0, 1, 2, 3],
    )  # fmt: skip
    runner = Runner(loaded, from_photos(paths), settings)
    store = Store(tmp_path / "out" / "results.jsonl", runner.plan())
    kept = store.judged([str(p) for p in paths])["grid_pointing"]["eigencam"]
    want = own.values[own.extra["image"].argsort()].double()
    torch.testing.assert_close(kept.values[:4], want)
    assert kept.reasons[8] == "in no grid"
    table = list(csv.DictReader((tmp_path / "out" / "values.csv").open()))
    shown = [r for r in table if r["metric"] == "grid_pointing" and r["map"] == "eigencam"]
    assert [float(r["value"]) for r in shown[:4]] == pytest.approx(want.tolist())
    assert len(shown) == 8
    # a second run finds every grid done
    monkeypatch.setattr("attnviz.benchmark.running.judge_grid", None)
    again = evaluate(loaded, from_photos(paths), settings, out=tmp_path / "out")
    assert [t.rows for t in again.tables] == [t.rows for t in summary.tables]


def test_without_four_classes_there_is_no_grid(loaded, photos, tmp_path):
    settings = Settings(("gradcam",), ("average_drop", "grid_pointing"))
    summary = evaluate(loaded, from_photos(photos), settings, out=tmp_path / "out")
    assert [t.key for t in summary.tables] == ["average_drop"]
    assert "images of 4 different classes" in summary.refused["grid_pointing"]


def test_pooled_precision_is_kept_in_bins(loaded, annotated, tmp_path):
    subjects = from_dataset(open_dataset(annotated))
    settings = Settings(("gradcam",), ("pxap", "pooled_pxap"))
    runner = Runner(loaded, subjects, settings)
    store = Store(tmp_path / "results.jsonl", runner.plan())
    list(runner.run(store))
    kept = store.judged([s.id for s in subjects])["pooled_pxap"]["gradcam"]
    again = Store(store.path, runner.plan()).judged([s.id for s in subjects])
    maps, masks = [], []
    for subject in subjects:
        ready = Prepared.read(subject, loaded.preprocess)
        place = object_mask(subject)
        if place is not None:
            found = explain(loaded.module, ready.input[None], method="gradcam")
            maps.append(found.values[0])
            masks.append(ready.mask(place))
    direct = am.pooled_pxap(torch.stack(maps), torch.stack(masks), legacy=True)
    # maps of another batch size differ in their last bits, and so fall into other bins
    assert kept.summary() == pytest.approx(direct.summary(), rel=1e-3)
    assert again["pooled_pxap"]["gradcam"].summary() == kept.summary()
    rebuilt = am.PooledPrecision.of_counts(
        direct.values, direct.protocol, direct.reasons, direct.thresholds,
        [[part.long().tolist() for part in direct.counts(i)] for i in range(len(direct))],
    )  # fmt: skip
    assert rebuilt.summary() == direct.summary() < 1
    assert rebuilt.summary() > 0


def test_settings_are_checked():
    with pytest.raises(MetricError, match="did you mean 'deletion'"):
        Settings(("gradcam",), ("deletoin",))
    with pytest.raises(MethodError, match="did you mean 'gradcam'"):
        Settings(("gradcamm",), ("deletion",))
    with pytest.raises(MetricError, match="baseline 'black'"):
        Settings(("gradcam",), ("deletion",), ("black",))
    with pytest.raises(MetricError, match="at least one method"):
        Settings((), ("deletion",))
    # the ranking is only checked where there is one
    assert [m.key for m in Settings(("gradcam",), ("deletion",)).measures()] == ["deletion"]
    several = Settings(("gradcam", "hirescam"), ("deletion", "irof"), ("blur", "zero")).measures()
    assert [m.key for m in several] == ["deletion", "irof", "deletion@zero", "irof@zero"]
    assert several[0].options["baseline"] == "blur"
    assert several[1].options["baseline"] == "blur"
