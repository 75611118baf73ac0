"""What the cards of transformers trained without labels share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...inspection import inspect
from ..card import Shown
from ..drawings.class_token import head_maps, mass_mask, mean_query_map, token_map
from ._vits import GRID, HEADS, on_objects, pictures

_NUMBER = 14
MADE = (
    "A timm transformer of two blocks, trained for a few seconds without labels on generated scenes"
)


def example() -> Tensor:
    """The scene that the cards show, (1, 3, 40, 40)."""
    return pictures(64, training=False)[0][_NUMBER : _NUMBER + 1]


def weights_of(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Attention (B, heads, N, N) of each block."""
    return [entry.read() for entry in inspect(model, images).of_kind("self")]


def show(
    model: nn.Module,
    *,
    how: str,
    reading: str = "class",
    mass: float | None = None,
) -> Shown:
    """Draw where the class token, or the patches on average, look: every head of both blocks.

    Args:
        model: an encoder of `_vits.vit`'s size.
        how: how it was trained, for the caption.
        reading: "class" (the class token's row) or "mean" (the mean of the patches' rows).
        mass: also draw the smallest set of patches that holds this share, see `mass_mask`.
    """
    image, (images, masks) = example(), pictures(64, training=False)

    def read(weights: Tensor) -> Tensor:
        return (mean_query_map if reading == "mean" else token_map)(weights, GRID)

    with torch.no_grad():
        drawn = [read(w)[0] for w in weights_of(model, image)]
        shares = [on_objects(read(w), masks) for w in weights_of(model, images)]
    maps = torch.cat(drawn)
    names = [f"block {b}, head {h}" for b in range(len(drawn)) for h in range(HEADS)]
    who = "the patches, on average," if reading == "mean" else "the class token"
    figure = head_maps(
        maps, image[0].clamp(0, 1), names=names,
        masks=None if mass is None else mass_mask(maps, mass),
        label=f"where {who} look{'' if reading == 'mean' else 's'}"
        + ("" if mass is None else f"; below, the patches that hold {mass:.0%} of it"),
    )  # fmt: skip
    flat, cover = torch.cat([s for s, _ in shares]), shares[0][1]
    numbers = {
        "most_on_objects": float(flat.max()),
        "mean_on_objects": float(flat.mean()),
        "objects_cover": cover,
    }
    caption = (
        f"{MADE} ({how}). Of what {who} give{'' if reading == 'mean' else 's'} to the patches, "
        f"the head that looks most at the two shapes gives them {flat.max():.0%}, the mean head "
        f"{flat.mean():.0%}; they cover {cover:.0%} of a scene (64 test scenes)."
    )
    alt = (
        f"A scene of two coloured shapes and {len(maps)} maps, one for each head of two blocks"
        + ("." if mass is None else ", with the part of the scene that each keeps.")
    )
    return Shown(figure, maps[None], caption, alt, numbers)
