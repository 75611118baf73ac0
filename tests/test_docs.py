"""The pages of .github/docs: what stands in them runs, links lead somewhere, lists are complete."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
import shlex
from pathlib import Path

import pytest

from attnviz import errors
from attnviz.cli import main

REPO = Path(__file__).resolve().parents[1]
DOCS = REPO / ".github" / "docs"
PAGES = {p.name: p.read_text(encoding="utf-8") for p in sorted(DOCS.glob("*.md"))}
#: data.md speaks of data that somebody annotated
COMMANDS = {
    line.partition("#")[0].strip(): None
    for name, text in PAGES.items()
    if name != "data.md"
    for block in re.findall(r"```bash\n(.*?)```", text, re.S)
    for line in block.splitlines()
    if line.startswith("attnviz ")
}


@pytest.mark.parametrize("page", [n for n, text in PAGES.items() if "```python" in text])
def test_python_runs(page: str, newcomer: Path) -> None:
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGES[page], re.S):
        exec(compile(ast.parse(block), page, "exec"), names)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("line", COMMANDS)
def test_commands_run(line: str, newcomer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(shlex.split(line)[1:])
    out, err = capsys.readouterr()
    assert (code, bool(out)) == (0, True), err


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for place in re.findall(r"\]\(([^)#]+)", PAGES[page]):
        if not place.startswith("https://"):
            assert (DOCS / place).exists(), place


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (REPO / "README.md").read_text(encoding="utf-8")
    for place in re.findall(r"\]\(([^)#]+)", text):
        assert place.startswith("https://") or (REPO / place).exists(), place
    assert set(PAGES) - {"all-methods.md"} <= set(re.findall(r"docs/([\w-]+\.md)", text))


def test_what_is_generated_is_in_step() -> None:
    written = runpy.run_path(str(REPO / "assets" / "update_readme.py"))["pages"]()
    for path, text in written.items():
        assert path.read_text(encoding="utf-8") == text, "run python assets/update_readme.py"


def test_every_error_has_its_cause_and_next_step() -> None:
    kinds = [
        k for k in vars(errors).values()
        if inspect.isclass(k) and issubclass(k, errors.AttnvizError | errors.AttnvizWarning)
    ]  # fmt: skip
    assert len(kinds) >= 17
    for kind in kinds:
        section = re.search(
            rf"^## {kind.__name__}$(.*?)(?=^## |\Z)", PAGES["errors.md"], re.M | re.S
        )
        assert section is not None, kind
        cause, step = re.findall(r"^- \*\*(?:Cause|Next)\*\*: (.{15,})$", section[1], re.M)
        assert cause != step
    listed = set(re.findall(r"^ *[*+] (\w+)", errors.__doc__ or "", re.M))
    assert listed == {k.__name__ for k in kinds if issubclass(k, errors.AttnvizError)}
