"""Compare methods on images: controls, intervals, tests, and whether the ranking survives."""

from .cost import Cost, duration
from .export import lines
from .running import Done, Runner, evaluate, finish
from .settings import Measure, Settings, default_metrics
from .store import Store, open_store
from .subjects import from_dataset, from_photos
from .summary import MetricTable, Row, Summary, summarise

__all__ = [
    "Cost",
    "Done",
    "Measure",
    "MetricTable",
    "Row",
    "Runner",
    "Settings",
    "Store",
    "Summary",
    "default_metrics",
    "duration",
    "evaluate",
    "finish",
    "from_dataset",
    "from_photos",
    "lines",
    "open_store",
    "summarise",
]
