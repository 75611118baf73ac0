"""An ONNX file with a map in 8 bits, and how far its maps are those of the file it was made of."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from .errors import DataError, optional
from .writing import write_file


@dataclass(frozen=True)
class Agreement:
    """How far a quantised file says what the whole one says, on images that it was not fitted to.

    Attributes:
        images: how many.
        same_class: share of images with the same predicted class, 0 to 1.
        correlation: Pearson's, of the maps of such images, each over its cells; mean over images,
            -1 to 1, NaN where there is none.
        lowest: the lowest of them.
    """

    images: int
    same_class: float
    correlation: float
    lowest: float

    def __str__(self) -> str:
        return (
            f"on {self.images} images not used to quantise, {self.same_class:.0%} have the same "
            f"class, and their maps correlate by {self.correlation:.3f} (lowest {self.lowest:.3f})"
        )


def quantise(path: str | Path, images: Sequence[Tensor]) -> Agreement:
    """Rewrite a file of `export_with_map` in 8 bits: weights a channel, activations by their range.

    Every other image sets the ranges; the rest is compared.

    Args:
        path: the `.onnx` file, replaced.
        images: (C, H, W) preprocessed, at least 2; some dozens make ranges that hold.

    Returns:
        `Agreement` of the maps before and after.

    Raises:
        DataError: fewer than 2 images.
        EnvironmentFault: onnxruntime is not installed (`pip install "attnviz[export]"`).
    """
    quantization = optional("onnxruntime.quantization", "export")
    rows = [image[None].float().cpu().numpy() for image in images]
    if len(rows) < 2:
        raise DataError(f"to quantise takes at least 2 photos, got {len(rows)}: give more")
    path = Path(path)
    fitted = iter([{"input": row} for row in rows[::2]])

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(fitted, None)

    before = _outputs(path, rows[1::2])
    with tempfile.TemporaryDirectory(prefix="attnviz-int8-") as folder:
        made = Path(folder) / "int8.onnx"
        quantization.quantize_static(path, made, Reader(), per_channel=True)
        after = _outputs(made, rows[1::2])
        write_file(path, made.read_bytes(), force=True)
    same = [a[0].argmax() == b[0].argmax() for a, b in zip(before, after, strict=True)]
    alike = [
        float(np.corrcoef(a[1].ravel(), b[1].ravel())[0, 1])
        for a, b, kept in zip(before, after, same, strict=True)
        if kept and a[1].std() > 0 and b[1].std() > 0
    ] or [float("nan")]
    return Agreement(len(same), float(np.mean(same)), float(np.mean(alike)), min(alike))


def _outputs(path: Path, rows: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    made = (session.run(["logits", "heatmap"], {"input": row}) for row in rows)
    return [(np.asarray(logits), np.asarray(maps)) for logits, maps in made]


__all__ = ["Agreement", "quantise"]
