"""Pictures of attention: figures with matplotlib, and one offline page to click through."""

from .figures import alignment, head_grid, patch_overlay, token_graph, token_heatmap, word_maps
from .pages import page, save_page
from .recording import AttentionRecord, LayerRecord, record

__all__ = [
    "AttentionRecord",
    "LayerRecord",
    "alignment",
    "head_grid",
    "page",
    "patch_overlay",
    "record",
    "save_page",
    "token_graph",
    "token_heatmap",
    "word_maps",
]
