"""A broken installation is told in one line, with the fix."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from attnviz.errors import EnvironmentFault
from attnviz.models import environment as _environment
from attnviz.models.installation import check


def _fail(monkeypatch: pytest.MonkeyPatch, error: BaseException, only: str = "torchvision") -> None:
    real = importlib.import_module

    def fake(name: str, package: str | None = None) -> object:
        if name.split(".")[0] == only:
            raise error
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", fake)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("operator torchvision::nms does not exist"),
        OSError("libcudart.so.13: cannot open shared object file"),
        ImportError("cannot import name '_C'"),
        AttributeError("partially initialized module 'torchvision' has no attribute 'extension'"),
    ],
)
def test_torchvision_of_another_build(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    _fail(monkeypatch, error)
    for use in (_environment.import_torchvision, _environment.import_timm):
        with pytest.raises(EnvironmentFault) as info:
            use()
        message = str(info.value)
        assert str(error) in message
        assert "\n" not in message
        assert "uv pip install --reinstall torch torchvision --torch-backend" in message
    rows = {name: (ok, text) for name, ok, text in check()}
    assert rows["torchvision"][0] is False
    assert "--torch-backend" in rows["torchvision"][1]
    assert rows["torch"][0] is True


def test_torchvision_that_imports_without_its_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    monkeypatch.setattr(torchvision.extension, "_has_ops", lambda: False)
    with pytest.raises(EnvironmentFault, match="torchvision::nms does not exist"):
        _environment.import_torchvision()


def test_torchvision_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    _fail(monkeypatch, ModuleNotFoundError("No module named 'torchvision'", name="torchvision"))
    with pytest.raises(EnvironmentFault, match="torchvision is not installed; install it"):
        _environment.import_torchvision()


def test_this_installation_is_fine() -> None:
    rows = check()
    assert [name for name, ok, _ in rows if not ok] == []
    names = [name for name, _, _ in rows]
    assert names[:3] == ["python", "torch", "torchvision"]
    assert names[-1] == "embedded model"
    assert all("\n" not in text and text for _, _, text in rows)


def test_optional_parts_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda n, *a: None if n in ("transformers", "cv2") else find(n, *a),
    )
    rows = {name: (ok, text) for name, ok, text in check()}
    ok, text = rows["transformers"]
    assert ok
    assert "attnviz[hf]" in text
    ok, text = rows["opencv-python"]
    assert not ok
    assert "pip install opencv-python" in text


def test_the_first_use_says_it_too() -> None:
    """In a fresh interpreter whose torchvision fails as a mismatched pair does."""
    code = (
        "import sys, importlib.abc\n"
        "class Broken(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torchvision':\n"
        "            raise RuntimeError('operator torchvision::nms does not exist')\n"
        "sys.meta_path.insert(0, Broken())\n"
        "import attnviz\n"
        "from attnviz.errors import EnvironmentFault\n"
        "try:\n"
        "    attnviz.load()\n"
        "except EnvironmentFault as fault:\n"
        "    print(fault)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torchvision::nms does not exist" in done.stdout
    assert done.stdout.count("\n") == 1
