"""From what the tap found to what the literature calls it."""

from __future__ import annotations

from ..attention.tap import Gate, Site
from .entry import Entry

#: what a gate's weights tell apart -> kind; the first set that is contained in it counts
_GATES = (
    ({"time", "height"}, "spatial & temporal"),
    ({"time", "width"}, "spatial & temporal"),
    ({"time"}, "temporal"),
    ({"branch"}, "branch"),
    ({"channel", "height"}, "channel & spatial"),
    ({"channel", "width"}, "channel & spatial"),
    ({"channel", "token"}, "channel & spatial"),
    ({"height"}, "spatial"),
    ({"width"}, "spatial"),
    ({"token"}, "spatial"),
    ({"channel"}, "channel"),
)


def of_gate(gate: Gate) -> Entry:
    """Return the entry of a multiplication by weights."""
    axes = set(gate.axes)
    if gate.axes == ("element",):
        axes = {2: {"channel"}, 3: {"channel", "token"}}.get(
            len(gate.target_shape), {"channel", "height", "width"}
        )
    kind = next((name for part, name in _GATES if part <= axes), "channel & spatial")
    shape = tuple(gate.tensor.shape[1:])
    told = " and ".join(gate.axes) if gate.axes != ("element",) else "element"
    return Entry(
        gate.name,
        kind,
        f"gate ({gate.function})",
        f"one weight for each {told}",
        shape,
        call=gate.call,
        source=gate,
    )


def of_site(site: Site) -> Entry:
    """Return the entry of a softmax attention."""
    heads = f"{site.heads} head{'s' * (site.heads != 1)}"
    shape = (site.heads, site.queries, site.keys)
    grid = site.grid
    tokens = f"{grid[0]} x {grid[1]} patches" if grid else f"{site.keys} tokens"
    if grid and site.prefix:
        tokens += f" and {site.prefix} more token{'s' * (site.prefix > 1)}"
    if site.kind == "channel":
        kind, mechanism = "channel", f"channels by channels, {heads}"
        attends = f"{site.queries} channels attend {site.keys} channels"
    elif site.kind == "window":
        kind, mechanism = "self", f"windows of {site.keys} tokens, {heads}"
        attends = f"{site.queries} tokens attend {site.keys}, in {site.windows} windows"
        shape = (site.windows, *shape)
    elif site.kind == "pool":
        kind, mechanism = "spatial", f"softmax pooling, {heads}"
        attends = f"{site.queries} weighted sum{'s' * (site.queries != 1)} over {tokens}"
    elif site.kind == "cross":
        kind, mechanism = "cross", f"softmax attention, {heads}"
        attends = f"{site.queries} queries attend {tokens}"
    else:
        kind, mechanism = "self", f"softmax attention, {heads}"
        attends = f"{tokens} attend each other"
    return Entry(site.name, kind, mechanism, attends, shape, call=site.call, source=site)
