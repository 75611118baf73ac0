"""`attnviz serve`: every control in a browser, and what it refuses."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import attnviz
from attnviz.app import launch, page
from attnviz.audit import confusion
from attnviz.cli import main
from attnviz.data import boatwater as bw
from attnviz.errors import DataError, EnvironmentFault
from attnviz.images import photo_values
from attnviz.models import LoadedModel, reading, resolve_preprocess
from tests.audit import makers
from tests.cli.tiny import colours, two_heads

HOSTILE = "<img src=x onerror='window.hurt=1'>"


def test_without_gradio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(EnvironmentFault, match=r"pip install 'attnviz\[app\]'"):
        page({})


@pytest.mark.peer("gradio")
def test_what_is_said_around_the_page_holds_in_the_servers_threads(tmp_path: Path) -> None:
    """`serve --logits`, `--bands` and `--window` were read and had no effect."""
    photo = tmp_path / "16bit.png"
    Image.fromarray(np.arange(0, 64 * 64 * 16, 16, np.uint16).reshape(64, 64)).save(photo)
    module = two_heads()
    loaded = LoadedModel(module.eval(), "two", resolve_preprocess("unit", module, None))
    with reading(output="heads.minus"), photo_values(window=(0, 32000)):
        expected = attnviz.explain(loaded, str(photo))
        (look,) = (f.fn for f in page({"two": loaded}).fns.values() if f.name == "look")
    with ThreadPoolExecutor(1) as server:
        said = server.submit(
            look, str(photo), "two", "gradcam", "(default)", "", "(none)", "(none)"
        ).result()[-1]
    assert f"{expected.label[0]}, score {float(expected.score[0]):.4g};" in said


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no audit.json and no report.html"),
        ({"audit.json": "{}"}, "no report.html in it"),
        ({"audit.json": "[1]", "report.html": ""}, "is damaged"),
        ({"audit.json": '{"schema": "coco"}', "report.html": ""}, "not written by `attnviz audit`"),
    ],
)
@pytest.mark.peer("gradio")
def test_a_folder_without_a_finished_audit_is_refused_at_the_start(
    files: dict[str, str], said: str, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        page({}, audits=[tmp_path])


def _models() -> dict[str, LoadedModel]:
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", embed_dim=24, num_heads=2, depth=2, num_classes=3
    ).eval()
    found = {}
    for name, module in (("colours", colours()), ("vit", vit)):
        read = resolve_preprocess("imagenet", module, None)
        found[name] = LoadedModel(module.eval(), name, read, ("red", HOSTILE, "blue"))
    return found


@pytest.fixture
def tab(tmp_path: Path):
    from playwright import sync_api as playwright

    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium here to open the page with")
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[:, :200, 0] = 255
    Image.fromarray(pixels).save(tmp_path / "red.png")
    Image.new("RGB", (9000, 6000)).save(tmp_path / "huge.png")  # few bytes, many pixels
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "heavy.png")
    found = confusion(
        makers.reads_water(), bw.generate(groups=bw.balanced(4), seed=3, marked=True),
        object="boat", context="water", labels=("other", "boat"), methods=("gradcam",),
        fills=("mean",), examples=1,
    )  # fmt: skip
    found.save(tmp_path / "audited")
    blocks = page(_models(), audits=[tmp_path / "audited"], upload_bytes=300_000)
    address = launch(blocks, upload_bytes=300_000, wait=False)
    with playwright.sync_playwright() as p:
        running = p.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = running.new_page(viewport={"width": 1200, "height": 1000})
        tab.asked, tab.errors, tab.address = [], [], address
        tab.on("request", lambda r: tab.asked.append(r.url))
        tab.on("pageerror", lambda e: tab.errors.append(str(e)))
        tab.goto(address)
        tab.wait_for_selector("#look")
        yield tab
        running.close()
    blocks.close(verbose=False)


def _choose(tab, place: str, value: str) -> None:
    tab.click(f"{place} input")
    tab.click(f"{place} [role=option][aria-label='{value}']")


def _drop(tab, path: Path) -> None:
    tab.goto(tab.address)  # a field that holds a file takes no other
    tab.wait_for_selector("#look")
    tab.set_input_files("#photo input[type=file]", str(path))


def _look(tab, words: str) -> str:
    """Press the button, and wait until the facts hold some words."""
    tab.click("#look")
    return _facts(tab, words)


def _facts(tab, words: str) -> str:
    tab.wait_for_function(
        "(words) => document.querySelector('#facts textarea').value.includes(words)", arg=words
    )
    return tab.locator("#facts textarea").input_value()


def _refused(tab, words: str) -> None:
    tab.wait_for_selector(f".toast-body:has-text('{words}')")
    for close in tab.locator(".toast-close").all():
        close.click()
    tab.wait_for_selector(".toast-body", state="detached")


@pytest.mark.slow
@pytest.mark.peer("gradio", "playwright.sync_api")
def test_every_control_does_what_it_says(tab, tmp_path: Path) -> None:
    tab.click("#audit input")
    tab.click(f"#audit [role=option][aria-label*='{tmp_path / 'audited'}']")
    report = tab.frame_locator("#report iframe")
    report.locator("text=boat, no water").first.wait_for()
    assert tab.locator("#report iframe").get_attribute("sandbox") == "allow-scripts"
    _choose(tab, "#audit", "(none)")
    tab.wait_for_selector("#report iframe", state="detached")
    tab.click("#look")
    _refused(tab, "no photo yet")
    _drop(tab, tmp_path / "heavy.png")
    _refused(tab, "exceed the maximum allowed size")
    _drop(tab, tmp_path / "huge.png")
    tab.wait_for_selector("#photo :text('huge')")
    tab.click("#look")
    _refused(tab, "54 million pixels; at most 50")

    _drop(tab, tmp_path / "red.png")
    tab.wait_for_selector("#photo :text('red')")
    loaded = _models()["colours"]
    expected = attnviz.explain(loaded, str(tmp_path / "red.png"))
    said = _look(tab, "colours: gradcam at ")
    assert str(expected.boxes(0.5, which="all")[0].tolist()) in said
    assert f"red, score {float(expected.score[0]):.4g}" in said
    share = 100 * float(expected.probability[0])
    for words in (f"{share:.0f}%", HOSTILE):  # as text
        tab.wait_for_function(
            "(words) => document.querySelector('#classes').innerText.includes(words)", arg=words
        )
    tab.wait_for_selector("#map img")
    assert not tab.locator("#other img").count()
    assert not tab.locator("#attention img").count()
    assert "No attention" in said

    tab.fill("#target textarea, #target input", "blue")
    _choose(tab, "#layer", "blur")
    assert "colours: gradcam at blur, blue" in _look(tab, "at blur")
    _choose(tab, "#method", "hirescam")
    _choose(tab, "#other-method", "layercam")
    said = _look(tab, "layercam")
    assert "colours: hirescam at blur, blue" in said
    assert "colours: layercam at blur, blue" in said
    tab.wait_for_selector("#other img")
    _choose(tab, "#other-method", "(none)")
    _choose(tab, "#other-model", "vit")
    assert "vit: hirescam at blocks" in _look(tab, "vit")
    _choose(tab, "#other-model", "(none)")
    _choose(tab, "#model", "vit")
    tab.wait_for_function("() => document.querySelector('#layer input').value == '(default)'")
    tab.click("#look")
    tab.wait_for_selector("#attention img")
    said = _facts(tab, "vit: hirescam at blocks")
    assert said.startswith("vit: hirescam at blocks")
    assert "No attention" not in said

    for target in ("region:/etc/passwd", "embedding:/etc/passwd"):
        tab.fill("#target textarea, #target input", target)
        tab.click("#look")
        _refused(tab, "file of the server")
    tab.fill("#target textarea, #target input", HOSTILE + "?")
    tab.click("#look")
    _refused(tab, "not")
    assert tab.evaluate("window.hurt === undefined")
    outside = [u for u in tab.asked if not u.startswith((tab.address, "data:", "blob:"))]
    assert outside == []  # no font, no counter, nothing
    assert tab.errors == []


@pytest.mark.slow
@pytest.mark.peer("gradio")
def test_the_command_serves_this_machine_alone_until_it_is_stopped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = subprocess.Popen(
        [sys.executable, "-m", "attnviz", "serve", "--port", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert running.stdout.readline().startswith(f"http://127.0.0.1:{port}/")
        listening = {
            line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
            if line.split()[3] == "0A" and int(line.split()[1].partition(":")[2], 16) == port
        }  # fmt: skip
        assert {entry.partition(":")[0] for entry in listening} == {"0100007F"}  # loopback
        assert main(["serve", "--port", str(port)]) == 1
        assert "choose another --port" in capsys.readouterr().err
    finally:
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=30)
    assert (running.returncode, err.strip()) == (0, "stopped")
