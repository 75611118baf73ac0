"""The arms of the experiment: how each is trained, and what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: side of the images in pixels
SIZE = 224


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name, summary: for tables.
        settings: of `guidance.fit`, beside those that all arms share; the rest are its defaults.
        masks, boxes: shares of the training images with masks, and of the rest with boxes.
        data: training images: "confounded"; "swapped" where a quarter of all things change their
            context; "boats" where a quarter of the boats do.
        groups: use of images whose group is known, in both contexts alike: "" none; "head" to
            retrain the last layer after training (DFR), "frozen" to retrain it on the network as
            it was; "only" to train on nothing else; "added" beside the training images, all groups
            equally often; "dro" the same, with the groups' losses weighed (group DRO); "errors"
            (JTT) to train again with the images that a short training got wrong repeated, chosen
            on them.
        chosen: a criterion of `guidance.choose` by which a plainly trained network names the images
            that get masks; "" draws them.
    """

    name: str
    summary: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    masks: float = 0.0
    boxes: float = 0.0
    data: str = "confounded"
    groups: str = ""
    chosen: str = ""

    @property
    def given(self) -> str:
        """What the arm knows beside images and labels, for the table."""
        found = [f"{share:.0%} {what}" for share, what in (
            (self.masks, "masks"), (self.boxes * (1 - self.masks), "boxes"),
        ) if share]  # fmt: skip
        if self.data != "confounded":
            found.append("other images")
        if self.groups in ("added", "dro"):
            found.append("all images' groups")
        if self.groups:
            found.append("160 images of known groups")
        return ", ".join(found) or "nothing"


_LABELS = {"loss": "none", "exchange": False}
_ENERGY = {"exchange": False}
#: erased in the features of the frozen part, which are computed once
_ERASING = {**_LABELS, "cache": True}
_MINING = {"exchange": False, "cache": True, "weight": 1.0}
_MEAN = {"fill": "mean"}

ARMS = (
    Arm("plain", "labels only", _LABELS),
    Arm("guide", "energy + exchange: the defaults", masks=0.25),
    Arm("guide_30", "the defaults, weight 30 whatever is trained", {"weight": 30.0}, 0.25),
    Arm("exchange", "exchange alone", {"weight": 0.0, "exchange": True}, 0.25),
    Arm("energy", "energy alone", _ENERGY, 0.25),
    Arm("energy_class", "energy of the one-class map", {**_ENERGY, "against": None}, 0.25),
    Arm("guide_5", "the defaults, 5 % masks", masks=0.05),
    Arm("guide_5_outside", "the same, masks where evidence lies in several places", masks=0.05,
        chosen="outside"),
    Arm("guide_100", "the defaults, all masks", masks=1.0),
    Arm("guide_boxes", "the defaults, boxes for masks", boxes=0.25),
    Arm("gain", "GAIN attention mining", {**_MINING, "loss": "gain", "loss_options": _MEAN}),
    Arm("gain_ext", "GAIN_ext", {**_MINING, "loss": "gain_ext", "loss_options": _MEAN}, 0.25),
    Arm("has", "hide-and-seek", {**_ERASING, "erasing": "has"}),
    Arm("cutmix", "CutMix", {**_ERASING, "erasing": "cutmix"}),
    Arm("adl", "ADL", {**_ERASING, "erasing": "adl"}),
    Arm("eil", "EIL", {**_ERASING, "erasing": "eil"}),
    Arm("acol", "ACoL", {**_ERASING, "erasing": "acol", "erasing_options": {"width": 64}}),
    Arm("lse", "LSE pooling", {**_LABELS, "pooling": "lse", "pooling_options": {"r": 1.0}}),
    Arm("boats", "changed data: a quarter of the boats on land", _LABELS, data="boats"),
    Arm("swapped", "changed data: a quarter of all on the other context", _LABELS, data="swapped"),
    Arm("dfr", "labels only, then DFR", _LABELS, groups="head"),
    Arm("dfr_frozen", "DFR on the network as it was", _LABELS, groups="frozen"),
    Arm("guide_dfr", "the defaults, then DFR", masks=0.25, groups="head"),
    Arm("validation", "trained on the images of known groups alone", _LABELS, groups="only"),
    Arm("balanced", "both sets, groups equally often", _LABELS, groups="added"),
    Arm("group_dro", "group DRO on both sets", _LABELS, groups="dro"),
    Arm("jtt", "JTT: errors of a short training repeated", _LABELS, groups="errors"),
)  # fmt: skip
