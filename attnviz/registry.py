"""A registry per kind of part: one new file adds one new method, and nothing else changes."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from .errors import AttnvizError, MethodError, did_you_mean


@dataclass(frozen=True)
class Entry:
    """One registered part: its function and what a table or an error says of it."""

    name: str
    fn: Callable[..., Any]
    summary: str
    paper: str = ""
    family: str = ""
    meta: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


class Registry:
    """Names to parts. The packages named are searched when a name is first asked for.

    Args:
        kind: what is registered, as an error message calls it ("method", "metric").
        packages: dotted packages whose modules register themselves on import; modules whose
            name begins with an underscore are left alone.
        error: the error raised for an unknown name.
    """

    def __init__(self, kind: str, *packages: str, error: type[AttnvizError] = MethodError) -> None:
        self.kind = kind
        self._packages = list(packages)
        self._error = error
        self._entries: dict[str, Entry] = {}
        self._aliases: dict[str, str] = {}

    def register(
        self,
        name: str,
        *,
        paper: str = "",
        family: str = "",
        aliases: tuple[str, ...] = (),
        **meta: Any,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Return a decorator that registers a function or class under `name`.

        The summary shown in tables is the first line of its docstring.

        Raises:
            ValueError: the name is taken by another function.
        """

        def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
            for key in (name, *aliases):
                owner = self._entries.get(self._aliases.get(key, key))
                if owner is not None and owner.fn.__qualname__ != fn.__qualname__:
                    raise ValueError(f"{self.kind} {key!r} is registered already by {owner.fn!r}")
            summary = (fn.__doc__ or "").strip().split("\n", 1)[0]
            self._entries[name] = Entry(name, fn, summary, paper, family, MappingProxyType(meta))
            self._aliases.update(dict.fromkeys(aliases, name))
            return fn

        return decorate

    def _discover(self) -> None:
        while self._packages:
            package = importlib.import_module(self._packages[0])
            for module in pkgutil.iter_modules(package.__path__):
                if not module.name.startswith("_"):
                    importlib.import_module(f"{package.__name__}.{module.name}")
            self._packages.pop(0)

    def get(self, name: str) -> Entry:
        """Return the entry of a name or alias; an unknown name raises with the nearest ones."""
        self._discover()
        key = str(name).lower()
        key = self._aliases.get(key, key)
        if key not in self._entries:
            raise self._error(
                f"{self.kind} {name!r} is not known"
                f"{did_you_mean(name, [*self._entries, *self._aliases]) or '.'}"
                f" Known: {', '.join(self.names())}"
            )
        return self._entries[key]

    def names(self, family: str | None = None) -> list[str]:
        """Return the registered names, sorted; only those of one family if given."""
        self._discover()
        return sorted(n for n, e in self._entries.items() if family in (None, e.family))

    def __iter__(self) -> Iterator[Entry]:
        self._discover()
        return iter([self._entries[n] for n in self.names()])

    def __contains__(self, name: object) -> bool:
        self._discover()
        return str(name).lower() in self._entries or str(name).lower() in self._aliases

    def __len__(self) -> int:
        self._discover()
        return len(self._entries)
