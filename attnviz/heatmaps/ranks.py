"""Signals, volumes and video, and their maps, as pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import DataError
from ..render.scaling import RELATIVE

if TYPE_CHECKING:
    from .core import Heatmaps

#: size of the picture of a curve, height and width in pixels
CURVE = (240, 960)
COLOURS = ((30, 30, 30), (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167))


def checked(values: Any, rank: int) -> np.ndarray | None:
    """Return what a map of this rank is drawn on, (C, T) or (C, D, H, W), or raise."""
    if values is None:
        return None
    array = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)
    if array.ndim != rank + 1:
        axes = {1: "(C, T)", 3: "(C, D, H, W)"}[rank]
        raise DataError(f"these maps are drawn on arrays {axes}, got {array.shape}")
    return array


def as_pictures(maps: Heatmaps) -> Heatmaps:
    """Return maps of signals or volumes as maps of pictures; those of pictures as they are.

    A signal becomes the picture of its curve, the map a row over it. A volume becomes its maximum
    along the depth, and so does the map (the value of largest magnitude, if some are negative).
    Of a video the frame is taken where the map is strongest.
    """
    if maps.rank == 2:
        return maps
    pictures = []
    for index in range(len(maps)):
        given = None if maps.images is None else maps.images[index]
        if given is None:
            pictures.append(None)
        elif maps.rank == 1:
            pictures.append(curve(given))
        elif is_video(given):
            values = maps.values[index].detach()
            most = int(values.abs().flatten(1).amax(1).argmax())
            frame = int((most + 0.5) * given.shape[1] / len(values))
            pictures.append(coloured(given)[frame])
        else:
            pictures.append(coloured(given).max(0))
    values = maps.values[:, None] if maps.rank == 1 else strongest(maps.values, 1)
    size = {"map_size": list(maps.values.shape[1:])}
    return replace(maps, values=values, images=tuple(pictures), meta={**size, **maps.meta})


def is_video(given: np.ndarray) -> bool:
    """Say whether an input (C, T, H, W) is a video: colours as channels."""
    return given.ndim == 4 and given.shape[0] == 3


def curve(signal: np.ndarray) -> np.ndarray:
    """Return the picture of a signal (C, T), a line for each channel, time from left to right.

    Sample i spans the i-th of T equal parts of the width. Of more than five channels their mean
    is drawn.
    """
    import cv2

    rows, columns = CURVE
    lines = signal if len(signal) <= len(COLOURS) else signal.mean(0, keepdims=True)
    low, high = float(np.nanmin(lines)), float(np.nanmax(lines))
    out = np.full((rows, columns, 3), 255, np.uint8)
    x = (np.arange(lines.shape[1]) + 0.5) * columns / lines.shape[1]
    for line, colour in zip(lines, COLOURS, strict=False):
        y = rows * (0.95 - 0.9 * (line - low) / max(high - low, 1e-30))
        points = np.stack([x, np.nan_to_num(y)], 1)
        fine = np.round(points * 16).astype(np.int32)  # four binary digits after the point
        cv2.polylines(out, [fine[:, None]], False, colour, 2, cv2.LINE_AA, shift=4)
    return out


def coloured(given: np.ndarray) -> np.ndarray:
    """Return a volume or video (C, D, H, W) as pictures (D, H, W, 3) uint8 on one grey scale.

    Three channels are colours, of others the mean is shown; the 1st to 99.5th percentile of all
    values spans black to white.
    """
    shown = given if is_video(given) else given.mean(0, keepdims=True).repeat(3, 0)
    low, high = np.nanpercentile(shown, (1.0, 99.5))
    scaled = np.clip((shown - low) / max(float(high - low), 1e-30), 0.0, 1.0)
    return np.ascontiguousarray((scaled * 255).round().astype(np.uint8).transpose(1, 2, 3, 0))


def strongest(values: torch.Tensor, axis: int) -> torch.Tensor:
    """Return the largest values along an axis; those of largest magnitude if some are negative."""
    high, low = values.amax(axis), values.amin(axis)
    if not values.numel() or bool(low.min() >= -RELATIVE * high.max().abs()):
        return high
    return torch.where(-low > high, low, high)
