"""Arrays and tensors of pixels to HWC uint8 RGB."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ..errors import AttnvizWarning, ImageError
from .values import PhotoValues

#: 16-bit values that stay below this were most likely measured with 14 bits or fewer
_SHALLOW = 1 << 14


def to_uint8(
    pixels: np.ndarray, what: str, window: tuple[float, float] | None = None
) -> np.ndarray:
    """Return pixels as uint8: uint16 divided by 257, floats in [0, 1] times 255, both rounded.

    With a window its ends become 0 and 255, for numbers of any kind. 16-bit values that use less
    than a quarter of their range are warned of: they come out nearly black.

    Raises:
        ImageError: another dtype, a float outside [0, 1] or a NaN.
    """
    if window is not None:
        low, high = window
        if np.issubdtype(pixels.dtype, np.floating) and not np.isfinite(pixels).all():
            raise ImageError(f"{what} has NaN or infinite values")
        share = (pixels.astype(np.float64) - low) / (high - low)
        return np.rint(share.clip(0, 1) * 255).astype(np.uint8)
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        high = int(pixels.max(initial=0))
        if 255 < high < _SHALLOW:
            warnings.warn(
                f"{what} has 16-bit values from {int(pixels.min())} to {high} of 65535 and comes "
                f"out nearly black; if {_depth(high)} is its white, say so: "
                f"attnviz.images.photo_values(window=(0, {_depth(high)})) "
                f"(--window 0,{_depth(high)})",
                AttnvizWarning,
                stacklevel=6,
            )
        # 65535 = 255 * 257, so dividing by 257 maps both ends exactly; clipping would go white
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if np.issubdtype(pixels.dtype, np.floating):
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0.0 and high <= 1.0):  # also false for a NaN
            raise ImageError(
                f"{what} has float values from {low:.4g} to {high:.4g}; expected [0, 1]. "
                "Divide by 255, or undo the normalisation, or pass uint8; or say which values are "
                f"black and white: window=({low:.4g}, {high:.4g}) (--window {low:.4g},{high:.4g})"
            )
        return np.rint(pixels.astype(np.float32) * 255.0).astype(np.uint8)
    span = f"{pixels.min()},{pixels.max()}" if pixels.dtype.kind in "iu" else "LOW,HIGH"
    raise ImageError(
        f"{what} has dtype {pixels.dtype}; expected uint8, uint16 or a float in [0, 1]. "
        "Cast it, for example with .astype('uint8'), or say which values are black and white: "
        f"window=({span.replace(',', ', ')}) (--window {span})"
    )


def _depth(high: int) -> int:
    """Return the largest value of as many bits as a value needs."""
    return (1 << high.bit_length()) - 1


def shown(pixels: np.ndarray, what: str, values: PhotoValues) -> np.ndarray:
    """Return HWC uint8 RGB of numbers (H, W) or (H, W, bands) by the bands and window asked for.

    Raises:
        ImageError: bands that it has not, or values that are no picture's.
    """
    if values.bands is not None:
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if max(values.bands) > pixels.shape[-1]:
            raise ImageError(
                f"{what} has {pixels.shape[-1]} band{'s' * (pixels.shape[-1] != 1)}, counted from "
                f"1; asked for {values.bands}"
            )
        pixels = pixels[..., [band - 1 for band in values.bands]]
    if pixels.ndim == 3 and pixels.shape[-1] > 4:
        raise _too_many(what, pixels.shape[-1])
    return channels_to_rgb(to_uint8(pixels, what, values.window), what)


def composite_on_white(pixels: np.ndarray) -> np.ndarray:
    """Return RGB of uint8 RGBA (H, W, 4), laid on white: `rgb * a + 255 * (1 - a)`, rounded."""
    alpha = pixels[..., 3:].astype(np.uint16)
    blend = pixels[..., :3] * alpha + 255 * (255 - alpha)  # at most 65025: fits uint16
    return ((blend + 127) // 255).astype(np.uint8)


def channels_to_rgb(pixels: np.ndarray, what: str) -> np.ndarray:
    """Return a new (H, W, 3) array of uint8 pixels with 1 (grey), 2 (grey, alpha), 3 or 4 channels.

    Raises:
        ImageError: the number of channels is another one.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    channels = pixels.shape[-1]
    if channels == 1:
        return np.repeat(pixels, 3, axis=-1)
    if channels == 2:
        return composite_on_white(pixels[..., [0, 0, 0, 1]])
    if channels == 3:
        return np.array(pixels, order="C")
    if channels == 4:
        return composite_on_white(pixels)
    raise _too_many(what, channels)


def _too_many(what: str, channels: int) -> ImageError:
    return ImageError(
        f"{what} has {channels} channels; expected 1, 2, 3 or 4, or say which three are shown: "
        "bands=(3, 2, 1) (--bands 3,2,1), counted from 1"
    )


def from_array(array: np.ndarray, values: PhotoValues) -> np.ndarray:
    """Return HWC uint8 RGB of an (H, W) or (H, W, C) array; never the array's own memory.

    Raises:
        ImageError: shape, dtype or range is not that of an image.
    """
    what = f"array of shape {tuple(array.shape)}"
    if array.ndim not in (2, 3):
        raise ImageError(f"{what} is not one image; expected (H, W) or (H, W, C)")
    if array.size == 0:
        raise ImageError(f"{what} has no pixels")
    many = array.ndim == 3 and array.shape[-1] > 4 and values.bands is None
    if many and array.shape[0] in (1, 3, 4):
        raise ImageError(
            f"{what} has its channels first; expected (H, W, C). "
            "Use array.transpose(1, 2, 0), or pass a torch tensor, which is read as (C, H, W)"
        )
    return shown(array, what, values)


def from_tensor(tensor: Any, values: PhotoValues) -> np.ndarray:
    """Return HWC uint8 RGB of a torch tensor (C, H, W) or (H, W), on any device.

    Raises:
        ImageError: shape, dtype or range is not that of an image.
    """
    shape = tuple(tensor.shape)
    what = f"tensor of shape {shape}"
    if tensor.ndim not in (2, 3):
        raise ImageError(
            f"{what} is not one image; expected (C, H, W) or (H, W). Index a batch first"
        )
    if tensor.numel() == 0:
        raise ImageError(f"{what} has no pixels")
    if tensor.ndim == 3 and shape[0] > 4 and values.bands is None:
        hint = ". Use tensor.permute(2, 0, 1)" if shape[-1] in (1, 3, 4) else ""
        raise ImageError(
            f"{what} has {shape[0]} channels; expected (C, H, W) with C 1 to 4{hint}, or say which "
            "three are shown: bands=(3, 2, 1), counted from 1"
        )
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()  # numpy knows no bfloat16
    array = tensor.numpy()
    if array.ndim == 3:
        array = array.transpose(1, 2, 0)
    return shown(array, what, values)
