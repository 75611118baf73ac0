"""The part of `Heatmaps` that makes pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast, overload

from ..errors import DataError
from . import notebook, pictures, ranks, volumes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from .core import Heatmaps


class Drawn:
    """What maps are drawn as: overlay, panel, grid, matplotlib, a notebook's cell."""

    @overload
    def overlay(self, index: int, *, image: Any = None, **options: Any) -> Image: ...
    @overload
    def overlay(
        self, index: None = None, *, image: Any = None, **options: Any
    ) -> Image | list[Image]: ...

    def overlay(
        self, index: int | None = None, *, image: Any = None, **options: Any
    ) -> Image | list[Image]:
        """Return the map drawn over the original photo, at the photo's resolution and place.

        Args:
            index: which map. None: the only one as a picture, or several as a list.
            image: the photo, if none is attached; anything `read_image` reads.
            options: `mode` and `shared` as in `normalized` (None: "signed" for a map with
                negative values, else "minmax"), and `colormap`, `alpha`, `gamma`, `desaturate` as
                in `attnviz.render.overlay`.

        Raises:
            DataError: there is no photo, or NaN or infinite values.
        """
        return pictures.overlay(ranks.as_pictures(_maps(self)), index, image=image, **options)

    def panel(
        self,
        index: int = 0,
        *,
        image: Any = None,
        truth: Any = None,
        title: str | None = None,
        **options: Any,
    ) -> Image:
        """Return photo, overlay and contours side by side, with caption and colour bar.

        A signal's map lies over its curve. A volume is shown by its maximum along each axis and
        the slices through the strongest place, a video by a strip of frames (`frames=8`).

        Args:
            index: which map.
            image: the photo, if none is attached. Without any, the map is drawn alone.
            truth: ground truth on the photo, drawn dashed: a mask (H, W), or boxes (n, 4) of
                left, top, right, bottom in pixels, right and bottom exclusive.
            title: above everything; None: the class with its score.
            options: `mode` and `shared` as for `overlay`; `colormap`, `alpha`, `levels` and `side`
                as in `attnviz.render.panel`.

        Raises:
            DataError: NaN or infinite values, or shapes that do not fit.
        """
        maps = _maps(self)
        if maps.rank == 2:
            return pictures.panel(maps, index, image=image, truth=truth, title=title, **options)
        if image is not None or truth is not None:
            raise DataError("signals and volumes are attached by .with_images([...]); no truth=")
        return volumes.panel(maps, index, title=title, **options)

    def figure(
        self,
        index: int | None = 0,
        *,
        image: Any = None,
        truth: Any = None,
        title: str | None = None,
        **options: Any,
    ) -> Figure:
        """Return the panel as a matplotlib figure, for PDF and SVG.

        Text, contours and colour bar are vectors; photo and overlay are pictures in it.

        Args:
            index: which map; None: all of them, as in `grid`.
            image, truth, title, options: as for `panel`, or for `grid`.

        Raises:
            DataError: as `panel`; or a panel of a signal or volume.

        Example:
            >>> import attnviz, torch
            >>> maps = attnviz.Heatmaps(torch.rand(1, 7, 7), "gradcam", "", (0,), ("boat",),
            ...                         torch.ones(1))
            >>> maps.figure(title="A boat").savefig("boat.pdf")  # doctest: +SKIP
        """
        maps = _maps(self)
        if index is None:
            return pictures.grid_figure(maps, title=title or "", **options)
        if maps.rank != 2:
            raise DataError("figure() is of pictures; of signals and volumes see panel()")
        return pictures.panel(
            maps, index, image=image, truth=truth, title=title, vector=True, **options
        )

    def grid(self, **options: Any) -> Image:
        """Return all maps in one picture on one stated scale; see `attnviz.heatmaps.grid`."""
        return pictures.grid(_maps(self), **options)

    def show(self) -> None:
        """Show the maps: as a cell to play with in a notebook, else in the system's viewer."""
        maps = _maps(self)
        if notebook.in_notebook():
            from IPython.display import HTML, display

            display(HTML(maps._repr_html_()))
        else:
            (maps.panel(0) if len(maps) == 1 else maps.grid()).show()

    def plot(
        self,
        ax: Axes | None = None,
        *,
        index: int = 0,
        cmap: str | None = None,
        title: str | None = None,
        colorbar: bool = True,
        **options: Any,
    ) -> Axes:
        """Draw one map over its photo with matplotlib: colour bar in raw units, and a caption.

        Args:
            ax: where to draw; None: a new figure.
            index: which map.
            cmap: a colour map of matplotlib's; None: embers, or coolwarm if signed.
            title: above it; None: class, score, model, method and layer.
            colorbar: draw the bar.
            options: as for `overlay`.

        Returns:
            The axes drawn on. A figure made here is pyplot's, to be closed by the caller.
        """
        return pictures.plot(
            ranks.as_pictures(_maps(self)), ax, index, colormap=cmap, title=title,
            colorbar=colorbar, **options,
        )  # fmt: skip

    def _repr_html_(self) -> str:
        return notebook.html(ranks.as_pictures(_maps(self)))


def _maps(drawn: Drawn) -> Heatmaps:
    return cast("Heatmaps", drawn)
