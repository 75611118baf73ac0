"""WebDataset: tar shards in which the files of one sample share a name."""

from __future__ import annotations

import json
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

from ... import limits
from ...errors import DataError
from ..dataset import READERS, Dataset, build
from ..packed import FilePart
from ..sample import Sample
from ._common import IMAGE_SUFFIXES

#: what says the class, first found first: a number or a name, alone or in JSON under one of these
_CLASS = ("cls", "txt")
_KEYS = ("label", "cls", "class")


def detect(root: Path) -> bool:
    """Return whether a path is a .tar, or a folder with .tar files and no folders."""
    return bool(_shards(root))


def _shards(root: Path) -> list[Path]:
    if root.is_file():
        return [root] if root.suffix.lower() == ".tar" else []
    if not root.is_dir() or any(p.is_dir() for p in root.iterdir() if not p.name.startswith(".")):
        return []
    return sorted(p for p in root.iterdir() if p.suffix.lower() == ".tar")


@READERS.register("webdataset", aliases=("wds",), detect=detect)
def read_webdataset(root: Path, *, images: Path | None = None, faults: str = "raise") -> Dataset:
    """Tar shards (uncompressed): `0001.jpg` beside `0001.cls` (or .txt, or .json with "label").

    Nothing is unpacked: an image's bytes are read from its shard when it is asked for. A sample
    is called "SHARD/NAME" and its class is the text of what says it.
    """
    if images is not None:
        raise DataError("images=... is not used by tar shards; give the folder or the .tar")
    shards = _shards(root)
    if not shards:
        raise DataError(f"{root}: expected a .tar file, or a folder of them")
    entries = []
    for shard in shards:
        for name, parts in _members(shard).items():
            if any(f".{kind}" in IMAGE_SUFFIXES for kind in parts):
                entries.append(partial(_sample, shard, name, parts))
    return build(entries, classes=None, root=root, format="webdataset", faults=faults)


def _members(shard: Path) -> dict[str, dict[str, FilePart]]:
    """Return sample name -> ending -> where its bytes lie."""
    found: dict[str, dict[str, FilePart]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for number, member in enumerate(archive):
                limits.check("rows", number, str(shard))
                setattr(archive, "members", [])  # noqa: B010 (it would keep them all)
                folder, slash, file = member.name.rpartition("/")
                name, _, kind = file.partition(".")
                if member.isreg() and name and not member.issparse():
                    part = FilePart(shard, member.offset_data, member.size)
                    found.setdefault(folder + slash + name, {})[kind.lower()] = part
    except (tarfile.TarError, EOFError) as fault:
        raise DataError(f"{shard} is no tar file, or is compressed or damaged: {fault}") from fault
    return found


def _sample(shard: Path, name: str, parts: dict[str, FilePart]) -> Sample:
    image = next(part for kind, part in parts.items() if f".{kind}" in IMAGE_SUFFIXES)
    return Sample(f"{shard.stem}/{name}", image, label=_label(parts, f"{shard.name}, {name}"))


def _label(parts: dict[str, FilePart], what: str) -> str | None:
    for kind in (*_CLASS, "json"):
        if kind not in parts:
            continue
        limits.check("xml_bytes", parts[kind].length, what)
        try:
            text = parts[kind].read_bytes().decode().strip()
        except UnicodeDecodeError as fault:
            raise DataError(f"{what}.{kind} is no text in UTF-8: {fault}") from fault
        if kind != "json":
            return text or None
        held: Any = limits.parse_json(text, f"{what}.json")
        values = [held[key] for key in _KEYS if key in held] if isinstance(held, dict) else []
        if values and isinstance(values[0], int | str):
            return str(values[0])
        if values:
            raise DataError(f"{what}.json: the class is {json.dumps(values[0])[:60]}, no name")
    return None
