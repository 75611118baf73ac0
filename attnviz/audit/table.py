"""The rows of an audit as columns: what statistics work on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from .journal import Row

#: 2 * object + context
GROUPS = (0, 1, 2, 3)
BOTH, OBJECT_ALONE, CONTEXT_ALONE, NEITHER = 3, 2, 1, 0


def _flat(row: Row) -> Iterator[tuple[str, float]]:
    yield "score", _number(row["score"])
    yield "called", float(row["called"])
    for name, value in row["area"].items():
        yield f"area:{name}", value
    for method, entry in row["maps"].items():
        for name, value in entry.items():
            yield f"map:{method}:{name}", _number(value)
    for name, value in row["scores"].items():
        yield f"after:{name}", _number(value)
    for name, value in row["called_after"].items():
        yield f"called:{name}", float(value)
    for name, value in row["room"].items():
        yield f"room:{name}", _number(value)


def _number(value: float | None) -> float:
    return np.nan if value is None else value


@dataclass(frozen=True, eq=False)
class AuditTable:
    """One line an image.

    Attributes:
        ids, sources, backgrounds: names.
        group: (n,) 2 * object + context.
        donor: (n,) number of the pair of donors, -1 for none.
        columns: name -> (n,) float32, NaN where it does not apply.
    """

    ids: tuple[str, ...]
    sources: tuple[str, ...]
    backgrounds: tuple[str, ...]
    group: np.ndarray
    donor: np.ndarray
    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def read(cls, rows: Iterable[Row], total: int) -> AuditTable:
        """Return rows as columns, 4 bytes a number.

        Raises:
            DataError: two images are the same, pixel by pixel.
        """
        ids, sources, backgrounds = [], [], []
        group, donor = np.zeros(total, np.int64), np.full(total, -1, np.int64)
        columns: dict[str, np.ndarray] = {}
        seen: dict[str, str] = {}
        names: dict[str, str] = {}  # equal names share one string
        for number, row in enumerate(rows):
            if row["digest"] in seen:
                raise DataError(
                    f"images {seen[row['digest']]!r} and {row['id']!r} are the same, pixel by "
                    "pixel: listed twice, they would make intervals too narrow; leave one out "
                    "(attnviz.data.find_duplicates lists all)"
                )
            seen[row["digest"]] = row["id"]
            ids.append(row["id"])
            sources.append(names.setdefault(row["source"], row["source"]))
            backgrounds.append(names.setdefault(row["background"], row["background"]))
            group[number] = 2 * row["object"] + row["context"]
            if row["donor"] is not None:
                donor[number] = row["donor"]
            for name, value in _flat(row):
                if name not in columns:
                    columns[name] = np.full(total, np.nan, np.float32)
                columns[name][number] = value
        return cls(tuple(ids), tuple(sources), tuple(backgrounds), group, donor, columns)

    @property
    def right(self) -> np.ndarray:
        """(n,) 1 where the answer says rightly whether the object is there."""
        return (self.columns["called"] == (self.group >= 2)).astype(np.float32)

    def methods(self) -> list[str]:
        """Return the names of the maps, in order."""
        return list(dict.fromkeys(n.split(":")[1] for n in self.columns if n.startswith("map:")))

    def operations(self) -> list[str]:
        """Return the names of the counterfactuals, in order."""
        return [n.removeprefix("after:") for n in self.columns if n.startswith("after:")]

    def only(self, name: str, group: int) -> np.ndarray:
        """Return a column with NaN outside a group."""
        values = self.right if name == "right" else self.columns[name]
        return np.where(self.group == group, values, np.nan)

    def drop(self, operation: str) -> np.ndarray:
        """Return how much score an operation costs, (n,)."""
        return self.columns["score"] - self.columns[f"after:{operation}"]

    def mean_drop(self, kind: str) -> np.ndarray | None:
        """Return the drop for "object" or "context" averaged over its fills, less the control's.

        Where an image has room for no control it is NaN. None if the data has no such operation.
        """
        fills = [o for o in self.operations() if o.startswith(f"{kind}:")]
        if not fills:
            return None
        pairs = [
            self.drop(o) - self.drop(f"{kind}-control:{o.split(':')[1]}")
            for o in fills
            if f"after:{kind}-control:{o.split(':')[1]}" in self.columns
        ]
        return np.mean(pairs, 0) if pairs else None

    def raw_drop(self, kind: str) -> np.ndarray | None:
        """Return the drop for "object" or "context" averaged over its fills, (n,)."""
        fills = [o for o in self.operations() if o.startswith(f"{kind}:")]
        return np.mean([self.drop(o) for o in fills], 0) if fills else None


def as_row_dicts(table: AuditTable) -> Iterator[dict[str, Any]]:
    """Yield one flat dictionary an image, None for what does not apply (for CSV)."""
    for number in range(len(table)):
        yield {
            "id": table.ids[number],
            "source": table.sources[number],
            "background": table.backgrounds[number],
            "object": int(table.group[number] >= 2),
            "context": int(table.group[number] % 2),
            "right": int(table.right[number]),
        } | {
            name: None if np.isnan(values[number]) else float(values[number])
            for name, values in table.columns.items()
        }
