"""The numbers of the compositing protocol."""

from __future__ import annotations

from dataclasses import dataclass

from attnviz.errors import DataError


@dataclass(frozen=True)
class Protocol:
    """The numbers of the protocol.

    Attributes:
        size: height and width of an image in pixels.
        train, validation, test, controls: images of each part. Validation and test have the four
            groups in equal numbers.
        co_occurrence: in training, the share of boats on water and of others on land.
        area: smallest and largest share of an image that the object's mask covers.
        sharpness: cut-outs are first reduced to this many pixels of area, so that small boats
            and large cows are equally blurred.
        softness: standard deviation of the edge, in pixels of the result.
    """

    size: int = 128
    train: int = 480
    validation: int = 160
    test: int = 320
    controls: int = 80
    co_occurrence: float = 1.0
    area: tuple[float, float] = (0.06, 0.2)
    sharpness: int = 1600
    softness: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.area[0] <= self.area[1] <= 0.5:
            raise DataError(f"area {self.area}: expected two shares, smallest first, up to 0.5")
        if not 0 <= self.co_occurrence <= 1:
            raise DataError(f"co_occurrence {self.co_occurrence}: expected a share from 0 to 1")
        if self.size < 32 or min(self.train, self.validation, self.test) < 4 or self.controls < 0:
            raise DataError(f"{self}: size is at least 32, each part has at least 4 images")
