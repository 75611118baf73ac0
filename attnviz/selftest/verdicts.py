"""What each method is worth on this model: exact, approximate or meaningless."""

from __future__ import annotations

from ..metrics import Scores
from .findings import MethodFinding
from .identities import EXACT, behind, completeness_gap, spread
from .reading import DoublePass

#: maps of two classes more alike than this do not tell them apart
SAME = 0.999


def verdict(
    method: str,
    reading: DoublePass,
    *,
    refused: str | None = None,
    random_network: Scores | None = None,
    other_class: Scores | None = None,
) -> MethodFinding:
    """Return what a method is worth, from the identities and from what was measured.

    Args:
        method: its name.
        reading: the model at the layer.
        refused: why it does not apply, if it does not.
        random_network: see `gates.against_random`.
        other_class: see `gates.against_other_class`.
    """
    if refused is not None:
        return MethodFinding(method, "does not apply", refused)
    final = _mean(random_network, "final")
    alike = _mean(other_class)
    if random_network is not None and not bool(random_network.valid.any()):
        return MethodFinding(method, "meaningless", "its maps are flat here", final, alike)
    if alike is not None and alike >= SAME:
        words = "its map is the same whatever the class: it shows what the layer holds"
        return MethodFinding(method, "meaningless", f"{words}, not what a class rests on", final,
                             alike)  # fmt: skip
    known = _KNOWN.get(method)
    if known is None:
        return MethodFinding(
            method, "approximate", "no identity is known by which to judge it here", final, alike
        )
    word, why = known(reading)
    return MethodFinding(method, word, why, final, alike)


def _mean(scores: Scores | None, extra: str | None = None) -> float | None:
    if scores is None or not bool(scores.valid.any()):
        return None
    values = scores.values if extra is None else scores.extra[extra]
    return float(values[scores.valid].double().mean())


def _cam(reading: DoublePass) -> tuple[str, str]:
    if reading.head is not None:
        return "exact", "its mean and the bias are the logit"
    return "meaningless", "the logits are not one linear layer on the layer's average"


def _gradcam(reading: DoublePass) -> tuple[str, str]:
    if spread(reading) <= EXACT:
        if reading.head is not None:
            return "exact", "it is CAM up to a factor; its ReLU drops what speaks against the class"
        word, why = _hirescam(reading)  # a constant gradient is its own average
        return word, f"it is HiResCAM up to a factor: {why}"
    return "approximate", (
        f"it averages a gradient that varies by {spread(reading):.0%} over the positions"
    )


def _hirescam(reading: DoublePass) -> tuple[str, str]:
    gap = completeness_gap(reading)
    if gap <= EXACT:
        return "exact", "before the ReLU, its sum and the bias are the logit"
    return "approximate", f"its sum and the bias miss the logit by {gap:.1%}: {behind(reading)}"


def _layercam(reading: DoublePass) -> tuple[str, str]:
    if bool((reading.gradient >= 0).all()) and completeness_gap(reading) <= EXACT:
        return "exact", "no gradient is negative here, so it is HiResCAM"
    share = float((reading.gradient < 0).double().mean())
    return "approximate", f"it drops the {share:.0%} of the gradients that are negative"


def _gradcampp(reading: DoublePass) -> tuple[str, str]:
    return "approximate", "its weights assume an exponential of the score, which logits are not"


_KNOWN = {
    "cam": _cam,
    "gradcam": _gradcam,
    "xgradcam": _gradcam,
    "hirescam": _hirescam,
    "layercam": _layercam,
    "gradcam++": _gradcampp,
}
