"""Someone else's transform as preprocessing: its own tensor, its geometry planned or measured."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import AttnvizWarning, PreprocessError
from ..geometry import Geometry, size_of
from .preprocess import Preprocess, check_image


@dataclass(frozen=True)
class ImageTransform:
    """A transform of another library, called as it is, so that the tensor is exactly its own.

    Attributes:
        fn: takes a PIL image (RGB), returns a tensor (3, h, w) or (1, 3, h, w), of grey (1, h, w),
            or a mapping with `pixel_values`.
        name: what it is, for reports.
        plan: the sizes it resizes and crops to, where they are known. Without a plan the place
            of its input on the photo is measured with coordinate ramps; where that fails (it is
            no resize, crop and pad) the input is taken to show the whole photo, with a warning.
            It is measured on each photo, too: where the crop depends on what the photo shows, the
            place on that photo holds.
    """

    fn: Callable[[Any], Any]
    name: str
    plan: Preprocess | None = None
    _measured: dict[tuple[int, int], Geometry | None] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __call__(self, image: np.ndarray) -> tuple[Tensor, Geometry]:
        """Return the transform's tensor (3, h, w) and where it lies on the photo.

        Args:
            image: (H, W, 3) uint8, RGB. It is not changed.

        Raises:
            PreprocessError: the transform fails, returns something else than an image tensor, is
                random, or returns another size than its settings say.
        """
        image = check_image(image)
        tensor = self._apply(image)
        height, width = image.shape[:2]
        if self.plan is None:
            found = measure_on_photo(self._apply, image, tensor)
            usual = self._usual(height, width, optional=found is not None)
            own = found is not None and (usual is None or not _alike(found, usual))
            place = found if own else usual
            if place is not None and not _shows(tensor, image, place):
                warnings.warn(
                    f"{self.name} does not show the part of this photo that it shows of others of "
                    "its size: its crop depends on the content, so maps may land beside what they "
                    "mean. Pass what it gives as tensors, or attnviz.models.Preprocess(...)",
                    AttnvizWarning,
                    stacklevel=3,
                )
            if own and found is not None:
                return tensor, found
        return tensor, self._geometry(height, width, (tensor.shape[1], tensor.shape[2]))

    def _apply(self, image: np.ndarray) -> Tensor:
        try:
            output = self.fn(Image.fromarray(image))
        except Exception as error:  # it is the user's function: say which one failed
            raise PreprocessError(
                f"preprocessing by {self.name} failed on a photo of {image.shape[0]} x "
                f"{image.shape[1]} pixels: {type(error).__name__}: {error}"
            ) from error
        if isinstance(output, Mapping):
            output = output.get("pixel_values")
        if isinstance(output, list | tuple) and len(output) == 1:
            output = output[0]
        if isinstance(output, np.ndarray):
            output = torch.from_numpy(output)
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[0] == 1:
            output = output[0]
        if not isinstance(output, Tensor) or output.ndim != 3 or output.shape[0] not in (1, 3):
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise PreprocessError(
                f"preprocessing by {self.name} must give a tensor (3, h, w), got {got}; end it "
                "with ToTensor or return the tensor of one image"
            )
        if not output.is_floating_point():
            raise PreprocessError(
                f"preprocessing by {self.name} gives {output.dtype} values; scale them to the "
                "floats that the model was trained on (ToTensor, ToDtype(float32, scale=True))"
            )
        return output.as_subclass(Tensor).float()

    def _geometry(self, height: int, width: int, size: tuple[int, int]) -> Geometry:
        if self.plan is not None:
            geometry = self.plan.geometry(height, width)
            if geometry.input_size != size:
                raise PreprocessError(
                    f"{self.name} gave an input of {size} for a photo of {(height, width)}, but "
                    f"its settings say {geometry.input_size} ({self.plan.describe()}); pass it "
                    "wrapped in a function to have its geometry measured"
                )
            return geometry
        geometry = self._usual(height, width)
        if geometry is None or geometry.input_size != size:
            warnings.warn(
                f"where the input of {self.name} lies on the photo is not known: it is taken to "
                "show the whole photo. Pass attnviz.models.Preprocess(resize=..., crop=...) for "
                "maps that land in their exact place",
                AttnvizWarning,
                stacklevel=4,
            )
            return Geometry((height, width), size, (0.0, 0.0, float(width), float(height)))
        return geometry

    def _usual(self, height: int, width: int, *, optional: bool = False) -> Geometry | None:
        """Return the place that ramps of coordinates show, which depends on the size alone."""
        if (height, width) not in self._measured:
            if len(self._measured) > 256:
                self._measured.clear()
            try:
                found = measure_geometry(self._apply, height, width)
            except PreprocessError as error:
                # a crop to the content fails on a black picture, where there is none
                if "failed on a photo" not in str(error) or not optional:
                    raise
                found = None
            self._measured[height, width] = found
        return self._measured[height, width]

    def describe(self) -> str:
        """Return one line for reports."""
        if self.plan is not None:
            return f"{self.name} ({self.plan.describe().split(': ', 1)[1]})"
        return f"{self.name} (geometry measured)"


def measure_geometry(
    apply: Callable[[np.ndarray], Tensor], height: int, width: int
) -> Geometry | None:
    """Find where a transform's output lies on a photo, by giving it photos of coordinates.

    A photo whose brightness rises with x says of each output pixel which x it shows; black and
    white photos calibrate the transform's scaling and mark what is padding.

    Args:
        apply: (H, W, 3) uint8 -> (3, h, w) float tensor.
        height: of the photo in pixels.
        width: of the photo in pixels.

    Returns:
        The geometry, accurate to a fraction of an input pixel, or None where the transform is not
        a resize, crop and pad (mirrored, rotated, not affine in brightness).

    Raises:
        PreprocessError: the transform is random: two runs on one photo differ.
    """
    black = apply(np.zeros((height, width, 3), np.uint8))[-1].double().numpy()
    white = apply(np.full((height, width, 3), 255, np.uint8))[-1].double().numpy()
    ramps = []
    for axis, length in ((1, width), (0, height)):
        values = np.rint((np.arange(length) + 0.5) / length * 255).astype(np.uint8)
        values = values[None, :] if axis else values[:, None]
        photo = np.ascontiguousarray(
            np.broadcast_to(values[..., None], (height, width, 3)), dtype=np.uint8
        )
        first, again = apply(photo)[-1].double().numpy(), apply(photo)[-1].double().numpy()
        if first.shape != again.shape or not np.array_equal(first, again):
            raise PreprocessError(
                "the preprocessing is random (two runs on one photo differ), so a map would "
                "belong to no input; pass the evaluation transform"
            )
        ramps.append(first)
    if not black.shape == white.shape == ramps[0].shape == ramps[1].shape:
        return None
    gain = white - black
    shown = gain > 0.5 * gain.max()  # padding is the same for black and white
    if gain.max() <= 0 or shown.sum() < 4:
        return None
    if not np.allclose(gain[shown], gain.max(), rtol=0.02):
        return None
    sides = []
    for axis, (ramp, length) in enumerate(zip(ramps, (width, height), strict=True)):
        place = (ramp - black) / np.where(shown, gain, 1) * length
        side = _fit(place if axis == 0 else place.T, shown if axis == 0 else shown.T, length)
        if side is None:
            return None
        sides.append(side)
    (left, right), (top, bottom) = sides
    return Geometry((height, width), black.shape, (left, top, right, bottom))


def measure_on_photo(
    apply: Callable[[np.ndarray], Tensor], image: np.ndarray, tensor: Tensor
) -> Geometry | None:
    """Find where a transform's output lies on this photo: it is run on the photo darkened.

    A photo that is darkened towards its left says of each bright pixel of the output which x it
    shows; what is black stays black, so that a crop to the content stays the same.

    Args:
        apply: (H, W, 3) uint8 -> (3, h, w) float tensor, affine in brightness.
        image: (H, W, 3) uint8.
        tensor: what `apply` makes of it.

    Returns:
        The geometry, or None where it cannot be told (too dark, not affine, not a resize).
    """
    height, width = image.shape[:2]
    shade = [np.linspace(0.5, 1, n, dtype=np.float32) for n in (width, height)]
    try:
        half, *ramps = (
            apply(np.rint(image * factor).astype(np.uint8))
            for factor in (
                np.float32(0.5),
                shade[0][None, :, None],
                shade[1][:, None, None],
            )
        )
    except PreprocessError:
        return None
    if any(t.shape != tensor.shape for t in (half, *ramps)):
        return None
    black = (2 * half - tensor).double().numpy()  # of an affine transform, at every pixel
    light = tensor.double().numpy() - black
    bright = light > 0.25 * light.max()
    if light.max() <= 0 or bright.sum() < 64:
        return None
    sides = []
    for axis, (ramp, length) in enumerate(zip(ramps, (width, height), strict=True)):
        share = (ramp.double().numpy() - black)[bright] / light[bright]
        place = (share - 0.5) * 2 * (length - 1) + 0.5
        index = np.nonzero(bright)[2 - axis] + 0.5
        if np.ptp(index) < 4:
            return None
        slope, start = np.polyfit(index, place, 1)
        left = np.abs(place - start - slope * index)
        near = left < 3 * np.median(left) + 1e-9  # edges are blurred by resizing
        slope, start = np.polyfit(index[near], place[near], 1)
        if slope <= 0 or np.median(left) > 0.02 * length + slope:
            return None
        sides.append((float(start), float(start + slope * tensor.shape[2 - axis])))
    (left, right), (top, bottom) = sides
    return Geometry((height, width), size_of(tensor), (left, top, right, bottom))


def _shows(tensor: Tensor, image: np.ndarray, place: Geometry) -> bool:
    """Say whether a tensor looks like the part of the photo that it is said to show."""
    left, top, right, bottom = place.crop
    box = (max(left, 0), max(top, 0), min(right, image.shape[1]), min(bottom, image.shape[0]))
    most = 0.03 * max(image.shape)
    if any(abs(a - b) > most for a, b in zip(box, place.crop, strict=True)):
        return True  # padded: nothing to compare with there
    size = (place.input_size[1], place.input_size[0])
    part = Image.fromarray(image).convert("L").resize(size, Image.Resampling.BILINEAR, box=box)
    seen, expected = tensor.mean(0).double().numpy().ravel(), np.asarray(part, float).ravel()
    if expected.std() < 8 or seen.std() == 0 or seen.shape != expected.shape:
        return True  # a flat photo looks like any part of it
    return bool(np.corrcoef(seen, expected)[0, 1] > 0.7)


def _alike(one: Geometry, two: Geometry) -> bool:
    """Say whether two places are the same to 2 % of the picture, or two pixels of the input."""
    if one.input_size != two.input_size:
        return False
    sizes = (one.image_size[1], one.image_size[0]) * 2
    step = (two.crop[2] - two.crop[0]) / two.input_size[1]
    slack = [max(0.02 * size, 2 * step) for size in sizes]
    return all(abs(a - b) <= s for a, b, s in zip(one.crop, two.crop, slack, strict=True))


def _fit(place: np.ndarray, shown: np.ndarray, length: int) -> tuple[float, float] | None:
    """Return the photo coordinates of the first and last column's outer edges, or None."""
    columns = shown.all(0) if shown.all(0).any() else shown.any(0)
    index = np.flatnonzero(columns)
    rows = np.flatnonzero(shown[:, index[0]])
    measured = place[np.ix_(rows, index)]
    step = length / 255
    if np.ptp(measured, axis=0).max() > 2 * step:
        return None  # x depends on the row: rotated or sheared
    mean = measured.mean(0)
    if len(index) == 1:
        return (0.0, float(length)) if place.shape[1] == 1 else None
    # resizing bends the ramp at the photo's own border: the filter has nothing beyond it
    inner = (mean > 2 * step) & (mean < length - 2 * step)
    if inner.sum() < 2:
        inner[:] = True
    centres = index + 0.5
    slope, start = np.polyfit(centres[inner], mean[inner], 1)
    if slope <= 0 or np.abs(start + slope * centres - mean)[inner].max() > 1.5 * step + slope:
        return None
    return float(start), float(start + slope * place.shape[1])
