"""A tiny CLIP that knows generated scenes: boats and other things, on water and on land.

Trained by notebooks/studies/train_tiny_clip.py on `attnviz.data.boatwater` scenes, for examples and
tests that need no download. In the form of open_clip: `encode_image`, `encode_text`,
`logit_scale`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import EnvironmentFault, TargetError, did_you_mean
from .environment import import_timm
from .loaded import LoadedModel
from .preprocess import Preprocess

NAME = "tiny-clip"
SIZE = 64
#: every word that it was trained with; others are an error and not a guess
WORDS = (
    "a", "boat", "on", "water", "land", "sky", "sailboat", "motorboat", "rowboat", "cargo", "ship",
    "trawler", "ferry", "canoe", "car", "truck", "house", "tree", "cow", "bird", "plane", "tent",
)  # fmt: skip
LONGEST = 8
PREPROCESS = Preprocess(
    resize=SIZE, crop=(SIZE, SIZE), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), name=NAME
)

_HERE = Path(__file__).resolve().parent
_FILE = "tiny_clip.safetensors"


class TinyClip(nn.Module):
    """An image tower (a vision transformer on a convolutional stem) and a text tower of one block.

    Args:
        width: of the image tower.
        depth: its blocks.
        dim: of the embeddings.
    """

    def __init__(self, width: int = 64, depth: int = 3, dim: int = 64) -> None:
        super().__init__()
        timm = import_timm()
        vit = timm.models.vision_transformer
        stem = nn.Sequential(*_convolution(3, 24), *_convolution(24, 48), *_convolution(48, width))
        self.visual = vit.VisionTransformer(
            img_size=SIZE, num_classes=dim, embed_dim=width, depth=depth, num_heads=4,
            mlp_ratio=2.0,
            embed_layer=lambda **given: timm.layers.HybridEmbed(
                stem, given["img_size"], embed_dim=width
            ),
        )  # fmt: skip
        self.token_embedding = nn.Embedding(len(WORDS) + 1, dim, padding_idx=0)
        self.text_block = vit.Block(dim, 4, mlp_ratio=2.0)
        self.text_projection = nn.Linear(dim, dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def encode_image(self, images: Tensor) -> Tensor:
        """Return the embeddings (B, D) of images (B, 3, 64, 64)."""
        return self.visual(images)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return the embeddings (K, D) of texts, tokens (K, 8) as `tokenize` makes them."""
        read = self.text_block(self.token_embedding(tokens))
        words = (tokens > 0).to(read.dtype)[..., None]
        return self.text_projection((read * words).sum(1) / words.sum(1))

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return both embeddings, each of length 1, and the scale of their cosines."""
        seen = nn.functional.normalize(self.encode_image(images), dim=-1)
        read = nn.functional.normalize(self.encode_text(tokens), dim=-1)
        return seen, read, self.logit_scale.exp()


def _convolution(inside: int, outside: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inside, outside, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outside),
        nn.GELU(),
    ]


def tokenize(texts: Sequence[str]) -> Tensor:
    """Return the tokens (K, 8) of texts, 0 behind their last word.

    Raises:
        TargetError: a word that the model does not know, or too many.
    """
    rows = []
    for text in texts:
        words = text.lower().split()
        for word in words:
            if word not in WORDS:
                raise TargetError(
                    f"{NAME} does not know the word {word!r}"
                    f"{did_you_mean(word, WORDS) or '.'} It knows: {', '.join(WORDS)}"
                )
        if not 0 < len(words) <= LONGEST:
            raise TargetError(f"{NAME} reads 1 to {LONGEST} words, got {text!r}")
        rows.append([WORDS.index(word) + 1 for word in words] + [0] * (LONGEST - len(words)))
    return torch.tensor(rows)


def weights_path(name: str = _FILE) -> Path:
    """Return a file of weights: of an installed package, or of a checkout.

    Raises:
        EnvironmentFault: it is missing.
    """
    places = (_HERE / "weights", _HERE.parents[1] / "assets" / "models")
    for place in places:
        if (place / name).is_file():
            return place / name
    raise EnvironmentFault(
        f"{name} is missing; reinstall attnviz, or train it: "
        f"python notebooks/studies/train_{Path(name).stem}.py"
    )


def build(pretrained: bool = True) -> LoadedModel:
    """Return the model in eval mode, with its tokenizer and preprocessing."""
    from .checkpoints import read_state_dict

    module = TinyClip()
    if pretrained:
        state = read_state_dict(weights_path())
        module.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        )
    return LoadedModel(module.eval(), NAME, PREPROCESS, None, tokenize)
