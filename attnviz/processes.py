"""One run in several processes, as `torchrun` and `accelerate launch` start them.

    with together() as group:                # a single process is a group of one
        for i in group.mine(len(images)): ...

The processes share a folder, and agree through gloo: no GPU is needed for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from .writing import locked

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The processes of a run, as one of them sees it.

    Attributes:
        rank: which one this is, from 0.
        count: how many there are.
        channel: a group of torch.distributed; None: that of all processes.
    """

    rank: int = 0
    count: int = 1
    channel: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes what there is one of."""
        return self.rank == 0

    def mine(self, total: int, block: int = 1) -> list[int]:
        """Return which of `total` things are this process's: every `count`-th block of them."""
        return [i for i in range(total) if i // block % self.count == self.rank]

    def wait(self) -> None:
        """Return once all processes are here."""
        self.gathered(None)

    def gathered(self, value: T) -> list[T]:
        """Return what each process gives, in the order of ranks, to all of them."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value, group=self.channel)
        return found

    def once(self, work: Callable[[], T]) -> T:
        """Let the first process do something; all of them get what it returned, or raised."""
        if self.count == 1:
            return work()
        value: Any = None
        error: Exception | None = None
        if self.first:
            try:
                value = work()
            except Exception as fault:
                error = fault
        value, error = self.gathered((value, error))[0]
        if error is not None:
            raise error
        return value

    def in_order(self, made: Sequence[T], total: int, block: int = 1) -> list[T]:
        """Return what all processes made of their things (see `mine`), in the things' order."""
        parts = [iter(part) for part in self.gathered(list(made))]
        return [next(parts[i // block % self.count]) for i in range(total)]

    @contextmanager
    def locked(self, folder: str | Path) -> Iterator[None]:
        """Keep a folder for these processes inside the block; see `attnviz.writing.locked`.

        Raises:
            DataError: another run holds it, or it cannot be made.
        """
        with ExitStack() as stack:
            self.once(lambda: stack.enter_context(locked(folder)) and None)
            yield
            self.wait()


_current = Group()


def current() -> Group:
    """Return the group of the `together` block that this is called in; else a group of one."""
    return _current


def launched() -> int:
    """Return how many processes a launcher has started, by `WORLD_SIZE` and `RANK`; else 1."""
    count = os.environ.get("WORLD_SIZE", "1")
    return int(count) if count.isdecimal() and os.environ.get("RANK", "").isdecimal() else 1


@contextmanager
def together() -> Iterator[Group]:
    """Share the runs inside the block among the processes that a launcher has started.

    Each takes the GPU of its `LOCAL_RANK` as "cuda". All of them make the same calls, and
    `explain_dataset`, `benchmark.evaluate` and `audit.confusion` give each the same result as one
    process alone; without a launcher nothing changes.

    Example:
        >>> with together() as group:
        ...     group.count
        1
    """
    global _current
    if launched() == 1:
        yield _current
        return
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    # one may have much to do when another is ready; a process that dies ends them all
    patience = timedelta(days=7)
    begun = dist.is_initialized()
    if not begun:
        dist.init_process_group("gloo", timeout=patience)
    # the group of all is not kept here: a traceback would keep it too, and with it gloo's threads,
    # which abort Python where they outlive it
    channel = dist.new_group(backend="gloo", timeout=patience) if begun else None
    before, _current = _current, Group(dist.get_rank(), dist.get_world_size(), channel)
    try:
        yield _current
    finally:
        _current = before
        if not begun:
            dist.destroy_process_group()


__all__ = ["Group", "current", "launched", "together"]
