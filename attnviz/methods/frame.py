"""Whose picture a map lies on: the input's, or that which a model makes of its input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import MethodError
from ..geometry import Geometry
from ..registry import Entry
from .request import METHODS, RawMaps


def of_layer(maps: RawMaps) -> bool:
    """Say whether maps have the cells of a layer, and not of the input."""
    return METHODS.get(maps.method).family in ("cam", "attention") or "layout" in maps.meta


def check_frame(inner: Geometry, families: Mapping[str, Sequence[Entry]]) -> None:
    """Raise for methods that lay a layer's map over the input, where the model pads in between.

    Args:
        inner: what the layers see on the input, as `attnviz.models.inner` tells.
        families: the methods chosen, by family.

    Raises:
        MethodError: it names the methods, and what to do.
    """
    height, width = inner.image_size
    if inner.crop == (0.0, 0.0, width, height):
        return
    mixing = [e.name for e in families.get("perturbation", ()) if e.meta["reads_layer"]]
    mixing = [name for name in mixing if name != "ablationcam"]
    mixing += [
        e.name for e in families.get("attribution", ()) if e.name in ("guided_gradcam", "fullgrad")
    ]
    if mixing:
        raise MethodError(
            f"{', '.join(mixing)} lays a layer's map over the input, and this model pads its input "
            f"of {height} x {width} inside, so they do not fit. Give an input whose sides the "
            "model need not pad (for torchvision's detectors multiples of 32 after their resize), "
            "or use gradcam, layercam, hirescam, ablationcam, occlusion or rise"
        )
