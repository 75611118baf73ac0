"""The arms of the experiment: what is annotated, and what is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: side of the images in pixels, and the blocks of the network that are not trained
SIZE, FROZEN = 224, 16


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name, summary: for tables.
        loss: a guidance loss on maps; "none" for none.
        options: its options.
        masks, boxes: shares of the training images with masks, and of the rest with boxes.
        weights: strengths to choose from, on validation.
        context: weight of the context's being undecided, relative to the loss's.
        erasing: hides cells of the features and keeps the label: "random" (hide-and-seek), "map"
            (the top of the map: adversarial erasing), or "".
        chosen: a criterion of `guidance.choose` by which a plainly trained network names the images
            that get masks; "" draws them.
        guarded: warm-up, ramp and the collapse guard.
        data: "confounded"; "swapped" where a quarter of all things change their context; "boats"
            where a quarter of the boats do.
    """

    name: str
    summary: str
    loss: str = "none"
    options: Mapping[str, Any] = field(default_factory=dict)
    masks: float = 0.0
    boxes: float = 0.0
    weights: tuple[float, ...] = (0.0,)
    context: float = 0.0
    erasing: str = ""
    chosen: str = ""
    guarded: bool = True
    data: str = "confounded"


_MEAN = {"fill": "mean"}
_ABS, _GRID = {"form": "abs"}, (3.0, 10.0, 30.0)
_FEW = (0.3, 1.0, 3.0)

ARMS = (
    Arm("plain", "labels only"),
    Arm("hide_and_seek", "half of the feature cells hidden", weights=_FEW, erasing="random"),
    Arm("erasing", "the top fifth of the map erased, label kept", weights=_FEW, erasing="map"),
    Arm("gain", "GAIN attention mining, no annotation", "gain", _MEAN, weights=_FEW),
    Arm("gain_ext", "GAIN_ext, 25 % masks, guarded", "gain_ext", _MEAN, 0.25, weights=_FEW),
    Arm("gain_ext_bare", "GAIN_ext as written: raw score, omega 10, unguarded", "gain_ext",
        {**_MEAN, "score": "logit"}, 0.25, weights=(1.0,), guarded=False),
    Arm("energy_relu_25", "energy (ReLU), 25 % masks", "energy", {"form": "relu"}, 0.25,
        weights=_GRID),
    Arm("energy_5", "energy, 5 % masks", "energy", _ABS, 0.05, weights=_GRID),
    Arm("outside_5", "energy, 5 % masks, chosen by evidence in several places", "energy", _ABS,
        0.05, weights=_GRID, chosen="outside"),
    Arm("flip_5", "energy, 5 % masks, chosen by maps that mirroring changes", "energy", _ABS,
        0.05, weights=_GRID, chosen="flip"),
    Arm("confusion_5", "energy, 5 % masks, chosen by the classes' closeness", "energy", _ABS,
        0.05, weights=_GRID, chosen="confusion"),
    Arm("energy_10", "energy, 10 % masks", "energy", _ABS, 0.1, weights=_GRID),
    Arm("energy_25", "energy, 25 % masks", "energy", _ABS, 0.25, weights=_GRID),
    Arm("energy_100", "energy, all masks", "energy", _ABS, 1.0, weights=_GRID),
    Arm("erased_25", "context undecided, 25 % masks, no map", masks=0.25, weights=_GRID,
        context=1.0),
    Arm("context_25", "energy + context, 25 % masks", "energy", _ABS, 0.25, weights=_GRID,
        context=1.0),
    Arm("context_100", "energy + context, all masks", "energy", _ABS, 1.0, weights=_GRID,
        context=1.0),
    Arm("boxes_25", "energy + context, 25 % boxes", "energy", _ABS, 0.0, 0.25, _GRID, 1.0),
    Arm("boxes", "energy + context, boxes only", "energy", _ABS, 0.0, 1.0, _GRID, 1.0),
    Arm("mixed", "energy + context, 20 % masks, 80 % boxes", "energy", _ABS, 0.2, 1.0, _GRID, 1.0),
    Arm("boats", "changed data: a quarter of the boats on land", data="boats"),
    Arm("swapped", "changed data: a quarter of all things on the other context", data="swapped"),
)  # fmt: skip
