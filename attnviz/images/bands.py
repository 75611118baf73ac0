"""All bands of a TIFF, of which Pillow reads the first few."""

from __future__ import annotations

from typing import IO

import numpy as np

from ..errors import ImageError
from .bounds import check_limit, check_pixels, reason


def is_tiff(file: IO[bytes]) -> bool:
    """Return whether a file begins as a TIFF does."""
    file.seek(0)
    return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def tiff_bands(file: IO[bytes], what: str, max_pixels: int) -> np.ndarray:
    """Return all bands of a TIFF as (H, W, bands).

    Raises:
        ImageError: damaged, larger than is decoded, or tifffile is missing.
    """
    import cv2

    _check_size(file, what, max_pixels)
    file.seek(0)
    data = np.frombuffer(file.read(), np.uint8)
    try:
        few = cv2.imdecode(data, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        few = None
    if few is not None:  # it decodes up to four, as blue, green, red
        order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}
        return few if few.ndim == 2 else few[..., order.get(few.shape[-1], [0])]
    try:
        import tifffile
    except ImportError as error:
        raise ImageError(
            f"reading the bands of {what!r} needs tifffile: `pip install tifffile`"
        ) from error
    file.seek(0)
    try:
        with tifffile.TiffFile(file) as stored:
            page = stored.pages[0]
            pixels = page.asarray()
            planar = page.planarconfig == 2 and page.samplesperpixel > 1
    except Exception as error:  # decoders of damaged data raise nearly anything
        raise ImageError(f"{what!r} cannot be decoded: {reason(error)}") from error
    return np.moveaxis(pixels, 0, -1) if planar else pixels


def _check_size(file: IO[bytes], what: str, max_pixels: int) -> None:
    """Raise for a picture that its header says is too large, before either decoder is asked."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    file.seek(0)
    try:
        head = file.read(8)
        tags = ImageFileDirectory_v2(head + (file.read(8) if 43 in head[2:4] else b""))
        file.seek(tags.next)
        tags.load(file)
        width, height, bands = int(tags[256]), int(tags[257]), int(tags.get(277, 1))
        size = width * height * bands * max(map(int, tags.get(258, (1,)))) // 8
    except Exception as error:
        raise ImageError(f"{what!r} cannot be decoded: {reason(error)}") from error
    check_pixels((width, height), what, max_pixels)
    check_limit("bytes", size, what)
