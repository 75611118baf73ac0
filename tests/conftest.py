"""What all tests share. Tests need no network, no screen and no data outside the repository."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

REPO = Path(__file__).resolve().parents[1]

# small tensors gain nothing from many threads, and lose where several runs share a machine
torch.set_num_threads(min(2, torch.get_num_threads()))


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--campaign SIZE`: how much tests/campaign tries."""
    parser.addoption("--campaign", type=float, default=0.1, help="size of tests/campaign")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what compares with a peer that does not import here, whatever it raises."""
    for marker in item.iter_markers("peer"):
        for name in marker.args:
            try:
                importlib.import_module(name)
            except Exception as error:
                pytest.skip(f"{name} does not import: {type(error).__name__}: {error}")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def campaign(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """A function: how often at size 1 -> how often here; the sum is noted with the test."""
    size = request.config.getoption("--campaign")

    def often(at_size_one: int) -> int:
        count = max(1, round(at_size_one * size))
        request.node.user_properties.append(("tried", count))
        return count

    return often


@pytest.fixture(scope="session")
def repo() -> Path:
    """The top folder of the repository."""
    return REPO


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of development data, which is not part of the repository."""
    default = REPO.parent / "shared" / "data"
    path = Path(os.environ.get("ATTNVIZ_SHARED_DATA", default))
    if not path.is_dir():
        pytest.skip("needs the development data: set ATTNVIZ_SHARED_DATA to its folder")
    return path


@pytest.fixture(scope="session")
def photo() -> Path:
    """A real photo that comes with a package: Grace Hopper in uniform, 606 x 512 (h x w), RGB."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


@pytest.fixture
def newcomer(tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what README and docs speak of: photos, scenes, and a model of one's own."""
    import json
    import shutil

    import timm
    from PIL import Image

    from attnviz.data.boatwater import generate

    shutil.copy(photo, tmp_path / "photo.jpg")
    for folder in ("photos", "more"):
        (tmp_path / folder).mkdir()
    shutil.copy(photo, tmp_path / "photos" / "one.jpg")
    Image.open(photo).save(tmp_path / "more" / "two.png")
    generate(16).write(tmp_path / "labelled")
    folders = tmp_path / "scenes"
    for i, sample in enumerate(generate(groups=[3] * 50 + [0] * 12).dataset()):
        for folder in (folders / str(sample.label), folders / "masks" / "boat"):
            folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.read()).save(folders / str(sample.label) / f"{i}.png")
        if sample.label == "boat" and i % 5 == 0:
            mask = Image.fromarray(sample.mask("boat").astype("uint8"))
            mask.save(folders / "masks" / "boat" / f"{i}.png")
    net = timm.create_model("resnet18", num_classes=2)
    torch.save(net.state_dict(), tmp_path / "boats.pth")
    (tmp_path / "labels.txt").write_text("boat\nother\n")
    (tmp_path / "my_model.py").write_text(
        "import timm\n\n\ndef build():\n    return timm.create_model('resnet18', num_classes=2)\n"
    )
    own = {"resize": [128, 128], "crop": None, "mean": [0.4, 0.45, 0.42], "std": [0.2, 0.2, 0.2]}
    (tmp_path / "preprocess.json").write_text(json.dumps(own))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to reach another machine fails the test."""

    def refuse(self: socket.socket, address: object) -> None:
        raise AssertionError(f"a connection to {address} was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def open_in_browser(tmp_path):
    """Return a function: page -> (its DOM after the scripts ran, the addresses it asked)."""
    import json
    import shutil
    import subprocess

    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium here to open the page with")

    def run(page):
        log = tmp_path / "net.json"
        done = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
             "--no-first-run", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}",
             "--virtual-time-budget=5000", "--dump-dom", page.as_uri()],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        net = json.loads(log.read_text())
        start = net["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
        started = [e["params"] for e in net["events"] if e["type"] == start and e.get("params")]
        # what the browser asks on its own account has no origin
        asked = [p["url"] for p in started if p.get("initiator") != "not an origin" and "url" in p]
        return done.stdout, [url for url in asked if url.startswith(("http", "ws"))]

    return run
