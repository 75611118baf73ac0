"""A drawing of the network: its blocks in order, and the mechanisms marked on them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from torch import nn

from ..hooks import unwrap
from .inventory import Inventory
from .mechanism import KINDS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers too
COLOURS = dict(
    zip(
        KINDS,
        ["#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#999999", "#D55E00", "#CC79A7",
         "#000000"],
        strict=True,
    )
)  # fmt: skip
_MOST = 8  # boxes in a line
_WIDE, _HIGH = 1.2, 0.86  # inches of a box with the room around it
_INK, _LINE, _FAINT = "#222226", "#5f5f64", "#c9c9ce"


def draw(model: nn.Module, inventory: Inventory) -> Figure:
    """Draw the model's stages from top to bottom, their blocks from left to right, with arrows.

    One line for each part of the model that holds something; a part that is a sequence of blocks
    shows one box a block, with its class. What attends in a block stands in it as a chip in the
    colour of its kind, with a number where there are several.

    Args:
        model: the model that was inspected.
        inventory: of that model.

    Returns:
        A matplotlib figure that belongs to no window.
    """
    from matplotlib.figure import Figure

    network = unwrap(model)
    rows = [(name, _boxes(name, part)) for name, part in network.named_children()]
    rows = [(name, boxes) for name, boxes in rows if boxes] or [("", [""])]
    lines: list[tuple[str, list[str]]] = []
    for name, boxes in rows:
        for start in range(0, len(boxes), _MOST):
            lines.append((name if start == 0 else "", boxes[start : start + _MOST]))
    wide = max(3, *(len(boxes) for _, boxes in lines))
    left = 0.1 + 0.085 * max(len(name) for name, _ in lines)  # inches of the stages' names
    size = (left + _WIDE * wide, _HIGH * (len(lines) + 1) + 0.9)
    figure = Figure(figsize=size, dpi=110)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_xlim(-0.5 - left / _WIDE, wide - 0.5)
    ax.set_ylim(len(lines) + 0.1, -0.5 - 1.15)
    ax.axis("off")
    total = f"{inventory.parameters / 1e6:.1f} M parameters"
    what = f"{len(inventory)} attention mechanisms" if len(inventory) else "no attention mechanism"
    for text, y, points in ((inventory.model, -1.42, 11), (f"{what}, {total}", -1.13, 9)):
        ax.text(-0.38 - left / _WIDE, y, text, fontsize=points, color=_INK, parse_math=False)
    ax.text(0, -0.78, "input", fontsize=8, color=_LINE, ha="center", va="center")
    _arrow(ax, (0, -0.68), (0, -0.36))
    for y, (name, boxes) in enumerate(lines):
        ax.text(-0.52, y, name, ha="right", va="center", fontsize=9, color=_INK, parse_math=False)
        for x, path in enumerate(boxes):
            _box(ax, x, y, path, name, network, inventory)
            if x:
                _arrow(ax, (x - 0.58, y), (x - 0.42, y))
        if y + 1 < len(lines):
            _down(ax, len(boxes) - 1, y)
    end = len(lines[-1][1]) - 1
    _arrow(ax, (end, len(lines) - 1 + 0.34), (end, len(lines) - 0.36))
    ax.text(end, len(lines) - 0.26, "output", fontsize=8, color=_LINE, ha="center", va="center")
    shown = [kind for kind in KINDS if inventory.of_kind(kind)]
    if shown:
        from matplotlib.patches import Patch

        handles = [
            Patch(color=COLOURS[kind], label=f"{kind}: {len(inventory.of_kind(kind))}")
            for kind in shown
        ]
        ax.legend(
            handles=handles, loc="lower center", ncols=min(3, len(shown)), fontsize=8,
            frameon=False,
        )  # fmt: skip
    return figure


def _arrow(ax: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    head = {"arrowstyle": "-|>", "color": _LINE, "shrinkA": 0, "shrinkB": 0, "lw": 0.9}
    ax.annotate("", xy=end, xytext=start, arrowprops=head)


def _down(ax: Any, last: int, y: int) -> None:
    """From the last box of a line to the first of the next."""
    if last:
        ax.plot([last, last, 0], [y + 0.34, y + 0.5, y + 0.5], color=_LINE, lw=0.9)
    _arrow(ax, (0, y + (0.5 if last else 0.34)), (0, y + 0.64))


def _box(
    ax: Any, x: int, y: int, path: str, stage: str, network: nn.Module, inventory: Inventory
) -> None:
    from matplotlib.patches import FancyBboxPatch

    kinds = Counter(e.kind for e in inventory if _inside(e.name, path))
    corner = "round,pad=0,rounding_size=0.06"
    ax.add_patch(
        FancyBboxPatch(
            (x - 0.42, y - 0.34), 0.84, 0.68, boxstyle=corner, linewidth=1,
            facecolor="#f6f6f8" if kinds else "white", edgecolor=_LINE if kinds else _FAINT,
        )
    )  # fmt: skip
    number = path.rpartition(".")[2] if path != stage else ""
    kind_of_block = type(network.get_submodule(path)).__name__
    head = f"{number} {kind_of_block}".strip()
    at = y - 0.21 if kinds else y
    ax.text(x, at, _cut(head, 16), fontsize=7, color=_INK, ha="center", va="center")
    high = min(0.22, 0.44 / max(len(kinds), 1))
    for row, (kind, count) in enumerate(kinds.items()):
        top = y - 0.1 + row * high
        ax.add_patch(
            FancyBboxPatch(
                (x - 0.37, top), 0.74, high - 0.03, boxstyle=corner, linewidth=0,
                facecolor=COLOURS[kind],
            )
        )  # fmt: skip
        dark = COLOURS[kind] in ("#000000", "#0072B2", "#D55E00", "#009E73")
        ax.text(
            x, top + high / 2 - 0.015, f"{kind} × {count}" if count > 1 else kind,
            fontsize=6.5 if high > 0.15 else 5, color="white" if dark else "black", ha="center",
            va="center",
        )  # fmt: skip


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _boxes(name: str, part: nn.Module) -> list[str]:
    """Return the paths of the boxes of one part: its blocks, or itself."""
    if next(part.parameters(), None) is None:
        return []
    blocks = part
    path = name
    # go down through wrappers that hold nothing but one list of blocks
    while True:
        children = dict(blocks.named_children())
        if isinstance(blocks, nn.Sequential | nn.ModuleList) and len(children) > 1:
            return [f"{path}.{child}" for child in children]
        lists = [c for c, m in children.items() if isinstance(m, nn.Sequential | nn.ModuleList)]
        holder = [c for c in lists if len(list(children[c].children())) > 1]
        if isinstance(blocks, nn.Conv2d | nn.Linear) or len(holder) != 1:
            return [name] if path == name else [path]
        path = f"{path}.{holder[0]}"
        blocks = children[holder[0]]


def _inside(name: str, path: str) -> bool:
    return not path or name == path or name.startswith(f"{path}.")
