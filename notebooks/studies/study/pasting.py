"""One cut-out pasted on one background."""

from __future__ import annotations

import cv2
import numpy as np

from attnviz.data.boatwater.arrays import ELSEWHERE, OBJECT
from attnviz.data.masks import mask_box
from study.material import Background, CutOut, extend_colours
from study.protocol import Protocol


def patch_of(ground: Background, shape: CutOut, rng: np.random.Generator) -> CutOut:
    height, width = shape.mask.shape
    image = ground.pixels
    scale = max((height + 1) / image.shape[0], (width + 1) / image.shape[1], 0.5)
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    top = int(rng.integers(max(image.shape[0] - height, 0) + 1))
    left = int(rng.integers(max(image.shape[1] - width, 0) + 1))
    window = image[top : top + height, left : left + width]
    pixels = cv2.resize(window, (width, height))
    return CutOut(extend_colours(pixels, shape.mask), shape.mask, "patch", ground.source)


def paste(
    piece: CutOut, ground: Background, protocol: Protocol, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (size, size, 3) uint8 and its region (size, size) uint8."""
    size = protocol.size
    picture, region, floor = view(ground, size, rng)
    colours, opacity = _scaled(piece, protocol, rng)
    height, width = opacity.shape
    top, left = _place(floor, height, width, rng)
    window = np.s_[top : top + height, left : left + width]
    inside = opacity[..., None]
    blended = picture[window] * (1 - inside) + colours * inside
    picture = picture.copy()
    # Where the opacity is 0 the background's own numbers stay, not a rounding of them.
    picture[window] = np.where(inside > 0, np.rint(blended), picture[window]).astype(np.uint8)
    region = region.copy()
    patch = region[window]
    patch[(opacity > 0) & (opacity < 0.5)] = ELSEWHERE
    patch[opacity >= 0.5] = OBJECT
    return picture, region


def view(
    ground: Background, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a random square part of the background: picture, region and floor at final size."""
    height, width = ground.region.shape
    short = min(height, width)
    best, most = None, -1.0
    whole = ground.floor.mean()
    for _ in range(8):
        side = int(short * rng.uniform(0.7, 1.0))
        top = int(rng.integers(height - side + 1))
        left = int(rng.integers(width - side + 1))
        share = float(ground.floor[top : top + side, left : left + side].mean())
        if share > most:
            best, most = (top, left, side), share
        if share >= whole:  # shows as much of the place as the photo does: good enough
            break
    top, left, side = best
    window = np.s_[top : top + side, left : left + side]
    method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    picture = cv2.resize(ground.pixels[window], (size, size), interpolation=method)
    region = cv2.resize(ground.region[window], (size, size), interpolation=cv2.INTER_NEAREST)
    floor = ground.floor[window].astype(np.uint8)
    floor = cv2.resize(floor, (size, size), interpolation=cv2.INTER_NEAREST)
    if rng.random() < 0.5:
        picture, region, floor = picture[:, ::-1], region[:, ::-1], floor[:, ::-1]
    return np.ascontiguousarray(picture), np.ascontiguousarray(region), floor.astype(bool)


def _scaled(
    piece: CutOut, protocol: Protocol, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cut-out's colours (h, w, 3) float32 and opacity (h, w) float32 at final size."""
    pixels, mask = piece.pixels, piece.mask.astype(np.float32)
    if rng.random() < 0.5:
        pixels, mask = pixels[:, ::-1], mask[:, ::-1]
    pixels = np.ascontiguousarray(pixels).astype(np.float32)
    mask = np.ascontiguousarray(mask)
    shrink = float(np.sqrt(protocol.sharpness / mask.sum()))
    if shrink < 1:
        shape = tuple(max(round(s * shrink), 4) for s in mask.shape[::-1])
        pixels = cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask, shape, interpolation=cv2.INTER_AREA)
    low, high = protocol.area
    target = rng.uniform(low, high) * protocol.size**2
    x0, y0, x1, y1 = mask_box(mask > 0.5)
    most = 0.9 * protocol.size / max(x1 - x0, y1 - y0)
    scale = min(float(np.sqrt(target / mask.sum())), most)
    shape = tuple(max(round(s * scale), 4) for s in mask.shape[::-1])
    method = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
    pixels = cv2.resize(pixels, shape, interpolation=method)
    mask = cv2.resize(mask, shape, interpolation=method)
    if protocol.softness:
        margin = int(3 * protocol.softness) + 1
        pixels = cv2.copyMakeBorder(pixels, *[margin] * 4, cv2.BORDER_REPLICATE)
        mask = cv2.copyMakeBorder(mask, *[margin] * 4, cv2.BORDER_CONSTANT, value=0)
        mask = cv2.GaussianBlur(mask, (0, 0), protocol.softness)
    mask = np.where(mask < 0.02, 0, mask).astype(np.float32)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    size = protocol.size
    return pixels[window][:size, :size], mask[window][:size, :size]


def _place(floor: np.ndarray, height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
    """Return (top, left) with the foot of the object on the floor, where there is room."""
    size = len(floor)
    tops, lefts = size - height, size - width
    feet = floor[height - 1 : height + tops, width // 2 : width // 2 + lefts + 1]
    where = np.flatnonzero(feet)
    if not len(where):
        return tops, int(rng.integers(lefts + 1))
    chosen = int(where[rng.integers(len(where))])
    return chosen // feet.shape[1], chosen % feet.shape[1]
