"""Planted models: networks that read the water, or the boat, and nothing else, by construction.

They are the known truth that an audit is held against. On marked scenes
(`scenes.generate(marked=True)`) two linear units tell what a pixel is, without exception:

    water  blue - red - 52.5/255   > 0 on every water pixel, < 0 elsewhere
    mark   red - green - 72/255    > 0 on red hulls only, < 0 elsewhere

Each passes a ReLU, whose slope is a fifth beyond a first step, so that the area counts more than
the colour's depth. The logit of "boat" is a monotone function of one of them alone. So changing
any pixel off the water (to another colour that is no water) leaves the score of the water reader
as it is to the last bit, and the gradient to such pixels is exactly 0. The models take RGB in 0..1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attnviz.data.boatwater.scenes import MARK_MAX_ELSEWHERE, WATER_MAX_ELSEWHERE, WATER_MIN
from attnviz.errors import ModelError, did_you_mean

#: between the two limits that hold for every pixel of a generated scene
WATER_THRESHOLD = (WATER_MIN + WATER_MAX_ELSEWHERE) / 2 / 255
MARK_THRESHOLD = (MARK_MAX_ELSEWHERE + 8) / 255

#: what a model reads -> share of the evidence from water and from the boat's mark
READS: dict[str, tuple[float, float]] = {
    "water": (1.0, 0.0),
    "object": (0.0, 1.0),
    "both": (0.5, 0.5),
}
_CHANNELS = ("water", "mark", "brightness", "green", "red", "dark")
#: how far beyond its threshold a detector keeps its full slope, and the slope from there on
_STEP, _SLOPE = 7.5 / 255, 0.2


def _shares(reads: str) -> tuple[float, float]:
    if reads not in READS:
        raise ModelError(
            f"reads={reads!r} is not known{did_you_mean(reads, READS)} "
            f"Expected one of {', '.join(READS)}"
        )
    return READS[reads]


class Detectors(nn.Module):
    """Colours to what they tell: (B, 3, H, W) in 0..1 to (B, 6, H, W), never negative.

    Channel 0 is water and channel 1 the mark, 1 at one step beyond the threshold and 0.2 more for
    each further step. The rest (brightness, green, red, dark) is there to be left unread.
    """

    def __init__(self) -> None:
        super().__init__()
        water, mark = [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]
        self.colour = nn.Conv2d(3, 8, 1)
        weight = torch.tensor(
            [
                water,
                water,
                mark,
                mark,
                [1 / 3, 1 / 3, 1 / 3],
                [-0.5, 1.0, -0.5],
                [1.0, 0.0, 0.0],
                [-1 / 3, -1 / 3, -1 / 3],
            ]
        )
        thresholds = torch.tensor(
            [
                WATER_THRESHOLD,
                WATER_THRESHOLD + _STEP,
                MARK_THRESHOLD,
                MARK_THRESHOLD + _STEP,
                0.0,
                0.0,
                0.3,
                -0.5,
            ]
        )
        self.combine = nn.Conv2d(8, len(_CHANNELS), 1, bias=False)
        bend = torch.zeros(len(_CHANNELS), 8)
        for channel in (0, 1):
            bend[channel, 2 * channel] = 1 / _STEP
            bend[channel, 2 * channel + 1] = (_SLOPE - 1) / _STEP
        bend[2:, 4:] = torch.eye(4)
        with torch.no_grad():
            self.colour.weight.copy_(weight[..., None, None])
            self.colour.bias.copy_(-thresholds)
            self.combine.weight.copy_(bend[..., None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) in 0..1 to (B, 6, H, W)."""
        return self.combine(self.colour(images).relu()).relu()


class PlantedCNN(nn.Module):
    """Convolutions, ReLU, global average pooling and a linear head, with planted weights.

    Logits are ("other", "boat") = (-s, s), where s = evidence - threshold. All that lies between
    `features` and the logits is a mean and a linear map, so CAM is exact on `features`.

    Args:
        reads: "water", "object" (the boat's mark) or "both" in equal parts.
        stride: pixels a cell of the feature map has each way.
    """

    #: evidence of a whole image of water; the mark covers about a twentieth of an image
    gain = (4.0, 60.0)

    def __init__(self, reads: str = "water", *, stride: int = 4) -> None:
        super().__init__()
        water, mark = _shares(reads)
        self.reads = reads
        self.detect = Detectors()
        self.pool = nn.AvgPool2d(stride)
        n = len(_CHANNELS)
        self.features = nn.Conv2d(n, n, 1, bias=False)
        self.fc = nn.Linear(n, 2)
        weight = torch.zeros(n)
        weight[0], weight[1] = water * self.gain[0], mark * self.gain[1]
        with torch.no_grad():
            self.features.weight.copy_(torch.eye(n)[..., None, None])
            self.fc.weight.copy_(torch.stack([-weight, weight]))
            self.fc.bias.copy_(torch.tensor([0.5, -0.5]))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) in 0..1 to (B, 2) logits."""
        cells = self.pool(self.detect(images))
        return self.fc(self.features(cells).relu().mean((2, 3)))


class _DetectorEmbedding(nn.Module):
    """Patches to tokens: the detectors' means over each patch, in the first dimensions."""

    def __init__(self, size: int, patch: int, dimension: int, water: float, mark: float) -> None:
        super().__init__()
        self.img_size, self.patch_size = (size, size), (patch, patch)
        self.grid_size = (size // patch, size // patch)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.detect = Detectors()
        self.pool = nn.AvgPool2d(patch)
        self.proj = nn.Conv2d(len(_CHANNELS), dimension, 1, bias=False)
        weight = torch.zeros(dimension, len(_CHANNELS))
        weight[0, 0], weight[0, 1] = water, mark
        weight[1, 2], weight[2, 3] = 1.0, 1.0  # brightness and green are carried, not read
        with torch.no_grad():
            self.proj.weight.copy_(weight[..., None, None])

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Return pixels a token, as timm asks for it."""
        return self.patch_size[0] if as_scalar else self.patch_size

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, patches, dimension)."""
        cells = self.proj(self.pool(self.detect(images)))
        return cells.flatten(2).transpose(1, 2)


#: dimensions of a token: evidence, two that are carried along, the class token's flag, what was
#: read, and from `_CODE` on a code of its own for every position
_EVIDENCE, _FLAG, _READ, _CODE = 0, 3, 4, 8
_GRID = 8


def planted_vit(reads: str = "water", *, size: int = 64) -> nn.Module:
    """Return a timm `VisionTransformer` of two blocks, two heads and 8 x 8 patches, planted.

    In both blocks, head 0 lets the class token attend to the patches with evidence, and every
    patch to itself; head 1 attends everywhere alike and carries nothing. The class token gathers
    the attended evidence, and the head reads that alone. MLPs are zero, norms are identities.

    Args:
        reads: "water", "object" (the boat's mark) or "both" in equal parts.
        size: input height and width in pixels, a multiple of 8.
    """
    from timm.models.vision_transformer import VisionTransformer

    if size % _GRID or size < 2 * _GRID:
        raise ModelError(f"size {size}: the planted ViT takes a multiple of {_GRID} from 16 on")
    water, mark = _shares(reads)
    patches = _GRID * _GRID
    width = patches + _CODE  # of one head

    def embedding(**_: object) -> nn.Module:
        return _DetectorEmbedding(size, size // _GRID, 2 * width, 1.0 * water, 1.0 * mark)

    model = VisionTransformer(
        img_size=size,
        patch_size=size // _GRID,
        num_classes=2,
        embed_dim=2 * width,
        depth=2,
        num_heads=2,
        mlp_ratio=0.25,
        norm_layer=nn.Identity,
        embed_layer=embedding,
        weight_init="skip",
    )
    model.reads = reads
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and not _of_embedding(model, parameter):
                parameter.zero_()
        model.cls_token[0, 0, _FLAG] = 1.0
        model.pos_embed[0, 1:, _CODE : _CODE + patches] = torch.eye(patches)
        for block in model.blocks:
            _plant_attention(block.attn, width, patches)
        model.head.weight[:, _READ] = torch.tensor([-2.0, 2.0])
        model.head.bias.copy_(torch.tensor([0.3, -0.3]))
    return model.eval()


def _of_embedding(model: nn.Module, parameter: nn.Parameter) -> bool:
    return any(parameter is p for p in model.patch_embed.parameters())


def _plant_attention(attention: nn.Module, width: int, patches: int) -> None:
    """Write the weights of one attention layer of head width `width`."""
    dimension = 2 * width
    root = width**0.5  # undoes the scaling of the scores
    query = attention.qkv.weight[:dimension]
    key = attention.qkv.weight[dimension : 2 * dimension]
    value = attention.qkv.weight[2 * dimension :]
    query[0, _FLAG] = 10.0 * root  # head 0: the class token asks for evidence
    key[0, _EVIDENCE] = 1.0
    for p in range(_CODE, _CODE + patches):  # and a patch for itself
        query[p, p] = 12.0 * root
        key[p, p] = 1.0
    value[0, _EVIDENCE] = 1.0
    attention.proj.weight[_READ, 0] = 1.0


def planted(reads: str = "water", *, kind: str = "cnn", size: int = 64) -> nn.Module:
    """Return a planted model, in eval mode, that takes (B, 3, size, size) RGB in 0..1.

    Args:
        reads: "water", "object" or "both".
        kind: "cnn" (`PlantedCNN`) or "vit" (`planted_vit`).
        size: input size in pixels; the CNN takes any.

    Returns:
        A module with logits ("other", "boat").
    """
    if kind not in ("cnn", "vit"):
        raise ModelError(f"kind={kind!r}, expected 'cnn' or 'vit'")
    return PlantedCNN(reads) if kind == "cnn" else planted_vit(reads, size=size)
