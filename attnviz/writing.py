"""Files that are whole or not there: no error, kill or full disk leaves half of one.

write_file(path, data)                            # refuses to overwrite
write_files({a: data, b: text}, force=True)       # both or none
write_file(path, lambda p: save_file(tensors, p)) # what writes files itself
with locked(folder): ...                          # one process at a time
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import DataError, OutputExists

#: bytes, text (written as UTF-8), or a function that writes the file at the path it is given
Content = bytes | str | Callable[[Path], object]


def utf8(text: str) -> bytes:
    """Return text as UTF-8; a byte of a name that is no character is written out (`\\udcff`).

    In JSON that is the escape which is read back as the same name.
    """
    return text.encode("utf-8", "backslashreplace")


#: what moves, colours or turns text in a terminal, and what is no character; names may hold it
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(line: str) -> str:
    """Return a line with control characters written out (`\\x1b`), so that a name stays a name."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], line)


def cell(value: Any) -> Any:
    """Return a value for a CSV; text that a spreadsheet would run gets an apostrophe ahead."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value


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
    for folder in {path.parent for path in contents}:
        folder.mkdir(parents=True, exist_ok=True)
        clean(folder)
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
            file.write(utf8(content) if isinstance(content, str) else content)
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
    except OSError:  # a file system without links
        shutil.copy2(path, backup)
    return backup


def _beside(path: Path, kind: str) -> Path:
    # not the file's own name with an ending: that may be too long for the file system
    return path.with_name(f".attnviz-{os.getpid()}-{_MACHINE}{os.urandom(5).hex()}.{kind}")


#: of several machines that write one folder each knows its own processes only
_MACHINE = hashlib.blake2b(platform.node().encode(), digest_size=3).hexdigest()


_OURS = re.compile(r"\.attnviz-(?:(\d+)-)?([0-9a-f]{6})[0-9a-f]{10}\.(?:new|old)")
#: seconds after which a temporary file is a killed process's, whatever has its number now
_STALE = 24 * 3600
#: large folder -> when its files are looked through again: at each of n files takes n * n
_rests: dict[str, float] = {}
_SMALL = 200


def clean(folder: str | Path) -> None:
    """Remove the temporary files that killed processes left in a folder.

    A folder of many files is looked through now and then, a second for each hundred files later.
    """
    name = os.fspath(folder)
    if time.monotonic() < _rests.get(name, 0.0):
        return
    count = 0
    with contextlib.suppress(OSError):
        for count, entry in enumerate(os.scandir(folder), 1):  # noqa: B007
            ours = _OURS.fullmatch(entry.name)
            if ours is None:
                continue
            with contextlib.suppress(OSError):
                aged = time.time() - entry.stat().st_mtime > _STALE
                here = ours[1] is not None and ours[2] == _MACHINE
                if aged or (here and not _alive(int(ours[1]))):
                    os.unlink(entry.path)
    if count > _SMALL:
        _rests[name] = time.monotonic() + count / 100


def _alive(process: int) -> bool:
    if os.name != "posix":  # asking is a kill there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[Path]:
    """Keep a folder for this process inside the block; the system frees it on any death.

    The folder is made where it is missing, and taken away again if the block leaves it empty.

    Raises:
        DataError: another process holds it, or it cannot be made.
    """
    folder = Path(folder)
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clean(folder)
        held = _hold(folder / ".attnviz-lock")
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(f"{str(folder)!r} is no folder; choose another --out") from error
    except OSError as error:
        raise DataError(
            f"cannot write {str(folder)!r}: {error.strerror or error}; choose another --out"
        ) from error
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):
            os.unlink(folder / ".attnviz-lock")
        os.close(held)
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


#: what a file system without locks says (some network disks): then two runs are not told apart
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def _hold(path: Path) -> int:
    while True:
        held = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(held)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return held
            with contextlib.suppress(OSError):
                owner = os.pread(held, 32, 0).decode("ascii", "replace").strip()
            os.close(held)
            raise DataError(
                f"{str(path.parent)!r} is in use by another run of attnviz"
                f"{f' (process {owner})' if owner else ''}; wait for it, or choose another --out"
            ) from None
        with contextlib.suppress(OSError):
            if os.fstat(held).st_ino == os.stat(path).st_ino:
                os.truncate(held, 0)
                os.write(held, str(os.getpid()).encode())
                return held
        os.close(held)  # its last holder removed it in the meantime: there is a new one


def _lock(held: int) -> None:
    if os.name == "posix":
        import fcntl

        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        import msvcrt

        msvcrt.locking(held, msvcrt.LK_NBLCK, 1)


__all__ = ["Content", "cell", "clean", "locked", "printable", "utf8", "write_file", "write_files"]
