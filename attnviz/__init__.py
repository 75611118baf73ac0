"""attnviz shows what a trained model looks at, tests whether it should, and trains it to.

Names are imported when first used, so `import attnviz` is quick and pulls in no plotting, model
or image library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import attention, audit, data, erasing, gallery, guidance, metrics, models, render
    from .concepts import find_concepts
    from .errors import AttnvizError, AttnvizWarning
    from .explaining import explain
    from .geometry import Geometry
    from .heatmaps import Heatmaps, grid
    from .hooks import capture
    from .images import find_images, read_image
    from .inspection import inspect
    from .methods import METHODS
    from .models import load
    from .targets import (
        BoxTarget,
        ClassTarget,
        Contrast,
        Probability,
        RegionTarget,
        TextTarget,
        TokenTarget,
    )

__all__ = [
    "METHODS",
    "AttnvizError",
    "AttnvizWarning",
    "BoxTarget",
    "ClassTarget",
    "Contrast",
    "Geometry",
    "Heatmaps",
    "Probability",
    "RegionTarget",
    "TextTarget",
    "TokenTarget",
    "__version__",
    "attention",
    "audit",
    "capture",
    "data",
    "erasing",
    "explain",
    "find_concepts",
    "find_images",
    "gallery",
    "grid",
    "guidance",
    "inspect",
    "load",
    "metrics",
    "models",
    "read_image",
    "render",
]

__version__ = "0.1.0"

#: public name -> module that defines it ("" for a subpackage of that name)
_PUBLIC: dict[str, str] = {
    "AttnvizError": "attnviz.errors",
    "AttnvizWarning": "attnviz.errors",
    "BoxTarget": "attnviz.targets",
    "ClassTarget": "attnviz.targets",
    "Contrast": "attnviz.targets",
    "Geometry": "attnviz.geometry",
    "Heatmaps": "attnviz.heatmaps",
    "METHODS": "attnviz.methods",
    "Probability": "attnviz.targets",
    "RegionTarget": "attnviz.targets",
    "TextTarget": "attnviz.targets",
    "TokenTarget": "attnviz.targets",
    "attention": "",
    "audit": "",
    "capture": "attnviz.hooks",
    "data": "",
    "erasing": "",
    "explain": "attnviz.explaining",
    "find_concepts": "attnviz.concepts",
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

if not TYPE_CHECKING:  # to a checker this would make every misspelt name right

    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module 'attnviz' has no attribute {name!r}")
        module = importlib.import_module(_PUBLIC[name] or f"attnviz.{name}")
        value = getattr(module, name) if _PUBLIC[name] else module
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
