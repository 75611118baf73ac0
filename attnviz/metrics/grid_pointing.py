"""Localisation whose truth is known by construction: grids of images, one class a cell.

Böhle, Fritz & Schiele, "Convolutional Dynamic Alignment Networks" (CVPR 2021, arXiv:2104.00032)
for the grid pointing game; Rao, Böhle & Schiele, "Towards Better Understanding Attribution
Methods" (CVPR 2022, arXiv:2205.10435) for DiFull.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MetricError
from ..targets import logits_of
from ._inputs import as_images, as_maps, finite_reasons, resize_maps, with_reason
from ._localise import skip
from ._register import register_metric
from .protocol import Protocol
from .scores import Scores

#: model, grid images (G, C, n H, n W), class per grid -> maps (G, h, w)
GridExplainer = Callable[[nn.Module, Tensor, list[int]], Any]


@dataclass(frozen=True)
class Grids:
    """Images laid out in squares.

    Attributes:
        images: (G, C, n H, n W).
        members: (G, n * n) which image stands in each cell, row by row.
        classes: (G, n * n) their classes, all different within a grid.
        side: n.
        unused: images that found no grid of other classes.
    """

    images: Tensor
    members: Tensor
    classes: Tensor
    side: int
    unused: int


def grid_members(classes: Sequence[int], *, side: int = 2) -> list[list[int]]:
    """Return which images stand together in a grid, all of different classes, each at most once.

    Args:
        classes: (B,) the images' classes.
        side: cells in a row and in a column.

    Raises:
        MetricError: not even one grid of different classes can be made.
    """
    if side < 2:
        raise MetricError(f"side={side}, expected at least 2")
    waiting: dict[int, list[int]] = {}
    for number, cls in enumerate(classes):
        waiting.setdefault(cls, []).append(number)
    members = []
    # always from the classes with most images left, so that few are left over
    while sum(bool(images) for images in waiting.values()) >= side * side:
        fullest = sorted(waiting, key=lambda c: -len(waiting[c]))[: side * side]
        members.append([waiting[c].pop(0) for c in sorted(fullest, key=lambda c: waiting[c][0])])
    if not members:
        raise MetricError(
            f"a grid of {side} x {side} needs images of {side * side} different classes, got "
            f"{len(waiting)}"
        )
    return members


def make_grids(x: Tensor, classes: Sequence[int] | Tensor, *, side: int = 2) -> Grids:
    """Return grids of images of different classes; every image is used once at most.

    Args:
        x: (B, C, H, W) images, best such that the model is sure of.
        classes: (B,) their classes.
        side: cells in a row and in a column.

    Raises:
        MetricError: not even one grid of different classes can be made.
    """
    x = as_images(x)
    classes = torch.as_tensor(classes).flatten().tolist()
    if len(classes) != len(x):
        raise MetricError(f"{len(classes)} classes for {len(x)} images; give one each")
    members = grid_members(classes, side=side)
    chosen = torch.tensor(members, device=x.device)
    cells = x[chosen.flatten()].view(len(members), side, side, *x.shape[1:])
    images = cells.permute(0, 3, 1, 4, 2, 5).reshape(
        len(members), x.shape[1], side * x.shape[2], side * x.shape[3]
    )
    return Grids(
        images,
        chosen,
        torch.tensor(classes, device=x.device)[chosen],
        side,
        len(x) - chosen.numel(),
    )


def cell_energy(maps: Any, cell: Sequence[int] | Tensor, side: int) -> tuple[Tensor, list]:
    """Return the share (B,) of each map's positive mass in its cell, and reasons to skip.

    Args:
        maps: (B, h, w) over whole grids; resized so that cells fall on whole pixels.
        cell: (B,) number of the true cell, row by row.
        side: cells in a row and in a column.
    """
    maps = as_maps(maps)
    reasons = finite_reasons(maps)
    height, width = (-(-s // side) * side for s in maps.shape[-2:])
    positive = resize_maps(maps, (height, width)).clamp_min(0).double()
    blocks = positive.view(len(maps), side, height // side, side, width // side)
    mass = torch.stack([b.sum((1, 3)).flatten() for b in blocks])
    total = mass.sum(1)
    reasons = with_reason(reasons, ~(total > 0), "no positive evidence")
    cell = torch.as_tensor(cell, device=maps.device)
    return skip(mass.gather(1, cell[:, None])[:, 0] / total, reasons), reasons


def _grid_scores(
    name: str, explain: Callable[[int], Any], grids: Grids, settings: dict[str, Any]
) -> Scores:
    values, reasons = [], []
    for cell in range(grids.side**2):
        where = torch.full((len(grids.images),), cell, device=grids.images.device)
        found, why = cell_energy(explain(cell), where, grids.side)
        values.append(found)
        reasons.append(why)
    protocol = Protocol.of(
        name,
        f"{grids.side} x {grids.side}",
        higher_is_better=True,
        side=grids.side,
        **settings,
    )
    order = [(g, c) for g in range(len(grids.images)) for c in range(grids.side**2)]
    return Scores(
        torch.stack(values, 1).flatten(),
        protocol,
        tuple(reasons[c][g] for g, c in order),
        {"image": grids.members.flatten()},
    )


@register_metric(
    "grid_pointing",
    family="localisation",
    needs=("grid",),
    higher_is_better=True,
    paper="arXiv:2104.00032",
    aliases=("gridpg",),
    explanations=lambda o: o.get("side", 2) ** 2,
)
def grid_pointing(
    explain: GridExplainer,
    model: nn.Module,
    x: Tensor,
    classes: Sequence[int] | Tensor,
    *,
    side: int = 2,
) -> Scores:
    """Grid pointing game: share of positive evidence for a class in the cell that shows it.

    Args:
        explain: `explain(model, images, target)` -> (G, h, w) for a class index per grid.
        model: must take images `side` times as large.
        x: (B, C, H, W) images.
        classes: (B,) their classes.
        side: cells in a row and in a column; chance is 1 / side^2.

    Returns:
        `Scores`, one value per cell, `extra["image"]` which image stands there. Skipped: maps
        without a positive value or with NaN.
    """
    grids = make_grids(x, classes, side=side)
    return _grid_scores(
        "grid_pointing",
        lambda cell: explain(model, grids.images, grids.classes[:, cell].tolist()),
        grids,
        {},
    )


class DisconnectedGrid(nn.Module):
    """A model applied to each cell of a grid by itself: (B, C, n H, n W) -> (B, n * n * classes).

    Logit number `cell * classes + c` is class c seen in that cell alone, so every other cell
    provably has no influence on it (DiFull). Inside, cells are rows of the batch, so a layer's
    activation has B * n * n rows.
    """

    def __init__(self, model: nn.Module, side: int = 2) -> None:
        super().__init__()
        self.model = model
        self.side = side

    def cells(self, x: Tensor) -> Tensor:
        """Return the cells (B * n * n, C, H, W) of grids, row by row of each."""
        batch, channels, height, width = x.shape
        if height % self.side or width % self.side:
            raise MetricError(
                f"a grid of {height} x {width} pixels cannot be cut into {self.side} x {self.side}"
            )
        size = (height // self.side, width // self.side)
        cells = x.view(batch, channels, self.side, size[0], self.side, size[1])
        return cells.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, *size)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of all cells, row by row of the grid."""
        return logits_of(self.model(self.cells(x))).reshape(len(x), -1)


@register_metric(
    "difull",
    family="localisation",
    needs=("grid",),
    higher_is_better=True,
    paper="arXiv:2205.10435",
    explanations=lambda o: o.get("side", 2) ** 2,
)
def difull(
    explain: GridExplainer,
    model: nn.Module,
    x: Tensor,
    classes: Sequence[int] | Tensor,
    *,
    side: int = 2,
) -> Scores:
    """DiFull: as the grid pointing game, but each cell is classified by itself, so 1 is the truth.

    Any evidence outside the cell is an error of the method, since nothing outside can influence
    the score.

    Args:
        explain: `explain(disconnected, images, target)` -> (G, h, w). The model it is given is a
            `DisconnectedGrid`; targets count its logits. Maps of a layer come out with one row per
            cell, (G * side^2, h, w): they are put together here.
        model: any classifier of x.
        x: (B, C, H, W) images.
        classes: (B,) their classes.
        side: cells in a row and in a column.

    Returns:
        `Scores`, one value per cell, `extra["image"]` which image stands there.
    """
    grids = make_grids(x, classes, side=side)
    disconnected = DisconnectedGrid(model, side)
    disconnected.training = model.training
    with torch.no_grad():
        from .forward import untouched

        with untouched(model):
            count = disconnected(grids.images[:1]).shape[1] // side**2

    def maps_for(cell: int) -> Tensor:
        targets = (cell * count + grids.classes[:, cell]).tolist()
        maps = as_maps(explain(disconnected, grids.images, targets))
        if len(maps) == len(grids.images) * side**2 != len(grids.images):
            height, width = maps.shape[-2:]
            maps = maps.view(-1, side, side, height, width).permute(0, 1, 3, 2, 4)
            maps = maps.reshape(-1, side * height, side * width)
        return maps

    return _grid_scores("difull", maps_for, grids, {})
