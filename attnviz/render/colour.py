"""Colour maps as look-up tables: a value in [0, 1] to RGB. Any of matplotlib's, by name.

inferno, cividis, viridis, magma, plasma and turbo come from OpenCV (within one level of
matplotlib's); embers is inferno cut short. coolwarm and jet, which OpenCV lacks or draws
otherwise, are computed here.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..errors import AttnvizError, did_you_mean

SEQUENTIAL = ("embers", "inferno", "cividis", "viridis", "magma", "plasma", "gray")
DIVERGING = ("coolwarm",)
ON_REQUEST = ("turbo", "jet")
#: those that are made here; every other name that matplotlib knows works too
COLORMAPS = SEQUENTIAL + DIVERGING + ON_REQUEST

#: inferno without its palest end, which is lost on bright and hazy photos
DEFAULT = "embers"
_KEPT = 0.88
DEFAULT_SIGNED = "coolwarm"


@lru_cache(maxsize=32)
def table(name: str, size: int = 256) -> np.ndarray:
    """Return a colour map as a read-only array (size, 3) of floats in [0, 255], RGB.

    Raises:
        AttnvizError: the name is neither one of `COLORMAPS` nor known to matplotlib.
    """
    if name == "embers":
        whole, at = table("inferno"), np.linspace(0.0, 255.0 * _KEPT, 256)
        colours = np.stack([np.interp(at, np.arange(256), whole[:, c]) for c in range(3)], axis=1)
    elif name == "gray":
        colours = np.repeat(np.linspace(0.0, 255.0, 256)[:, None], 3, axis=1)
    elif name == "coolwarm":
        colours = _coolwarm(np.linspace(0.0, 1.0, 33))  # 33 corner points, as in matplotlib
    elif name == "jet":
        colours = _jet(np.linspace(0.0, 1.0, 256))
    elif name in COLORMAPS:
        import cv2

        ramp = np.arange(256, dtype=np.uint8)[:, None]
        code = getattr(cv2, f"COLORMAP_{name.upper()}")
        colours = cv2.applyColorMap(ramp, code)[:, 0, ::-1].astype(np.float64)
    else:
        colours = _of_matplotlib(name)
    if size != len(colours):
        at = np.linspace(0.0, len(colours) - 1.0, size)
        known = np.arange(len(colours))
        colours = np.stack([np.interp(at, known, colours[:, c]) for c in range(3)], axis=1)
    colours.setflags(write=False)
    return colours


def _of_matplotlib(name: str) -> np.ndarray:
    from matplotlib import colormaps  # half a second, for those who ask for one of its own

    if name not in colormaps:
        raise AttnvizError(
            f"colormap {name!r} is not known{did_you_mean(name, [*COLORMAPS, *colormaps]) or '.'} "
            f"Known: {', '.join(COLORMAPS)}, and every name of matplotlib's"
        )
    found = colormaps[name]
    return np.asarray(found(np.linspace(0.0, 1.0, max(found.N, 2))))[:, :3] * 255.0


def colourise(values: np.ndarray, *, colormap: str = DEFAULT) -> np.ndarray:
    """Return the colours (..., 3) uint8 RGB of values in [0, 1]; NaN is mid grey (128).

    Values beyond the ends take the colour of the end. For a signed map 0.5 is the centre.
    """
    values = np.asarray(values, dtype=np.float32)
    colours = np.rint(table(colormap, 1025)).astype(np.uint8)
    outside = np.isnan(values)
    index = np.rint(np.clip(np.where(outside, 0.0, values), 0.0, 1.0) * 1024).astype(np.intp)
    out = colours[index]
    out[outside] = 128
    return out


def _jet(t: np.ndarray) -> np.ndarray:
    # the corner points of matplotlib's (originally MATLAB's) jet
    red = np.interp(t, [0, 0.35, 0.66, 0.89, 1], [0, 0, 1, 1, 0.5])
    green = np.interp(t, [0, 0.125, 0.375, 0.64, 0.91, 1], [0, 0, 1, 1, 0, 0])
    blue = np.interp(t, [0, 0.11, 0.34, 0.65, 1], [0.5, 1, 1, 0, 0])
    return np.stack([red, green, blue], axis=1) * 255.0


def _coolwarm(t: np.ndarray) -> np.ndarray:
    """Kenneth Moreland's diverging map (Diverging Color Maps for Scientific Visualization, 2009).

    Straight lines in polar CIELAB (magnitude, saturation angle, hue) from blue and from red to a
    grey in the middle, so that lightness is symmetric about zero.
    """
    blue = _msh(np.array([59.0, 76.0, 192.0]))
    red = _msh(np.array([180.0, 4.0, 38.0]))
    white = 88.0
    side = np.abs(2.0 * t - 1.0)[:, None]
    hues = np.array([_adjusted_hue(blue, white), _adjusted_hue(red, white)])
    end = np.where((t < 0.5)[:, None], blue, red)
    hue = np.where(t < 0.5, hues[0], hues[1])[:, None]
    magnitude = white + (end[:, :1] - white) * side
    saturation = end[:, 1:2] * side
    angle = hue + (end[:, 2:3] - hue) * side
    lab = np.concatenate(
        [
            magnitude * np.cos(saturation),
            magnitude * np.sin(saturation) * np.cos(angle),
            magnitude * np.sin(saturation) * np.sin(angle),
        ],
        axis=1,
    )
    return _lab_to_rgb(lab)


def _adjusted_hue(end: np.ndarray, white: float) -> float:
    """Return the hue that the grey is given, so that hue does not seem to shift on the way."""
    magnitude, saturation, hue = end
    if magnitude >= white:
        return float(hue)
    spin = saturation * np.sqrt(white**2 - magnitude**2) / (magnitude * np.sin(saturation))
    return float(hue + spin if hue > -np.pi / 3 else hue - spin)


_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_D65 = np.array([0.95047, 1.0, 1.08883])


def _msh(rgb: np.ndarray) -> np.ndarray:
    c = rgb / 255.0
    linear = np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    xyz = _XYZ @ linear / _D65
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16.0 / 116.0)
    light, a, b = 116.0 * f[1] - 16.0, 500.0 * (f[0] - f[1]), 200.0 * (f[1] - f[2])
    magnitude = np.sqrt(light**2 + a**2 + b**2)
    return np.array([magnitude, np.arccos(light / magnitude), np.arctan2(b, a)])


def _lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    fy = (lab[:, 0] + 16.0) / 116.0
    f = np.stack([fy + lab[:, 1] / 500.0, fy, fy - lab[:, 2] / 200.0], axis=1)
    xyz = np.where(f**3 > 0.008856, f**3, (f - 16.0 / 116.0) / 7.787) * _D65
    c = np.clip(xyz @ np.linalg.inv(_XYZ).T, 0.0, 1.0)
    return np.where(c > 0.0031308, 1.055 * c ** (1 / 2.4) - 0.055, 12.92 * c) * 255.0
