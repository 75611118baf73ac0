"""Write what is generated into README and docs: `python assets/update_readme.py`.

The README's table of methods by family, .github/docs/all-methods.md from the registry, and
.github/docs/errors.md from the docstrings of attnviz/errors.py, and the index llms.txt.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import attnviz
from attnviz import errors
from attnviz.cli.methods import markdown_table
from attnviz.methods import METHODS

REPO = Path(__file__).resolve().parents[1]
MARKS = re.compile(r"(<!-- methods: .*? -->\n).*?(<!-- /methods -->)", re.S)

#: what a family does, and what it costs, in the words of the README
FAMILIES = {
    "cam": "Class activation maps: a layer's channels, weighted. One pass forward, one back.",
    "attention": "What transformers attend to, and how the score reacts to it. One or two passes.",
    "attribution": "Each pixel's share, from the input's gradient. One pass, or some dozens.",
    "perturbation": "What the score loses where something is covered. Some hundred passes.",
}


def family_table() -> str:
    """Return the README's table: a row a family."""
    rows = ["| family | methods |", "|---|---|"]
    for family, words in FAMILIES.items():
        names = ", ".join(f"`{name}`" for name in METHODS.names(family))
        rows.append(f"| **{family}**: {words} | {names} |")
    return "\n".join(rows) + "\n"


def all_methods() -> str:
    """Return the page of all methods."""
    head = "# All methods\n\nWritten by `python assets/update_readme.py` from the registry."
    return f"{head}\n\n{markdown_table(sorted(METHODS, key=lambda e: (e.family, e.name)))}\n"


def error_page() -> str:
    """Return the page of errors: what each is, its causes, and what to do."""
    parts = [
        "# Each error, its cause and what to do next",
        "Written by `python assets/update_readme.py` from `attnviz/errors.py`. Every message says "
        "itself what was given, what is possible and what to do; this is the longer form.",
    ]
    for name, kind in vars(errors).items():
        if not inspect.isclass(kind) or not issubclass(kind, Exception | Warning):
            continue
        if kind.__module__ != errors.__name__:
            continue
        told = inspect.getdoc(kind) or ""
        what = told.split("\n\n")[0]
        [(cause, step)] = re.findall(r"Cause: (.*?)\nNext: (.*)", told, re.S)
        told = [" ".join(text.split()) for text in (cause, step)]
        parts.append(f"## {name}\n\n{what}\n\n- **Cause**: {told[0]}\n- **Next**: {told[1]}")
    return "\n\n".join(parts) + "\n"


def index(docs: Path) -> str:
    """Return llms.txt: what the project is, and each page with its first sentence."""
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    about = " ".join(readme.split("\n\n")[1].split())
    lines = [f"# attnviz\n\n> {about}\n\n## Docs\n", f"- [README](../../README.md): {about}"]
    for page in sorted(docs.glob("*.md")):
        title, text = page.read_text(encoding="utf-8").removeprefix("# ").split("\n\n", 2)[:2]
        first = re.split(r"(?<=[.:])\s", " ".join(text.lstrip("# ").split()))[0]
        lines.append(f"- [{title}]({page.name}): {first}")
    lines.append("\n## Reference\n")
    for name in sorted(set(attnviz.__all__) - {"__version__"}):
        what = (inspect.getdoc(getattr(attnviz, name)) or "").split("\n\n")[0]
        lines.append(f"- attnviz.{name}: {' '.join(what.split())}")
    return "\n".join(lines) + "\n"


def pages() -> dict[Path, str]:
    """Return each file with its text as it should be."""
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    docs = REPO / ".github" / "docs"
    made = {
        REPO / "README.md": MARKS.sub(lambda m: m[1] + family_table() + m[2], readme),
        docs / "all-methods.md": all_methods(),
        docs / "errors.md": error_page(),
    }
    return made | {docs / "llms.txt": index(docs)}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
