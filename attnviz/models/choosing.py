"""Which of the layers that a probing run has seen is looked at where none is given."""

from __future__ import annotations

import re

from ..hooks.outputs import split
from .probing import Seen

#: paths inside attention: queries, keys and values are no picture of the input
_ATTENTION = re.compile(r"(^|\.)(\w+_)?(attn|attention)(_pool|_layer|_out|_in)?\d*(\.|$)", re.I)

#: what the part of a network that looks is called, where another part draws what it saw; the
#: surest first, since a transformer behind a backbone has an encoder of its own
_LOOKING = (
    re.compile(r"(^|\.)(backbone|body|trunk|feature_extractor)(\.|$)"),
    re.compile(r"(^|\.)(?!text_|pixel_level|transformer)(\w+_)?encoder(\.|$)"),
)
_DRAWING = re.compile(r"(^|\.)(\w+_)?(decoder|head|neck|fpn|aux(iliary)?\w*)(\.|$)")

#: the part of a model of pictures and words that sees
_SEEING = re.compile(r".*?(^|\.)(vision|visual|image)(_\w+)?(?=\.|$)")

#: kinds that hand on what they are given when a model is explained
_IDLE = ("Dropout", "AlphaDropout", "FeatureAlphaDropout", "DropPath", "DropBlock", "Identity")

_POOLS = [f"Adaptive{kind}Pool{rank}d" for kind in ("Avg", "Max") for rank in (1, 2, 3)]


def levels(seen: list[Seen]) -> tuple[str, ...]:
    """Return the levels of a detector's feature pyramid, fine to coarse; none of other models."""
    found = [s for s in seen if s.level]
    return tuple(s.name for s in sorted(found, key=lambda s: s.positions, reverse=True))


def choose(seen: list[Seen]) -> str | None:
    """Return the last layer with positions whose gradient is not zero by construction, or None.

    Where the output has positions itself (masks, boxes, queries), its last layers see each place
    for itself; then it is the end of the encoder: the last layer of the coarsest grid, in the
    backbone or encoder where a part is called so.

    Parts of attention are left out, and maps of the classes, which have no channels to weigh. Of
    modules that hand on one tensor the outermost is taken. Where most of the network is of unknown
    layout, its stem or patch embedding says nothing of the decision: then there is no default.
    """
    usable = [s for s in seen if s.live and s.positions > 1 and not _ATTENTION.search(s.name)]
    # where all run several times (a siamese network), the capture asks for one of the calls
    usable = [s for s in usable if s.calls == 1] or usable
    usable = [s for s in usable if not s.classes] or usable
    whole = [s for s in usable if not s.beside or _is_tokens(s)]
    usable = [s for s in whole if not s.kind.startswith(_IDLE)] or whole or usable
    if usable and usable[-1].dense:
        usable = _coarsest(seen, usable)
    if not usable or (usable[-1].blind >= 0.5 and not _ends_seeing(seen, usable[-1].name)):
        return None
    return usable[-1].name


def _ends_seeing(seen: list[Seen], name: str) -> bool:
    """Say whether all of a vision tower is known: what goes on behind it are words."""
    tower = _SEEING.match(name)
    return tower is not None and all(
        s.layout is not None or len(s.shape) < 3 or _ATTENTION.search(s.name)
        for s in seen
        if s.name.startswith(f"{tower[0]}.")
    )


def _coarsest(seen: list[Seen], usable: list[Seen]) -> list[Seen]:
    usable = [s for s in usable if s.places] or usable
    usable = [s for s in usable if not _DRAWING.search(s.name)] or usable
    named = [[s for s in usable if words.search(split(s.name)[0])] for words in _LOOKING]
    # pyramids of pooled context are coarser than what they pool, and no stage of their own
    grids = {s.shape[2:] for s in seen if s.kind in _POOLS}
    rest = [s for s in usable if s.shape[2:] not in grids]
    usable = next((some for some in [*named, rest] if some), usable)
    fewest = min(s.positions for s in usable)
    # the end of a stage, rather than a step inside its last block, if it is one stage finer at most
    for rank in (2, 1):
        stages = [s for s in usable if s.stage >= rank]
        least = min((s.positions for s in stages), default=5 * fewest)
        if least <= 4 * fewest:
            return [s for s in stages if s.positions == least]
    return [s for s in usable if s.positions == fewest]


def _is_tokens(s: Seen) -> bool:
    return s.layout is not None and s.layout.kind == "tokens"
