"""Files, folders and patterns to a list of image files."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import ImageError

#: Endings by which a file in a folder or behind a pattern is taken for an image, in lower case.
IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2"),
    }
)


def find_images(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, recursive: bool = True
) -> list[Path]:
    """Return the image files named by files, folders and patterns: sorted, each file once.

    A file named outright is taken whatever its ending; in a folder or behind a pattern the
    ending decides (in any case), and files and folders beginning with a dot are left out.

    Args:
        paths: files, folders, or patterns such as `photos/**/*.jpg`; `~` is the home folder.
        recursive: look into the folders inside a folder.

    Raises:
        ImageError: a path does not exist, or a folder or pattern holds no image.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    found: dict[str, Path] = {}
    for item in paths:
        text = os.path.expanduser(os.fsdecode(item))
        for path in _expand(text, recursive):
            found.setdefault(os.path.realpath(path), path)
    return sorted(found.values())


def _expand(text: str, recursive: bool) -> list[Path]:
    if os.path.isfile(text):
        return [Path(text)]
    if os.path.isdir(text):
        images = _in_folder(text, recursive)
        if not images:
            raise ImageError(f"no image in folder {text!r}; endings: {_endings()}")
        return images
    if glob.has_magic(text):
        hits = [p for p in glob.glob(text, recursive=True) if _is_image(p) and os.path.isfile(p)]
        if not hits:
            raise ImageError(f"no image matches {text!r}; endings: {_endings()}")
        return sorted(Path(p) for p in hits)
    raise ImageError(f"no such file or folder: {text!r}")


def _in_folder(folder: str, recursive: bool) -> list[Path]:
    images = []
    for here, folders, files in os.walk(folder):
        images += [Path(here, f) for f in files if _is_image(f) and not f.startswith(".")]
        folders[:] = sorted(f for f in folders if recursive and not f.startswith("."))
    return images


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _endings() -> str:
    return " ".join(sorted(IMAGE_SUFFIXES))
