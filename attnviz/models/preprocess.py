"""From a photo to a model's input, with the exact place of the input on the photo."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import limits
from ..errors import DataError, PreprocessError
from ..geometry import Geometry

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
_FITS = ("squash", "cover", "inside")

# A photo of 1 x 12,000 pixels resized to a shorter side of 256 would be 3 megapixels wide; beyond
# this many pixels only the part that the crop keeps is resized.
_MOST_PIXELS = 2**26


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop (or pad) at the centre, scale to [0, 1], subtract a mean, divide by a deviation.

    The resizing is Pillow's, with antialiasing, as in torchvision's and timm's evaluation
    transforms, to which the result is bit-equal.

    Attributes:
        resize: length of the shorter side; or (height, width), see `fit`; None leaves the size.
        crop: (height, width), or the side of a square, cut from the centre after resizing; what is
            larger than the resized photo is padded. None keeps all.
        mean: of the three channels R, G, B, for values in [0, 1]; one number for a network of one
            channel, which gets the photo in grey (Pillow's L: 0.299 R + 0.587 G + 0.114 B).
        std: deviation of as many channels, for values in [0, 1].
        interpolation: nearest, bilinear, bicubic, lanczos, box or hamming.
        fit: what `resize=(height, width)` means: "squash" resizes to exactly that and changes the
            aspect ratio; "cover" keeps it, with both sides at least as long; "inside" keeps it,
            with both sides at most as long (letterbox, with `crop` of the same size and `pad`).
        pad: R, G, B in 0..255 of what lies outside the photo.
        floor_crop: where an odd number of pixels is cut off, cut the smaller half at the top left
            (as Hugging Face does); otherwise round half to even (torchvision, timm).
        name: where these values come from, for reports.

    Raises:
        PreprocessError: values that make no sense, when the object is made.
    """

    resize: int | tuple[int, int] | None = 256
    crop: int | tuple[int, int] | None = (224, 224)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    fit: str = "squash"
    pad: tuple[int, int, int] = (0, 0, 0)
    floor_crop: bool = False
    name: str = "custom"

    def __post_init__(self) -> None:
        if isinstance(self.crop, int):
            object.__setattr__(self, "crop", (self.crop, self.crop))
        for name in ("resize", "crop", "mean", "std", "pad"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.interpolation not in _FILTERS:
            raise PreprocessError(
                f"interpolation {self.interpolation!r} is not known; use one of "
                f"{', '.join(_FILTERS)}"
            )
        if self.fit not in _FITS:
            raise PreprocessError(f"fit {self.fit!r} is not known; use one of {', '.join(_FITS)}")
        for name in ("mean", "std", "pad"):
            values = getattr(self, name)
            counts = (3,) if name == "pad" else (1, 3)
            if len(values) not in counts or not all(math.isfinite(v) for v in values):
                raise PreprocessError(
                    f"{name} needs three numbers (R, G, B)"
                    f"{', or one of grey' * (name != 'pad')}, got {values!r}"
                )
        if len(self.mean) != len(self.std):
            raise PreprocessError(
                f"mean and std have a number for each channel, got {self.mean!r} and {self.std!r}"
            )
        if min(self.std) <= 0:
            raise PreprocessError(f"std must be positive, got {self.std!r}")
        sides = [self.resize] if isinstance(self.resize, int) else [*(self.resize or ())]
        if isinstance(self.resize, tuple) and len(self.resize) != 2:
            raise PreprocessError(f"resize is one side or (height, width), got {self.resize!r}")
        crop = self._sides
        if crop is not None and len(crop) != 2:
            raise PreprocessError(f"crop is (height, width), got {self.crop!r}")
        if min([*sides, *(crop or ())], default=1) < 1:
            raise PreprocessError(
                f"sizes must be positive, got resize={self.resize!r}, crop={self.crop!r}"
            )

        if crop is not None and crop[0] * crop[1] > _MOST_PIXELS:
            raise PreprocessError(
                f"crop {crop[0]} x {crop[1]}: an input has at most {_MOST_PIXELS:,} pixels"
            )

    @property
    def _sides(self) -> tuple[int, int] | None:
        """`crop` as (height, width), which an int becomes when the object is made."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop

    @classmethod
    def read(cls, path: str | Path) -> Preprocess:
        """Return the preprocessing that a JSON file of these attributes describes.

        Raises:
            PreprocessError: no such file, or not of this kind.
        """
        try:
            return cls(**limits.read_json(Path(path)))
        except (DataError, ValueError, TypeError, AttributeError) as error:
            raise PreprocessError(
                f"{str(path)!r} holds no preprocessing ({error}); expected the preprocess.json "
                "that attnviz guide writes"
            ) from error

    @property
    def grey(self) -> bool:
        """Whether the input is the photo in grey, of one channel."""
        return len(self.mean) == 1

    def in_grey(self) -> Preprocess:
        """Return the same for a network of one channel: mean and deviation averaged, as in timm."""
        if self.grey:
            return self
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        return replace(self, mean=(mean,), std=(std,))

    # -- sizes -------------------------------------------------------------------------------

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) after resizing a photo of that size, before the crop."""
        if self.resize is None:
            return height, width
        if isinstance(self.resize, int):  # torchvision's rounding: the longer side is truncated
            short, long = sorted((height, width))
            longer = int(self.resize * long / short)
            return (longer, self.resize) if width <= height else (self.resize, longer)
        if self.fit == "squash":
            return self.resize
        ratios = (height / self.resize[0], width / self.resize[1])
        ratio = max(ratios) if self.fit == "inside" else min(ratios)  # timm's rounding
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) of the model's input for a photo of that size."""
        return self._sides or self.resized_size(height, width)

    def _corner(self, resized: tuple[int, int], crop: tuple[int, int]) -> tuple[int, int]:
        """Return (top, left) of the crop on the resized photo; negative where it is padded."""
        corner = []
        for side, cut in zip(resized, crop, strict=True):
            if cut > side:
                corner.append(-((cut - side) // 2))
            elif self.floor_crop:
                corner.append((side - cut) // 2)
            else:
                corner.append(round((side - cut) / 2.0))
        return corner[0], corner[1]

    def geometry(self, height: int, width: int) -> Geometry:
        """Return where the input lies on a photo of (height, width) pixels."""
        resized = self.resized_size(height, width)
        size = self._sides or resized
        top, left = self._corner(resized, size)
        x, y = width / resized[1], height / resized[0]
        return Geometry(
            image_size=(height, width),
            input_size=size,
            crop=(left * x, top * y, (left + size[1]) * x, (top + size[0]) * y),
        )

    # -- the work ----------------------------------------------------------------------------

    def __call__(self, image: np.ndarray) -> tuple[Tensor, Geometry]:
        """Return the model's input for one photo.

        Args:
            image: (H, W, 3) uint8, RGB. It is not changed.

        Returns:
            A float32 tensor (3, h, w), of grey (1, h, w), and the geometry of that input on the
            photo.

        Raises:
            PreprocessError: another shape or type.
        """
        image = check_image(image)
        height, width = image.shape[:2]
        photo = Image.fromarray(image)
        pixels = np.atleast_3d(np.asarray(self._pixels(photo.convert("L") if self.grey else photo)))
        tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float().div_(255)
        mean = torch.tensor(self.mean).view(-1, 1, 1)
        std = torch.tensor(self.std).view(-1, 1, 1)
        return tensor.sub_(mean).div_(std), self.geometry(height, width)

    def _pixels(self, photo: Image.Image) -> Image.Image:
        """Return the resized and cropped photo, in bytes as the network's transform makes it."""
        width, height = photo.size
        resized = self.resized_size(height, width)
        size = self._sides or resized
        top, left = self._corner(resized, size)
        inside = (
            max(left, 0),
            max(top, 0),
            min(left + size[1], resized[1]),
            min(top + size[0], resized[0]),
        )
        if resized != (height, width):
            if resized[0] * resized[1] > _MOST_PIXELS:
                photo = self._resize_part(photo, resized, inside)
                inside = (0, 0, *photo.size)
            else:
                photo = photo.resize((resized[1], resized[0]), _FILTERS[self.interpolation])
        if inside != (0, 0, *photo.size):
            photo = photo.crop(inside)
        if photo.size != (size[1], size[0]):
            pad = tuple(self.pad)
            canvas = Image.new(photo.mode, (size[1], size[0]), pad[0] if self.grey else pad)
            canvas.paste(photo, (max(-left, 0), max(-top, 0)))
            photo = canvas
        return photo

    def _resize_part(
        self, photo: Image.Image, resized: tuple[int, int], part: tuple[int, int, int, int]
    ) -> Image.Image:
        x, y = photo.size[0] / resized[1], photo.size[1] / resized[0]
        box = (part[0] * x, part[1] * y, min(part[2] * x, photo.size[0]), part[3] * y)
        box = (*box[:3], min(box[3], photo.size[1]))
        size = (part[2] - part[0], part[3] - part[1])
        if size[0] * size[1] > _MOST_PIXELS:
            raise PreprocessError(
                f"the input would have {size[1]} x {size[0]} pixels (height x width) for a photo "
                f"of {photo.size[1]} x {photo.size[0]}; give the preprocessing a crop"
            )
        return photo.resize(size, _FILTERS[self.interpolation], box=box)

    def describe(self) -> str:
        """Return one line for reports: name, resize, crop, interpolation, mean and deviation."""
        steps = []
        if isinstance(self.resize, int):
            steps.append(f"resize shorter side to {self.resize}")
        elif self.resize is not None:
            steps.append(f"resize ({self.fit}) to {self.resize[0]} x {self.resize[1]}")
        if self.resize is not None:
            steps[-1] += f" ({self.interpolation})"
        if self._sides is not None:
            steps.append("centre crop {} x {}".format(*self._sides))
        mean = ", ".join(f"{v:.4g}" for v in self.mean)
        std = ", ".join(f"{v:.4g}" for v in self.std)
        if self.grey:
            steps.append("in grey (0.299 R + 0.587 G + 0.114 B)")
        steps.append(f"mean ({mean}), deviation ({std})")
        return f"{self.name}: " + ", ".join(steps)


def check_image(image: object) -> np.ndarray:
    """Return the photo as it is if it is (H, W, 3) uint8, and raise PreprocessError otherwise."""
    if not isinstance(image, np.ndarray):
        raise PreprocessError(
            f"preprocessing takes an (H, W, 3) uint8 RGB array, got {type(image).__name__}; "
            "attnviz.images.read_image makes one from a path or a PIL image"
        )
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise PreprocessError(
            f"preprocessing takes an (H, W, 3) uint8 RGB array, got shape {image.shape} and "
            f"{image.dtype}; attnviz.images.read_image makes one from a path or an array"
        )
    return image
