"""Many photos through one model: read ahead, computed in batches, written behind, in order.

Reading and writing run in threads beside the model (decoding and encoding release the lock that
Python threads share). What is held at any time is bounded in bytes, not only in photos, since one
panorama is as large as a hundred web pictures.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Generic, TypeVar

In = TypeVar("In")
Read = TypeVar("Read")
Made = TypeVar("Made")
Out = TypeVar("Out")


@dataclass(frozen=True)
class Failed(Generic[In]):
    """An item that could not be read or written, and why."""

    item: In
    error: Exception


class _Budget:
    """Bytes that are read and not yet written; a new read waits while they are too many."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._held = 0
        self._urgent = -1
        self._changed = threading.Condition()

    def add(self, size: int) -> None:
        with self._changed:
            self._held += size
            self._changed.notify_all()

    def enter(self, number: int) -> None:
        """Wait until read `number` may begin."""
        with self._changed:
            self._changed.wait_for(lambda: self._held < self._limit or number <= self._urgent)

    def wait_for(self, future: Future[Read]) -> bool:
        """Return True when `future` is done, False when it must wait because much is held."""
        future.add_done_callback(lambda _: self.add(0))
        with self._changed:
            self._changed.wait_for(lambda: future.done() or self._held >= self._limit)
        return future.done()

    def allow(self, number: int) -> None:
        """Let the read `number` begin whatever is held: the next batch cannot do without it."""
        with self._changed:
            self._urgent = number
            self._changed.notify_all()

    def lift(self) -> None:
        with self._changed:
            self._limit = float("inf")
            self._changed.notify_all()


def stream(
    items: Iterable[In],
    *,
    read: Callable[[In], Read],
    compute: Callable[[list[In], list[Read]], list[Made]],
    write: Callable[[In, Made], Out],
    size: Callable[[Read], int],
    skip: tuple[type[Exception], ...],
    batch_size: int = 32,
    workers: int = 4,
    budget: float = 1 << 29,
) -> Iterator[Out | Failed[In]]:
    """Yield the result of every item, in order.

    Args:
        items: what to work on; taken as needed.
        read: makes one item ready, in a thread.
        compute: maps a batch to one made thing per item, in the calling thread.
        write: finishes one item, in a thread.
        size: bytes that a read item holds until it is written.
        skip: errors of `read` and `write` that cost only their item; it comes out as `Failed`.
            Every other error ends the stream, as does any error of `compute`.
        batch_size: items a call of `compute`; fewer when the budget is reached.
        workers: threads for reading, and as many for writing.
        budget: bytes held before reading pauses. At most `workers` items come on top.

    On any way out (also Ctrl-C, or closing the generator) nothing new is begun, and what is being
    written is finished first.
    """
    source = enumerate(items)
    held = _Budget(budget)
    reading: deque[tuple[int, In, Future[Read]]] = deque()
    batch: list[tuple[In, Read | Failed[In]]] = []
    writing: deque[tuple[In, Future[Out] | Failed[In]]] = deque()

    def read_one(number: int, item: In) -> Read:
        held.enter(number)
        got = read(item)
        held.add(size(got))
        return got

    def write_one(item: In, made: Made, bytes_held: int) -> Out:
        try:
            return write(item, made)
        finally:
            held.add(-bytes_held)

    def flush() -> None:
        good = [(item, got) for item, got in batch if not isinstance(got, Failed)]
        made = iter(compute([i for i, _ in good], [g for _, g in good]) if good else [])
        for item, got in batch:
            if isinstance(got, Failed):
                writing.append((item, got))
            else:
                job = writers.submit(copy_context().run, write_one, item, next(made), size(got))
                writing.append((item, job))
        batch.clear()

    def finished(leave: int) -> Iterator[Out | Failed[In]]:
        while writing:
            item, job = writing[0]
            if isinstance(job, Future) and not job.done() and len(writing) <= leave:
                return
            writing.popleft()
            yield _result(item, job, skip) if isinstance(job, Future) else job

    readers = ThreadPoolExecutor(workers, thread_name_prefix="read")
    writers = ThreadPoolExecutor(workers, thread_name_prefix="write")
    try:
        while True:
            while len(reading) < batch_size + workers:
                following = next(source, None)
                if following is None:
                    break
                number, item = following
                reading.append(
                    (number, item, readers.submit(copy_context().run, read_one, number, item))
                )
            if not reading:
                if batch:
                    flush()
                yield from finished(leave=0)
                return
            number, item, job = reading[0]
            if not held.wait_for(job):
                if batch:
                    flush()
                yield from finished(leave=0)
                held.allow(number)
            reading.popleft()
            batch.append((item, _result(item, job, skip)))
            if len(batch) >= batch_size:
                flush()
            yield from finished(leave=2 * batch_size)
    finally:
        held.lift()
        readers.shutdown(wait=True, cancel_futures=True)
        writers.shutdown(wait=True, cancel_futures=True)


def _result(item: In, job: Future[Out], skip: tuple[type[Exception], ...]) -> Out | Failed[In]:
    try:
        return job.result()
    except skip as error:
        return Failed(item, error)
