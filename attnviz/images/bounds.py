"""What every decoder asks before it decodes, and how its failure is told."""

from __future__ import annotations

from .. import limits
from ..errors import DataError, ImageError


def check_pixels(size: tuple[int, int], what: str, max_pixels: int) -> None:
    """Raise ImageError for a picture (width, height) of no pixels, or of more than are decoded."""
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{what!r} has no pixels: {width} x {height}")
    if width * height > max_pixels:
        raise ImageError(
            f"{what!r} is {width} x {height} = {width * height / 1e6:,.0f} million pixels; at most "
            f"{max_pixels / 1e6:,.0f} million are decoded. Shrink it, or raise max_pixels"
        )


def check_limit(name: str, value: int, what: str) -> None:
    """Raise ImageError for a value beyond a limit, see `attnviz.limits`."""
    try:
        limits.check(name, value, repr(what))
    except DataError as error:
        raise ImageError(str(error)) from None


def reason(error: BaseException) -> str:
    """Return what a decoder says, in a line."""
    text = getattr(error, "strerror", None) or str(error)
    return text.splitlines()[0] if text else type(error).__name__
