"""`python -m tests.campaign [SIZE]`: run the campaign; write what was tried to RELIABILITY.md."""

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
            self.failed.setdefault(name, []).append(report.nodeid.partition("[")[2].rstrip("]"))

    def page(self, size: str) -> str:
        """Return the page's text."""
        rows = [
            f"| {self.said[name]} | {count:,} | {', '.join(self.failed.get(name, [])) or '0'} |"
            for name, count in self.tried.items()
        ]
        made = f"Python {platform.python_version()}, torch {version('torch')}, {sys.platform}"
        return "\n".join([
            "# What was tried against attnviz",
            "",
            f"Written by `python -m tests.campaign {size}` ({made}); seeded, so that it can be run "
            "again. A short form of it runs with the tests.",
            "",
            "| what | tried | failed |",
            "|---|---:|---|",
            *rows,
            "",
        ])  # fmt: skip


if __name__ == "__main__":
    size = sys.argv[1] if len(sys.argv) > 1 else "1"
    table = Table()
    code = pytest.main(
        [str(FOLDER), "-m", "slow or not slow", "--campaign", size, "--timeout", "0"],
        plugins=[table],
    )
    PAGE.write_text(table.page(size))
    sys.exit(code)
