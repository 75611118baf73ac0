"""Channel gates: a bar for each channel, and what the most-opened ones respond to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from ._canvas import ACCENT, QUIET, SECOND, array, new_figure, picture, show_map, show_photo

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def channel_gates(
    gate: Any,
    activation: Any = None,
    photo: Any = None,
    *,
    other: Any = None,
    other_photo: Any = None,
    names: tuple[str, str] = ("this image", "the other"),
    most: int = 4,
    least: int = 2,
    title: str = "",
    limit: float = 1.0,
) -> Figure:
    """Draw how far each channel of a feature map is opened.

    Squeeze-and-excitation (Hu et al. 2018, arXiv:1709.01507), ECA (Wang et al. 2020,
    arXiv:1910.03151), the channel half of CBAM (Woo et al. 2018, arXiv:1807.06521), the gates of
    global context (Cao et al. 2019, arXiv:1904.11492).

    Args:
        gate: (C,) or (C, 1, 1), each in [0, limit]: bars, on an axis from 0 to `limit`.
        activation: (C, h, w), what the gate multiplies; a thumbnail for each of the most and the
            least opened channels, over the photo, each from 0 to its own maximum. Negative
            values are drawn as 0, and channels that are 0 everywhere passed over.
        photo: (3, H, W) in [0, 1] or (H, W, 3) uint8.
        other: gates of another image, (C,) or (C, 1, 1), drawn as dots.
        other_photo: that image.
        names: of the two images, for the legend.
        most: how many of the most opened channels are shown.
        least: how many of the least opened ones.
        title: above.
        limit: what a fully open gate multiplies by: 1 for a sigmoid.

    Raises:
        DataError: shapes do not fit.
    """
    values = array(gate.reshape(-1) if hasattr(gate, "reshape") else gate, 1, "the gate")
    maps = None if activation is None else array(activation, 3, "the activation")
    if maps is not None and len(maps) != len(values):
        raise DataError(
            f"{len(values)} gates for an activation of {len(maps)} channels {maps.shape}; pass "
            "the tensor that this gate multiplies"
        )
    order = np.argsort(-values, kind="stable")
    if maps is not None:
        order = order[maps[order].max((1, 2)) > 0]
    most = min(most, len(order))
    least = min(least, len(order) - most)
    high, low = order[:most], order[len(order) - least :]
    seen = None if photo is None else picture(photo)
    inputs = [] if seen is None else [(seen, "input" if other is None else names[0])]
    if other_photo is not None:
        inputs.append((picture(other_photo), names[1]))
    shown = [*high, *low]
    figure = new_figure(8.6, 2.4 if maps is None else 4.1)
    across = max(len(shown) + len(inputs), 1)
    panels = figure.add_gridspec(1 + (maps is not None), across)
    bars = figure.add_subplot(panels[0, :])
    colours = np.full(len(values), QUIET, object)
    colours[high] = ACCENT
    colours[low] = SECOND
    bars.bar(range(len(values)), values, width=0.85, color=list(colours))
    bars.axhline(values.mean(), color="black", linewidth=0.8, linestyle=":")
    if other is not None:
        dots = array(other.reshape(-1) if hasattr(other, "reshape") else other, 1, "other")
        bars.plot(range(len(dots)), dots, "o", color="black", markersize=3, label=names[1])
        bars.plot([], [], "s", color=QUIET, markersize=6, label=names[0])
        bars.legend(
            fontsize=7, frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1.0, -0.36)
        )
    bars.set_ylim(0, 1.02 * limit)
    bars.set_xlim(-0.7, len(values) - 0.3)
    bars.set_xlabel("channel", fontsize=8)
    bars.set_ylabel(f"gate, 0 to {limit:g}", fontsize=8)
    bars.tick_params(labelsize=7)
    bars.set_title(
        f"{title + ': ' if title else ''}{len(values)} gates from {values.min():.2f} to "
        f"{values.max():.2f}, mean {values.mean():.2f} (dotted)",
        fontsize=9,
    )
    if maps is None:
        return figure
    for place, (image, name) in enumerate(inputs):
        show_photo(figure.add_subplot(panels[1, place]), image, name)
    for place, channel in enumerate(shown, start=len(inputs)):
        ax = figure.add_subplot(panels[1, place])
        positive = maps[channel].clip(0)
        top = float(positive.max())
        show_map(ax, seen, positive, top=top)
        colour = ACCENT if channel in high else SECOND
        ax.set_title(
            f"channel {channel}\ngate {values[channel]:.2f}", fontsize=8, pad=3, color=colour
        )
        ax.set_xlabel(f"0 to {top:.3g}", fontsize=7)
    return figure
