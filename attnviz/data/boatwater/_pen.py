"""Drawing of an object on a canvas of its own, in coordinates 0 to 1, with transparency."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

Colour = tuple[int, int, int]
Point = tuple[float, float]

_SHIFT = 4  # cv2 draws with 1/16 pixel


class Pen:
    """A canvas of `height` x `width` pixels; (0, 0) upper left, (1, 1) lower right.

    Args:
        height: canvas height in pixels.
        width: canvas width in pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.canvas = np.zeros((height, width, 4), np.uint8)

    def _fixed(self, points: Sequence[Point]) -> np.ndarray:
        scaled = np.asarray(points, float) * (self.width, self.height) * (1 << _SHIFT)
        return np.round(scaled).astype(np.int32)

    def polygon(self, colour: Colour, *points: Point) -> None:
        """Fill a polygon, convex or not."""
        cv2.fillPoly(self.canvas, [self._fixed(points)], (*colour, 255), cv2.LINE_8, _SHIFT)

    def box(self, colour: Colour, x0: float, y0: float, x1: float, y1: float) -> None:
        """Fill an upright rectangle."""
        self.polygon(colour, (x0, y0), (x1, y0), (x1, y1), (x0, y1))

    def ellipse(
        self,
        colour: Colour,
        centre: Point,
        radii: Point,
        start: float = 0,
        end: float = 360,
        angle: float = 0,
    ) -> None:
        """Fill an ellipse, or the part from `start` to `end` degrees (clockwise from the right)."""
        x, y = self._fixed([centre])[0]
        rx, ry = np.maximum(self._fixed([radii])[0], 1)
        cv2.ellipse(
            self.canvas,
            (int(x), int(y)),
            (int(rx), int(ry)),
            angle,
            start,
            end,
            (*colour, 255),
            -1,
            cv2.LINE_8,
            _SHIFT,
        )

    def line(self, colour: Colour, thickness: float, *points: Point) -> None:
        """Draw a line through points; thickness is a share of the canvas width."""
        pixels = max(round(thickness * self.width), 1)
        cv2.polylines(
            self.canvas, [self._fixed(points)], False, (*colour, 255), pixels, cv2.LINE_8, _SHIFT
        )

    def shade(self, light: np.ndarray) -> None:
        """Multiply the colours by a field that is stretched over the canvas."""
        field = cv2.resize(light.astype(np.float32), (self.width, self.height))
        colours = self.canvas[..., :3]
        colours[:] = np.clip(colours * field[..., None], 0, 255).astype(np.uint8)

    def finish(self, height: int, width: int, tilt: float, flip: bool) -> np.ndarray:
        """Return (height, width, 4) float32: colours times opacity (0..255), and opacity (0..1).

        Args:
            height: final height in pixels; the canvas is averaged down to it.
            width: final width in pixels.
            tilt: degrees, anticlockwise.
            flip: mirror left and right.
        """
        canvas = self.canvas
        if tilt:
            turn = cv2.getRotationMatrix2D((self.width / 2, self.height / 2), tilt, 1.0)
            canvas = cv2.warpAffine(canvas, turn, (self.width, self.height), flags=cv2.INTER_LINEAR)
        if flip:
            canvas = canvas[:, ::-1]
        small = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        opacity = small[..., 3] / 255
        # Crisp edges: the mask is all that is not fully transparent, so faint rims are cut.
        crisp = np.clip((opacity - 0.25) * 2, 0, 1)
        scale = np.divide(crisp, opacity, out=np.zeros_like(crisp), where=opacity > 0)
        small[..., :3] *= scale[..., None]
        small[..., 3] = crisp
        return small


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Return the colour between `a` (share 0) and `b` (share 1)."""
    red, green, blue = (round(p + (q - p) * share) for p, q in zip(a, b, strict=True))
    return red, green, blue


def darker(colour: Colour, share: float = 0.3) -> Colour:
    """Return the colour mixed with black."""
    return mix(colour, (0, 0, 0), share)


def lighter(colour: Colour, share: float = 0.3) -> Colour:
    """Return the colour mixed with white."""
    return mix(colour, (255, 255, 255), share)
