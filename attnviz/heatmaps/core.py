"""The result of an explanation: `Heatmaps`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..geometry import Geometry
from ..render.scaling import ABSOLUTE, extremes, is_flat, normalise
from . import pictures, ranks, regions, saving
from .drawn import Drawn

_PER_MAP = (
    "values", "target", "label", "score", "logits", "probability", "geometry", "images", "sources",
)  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Heatmaps(Drawn):
    """Maps of the regions associated with a score, with all that is needed to read them.

    The values are raw: in the method's own units, at the layer's own resolution. Scaling and
    resizing happen when asked for and give a new object; nothing is changed in place.

    Attributes:
        values: (B, h, w) raw float maps, on the device they were computed on; of signals (B, t),
            of volumes (B, d, h, w), of video (B, t, h, w). NaN only where `resize("photo")` found
            no evidence either way, outside the model's crop.
        method: name of the method, as in `attnviz methods`.
        layer: name of the layer read ("" for methods that read none).
        target: what was explained, one JSON-able description a map (a class index, for instance).
        label: the same in words.
        score: (B,) the model's score for the target.
        logits: (B, classes) the model's logits for each map's image; None where it gives none.
        probability: (B,) the model's probability of the class explained; None where what is
            explained has none, NaN for single maps without.
        geometry: where each model input lies on its photo; None: unknown.
        images: the photos (H, W, 3) uint8 RGB, upright; not saved. None where there is none. Of
            signals and volumes the input itself, (C, T) or (C, D, H, W) float.
        sources: where each photo came from (a path), or None.
        units: what the values are measured in ("logit", "probability", ...).
        meta: further JSON-able facts about the run.

    Raises:
        DataError: shapes or counts do not fit together.
    """

    values: Tensor
    method: str
    layer: str
    target: tuple[Any, ...]
    label: tuple[str, ...]
    score: Tensor
    logits: Tensor | None = field(default=None, kw_only=True)
    probability: Tensor | None = field(default=None, kw_only=True)
    geometry: tuple[Geometry, ...] | None = None
    images: tuple[np.ndarray | None, ...] | None = None
    sources: tuple[str | None, ...] | None = None
    units: str = ""
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = torch.as_tensor(self.values)
        if values.ndim not in (2, 3, 4) or not values.is_floating_point() or 0 in values.shape[1:]:
            raise DataError(
                "expected values (B, h, w) of floats, (B, t) of signals or (B, d, h, w) of "
                f"volumes, got {tuple(values.shape)} {values.dtype}"
            )
        if values.dtype in (torch.float16, torch.bfloat16):
            values = values.float()
        score = torch.as_tensor(self.score)
        put = object.__setattr__  # the class is frozen; this is still its construction
        put(self, "values", values)
        put(
            self, "score", score if score.dtype in (torch.float32, torch.float64) else score.float()
        )
        put(self, "meta", saving.json_value(self.meta, "meta"))
        put(self, "target", tuple(saving.json_value(t, "target") for t in self.target))
        for name in ("label", "geometry", "images", "sources"):
            if getattr(self, name) is not None:
                put(self, name, tuple(getattr(self, name)))
        for name in _PER_MAP:
            part = getattr(self, name)
            if part is None:
                continue
            count = tuple(part.shape)[:1] if isinstance(part, Tensor) else (len(part),)
            if count != (len(values),):
                raise DataError(
                    f"expected one {name} for each of {len(values)} maps, got "
                    f"{count[0] if count else 'a single value'}"
                )
        if score.ndim != 1:
            raise DataError(f"expected score (B,), got {tuple(score.shape)}")

    # -- reading ---------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor | np.ndarray) -> Heatmaps:
        """Return the maps at an index, slice, list of indices or boolean mask, as `Heatmaps`."""
        if isinstance(index, (int, np.integer)):
            position = int(index) + (len(self) if index < 0 else 0)
            if not 0 <= position < len(self):
                raise IndexError(f"map {int(index)} of {len(self)}")
            at = [position]
        else:
            index = index.cpu().numpy() if isinstance(index, Tensor) else index
            at = np.atleast_1d(np.arange(len(self))[index]).tolist()
        picked: dict[str, Any] = {}
        for name in _PER_MAP:
            part = getattr(self, name)
            if isinstance(part, Tensor):
                picked[name] = part[torch.tensor(at, dtype=torch.long, device=part.device)]
            elif part is not None:
                picked[name] = tuple(part[i] for i in at)
        return replace(self, **picked)

    def __iter__(self) -> Iterator[Heatmaps]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{n} {s:.4g}" for n, s in zip(self.label[:3], self.score[:3].tolist(), strict=True)
        )
        more = f", ... {len(self) - 3} more" if len(self) > 3 else ""
        size = " x ".join(map(str, self.values.shape[1:]))
        at = f" at {self.layer}" if self.layer else ""
        return f"<Heatmaps: {len(self)} of {size}, {self.method}{at}: {shown}{more}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return the raw values as an array on the CPU: `np.asarray(maps)`."""
        array = self.values.detach().cpu().numpy()
        return np.array(array, dtype=dtype, copy=copy) if copy else np.asarray(array, dtype=dtype)

    @property
    def rank(self) -> int:
        """Number of axes of a map: 2 of a picture, 1 of a signal, 3 of a volume or video."""
        return self.values.ndim - 1

    @property
    def flat(self) -> tuple[bool, ...]:
        """Whether each map holds no more than numerical noise about one value: no evidence."""
        return tuple(is_flat(*extremes(self.values)).tolist())

    def check_finite(self) -> None:
        """Raise for a map with NaN or infinite values, other than NaN outside the crop.

        Raises:
            DataError: naming the first such maps.
        """
        values = self.values.detach()
        bad = ~torch.isfinite(values)
        if self.meta.get("nan") == regions.OUTSIDE:
            bad &= ~torch.isnan(values)
        rows = bad.flatten(1).any(1).nonzero().flatten().tolist()
        if rows:
            names = [
                f"{i} ({self.label[i]}{f', {s}' if (s := self._source(i)) else ''})"
                for i in rows[:3]
            ]
            raise DataError(
                f"{len(rows)} of {len(self)} maps ({self.method}) hold NaN or infinite values: "
                f"{', '.join(names)}{' ...' if len(rows) > 3 else ''}. The model's weights or "
                "input hold some too, or a half-precision value overflowed: try float32"
            )

    def _source(self, index: int) -> str | None:
        return self.sources[index] if self.sources is not None else None

    # -- new Heatmaps ----------------------------------------------------------------------------

    def to(self, device: str | torch.device) -> Heatmaps:
        """Return these heatmaps with values and scores on a device."""
        return self._each_tensor(lambda tensor: tensor.to(device))

    def detach(self) -> Heatmaps:
        """Return these heatmaps without the graph that made them."""
        return self._each_tensor(Tensor.detach)

    def _each_tensor(self, change: Callable[[Tensor], Tensor]) -> Heatmaps:
        fields = {name: getattr(self, name) for name in _PER_MAP}
        return replace(self, **{n: change(v) for n, v in fields.items() if isinstance(v, Tensor)})

    def with_images(self, images: Sequence[Any]) -> Heatmaps:
        """Return these heatmaps with photos attached: anything `read_image` reads, one a map.

        To maps of signals and volumes, arrays (C, T) and (C, D, H, W).

        Raises:
            DataError: a count or size differs from that of the maps' own photos.
            ImageError: one of them is not readable.
        """
        from ..images import read_image

        if self.rank != 2:
            return replace(self, images=tuple(ranks.checked(i, self.rank) for i in images))
        photos = tuple(read_image(i) if i is not None else None for i in images)
        for index, photo in enumerate(photos):
            if photo is None or self.geometry is None or index >= len(self.geometry):
                continue
            if photo.shape[:2] != tuple(self.geometry[index].image_size):
                raise DataError(
                    f"image {index} is {photo.shape[:2]} (height, width); the map was made from "
                    f"one of {tuple(self.geometry[index].image_size)}"
                )
        return replace(self, images=photos)

    def normalized(
        self, mode: str = "minmax", *, shared: bool = False, floor: float = ABSOLUTE
    ) -> Heatmaps:
        """Return these heatmaps scaled to [0, 1], or for "signed" to [-1, 1].

        A flat map becomes 0 everywhere: its noise is not stretched to look like evidence.

        Args:
            mode: "minmax" (lowest to highest), "max" (0 to highest, negatives cut to 0), "signed"
                (by the largest magnitude), "percentile:1,99" (between those, cut beyond), "none".
            shared: one scale for all maps, for comparing them; else one a map.
            floor: a range (or for "max" and "signed" a magnitude) at or below this counts as
                flat; so does one of at most 1e-4 of the largest magnitude.

        Raises:
            DataError: unknown mode, or NaN or infinite values.
        """
        self.check_finite()
        values = normalise(self.values, mode, shared=shared, floor=floor)
        meta = {**self.meta, "normalised": mode + (" shared" if shared else "")}
        return replace(self, values=values, units="" if mode != "none" else self.units, meta=meta)

    def resize(self, size: int | tuple[int, ...] | str) -> Heatmaps:
        """Return these heatmaps at another resolution, by bilinear interpolation.

        Maps of signals by linear, of volumes and video by trilinear interpolation.

        Cell centres are aligned as in torch's `align_corners=False`; when shrinking, the cells
        that fall on one pixel are averaged (`antialias=True`). On the same device, with a graph.

        Args:
            size: (height, width), or one number for both ((length,) of a signal, (depth, height,
                width) of a volume); "input": the model's input size;
                "photo": the pixels of the photo, each map at the place of the model's crop and
                NaN outside it (all photos must have one size: index first if they differ).

        Raises:
            DataError: the size is no size, or the geometry is unknown or differs.
        """
        return regions.resize(self, size)

    def volume(self, index: int = 0) -> np.ndarray:
        """Return one map at the size of the model's input, (D, H, W) or (T,) float32, on the CPU.

        Args:
            index: which map.

        Raises:
            DataError: the size of the input is unknown.
        """
        return pictures.raw(self[index].resize("input"), 0)

    # -- regions ---------------------------------------------------------------------------------

    def boxes(
        self, threshold: float = 0.5, *, mode: str = "minmax", which: str = "largest"
    ) -> list[np.ndarray]:
        """Return boxes round what lies at or above a threshold, in pixels of the photo.

        Without geometry, in cells of the map.

        Args:
            threshold: fraction of the scale that `mode` gives, above 0 to 1.
            mode: see `normalized`.
            which: "largest" connected region (8-neighbourhood), or "all", largest first.

        Returns:
            For each map an int64 array (n, 4) of left, top, right, bottom; right and bottom are
            exclusive, so that a box's width is right - left. Empty for a flat map.

        Raises:
            DataError: NaN or infinite values, or an option that does not exist.
        """
        return regions.boxes(self, threshold, mode, which)

    def masks(self, threshold: float = 0.5, *, mode: str = "minmax") -> list[np.ndarray]:
        """Return for each map where it lies at or above a threshold, bool (H, W) of the photo.

        Without geometry, (h, w) of the map. All False for a flat map.

        Args:
            threshold: fraction of the scale that `mode` gives, above 0 to 1.
            mode: see `normalized`.

        Raises:
            DataError: NaN or infinite values, or an option that does not exist.
        """
        return regions.masks(self, threshold, mode)

    # -- files -----------------------------------------------------------------------------------

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the maps and all that describes them, without the photos; never a half file.

        Args:
            path: ends in `.npz` (arrays there, the rest in a `.json` beside it), or in
                `.safetensors` (one file; for a batch).
            force: overwrite.

        Returns:
            The path of the arrays.

        Raises:
            OutputExists: a file is there already.
            DataError: another ending.
        """
        return saving.save(self, path, force=force)

    @classmethod
    def load(cls, path: str | Path) -> Heatmaps:
        """Return what `save` wrote, bit for bit, on the CPU; `.npz`, its `.json`, `.safetensors`.

        Raises:
            DataError: not such a file, damaged, or of a newer version.
        """
        return cls(**saving.load(path))
