"""Where a vision-language model's image tokens lie: in its sequence, and on the photo.

The positions are read off the input ids, the grid off what the processor hands the model (sizes,
tiles, merged patches), for each family in the form that transformers gives it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import AttentionUnavailable


@dataclass(frozen=True)
class TokenTile:
    """Image tokens that are a part of the photo, row by row.

    Attributes:
        start: the first one's number among the image tokens.
        grid: (rows, columns).
        box: top, left, bottom, right on the photo, in shares of its height and width; what lies
            outside [0, 1] is padding.
        step: tokens from one row's first to the next one's; more than the columns where a token
            ends each row.
    """

    start: int
    grid: tuple[int, int]
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    step: int | None = None


@dataclass(frozen=True)
class ImageTokens:
    """The image tokens of one photo.

    Attributes:
        positions: (P,) of each in the sequence; of a model whose words attend to the image in
            layers of their own, among the keys of these layers.
        tiles: where they lie; a photo in tiles may be seen as a whole as well.
        grid: (rows, columns) of the maps.
        crossed: words attend to the image by cross-attention, in layers of their own.
        resampled: the tokens are queries that gather the patches of the tiles (Q-Former).
    """

    positions: Tensor
    tiles: tuple[TokenTile, ...]
    grid: tuple[int, int]
    crossed: bool = False
    resampled: bool = False

    def on_photo(self, values: Tensor) -> Tensor:
        """Return values of image tokens (or of patches, if resampled) on the photo.

        What a token has is spread evenly over its area; parts that overlap add up, so a share of
        attention stays one. Tokens that are no place (ends of rows) are left out.

        Args:
            values: (..., P).

        Returns:
            (..., rows, columns).
        """
        total = values.new_zeros((*values.shape[:-1], *self.grid))
        for tile in self.tiles:
            height, width = tile.grid
            step = tile.step or width
            part = values[..., tile.start : tile.start + height * step]
            part = part.unflatten(-1, (height, step))[..., :width]
            top, left, bottom, right = tile.box
            down = _overlap(height, (top, bottom), self.grid[0]).to(values)
            across = _overlap(width, (left, right), self.grid[1]).to(values)
            total = total + down.T @ part @ across
        return total


def _overlap(cells: int, span: tuple[float, float], count: int) -> Tensor:
    """Return which share of each of some cells over a span lies in each of `count` over [0, 1]."""
    edges = torch.linspace(span[0], span[1], cells + 1, dtype=torch.float64)
    places = torch.linspace(0, 1, count + 1, dtype=torch.float64)
    shared = torch.minimum(edges[1:, None], places[1:]) - torch.maximum(
        edges[:-1, None], places[:-1]
    )
    return shared.clamp(min=0) / (edges[1:] - edges[:-1])[:, None]


def image_tokens(
    model: Any,
    inputs: Mapping[str, Any],
    photo_size: tuple[int, int],
    tokens: Sequence[str],
    grid: tuple[int, int] | None = None,
) -> ImageTokens:
    """Return where the image tokens of one photo lie.

    Args:
        model: a Hugging Face vision-language model.
        inputs: what its processor made of the photo and the prompt, batch 1.
        photo_size: (height, width) in pixels.
        tokens: the prompt's tokens as text.
        grid: (rows, columns), for a model of no known family whose image tokens are one grid.

    Raises:
        AttentionUnavailable: the model has no image tokens, or their grid is not known.
    """
    config = model.config
    kind = str(config.model_type)
    if kind == "mllama":
        return _crossed(config, inputs, photo_size)
    ids = inputs["input_ids"][0]
    marker = next(
        (v for n in ("image_token_id", "image_token_index") if (v := getattr(config, n, None))),
        None,
    )
    positions = (ids == marker).nonzero()[:, 0] if marker is not None else ids[:0]
    count = len(positions)
    if not count:
        raise AttentionUnavailable(
            f"no image tokens in the prompt of {type(model).__name__}: the processor's placeholder "
            f"(id {marker}) is not among its {len(ids)} tokens"
        )
    known = _FAMILIES.get(kind)
    if grid is not None:
        tiles: list[TokenTile] = [TokenTile(0, (grid[0], grid[1]))]
    elif known is not None:
        tiles = known(_Asked(config, inputs, photo_size, tokens, count))
    else:
        raise _unknown(count, kind)
    if kind.startswith(("blip-2", "instructblip")):
        return ImageTokens(positions, tuple(tiles), tiles[0].grid, resampled=True)
    used = max(t.start + t.grid[0] * (t.step or t.grid[1]) for t in tiles)
    spare = 1 if kind in _FAMILIES else 0
    if used > count + spare or (grid is not None and used != count):
        raise AttentionUnavailable(
            f"{type(model).__name__} has {count} image tokens where a grid of "
            f"{' + '.join(f'{t.grid[0]} x {t.grid[1]}' for t in tiles)} was expected; say it with "
            "grid=(rows, columns)"
        )
    return ImageTokens(positions, tuple(tiles), _finest(tiles))


@dataclass(frozen=True)
class _Asked:
    config: Any
    inputs: Mapping[str, Any]
    photo_size: tuple[int, int]
    tokens: Sequence[str]
    count: int

    def patches(self) -> tuple[int, int]:
        """Rows and columns of the patches of one picture that the vision tower is given."""
        vision = self.config.vision_config
        height, width = self.inputs["pixel_values"].shape[-2:]
        down, across = _pair(vision.patch_size)
        return int(height) // down, int(width) // across


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _size(tile: TokenTile) -> int:
    return tile.grid[0] * tile.grid[1]


def _finest(tiles: Sequence[TokenTile]) -> tuple[int, int]:
    """Return the grid of the photo with the cells of its finest tiles."""
    down = max(t.grid[0] / (t.box[2] - t.box[0]) for t in tiles)
    across = max(t.grid[1] / (t.box[3] - t.box[1]) for t in tiles)
    return max(round(down), 1), max(round(across), 1)


def _unknown(count: int, kind: str) -> AttentionUnavailable:
    said = f"where the {count} image tokens of a {kind!r} lie is not known; say it with "
    return AttentionUnavailable(said + "grid=(rows, columns)", command=said + "--grid ROWSxCOLUMNS")


def _one_grid(asked: _Asked) -> list[TokenTile]:
    """LLaVA, PaliGemma: one token a patch, perhaps a class token before them."""
    rows, columns = asked.patches()
    spare = asked.count - rows * columns
    if spare not in (0, 1):
        raise _unknown(asked.count, asked.config.model_type)
    return [TokenTile(spare, (rows, columns))]


def _merged(asked: _Asked) -> list[TokenTile]:
    """Qwen: patches of any number, merged in squares."""
    times, rows, columns = (int(n) for n in asked.inputs["image_grid_thw"][0])
    merge = asked.config.vision_config.spatial_merge_size
    if times != 1:
        raise AttentionUnavailable("words over the frames of a video are not read; pass a photo")
    return [TokenTile(0, (rows // merge, columns // merge))]


def _next(asked: _Asked) -> list[TokenTile]:
    """LLaVA-NeXT: the photo as a whole, then its tiles as one grid, a token behind each row."""
    from transformers.models.llava_next.modeling_llava_next import (
        get_anyres_image_grid_shape,
        unpad_image,
    )

    side = asked.config.vision_config.image_size // asked.config.vision_config.patch_size
    whole = TokenTile(0, (side, side))
    if asked.inputs["pixel_values"].shape[1] == 1:
        return [whole]
    size = asked.inputs["image_sizes"][0]
    down, across = get_anyres_image_grid_shape(
        size, asked.config.image_grid_pinpoints, asked.config.vision_config.image_size
    )
    kept = unpad_image(torch.zeros(1, side * down, side * across), size).shape[1:]
    return [whole, TokenTile(side * side, (int(kept[0]), int(kept[1])), step=int(kept[1]) + 1)]


def _in_tiles(
    each: tuple[int, int], rows: int, columns: int, *, first: bool = False, whole: bool = True
) -> list[TokenTile]:
    """Return tiles row by row, and the photo as a whole before or behind them."""
    number = each[0] * each[1]
    boxes = [
        (i / rows, j / columns, (i + 1) / rows, (j + 1) / columns)
        for i in range(rows)
        for j in range(columns)
    ]
    if whole:
        boxes = [(0.0, 0.0, 1.0, 1.0), *boxes] if first else [*boxes, (0.0, 0.0, 1.0, 1.0)]
    return [TokenTile(k * number, each, box) for k, box in enumerate(boxes)]


def _idefics(asked: _Asked) -> list[TokenTile]:
    """Idefics3, SmolVLM: tiles, each announced by <row_i_col_j>, then the whole photo."""
    rows, columns = asked.patches()
    scale = asked.config.scale_factor
    each = (rows // scale, columns // scale)
    named = [re.search(r"row_(\d+)_col_(\d+)", token) for token in asked.tokens]
    places = [(int(m[1]), int(m[2])) for m in named if m]
    if asked.count == each[0] * each[1]:
        return [TokenTile(0, each)]
    if not places:
        raise AttentionUnavailable(
            "the tiles of the photo are not named in the prompt (<row_1_col_1>), so where they lie "
            "is not known; make the inputs with the model's own processor"
        )
    return _in_tiles(each, max(p[0] for p in places), max(p[1] for p in places))


def _intern(asked: _Asked) -> list[TokenTile]:
    """InternVL: as many tiles as fit the photo's shape, then the whole photo."""
    rows, columns = asked.patches()
    scale = asked.config.downsample_ratio
    each = (round(rows * scale), round(columns * scale))
    tiles = asked.count // (each[0] * each[1])
    if tiles == 1:
        return [TokenTile(0, each)]
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    height, width = asked.inputs["pixel_values"].shape[-2:]
    # which of the canvases of so many tiles is nearest to the photo's shape, as the processor asks
    across, down = get_optimal_tiled_canvas(
        asked.photo_size, (int(height), int(width)), tiles - 1, tiles - 1
    )
    return _in_tiles(each, down, across)


def _resampled(asked: _Asked) -> list[TokenTile]:
    """BLIP-2: the queries' own attention lies on the patches behind a class token."""
    return [TokenTile(1, asked.patches())]


_FAMILIES: dict[str, Callable[[_Asked], list[TokenTile]]] = {
    "llava": _one_grid,
    "vipllava": _one_grid,
    "paligemma": _one_grid,
    "llava_next": _next,
    "qwen2_vl": _merged,
    "qwen2_5_vl": _merged,
    "qwen3_vl": _merged,
    "idefics3": _idefics,
    "smolvlm": _idefics,
    "internvl": _intern,
    "blip-2": _resampled,
    "instructblip": _resampled,
}


def _crossed(config: Any, inputs: Mapping[str, Any], photo_size: tuple[int, int]) -> ImageTokens:
    """Mllama: tiles padded below and to the right, a class token before each one's patches."""
    from transformers.models.mllama.image_processing_mllama import get_image_size_fit_to_canvas

    vision = config.vision_config
    height, width = (int(n) for n in inputs["pixel_values"].shape[-2:])
    each = (height // vision.patch_size, width // vision.patch_size)
    number = each[0] * each[1] + 1
    chosen = int(inputs["aspect_ratio_ids"].flatten()[0])
    rows, columns = vision.supported_aspect_ratios[chosen - 1]
    canvas = (rows * height, columns * width)
    # the photo keeps its shape inside the canvas
    size = get_image_size_fit_to_canvas(*photo_size, *canvas, height)
    shown = (size[0] / canvas[0], size[1] / canvas[1])
    tiles = [
        TokenTile(
            k * number + 1, each,
            (t.box[0] / shown[0], t.box[1] / shown[1], t.box[2] / shown[0], t.box[3] / shown[1]),
        )
        for k, t in enumerate(_in_tiles(each, rows, columns, whole=False))
    ]  # fmt: skip
    total = inputs["pixel_values"].shape[-4] * number
    return ImageTokens(torch.arange(total), tuple(tiles), _finest(tiles), crossed=True)
