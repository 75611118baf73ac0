"""Which photos a command line names, and under which names their results are written."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import typer


def paths_given(arguments: Sequence[str]) -> list[str]:
    """Return the arguments, with `-` replaced by the lines of stdin (one path a line)."""
    given: list[str] = []
    for argument in arguments:
        if argument == "-":
            if sys.stdin is None or sys.stdin.isatty():
                raise typer.BadParameter("'-' reads photo paths from stdin, which is a terminal")
            given += [line for line in sys.stdin.read().splitlines() if line.strip()]
        else:
            given.append(argument)
    return given


def result_stems(photos: Sequence[Path]) -> list[str]:
    """Return one file stem per photo, unique among them also where upper case does not count.

    A photo keeps its own stem where no other has it; photos of the same name in different
    folders get as many of their folders in front as tell them apart ("paris-beach",
    "rome-beach"), and a number where nothing else does.
    """
    depth = [1] * len(photos)
    stems = [_stem(p, 1) for p in photos]
    deepest = max((len(p.parts) for p in photos), default=1)
    for _ in range(deepest + 1):
        count = Counter(s.lower() for s in stems)
        if max(count.values(), default=1) == 1:
            break
        for i, photo in enumerate(photos):
            if count[stems[i].lower()] > 1:
                depth[i] += 1
                stems[i] = _stem(photo, depth[i])
    used: set[str] = set()
    for i, stem in enumerate(stems):
        unique, number = stem, 2
        while unique.lower() in used:
            unique, number = f"{stem}-{number}", number + 1
        used.add(unique.lower())
        stems[i] = unique
    return stems


def _stem(photo: Path, depth: int) -> str:
    folders = [p for p in photo.parts[:-1] if p not in (photo.anchor, ".", "..")]
    kept = [*folders[len(folders) - (depth - 1) :][: depth - 1], photo.stem] if depth > 1 else []
    if depth - 1 > len(folders):  # all folders are used up: the ending tells a.jpg from a.png
        kept = [*folders, photo.name.replace(".", "-")]
    return "-".join(kept) if kept else photo.stem


def slug(text: str) -> str:
    """Return a text as a part of a file name: letters, digits, dots and dashes."""
    return re.sub(r"[^\w.+]+", "-", text.strip()).strip("-.").lower() or "unnamed"
