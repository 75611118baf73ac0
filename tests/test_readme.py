"""What a newcomer pastes from the README runs, and its tables and pictures are in step."""

from __future__ import annotations

import ast
import re
import shlex
from itertools import chain
from pathlib import Path

import pytest

from attnviz.cli import main

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 220


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


#: commands that train, or judge many images: some minutes
LONG = ("attnviz audit", "attnviz guide")
COMMANDS = [
    pytest.param(
        line,
        marks=[pytest.mark.slow, pytest.mark.timeout(1200)] if line.startswith(LONG) else [],
        id=line.partition("#")[0].strip(),
    )
    for block in blocks("bash")
    for line in block.splitlines()
    if line.startswith("attnviz ") and "downloads" not in line
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_run(newcomer: Path, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line, comments=True)[1:]
    if ">" in words:
        words = words[: words.index(">")]
    code = main(words)
    out, err = capsys.readouterr()
    assert (code, bool(out)) == (0, True), err
    if words[0] == "audit":
        assert re.match("verdict  (reads|leans|unclear)", out)
    if words[0] == "explain":
        out = words[words.index("--out") + 1] if "--out" in words else "attnviz-out"
        assert any((newcomer / out).iterdir())


def test_python_runs(newcomer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    snippets = blocks("python")
    assert len(snippets) >= 3
    for snippet in snippets:
        exec(compile(ast.parse(snippet), "README.md", "exec"), names)
    assert re.match("(boat|other) ", capsys.readouterr().out)
    assert (newcomer / "overlay.png").is_file()
    assert names["cap"].gradients is not None  # type: ignore[attr-defined]


def test_pictures_are_there_and_small(repo: Path) -> None:
    named = re.findall(r"!\[.+?\]\((.+?)\)", README)
    assert len(named) == 2
    for path in named:
        assert 0 < (repo / path).stat().st_size < 300_000, path


@pytest.mark.slow
def test_pictures_are_made_by_the_command(repo: Path, tmp_path: Path) -> None:
    """Here and there differ by rounding at most: other versions, threads and processors."""
    pytest.importorskip("skimage", reason="the photo of the coffee comes with scikit-image")
    pytest.importorskip("sklearn", reason="the photo of the palace comes with scikit-learn")
    import runpy

    import numpy as np
    from PIL import Image

    names = runpy.run_path(str(repo / "assets" / "make_pictures.py"))
    names["main"](tmp_path)
    for made in tmp_path.iterdir():
        new = np.asarray(Image.open(made)).astype(float)
        kept = np.asarray(Image.open(repo / "assets" / made.name)).astype(float)
        assert new.shape == kept.shape, f"{made.name}: run python assets/make_pictures.py"
        difference = np.abs(new - kept).mean()
        assert difference < 1, f"{made.name}: run python assets/make_pictures.py ({difference})"


def test_the_first_two_commands_are_those_that_ci_runs(repo: Path) -> None:
    first = [line for block in blocks("bash") for line in block.splitlines()][:2]
    assert first == ["pip install uv && uv run attnviz demo", "uv run --dev pytest"]
    assert "README.md | head -2" in (repo / ".ci" / "run").read_text()


def test_exact_versions_name_no_host_and_fit_their_ranges(repo: Path) -> None:
    """Each dependency that pyproject.toml names has its version in the list, for each Python."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML itself")
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    stated = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))
    pinned: dict[str, list[str]] = {}
    for line in stated["tool"]["uv"]["constraint-dependencies"]:
        assert re.fullmatch(r"[a-z0-9._-]+==[0-9a-z.+]+( ; .+)?", line), line
        pin = Requirement(line)
        pinned.setdefault(pin.name, []).append(str(pin.specifier).removeprefix("=="))
    extras, groups = stated["project"]["optional-dependencies"], stated["dependency-groups"]
    lists = [stated["project"]["dependencies"], *extras.values(), *groups.values()]
    for line in chain.from_iterable(lists):
        asked = Requirement(line)
        if asked.name == "attnviz":
            continue
        versions = pinned.get(canonicalize_name(asked.name))
        assert versions, f"{line} is not pinned: run `bash .ci/run constraints`"
        assert all(asked.specifier.contains(v) for v in versions), (line, versions)
