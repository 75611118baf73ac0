"""Put the table of methods into the README: `python assets/update_readme.py`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
MARKS = re.compile(r"(<!-- methods: .*? -->\n).*?(<!-- /methods -->)", re.S)


def main() -> None:
    """Replace what stands between the marks by the output of `attnviz methods --markdown`."""
    command = [sys.executable, "-m", "attnviz", "methods", "--markdown"]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    text = README.read_text(encoding="utf-8")
    README.write_text(MARKS.sub(lambda found: found[1] + table + found[2], text), encoding="utf-8")


if __name__ == "__main__":
    main()
