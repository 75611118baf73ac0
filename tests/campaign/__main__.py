"""`python -m tests.campaign [SIZE [WORDS]]`: run it; write what was tried to RELIABILITY.md.

Words go to pytest, such as `-k architectures`; rows of what was not run stay as they are.
"""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / ".github" / "RELIABILITY.md"


class Table:
    """Gathers, a test function, how often something was tried and which parts failed."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}
        self.tried: dict[str, int] = {}
        self.failed: dict[str, list[str]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            name = item.nodeid.split("[")[0]
            doc = (item.function.__doc__ or item.originalname.replace("_", " ")).strip()
            self.said[name] = doc.splitlines()[0].rstrip(".")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.split("[")[0]
        if report.when == "call":
            count = sum(n for key, n in report.user_properties if key == "tried")
            self.tried[name] = self.tried.get(name, 0) + (count or 1)
        if report.failed:
            part = report.nodeid.partition("[")[2].rstrip("]")
            self.failed.setdefault(name, []).append(part or "failed")

    def rows(self, size: str) -> dict[str, str]:
        """Return what was tried -> its row."""
        return {
            self.said[name]: f"| {self.said[name]} | {size} | {count:,} | "
            f"{', '.join(self.failed.get(name, [])) or '0'} |"
            for name, count in self.tried.items()
        }


def page(rows: dict[str, str]) -> str:
    """Return the page's text."""
    made = f"Python {platform.python_version()}, torch {version('torch')}, {sys.platform}"
    return "\n".join([
        "# What was tried against attnviz",
        "",
        f"Written by `python -m tests.campaign SIZE` ({made}); seeded, so it can be run again. "
        "The short form, of size .1, runs with the tests. What has to hold stands in a row's "
        "first words; what failed is named, or 0.",
        "",
        "| what | size | tried | failed |",
        "|---|---:|---:|---|",
        *rows.values(),
        "",
    ])  # fmt: skip


def rows_there() -> dict[str, str]:
    """Return the rows of the page that is there."""
    lines = PAGE.read_text().splitlines() if PAGE.exists() else []
    found = [line for line in lines if line.startswith("| ") and line.count(" | ") == 3]
    return {line[2:].split(" | ")[0]: line for line in found if not line.startswith("| what ")}


if __name__ == "__main__":
    size, words = (sys.argv[1] if len(sys.argv) > 1 else "1"), sys.argv[2:]
    table = Table()
    code = pytest.main(
        [str(FOLDER), "-m", "slow or not slow", "--campaign", size, "--timeout", "0", *words],
        plugins=[table],
    )
    PAGE.write_text(page((rows_there() if words else {}) | table.rows(size)))
    sys.exit(code)
