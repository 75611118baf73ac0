"""`attnviz explain`: right results, nothing lost, nothing overwritten, every error one line."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import attnviz
from attnviz.cli import _explaining

from .conftest import TINY, Done

Run = Callable[..., Done]


def test_json_says_what_the_library_says(run: Run, photos: Path) -> None:
    done = run("explain", photos, *TINY, "--method", "gradcam,hirescam", "--json")
    assert done.code == 0, done.err
    report = done.json
    assert (report["schema"], report["schema_version"]) == ("attnviz.explain", 1)
    assert report["attnviz"] == attnviz.__version__
    assert report["failed"] == []
    rows = report["results"]
    assert [(Path(r["photo"]).stem, r["method"]) for r in rows] == [
        (colour, method)
        for colour in ("blue", "green", "red")
        for method in ("gradcam", "hirescam")
    ]
    model = attnviz.load("tests.cli.tiny:colours")
    paths = sorted(photos.iterdir())
    for method in ("gradcam", "hirescam"):
        expected = attnviz.explain(model, paths, method=method, preprocess="imagenet")
        got = [r for r in rows if r["method"] == method]
        for i, row in enumerate(got):
            assert row["target"]["class"] == expected.target[i]
            assert row["target"]["score"] == pytest.approx(expected.score[i].item(), rel=1e-5)
            assert row["predicted"]["index"] == expected.target[i]
            assert row["layer"] == expected.layer
            assert row["units"] == expected.units
            assert row["map_size"] == list(expected.values.shape[1:])
            assert row["image_size"] == [30, 40]
            assert row["crop"] == pytest.approx(expected.geometry[i].crop)
            with Image.open(row["picture"]) as picture:
                assert picture.size == (40, 30)  # the photo's own resolution


def test_prediction_and_probability_are_right(run: Run, photos: Path) -> None:
    (photos / "labels.txt").write_text("the red\nthe green\nthe blue\n")
    done = run("explain", photos, *TINY, "--labels", photos / "labels.txt", "--json")
    seen = {Path(r["photo"]).stem: r["predicted"] for r in done.json["results"]}
    assert {k: v["label"] for k, v in seen.items()} == {
        "red": "the red", "green": "the green", "blue": "the blue",
    }  # fmt: skip
    model = attnviz.load("tests.cli.tiny:colours")
    prepare = attnviz.models.resolve_preprocess("imagenet")
    tensor, _ = prepare(attnviz.read_image(photos / "red.png"))
    expected = model.module(tensor[None]).softmax(1)[0, 0].item()
    assert seen["red"]["probability"] == pytest.approx(expected, rel=1e-5)


def test_the_picture_is_the_overlay_of_the_map(run: Run, photos: Path) -> None:
    done = run("explain", photos / "red.png", *TINY, "--format", "png", "--json")
    (row,) = done.json["results"]
    maps = attnviz.explain("tests.cli.tiny:colours", photos / "red.png", preprocess="imagenet")
    expected = np.asarray(maps.overlay(0))
    assert np.array_equal(np.asarray(Image.open(row["picture"])), expected)


def test_several_targets_and_a_contrast(run: Run, photos: Path) -> None:
    done = run("explain", photos / "red.png", *TINY, "--target", "0", "--target", "2", "--json")
    rows = done.json["results"]
    assert [r["target"]["class"] for r in rows] == [0, 2]
    assert [Path(r["picture"]).name for r in rows] == ["red.gradcam.0.jpg", "red.gradcam.2.jpg"]
    scores = [r["target"]["score"] for r in rows]
    done = run("explain", photos / "red.png", *TINY, "--target", "0", "--versus", "2", "--json",
               "--out", "other")  # fmt: skip
    (row,) = done.json["results"]
    assert row["target"]["class"] == "0 - 2"
    assert row["target"]["score"] == pytest.approx(scores[0] - scores[1], rel=1e-5)


def test_results_do_not_depend_on_the_batch_size(run: Run, photos: Path) -> None:
    for i in range(7):
        shutil.copy(photos / "red.png", photos / f"copy{i}.png")
    rows = [
        run("explain", photos, *TINY, "--json", "--batch-size", n, "--out", f"o{n}").json["results"]
        for n in (1, 3, 32)
    ]
    keep = [[(r["photo"], r["target"], r["predicted"]) for r in some] for some in rows]
    assert len(keep[0]) == 10
    for other in keep[1:]:
        for (photo, target, seen), (photo2, target2, seen2) in zip(keep[0], other, strict=True):
            assert (photo, target["class"]) == (photo2, target2["class"])
            assert target["score"] == pytest.approx(target2["score"], rel=1e-5)
            assert seen["probability"] == pytest.approx(seen2["probability"], rel=1e-5)


def test_results_are_lines_on_stdout(run: Run, photos: Path) -> None:
    done = run("explain", photos, *TINY)
    assert done.code == 0
    assert done.err == ""
    lines = done.out.splitlines()
    assert len(lines) == 3
    assert all("class" in line and line.endswith(".gradcam.jpg") for line in lines)


def test_panel(run: Run, photos: Path) -> None:
    done = run("explain", photos / "red.png", *TINY, "--panel")
    assert done.code == 0, done.err
    with Image.open("attnviz-out/red.gradcam.panel.jpg") as picture:
        assert picture.width > 3 * 40  # three pictures beside one another


def test_the_page_holds_every_photo_method_and_class(run: Run, photos: Path) -> None:
    (photos / "cut.png").write_bytes((photos / "red.png").read_bytes()[:60])
    done = run("explain", photos, *TINY, "--html", "page.html", "--method", "gradcam,layercam",
               "--target", "0", "--target", "2", "--batch-size", 2, "--json")  # fmt: skip
    assert done.code == 1
    assert "page.html: page of 3 photos" in done.err
    embedded = Path("page.html").read_text().split('type="application/json">')[1]
    items = json.loads(embedded.partition("</script>")[0])["items"]
    assert [i["name"] for i in items] == ["blue.png", "green.png", "red.png"]
    assert [i["groups"] for i in items] == [[f"seen as class {k}"] for k in (2, 1, 0)]
    drawn = [(m["method"], m["rank"], m["title"], m["figures"]) for i in items for m in i["maps"]]
    assert len(drawn) == len(done.json["results"]) == 12
    for (method, rank, title, figures), row in zip(drawn, done.json["results"], strict=True):
        assert (method, 2 * rank) == (row["method"], row["target"]["class"])
        assert title.startswith(row["target"]["label"])
        assert figures["score"] == pytest.approx(row["target"]["score"], rel=1e-3)
        if row["predicted"]["index"] == 2 * rank:
            assert figures["probability"] == pytest.approx(
                row["predicted"]["probability"], rel=1e-3
            )
    taken = run("explain", photos / "red.png", *TINY, "--html", "page.html", "--out", "other")
    assert (taken.code, Path("other").exists()) == (1, False)
    assert "page.html" in taken.err


@pytest.mark.peer("playwright.sync_api")
def test_the_page_is_clicked_through_in_a_browser(run: Run, photos: Path) -> None:
    from playwright import sync_api as playwright

    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium here to open the page with")
    done = run("explain", photos, *TINY, "--html", "page.html", "--method", "gradcam,layercam",
               "--target", "0", "--target", "2")  # fmt: skip
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "page.html: page of 3 photos"
    with playwright.sync_playwright() as p:
        running = p.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab, errors = running.new_page(), []
        tab.on("pageerror", lambda e: errors.append(str(e)))
        tab.goto(Path("page.html").resolve().as_uri())
        tab.select_option("#filter", "seen as class 2")
        assert tab.inner_text("#count") == "1 of 3 photos"
        tab.select_option("#method", "layercam")
        tab.select_option("#rank", "1")
        tab.click("figure button")
        assert tab.inner_text("#facts").startswith("blue.png · tests.cli.tiny:colours · layercam")
        assert tab.inner_text("#name").startswith("class 2")
        assert errors == []
        running.close()


def test_one_bad_photo_costs_only_itself(run: Run, photos: Path) -> None:
    good = (photos / "green.png").read_bytes()
    (photos / "cut.png").write_bytes(good[: len(good) // 2])
    (photos / "empty.jpg").touch()
    done = run("explain", photos, photos / "gone.jpg", *TINY, "--json", "--batch-size", 2)
    assert done.code == 1
    assert [Path(r["photo"]).name for r in done.json["results"]] == [
        "blue.png", "green.png", "red.png",
    ]  # fmt: skip
    failed = {Path(f["photo"]).name: f["error"] for f in done.json["failed"]}
    assert sorted(failed) == ["cut.png", "empty.jpg", "gone.jpg"]
    assert "0 bytes" in failed["empty.jpg"]
    assert len([line for line in done.err.splitlines() if line.startswith("error: ")]) == 3
    assert "3 of 6 photos failed" in done.err
    assert sorted(os.listdir("attnviz-out")) == [
        "blue.gradcam.jpg", "green.gradcam.jpg", "red.gradcam.jpg",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "make",
    [
        lambda p: Image.fromarray(np.full((9, 7), 40000, np.uint16)).save(p / "x.png"),
        lambda p: Image.new("CMYK", (9, 7), (0, 255, 255, 0)).save(p / "x.jpg"),
        lambda p: Image.new("P", (9, 7), 3).save(p / "x.png"),
        lambda p: Image.new("L", (9, 7), 3).save(p / "x.png"),
        lambda p: Image.new("RGBA", (9, 7), (255, 0, 0, 9)).save(p / "x.png"),
        lambda p: Image.new("RGB", (1, 1), (255, 0, 0)).save(p / "x.png"),
        lambda p: Image.new("RGB", (3000, 2), (255, 0, 0)).save(p / "x.png"),
    ],
    ids=["16-bit", "cmyk", "palette", "grey", "alpha", "1x1", "long"],
)
def test_unusual_photos_are_explained(run: Run, tmp_path: Path, make: Any) -> None:
    make(tmp_path)
    (photo,) = tmp_path.glob("x.*")
    done = run("explain", photo, *TINY, "--json")
    assert done.code == 0, done.err
    (row,) = done.json["results"]
    with Image.open(photo) as original, Image.open(row["picture"]) as picture:
        assert picture.size == original.size


def test_a_turned_photo_is_shown_upright(run: Run, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30), (255, 0, 0)).save(tmp_path / "x.jpg", exif=exif)
    (row,) = run("explain", tmp_path / "x.jpg", *TINY, "--json").json["results"]
    with Image.open(row["picture"]) as picture:
        assert picture.size == (30, 40)


def test_a_decompression_bomb_is_refused(run: Run, tmp_path: Path) -> None:
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")
    done = run("explain", tmp_path / "bomb.png", *TINY)
    assert done.code == 1
    assert "900 million pixels" in done.err


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--model", "resnet999x"], 1, "resnet999x"),
        (["--model", "tests.cli.tiny:nothing"], 1, "nothing"),
        (["--model", "tests.cli.tiny:broken"], 1, "a bug in the factory"),
        (["--model", "tests.cli.tiny:colours"], 1, "preprocess"),
        (["--model", "tests.cli.tiny:nan", "--preprocess", "imagenet"], 1, "NaN"),
        (["--model", "tests.cli.tiny:flat", "--preprocess", "imagenet"], 1, "no layer"),
        ([*TINY, "--target", "3"], 1, "0 to 2"),
        ([*TINY, "--target", "cat"], 1, "labels"),
        ([*TINY, "--layer", "feature"], 1, "did you mean 'features'"),
        ([*TINY, "--checkpoint", "none.safetensors"], 1, "none.safetensors"),
        ([*TINY, "--labels", "none.txt"], 1, "none.txt"),
        ([*TINY, "--device", "nonsense"], 1, "nonsense"),
        ([*TINY, "--method", "gradcma"], 2, "did you mean 'gradcam'"),
        ([*TINY, "--versus", "1"], 2, "--target"),
        ([*TINY, "--format", "gif"], 2, "jpg"),
        ([*TINY, "--batch-size", "0"], 2, "batch-size"),
        ([*TINY, "--nonsense"], 2, "--nonsense"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    run: Run, photos: Path, options: list[str], code: int, says: str
) -> None:
    done = run("explain", photos, *options)
    assert done.code == code, done.err
    first = done.err.splitlines()[0]
    assert first.startswith("error: ")
    assert says in first
    assert done.out == ""
    assert not Path("attnviz-out").exists() or os.listdir("attnviz-out") == []


@pytest.mark.parametrize("name", ["gone.jpg", "empty-folder", "*.nothing"])
def test_no_photo_is_an_error(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty-folder").mkdir()
    done = run("explain", tmp_path / name, *TINY)
    assert done.code == 1
    assert done.err.startswith("error: no ")


def test_nothing_is_overwritten_without_force(run: Run, photos: Path) -> None:
    out = Path("attnviz-out")
    out.mkdir()
    mine = out / "green.gradcam.jpg"
    mine.write_bytes(b"mine")
    done = run("explain", photos, *TINY)
    assert done.code == 1
    assert "1 of 3 output files exist" in done.err
    assert "--force" in done.err
    assert mine.read_bytes() == b"mine"
    assert os.listdir(out) == [mine.name]  # refused before anything was done
    assert run("explain", photos, *TINY, "--force").code == 0
    assert mine.read_bytes() != b"mine"
    assert len(os.listdir(out)) == 3


def test_a_second_run_over_a_folder_leaves_its_results_alone(run: Run, photos: Path) -> None:
    out = photos / "out"
    assert run("explain", photos, *TINY, "--out", out).code == 0
    assert run("explain", photos, *TINY, "--out", out, "--force").code == 0
    assert len(os.listdir(out)) == 3


def test_photos_of_one_name_get_results_of_their_own(run: Run, tmp_path: Path) -> None:
    for folder, colour in (("paris", (255, 0, 0)), ("rome", (0, 0, 255))):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8), colour).save(tmp_path / folder / "beach.png")
    done = run("explain", tmp_path / "*" / "*.png", *TINY, "--json")
    names = {Path(r["picture"]).name: r["predicted"]["index"] for r in done.json["results"]}
    assert names == {"paris-beach.gradcam.jpg": 0, "rome-beach.gradcam.jpg": 2}


def test_paths_come_from_stdin(run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{photos / 'red.png'}\n{photos / 'blue.png'}\n"))
    done = run("explain", "-", *TINY, "--json")
    assert [Path(r["photo"]).name for r in done.json["results"]] == ["red.png", "blue.png"]


def test_a_full_disk_leaves_no_half_file(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync
    calls = []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    done = run("explain", photos, *TINY)
    assert done.code == 1
    assert "No space left on device" in done.err
    written = os.listdir("attnviz-out")
    assert all(name.endswith(".gradcam.jpg") and not name.startswith(".") for name in written)
    for name in written:
        Image.open(Path("attnviz-out") / name).load()


def test_unexpected_errors_are_one_line_with_a_hint(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(_explaining, "explain", fail)
    done = run("explain", photos, *TINY)
    assert done.code == 1
    assert "error: unexpected ZeroDivisionError: by zero" in done.err
    assert "--debug" in done.err
    from attnviz.cli import main

    assert main(["explain", str(photos), *TINY, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_the_model_is_left_without_hooks(photos: Path) -> None:
    loaded = attnviz.load("tests.cli.tiny:colours")
    jobs = [_explaining.PhotoFiles(photos / "red.png", (photos / "out.jpg",))]
    (record,) = _explaining.explain_photos(loaded, jobs, methods=["gradcam"], preprocess="imagenet")
    assert record[0].predicted["index"] == 0
    assert not loaded.module._forward_hooks
    assert all(not m._forward_hooks for m in loaded.module.modules())
    assert all(p.grad is None for p in loaded.module.parameters())


def _start(args: list[Any], **options: Any) -> subprocess.Popen[str]:
    repo = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"}
    if os.name != "nt":  # a parent in the background ignores SIGINT, and its children inherit that
        options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        [sys.executable, "-m", "attnviz", *map(str, args)],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_exits_130_and_leaves_whole_files_only(tmp_path: Path, photos: Path) -> None:
    for i in range(40):
        shutil.copy(photos / "red.png", photos / f"copy{i}.png")
    slow = ["--model", "tests.cli.tiny:slow", "--preprocess", "imagenet", "--batch-size", 1]
    process = _start(["explain", photos, *slow, "--out", tmp_path / "out"])
    assert process.stdout is not None
    process.stdout.readline()  # one is done
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    written = list((tmp_path / "out").iterdir())
    assert 0 < len(written) < 43
    for path in written:
        assert not path.name.startswith(".")
        Image.open(path).load()


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
@pytest.mark.slow
def test_a_closed_pipe_is_quiet(tmp_path: Path, photos: Path) -> None:
    process = _start(["explain", photos, *TINY, "--out", tmp_path / "out"])
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert process.wait(timeout=60) == 1
    assert err == ""


@pytest.mark.slow
def test_ten_thousand_photos_do_not_pile_up(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held does not grow with the number of photos: decoded photos alive at one time."""
    import gc
    import weakref

    from attnviz.data import prepared

    alive: set[int] = set()
    most = 0
    real = prepared.read_image

    def read(path: Path) -> np.ndarray:
        nonlocal most
        array = real(path)
        alive.add(id(array))
        weakref.finalize(array, alive.discard, id(array))
        most = max(most, len(alive))
        return array

    monkeypatch.setattr(prepared, "read_image", read)
    monkeypatch.setattr(_explaining, "write_file", lambda *_, **__: None)
    loaded = attnviz.load("tests.cli.tiny:colours")
    small = attnviz.models.Preprocess(resize=(32, 32), crop=None)
    monkeypatch.setattr(_explaining, "resolve_preprocess", lambda *_: small)
    jobs = [
        _explaining.PhotoFiles(photos / "red.png", (tmp_path / f"{i}.jpg",)) for i in range(10_000)
    ]
    start = time.process_time()
    done = sum(1 for _ in _explaining.explain_photos(loaded, jobs, methods=["gradcam"]))
    gc.collect()
    assert done == 10_000
    assert most <= 5 * 32
    assert len(alive) == 0
    assert time.process_time() - start < 280


def test_checkpoint_weights_are_used(run: Run, photos: Path) -> None:
    from safetensors.torch import save_file

    state = attnviz.load("tests.cli.tiny:colours").module.state_dict()
    state["fc.bias"] = torch.tensor([0.0, 50.0, 0.0])
    save_file(state, photos / "w.safetensors")
    done = run("explain", photos, *TINY, "--checkpoint", photos / "w.safetensors", "--json")
    assert done.code == 0, done.err
    assert [r["predicted"]["index"] for r in done.json["results"]] == [1, 1, 1]


def test_a_box_of_a_detector_lies_on_the_photo(run: Run, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (300, 500, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    options = ["--model", "tests.cli.tiny:detector", "--preprocess", "imagenet", "--json"]
    done = run("explain", tmp_path / "photo.png", *options, "--target", "box:0", "--force")
    assert done.code == 0, done.err
    (row,) = done.json["results"]
    box = row["target"]["class"]["box"]
    text = "box:" + ",".join(map(str, box)) + f"@{row['target']['class']['class']}"
    # the input is the photo's middle; resized to 200 and padded to 224 inside the detector
    (left, top, right, bottom) = row["crop"]
    assert (right - left) == pytest.approx(262.5 * 224 / 200, rel=5e-3)
    assert left == pytest.approx((500 - 262.5) / 2, abs=1)
    assert top == pytest.approx((300 - 262.5) / 2, abs=1)
    assert left <= box[0] < box[2] <= left + 263
    again = run("explain", tmp_path / "photo.png", *options, "--target", text, "--force")
    assert again.code == 0, again.err
    assert again.json["results"][0]["target"] == row["target"]


def test_how_pictures_look_is_what_the_library_draws(run: Run, photos: Path) -> None:
    look = ("--colormap", "PuOr", "--alpha", "0.3", "--scale", "percentile:5,95")
    done = run("explain", photos / "red.png", *TINY, "--format", "png", *look, "--json")
    (row,) = done.json["results"]
    maps = attnviz.explain("tests.cli.tiny:colours", photos / "red.png", preprocess="imagenet")
    expected = maps.overlay(0, colormap="PuOr", alpha=0.3, mode="percentile:5,95")
    assert np.array_equal(np.asarray(Image.open(row["picture"])), np.asarray(expected))
    assert not np.array_equal(np.asarray(expected), np.asarray(maps.overlay(0)))


@pytest.mark.parametrize("kind", [(), ("--panel",)])
def test_figures_for_papers(run: Run, photos: Path, kind: tuple[str, ...]) -> None:
    done = run("explain", photos / "red.png", *TINY, *kind, "--format", "svg", "--json")
    (row,) = done.json["results"]
    text = Path(row["picture"]).read_text()
    assert "class 0" in text
    assert ("contours at" in text) == bool(kind)


def test_a_grid_of_all_photos_and_methods(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attnviz.heatmaps import pictures

    seen: list[Any] = []
    draw = pictures.grid
    monkeypatch.setattr(
        pictures, "grid", lambda shown, **more: seen.append(shown) or draw(shown, **more)
    )
    done = run("explain", photos, *TINY, "--method", "gradcam,hirescam", "--grid", "--out", "out")
    assert done.code == 0, done.err
    assert "grid of 3 photos" in done.out
    assert {n: len(m) for n, m in seen[0].items()} == {"gradcam": 3, "hirescam": 3}
    assert [Path(s).name for s in seen[0]["gradcam"].sources] == [
        "blue.png", "green.png", "red.png"
    ]  # fmt: skip
    with Image.open("out/grid.jpg") as sheet:
        assert sheet.height > 3 * 100
    again = run("explain", photos, *TINY, "--grid", "--out", "out", "--method", "layercam")
    assert again.code == 1
    assert "grid.jpg" in again.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--colormap", "virdis"), "did you mean 'viridis'"),
        (("--scale", "percentile:9"), "percentile:LOW,HIGH"),
        (("--scale", "minmx"), "did you mean 'minmax'"),
        (("--format", "eps"), "pdf, svg"),
    ],
)
def test_a_look_that_does_not_exist_is_said_before_the_model_is_loaded(
    run: Run, photos: Path, words: tuple[str, str], said: str
) -> None:
    done = run("explain", photos, "--model", "no.such:model", *words)
    assert done.code == 2
    assert said in done.err
    assert words[0] in done.err


def test_targets_by_commas_or_repeated_are_the_same(run: Run, photos: Path) -> None:
    found = []
    for words in (("--target", "0,2"), ("--target", "0", "--target", "class:2")):
        done = run("explain", photos / "red.png", *TINY, *words, "--json", "--force")
        found.append([r["target"] for r in done.json["results"]])
    assert found[0] == found[1]
    assert [t["class"] for t in found[0]] == [0, 2]
    done = run("explain", photos / "red.png", *TINY, "--target", "contrast:0,1", "--json")
    assert len(done.json["results"]) == 1


def test_ctrl_c_says_what_is_kept_and_resume_goes_on(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attnviz.cli._console import Progress

    shown: list[str] = []

    def stop(self: Progress, line: str) -> None:
        shown.append(line)
        if len(shown) == 2:
            raise KeyboardInterrupt

    command = ("explain", photos, *TINY, "--batch-size", "1", "--out", "out")
    with monkeypatch.context() as patched:
        patched.setattr(Progress, "result", stop)
        done = run(*command)
    assert done.code == 130
    assert "interrupted: 2 of 3 photos are written to 'out'; the same with --resume" in done.err
    # what was on its way is finished, so that it may be all three
    left = 3 - len(list(Path("out").iterdir()))
    Path("out/red.gradcam.jpg").unlink(missing_ok=True)
    again = run(*command, "--resume", "--json")
    assert [Path(r["photo"]).name for r in again.json["results"]] == ["red.png"], left
    done = run(*command, "--resume")
    assert (done.code, done.out) == (0, "")
    assert "3 of 3 photos have their pictures" in done.err


def test_resume_draws_anew_what_changed_since(run: Run, photos: Path, tmp_path: Path) -> None:
    """A photo or a checkpoint that is newer than its picture left the old picture in place."""
    import os

    from safetensors.torch import save_file

    from .tiny import colours

    save_file(colours().state_dict(), tmp_path / "w.safetensors")
    command = ("explain", photos, *TINY, "--checkpoint", tmp_path / "w.safetensors", "--out", "out")
    assert run(*command).code == 0
    long_ago = 1_500_000_000
    for path in [*photos.iterdir(), tmp_path / "w.safetensors"]:
        os.utime(path, (long_ago, long_ago))
    for path in Path("out").iterdir():
        os.utime(path, (long_ago + 10, long_ago + 10))
    assert "3 of 3 photos have their pictures" in run(*command, "--resume").err
    os.utime(photos / "red.png", (long_ago + 20, long_ago + 20))
    again = run(*command, "--resume", "--json")
    assert [Path(r["photo"]).name for r in again.json["results"]] == ["red.png"]
    assert "1 have changed since, or the weights have, and are drawn anew" in again.err
    os.utime(tmp_path / "w.safetensors", (long_ago + 20, long_ago + 20))
    assert len(run(*command, "--resume", "--json").json["results"]) == 2  # red's is new already


def test_resume_finishes_a_photo_of_which_one_picture_is_there(run: Run, photos: Path) -> None:
    """Of two methods' pictures one was written when the run was killed."""
    command = ("explain", photos / "red.png", *TINY, "--method", "gradcam,eigencam", "--out", "out")
    assert run(*command).code == 0
    Path("out/red.eigencam.jpg").unlink()
    assert run(*command, "--resume").code == 0
    assert Path("out/red.eigencam.jpg").exists()


def test_options_of_methods(run: Run, photos: Path) -> None:
    """They reach the methods that take them; a wrong one is told before the model is loaded."""
    model, photo = attnviz.load("tests.cli.tiny:colours"), photos / "red.png"
    words = ("explain", photo, *TINY, "--format", "png", "--force", "--json", "--method")
    options: dict[str, Any] = {"steps": 3, "baseline": "blur"}
    given = [part for name, value in options.items() for part in ("--set", f"{name}={value}")]
    done = run(*words, "integrated_gradients,gradcam", *given)
    assert done.code == 0, done.err
    methods = ["integrated_gradients", "gradcam"]
    want = attnviz.explain(model, photo, preprocess="imagenet", method=methods, **options)
    for row in done.json["results"]:
        drawn = np.asarray(Image.open(row["picture"]))
        np.testing.assert_array_equal(drawn, np.asarray(want[row["method"]].overlay(0)))
    usual = attnviz.explain(model, photo, preprocess="imagenet", method=methods[0])
    assert (usual.values != want[methods[0]].values).any()
    for word, said in (
        ("step=3", "'step' is no option of integrated_gradients; did you mean 'steps'"),
        ("steps=many", "steps='many': integrated_gradients takes a number, such as 50"),
        ("steps", "expected NAME=VALUE"),
    ):
        done = run("explain", photo, "--model", "none:none", "--method", "ig", "--set", word)
        assert done.code == 2
        assert said in " ".join(done.err.replace("│", " ").split())


def test_options_of_methods_in_shards(run: Run, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    done = run("explain", photos, *TINY, "--shards", "--method", "occlusion", "--set", "window=90",
               "--out", out)  # fmt: skip
    assert done.code == 0, done.err
    model, paths = attnviz.load("tests.cli.tiny:colours"), sorted(photos.iterdir())
    want = attnviz.explain(model, paths, preprocess="imagenet", method="occlusion", window=90)
    rows = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        made = attnviz.Heatmaps.load(out / row["shard"])[row["row"]]
        torch.testing.assert_close(made.values[0], want.values[i])
