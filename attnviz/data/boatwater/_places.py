"""Sky, water and land, painted with numpy: colours (h, w, 3) float32 in 0..255 and what is what."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from .arrays import ELSEWHERE, LAND, WATER

_BANK = 256


@dataclass(frozen=True)
class PlaceLayout:
    """What both kinds of place share, so that an object stands alike on water and on land.

    Attributes:
        horizon: row of the horizon as a share of the height; below 0 there is no sky (seen from
            above).
        warmth: -1 (cold light) to 1 (warm light).
        light: brightness, about 1.
    """

    horizon: float
    warmth: float
    light: float


def draw_layout(rng: np.random.Generator) -> PlaceLayout:
    """Return a random layout."""
    horizon = rng.uniform(0.16, 0.44) if rng.random() < 0.85 else -rng.uniform(0.3, 0.6)
    return PlaceLayout(horizon, rng.uniform(-1, 1), rng.uniform(0.78, 1.12))


@cache
def _bank() -> tuple[np.ndarray, np.ndarray]:
    """Return two tiles of seamless noise, about -1..1: cloudy (long waves) and fine."""
    rng = np.random.default_rng(20260)
    wave = np.fft.fftfreq(_BANK) * _BANK
    radius = np.hypot(wave[:, None], wave[None]) + 1e-9
    tiles = []
    for power, lowest in ((1.7, 2.0), (0.9, 6.0)):
        spectrum = np.fft.fft2(rng.standard_normal((_BANK, _BANK)))
        spectrum *= np.where(radius >= lowest, radius**-power, 0)
        tile = np.fft.ifft2(spectrum).real
        tiles.append((tile / (2 * tile.std())).astype(np.float32))
    return tiles[0], tiles[1]


def noise(rng: np.random.Generator, size: int, scale: float, *, fine: bool = False) -> np.ndarray:
    """Return (size, size) noise of about -1..1; `scale` is how much of the tile is seen (0..1]."""
    tile = _bank()[int(fine)]
    x0, y0 = rng.uniform(0, _BANK, 2)
    step = _BANK * scale / size
    grid = np.arange(size, dtype=np.float32) * np.float32(step)
    return _sample(tile, *np.meshgrid(grid + np.float32(x0), grid + np.float32(y0)))


def _sample(tile: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return cv2.remap(
        tile,
        np.mod(x, _BANK).astype(np.float32),
        np.mod(y, _BANK).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )


def _ground(
    rng: np.random.Generator, size: int, horizon: float, stretch: float, scale: float, fine: bool
) -> np.ndarray:
    """Return noise that lies flat on the ground below the horizon, in perspective."""
    x0, y0 = rng.uniform(0, _BANK, 2)
    rows = (np.arange(size, dtype=np.float32) + 0.5) / size
    depth = np.float32(scale) / np.maximum(rows - horizon + 0.06, 0.03)
    columns = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    x = x0 + columns[None] * depth[:, None] * 90
    y = np.broadcast_to((y0 + depth * 90 * stretch)[:, None], x.shape)
    return _sample(_bank()[int(fine)], x.astype(np.float32), y.astype(np.float32))


def _gradient(size: int, top: np.ndarray, bottom: np.ndarray, end: float) -> np.ndarray:
    share = np.clip(np.arange(size, dtype=np.float32) / max(end * size, 1), 0, 1)[:, None, None]
    rows = (top + (bottom - top) * share).astype(np.float32)
    return np.repeat(rows, size, 1)


# top and bottom colours; paler and greyer than water, so that a colour tells the two apart
_SKIES = np.array(
    [
        [(140, 168, 180), (206, 214, 216)],  # clear
        [(158, 172, 186), (220, 222, 220)],  # hazy
        [(128, 134, 140), (188, 190, 190)],  # overcast
        [(168, 160, 168), (242, 196, 150)],  # sunset
        [(96, 104, 116), (164, 160, 152)],  # storm
        [(188, 194, 200), (232, 230, 222)],  # bright
    ],
    np.float32,
)
# near and far colours of water: deep, sea, lagoon, lake, grey, dusk
_WATERS = np.array(
    [
        [(12, 52, 104), (44, 98, 150)],
        [(20, 84, 136), (70, 134, 176)],
        [(22, 130, 150), (84, 176, 196)],
        [(24, 70, 84), (60, 110, 128)],
        [(60, 84, 124), (104, 132, 172)],
        [(36, 58, 100), (96, 116, 166)],
    ],
    np.float32,
)
# two tones of each ground: meadow, dry grass, ploughed, sand, asphalt, snow, heath
_GROUNDS = np.array(
    [
        [(74, 122, 48), (126, 158, 78)],
        [(168, 146, 78), (200, 182, 116)],
        [(104, 74, 50), (142, 108, 76)],
        [(206, 182, 138), (226, 208, 170)],
        [(98, 98, 98), (134, 132, 130)],
        [(220, 222, 222), (240, 240, 238)],
        [(96, 104, 58), (128, 106, 84)],
    ],
    np.float32,
)


def _sky(rng: np.random.Generator, size: int, horizon: float) -> np.ndarray:
    top, bottom = _SKIES[rng.integers(len(_SKIES))] + rng.normal(0, 5, 3)
    sky = _gradient(size, top, bottom, max(horizon, 0.05))
    cover = rng.uniform(-0.6, 0.7)
    clouds = np.clip(noise(rng, size, 0.5) * 1.4 + cover, 0, 1)[..., None]
    white = np.float32(rng.uniform(190, 250))
    return sky + (white - sky) * clouds * np.float32(0.75)


def _ridge(rng: np.random.Generator, size: int, height: float, rough: float) -> np.ndarray:
    """Return the height of a skyline over the horizon at each column, as a share of the image."""
    columns = np.linspace(0, 1, size, dtype=np.float32)
    line = np.zeros(size, np.float32)
    for k in range(1, 6):
        line += np.sin(2 * np.pi * (columns * k * rng.uniform(0.5, 1) + rng.random())) / k
    line += rough * rng.standard_normal(size).astype(np.float32)
    return height * (1 + 0.55 * line)


def _skyline(
    rng: np.random.Generator, picture: np.ndarray, region: np.ndarray, horizon: float, far: bool
) -> None:
    """Paint hills, woods or houses along the horizon."""
    size = len(picture)
    base = horizon * size
    rows = np.arange(size)[:, None]
    haze = np.array((168, 176, 180), np.float32)
    kinds = rng.permutation(["hills", "wood", "houses"])[: int(rng.integers(1, 3))]
    for kind in sorted(kinds):  # hills first: they lie behind
        if kind == "houses":
            for _ in range(int(rng.integers(3, 8))):
                width, height = rng.uniform(0.06, 0.18) * size, rng.uniform(0.05, 0.2) * size
                if far:
                    width, height = width * 0.6, height * 0.45
                left = rng.uniform(-0.05, 1) * size
                wall = np.array(rng.uniform(110, 220)) + rng.uniform(-24, 24, 3)
                wall[2] = min(wall[2], wall[0] + 10)
                x0, x1 = round(left), round(left + width)
                y0, y1 = round(base - height), round(base + 0.01 * size)
                cv2.rectangle(picture, (x0, y0), (x1, y1), wall.tolist(), -1)
                cv2.rectangle(region, (x0, y0), (x1, y1), LAND, -1)
                step = max(round(0.035 * size), 2)
                for y in range(y0 + step // 2 + 1, y1 - step // 2, step):
                    for x in range(x0 + step // 2 + 1, x1 - step // 2, step):
                        if x < size and y < size and x >= 0 and y >= 0:
                            picture[y : y + step // 2, x : x + step // 2] = wall * 0.55
            continue
        height = rng.uniform(0.04, 0.14) if kind == "hills" else rng.uniform(0.03, 0.08)
        line = _ridge(rng, size, height * (0.7 if far else 1), 0.03 if kind == "hills" else 0.25)
        here = (rows < base + 0.012 * size) & (rows >= base - np.maximum(line, 0) * size)
        colour = np.array(
            (92, 104, 96) if kind == "hills" else (52, 78, 46), np.float32
        ) + rng.normal(0, 12)
        if kind == "hills":
            colour = colour + (haze - colour) * rng.uniform(0.1, 0.6)
        texture = 1 + 0.22 * noise(rng, size, 0.8, fine=True)
        picture[here] = (colour * texture[..., None])[here]
        region[here] = LAND


def paint_water(
    rng: np.random.Generator, size: int, layout: PlaceLayout
) -> tuple[np.ndarray, np.ndarray]:
    """Return (picture, region) of a stretch of water under a sky, often with a far shore."""
    region = np.full((size, size), ELSEWHERE, np.uint8)
    horizon = layout.horizon
    picture = _sky(rng, size, horizon) if horizon > 0 else np.zeros((size, size, 3), np.float32)
    near, far = _WATERS[rng.integers(len(_WATERS))] + rng.normal(0, 7, 3)
    water = _gradient(size, far, near, 1.0)
    ripples = _ground(rng, size, horizon, rng.uniform(2.2, 4.5), rng.uniform(0.5, 1.1), True)
    swell = _ground(rng, size, horizon, rng.uniform(1.2, 2.5), rng.uniform(0.25, 0.5), False)
    relief = rng.uniform(0.5, 1.0) * ripples + rng.uniform(0.2, 0.8) * swell
    strength = rng.uniform(0.1, 0.3)
    water = water * (1 + np.float32(strength) * relief)[..., None]
    crest = np.clip(relief - rng.uniform(0.7, 1.5), 0, 1)[..., None]
    water = water + crest * np.array((70, 110, 130), np.float32)
    rows = ((np.arange(size) + 0.5) / size)[:, None]
    below = np.broadcast_to(rows >= horizon, (size, size))
    picture[below] = water[below]
    region[below] = WATER
    if horizon > 0 and rng.random() < 0.7:
        _skyline(rng, picture, region, horizon, far=True)
    if rng.random() < 0.2:  # a bank in the foreground
        line = _ridge(rng, size, rng.uniform(0.06, 0.14), 0.02)
        bank = np.arange(size)[:, None] > size * (1 - np.maximum(line, 0.02))
        ground = _tones(rng, size, horizon)
        picture[bank] = ground[bank]
        region[bank] = LAND
    return picture, region


def _tones(rng: np.random.Generator, size: int, horizon: float) -> np.ndarray:
    one, two = _GROUNDS[rng.integers(len(_GROUNDS))] + rng.normal(0, 7, 3)
    relief = _ground(rng, size, horizon, rng.uniform(0.8, 1.6), rng.uniform(0.3, 0.7), False)
    grain = _ground(rng, size, horizon, 1.0, rng.uniform(0.7, 1.3), True)
    share = np.clip(0.5 + 0.45 * relief, 0, 1)[..., None]
    ground = one + (two - one) * share
    return (ground * (1 + np.float32(rng.uniform(0.04, 0.16)) * grain)[..., None]).astype(
        np.float32
    )


def paint_land(
    rng: np.random.Generator, size: int, layout: PlaceLayout
) -> tuple[np.ndarray, np.ndarray]:
    """Return (picture, region) of fields, roads, sand or snow under a sky; no water anywhere."""
    region = np.full((size, size), ELSEWHERE, np.uint8)
    horizon = layout.horizon
    picture = _sky(rng, size, horizon) if horizon > 0 else np.zeros((size, size, 3), np.float32)
    rows = ((np.arange(size) + 0.5) / size)[:, None]
    below = np.broadcast_to(rows >= horizon, (size, size))
    ground = _tones(rng, size, horizon)
    if rng.random() < 0.35:  # fields behind one another
        border = horizon + (1 - horizon) * rng.uniform(0.15, 0.4)
        line = border + _ridge(rng, size, 0.02, 0.0)
        ground = np.where((rows < line[None])[..., None], _tones(rng, size, horizon), ground)
    if rng.random() < 0.3:  # furrows that meet at the horizon
        columns = (np.arange(size) + 0.5) / size - rng.uniform(0.2, 0.8)
        angle = columns[None] / np.maximum(rows - horizon + 0.03, 0.02)
        furrow = np.sin(angle * rng.uniform(14, 26)) * np.clip(4 * (rows - horizon), 0, 1)
        ground = ground * (1 + 0.12 * furrow[..., None])
    picture[below] = ground[below]
    region[below] = LAND
    if horizon > 0:
        _skyline(rng, picture, region, horizon, far=False)
    if rng.random() < 0.45:
        _road(rng, picture, max(horizon, -0.05))
    return picture, region


def _road(rng: np.random.Generator, picture: np.ndarray, horizon: float) -> None:
    size = len(picture)
    top, near = rng.uniform(0.2, 0.8), rng.uniform(-0.1, 1.1)
    narrow, wide = rng.uniform(0.01, 0.04), rng.uniform(0.2, 0.4)
    tone = rng.uniform(80, 140)
    corners = [
        (top - narrow, horizon),
        (top + narrow, horizon),
        (near + wide, 1.02),
        (near - wide, 1.02),
    ]
    points = np.round(np.array(corners) * size * 16).astype(np.int32)
    mask = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, 4)
    share = (mask / np.float32(255))[..., None]
    grain = 1 + 0.06 * noise(rng, size, 1.0, fine=True)[..., None]
    road = np.array((tone, tone, tone * 0.98), np.float32) * grain
    picture += (road - picture) * share
    for k in np.linspace(0.15, 0.95, 6):  # the dashed line, nearer dashes longer
        a, b = k**2, min(k**2 + 0.1 * k, 1)
        ends = [(top + (near - top) * t, horizon + (1.02 - horizon) * t) for t in (a, b)]
        first, last = np.round(np.array(ends) * size * 16).astype(int).tolist()
        thickness = max(round(0.03 * a * size), 1)
        cv2.line(picture, first, last, (225, 222, 205), thickness, cv2.LINE_AA, 4)
