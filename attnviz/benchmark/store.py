"""Results on disk, one line an image, so that a killed run goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import DataError, OutputExists
from ..limits import reading
from ..metrics import BoxAccuracy, Curve, PooledPrecision, Protocol, Scores
from ..processes import current
from ..writing import utf8
from .judging import Judged

VERSION = 1


class Store:
    """A file of JSON lines: what was compared, then the protocols, then one line an image.

    Args:
        path: the file; made if it is not there.
        plan: JSON values that every number depends on. A file of another plan is not continued.
        force: start anew where the file holds something else.

    Raises:
        OutputExists: the file holds results of another plan.
        DataError: the file is something else, or cannot be written.
    """

    def __init__(self, path: Path, plan: Mapping[str, Any], *, force: bool = False) -> None:
        self.path = path
        self.plan = json.loads(json.dumps(plan))
        self.protocols: dict[str, dict[str, Any]] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        self._grids: dict[tuple[tuple[str, str], ...], dict[str, dict[str, Any]]] = {}
        if path.exists():
            with reading(path):
                kept = self._read(force)
                self.judged(list(self.rows))  # every value is of the type that it should be
            if not kept:
                path.unlink()
        if not path.exists():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            except OSError as fault:
                raise DataError(f"cannot write {str(path)!r}: {fault.strerror}") from fault
            self._append({"schema": "attnviz.benchmark", "version": VERSION, "plan": self.plan})

    def _read(self, force: bool) -> bool:
        """Read what there is; returns whether it can be continued."""
        lines = list(_complete_lines(self.path))
        head = lines[0] if lines else {}
        if head.get("schema") != "attnviz.benchmark":
            if self.path.stat().st_size and not force:
                raise DataError(
                    f"{str(self.path)!r} is no file of this command; choose another --out"
                )
            return False
        if head.get("version") != VERSION or head["plan"] != self.plan:
            if force:
                return False
            theirs = head.get("plan", {})
            unlike = [k for k in self.plan if theirs.get(k) != self.plan[k]]
            raise OutputExists(
                f"{str(self.path)!r} holds another comparison (other {', '.join(unlike)}); pass "
                "--force to start anew, or another --out"
            )
        for line in lines[1:]:
            if "protocols" in line:
                self.protocols |= line["protocols"]
            elif "grid" in line:
                self._keep_grid(line)
            else:
                self.rows[line["id"]] = line
        return True

    def _append(self, line: Mapping[str, Any]) -> None:
        text = json.dumps(line, ensure_ascii=False, allow_nan=False)
        with self.path.open("rb+") as file:
            # a killed run may have left half a line
            file.seek(_end_of_lines(self.path))
            file.truncate()
            file.write(utf8(text + "\n"))
            file.flush()
            os.fsync(file.fileno())

    def has(self, image: str, stamp: str = "") -> bool:
        """Return whether an image was judged, in the version that the stamp tells."""
        return image in self.rows and self.rows[image]["stamp"] == stamp

    def add(self, facts: Sequence[Mapping[str, Any]], judged: Judged) -> None:
        """Write the results of a batch, image by image.

        Args:
            facts: per image "id", "stamp" and whatever is to be known of it, as JSON values.
            judged: results of the batch.
        """
        for fact, results in zip(facts, self._results(judged, len(facts)), strict=True):
            row = {**fact, "results": results}
            self._append(row)
            self.rows[fact["id"]] = json.loads(json.dumps(row))

    def add_grid(self, facts: Sequence[Mapping[str, Any]], judged: Judged) -> None:
        """Write what a grid of these images tells; arguments as `add`."""
        members = [[fact["id"], fact["stamp"]] for fact in facts]
        line = {"grid": members, "results": self._results(judged, len(facts))}
        self._append(line)
        self._keep_grid(json.loads(json.dumps(line)))

    def take_in(self, folder: Path) -> None:
        """Add the rows that other processes judged, and remove their files (see `open_store`)."""
        for path in sorted(folder.glob("results-*.jsonl")):
            other = Store(path, self.plan, force=True)
            fresh = {k: v for k, v in other.protocols.items() if k not in self.protocols}
            if fresh:
                self.protocols |= fresh
                self._append({"protocols": fresh})
            for name, row in other.rows.items():
                if not self.has(name, row["stamp"]):
                    self._append(row)
                    self.rows[name] = row
            path.unlink()

    def has_grid(self, ids: Sequence[str]) -> bool:
        """Return whether a grid of these images was judged, as they are now."""
        return tuple((i, self.rows[i]["stamp"]) for i in ids) in self._grids

    def _keep_grid(self, line: Mapping[str, Any]) -> None:
        members = tuple(tuple(pair) for pair in line["grid"])
        names = [name for name, _ in members]
        self._grids[members] = dict(zip(names, line["results"], strict=True))

    def _results(self, judged: Judged, images: int) -> list[dict[str, Any]]:
        """Return each image's results as JSON values; writes what they have in common first."""
        fresh = {
            key: _shared(next(iter(by_map.values())))
            for key, by_map in judged.items()
            if by_map and key not in self.protocols
        }
        if fresh:
            self.protocols |= fresh
            self._append({"protocols": fresh})
        return [
            {
                key: {name: _row(scores, number) for name, scores in by_map.items()}
                for key, by_map in judged.items()
                if by_map
            }
            for number in range(images)
        ]

    def results(self, image: str) -> dict[str, dict[str, Any]]:
        """Return an image's results as JSON values, {measure: {map: ...}}, grids among them."""
        found = dict(self.rows[image]["results"])
        for members, each in self._grids.items():
            if image in each and all(self.has(*pair) for pair in members):
                found |= each[image]
        return found

    def judged(self, ids: Sequence[str]) -> Judged:
        """Return all results of the images named, as if they had been one batch."""
        rows = {i: self.results(i) for i in ids if i in self.rows}
        found: Judged = {}
        outside = {"value": None, "skipped": "in no grid"}
        for key, shared in self.protocols.items():
            each = [row.get(key) for row in rows.values()]
            names = next((part for part in each if part), {})
            found[key] = {
                name: _scores(shared, [part[name] if part else outside for part in each])
                for name in names
            }
        return found


def open_store(out: Path, plan: Mapping[str, Any], *, force: bool = False) -> Store:
    """Return this process's store in a folder; arguments and errors as of `Store`.

    The first process's is `results.jsonl`. Each other one knows the images in it, and adds its own
    to `results-RANK.jsonl`, which `Store.take_in` empties at the end, or after a kill here.
    """
    group, path = current(), out / "results.jsonl"
    group.once(lambda: Store(path, plan, force=force).take_in(out))
    store = Store(path, plan)
    if group.first:
        return store
    own = Store(out / f"results-{group.rank}.jsonl", plan, force=True)
    own.rows, own.protocols = store.rows, store.protocols
    return own


def _complete_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                value = json.loads(line)
            except ValueError:
                return
            if not isinstance(value, dict):
                return
            yield value


def _end_of_lines(path: Path) -> int:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        back = min(size, 1 << 22)
        file.seek(size - back)
        tail = file.read()
    return size - back + tail.rfind(b"\n") + 1


def _shared(scores: Scores) -> dict[str, Any]:
    """What all images of a measure have in common."""
    found: dict[str, Any] = {"protocol": scores.protocol.as_dict()}
    if isinstance(scores, Curve):
        found["fraction"] = scores.fraction.tolist()
    if isinstance(scores, PooledPrecision):
        found["bins"] = scores.thresholds
    if isinstance(scores, BoxAccuracy):
        found["thresholds"] = scores.thresholds.tolist()
        found["required"] = list(scores.required)
    return found


def _row(scores: Scores, number: int) -> dict[str, Any]:
    found: dict[str, Any] = {"value": _plain(scores.values[number])}
    if scores.reasons[number] is not None:
        found["skipped"] = scores.reasons[number]
    if isinstance(scores, Curve):
        found["scores"] = _plain(scores.scores[number])
    if isinstance(scores, PooledPrecision):
        found["counts"] = [part.long().tolist() for part in scores.counts(number)]
    if isinstance(scores, BoxAccuracy):
        found["overlap"] = _plain(scores.overlap[number])
    return found


def _plain(values: torch.Tensor) -> Any:
    values = values.double().cpu()
    if values.ndim == 0:
        return float(values) if bool(values.isfinite()) else None
    return [v if v == v and abs(v) != float("inf") else None for v in values.tolist()]


def _tensor(values: Sequence[Any]) -> torch.Tensor:
    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(v) for v in value]
        return float("nan") if value is None else value

    return torch.tensor(filled(list(values)), dtype=torch.float64)


def _scores(shared: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Scores:
    protocol = Protocol.from_dict(shared["protocol"])
    values = _tensor([row["value"] for row in rows])
    reasons = tuple(row.get("skipped") for row in rows)
    if "fraction" in shared:
        return Curve(
            values,
            protocol,
            reasons,
            fraction=_tensor(shared["fraction"]),
            scores=_tensor([row["scores"] for row in rows]),
        )
    if "bins" in shared:
        return PooledPrecision.of_counts(
            values, protocol, reasons, shared["bins"], [row["counts"] for row in rows]
        )
    if "thresholds" in shared:
        return BoxAccuracy(
            values,
            protocol,
            reasons,
            thresholds=_tensor(shared["thresholds"]),
            overlap=_tensor([row["overlap"] for row in rows]),
            required=tuple(shared["required"]),
        )
    return Scores(values, protocol, reasons)
