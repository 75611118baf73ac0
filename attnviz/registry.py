"""A registry per kind of part: one new file adds one new method, and nothing else changes."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from .errors import AttnvizError, AttnvizWarning, MethodError, did_you_mean


@dataclass(frozen=True)
class Entry:
    """One registered part: its function and what a table or an error says of it."""

    name: str
    fn: Callable[..., Any]
    summary: str
    paper: str = ""
    family: str = ""
    meta: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @cached_property
    def options(self) -> tuple[str, ...]:
        """The names of the function's keyword-only arguments, in order."""
        parameters = inspect.signature(self.fn).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


class Registry:
    """Names to parts. The packages named are searched when a name is first asked for.

    Names and aliases are lower case, whatever case they are given or asked in.

    Args:
        kind: what is registered, as an error message calls it ("method", "metric").
        packages: dotted packages whose modules register themselves on import; modules whose
            name begins with an underscore are left alone.
        error: the error raised for an unknown name.
        plugins: group of entry points that installed packages register parts under: each names
            a module (or an object in one) that registers its parts on import.
    """

    def __init__(
        self,
        kind: str,
        *packages: str,
        error: type[AttnvizError] = MethodError,
        plugins: str | None = None,
    ) -> None:
        self.kind = kind
        self._packages = list(packages)
        self._plugins = plugins
        self._error = error
        self._entries: dict[str, Entry] = {}
        self._aliases: dict[str, str] = {}
        # A module that registers parts on import holds its import lock meanwhile, so `register`
        # must never wait for a thread that is importing plug-ins: hence a lock for each step.
        self._plugin_lock = threading.RLock()
        self._package_lock = threading.RLock()
        self._table_lock = threading.RLock()
        self._packages_begun = self._plugins_begun = False

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

        The summary shown in tables is the first line of its docstring. The same function defined
        anew (a notebook cell run twice, a reloaded module) replaces itself.

        Raises:
            ValueError: the name or an alias is taken by another function.
        """
        key = name.lower()
        others = tuple(alias.lower() for alias in aliases)

        def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
            if not self._is_own(fn):
                self._import_packages()  # so that a built-in part's name is known to be taken
            summary = (fn.__doc__ or "").strip().split("\n", 1)[0]
            entry = Entry(key, fn, summary, paper, family, MappingProxyType(meta))
            with self._table_lock:
                for taken in (key, *others):
                    owner = self._entries.get(self._aliases.get(taken, taken))
                    if owner is not None and _place(owner.fn) != _place(fn):
                        raise ValueError(
                            f"{self.kind} {taken!r} is registered already, by "
                            f"{'.'.join(_place(owner.fn))}; give {'.'.join(_place(fn))} another "
                            "name"
                        )
                self._entries[key] = entry
                self._aliases.update(dict.fromkeys(others, key))
            return fn

        return decorate

    def _is_own(self, fn: Callable[..., Any]) -> bool:
        return any(f"{fn.__module__}.".startswith(f"{p}.") for p in self._packages)

    def _import_packages(self) -> None:
        with self._package_lock:
            if self._packages_begun:  # done, or this thread is at it: a module asks on import
                return
            self._packages_begun = True
            try:
                for name in self._packages:
                    package = importlib.import_module(name)
                    for module in pkgutil.iter_modules(package.__path__):
                        if not module.name.startswith("_"):
                            importlib.import_module(f"{name}.{module.name}")
            except BaseException:
                self._packages_begun = False  # the next one who asks meets the same error
                raise

    def _discover(self) -> None:
        """Import all parts, once; other threads wait until that is done."""
        self._import_packages()
        with self._plugin_lock:
            if self._plugins is None or self._plugins_begun:
                return
            self._plugins_begun = True
            for plugin in entry_points(group=self._plugins):
                self._load(plugin)

    def _load(self, plugin: Any) -> None:
        try:
            plugin.load()
        except Exception as error:  # somebody else's package must not take the others along
            warnings.warn(
                f"the plug-in {plugin.name!r} ({plugin.value}) could not be loaded, so its "
                f"{self.kind}s are missing: {type(error).__name__}: {error}",
                AttnvizWarning,
                stacklevel=2,
            )

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
        with self._table_lock:
            entries = list(self._entries.values())
        return sorted(e.name for e in entries if family in (None, e.family))

    def __iter__(self) -> Iterator[Entry]:
        return iter([self._entries[n] for n in self.names()])

    def __contains__(self, name: object) -> bool:
        self._discover()
        return str(name).lower() in self._entries or str(name).lower() in self._aliases

    def __len__(self) -> int:
        self._discover()
        return len(self._entries)


def _place(fn: Callable[..., Any]) -> tuple[str, str]:
    return fn.__module__, getattr(fn, "__qualname__", type(fn).__qualname__)
