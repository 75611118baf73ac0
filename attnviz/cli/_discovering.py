"""`attnviz audit` without annotated contexts: found, ranked, painted by a model, told by words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ._app import tell

PAIRS_SCHEMA = 1
DISCOVERY_SCHEMA = 1


def rank(loaded: Any, dataset: Any, as_json: bool, common: dict[str, Any]) -> None:
    """Print all pairs of a class and a co-occurring label, the riskiest first."""
    from ..audit import rank_pairs
    from ._console import print_json, print_table

    pairs = rank_pairs(loaded, dataset, **common)
    if as_json:
        print_json("audit-pairs", PAIRS_SCHEMA, pairs=[p.as_dict() for p in pairs])
        return
    rows = [
        [p.object, p.context, f"{p.risk.value:.2f} [{p.risk.low:.2f}, {p.risk.high:.2f}]",
         f"{p.effect.value:+.2f}", "-" if p.adjusted != p.adjusted else f"{p.adjusted:.3g}",
         "/".join(map(str, p.counts))]
        for p in pairs
    ]  # fmt: skip
    header = ["object", "context", "risk", "effect of context", "p (Holm)"]
    print_table([*header, "images both/object/context/no"], rows)


def mask_function(name: str) -> Any:
    """Return the function photo -> mask that `package.module:function` names.

    Raises:
        ModelError: it cannot be imported, or is no function.
    """
    from ..errors import ModelError, did_you_mean
    from ..models.sources.from_python import import_module

    path, _, attribute = name.partition(":")
    module = import_module(path) if attribute else None
    found = getattr(module, attribute or "", None)
    if not callable(found):
        near = did_you_mean(attribute, [n for n in dir(module) if not n.startswith("_")])
        raise ModelError(
            f"{name!r} is no function; name one as package.module:function that takes a photo "
            f"(h, w, 3) uint8 and returns the context's mask (h, w){near}"
        )
    return found


def told_by_words(dataset: Any, context: str, clip: Path, prompts: str, batch_size: int) -> Any:
    """Return the data with the context's label where a CLIP model prefers the first prompt."""
    from ..audit import text_context

    words = tuple(part.strip() for part in prompts.split("|"))
    return text_context(dataset, context=context, prompts=words, model=clip, batch_size=batch_size)


def find_contexts(loaded: Any, dataset: Any, options: dict[str, Any], **discovery: Any) -> Any:
    """Return the clusters of what the maps of the object's class cover, or the concepts."""
    from ..audit import discover

    taken = ("object", "target", "layer", "labels", "fills", "batch_size", "seed")
    return discover(loaded, dataset, **{k: options[k] for k in taken}, **discovery)


def write(found: Any, out: Path, *, as_json: bool, force: bool) -> None:
    """Write the contact sheets, and print the clusters."""
    from ._console import print_json

    paths = found.save(out, force=force)
    if as_json:
        files = {k: str(p) for k, p in paths.items()}
        print_json("audit-discovery", DISCOVERY_SCHEMA, **found.as_dict(), files=files)
        return
    print_clusters(found)
    tell(f"report   {paths['report'].absolute()}")


def print_clusters(found: Any) -> None:
    """Print a line a cluster."""
    from ._console import print_table

    concepts = found.by == "concepts"
    header = ["concept" if concepts else "cluster", "images", f"without {found.object}"]
    header += [f"on {found.object}", "audited as the context"] if concepts else []
    print_table(
        [*header, "mean log-odds", "labels (lift)"],
        [
            [c.name.removeprefix("concept ") or str(number), str(len(c.images)), _percent(c.wrong),
             *([_percent(c.on_object), _judged(c)] if concepts else []), f"{c.score:+.2f}",
             ", ".join(f"{name} {lift:.1f}x" for name, lift in c.labels)]
            for number, c in enumerate(found.clusters, 1)
        ],
    )  # fmt: skip


def _percent(share: float) -> str:
    return "-" if share != share else f"{100 * share:.0f} %"


def _judged(concept: Any) -> str:
    """Return what an audit found of a concept, with the severity."""
    if concept.verdict is None:
        return "no: it is the object"
    kind, severity = concept.verdict.kind, concept.verdict.severity
    if severity is None or severity.value != severity.value:
        return kind
    return f"{kind} {severity.value:.2f}"
