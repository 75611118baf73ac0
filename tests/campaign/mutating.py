"""Damage to files: values of JSON exchanged for the unexpected, bytes flipped, cut, doubled."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

#: what stands where something else is expected
STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**70, -(2**70), 0.5, 1e308, -0.0, "", "a", "\0", "../x",
    "/etc/passwd", "NaN", "é" * 300, [], [[]], {}, {"a": 1}, [1, 2], [None], ["x", {}], [[1, [2]]],
    "1e400", "٣", {"size": [2, 3], "counts": [6]}, {"size": [2**40, 2**40], "counts": "0"},
)  # fmt: skip


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a document of JSON."""
    yield path
    if isinstance(document, dict):
        for name in document:
            yield from places(document[name], (*path, name))
    elif isinstance(document, list):
        for number, value in enumerate(document):
            yield from places(value, (*path, number))


def mutated(document: Any, rng: random.Random) -> Any:
    """Return a copy with one to three values replaced, dropped, doubled or renamed."""
    found = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        where = rng.choice(list(places(found)))
        if not where:
            if rng.random() < 0.1:
                return rng.choice(STRANGE)
            continue
        parent = found
        for step in where[:-1]:
            parent = parent[step]
        last = where[-1]
        kind = rng.random()
        if kind < 0.7:
            parent[last] = copy.deepcopy(rng.choice(STRANGE))
        elif kind < 0.8:
            del parent[last]
        elif kind < 0.9 and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[last]))
        elif isinstance(parent, dict):
            parent[str(rng.choice(STRANGE))] = parent.pop(last)
    return found


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return bytes flipped, cut off, doubled or put in."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        if not found:
            return b""
        at = rng.randrange(len(found))
        kind = rng.randrange(5)
        if kind == 0:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[at] = rng.randrange(256)
        elif kind == 2:
            del found[at:]
        elif kind == 3:
            found[at:at] = found[at : at + rng.randrange(1, 64)]
        else:
            del found[at : at + rng.randrange(1, 32)]
    return bytes(found)
