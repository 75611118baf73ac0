"""Files that are whole or not there: no error, kill or full disk leaves half of one.

write_file(path, data)                            # refuses to overwrite
write_files({a: data, b: text}, force=True)       # both or none
write_file(path, lambda p: save_file(tensors, p)) # what writes files itself
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from .errors import OutputExists

#: bytes, text (written as UTF-8), or a function that writes the file at the path it is given
Content = bytes | str | Callable[[Path], object]


def write_file(path: str | Path, content: Content, *, force: bool = False) -> Path:
    """Write one file whole or not at all; return its path. See `write_files`."""
    path = Path(path)
    write_files({path: content}, force=force)
    return path


def write_files(contents: Mapping[Path, Content], *, force: bool) -> None:
    """Write several files, all or none.

    Each is written under a temporary name beside its own, flushed to disk, and then takes its
    name in one step. A file that is replaced is never missing on the way, and is back as it was
    when one of the others fails. Missing folders are made.

    Args:
        contents: path -> bytes, text, or a function that writes a file at the path given.
        force: overwrite what exists.

    Raises:
        OutputExists: one of them exists and `force` is false; nothing is written.
        OSError: the disk is full, the folder cannot be written; what was there before is intact.
    """
    for path in contents:
        if path.exists() and not force:
            raise OutputExists(f"{str(path)!r} exists; pass force=True (--force) to overwrite it")
        path.parent.mkdir(parents=True, exist_ok=True)
    fresh = {path: _beside(path, "new") for path in contents}
    old: dict[Path, Path] = {}
    placed: list[Path] = []
    try:
        for path, content in contents.items():
            _write(fresh[path], content)
        for path in contents:
            if len(contents) > 1 and path.exists():
                # a single file needs no way back: taking the name is the last thing that happens
                old[path] = _keep(path)
            os.replace(fresh[path], path)
            placed.append(path)
    except BaseException:
        for path in placed:
            if path not in old:
                path.unlink(missing_ok=True)
        for path, backup in old.items():
            os.replace(backup, path)
            backup.unlink(missing_ok=True)  # two names of one file: replacing does nothing
        raise
    finally:
        for path in fresh.values():
            path.unlink(missing_ok=True)
    for backup in old.values():
        backup.unlink(missing_ok=True)


def _write(path: Path, content: Content) -> None:
    # made here in any case, so that the file has the rights that the user's umask gives it:
    # some writers make theirs readable by the owner alone
    with open(path, "xb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not callable(content):
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
    if callable(content):
        content(path)
        os.chmod(path, mode & 0o7777)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _keep(path: Path) -> Path:
    """Give a file a second name, so that the first can be taken over without a gap."""
    backup = _beside(path, "old")
    try:
        os.link(path, backup)
    except OSError:  # a file system without links: the name is free for a moment
        os.replace(path, backup)
    return backup


def _beside(path: Path, kind: str) -> Path:
    # not the file's own name with an ending: that may be too long for the file system
    return path.with_name(f".attnviz-{os.urandom(8).hex()}.{kind}")


__all__ = ["Content", "write_file", "write_files"]
