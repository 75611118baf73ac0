"""Where channels and positions lie in an activation, told by evidence and never by a guess."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import LayoutError
from . import evidence, tokens

KINDS = ("channels_first", "channels_last", "tokens")

_HELP = (
    "pass it yourself: layout='channels_first', layout='channels_last', or "
    "layout=attnviz.models.Layout('tokens', prefix=1, grid=(14, 14))"
)


@dataclass(frozen=True)
class Layout:
    """How an activation is laid out.

    Attributes:
        kind: "channels_first" (B, C, h, w), "channels_last" (B, h, w, C), or "tokens" (B, N, C).
            Of a signal (B, C, t) and (B, t, C), of a volume (B, C, d, h, w) and (B, d, h, w, C).
        prefix: tokens before the patches (class, distillation and register tokens).
        grid: (h, w) of the patches, row by row, or (t, h, w) of a video's; for tokens only.
        suffix: tokens after the patches (detection tokens of YOLOS).
        rank: number of axes of the positions: 1, 2 or 3; of tokens it is the grid's.

    Raises:
        LayoutError: fields that contradict each other, when the object is made.
    """

    kind: str
    prefix: int = 0
    grid: tuple[int, ...] | None = None
    suffix: int = 0
    rank: int = 2

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise LayoutError(f"layout {self.kind!r} is not known; use one of {', '.join(KINDS)}")
        if (self.kind == "tokens") != (self.grid is not None):
            raise LayoutError(
                f"a grid belongs to tokens and to nothing else, got kind {self.kind!r} with "
                f"grid {self.grid}"
            )
        if self.prefix < 0 or self.suffix < 0:
            raise LayoutError(f"prefix and suffix count tokens, got {self.prefix}, {self.suffix}")
        if self.grid is not None:
            object.__setattr__(self, "rank", len(self.grid))
        if self.rank not in (1, 2, 3):
            raise LayoutError(f"positions have 1, 2 or 3 axes, got {self.rank}")

    @property
    def spatial(self) -> bool:
        """Whether there is more than one position, as far as the layout alone tells."""
        return self.grid is None or math.prod(self.grid) != 1

    def to_spatial(self, tensor: Tensor) -> Tensor:
        """Return the activation or its gradient as (B, C, h, w), without prefix and suffix tokens.

        Of signals it is (B, C, t), of volumes and video (B, C, d, h, w). Views and permutes
        only: differentiable, nothing is copied.

        Raises:
            LayoutError: the shape is not of this layout.
        """
        expected = 3 if self.kind == "tokens" else self.rank + 2
        if tensor.ndim != expected:
            raise LayoutError(
                f"layout {self.describe()} takes {expected} dimensions, got {tuple(tensor.shape)}"
            )
        if self.kind == "channels_first":
            return tensor
        if self.grid is None:  # channels last
            return tensor.movedim(-1, 1)
        patches = math.prod(self.grid)
        count = self.prefix + patches + self.suffix
        if tensor.shape[1] != count:
            raise LayoutError(
                f"layout {self.describe()} takes {count} tokens, got {tensor.shape[1]} in "
                f"{tuple(tensor.shape)}"
            )
        return tensor[:, self.prefix : self.prefix + patches].unflatten(1, self.grid).movedim(-1, 1)

    def describe(self) -> str:
        """Return a few words for reports: `tokens: 1 prefix + 14 x 14`."""
        if self.grid is None:
            return self.kind.replace("_", " ")
        tail = f" + {self.suffix} suffix" if self.suffix else ""
        return f"tokens: {self.prefix} prefix + {' x '.join(map(str, self.grid))}{tail}"


def infer_layout(
    module: nn.Module,
    layer_module: nn.Module,
    activation: Tensor,
    input_size: tuple[int, ...] | None = None,
    *,
    batch: int | None = None,
) -> Layout:
    """Tell the layout of a layer's activation from what the layer and the model say of themselves.

    Evidence, strongest first: the layer's own type (a convolution, a plain LayerNorm); the widths
    of its last layers; the model's own facts (prefix tokens, patch size, config); the shape of
    the input.

    Args:
        module: the whole model.
        layer_module: the layer, a part of `module`.
        activation: its output.
        input_size: (H, W) of the model's input, which settles non-square grids; (T,) of a signal,
            (D, H, W) of a volume or video.
        batch: number of images; a layer whose first dimension is another works on parts of them.

    Raises:
        LayoutError: there is no spatial layout, or the evidence leaves several; the message says
            how to pass it.
    """
    shape = tuple(activation.shape)
    what = _What(module, layer_module)
    chain = [layer_module, *evidence.ancestors(module, layer_module)]
    trap = evidence.trap(chain, activation.ndim)
    if trap:
        raise LayoutError(f"{what} gives {shape}: {trap}")
    if batch is not None and shape[0] != batch:
        folded = shape[0] // batch if batch and shape[0] % batch == 0 else 0
        raise LayoutError(
            f"{what} gives {shape} for {batch} images: its first dimension is not the batch (it "
            "works on windows or puts tokens first); choose the block that holds it"
            + (
                f". If the model folds {folded} views or frames of a sample into its batch, "
                "gradcam, hirescam, layercam and their like map each view of inputs "
                "(B, V, C, H, W), at a layer that sees them one by one, in this order; or explain "
                "them as samples: the part of the model behind the fold, given "
                f"x.flatten(0, 1), with one target for each ({folded} times as many)"
                if folded > 1
                else ""
            )
        )
    rank = 2 if input_size is None else len(input_size)
    if activation.ndim in (4, 5) or (activation.ndim == 3 and rank == 1):
        size = None if input_size is None else input_size[-(activation.ndim - 2) :]
        if rank >= activation.ndim - 2:
            return _maps(chain, shape, size, what)
    elif activation.ndim == 3 and rank == 2:
        pixels = None if input_size is None else (input_size[0], input_size[1])
        return _tokens(chain, shape, pixels, what)
    kind = "one vector per image" if activation.ndim == 2 else f"{activation.ndim} dimensions"
    raise LayoutError(
        f"{what} gives {shape}, {kind}: it has no (h, w) positions; choose a layer whose output "
        "is (B, C, h, w), (B, h, w, C) or (B, tokens, C). `attnviz layers MODEL` lists them"
    )


class _What:
    """A layer in the words of an error; its name is looked for when there is one."""

    def __init__(self, module: nn.Module, layer: nn.Module) -> None:
        self._module, self._layer = module, layer

    def __str__(self) -> str:
        name = evidence.name_of(self._module, self._layer)
        return f"layer {name!r} ({type(self._layer).__name__})"


def _maps(
    chain: list[nn.Module],
    shape: tuple[int, ...],
    input_size: tuple[int, ...] | None,
    what: _What,
) -> Layout:
    layer, rank = chain[0], len(shape) - 2
    kind = evidence.own_axis(layer, rank)
    if kind == "channels_first":
        return Layout(kind, rank=rank)  # a convolution's strides need not be those of a picture
    widths = evidence.widths(layer, rank)
    first, last = shape[1] in widths, shape[-1] in widths
    if kind is None and first == last:  # no word from the layer, or both: the shape must tell
        by_shape = evidence.by_aspect(shape, input_size)
        kind = by_shape or evidence.by_family(chain, rank)
    elif kind is None:
        kind = "channels_first" if first else "channels_last"
    if kind is None:
        raise LayoutError(
            f"{what} gives {shape}: whether channels come first or last cannot be told; {_HELP}"
        )
    spatial = shape[2:] if kind == "channels_first" else shape[1:-1]
    if input_size is not None and not evidence.plausible(spatial, input_size):
        raise LayoutError(
            f"{what} gives {shape}: read as {kind.replace('_', ' ')}, its "
            f"{' x '.join(map(str, spatial))} positions do not have the shape of the "
            f"{' x '.join(map(str, input_size))} input, so they are no picture; {_HELP}"
        )
    return Layout(kind, rank=rank)


def _tokens(
    chain: list[nn.Module],
    shape: tuple[int, ...],
    input_size: tuple[int, int] | None,
    what: _What,
) -> Layout:
    count = shape[1]
    widths = evidence.widths(chain[0])
    if widths and shape[2] not in widths:
        raise LayoutError(
            f"{what} gives {shape}: its last dimension is none of the layer's widths "
            f"{sorted(widths)}, so these are no (B, tokens, channels); {_HELP}"
        )
    known = tokens.token_facts(chain)
    options = tokens.grids(count, known, input_size)
    if len(options) == 1:
        prefix, grid, suffix = options[0]
        return Layout("tokens", prefix, grid, suffix)
    found = " or ".join(f"{p} prefix + {g[0]} x {g[1]}" for p, g, _ in options[:3])
    raise LayoutError(
        f"{what} gives {count} tokens ({shape}): "
        + (f"they could be {found}; " if options else "no grid of patches has that many; ")
        + f"known of the model: {known.describe()}"
        + (f", input {input_size[0]} x {input_size[1]}" if input_size else ", input size not given")
        + f"; {_HELP}"
    )
