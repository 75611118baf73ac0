"""Which identities hold on a model, whether it is fit to be explained, and by which methods."""

from .findings import Finding, MethodFinding, Report
from .identities import identities
from .reading import DoublePass, double_copy, read
from .running import selftest, synthetic_photos

__all__ = [
    "DoublePass",
    "Finding",
    "MethodFinding",
    "Report",
    "double_copy",
    "identities",
    "read",
    "selftest",
    "synthetic_photos",
]
