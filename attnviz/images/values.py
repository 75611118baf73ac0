"""Which bands of a photo are shown, and which of its values are black and white."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from ..errors import ImageError


@dataclass(frozen=True)
class PhotoValues:
    """How numbers become a picture.

    Attributes:
        bands: the numbers of the bands shown as red, green and blue, or of the one shown as grey,
            counted from 1; None takes a photo's own colours.
        window: (low, high): the values that become black and white; what lies beyond is cut.
            None takes the whole range of 8 or 16 bits, and of floats 0 to 1.

    Raises:
        ImageError: no such bands or window.
    """

    bands: tuple[int, ...] | None = None
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        bands, window = self.bands, self.window
        if bands is not None and (len(bands) not in (1, 3) or min(bands) < 1):
            raise ImageError(f"bands are one or three numbers from 1, got {tuple(bands)}")
        if window is not None and not (len(window) == 2 and window[0] < window[1]):
            raise ImageError(f"a window is (low, high) with low < high, got {tuple(window)}")

    def facts(self) -> dict[str, str]:
        """Return for a result's meta what was asked for."""
        found = {"bands": self.bands, "window": self.window}
        return {k: ", ".join(f"{v:g}" for v in vs) for k, vs in found.items() if vs is not None}


_ASKED: ContextVar[PhotoValues | None] = ContextVar("attnviz_photo_values", default=None)


def asked() -> PhotoValues:
    """Return what holds here."""
    return _ASKED.get() or PhotoValues()


@contextlib.contextmanager
def photo_values(
    *, bands: Sequence[int] | None = None, window: Sequence[float] | None = None
) -> Iterator[None]:
    """Read photos by these bands and this window inside the block, in every function.

    Args:
        bands, window: as in `PhotoValues`.

    Example:
        >>> with photo_values(window=(0, 4095)):  # 12 bits in 16  # doctest: +SKIP
        ...     maps = attnviz.explain(model, "scan.tif")

    Raises:
        ImageError: no such bands or window.
    """
    outer = asked()
    token = _ASKED.set(
        PhotoValues(
            outer.bands if bands is None else tuple(bands),
            outer.window if window is None else (window[0], window[-1]),
        )
    )
    try:
        yield
    finally:
        _ASKED.reset(token)
