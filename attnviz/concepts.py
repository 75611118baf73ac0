"""Concepts: which few patterns a layer's activations consist of, over many photos at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .errors import AttnvizError, ImageError, LayoutError
from .explaining import Model
from .geometry import size_of
from .heatmaps import Heatmaps
from .hooks import eager, find_layers, preserved
from .inputs import Given, gather
from .methods import Request, forward_pass
from .methods.heads import LinearHead
from .methods.progress import counting
from .models import default_layer, labels_of, resolve_model
from .preparing import preparing

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, eq=False)
class Concepts:
    """Deep feature factorisation of a layer over all photos, the largest concept first.

    Attributes:
        maps: photos * K heatmaps, all concepts of a photo side by side; where each concept lies,
            in units of the activation's share. `maps[i * K + k]` is concept k on photo i.
        vectors: (K, C), at least 0: what each concept is in the layer's channels, of length 1.
        share: (K,) of all activation that each concept makes up; sums to 1.
        error: what the K concepts leave out: |A - W H| / |A|, 0 to 1.
        cut: share of the activation's magnitude that was negative and taken as 0.
        scores: (K, classes): what a photo full of the concept at length 1 adds to each logit;
            None where the classifier is not a linear layer on the layer's mean.
        labels: class names, if known.
    """

    maps: Heatmaps
    vectors: Tensor
    share: Tensor
    error: float
    cut: float
    scores: Tensor | None = None
    labels: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def classes(self, concept: int, *, most: int = 3) -> list[tuple[str, float]]:
        """Return the classes that a concept speaks for most, with what it adds to their logits.

        Empty where `scores` is None.
        """
        if self.scores is None:
            return []
        values, order = self.scores[concept].topk(min(most, self.scores.shape[1]))
        pairs = zip(order.tolist(), values.tolist(), strict=True)
        return [
            (self.labels[int(index)] if self.labels else f"class {index}", value)
            for index, value in pairs
        ]

    def examples(self, concept: int, *, most: int = 6) -> list[int]:
        """Return the photos that hold most of a concept, by their numbers."""
        held = self.maps.values[concept :: len(self)].mean((1, 2))
        return held.topk(min(most, len(held))).indices.tolist()

    def sheet(self, *, most: int = 6, side: int = 160) -> Image.Image:
        """Return a contact sheet: a row a concept, drawn on the photos that hold most of it.

        Args:
            most: photos in a row.
            side: of a tile in pixels.

        Raises:
            ImageError: the photos are not known, since tensors were given.
        """
        from .render import Tile, grid

        if self.maps.images is None:
            raise ImageError("a sheet needs photos, and tensors were given; give paths or arrays")
        rows = []
        count = len(self)
        for k in range(count):
            row = []
            for i in self.examples(k, most=most):
                at = i * count + k
                row.append(
                    Tile(
                        photo=self.maps.images[at],
                        values=self.maps.values[at].numpy(),
                        geometry=self.maps.geometry[at] if self.maps.geometry else None,
                        title="" if row else f"concept {k}: {self.share[k]:.0%}",
                        caption="" if row else ", ".join(n for n, _ in self.classes(k, most=2)),
                    )
                )
            rows.append(row)
        return grid(rows, side=side, units=self.maps.units)

    def describe(self, concept: int) -> str:
        """Return a concept in a line: its share, and the classes it speaks for."""
        told = ", ".join(f"{name} {value:+.2g}" for name, value in self.classes(concept))
        return f"concept {concept}: {self.share[concept]:.0%}" + (f", for {told}" if told else "")


def factorise(values: Tensor, count: int, *, steps: int = 300) -> tuple[Tensor, Tensor]:
    """Return W (N, K) and H (K, C), at least 0, that make W @ H near `values` (N, C).

    Multiplicative updates of the squared error (Lee & Seung, NeurIPS 2000), which never grow it,
    from a start that the singular vectors give (NNDSVDa, Boutsidis & Gallopoulos 2008): nothing
    is drawn.

    Args:
        values: (N, C), at least 0.
        count: K, at most the smaller of N and C.
        steps: updates of both.
    """
    small = torch.finfo(values.dtype).eps
    squares, axes = torch.linalg.eigh(values.T @ values)
    axes = axes[:, -count:].flip(1)  # (C, K), the largest first
    sizes = squares[-count:].flip(0).clamp_min(0).sqrt()
    across = values @ axes / sizes.clamp_min(small)
    left, right = across.new_empty(across.shape), axes.new_empty(axes.T.shape)
    for k in range(count):
        sides = [(s * across[:, k]).clamp_min(0) for s in (1, -1)]
        others = [(s * axes[:, k]).clamp_min(0) for s in (1, -1)]
        weights = [float(a.norm() * b.norm()) for a, b in zip(sides, others, strict=True)]
        best = int(weights[1] > weights[0])
        scale = (sizes[k] * weights[best]).sqrt()
        left[:, k] = scale * sides[best] / sides[best].norm().clamp_min(small)
        right[k] = scale * others[best] / others[best].norm().clamp_min(small)
    mean = values.mean()
    left = torch.where(left > small, left, mean)
    right = torch.where(right > small, right, mean)
    for _ in range(steps):
        left = left * (values @ right.T) / (left @ (right @ right.T)).clamp_min(small)
        right = right * (left.T @ values) / ((left.T @ left) @ right).clamp_min(small)
    return left, right


def rows_of(activation: Tensor) -> Tensor:
    """Return activations (B, C, h, w) as a row a position, (B * h * w, C)."""
    return activation.permute(0, 2, 3, 1).flatten(0, 2)


def concept_vectors(
    rows: Tensor, count: int, layer: str, *, steps: int = 300
) -> tuple[Tensor, Tensor]:
    """Return how much of each concept each row holds (N, K), and the concepts (K, C) of length 1.

    The largest concept comes first.

    Args:
        rows: (N, C) activations, at least 0.
        count: K.
        layer: where they are from, for what it says.
        steps: updates of the factorisation.

    Raises:
        AttnvizError: fewer rows or channels than concepts, or no positive activation.
    """
    if not 1 <= count <= min(rows.shape) or not bool(rows.any()):
        raise AttnvizError(
            f"{count} concepts of {len(rows)} positions with {rows.shape[1]} channels at {layer!r},"
            f" {float((rows > 0).float().mean()):.0%} of them above 0; ask for 1 to "
            f"{min(rows.shape)} at a layer that is active"
        )
    left, right = factorise(rows, count, steps=steps)
    length = right.norm(dim=1)
    order = (left * length).sum(0).argsort(descending=True)
    return (left * length)[:, order], (right / length.clamp_min(1e-30)[:, None])[order]


def held(rows: Tensor, vectors: Tensor, *, steps: int = 100) -> Tensor:
    """Return how much of each known concept (K, C) each row (N, C) holds, at least 0, (N, K)."""
    across, among = rows.clamp_min(0) @ vectors.T, vectors @ vectors.T
    left = across
    for _ in range(steps):
        left = left * across / (left @ among).clamp_min(torch.finfo(rows.dtype).eps)
    return left


def find_concepts(
    model: Model,
    images: Any,
    *,
    count: int = 6,
    layer: str | nn.Module | None = None,
    preprocess: Any = None,
    labels: Sequence[str] | None = None,
    device: Any = None,
    batch_size: int = 16,
    steps: int = 300,
) -> Concepts:
    """Factorise a layer's activations over all photos into a few concepts and where they lie.

    Deep feature factorisation (Collins, Achanta & Süsstrunk, ECCV 2018, arXiv:1806.10206). The
    paper factorises activations behind a ReLU; of other layers the negative part is cut, and
    `cut` says how much that was. What the concepts say of classes is exact where the classifier
    is a linear layer on the mean of this layer, and left out elsewhere.

    Args:
        model, images, layer, preprocess, labels, device: as in `explain`.
        count: K, how many concepts.
        batch_size: images per forward.
        steps: updates of the factorisation.

    Raises:
        AttnvizError: fewer positions or channels than concepts, or no positive activation.
        LayoutError: the layer gives grids of different sizes.

    Example:
        >>> import torchvision
        >>> net = torchvision.models.resnet18(num_classes=4)
        >>> found = find_concepts(net, torch.rand(2, 3, 64, 64), count=3, steps=20)
        >>> found.maps.values.shape, found.vectors.shape
        (torch.Size([6, 2, 2]), torch.Size([3, 512]))
    """
    module, loaded = resolve_model(model, device)
    labels = labels if labels is not None else labels_of(module, loaded)
    name = next(iter(find_layers(module, layer))) if layer is not None else ""
    found: list[Tensor] = []
    places: list[Any] = []
    photos: list[Any] = []
    sources: list[Any] = []
    head: LinearHead | None = None
    given = gather(images, module)
    total = given.count if isinstance(given, Given) else len(given)
    prepare = preparing(given, module, loaded, preprocess)
    with counting("photos", total) as step:
        for start in range(0, total, batch_size):
            batch = prepare(slice(start, min(start + batch_size, total)))
            x = batch.tensor
            with torch.inference_mode(False), eager(module), preserved(module, eval_mode=True):
                name = name or default_layer(module, x)
                size = size_of(x) if isinstance(x, Tensor) else None
                with torch.no_grad():
                    request = Request(module, x, min(batch_size, total - start), input_size=size)
                    done = forward_pass(request, layers=[name], gradients=False, heads=True)
            found.append(done.activations[name].detach().float().cpu())
            head = done.heads.get(name)
            places += batch.geometry or [None] * len(found[-1])
            photos += batch.images or [None] * len(found[-1])
            sources += batch.sources or [None] * len(found[-1])
            step(len(found[-1]))
    if len({tuple(a.shape[1:]) for a in found}) > 1:
        raise LayoutError(f"{name!r} gives grids of different sizes; give photos of one size")
    every = torch.cat(found)
    number, _, height, width = every.shape
    rows = rows_of(every)
    cut = float(rows.clamp_max(0).abs().sum() / rows.abs().sum().clamp_min(1e-30))
    rows = rows.clamp_min(0)
    left, right = concept_vectors(rows, count, name, steps=steps)
    error = float((rows - left @ right).norm() / rows.norm())
    total = left.sum()
    maps = left.view(number, height, width, count).permute(0, 3, 1, 2).reshape(-1, height, width)
    repeat = [i for i in range(number) for _ in range(count)]
    known = photos[0] is not None
    return Concepts(
        Heatmaps(
            values=maps.contiguous(),
            method="concepts",
            layer=name,
            target=tuple(range(count)) * number,
            label=tuple(f"concept {k}" for k in range(count)) * number,
            score=maps.sum((1, 2)),
            geometry=tuple(places[i] for i in repeat) if places[0] is not None else None,
            images=tuple(photos[i] for i in repeat) if known else None,
            sources=tuple(sources[i] for i in repeat) if known else None,
            units="activation",
            meta={"concepts": count, "steps": steps, "error": error, "cut": cut},
        ),
        right,
        left.sum(0) / total,
        error,
        cut,
        None if head is None else right @ head.weight.detach().float().cpu().T,
        labels,
    )
