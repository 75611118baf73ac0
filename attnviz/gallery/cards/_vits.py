"""Small vision transformers of timm, trained without labels in seconds on generated scenes.

The published ones are far larger and trained on photos; these show the same objectives and the
same readings at a size that a card can train by itself.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...geometry import size_of
from ..modules.files import restored
from ..tasks import scenes

PATCH, WIDTH, HEADS = 5, 48, 3
GRID = (scenes.SIDE // PATCH, scenes.SIDE // PATCH)
_BANK: dict[tuple[int, bool], tuple[Tensor, Tensor]] = {}


def pictures(count: int, *, training: bool) -> tuple[Tensor, Tensor]:
    """Scenes (count, 3, 40, 40) of two shapes, and their masks (count, 2, 40, 40)."""
    if (count, training) not in _BANK:
        batch = scenes.sample(count, Generator().manual_seed(11 if training else 12), training)
        _BANK[count, training] = batch.inputs[0], batch.truth["masks"]
    return _BANK[count, training]


def vit(**options: object) -> nn.Module:
    """A timm `VisionTransformer`: 8 x 8 patches, three heads, two blocks."""
    from timm.models.vision_transformer import VisionTransformer

    settings = {"img_size": scenes.SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": 2,
                "num_heads": HEADS, "num_classes": 0, "mlp_ratio": 2.0}  # fmt: skip
    return VisionTransformer(**{**settings, **options})


def encoder(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    """Return the encoder of a card, trained without labels.

    Args:
        name: of the card.
        build: makes the untrained encoder.
    """
    return restored(f"cards/{name}", build, part="encoder")


def on_objects(maps: Tensor, masks: Tensor) -> tuple[Tensor, float]:
    """Share of each head's mass that lies on the objects, and of the picture that they cover.

    Args:
        maps: (B, heads, h, w).
        masks: (B, 2, 40, 40).

    Returns:
        (heads,) mean over the batch, and the covered share.
    """
    cover = F.adaptive_avg_pool2d(masks.amax(1, keepdim=True), size_of(maps))
    share = (maps * cover).sum((2, 3)) / maps.sum((2, 3))
    return share.mean(0), float(cover.mean())
