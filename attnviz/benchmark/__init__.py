"""Compare methods on images: controls, intervals, tests, and whether the ranking survives."""

from .cost import Cost, duration
from .export import lines
from .running import Done, Runner, evaluate
from .settings import Measure, Settings, default_metrics
from .store import Store
from .subjects import Subject, boxes_on_input, from_dataset, from_photos, mask_on_input
from .summary import Row, Summary, Table, summarise

__all__ = [
    "Cost",
    "Done",
    "Measure",
    "Row",
    "Runner",
    "Settings",
    "Store",
    "Subject",
    "Summary",
    "Table",
    "boxes_on_input",
    "default_metrics",
    "duration",
    "evaluate",
    "from_dataset",
    "from_photos",
    "lines",
    "mask_on_input",
    "summarise",
]
