"""The command line itself, and the small commands."""

from __future__ import annotations

import ast
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import attnviz
import attnviz.cli
from attnviz.methods import METHODS

from .conftest import Done

Run = Callable[..., Done]
HEAVY = {"torch", "torchvision", "timm", "numpy", "PIL", "matplotlib"}
COMMANDS = [
    m.name for m in pkgutil.iter_modules(attnviz.cli.__path__) if not m.name.startswith("_")
]


@pytest.mark.parametrize("args", [["--help"], *[[c.replace("_", "-"), "--help"] for c in COMMANDS]])
def test_help_needs_no_heavy_package(args: list[str]) -> None:
    code = (
        "import sys\nfrom attnviz.cli import main\n"
        f"code = main({args!r})\n"
        f"print(sorted({HEAVY} & set(sys.modules)), file=sys.stderr)\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
    assert "Usage: attnviz" in done.stdout


def test_a_file_is_a_command(run: Run) -> None:
    done = run("--help")
    assert {"demo", "doctor", "explain", "layers", "methods"} <= set(COMMANDS)
    for name in COMMANDS:
        assert f" {name.replace('_', '-')} " in done.out


def test_each_command_module_says_what_it_is() -> None:
    for name in COMMANDS:
        path = Path(attnviz.cli.__path__[0]) / f"{name}.py"
        functions = {
            n.name: n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)
        }
        assert ast.get_docstring(functions[name]), name


@pytest.mark.parametrize(
    ("args", "code", "out", "err"),
    [
        (["--version"], 0, f"attnviz {attnviz.__version__}", ""),
        ([], 2, "", "Usage: attnviz"),
        (["expalin"], 2, "", "did you mean 'explain'"),
        (["--nonsense"], 2, "", "--nonsense"),
        (["explain"], 2, "", "PHOTO"),
        (["methods", "--family", "camm"], 2, "", "did you mean 'cam'"),
        (["layers", "torchvision:resnet"], 1, "", "resnet18"),
    ],
)
def test_usage(run: Run, args: list[str], code: int, out: str, err: str) -> None:
    done = run(*args)
    assert done.code == code
    assert out in done.out
    assert err in done.out + done.err if not err.startswith("Usage") else err in done.err + done.out


def test_methods_lists_the_registry(run: Run) -> None:
    done = run("methods", "--json")
    assert done.json["schema"] == "attnviz.methods"
    # read off the files, without importing them: what the registry holds once they are imported
    registered = {e.name: (e.family, e.summary, e.paper) for e in METHODS}
    listed = {m["name"]: (m["family"], m["summary"], m["paper"]) for m in done.json["methods"]}
    assert listed == registered
    families = [m["family"] for m in done.json["methods"]]
    assert families == sorted(families)
    assert all(m["summary"] and m["paper"] for m in done.json["methods"])
    plain = run("methods").out
    assert sorted(line.split()[0] for line in plain.splitlines()[1:]) == METHODS.names()


def test_layers_marks_the_layer_that_explain_takes(run: Run, photo: Path) -> None:
    done = run("layers", "--json")
    assert done.code == 0
    defaults = [row for row in done.json["layers"] if row["default"]]
    maps = attnviz.explain(attnviz.load(pretrained=False), photo)
    assert [row["name"] for row in defaults] == [maps.layer]
    assert defaults[0]["shape"][1:] == list(maps.values.shape[1:])
    assert f"\n{maps.layer} " in run("layers").out


def test_doctor_finds_all_well(run: Run, no_network: None) -> None:
    done = run("doctor", "--json")
    assert done.code == 0, done.out
    checks = {c["name"]: c for c in done.json["checks"]}
    assert done.json["ok"]
    assert {"torch", "torchvision", "timm", "embedded model", "what it sees"} <= set(checks)
    assert "military uniform" in checks["what it sees"]["message"]


def test_doctor_says_what_is_broken(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from attnviz.errors import EnvironmentFault
    from attnviz.models import installation

    def broken() -> None:
        raise EnvironmentFault("operator torchvision::nms does not exist. Reinstall both")

    monkeypatch.setattr(installation, "import_torchvision", broken)
    done = run("doctor")
    assert done.code == 1
    assert "broken: torchvision" in done.out
    assert "Reinstall both" in done.out


def test_doctor_notices_damaged_weights(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from attnviz.cli import doctor

    loaded = attnviz.load(pretrained=False)  # the right network without the right weights
    wrong = attnviz.models.LoadedModel(
        loaded.module, loaded.name, loaded.preprocess, attnviz.models.imagenet_labels()
    )
    monkeypatch.setattr(attnviz.models, "load", lambda: wrong)
    ok, message = doctor._sees()
    assert not ok
    assert "expected 'military uniform'" in message


def test_demo_works_again_and_again(run: Run, no_network: None) -> None:
    done = run("demo")
    assert done.code == 0, done.err
    assert "military uniform" in done.out
    picture = Path(done.out.split("picture")[1].strip())
    assert picture.is_absolute()
    assert picture.parent == Path.cwd() / "attnviz-out"
    with Image.open(picture) as shown:
        shown.load()
    first = picture.read_bytes()
    assert run("demo").code == 0
    assert os.listdir("attnviz-out") == [picture.name]
    # a file of the user's under that name is not touched
    picture.write_bytes(b"mine")
    done = run("demo", "--json")
    assert done.code == 0
    assert picture.read_bytes() == b"mine"
    other = Path(done.json["picture"])
    assert other != picture
    assert other.read_bytes() == first
    assert done.json["predicted"]["label"] == "military uniform"


def test_warnings_are_lines(run: Run, tmp_path: Path) -> None:
    """A map that is empty by construction warns, in one line without the place in the code."""
    Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
    done = run(
        "explain", tmp_path / "black.png", "--model", "tests.cli.tiny:colours",
        "--preprocess", "imagenet", "--json",
    )  # fmt: skip
    assert done.code == 0
    (row,) = done.json["results"]
    assert row["no_evidence"] is True
    assert all(line.startswith("warning: ") for line in done.err.splitlines())
    assert ".py:" not in done.err


def test_python_m_attnviz() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "attnviz", "--version"], capture_output=True, text=True
    )
    assert done.stdout.strip() == f"attnviz {attnviz.__version__}"


def test_gallery_lists_its_cards(run: Run) -> None:
    listed = run("gallery", "--list", "--json")
    names = [card["name"] for card in listed.json["cards"]]
    assert {"stn", "cbam_channel", "cbam_spatial"} <= set(names)
    both = run("gallery", "--list", "--only", "cbam,stn")
    assert [line.split()[0] for line in both.out.splitlines()[1:]] == [
        n for n in names if n.startswith("cbam") or n == "stn"
    ]
    assert run("gallery", "--list", "--only", "cbm").code == 2


def test_a_shell_completes_commands_and_options() -> None:
    def completed(words: str) -> list[str]:
        env = os.environ | {
            "_ATTNVIZ_COMPLETE": "complete_bash", "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }  # fmt: skip
        command = [sys.executable, "-m", "attnviz"]
        return subprocess.run(command, env=env, capture_output=True, text=True).stdout.split()

    assert completed("attnviz expl") == ["explain"]
    assert "--colormap" in completed("attnviz explain --col")
