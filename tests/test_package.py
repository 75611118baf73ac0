"""The package's surface, weight and shape."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import attnviz

PACKAGE = Path(attnviz.__file__).parent
MODULES = {
    ".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): p
    for p in sorted(PACKAGE.rglob("*.py"))
}
#: top-level part of attnviz -> parts that it must not import, at any depth of its own modules
FORBIDDEN = {
    **dict.fromkeys(
        ("render", "metrics", "methods", "attention"), ("cli", "report", "audit", "gallery")
    ),
    "hooks": ("methods", "attention", "explaining", "heatmaps", "cli"),
    "errors": ("",),
    "geometry": ("",),
}


def _part(module: str) -> str:
    """The part of attnviz that a module belongs to: the second word of its name."""
    return module.partition(".")[2].partition(".")[0]


def _imported(name: str, path: Path) -> set[str]:
    """The full names that a module imports, within functions too, but for those of types alone."""
    found: set[str] = set()
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(a.name for a in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                base = [*base, *(child.module.split(".") if child.module else [])]
                found.update(".".join([*base, alias.name]) for alias in child.names)
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def _modules(name: str, path: Path) -> set[str]:
    """The modules of attnviz that a module imports; `from .x import y` may name either."""
    full = {m if m in MODULES else m.rpartition(".")[0] for m in _imported(name, path)}
    return {m for m in full if m in MODULES and m != name}


def test_all_names_the_public_surface() -> None:
    assert sorted(attnviz.__all__) == sorted(["__version__", *attnviz._PUBLIC])
    assert dir(attnviz) == sorted(attnviz.__all__)
    for name in attnviz.__all__:
        assert getattr(attnviz, name) is not None, name
    with pytest.raises(AttributeError, match="no_such_name"):
        attnviz.no_such_name


def test_public_names_are_documented() -> None:
    for name in attnviz._PUBLIC:
        assert (getattr(attnviz, name).__doc__ or "").strip(), name


def _installed(library: str) -> bool:
    return library == "fixed" or importlib.util.find_spec(library) is not None


def test_public_modules_list_what_they_hold() -> None:
    for name in MODULES:
        other = name.rpartition("attnviz.integrations.")[2]  # the library that it adapts to
        if name.endswith("__main__") or (other != name and not _installed(other)):
            continue
        module = importlib.import_module(name)
        missing = [n for n in getattr(module, "__all__", ()) if not hasattr(module, n)]
        assert not missing, f"{name}.__all__ names {missing}"


def test_version_is_that_of_the_distribution(repo: Path) -> None:
    stated = re.search(r'^version = "(.+)"$', (repo / "pyproject.toml").read_text(), re.M)
    assert stated is not None
    assert attnviz.__version__ == stated[1]


#: a command line that prints nothing
QUIET = (
    "import contextlib, io; from attnviz.cli import main\n"
    "with contextlib.redirect_stdout(io.StringIO()): assert main({}) == 0"
)


@pytest.mark.parametrize(
    ("command", "absent"),
    [
        ("import attnviz", "torch torchvision timm captum cv2 matplotlib transformers PIL"),
        (
            "import attnviz; attnviz.capture; attnviz.AttnvizError",
            "torchvision timm captum cv2 matplotlib transformers",
        ),
        ("import attnviz.explaining", "matplotlib captum transformers IPython"),
        (QUIET.format(["methods", "--json"]), "torch torchvision timm numpy cv2 PIL"),
    ],
)
def test_heavy_packages_are_imported_only_when_needed(command: str, absent: str) -> None:
    code = f"{command}\nimport sys\nprint(*[m for m in {absent.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_modules_hold_one_concept_each() -> None:
    lines = {n: len(p.read_text(encoding="utf-8").splitlines()) for n, p in MODULES.items()}
    assert {n: k for n, k in lines.items() if k > 400} == {}


def test_no_circle_of_imports() -> None:
    """Imports inside functions count too."""
    arrows = {n: _modules(n, p) for n, p in MODULES.items()}
    state: dict[str, int] = {}

    def walk(name: str, trail: tuple[str, ...]) -> None:
        state[name] = 1
        for other in sorted(arrows[name]):
            # a package and its own modules load each other
            package_of = name.startswith(other + ".") or other.startswith(name + ".")
            if state.get(other) == 1 and not package_of:
                raise AssertionError(" -> ".join([*trail[trail.index(other) :], other]))
            if other not in state:
                walk(other, (*trail, other))
        state[name] = 2

    for name in MODULES:
        if name not in state:
            walk(name, (name,))


def test_no_package_imports_the_private_names_of_another() -> None:
    """A package may use those of its own subpackages, and a module those of its package."""
    wrong = []
    for name, path in MODULES.items():
        for full in _imported(name, path):
            parts = full.split(".")
            private = [i for i, w in enumerate(parts) if w.startswith("_") and w[:2] != "__"]
            if parts[0] != "attnviz" or not private:
                continue
            owner = ".".join(parts[: private[0]])
            if owner in MODULES and MODULES[owner].name != "__init__.py":
                owner = owner.rpartition(".")[0]
            importer = name if path.name == "__init__.py" else name.rpartition(".")[0]
            if not f"{importer}.".startswith(f"{owner}.") and not owner.startswith(f"{importer}."):
                wrong.append(f"{name} imports {full}")
    assert wrong == []


def test_arrows_point_down_only() -> None:
    wrong = []
    for name, path in MODULES.items():
        part = _part(name)
        for other in _modules(name, path):
            there = _part(other)
            if there != part and any(f in ("", there) for f in FORBIDDEN.get(part, ())):
                wrong.append(f"{name} imports {other}")
    assert wrong == []


def test_only_the_command_line_prints() -> None:
    wrong = []
    for name, path in MODULES.items():
        source = path.read_text(encoding="utf-8")
        if name.startswith("attnviz.cli") or 'if __name__ == "__main__"' in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                wrong.append(f"{name}:{node.lineno}")
    assert wrong == []


def test_weights_are_loaded_safely() -> None:
    wrong = []
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            call = ast.unparse(node)
            if ast.unparse(node.func) == "torch.load" and "weights_only=True" not in call:
                wrong.append(f"{name}:{node.lineno}: {call}")
            if "allow_pickle=True" in call or "weights_only=False" in call:
                wrong.append(f"{name}:{node.lineno}: {call}")
        if re.search(r"^\s*(import|from) (pickle|dill|cloudpickle)\b", path.read_text(), re.M):
            wrong.append(f"{name} imports pickle")
    assert wrong == []


def test_a_hint_that_is_empty_still_ends_its_sentence() -> None:
    """`x is not known Known: a, b` is what comes of a hint that found nothing."""
    hint = re.compile(r"\{did_you_mean\([^\n]*?\)\}\W*(f?\"\s*)*\s*(Known|Expected)\b")
    bad = [p.name for p in PACKAGE.rglob("*.py") if hint.search(p.read_text("utf-8"))]
    assert not bad
