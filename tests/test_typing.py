"""What a type checker says of the public names, to someone who uses them."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import attnviz
from attnviz import explaining, models

USED = """\
import attnviz

one = attnviz.explain(None, "a.jpg", method="gradcam", layer="blocks.6")
by_method = attnviz.explain(None, "a.jpg", method=["gradcam", "hirescam"], alpha=1)
by_layer = attnviz.explain(None, "a.jpg", layer=["blocks.5", "blocks.6"])
reveal_type(one)
reveal_type(by_method)
reveal_type(by_layer)
one.overlay(0)
attnviz.explian(None, "a.jpg")
attnviz.models.lode("timm:resnet18")
one.overlai(0)
attnviz.explain(None, "a.jpg", 3)
"""


@pytest.mark.slow
def test_a_checker_knows_the_public_names(repo: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyright", reason="pyright is the checker asked")
    (tmp_path / "used.py").write_text(USED)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(repo)]}))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run([*command, "used.py"], capture_output=True, text=True, cwd=tmp_path)
    if not done.stdout.startswith("{"):
        pytest.skip(f"pyright does not run here: {(done.stderr + done.stdout)[-200:]}")
    said = json.loads(done.stdout)["generalDiagnostics"]
    types = [re.findall('"(.+?)"', d["message"])[1] for d in said if d["severity"] != "error"]
    assert types == ["Heatmaps", "dict[str, Heatmaps]", "dict[str, Any]"]
    errors = [(d["range"]["start"]["line"] + 1, d["message"]) for d in said
              if d["severity"] == "error"]  # fmt: skip
    assert [line for line, _ in errors] == [10, 11, 12, 13], errors
    assert all(name in text for name, (_, text) in zip(
        ("explian", "lode", "overlai", "No overloads"), errors, strict=True
    )), errors  # fmt: skip


@pytest.mark.parametrize("module", [attnviz, models], ids=lambda m: m.__name__)
def test_a_checker_sees_every_name_and_where_it_comes_from(module: object) -> None:
    guarded = next(n for n in ast.parse(inspect.getsource(module)).body if isinstance(n, ast.If))
    assert ast.unparse(guarded.test) == "TYPE_CHECKING"
    there = {name.name: line.module or "" for line in guarded.body for name in line.names}
    stated = {name: place.removeprefix("attnviz.") for name, place in module._PUBLIC.items()}
    assert there == stated


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.11 keeps overloads")
def test_every_form_of_explain_takes_what_explain_takes() -> None:
    import typing

    taken = dict(inspect.signature(explaining.explain).parameters)
    forms = typing.get_overloads(explaining.explain)
    assert len(forms) == 3
    for form in forms:
        stated = inspect.signature(form).parameters
        assert {n: p.kind for n, p in stated.items()} == {n: p.kind for n, p in taken.items()}
        for name in set(stated) - {"method", "layer"}:
            assert stated[name].annotation == taken[name].annotation, name


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(attnviz.__file__).parent / "py.typed").is_file()
