"""What an audit found, as data: JSON with a schema, CSV, and the parts of the report."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..statistics.intervals import Interval
from ..writing import cell
from .pictures import BACKGROUND
from .table import AuditTable, as_row_dicts
from .verdict import Verdict

SCHEMA = "attnviz.audit"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Cell:
    """One of the four groups.

    Attributes:
        name: for readers; `object` and `context` say which it is.
        images, clusters: how many.
        right: share answered rightly (recall where the object is, specificity where it is not),
            with Wilson's interval.
        clustered: the same share with the interval of the clustered bootstrap.
        score: mean log-odds of the object.
        enough: whether it has as many images and clusters as are asked for.
    """

    name: str
    object: bool
    context: bool
    images: int
    clusters: int
    right: Interval
    clustered: Interval
    score: Interval
    enough: bool


@dataclass(frozen=True)
class Place:
    """Where a map's evidence lies in a group: the share in a region beside the region's area.

    The region "text" is what a word's attention gives to the question and the answer so far,
    beside the photo, and has no area: NaN.
    """

    method: str
    group: str
    region: str
    energy: Interval
    area: float


@dataclass(frozen=True)
class Pointing:
    """Pointing game and IoU of a map with the object, in a group. Chance of pointing: the area."""

    method: str
    group: str
    pointing: Interval
    iou: Interval
    area: float


@dataclass(frozen=True)
class Effect:
    """What an operation costs in a group.

    Attributes:
        operation: such as "object:blur".
        group: name.
        drop: in score, paired by image.
        control: the same operation on a region of neither; None without room.
        control_area: the control's area over the region's, mean; 1 where all images had the room,
            NaN without control. A smaller control makes too small a correction.
        net: drop less control on the images that have both; the drop itself without control.
        p: two-sided, of the net drop being zero, by the clustered bootstrap.
        adjusted: after Holm over all operations and groups.
        lost, gained: answers "object" that vanished and appeared.
        mcnemar: exact p of these; mcnemar_adjusted after Holm.
    """

    operation: str
    group: str
    drop: Interval
    control: Interval | None
    control_area: float
    net: Interval
    p: float
    adjusted: float
    lost: int
    gained: int
    mcnemar: float
    mcnemar_adjusted: float


@dataclass(frozen=True, eq=False)
class AuditResult:
    """What a model reads, with the evidence.

    Attributes:
        model: its name.
        object, context: class names.
        target: what was scored.
        images: how many.
        verdict: see `Verdict`.
        cells: the 2 x 2 table.
        worst: name of the group with the lowest share right.
        gap: share right in the best group less that in the worst.
        places, hits: where the maps look.
        effects: counterfactuals.
        examples: images for the report, worst first.
        table: one line an image.
        settings: what was done with what, versions included.
        discovery: contexts found without annotation, for the report; add it by
            `dataclasses.replace(result, discovery=audit.discover(...))`.
        illustrate: rows of the table -> their `Example`s, made when asked; none once the model has
            other weights, and None after pickling: it holds model and data.
    """

    model: str
    object: str
    context: str
    target: str
    images: int
    verdict: Verdict
    cells: tuple[Cell, ...]
    worst: str
    gap: Interval
    places: tuple[Place, ...]
    hits: tuple[Pointing, ...]
    effects: tuple[Effect, ...]
    table: AuditTable = field(repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    examples: tuple[Any, ...] = field(default=(), repr=False)
    discovery: Any = field(default=None, repr=False)
    illustrate: Callable[[Sequence[int]], Sequence[Any]] | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"illustrate": None}

    @property
    def severity(self) -> Interval | None:
        """Share of the evidence that is the context's; None without enough evidence."""
        return self.verdict.severity

    def fails(self, above: float) -> bool:
        """Return whether the severity surely exceeds a limit: the lower end of its interval does.

        Raises:
            DataError: the limit is no share, or there is not enough evidence to tell.
        """
        from ..errors import DataError

        if not 0 <= above <= 1:
            raise DataError(f"the limit of severity is a share from 0 to 1, got {above}")
        if self.severity is None:
            raise DataError(f"the gate cannot be decided: {self.verdict.text}")
        return self.severity.low > above

    def caption(self, operation: str) -> str:
        """Return what a counterfactual such as "object:blur" is called."""
        kind, _, way = operation.partition(":")
        what = {"object": self.object, "context": self.context}.get(kind)
        if what is None:
            return pasted(self.object, self.context)[operation]
        return f"{what} {'swapped' if way == 'swap' else 'removed: ' + way}"

    def __str__(self) -> str:
        return f"{self.model} {self.verdict.text}"

    def __repr__(self) -> str:
        return f"AuditResult({self.images} images, {str(self)!r})"

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the single images as JSON values; NaN becomes None."""
        return plain(
            {
                "schema": SCHEMA,
                "schema_version": SCHEMA_VERSION,
                "model": self.model,
                "object": self.object,
                "context": self.context,
                "target": self.target,
                "images": self.images,
                "verdict": _fields(self.verdict),
                "groups": [_fields(c) for c in self.cells],
                "worst_group": self.worst,
                "gap": self.gap,
                "where": [_fields(p) for p in self.places],
                "hits": [_fields(h) for h in self.hits],
                "counterfactuals": [_fields(e) for e in self.effects],
                "settings": dict(self.settings),
            }
            | ({} if self.discovery is None else {"discovery": self.discovery.as_dict()})
        )

    def csv(self) -> str:
        """Return one line an image: names, group, score, energies, scores of counterfactuals."""
        text = io.StringIO()
        writer: Any = None
        for row in as_row_dicts(self.table):
            if writer is None:
                writer = csv.DictWriter(text, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow({k: cell(v) for k, v in row.items()})
        return text.getvalue()

    def save(self, folder: Any, *, force: bool = False) -> dict[str, Any]:
        """Write report.html, audit.json and images.csv; return their paths.

        Raises:
            OutputExists: one is there and `force` is off.
        """
        from ..report import write_audit

        return write_audit(self, folder, force=force)


def pasted(object: str, context: str) -> dict[str, str]:
    """Return what the transplants are called."""
    if context == BACKGROUND:
        return {
            "paste:with": f"{object} on a {object}'s background",
            "paste:without": f"{object} on another background",
        }
    return {"paste:with": f"{object} on {context}", "paste:without": f"{object} off the {context}"}


def _fields(value: Any) -> dict[str, Any]:
    return {k: getattr(value, k) for k in value.__dataclass_fields__}


def plain(value: Any) -> Any:
    """Return a value as JSON takes it: intervals as dicts, NaN as None."""
    if isinstance(value, Interval):
        return value.as_dict()
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "__dataclass_fields__"):
        return plain(asdict(value))
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
