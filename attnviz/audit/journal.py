"""The journal of an audit: one JSON line an image, so that a run can stop and go on.

A batch is appended in one write and synced; what a crash leaves of a line is cut off when the
journal is opened again. The first line says what the run is, and another run is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..data.identity import unlike
from ..errors import DataError, OutputExists
from ..processes import current

Row = dict[str, Any]


class Journal:
    """Rows on disk.

    Args:
        path: the file.
        header: what the rows depend on (model, data, settings), as JSON values.
        resume: go on with a journal that is there.

    Raises:
        OutputExists: there is one and `resume` is off.
        DataError: it belongs to another run, or is damaged.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], *, resume: bool = False) -> None:
        self.path = Path(path)
        self.done = 0
        header = json.loads(json.dumps(dict(header)))
        if self.path.exists() and self.path.stat().st_size:
            if not resume:
                raise OutputExists(
                    f"{self.path} holds an audit already; go on with it (resume=True, --resume), "
                    "or choose another folder"
                )
            self._reopen(header)
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append(json.dumps({"audit": header}) + "\n", mode="w")

    def _reopen(self, header: Mapping[str, Any]) -> None:
        with self.path.open("r+b") as file:
            good = 0
            first: Any = None
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    break
                good += len(line)
                if number == 0:
                    try:
                        first = json.loads(line)["audit"]
                    except (ValueError, KeyError, TypeError):
                        raise DataError(f"{self.path} is no journal of an audit") from None
                else:
                    self.done += 1
            file.truncate(good)
        if first is None:
            self._append(json.dumps({"audit": header}) + "\n", mode="w")
        elif names := unlike(first, header):
            raise DataError(
                f"{self.path} belongs to another audit ({', '.join(names)} differ); give what it "
                "was begun with, start over (--force; or remove it), or choose another folder"
            )

    def append(self, rows: list[Row]) -> None:
        """Add the rows of a batch, whole or (after a crash) not at all."""
        self._append("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
        self.done += len(rows)

    def _append(self, text: str, mode: str = "a") -> None:
        try:
            with self.path.open(mode, encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(
                f"cannot write {self.path}: {error.strerror or error}; what was written before "
                "stays, so the audit can go on from there with resume=True (--resume)"
            ) from error

    def rows(self) -> Iterator[Row]:
        """Yield the rows, one in memory at a time."""
        return _rows(self.path)


def _rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        next(file, None)
        for line in file:
            yield json.loads(line)


def journals(path: Path, count: int) -> list[Path]:
    """Return the journals of so many processes: `path` is the first one's."""
    return [path, *(path.with_name(f"{path.stem}-{n}{path.suffix}") for n in range(1, count))]


class SharedJournal(Journal):
    """A journal for each process of a run, read as one: every so many batches are a process's own.

    Args:
        path: of the first process's; the others' stand beside it.
        header, resume: as of `Journal`.
        total: images in all.
        batch_size: images a batch.

    Attributes:
        mine: the images of this process, by index.
    """

    def __init__(
        self, path: Path, header: Mapping[str, Any], total: int, batch_size: int, *, resume: bool
    ) -> None:
        self._group = current()
        self._all = journals(path, self._group.count)
        self._total, self._batch = total, batch_size
        self.mine = self._group.mine(total, batch_size)
        if self._group.count > 1:  # how the images are shared
            header = {**header, "processes": self._group.count, "batch_size": batch_size}
        super().__init__(self._all[self._group.rank], header, resume=resume)

    def rows(self) -> Iterator[Row]:
        """Yield the rows of all processes in the order of the images, once all are there."""
        self._group.wait()
        parts = [_rows(path) for path in self._all]
        for index in range(self._total):
            yield next(parts[index // self._batch % self._group.count])
