"""One batch of an audit: maps, where their evidence lies, and scores of the counterfactuals."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import AttentionUnavailable, AttnvizWarning
from ..explaining import explain
from ..geometry import size_of
from ..hooks import eager, preserved
from ..metrics import iou, pointing
from ..targets import logits_of
from .interventions import Donors, donor_of, variants
from .journal import Row
from .log_odds import LogOdds, called, score_of
from .pictures import AuditPicture

REGIONS = ("object", "context", "elsewhere")


@dataclass(frozen=True, eq=False)
class Audited:
    """The model that is audited.

    Attributes:
        module: on its device.
    """

    module: nn.Module

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        tensors = itertools.chain(self.module.parameters(), self.module.buffers())
        first = next(tensors, None)
        return torch.device("cpu") if first is None else first.device

    @contextmanager
    def running(self) -> Iterator[None]:
        """The model in evaluation mode inside the block, and untouched after it."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(eager(self.module))
            stack.enter_context(preserved(self.module, eval_mode=True))
            yield


@dataclass(frozen=True, eq=False)
class Instrument(Audited):
    """What every image of an audit is measured with.

    Attributes:
        target: the bound log-odds.
        methods: of the CAM family, computed from one pass.
        layer: dotted name.
        attention: whether the region mass of attention is read too, by one more forward.
        fills: see `interventions.variants`.
        donors: images that lend their context, or None.
        batch_size: inputs a forward.
        seed: of donors and noise.
    """

    target: LogOdds
    methods: tuple[str, ...]
    layer: str
    attention: bool
    fills: tuple[str, ...]
    donors: Donors | None
    batch_size: int
    seed: int = 0

    def logits(self, inputs: Tensor) -> Tensor:
        """Return logits (N, classes) on the CPU, in batches, without a graph."""
        with torch.no_grad():
            parts = [
                logits_of(self.module(part.to(self.device))).float().cpu()
                for part in inputs.split(self.batch_size)
            ]
        return torch.cat(parts)

    def maps(self, inputs: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return method -> maps (B, h, w) and the logits (B, classes), from one pass."""
        with warnings.catch_warnings():
            # an image without evidence is an observation here, and counted as such
            warnings.simplefilter("ignore", AttnvizWarning)
            found = explain(
                self.module, inputs, target=self.target, method=list(self.methods),
                layer=self.layer, batch_size=len(inputs),
            )  # fmt: skip
        logits = next(iter(found.values())).logits
        assert logits is not None  # a target of classes is read off them
        return {
            name: maps.values.float().cpu() for name, maps in found.items()
        }, logits.float().cpu()

    def look(self, pictures: Sequence[AuditPicture]) -> tuple[dict[str, Tensor], Tensor, list[Row]]:
        """Return maps, logits, and of each picture where attention goes (none without attention).

        Shares by region are of what goes to the photo.
        """
        inputs = torch.stack([p.input for p in pictures])
        maps, logits = self.maps(inputs)
        if not self.attention:
            return maps, logits, []
        mass = attention_mass(self, inputs, regions_of(pictures)).tolist()
        return maps, logits, [dict(zip(REGIONS, map(finite, m), strict=True)) for m in mass]

    def measure(self, pictures: Sequence[AuditPicture]) -> list[Row]:
        """Return one row a picture, ready for the journal."""
        with self.running():
            maps, logits, shares = self.look(pictures)
            changed = list(variants(pictures, fills=self.fills, donors=self.donors, seed=self.seed))
            after = self.logits(torch.stack([v.input for v in changed])) if changed else None
        scores = score_of(logits, self.target.indices).tolist()
        answers = called(logits, self.target.indices).tolist()
        rows: list[Row] = [
            {
                "i": p.index, "id": p.id, "source": p.source, "background": p.background,
                "object": int(p.has_object), "context": int(p.has_context), "digest": p.digest,
                "score": finite(score), "called": answer, "area": _areas(p), "maps": {},
                "donor": donor_of(p, self.donors, self.seed) if self.donors else None,
                "scores": {}, "called_after": {}, "room": {},
            }
            for p, score, answer in zip(pictures, scores, answers, strict=True)
        ]  # fmt: skip
        for name, values in maps.items():
            _locate(rows, pictures, name, values)
        for row, picture, share in zip(rows, pictures, shares, strict=self.attention):
            _locate_attention(row, picture, share)
        if after is not None:
            moved = score_of(after, self.target.indices).tolist()
            answered = called(after, self.target.indices).tolist()
            for variant, score, answer in zip(changed, moved, answered, strict=True):
                rows[variant.row]["scores"][variant.name] = finite(score)
                rows[variant.row]["called_after"][variant.name] = answer
                kind = variant.name.partition(":")[0]
                if kind.endswith("-control"):
                    rows[variant.row]["room"][kind.removesuffix("-control")] = finite(variant.room)
        return rows


def finite(value: float) -> float | None:
    """Return a number as the journal takes it: six digits, None for NaN."""
    return round(value, 6) if math.isfinite(value) else None


def _areas(picture: AuditPicture) -> dict[str, float]:
    masks = (("object", picture.object_mask), ("context", picture.context_mask))
    found = {n: round(float(m.float().mean()), 6) for n, m in masks if m is not None}
    if found:
        found["elsewhere"] = round(1 - sum(found.values()), 6)
    return found


def _locate(rows: list[Row], pictures: Sequence[AuditPicture], name: str, maps: Tensor) -> None:
    """Write into each row the share of a map's positive mass in each region, pointing and IoU."""
    size = size_of(pictures[0].input)
    values = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    values = values.clamp_min(0)
    total = values.double().sum((1, 2))
    known = {i: p.object_mask for i, p in enumerate(pictures) if p.object_mask is not None}
    located = list(known)
    scores: dict[str, dict[int, float]] = {"pointing": {}, "iou": {}}
    if located:
        masks = torch.stack(list(known.values()))
        # no tolerance: inputs are small, and chance is then the object's area
        for key, found in (
            ("pointing", pointing(values[located], masks, tolerance=0)),
            ("iou", iou(values[located], masks)),
        ):
            scores[key] = dict(zip(located, found.values.tolist(), strict=True))
    for number, (row, picture) in enumerate(zip(rows, pictures, strict=True)):
        if picture.object_mask is None and picture.context_mask is None:
            continue
        entry: dict[str, float | None] = {}
        if total[number] > 0:
            share = values[number].double() / total[number]
            rest = 1.0
            for region, mask in (
                ("object", picture.object_mask), ("context", picture.context_mask)
            ):  # fmt: skip
                if mask is not None:
                    entry[region] = finite(float(share[mask].sum()))
                    rest -= entry[region] or 0.0
            entry["elsewhere"] = finite(max(rest, 0.0))
        for key, found in scores.items():
            if number in found:
                entry[key] = finite(found[number])
        row["maps"][name] = entry


def attention_mass(instrument: Instrument, inputs: Tensor, masks: Tensor) -> Tensor:
    """Return the share of the last layer's attention to the patches that lands on each region.

    Rows are those that the model's head reads: of the class token, or all patches'. Mean over
    heads; what goes to prefix tokens is left aside, so that an even attention gives the areas.

    Args:
        instrument: with the model.
        inputs: (B, 3, H, W).
        masks: (B, regions, H, W) in [0, 1], disjoint and covering.

    Returns:
        (B, regions), rows sum to 1.

    Raises:
        AttentionUnavailable: no attention among patches.
    """
    from ..attention import tap
    from ..methods.attention.mass import region_mass_of, rows_of_head
    from ..methods.attention.reading import on_picture

    found = []
    size = instrument.batch_size
    for part, regions in zip(inputs.split(size), masks.split(size), strict=True):
        given = part.to(instrument.device)  # the tap counts what runs inside it
        with torch.no_grad(), tap(instrument.module, keep="qk") as read:
            output = instrument.module(given)
            sites = [s for s in read.attention if on_picture(s, len(part))]
            if not sites:
                raise AttentionUnavailable("no attention among the patches of an image")
            rows = rows_of_head(instrument.module, given, read, sites, output)
            mass = region_mass_of(sites[-1:], regions.to(instrument.device), rows=rows)
        shares = mass[:, 0].double().mean(1)
        found.append((shares / shares.sum(1, keepdim=True)).cpu())
    return torch.cat(found)


def regions_of(pictures: Sequence[AuditPicture]) -> Tensor:
    """Return (B, 3, H, W): object, context and the rest of each picture, as 0 and 1."""
    masks = torch.zeros(len(pictures), 3, *pictures[0].input.shape[-2:])
    for row, picture in enumerate(pictures):
        for number, mask in enumerate((picture.object_mask, picture.context_mask)):
            if mask is not None:
                masks[row, number] = mask
    masks[:, 2] = 1 - masks[:, 0] - masks[:, 1]
    return masks


def _locate_attention(row: Row, picture: AuditPicture, share: Row) -> None:
    """Write into a row the share of attention on each region that is known."""
    known = {"object": picture.object_mask, "context": picture.context_mask}
    if all(mask is None for mask in known.values()):
        return
    entry = {n: value for n, value in share.items() if known.get(n, True) is not None}
    row["maps"].setdefault("attention", {}).update(entry)


def has_attention(instrument: Instrument, inputs: Tensor) -> bool:
    """Return whether `attention_mass` works for this model: it is a transformer on patches."""
    whole = torch.ones(1, 1, *inputs.shape[-2:])
    try:
        with instrument.running():
            return bool(attention_mass(instrument, inputs[:1], whole).isfinite().all())
    except AttentionUnavailable:
        return False


def score_inputs(instrument: Instrument, inputs: Tensor) -> tuple[list[float], list[Any]]:
    """Return score and answer of inputs, as numbers."""
    with instrument.running():
        logits = instrument.logits(inputs)
    chosen = instrument.target.indices
    return score_of(logits, chosen).tolist(), called(logits, chosen).tolist()
