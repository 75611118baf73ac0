"""Where the model's input lies on the original photo."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Geometry:
    """The place of a model's input on the photo that it was made from.

    Resize-256-crop-224 shows the model the middle of a photo only, so its map covers the crop
    and not the photo. Coordinates are continuous: pixel i spans [i, i + 1).

    Attributes:
        image_size: (height, width) of the photo in pixels, EXIF orientation applied.
        input_size: (height, width) of the model's input in pixels.
        crop: (left, top, right, bottom) in photo pixels of what the whole input shows. A padded
            (letterboxed) input reaches beyond the photo, so values may be negative or exceed it.
    """

    image_size: tuple[int, int]
    input_size: tuple[int, int]
    crop: tuple[float, float, float, float]

    @classmethod
    def identity(cls, height: int, width: int) -> Geometry:
        """Return the geometry of an input that is the photo itself."""
        return cls((height, width), (height, width), (0.0, 0.0, float(width), float(height)))

    def to_image(self, x: float, y: float) -> tuple[float, float]:
        """Return the photo coordinates of a point of the input, both in pixels."""
        left, top, right, bottom = self.crop
        height, width = self.input_size
        return left + x * (right - left) / width, top + y * (bottom - top) / height

    def to_input(self, x: float, y: float) -> tuple[float, float]:
        """Return the input coordinates of a point of the photo, both in pixels."""
        left, top, right, bottom = self.crop
        height, width = self.input_size
        return (x - left) * width / (right - left), (y - top) * height / (bottom - top)

    def inside(self, inner: Geometry) -> Geometry:
        """Return the place on the photo of what a model makes of this input.

        Args:
            inner: the place of that on this input, which is its photo.
        """
        left, top, right, bottom = inner.crop
        corners = (*self.to_image(left, top), *self.to_image(right, bottom))
        return Geometry(self.image_size, inner.input_size, corners)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready lists."""
        return {k: list(v) for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Geometry:
        """Return the geometry that `as_dict` wrote."""
        return cls(tuple(fields["image_size"]), tuple(fields["input_size"]), tuple(fields["crop"]))


def size_of(values: Any) -> tuple[int, int]:
    """Return (height, width), the last two axes of a tensor or an array, in pixels or cells."""
    height, width = values.shape[-2:]
    return height, width
