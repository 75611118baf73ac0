"""The page of an answer's words: what it holds is what was read."""

import base64
import json
import re
import zlib

import numpy as np
import pytest
import torch

from attnviz.attention import words
from attnviz.attention.views.word_page import _split, words_page
from attnviz.errors import OutputExists
from tests.support.vlm_models import family

pytest.importorskip("transformers", minversion="5.0")


@pytest.fixture(scope="module")
def found():
    model, processor = family("qwen2_vl")
    photo = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    plain = [t for t in range(model.get_output_embeddings().weight.shape[0]) if not 4 <= t < 16]
    return words(
        model, processor, photo, "what is <b>this</b> ?", max_new_tokens=4,
        methods=["attention", "tam"], suppress_tokens=plain,
        heads=True,
    )  # fmt: skip


def document(page):
    return json.loads(re.search(r"const DATA = (.*);\n", page)[1])


def test_the_page_holds_the_maps_to_half_a_step(found):
    held = document(words_page(found))
    assert held["text"] == found.text
    assert [held["text"][a:b] for a, b in held["spans"]] == list(found.words)
    kinds = {kind["name"]: kind for kind in held["kinds"]}
    assert list(kinds) == ["attention", "tam", "layer 1", "layer 2", "layer 3"]
    maps = {**found.maps, **{f"layer {i + 1}": found.layers[:, i] for i in range(3)}}
    for name, values in maps.items():
        codes = np.frombuffer(base64.b64decode(kinds[name]["codes"]), np.uint8)
        largest = np.array(kinds[name]["largest"])[:, None, None]
        np.testing.assert_allclose(
            codes.reshape(values.shape) / 255 * largest, values.numpy(),
            atol=float(largest.max()) * 0.003,
        )  # fmt: skip


def test_it_fetches_nothing_escapes_and_overwrites_nothing(found, tmp_path):
    page = words_page(found)
    assert "what is &lt;b&gt;this&lt;/b&gt; ?" in page
    assert "http" not in re.sub(r'data:[^"]*', "", page).replace("http-equiv", "")
    path = found.save(tmp_path / "words.html")
    assert path.read_text(encoding="utf-8") == page
    with pytest.raises(OutputExists):
        found.save(path)


def unpacked(held, layer, words=3):
    """The heads of a layer (W, H, rows, columns) as the page has them, read by hand."""
    raw = zlib.decompress(base64.b64decode(held["layers"][layer]), -15)
    count, shape = held["count"][layer], held["grid"]
    largest = np.frombuffer(raw[: 4 * count * words], "<f4").reshape(count, words, 1, 1)
    codes = np.frombuffer(raw[4 * count * words :], np.uint8)
    if held["bits"] == 4:
        codes = np.stack([codes & 15, codes >> 4], 1).ravel()[: count * words * shape[0] * shape[1]]
    values = codes.reshape(count, words, *shape) / (2 ** held["bits"] - 1) * largest
    return values.swapaxes(0, 1)


def test_the_mean_over_heads_is_the_layers_map(found):
    assert [tuple(layer.shape[:2]) for layer in found.heads] == [(4, 4)] * 3
    for number, layer in enumerate(found.heads):
        torch.testing.assert_close(layer.mean(1), found.layers[:, number])
        assert float((layer[:, 0] - layer[:, 1]).abs().max()) > 1e-3


@pytest.mark.parametrize(("room", "bits", "merged"), [(10**6, 8, 1), (470, 4, 1), (260, 4, 2)])
def test_heads_are_as_fine_as_the_room_allows(room, bits, merged):
    maps = torch.rand(3, 2, 5, 7, generator=torch.Generator().manual_seed(0)) ** 3
    held = _split((maps, maps[:, :1]), room)
    assert (held["bits"], held["merged"]) == (bits, merged)
    assert sum(map(len, held["layers"])) < room
    wanted = maps if merged == 1 else torch.nn.functional.adaptive_avg_pool2d(maps, (3, 4))
    half = wanted.amax((2, 3), keepdim=True).numpy() / (2**bits - 1) / 2
    for layer, count in enumerate((2, 1)):
        error = np.abs(unpacked(held, layer) - wanted[:, :count].numpy())
        assert (error <= half[:, :count] * 1.001).all()


@pytest.mark.parametrize("peaked", [6.0, 0.0])
@pytest.mark.slow
def test_forty_words_of_a_large_model_stay_below_five_megabytes(found, peaked):
    from dataclasses import replace

    # the second is noise, which does not compress: half the layers are enough to see it
    count, layers = (40, 24) if peaked else (40, 12)
    drawn = torch.randn(layers, count, 32, 576, generator=torch.Generator().manual_seed(0))
    heads = tuple(
        ((peaked / 3 * d).softmax(2) if peaked else d.abs()).unflatten(2, (24, 24)) for d in drawn
    )
    big = replace(
        found, words=("word",) * 40, spans=tuple((5 * i, 5 * i + 4) for i in range(40)),
        text="word " * 40, logprob=torch.zeros(40), layers=torch.rand(40, 32, 24, 24),
        text_share=torch.rand(40, 32), maps={"attention": torch.rand(40, 24, 24)},
        names=tuple(map(str, range(32))), heads=heads,
    )  # fmt: skip
    page = words_page(big)
    assert len(page) < 5_000_000
    held = document(page)["heads"]
    assert (held["bits"], held["merged"]) == ((4, 1) if peaked else (4, 2))


@pytest.mark.peer("playwright.sync_api")
def test_pointing_at_a_word_shows_its_map(found, tmp_path):
    import shutil

    from playwright import sync_api as playwright

    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium here to open the page with")
    found.save(tmp_path / "words.html")
    with playwright.sync_playwright() as p:
        running = p.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = running.new_page()
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((tmp_path / "words.html").as_uri())
        page.wait_for_selector("body[data-ready]")
        shown = "document.getElementById('said').textContent"
        first = page.evaluate(shown)
        assert f"“{found.words[0]}”" in first
        page.hover("#answer button:nth-of-type(2)")
        assert f"“{found.words[1]}”" in page.evaluate(shown)
        page.select_option("#kind", "1")
        assert "TAM" in page.evaluate(shown)
        page.focus("#layer")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert "layers.1" in page.evaluate(shown)
        assert page.evaluate("document.getElementById('depth').textContent") == "2 of 3"
        page.focus("#head")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.locator("#said", has_text="head 2 of").wait_for()  # by no script of the page's
        assert "in 255 steps" in page.evaluate(shown)
        assert page.evaluate("document.getElementById('which').textContent") == "2 of 4"
        at = page.evaluate("[state.word, ...shown(2).grid]")
        values = page.evaluate(
            "([w, r, c]) => { const kind = shown(2); return Array.from({length: r * c}, "
            "(_, i) => kind.value(w * r * c + i) * kind.largest[w]); }", at,
        )  # fmt: skip
        wanted = found.heads[1][at[0], 1]
        np.testing.assert_allclose(values, wanted.ravel(), atol=float(wanted.max()) / 500)
        page.select_option("#kind", "1")
        assert page.evaluate("document.getElementById('depth').textContent") == "all"
        assert page.evaluate("document.getElementById('head').disabled")
        page.mouse.move(5, 5)
        page.focus("#answer button:nth-of-type(1)")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert f"“{found.words[2]}”" in page.evaluate(shown)
        running.close()
    assert errors == []
