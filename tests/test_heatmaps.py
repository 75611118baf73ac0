"""Heatmaps: reading them, their regions on the photo, and their pictures."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from attnviz.errors import DataError
from attnviz.geometry import Geometry
from attnviz.heatmaps import ByName, Heatmaps, grid, pictures
from attnviz.render import overlay

CROP = Geometry((120, 160), (224, 224), (30.0, 10.0, 130.0, 110.0))


def photo(seed=0, height=120, width=160):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make(values=None, **parts):
    values = torch.rand(3, 5, 5) if values is None else torch.as_tensor(values)
    n = len(values)
    given = {
        "values": values,
        "method": "gradcam",
        "layer": "layer4",
        "target": tuple(range(n)),
        "label": tuple(f"class {i}" for i in range(n)),
        "score": torch.arange(n) + 0.5,
        "geometry": (CROP,) * n,
        "images": tuple(photo(i) for i in range(n)),
        "sources": tuple(f"photo {i}.jpg" for i in range(n)),
        "units": "logit",
    }
    return Heatmaps(**{**given, **parts})


# -- construction and indexing -----------------------------------------------------------------


def test_frozen():
    maps = make()
    with pytest.raises(dataclasses.FrozenInstanceError):
        maps.method = "other"


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"values": torch.rand(3)}, r"\(B, h, w\)"),
        ({"values": torch.zeros(3, 5, 5, dtype=torch.int)}, "floats"),
        ({"label": ("a", "b")}, "one label for each of 3 maps, got 2"),
        ({"score": torch.rand(2)}, "one score"),
        ({"score": torch.tensor(1.0)}, "single value"),
        ({"geometry": (CROP,)}, "one geometry"),
        ({"meta": {"model": object()}}, r"meta\['model'\] is a object"),
        ({"meta": {"x": float("nan")}}, "nan"),
        ({"target": (object(), 1, 2)}, "target"),
    ],
)
def test_what_does_not_fit_together_is_refused(part, message):
    with pytest.raises(DataError, match=message):
        make(**{"values": torch.rand(3, 5, 5), **part})


def test_half_precision_becomes_single_and_double_stays():
    assert make(torch.rand(1, 2, 2).half()).values.dtype == torch.float32
    assert make(torch.rand(1, 2, 2).bfloat16()).values.dtype == torch.float32
    assert make(torch.rand(1, 2, 2).double()).values.dtype == torch.float64


def test_raw_values_and_their_graph_are_kept():
    values = torch.randn(2, 3, 3, requires_grad=True)
    maps = make(values)
    assert maps.values is values
    maps[1].resize(9).values.sum().backward()
    assert values.grad[0].abs().sum() == 0
    assert values.grad[1].sum() == pytest.approx(81.0)
    assert not maps.detach().values.requires_grad


def test_indexing_takes_every_field_along():
    maps = make()
    second = maps[1]
    assert len(second) == 1
    assert torch.equal(second.values[0], maps.values[1])
    assert (second.target, second.label, second.sources) == ((1,), ("class 1",), ("photo 1.jpg",))
    assert second.score.tolist() == [1.5]
    assert second.images[0] is maps.images[1]
    for index, expected in [
        (-1, (2,)),
        (slice(1, None), (1, 2)),
        ([2, 0], (2, 0)),
        (torch.tensor([True, False, True]), (0, 2)),
        (np.array([1]), (1,)),
        (torch.tensor(1), (1,)),
        (slice(0, 0), ()),
    ]:
        assert maps[index].target == expected
    for index in (3, -4):
        with pytest.raises(IndexError):
            maps[index]
    assert [m.target for m in maps] == [(0,), (1,), (2,)]
    assert len(make(torch.rand(0, 4, 4))) == 0


def test_repr_names_the_essentials():
    assert repr(make()) == (
        "<Heatmaps: 3 of 5 x 5, gradcam at layer4: class 0 0.5, class 1 1.5, class 2 2.5>"
    )


def test_bad_maps_are_named_and_good_ones_still_drawn():
    values = torch.rand(3, 5, 5)
    values[1, 2, 2] = float("nan")
    maps = make(values)
    for use in (maps.normalized, maps.boxes, maps.masks, maps.overlay, maps.grid):
        with pytest.raises(DataError, match=r"1 of 3 maps .* 1 \(class 1, photo 1\.jpg\)"):
            use()
    with pytest.raises(DataError, match=r"class 1"):
        maps.overlay(1)
    assert np.array_equal(np.asarray(maps.overlay(2)), np.asarray(make(values)[2].overlay()))
    values[1, 2, 2] = float("inf")
    with pytest.raises(DataError, match="class 1"):
        maps.panel(1)


# -- resizing ----------------------------------------------------------------------------------


def test_resize_is_torch_bilinear():
    maps = make(torch.rand(2, 5, 7, dtype=torch.float64))
    theirs = F.interpolate(maps.values[:, None], (20, 30), mode="bilinear", align_corners=False)[
        :, 0
    ]
    assert torch.equal(maps.resize((20, 30)).values, theirs)
    assert maps.resize("input").values.shape == (2, 224, 224)
    assert maps.resize(1).values.flatten().tolist() == pytest.approx(
        [v.mean().item() for v in maps.values], abs=0.2
    )
    assert maps.values.shape == (2, 5, 7)


def test_shrinking_averages_instead_of_skipping():
    values = torch.zeros(1, 32, 32)
    values[0, 1, 1] = 64.0  # plain sampling at a quarter of the size would miss it
    assert make(values).resize(8).values.amax() > 0
    assert make(values).resize(8).values.sum() == pytest.approx(64.0 / 16, rel=1e-4)


def test_resize_to_the_photo_puts_the_crop_in_its_place():
    maps = make(torch.ones(2, 5, 5)).resize("photo")
    covered = np.zeros((120, 160), bool)
    covered[10:110, 30:130] = True
    assert np.array_equal(~torch.isnan(maps.values[0]).numpy(), covered)
    assert maps.geometry[0] == Geometry.identity(120, 160)
    drawn = np.asarray(
        make(torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(1)))[0]
        .resize("photo")
        .overlay()
    )
    direct = np.asarray(
        make(torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(1)))[0].overlay(
            mode="minmax"
        )
    )
    # the scale's ends are those of the sampled pixels, not of the cells: nearly the same
    assert np.abs(drawn.astype(int) - direct).mean() < 3


def test_resize_says_what_it_cannot_do():
    maps = make()
    for size in (0, (3, 0), "poster", (1, 2, 3)):
        with pytest.raises(DataError, match="expected a number of pixels"):
            maps.resize(size)
    with pytest.raises(DataError, match="no geometry"):
        make(geometry=None).resize("photo")
    other = (CROP, CROP, Geometry.identity(5, 5))
    with pytest.raises(DataError, match="2 different image sizes"):
        make(geometry=other, images=None).resize("photo")
    with pytest.raises(DataError, match="already"):
        maps.resize("photo").resize(5)


# -- regions -----------------------------------------------------------------------------------


def test_a_perfect_rectangle_has_its_own_box_and_mask():
    values = torch.zeros(1, 60, 80)
    values[0, 12:31, 20:45] = 2.0
    whole = Geometry.identity(60, 80)
    maps = make(values, geometry=(whole,), images=None)
    (box,) = maps.boxes(0.5)[0].tolist()
    assert box == [20, 12, 45, 31]
    mask = maps.masks(0.5)[0]
    truth = values[0].numpy() > 0
    assert np.array_equal(mask, truth)
    left, top, right, bottom = box
    assert (right - left) * (bottom - top) == truth.sum()  # intersection over union is 1


def test_boxes_are_in_the_pixels_of_the_photo():
    values = torch.zeros(1, 5, 5)
    values[0, 1, 3] = 1.0  # its cell: x 90 to 110, y 30 to 50 on the photo
    ((left, top, right, bottom),) = make(values).boxes(0.5)[0].tolist()
    # bilinear falls to half its height half a cell from the centre, (100, 40)
    assert (left, right) == (90, 110)
    assert (top, bottom) == (30, 50)
    assert make(values).masks(0.5)[0].shape == (120, 160)
    ((left, top, right, bottom),) = make(values, geometry=None).boxes(0.5)[0].tolist()
    assert (left, top, right, bottom) == (3, 1, 4, 2)


def test_largest_first_and_all():
    values = torch.zeros(2, 10, 10)
    values[0, 0:2, 0:2] = 1.0
    values[0, 5:9, 5:9] = 1.0
    values[0, 3, 3] = 1.0
    maps = make(values, geometry=None, images=None)
    assert [b.tolist() for b in maps.boxes()] == [[[5, 5, 9, 9]], []]
    assert maps.boxes(which="all")[0].tolist() == [[5, 5, 9, 9], [0, 0, 2, 2], [3, 3, 4, 4]]
    assert maps.boxes()[1].shape == (0, 4)
    touching = torch.zeros(1, 4, 4)
    touching[0, [0, 1], [0, 1]] = 1.0  # by a corner: one region
    assert make(touching, geometry=None, images=None).boxes()[0].tolist() == [[0, 0, 2, 2]]


def test_flat_maps_have_no_regions():
    maps = make(torch.full((2, 5, 5), 0.7))
    assert maps.flat == (True, True)
    assert [len(b) for b in maps.boxes(0.01)] == [0, 0]
    assert not any(m.any() for m in maps.masks(0.01))
    assert make().flat == (False, False, False)


def test_regions_shrink_as_the_threshold_rises_and_do_not_see_batch_mates():
    maps = make()
    sizes = [maps.masks(t)[0].sum() for t in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert sizes == sorted(sizes, reverse=True)
    assert np.array_equal(maps.masks()[1], maps[1].masks()[0])
    assert np.array_equal(maps.boxes(which="all")[2], maps[2].boxes(which="all")[0])


def test_options_of_regions():
    for threshold in (0.0, -1, 1.01):
        with pytest.raises(DataError, match="threshold"):
            make().masks(threshold)
    with pytest.raises(DataError, match="largest"):
        make().boxes(which="smallest")
    with pytest.raises(DataError, match="did you mean"):
        make().boxes(mode="minimax")


# -- pictures ----------------------------------------------------------------------------------


def test_overlay_is_the_photos_size_and_place():
    maps = make()
    pictures = maps.overlay()
    assert len(pictures) == 3
    for index, picture in enumerate(pictures):
        values = maps.values[index].numpy()
        scaled = (values - values.min()) / (values.max() - values.min())
        expected = overlay(photo(index), scaled, geometry=CROP)
        assert np.abs(np.asarray(picture).astype(int) - expected).max() <= 1
        assert np.array_equal(np.asarray(maps.overlay(index)), np.asarray(picture))
        assert np.array_equal(np.asarray(maps[index].overlay()), np.asarray(picture))
    assert np.array_equal(np.asarray(maps.overlay(-1)), np.asarray(pictures[2]))


def test_a_shared_scale_makes_equal_values_look_equal():
    values = torch.rand(1, 5, 5)
    maps = make(torch.cat([values, 2 * values]), images=(photo(), photo()))
    own = [np.asarray(p) for p in maps.overlay(mode="max")]
    assert np.array_equal(*own)
    low, high = (np.asarray(p) for p in maps.overlay(mode="max", shared=True))
    assert np.array_equal(high, own[1])
    half = overlay(photo(), (values[0] / values.max() / 2).numpy(), geometry=CROP)
    assert np.abs(low.astype(int) - half).max() <= 1


def test_signed_maps_diverge_from_grey():
    values = torch.tensor([[[-1.0, 0.0, 1.0]]])
    grey = np.full((30, 90, 3), 120, np.uint8)
    drawn = np.asarray(make(values, geometry=None, images=(grey,)).overlay()).astype(int)
    blue, middle, red = drawn[15, 5], drawn[15, 45], drawn[15, 85]
    assert blue[2] > blue[0] + 50
    assert red[0] > red[2] + 50
    assert np.abs(middle - 120).max() <= 4


def test_overlay_wants_a_photo():
    maps = make(images=None)
    with pytest.raises(DataError, match="with_images"):
        maps.overlay(0)
    given = maps.overlay(0, image=photo())
    assert np.array_equal(np.asarray(given), np.asarray(make(maps.values).overlay(0)))
    with pytest.raises(DataError, match="image 0 is"):
        maps.overlay(0, image=photo(height=50))
    attached = maps.with_images([photo(i) for i in range(3)])
    assert np.array_equal(np.asarray(attached.overlay(2)), np.asarray(make(maps.values).overlay(2)))
    with pytest.raises(DataError, match="one images"):
        maps.with_images([photo()])


def test_pictures_leave_everything_as_it_was():
    maps = make()
    values, images = maps.values.clone(), [i.copy() for i in maps.images]
    maps.overlay()
    maps.panel(0, truth=[[10, 10, 50, 50]])
    maps.grid()
    maps._repr_html_()
    plt.close(maps.plot().figure)
    assert torch.equal(maps.values, values)
    assert all(np.array_equal(a, b) for a, b in zip(maps.images, images, strict=True))


def test_plot_states_class_method_and_range():
    maps = make(torch.tensor([[[0.25, 2.0], [1.0, 0.5]]]))
    figure, ax = plt.subplots()
    assert maps.plot(ax) is ax
    assert ax.get_title() == "class 0   score 0.5\ngradcam · layer4 · map\u00a02\u00a0×\u00a02"
    assert ax.get_xlabel() == "regions associated with the score"
    (bar,) = ax.child_axes
    assert bar.get_ylim() == (0.25, 2.0)
    assert bar.get_ylabel() == "logit (lowest to highest value)"
    assert np.array_equal(ax.images[0].get_array(), np.asarray(maps.overlay()))
    plt.close(figure)
    flat = make(torch.zeros(1, 2, 2)).plot()
    assert "no evidence" in flat.get_xlabel()
    assert flat.child_axes == []
    plt.close(flat.figure)
    alone = make(torch.rand(1, 2, 2), images=None).plot()
    assert alone.images[0].get_array().shape == (448, 448, 3)
    plt.close(alone.figure)


def test_captions_keep_the_native_size_after_resizing():
    ax = make(torch.rand(1, 7, 7)).resize("input").plot()
    assert "7\u00a0×\u00a07" in ax.get_title()
    plt.close(ax.figure)


def test_html_is_self_contained_and_escaped():
    maps = make(label=("<script>alert(1)</script>", "a & b", "c"), layer="<b>", score=torch.ones(3))
    page = maps._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "a &amp; b" in page
    assert "<b>" not in page
    assert not re.search(r"src=\"(?!data:)|https?:", page)
    pictures = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    assert len(pictures) == 6  # each photo, and its overlay above it
    assert page.count('type="range"') == 1
    image = Image.open(io.BytesIO(base64.b64decode(pictures[0])))
    assert image.size == (300, 225)


def test_html_of_many_bad_or_no_maps_still_shows():
    values = torch.rand(12, 3, 3)
    values[0] = float("nan")
    page = make(values, images=None, geometry=None)._repr_html_()
    assert page.count("<img") == 7
    assert "NaN or infinite" in page
    assert "and 4 more" in page
    assert "no maps" in make(torch.rand(0, 3, 3))._repr_html_()


def test_html_shows_one_class_of_a_photo_at_a_time():
    first, second = photo(1), photo(2)
    maps = make(torch.rand(4, 3, 3), images=(first, first, second, second), sources=None,
                label=("boat", "dock") * 2)  # fmt: skip
    page = maps._repr_html_()
    assert page.count("<figure") == 2
    assert page.count('alt="photo"') == 2
    assert re.findall(r"<option value=\"(\d)\">(\w+)", page) == [("0", "boat"), ("1", "dock")]
    assert page.count('data-rank="0"') == 4
    assert page.count('data-rank="1" data-method="0" hidden') == 4
    assert "<select" not in maps[:1]._repr_html_()


@pytest.mark.peer("playwright.sync_api")
def test_a_cell_switches_method_and_class_and_fades(tmp_path):
    """Every control of the cell, clicked in a browser: one overlay and caption are shown."""
    from playwright import sync_api as playwright

    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium here to open the cell with")
    one = photo(1)
    parts = {"images": (one, one), "sources": None, "label": ("boat", "dock")}
    named = ByName(
        {m: make(torch.rand(2, 3, 3), method=m, **parts) for m in ("gradcam", "layercam")}
    )
    (tmp_path / "cell.html").write_text(named._repr_html_())
    with playwright.sync_playwright() as p:
        running = p.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = running.new_page()
        tab.goto((tmp_path / "cell.html").as_uri())

        def shown():
            return [c.inner_text() for c in tab.locator("figcaption").all() if c.is_visible()]

        def overlays():
            return [i.get_attribute("src") for i in tab.locator("[data-map]").all()
                    if i.is_visible()]  # fmt: skip

        seen = {}
        for method, name in enumerate(named):
            for rank, label in enumerate(("boat", "dock")):
                tab.select_option("select[name=method]", str(method))
                tab.select_option("select[name=rank]", str(rank))
                (caption,), (picture,) = shown(), overlays()
                assert name in caption
                assert label in caption
                seen[picture] = caption
        assert len(seen) == 4  # another picture each time
        tab.locator("input[type=range]").fill("0.25")
        faded = tab.evaluate("[...document.querySelectorAll('[data-map]')].map(e=>e.style.opacity)")
        assert set(faded) == {"0.25"}
        controls = tab.locator("select, input, button").count()
        assert controls == 3  # these, and no other
        running.close()


# -- comparisons -------------------------------------------------------------------------------


def drawn_tiles(monkeypatch):
    seen = {}

    def grid(rows, **options):
        seen.update(rows=rows, **options)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr("attnviz.render.grid", grid)
    return seen


def test_classes_of_one_photo_stand_in_a_row(monkeypatch):
    seen = drawn_tiles(monkeypatch)
    first, second = photo(1), photo(2)
    maps = make(torch.rand(4, 3, 3), images=(first, first, second, second), sources=None)
    maps.grid()
    assert [[t.title for t in row] for row in seen["rows"]] == [
        ["photo", "class 0   score 0.5", "class 1   score 1.5"],
        ["photo", "class 2   score 2.5", "class 3   score 3.5"],
    ]
    assert seen["rows"][1][0].photo is second
    assert seen["rows"][1][0].values is None
    assert seen["shared"]
    assert seen["units"] == "logit"


def test_photos_fill_rows(monkeypatch):
    seen = drawn_tiles(monkeypatch)
    make(torch.rand(6, 3, 3)).grid()
    assert [len(row) for row in seen["rows"]] == [4, 2]
    make(torch.rand(6, 3, 3)).grid(columns=3)
    assert [len(row) for row in seen["rows"]] == [3, 3]


def test_methods_have_each_map_on_its_own_scale_and_layers_share_one(monkeypatch):
    seen = drawn_tiles(monkeypatch)
    maps = make(torch.rand(2, 3, 3))
    grid({"gradcam": maps, "layercam": dataclasses.replace(maps, method="layercam")})
    assert [[t.title for t in row] for row in seen["rows"]] == [
        ["photo", "gradcam", "layercam"]
    ] * 2
    assert not seen["shared"]
    grid({"layer3": maps, "layer4": maps})
    assert seen["shared"]
    grid({"layer3": maps, "layer4": maps}, shared=False)
    assert not seen["shared"]


def test_unlike_results_are_not_compared():
    with pytest.raises(DataError, match="same, not zero"):
        grid({"a": make(), "b": make()[:2]})
    with pytest.raises(DataError, match="same, not zero"):
        grid({})


def test_pictures_say_which_model_and_options_made_them():
    """Random weights, the head asked for and a map that has no class are said."""
    import attnviz
    from attnviz.heatmaps import pictures

    vit = attnviz.load("timm:vit_tiny_patch16_224", pretrained=False)
    x = torch.rand(1, 3, 224, 224)
    raw = attnviz.explain(vit, x, method="raw_attention", head=2)
    facts = pictures.facts(raw, 0).split(" · ")
    assert facts[0] == "timm:vit_tiny_patch16_224 (random weights)"
    assert facts[1:3] == ["raw_attention", "head=2"]
    assert pictures.headline(raw, 0).endswith("map of no class")
    assert "no class" in pictures.headline(attnviz.explain(vit, x, method="eigencam"), 0)
    own = attnviz.explain(vit.module, x, method="gradcam")
    assert pictures.facts(own, 0).startswith("VisionTransformer · gradcam")
    chance = torch.softmax(vit.module(x)[0], 0).max()
    assert pictures.headline(own, 0).endswith(f"({float(chance):.1%})")


def test_as_an_array():
    maps = make()
    assert np.array_equal(np.asarray(maps), maps.values.numpy())
    assert np.asarray(maps, dtype=np.float64).dtype == np.float64
    changed = np.array(maps)
    changed[:] = -1
    assert (maps.values >= 0).all()


def test_joined_is_what_it_was_made_of():
    maps = make()
    again = pictures.joined(list(maps))
    for name in ("values", "score"):
        assert torch.equal(getattr(again, name), getattr(maps, name))
    for name in ("target", "label", "geometry", "sources"):
        assert getattr(again, name) == getattr(maps, name)
    bare = make(images=None)
    assert pictures.joined([maps, bare]).images is None


def test_plot_takes_a_colour_map_a_title_and_no_bar():
    _, ax = plt.subplots()
    drawn = make().plot(ax, index=1, cmap="PuOr", title="mine", colorbar=False)
    assert drawn is ax
    assert ax.get_title() == "mine"
    assert not ax.child_axes
    expected = np.asarray(make().overlay(1, image=photo(1), colormap="PuOr"))
    assert ax.images[0].get_array().shape == expected.shape
    plt.close("all")


def test_panel_and_figure_take_a_title(monkeypatch):
    figure = make().figure(0, title="Boats of Lake Como")
    said = [t.get_text() for t in figure.texts]
    assert said[0] == "Boats of Lake Como"
    assert any("gradcam" in s for s in said)
    whole = make().figure(None)
    assert sum("class" in t.get_text() for t in whole.texts) == 3
    seen = []
    blank = Image.new("RGB", (1, 1))
    monkeypatch.setattr("attnviz.render.panel", lambda tile, **_: seen.append(tile.title) or blank)
    make().panel(0, title="Boats")
    assert seen == ["Boats"]


def test_show_opens_a_viewer_or_is_a_cell(monkeypatch):
    opened, cells, maps = [], [], make()
    monkeypatch.setattr(Image.Image, "show", lambda self, *a, **k: opened.append(self.size))
    maps[0].show()
    maps.show()
    assert opened == [maps.panel(0).size, maps.grid().size]
    display = pytest.importorskip("IPython.display")
    monkeypatch.setattr("attnviz.heatmaps.notebook.in_notebook", lambda: True)
    monkeypatch.setattr(display, "display", cells.append)
    maps.show()
    assert cells[0].data == maps._repr_html_()
