"""attnviz shows what a trained model looks at, tests whether it should, and trains it to.

Names are imported when first used, so `import attnviz` is quick and pulls in no plotting, model
or image library.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

#: public name -> module that defines it ("" for a subpackage of that name)
_PUBLIC: dict[str, str] = {
    "AttnvizError": "attnviz.errors",
    "AttnvizWarning": "attnviz.errors",
    "ClassTarget": "attnviz.targets",
    "Contrast": "attnviz.targets",
    "Geometry": "attnviz.geometry",
    "Heatmaps": "attnviz.heatmaps",
    "METHODS": "attnviz.methods",
    "Probability": "attnviz.targets",
    "RegionTarget": "attnviz.targets",
    "attention": "",
    "audit": "",
    "capture": "attnviz.hooks",
    "data": "",
    "erasing": "",
    "explain": "attnviz.explaining",
    "find_images": "attnviz.images",
    "gallery": "",
    "guidance": "",
    "grid": "attnviz.heatmaps",
    "inspect": "attnviz.inspection",
    "load": "attnviz.models",
    "metrics": "",
    "models": "",
    "read_image": "attnviz.images",
    "render": "",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'attnviz' has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name] or f"attnviz.{name}")
    value = getattr(module, name) if _PUBLIC[name] else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
