"""Writing results: whole or not at all, and never over what is there unless asked to."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import DataError, OutputExists


@contextlib.contextmanager
def whole_file(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; it takes its name when the block ends without error.

    A reader, a full disk, an exception or Ctrl-C never leaves half a file under the name.

    Raises:
        OutputExists: the file is there already and `force` is off.
        DataError: the folder cannot be written to.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem[:40]}-", suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files
        if force:
            os.replace(temporary, path)
        else:
            _give_new_name(temporary, path)
    except OSError as error:
        if isinstance(error, OutputExists):
            raise
        raise DataError(
            f"cannot write {str(path)!r}: {error.strerror or error}; choose another --out"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _give_new_name(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)  # unlike a rename, fails if the name was taken meanwhile
    except FileExistsError:
        raise _exists([path]) from None
    except OSError:  # a file system without hard links
        if path.exists():
            raise _exists([path]) from None
        os.replace(temporary, path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def refuse_existing(paths: Sequence[Path]) -> None:
    """Raise `OutputExists` if any of the files is there, before any work is done."""
    taken = [p for p in paths if p.exists()]
    if taken:
        raise _exists(taken, of=len(paths))


def _exists(taken: Sequence[Path], of: int = 1) -> OutputExists:
    what = f"{str(taken[0])!r} exists already"
    if of > 1:
        what = f"{len(taken)} of {of} output files exist already, the first is {str(taken[0])!r}"
    return OutputExists(f"{what}; pass --force to overwrite, or another --out")
