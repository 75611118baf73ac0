"""Generated scenes: boats and other objects, on water and on land, with exact masks.

Everything is drawn by code from a seed. The object, the place, their layout and the noise have
random streams of their own, so the same seed gives the same object on water and on land, and the
same place with and without it: the exact counterfactual.

Two rules hold for every pixel, so that a linear unit can tell what is what (`planting` builds on
them); colours are RGB in 0..255:

* blue - red >= `WATER_MIN` on water, and <= `WATER_MAX_ELSEWHERE` everywhere else;
* in marked scenes, red - green <= `MARK_MAX_ELSEWHERE` everywhere but on boats, whose hulls are
  red with red - green well above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ...errors import DataError, did_you_mean
from ._boats import BOATS, Paint
from ._others import OTHERS
from ._pen import Colour, Pen
from ._places import PlaceLayout, draw_layout, noise, paint_land, paint_water
from .arrays import CLASSES, GROUPS, OBJECT, WATER, GroupedImages

WATER_MIN = 60
WATER_MAX_ELSEWHERE = 45
MARK_MAX_ELSEWHERE = 64

_COLOURS: tuple[Colour, ...] = (
    (188, 44, 40),
    (222, 120, 36),
    (236, 196, 60),
    (60, 128, 70),
    (120, 160, 90),
    (128, 150, 164),
    (96, 60, 110),
    (150, 96, 60),
    (60, 60, 66),
    (150, 150, 150),
    (228, 226, 220),
    (90, 110, 104),
)
_RED: tuple[Colour, ...] = ((204, 36, 40), (176, 30, 34), (214, 60, 48))


@dataclass(frozen=True)
class Scene:
    """One scene: picture (h, w, 3) uint8, the same without object, region (h, w), object's kind."""

    image: np.ndarray
    plain: np.ndarray
    region: np.ndarray
    kind: str


def render(
    group: str | int,
    seed: int | Sequence[int],
    *,
    size: int = 64,
    marked: bool = False,
    kind: str | None = None,
) -> Scene:
    """Draw one scene.

    Args:
        group: "boat/water", "boat/land", "other/water" or "other/land", or its index in `GROUPS`.
        seed: the same seed gives the same scene; another group with the same seed keeps the
            layout and the noise, and what the groups have in common (object or place).
        size: height and width in pixels, 32 to 256.
        marked: boats have red hulls and nothing else is that red.
        kind: what the object is; None draws one.

    Returns:
        `Scene`.
    """
    index = _group_index(group)
    if not 32 <= size <= 256:
        raise DataError(f"size {size}: scenes have 32 to 256 pixels a side")
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4)]
    layout = draw_layout(streams[0])
    paint = paint_water if index % 2 else paint_land
    picture, region = paint(streams[1], size, layout)
    picture = _lit(picture, layout)
    object_layer, top, left, kind = _object(index >= 2, streams[2], size, layout, marked, kind)
    height, width = object_layer.shape[:2]
    window = np.s_[top : top + height, left : left + width]
    opacity = object_layer[..., 3:]
    shown = picture.copy()
    shown[window] = shown[window] * (1 - opacity) + object_layer[..., :3]
    grain = streams[3].standard_normal((size, size, 1), dtype=np.float32)
    grain = grain + 0.6 * streams[3].standard_normal((size, size, 3), dtype=np.float32)
    grain *= np.float32(streams[3].uniform(1.0, 7.0))
    covered = np.zeros((size, size), bool)
    covered[window] = opacity[..., 0] > 0
    with_object = np.where(covered, OBJECT, region).astype(np.uint8)
    free = covered if index >= 2 else np.zeros_like(covered)
    return Scene(
        image=_legal(shown + grain, with_object == WATER, free, marked),
        plain=_legal(picture + grain, region == WATER, np.zeros_like(covered), marked),
        region=with_object,
        kind=kind,
    )


def generate(
    n: int | None = None,
    *,
    size: int = 64,
    seed: int = 0,
    co_occurrence: float = 0.5,
    boats: float = 0.5,
    groups: Sequence[str | int] | None = None,
    marked: bool = False,
    plain: bool = False,
) -> GroupedImages:
    """Generate scenes of the four groups.

    Args:
        n: how many. Labels and contexts are dealt exactly, not drawn, then shuffled by the seed.
        size: height and width in pixels, 32 to 256.
        seed: everything follows from it; scene i of a seed does not depend on n or the others.
        co_occurrence: share of the boats that are on water, and of the others that are on land.
            1.0 is complete confusion, 0.5 none.
        boats: share of images with a boat.
        groups: the group of each image instead (names or indices of `GROUPS`); then `n`,
            `co_occurrence` and `boats` are not used.
        marked: boats have red hulls and nothing else is that red (see `planting`).
        plain: also keep each scene without its object.

    Returns:
        `GroupedImages`. About 2 ms an image at 64 px; 13 KB an image in memory (26 KB with plain).

    Raises:
        DataError: a size, share or group out of range.
    """
    if groups is None:
        if n is None or n < 1:
            raise DataError(f"n={n}, expected 1 or more, or give groups=[...]")
        indices = _deal(n, co_occurrence, boats, seed)
    else:
        indices = np.array([_group_index(g) for g in groups], np.int64)
        if n is not None and n != len(indices):
            raise DataError(f"n={n}, but groups lists {len(indices)}; give one of the two")
        if not len(indices):
            raise DataError("groups is empty; expected one or more of " + ", ".join(GROUPS))
    count = len(indices)
    images = np.empty((count, size, size, 3), np.uint8)
    region = np.empty((count, size, size), np.uint8)
    without = np.empty_like(images) if plain else None
    kinds = []
    for i, group in enumerate(indices.tolist()):
        scene = render(group, (seed, i), size=size, marked=marked)
        images[i], region[i] = scene.image, scene.region
        if without is not None:
            without[i] = scene.plain
        kinds.append(scene.kind)
    names = tuple(f"scene-{seed}-{i}" for i in range(count))
    return GroupedImages(
        images=images,
        region=region,
        label=indices // 2,
        context=indices % 2,
        source=names,
        background=names,
        kind=tuple(kinds),
        plain=without,
        meta={
            "generator": "attnviz.data.boatwater.scenes",
            "seed": seed,
            "size": size,
            "marked": marked,
        },
    )


def balanced(per_group: int) -> list[int]:
    """Return `groups` for `generate` with as many images of each group, in turn."""
    return list(range(4)) * per_group


def _group_index(group: str | int) -> int:
    if isinstance(group, str):
        if group not in GROUPS:
            raise DataError(
                f"group {group!r} is not known{did_you_mean(group, GROUPS) or '.'} "
                f"Expected one of {', '.join(GROUPS)}"
            )
        return GROUPS.index(group)
    if not 0 <= int(group) < 4:
        raise DataError(f"group {group}: expected 0 to 3, the index in {GROUPS}")
    return int(group)


def _deal(n: int, co_occurrence: float, boats: float, seed: int) -> np.ndarray:
    for name, value in (("co_occurrence", co_occurrence), ("boats", boats)):
        if not 0 <= value <= 1:
            raise DataError(f"{name}={value}, expected a share from 0 to 1")
    with_boat = round(n * boats)
    boat_water = round(with_boat * co_occurrence)
    other_land = round((n - with_boat) * co_occurrence)
    counts = (other_land, n - with_boat - other_land, with_boat - boat_water, boat_water)
    indices = np.repeat(np.arange(4), counts)
    np.random.default_rng((seed, 1)).shuffle(indices)
    return indices


def _lit(picture: np.ndarray, layout: PlaceLayout) -> np.ndarray:
    """Return the picture in the layout's light."""
    warm = 0.06 * layout.warmth
    tint = np.array((1 + warm, 1.0, 1 - warm), np.float32) * np.float32(layout.light)
    return picture.astype(np.float32) * tint


def _object(
    boat: bool,
    rng: np.random.Generator,
    size: int,
    layout: PlaceLayout,
    marked: bool,
    kind: str | None,
) -> tuple[np.ndarray, int, int, str]:
    """Return the object's layer, its upper left corner, and its kind."""
    # Drawn before the kind is, so that boats and others are placed and sized alike.
    place, area, tilt = rng.random(2), rng.uniform(0.1, 0.26), rng.uniform(-5, 5)
    flip, texture = bool(rng.random() < 0.5), rng.uniform(0.04, 0.14)
    colours = _paints(rng, boat, marked)
    kinds = BOATS if boat else OTHERS
    if kind is None:
        kind = list(kinds)[int(rng.integers(len(kinds)))]
    if kind not in kinds:
        raise DataError(
            f"kind {kind!r} is no {CLASSES[boat]}{did_you_mean(kind, kinds) or '.'} "
            f"Known: {', '.join(kinds)}"
        )
    draw, aspect = kinds[kind]
    width = float(np.clip(np.sqrt(area / aspect), 0.2, 0.82)) * size
    pixels = max(round(width), 8), max(round(width * aspect), 8)
    # At least 96 pixels to draw on: what is finer than a pixel is averaged, not lost.
    zoom = max(2, -(-96 // pixels[0]))
    pen = Pen(pixels[1] * zoom, pixels[0] * zoom)
    draw(pen, colours, rng)
    grid = noise(rng, 16, 0.12)
    slope = np.linspace(1.08, 0.88, 16, dtype=np.float32)[:, None]
    pen.shade(slope * (1 + np.float32(texture) * grid))
    layer = pen.finish(pixels[1], pixels[0], tilt, flip)
    layer[..., :3] = _lit(layer[..., :3], layout)
    # The foot of the object stands below the horizon, and all of it in the picture.
    lowest = max(layout.horizon + 0.18, 0.3) * size
    foot = lowest + (0.97 * size - lowest) * place[0]
    top = int(np.clip(round(foot - pixels[1]), 0, size - pixels[1]))
    left = round((size - pixels[0]) * place[1])
    return layer, top, left, kind


def _paints(rng: np.random.Generator, boat: bool, marked: bool) -> Paint:
    chosen = rng.choice(len(_COLOURS), 3, replace=False)
    jitter = rng.normal(0, 10, (3, 3))
    red = _RED[int(rng.integers(len(_RED)))]
    body, second, detail = (
        tuple(np.clip(np.round(np.array(_COLOURS[c]) + j), 0, 255).astype(int).tolist())
        for c, j in zip(chosen, jitter, strict=True)
    )
    return Paint(red if boat and marked else body, second, detail)


def _legal(picture: np.ndarray, water: np.ndarray, boat: np.ndarray, marked: bool) -> np.ndarray:
    """Return the picture as uint8 with the two rules of the module enforced to the last pixel."""
    pixels = np.clip(np.rint(picture), 0, 255).astype(np.int16)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    if marked:
        red[:] = np.where(boat, red, np.minimum(red, green + MARK_MAX_ELSEWHERE))
    # Red goes down first and blue up only as far as red cannot follow.
    blue[:] = np.where(water, np.maximum(blue, WATER_MIN), blue)
    red[:] = np.where(water, np.minimum(red, blue - WATER_MIN), red)
    blue[:] = np.where(water, blue, np.minimum(blue, red + WATER_MAX_ELSEWHERE))
    return pixels.astype(np.uint8)


def enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    """Return the image with every pixel repeated `factor` times each way, for looking at it."""
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
