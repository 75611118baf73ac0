"""The exact versions in pyproject.toml: emptied, or written from an export of uv's resolution.

python .ci/constraints.py                              empty
uv export ... | python .ci/constraints.py --write      written anew
uv pip freeze | python .ci/constraints.py --compare    what an environment has otherwise
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
LIST = re.compile(r"(?<=^constraint-dependencies = \[\n).*?(?=^\]$)", re.M | re.S)
# torch itself pins what it needs of CUDA
PINNED = re.compile(r"^(?!nvidia-|triton)[a-z0-9][a-z0-9._-]*==\S+( ; .+)?$")


def pins(text: str) -> list[str]:
    """The lines that pin a version, sorted."""
    lines = (line.strip().strip('",') for line in text.splitlines())
    return sorted({line for line in lines if PINNED.match(line)})


def main(mode: str) -> None:
    """Do as the module's docstring says."""
    text = PYPROJECT.read_text(encoding="utf-8")
    [listed] = LIST.findall(text)
    given = pins(sys.stdin.read()) if mode else []
    if mode == "--compare":
        known = {pin.partition(" ;")[0] for pin in pins(listed)}
        print(*(pin for pin in given if pin not in known), sep="\n")
        return
    quoted = "".join('    "{}",\n'.format(pin.replace('"', "'")) for pin in given)
    PYPROJECT.write_text(LIST.sub(lambda _: quoted, text), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
