"""Which identities hold on a model, whether it is fit to be explained, and by which methods."""

from .findings import Finding, MethodFinding, Report
from .identities import identities
from .reading import Reading, double_copy, read
from .running import selftest, synthetic_photos

__all__ = [
    "Finding",
    "MethodFinding",
    "Reading",
    "Report",
    "double_copy",
    "identities",
    "read",
    "selftest",
    "synthetic_photos",
]
