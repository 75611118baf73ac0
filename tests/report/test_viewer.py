"""The viewer: what stands in the page, and every control clicked in a browser."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from attnviz.errors import DataError, OutputExists
from attnviz.geometry import Geometry
from attnviz.heatmaps import Heatmaps
from attnviz.report import Note, viewer, write_viewer

PHOTOS = [np.random.default_rng(k).integers(0, 256, (60, 80, 3), dtype=np.uint8) for k in range(3)]


def maps(method="gradcam", layer="layer4", *, classes=1, size=(7, 7), low=0.0, names="abc"):
    rows = len(PHOTOS) * classes
    values = low + torch.rand(
        rows, *size, generator=torch.Generator().manual_seed(len(method) + ord(layer[-1]))
    )
    crop = Geometry((60, 80), (224, 224), (10.0, 0.0, 70.0, 60.0))
    return Heatmaps(
        values=values, method=method, layer=layer,
        target=tuple(k % classes for k in range(rows)),
        label=tuple(f"class {k % classes}" for k in range(rows)),
        score=torch.arange(rows, dtype=torch.float32), geometry=(crop,) * rows,
        images=tuple(PHOTOS[k // classes] for k in range(rows)),
        sources=tuple(f"/somewhere/{names[k // classes]}.jpg" for k in range(rows)),
        units="score",
    )  # fmt: skip


def document(page: str) -> dict:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)
    return json.loads(found[1])


def test_a_photo_appears_once_with_all_its_maps_and_their_values():
    several = {"gradcam": maps(classes=2), "layercam": maps("layercam", classes=2)}
    found = document(viewer(several))
    assert [item["name"] for item in found["items"]] == ["a.jpg", "b.jpg", "c.jpg"]
    for item in found["items"]:
        assert [(m["method"], m["rank"]) for m in item["maps"]] == [
            ("gradcam", 0), ("gradcam", 1), ("layercam", 0), ("layercam", 1),
        ]  # fmt: skip
    raw = several["layercam"].values[3].numpy()  # photo b, second class
    shown = found["items"][1]["maps"][3]
    steps = np.frombuffer(base64.b64decode(shown["values"]), np.uint8).reshape(shown["size"])
    expected = (raw - raw.min()) / (raw.max() - raw.min()) * 255
    assert np.abs(steps - expected).max() <= 0.5001
    assert shown["crop"] == [10 / 80, 0.0, 70 / 80, 1.0]
    assert found["classes"] == ["class 0", "class 1"]
    assert not shown["signed"]
    assert document(viewer(maps(low=-0.5)))["items"][0]["maps"][0]["signed"]


def test_large_maps_are_stored_small_and_flat_ones_as_nothing():
    wide = document(viewer(maps(size=(224, 112))))["items"][0]["maps"][0]
    assert wide["size"] == [64, 32]
    flat = maps()
    flat.values.fill_(0.3)
    shown = document(viewer(flat))["items"][0]["maps"][0]
    assert shown["flat"]
    assert "no evidence" in shown["scale"]


def test_names_cannot_write_into_the_page():
    hostile = "</script><script>alert(1)</script>"
    page = viewer(maps(names=[hostile, "b", "c"]), title="<img src=x onerror=alert(1)>")
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert document(page)["items"][0]["name"] == "script>.jpg"  # the last part of the path
    assert "http" not in re.sub(r"data:image[^\"]*", "", page)
    assert "/somewhere" not in page  # names, not paths


def test_what_cannot_be_shown_is_said(tmp_path):
    with pytest.raises(DataError, match="no photo attached"):
        viewer(dataclasses.replace(maps(), images=None))
    with pytest.raises(DataError, match="1 notes for 3 photos"):
        viewer(maps(), notes=[Note()])
    with pytest.raises(DataError, match="no maps"):
        viewer({})
    path = write_viewer(maps(), tmp_path / "page.html")
    with pytest.raises(OutputExists):
        write_viewer(maps(), path)
    write_viewer(maps(), path, force=True)


def test_many_photos_stay_within_what_a_page_may_weigh():
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    photo = np.asarray(noise // 4 + 96)
    rows = 200
    many = Heatmaps(
        values=torch.rand(rows, 7, 7), method="gradcam", layer="layer4", target=(0,) * rows,
        label=("boat",) * rows, score=torch.zeros(rows), images=(photo,) * rows,
        sources=tuple(f"{k}.jpg" for k in range(rows)), units="score",
    )  # fmt: skip
    assert len(viewer(many)) < 20_000_000


@pytest.fixture
def page(tmp_path):
    from playwright import sync_api as playwright

    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium here to open the page with")
    results = {
        m: {n: maps(m, n, classes=2) for n in ("layer3", "layer4")} for m in ("gradcam", "xgradcam")
    }
    notes = [Note({"energy": 0.5 - k / 10}, ["wrong" if k else "right"], bool(k)) for k in range(3)]
    path = write_viewer(results, tmp_path / "page.html", notes=notes)
    with playwright.sync_playwright() as p:
        running = p.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = running.new_page(viewport={"width": 1000, "height": 800})
        tab.errors = []
        tab.on("pageerror", lambda e: tab.errors.append(str(e)))
        tab.on("request", lambda r: tab.errors.append(r.url) if r.url.startswith("http") else None)
        tab.goto(path.as_uri())
        yield tab
        assert tab.errors == []
        running.close()


def _canvas(tab, place="#large canvas"):
    return tab.evaluate(f"document.querySelector('{place}').toDataURL()")


#: notes what is clicked, changed or typed into, by the control's name
WATCH = """
window.used = new Set();
for (const kind of ["click", "change", "input"])
  document.addEventListener(kind, (e) => {
    const c = e.target.closest("button, select, input");
    if (c) window.used.add(c.id || "a thumbnail");
  }, true);
"""
CONTROLS = "[...document.querySelectorAll('button, select, input')].map(c => c.id || 'a thumbnail')"


@pytest.mark.peer("playwright.sync_api")
def test_every_control_does_what_it_says(page):
    page.evaluate(WATCH)
    names = "() => [...document.querySelectorAll('figcaption')].map((f) => f.childNodes[1].data)"
    assert page.evaluate(names) == ["a.jpg", "b.jpg", "c.jpg"]
    page.select_option("#sort", "energy")
    assert page.evaluate(names) == ["c.jpg", "b.jpg", "a.jpg"]
    page.select_option("#filter", "wrong")
    assert page.evaluate(names) == ["c.jpg", "b.jpg"]
    assert page.locator("figcaption .wrong").count() == 2
    page.fill("#find", "b.jpg")
    assert page.evaluate(names) == ["b.jpg"]
    assert page.inner_text("#count") == "1 of 3 photos"
    page.fill("#find", "")
    page.select_option("#filter", "all")
    page.select_option("#sort", "order")

    page.click("figure button >> nth=0")
    assert page.inner_text("#facts").startswith("a.jpg · gradcam · layer3")
    drawn = [_canvas(page)]
    page.keyboard.press("ArrowDown")  # the next method
    assert "xgradcam" in page.inner_text("#facts")
    drawn.append(_canvas(page))
    page.keyboard.press("Escape")
    for control, value in [("#layer", "layer4"), ("#rank", "1"), ("#colours", "viridis")]:
        page.select_option(control, value)
        page.click("figure button >> nth=0")
        drawn.append(_canvas(page))
        page.click("#close")
    page.locator("#opacity").fill("20")
    page.click("figure button >> nth=0")
    drawn.append(_canvas(page))
    assert len(set(drawn)) == len(drawn)  # each changed what is drawn
    page.click("#next")
    assert page.inner_text("#facts").startswith("b.jpg")
    page.click("#previous")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#facts").startswith("c.jpg")
    page.click("#alone")
    assert page.evaluate("document.querySelector('#large canvas').style.visibility") == "hidden"
    page.keyboard.press("o")
    page.click("#swipe")
    page.locator("#large").hover(position={"x": 20, "y": 20})
    cut = page.evaluate("document.querySelector('#large canvas').style.clipPath")
    page.locator("#large").hover(position={"x": 200, "y": 20})
    assert page.evaluate("document.querySelector('#large canvas').style.clipPath") != cut
    page.keyboard.press("Escape")
    assert not page.evaluate("document.getElementById('box').open")
    page.click("#dark")
    assert page.evaluate("document.documentElement.className") == "dark"
    page.select_option("#method", "gradcam")
    used = set(page.evaluate("[...window.used]"))
    assert set(page.evaluate(CONTROLS)) == used  # none was left out


@pytest.mark.peer("playwright.sync_api")
def test_the_page_draws_what_the_pictures_draw(page):
    """The scripts' interpolation and colours against `attnviz.render`, over a white photo."""
    from attnviz.render import colourise, place

    page.locator("#opacity").fill("100")
    page.click("figure button >> nth=1")
    stored = base64.b64decode(_canvas(page).partition(",")[2])
    drawn = np.asarray(Image.open(io.BytesIO(stored)))
    height, width = drawn.shape[:2]
    raw = maps("gradcam", "layer3", classes=2).values[2].numpy()
    scaled = np.rint((raw - raw.min()) / (raw.max() - raw.min()) * 255) / 255
    values = place(scaled, Geometry.identity(height, width), smooth=True)
    assert np.abs(drawn[..., 3] - 255 * values).max() <= 2
    solid = values > 0.2  # colours of nearly transparent pixels are rounded by the canvas
    gap = np.abs(drawn[..., :3][solid].astype(int) - colourise(values)[solid])
    assert gap.max() <= 8


def test_a_picture_is_no_larger_than_the_page_has_room_for() -> None:
    """Of 10,000 photos each has 144 px: they were doubled, and weighed four times as much."""
    from attnviz.report.pictures import data_uri
    from attnviz.report.viewer import longest_side

    longest = longest_side(10_000)
    assert longest < 160
    for side, shown in ((40, 120), (longest, longest), (300, longest)):
        uri = data_uri(np.zeros((side // 2, side, 3), np.uint8), longest=longest)
        jpeg = base64.b64decode(uri.partition(",")[2])
        assert Image.open(io.BytesIO(jpeg)).size == (shown, shown // 2)
