"""One photo, from a file, bytes or an object, to HWC uint8 RGB."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from .. import limits
from ..errors import ImageError, did_you_mean
from .arrays import composite_on_white, from_array, from_tensor, shown, to_uint8
from .bands import is_tiff, tiff_bands
from .bounds import check_limit, check_pixels, reason
from .values import PhotoValues, asked

if TYPE_CHECKING:
    from PIL import Image as PILImage
    from torch import Tensor

#: Photos with more pixels than this are refused before they are decoded; see `attnviz.limits`.
MAX_PIXELS = limits.Limits().pixels

# Only decoders of pixels: Pillow would run Ghostscript on an EPS file, for instance.
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "MPO"),
    *("AVIF", "JPEG2000", "TGA", "ICO", "PCX", "QOI", "SGI"),
)
_ORIENTATION = 0x0112
_EXTRA_SAMPLES = 338
_STRIP = 1 << 18  # pixels
_URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")
#: photos that were read by bands or a window: read once more, they stay as they are
_READ: WeakValueDictionary[int, np.ndarray] = WeakValueDictionary()


def read_image(
    source: str | os.PathLike[str] | bytes | IO[bytes] | PILImage.Image | np.ndarray | Tensor,
    *,
    max_pixels: int | None = None,
    reduce_to: int | None = None,
    bands: Sequence[int] | None = None,
    window: Sequence[float] | None = None,
) -> np.ndarray:
    """Return one photo as an array (H, W, 3) of uint8 RGB that shares no memory with the source.

    The EXIF orientation is applied, as viewers do. 16-bit values are divided by 257 and rounded;
    grey, palette and CMYK become RGB; transparent pixels are laid on white. Of an animation the
    first frame is read. Colour profiles are not applied. URLs are not fetched. A fourth band is
    transparency where the file says so; where it may be another (near infrared), say `bands`.

    Args:
        source: a path; the bytes of a file, or an open binary file; a PIL image; a numpy array
            (H, W) or (H, W, C) with C 1 to 4, of uint8, uint16 or floats in [0, 1]; or a torch
            tensor (C, H, W) or (H, W) of the same types. None of them is changed.
        max_pixels: the largest width x height that is decoded; checked before decoding. None
            takes the limit `pixels` of `attnviz.limits`.
        reduce_to: if given, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as
            both sides keep this many pixels. Quicker; the photo is then a smaller one.
        bands: the numbers of three bands shown as red, green and blue, or of one shown as grey,
            counted from 1, of an array or TIFF with any number of them. None takes what holds
            inside `photo_values`; they are not applied again to an array that was read by them.
        window: (low, high): the values that become black and white, of numbers of any kind.

    Raises:
        ImageError: no such file, a directory, an empty, truncated, oversized or unknown file, or
            an array whose shape, type or range is not an image's.
    """
    max_pixels = limits.current().pixels if max_pixels is None else max_pixels
    around = PhotoValues() if _READ.get(id(source)) is source else asked()
    values = PhotoValues(
        around.bands if bands is None else tuple(bands),
        around.window if window is None else (window[0], window[-1]),
    )
    photo = _pixels(source, max_pixels, reduce_to, values)
    if values != PhotoValues():
        _READ[id(photo)] = photo
    return photo


def _pixels(source: Any, max_pixels: int, reduce_to: int | None, values: PhotoValues) -> np.ndarray:
    if isinstance(source, np.ndarray):
        return from_array(source, values)
    if isinstance(source, (str, os.PathLike)):
        path = _checked_path(source)
        try:
            with open(path, "rb") as file:
                return _read_file(file, str(path), max_pixels, reduce_to, values)
        except OSError as error:
            raise ImageError(f"{str(path)!r} cannot be opened: {reason(error)}") from error
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read_file(io.BytesIO(source), f"{len(source)} bytes", max_pixels, reduce_to, values)
    # isinstance checks without importing what the caller cannot have used
    if "torch" in sys.modules and isinstance(source, sys.modules["torch"].Tensor):
        return from_tensor(source, values)
    if "PIL.Image" in sys.modules and isinstance(source, sys.modules["PIL.Image"].Image):
        what = f"PIL image {getattr(source, 'filename', '') or source.mode}"
        return _decode(source, what, max_pixels, values)
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        file: Any = source  # a file by its methods
        return _read_file(file, str(name or "open file"), max_pixels, reduce_to, values)
    raise ImageError(
        f"{type(source).__name__} is not an image; expected a path, bytes, an open file, "
        "a PIL image, a numpy array (H, W, C) or a torch tensor (C, H, W)"
    )


def _checked_path(source: str | os.PathLike[str]) -> Path:
    text = os.fspath(source)
    if isinstance(text, str) and _URL.match(text):
        raise ImageError(f"{text!r} is a URL; nothing is fetched. Download it and pass the file")
    if not text or "\0" in str(text):
        raise ImageError(f"{text!r} is not a path of a file")
    path = Path(os.fsdecode(text)).expanduser()
    try:
        if path.is_dir():
            what = f"{str(path)!r} is a directory; expected an image file"
            raise ImageError(
                f"{what}. attnviz.images.find_images lists the images in it", command=what
            )
        if not path.exists():
            siblings = os.listdir(path.parent) if path.parent.is_dir() else []
            raise ImageError(f"no such file: {str(path)!r}{did_you_mean(path.name, siblings)}")
        if not path.is_file():  # a pipe or a device could block for ever
            raise ImageError(f"{str(path)!r} is not a regular file")
    except OSError as error:
        raise ImageError(f"{str(path)!r} cannot be opened: {reason(error)}") from error
    return path


def _read_file(
    file: IO[bytes], what: str, max_pixels: int, reduce_to: int | None, values: PhotoValues
) -> np.ndarray:
    if not (hasattr(file, "seekable") and file.seekable()):
        file = io.BytesIO(file.read())
    if not file.read(1):
        raise ImageError(f"{what!r} is empty (0 bytes)")
    try:
        image = open_image(file, what)
    except ImageError:
        if values.bands is None or not is_tiff(file):
            raise
        return shown(tiff_bands(file, what, max_pixels), what, values)
    check_pixels(image.size, what, max_pixels)
    if image.format == "TIFF" and image.mode in ("RGBA", "RGBX"):
        if values.bands is not None:
            return shown(tiff_bands(file, what, max_pixels), what, values)
        if image.mode == "RGBA" and not image.tag_v2.get(_EXTRA_SAMPLES):
            raise ImageError(
                f"{what!r} has four bands, and does not say that the fourth is transparency: it "
                "may be near infrared. Say which are shown: bands=(1, 2, 3) (--bands 1,2,3)"
            )
    if reduce_to is not None and image.format in ("JPEG", "MPO"):
        image.draft(None, (reduce_to, reduce_to))
    try:
        deep = _deep_colour(image, file, values)
    except Exception:
        deep = None  # Pillow has the last word on a file that OpenCV trips over
    return _decode(image, what, max_pixels, values, deep=deep)


def open_image(file: IO[bytes], what: str) -> Any:
    """Read a picture's header, of the formats that are nothing but pixels; a PIL image.

    Pillow's own limit is global state and lower than ours, so this goes round it: check the size
    before asking for pixels.

    Raises:
        ImageError: no such format, or a damaged header.
    """
    from PIL import Image

    Image.init()
    file.seek(0)
    prefix = file.read(16)
    for name in _FORMATS:
        if name not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[name]
        try:
            verdict = accept(prefix) if accept else True
            if not verdict or isinstance(verdict, str):
                continue
            file.seek(0)
            found = factory(file, "")
        except Exception:
            continue  # not this format, or a damaged header: reported below
        if found.info.get("progressive"):
            _check_scans(file, what)
        return found
    raise ImageError(
        f"{what!r} is not a readable image: unknown format or damaged header "
        f"(it begins with {prefix[:8]!r}). Formats: {', '.join(_FORMATS)}"
    )


def _check_scans(file: IO[bytes], what: str) -> None:
    """Refuse a JPEG that goes over all of its pixels thousands of times, which takes few bytes."""
    at = file.tell()
    file.seek(0)
    scans = file.read().count(b"\xff\xda")
    file.seek(at)
    check_limit("scans", scans, what)


def _decode(
    image: Any,
    what: str,
    max_pixels: int,
    values: PhotoValues,
    *,
    deep: np.ndarray | None = None,
) -> np.ndarray:
    check_pixels(image.size, what, max_pixels)
    try:
        pixels = deep if deep is not None else _pillow_pixels(image, what, values)
        # asked only now: some decoders (TIFF, AVIF) turn the pixels themselves and drop the tag
        return _oriented(pixels, _orientation(image))
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(f"{what!r} needs more memory than there is: {image.size}") from error
    except Exception as error:  # decoders of damaged data raise nearly anything
        raise ImageError(
            f"{what!r} cannot be decoded, it is damaged or truncated: {reason(error)}"
        ) from error


def _pillow_pixels(image: Any, what: str, values: PhotoValues) -> np.ndarray:
    image.load()
    mode = image.mode
    if mode == "I" and image.format in ("PNG", "PPM"):  # 16-bit grey in older Pillow
        pixels = np.asarray(image)
        if pixels.min() >= 0 and pixels.max() <= 65535:
            mode, image = "I;16", pixels.astype(np.uint16)
    if mode.startswith("I;16"):
        return shown(np.asarray(image).astype(np.uint16), repr(what), values)
    if mode == "F" or (mode == "I" and values.window is not None):
        return shown(np.asarray(image), repr(what), values)
    if mode == "I":
        raise ImageError(
            f"{what!r} has 32-bit integer pixels, whose white is not defined; convert it to 8 or "
            "16 bits, or say which values are black and white: window=(LOW, HIGH) "
            "(--window LOW,HIGH)"
        )
    if values.bands is not None:
        return shown(np.asarray(image), repr(what), values)
    see_through = mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    width, height = image.size
    out = np.empty((height, width, 3), np.uint8)
    # in strips that fit the cache: half the time of np.array(image.convert("RGB")), and no
    # second copy of a large photo
    step = max(1, _STRIP // width)
    for top in range(0, height, step):
        stop = min(height, top + step)
        strip = image.crop((0, top, width, stop))
        if see_through:
            out[top:stop] = composite_on_white(np.asarray(strip.convert("RGBA")))
        else:
            out[top:stop] = np.asarray(strip if mode == "RGB" else strip.convert("RGB"))
    return out if values.window is None else to_uint8(out, repr(what), values.window)


def _deep_colour(image: Any, file: IO[bytes], values: PhotoValues) -> np.ndarray | None:
    """Read 16-bit colour with OpenCV: Pillow would cut it to the upper byte instead of rounding."""
    tile = image.tile[0] if getattr(image, "tile", None) else None
    raw = str(tile[3] if tile else "")
    if image.format not in ("PNG", "TIFF") or not re.search(r"(RGBA?|RGBX|LA);16", raw):
        return None
    import cv2

    file.seek(0)
    data = np.frombuffer(file.read(), np.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        return None
    if pixels.shape[:2] != (image.height, image.width) or pixels.shape[-1] not in (3, 4):
        return None
    order = [2, 1, 0, 3][: pixels.shape[-1]]
    return shown(pixels[..., order], "16-bit image", values)


def _orientation(image: Any) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1  # a damaged EXIF block says nothing about the pixels


def _oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return the pixels turned upright, for the EXIF orientations 1 to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
