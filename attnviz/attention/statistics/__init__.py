"""Numbers that a table can show, for each layer and head; no N x N matrix is kept for them."""

from .importance import head_importance
from .outliers import outlier_tokens
from .rows import SiteStatistics, site_statistics
from .table import COLUMNS, HeadTable, head_table

__all__ = [
    "COLUMNS",
    "HeadTable",
    "SiteStatistics",
    "head_importance",
    "head_table",
    "outlier_tokens",
    "site_statistics",
]
