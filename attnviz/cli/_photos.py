"""Which photos a command line names, and under which names their results are written."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import typer

from ..errors import ImageError


def paths_given(arguments: Sequence[str]) -> list[str]:
    """Return the arguments, with `-` replaced by the lines of stdin (one path a line)."""
    given: list[str] = []
    for argument in arguments:
        if argument != "-":
            given.append(argument)
            continue
        if sys.stdin is None or sys.stdin.isatty():
            raise typer.BadParameter("'-' reads photo paths from stdin, which is a terminal")
        given += [line for line in sys.stdin.read().splitlines() if line.strip()]
    return given


def gather(
    arguments: Sequence[str], *, leave_out: Path | None = None
) -> tuple[list[Path], list[tuple[str, ImageError]]]:
    """Return the photos named by files, folders, patterns and `-`, each once, in the order given.

    Args:
        arguments: what the command line names.
        leave_out: a folder whose files are taken only if named outright: that of the results, so
            that a second run over a folder does not explain the first run's pictures.

    Returns:
        The photos, and the arguments that name none, each with the reason.
    """
    from ..images import find_images  # brings numpy, which `--help` does without

    photos: dict[str, Path] = {}
    failed: list[tuple[str, ImageError]] = []
    results = os.path.join(os.path.realpath(leave_out), "") if leave_out is not None else None
    for argument in paths_given(arguments):
        try:
            for photo in find_images([argument]):
                real = os.path.realpath(photo)
                if results and real.startswith(results) and not os.path.isfile(argument):
                    continue
                photos.setdefault(real, photo)
        except ImageError as error:
            failed.append((argument, error))
    return list(photos.values()), failed


def result_stems(photos: Sequence[Path]) -> list[str]:
    """Return one file stem per photo, unique among them also where upper case does not count.

    A photo keeps its own stem where no other has it. Photos of the same name get as many of their
    folders in front as tell them apart ("paris-beach", "rome-beach"), then their ending
    ("beach-jpg", "beach-png"), and a number where nothing else helps.
    """
    spelled = [_spellings(p) for p in photos]
    level = [0] * len(photos)
    while True:
        stems = [s[n] for s, n in zip(spelled, level, strict=True)]
        count = Counter(s.lower() for s in stems)
        longer = [
            i
            for i, stem in enumerate(stems)
            if count[stem.lower()] > 1 and level[i] + 1 < len(spelled[i])
        ]
        if not longer:
            break
        for i in longer:
            level[i] += 1
    used: set[str] = set()
    for i, stem in enumerate(stems):
        number = 2
        while stems[i].lower() in used:
            stems[i], number = f"{stem}-{number}", number + 1
        used.add(stems[i].lower())
    return stems


def _spellings(photo: Path) -> list[str]:
    """All stems of a photo, from the shortest to the one with all its folders and its ending."""
    folders = [p for p in photo.parts[:-1] if p not in (photo.anchor, ".", "..")]
    stems = ["-".join([*folders[len(folders) - n :], photo.stem]) for n in range(len(folders) + 1)]
    return [*stems, "-".join([*folders, photo.name.replace(".", "-")])]


def slug(text: str) -> str:
    """Return a text as a part of a file name: letters, digits, dots and dashes."""
    return re.sub(r"[^\w.+]+", "-", text.strip()).strip("-.").lower() or "unnamed"
