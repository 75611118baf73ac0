"""A drawing of the network: its blocks in order, and the mechanisms marked on them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from torch import nn

from ..hooks import unwrap
from .entry import KINDS
from .inventory import Inventory

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
_MOST = 12


def draw(model: nn.Module, inventory: Inventory) -> Figure:
    """Draw the model's parts as boxes in order, with a mark for each mechanism.

    One row for each part of the model that holds something; a part that is a sequence of blocks
    shows one box a block. A mark's number says how many of that kind a box holds.

    Args:
        model: the model that was inspected.
        inventory: of that model.

    Returns:
        A matplotlib figure that belongs to no window.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch, Patch

    rows = [(name, _boxes(name, part)) for name, part in unwrap(model).named_children()]
    rows = [(name, boxes) for name, boxes in rows if boxes] or [("", [""])]
    wide = max(min(len(boxes), _MOST) for _, boxes in rows)
    lines: list[tuple[str, list[str]]] = []
    for name, boxes in rows:
        for start in range(0, len(boxes), _MOST):
            lines.append((name if start == 0 else "", boxes[start : start + _MOST]))
    figure = Figure(
        figsize=(2.6 + 0.95 * wide, 0.62 * len(lines) + 1.5), layout="constrained", dpi=110
    )
    ax = figure.subplots()
    for y, (name, boxes) in enumerate(lines):
        ax.text(-0.46, y, name, ha="right", va="center", fontsize=9, parse_math=False)
        for x, path in enumerate(boxes):
            kinds = Counter(e.kind for e in inventory if _inside(e.name, path))
            ax.add_patch(
                FancyBboxPatch(
                    (x - 0.38, y - 0.3), 0.76, 0.6, boxstyle="round,pad=0,rounding_size=0.08",
                    facecolor="#f6f6f8" if kinds else "white",
                    edgecolor="#5f5f64" if kinds else "#c9c9ce", linewidth=1,
                )
            )  # fmt: skip
            label = path.rpartition(".")[2] if path != name else ""
            ax.text(x - 0.34, y - 0.17, label, fontsize=6.5, color="#5f5f64", va="center")
            _marks(ax, x, y, kinds)
    shown = [kind for kind in KINDS if inventory.of_kind(kind)]
    if shown:
        handles = [
            Patch(color=COLOURS[kind], label=f"{kind}: {len(inventory.of_kind(kind))}")
            for kind in shown
        ]
        ax.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=3, fontsize=8,
            frameon=False,
        )  # fmt: skip
    total = f"{inventory.parameters / 1e6:.1f} M parameters"
    what = f"{len(inventory)} attention mechanisms" if len(inventory) else "no attention mechanism"
    ax.set_title(f"{inventory.model}: {what}, {total}", fontsize=10)
    ax.set_xlim(-1.4, wide - 0.4)
    ax.set_ylim(len(lines) - 0.5, -0.6)
    ax.axis("off")
    return figure


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


def _marks(ax: Any, x: float, y: float, kinds: Counter[str]) -> None:
    step = 0.7 / max(len(kinds), 1)
    for i, (kind, count) in enumerate(kinds.items()):
        at = x - 0.35 + (i + 0.5) * step
        ax.plot([at], [y + 0.08], "o", color=COLOURS[kind], markersize=9)
        if count > 1:
            dark = COLOURS[kind] in ("#000000", "#0072B2", "#D55E00", "#009E73")
            ax.text(
                at, y + 0.085, str(count), fontsize=6, ha="center", va="center",
                color="white" if dark else "black",
            )  # fmt: skip
