"""The localisation table: thresholds from another split, differences paired by photo."""

import json

import localising
import pytest
import torch
from localising import (
    CAM,
    VARIANTS,
    Photos,
    draw,
    measure,
    mined_maps,
    split,
    table,
    train,
)  # fmt: skip


def photos(n=24, size=64):
    generator = torch.Generator().manual_seed(0)
    x = 0.1 * torch.randn(n, 3, size, size, generator=generator)
    labels = torch.arange(n) % 3
    for i in range(n):
        x[i, labels[i], size // 4 : size // 2, size // 2 : 3 * size // 4] += 3
    masks = torch.zeros(n, 32, 32, dtype=torch.bool)
    masks[:, 8:16, 16:24] = True
    boxes = [torch.tensor([[16.0, 8, 24, 16]], dtype=torch.float64)] * n
    return Photos(x, labels, masks, boxes, ("a", "b", "c"))


def test_the_three_parts_share_nothing_and_cover_all():
    labels = torch.arange(60) % 3
    seen = []
    for fold in (0, 1):
        training, choosing, testing = split(labels, fold, 2)
        both = torch.cat([training, choosing, testing])
        assert sorted(both.tolist()) == list(range(60))
        assert (labels[choosing].bincount() == 3).all()
        seen += torch.cat([choosing, testing]).tolist()
    assert sorted(seen) == list(range(60))  # each photo is held out once


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_every_variant_trains_and_draws(variant):
    pytest.importorskip("timm")
    data = photos(12)
    model = train(CAM if variant.mined else variant, data, torch.arange(6), 0, steps=1)
    look = mined_maps if variant.mined else draw
    maps = look(model, data.images, data.labels)
    assert maps.shape == (12, 2, 2)
    assert torch.isfinite(maps).all()
    if variant.name == "erasing has":  # the one with draws of its own
        again = train(variant, data, torch.arange(6), 0, steps=1)
        assert torch.equal(maps, draw(again, data.images, data.labels))


def test_erasing_at_test_time_unites_the_looks(monkeypatch):
    """A network that sees the brightest position only, and then the next one."""

    def brightest(_, x, y):
        best = x[:, 0] == x[:, 0].amax((1, 2), keepdim=True)
        return torch.where(best, x[:, 0], torch.zeros_like(x[:, 0]))

    monkeypatch.setattr(localising, "draw", brightest)
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 0, 0], x[0, 0, 1, 2], x[0, 0, 2, 1] = 5, 3, 2
    found = mined_maps(None, x, torch.tensor([0]), steps=2)[0]
    assert found[0, 0] == 5  # the first look in its own units
    assert found[1, 2] == 3  # weaker evidence stays weaker
    assert found[2, 1] == 0  # seen third
    assert mined_maps(None, x, torch.tensor([0]), steps=3)[0, 2, 1] == 2


def test_the_variant_is_chosen_on_the_other_split():
    """In one fold the choice is right, in the other the measured photos say otherwise."""

    def row(variant, fold, choosing, maxbox):
        rows = [1, 3] if fold == 0 else [0, 2]
        return {
            "variant": variant, "fold": fold, "seed": 0, "accuracy": 0.9, "rows": rows,
            "choosing": choosing, "maxbox": [maxbox] * 2, "pxap": [0.5] * 2, "pooled_pxap": 0.4,
        }  # fmt: skip

    rows = [
        row("cam", 0, 0.4, 0.4), row("up", 0, 0.6, 0.8), row("centre", 0, 0.9, 0.1),
        row("cam", 1, 0.4, 0.4), row("up", 1, 0.3, 0.8), row("centre", 1, 0.9, 0.1),
    ]  # fmt: skip
    cells = {
        t.split("|")[1].strip(): [c.strip() for c in t.split("|")] for t in table(rows).split("\n")
    }
    assert cells["up"][3] == "80.0"
    assert cells["chosen"][3] == "60.0"  # .8 in the first fold, CAM's .4 in the second
    assert cells["chosen"][7] == "40.0"


def test_a_perfect_map_is_perfect_and_thresholds_come_from_the_other_split():
    data = photos()
    perfect = data.masks.float()
    figures = measure(perfect, data, torch.arange(8), torch.arange(8, 24))
    assert figures["maxbox"] == [1.0] * 16
    assert figures["pxap"] == pytest.approx([1.0] * 16)
    assert figures["pooled_pxap"] == pytest.approx(1.0)
    # where the choosing split is right at high thresholds only, the test is measured there
    halo = perfect.clone()
    halo[:, 4:28, 4:28] += 0.6  # wide and dim
    halo[8:, 4:28, 4:28] += 0.3  # brighter on the test photos: past the chosen threshold
    figures = measure(halo, data, torch.arange(8), torch.arange(8, 24))
    assert figures["maxbox"] == [0.0] * 16
    assert figures["pxap"] == pytest.approx([1.0] * 16)


def test_the_table_by_hand():
    def row(variant, seed, maxbox, pxap):
        return {
            "variant": variant, "fold": 0, "seed": seed, "accuracy": 0.9, "rows": [3, 7, 9, 11],
            "maxbox": maxbox, "pxap": pxap,
        }  # fmt: skip

    rows = [
        row("cam", 0, [0.2, 0.4, 0.2, 0.4], [0.5] * 4),
        row("cam", 1, [0.4, 0.4, 0.4, 0.4], [0.5] * 4),
        row("up", 0, [0.8, 0.9, 0.8, 0.9], [0.4, 0.6, 0.5, 0.5]),
        row("down", 0, [0.0] * 4, [0.1] * 4),
    ]
    text = table(rows)
    cells = {t.split("|")[1].strip(): [c.strip() for c in t.split("|")] for t in text.splitlines()}
    assert cells["cam"][3] == "35.0"
    assert cells["up"][4].startswith("+50.0 (+50.0")
    assert cells["up"][8] == "better / no difference"
    assert cells["down"][8] == "worse / worse"


@pytest.mark.slow
def test_runs_resume(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setattr(localising, "read_photos", lambda *_: photos(12))
    monkeypatch.setattr(localising, "VARIANTS", (CAM, VARIANTS[8]))
    real = localising.train
    calls = []

    def quick(variant, *rest):
        calls.append(variant.name)
        return real(variant, *rest, steps=1)

    monkeypatch.setattr(localising, "train", quick)
    localising.run("", tmp_path, seeds=1, folds=2, say=lambda *_: None)
    lines = (tmp_path / "localisation.jsonl").read_text().splitlines()
    assert len(lines) == 6  # two variants and the centre, two folds
    assert json.loads(lines[2])["accuracy"] is None
    localising.run("", tmp_path, seeds=1, folds=2, say=lambda *_: None)
    assert calls == ["cam", "cam"]  # the other goes on from it
    assert "centre" in (tmp_path / "localisation.md").read_text()


@pytest.mark.slow
def test_photos_of_one_thing(shared_data):
    """Photographs with masks become examples whose boxes lie around the masks."""
    pytest.importorskip("timm")
    found = localising.read_photos(shared_data / "scenes", things=("boat", "aeroplane"))
    assert found.classes == ("boat", "aeroplane")
    assert found.images.shape[1:] == (3, 224, 224)
    assert all(len(b) and bool(m.any()) for b, m in zip(found.boxes, found.masks, strict=True))
