"""Streaming gives what a plain loop gives, within its bounds, whatever fails on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from attnviz.cli._pipeline import Failed, stream


def run(items: Any, **changed: Any) -> list[Any]:
    parts: dict[str, Any] = {
        "read": lambda i: i * 10,
        "compute": lambda items, read: [r + 1 for r in read],
        "write": lambda i, made: (i, made),
        "size": lambda r: 1,
        "skip": (ValueError,),
        "batch_size": 4,
        "workers": 3,
    }
    return list(stream(items, **{**parts, **changed}))


def in_time(fn: Callable[[], Any], seconds: float = 30) -> Any:
    """Run in a thread, so that a deadlock fails instead of hanging."""
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(fn()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert got, "the stream hangs"
    return got[0]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 103])
@pytest.mark.parametrize("budget", [1 << 20, 3, 0.5])
def test_equals_a_plain_loop_in_order(count: int, budget: float) -> None:
    got = in_time(lambda: run(range(count), budget=budget))
    assert got == [(i, i * 10 + 1) for i in range(count)]


def test_uneven_reading_times_keep_the_order() -> None:
    def read(i: int) -> int:
        time.sleep(0.02 if i % 5 == 0 else 0)
        return i * 10

    got = in_time(lambda: run(range(40), read=read, budget=3))
    assert got == [(i, i * 10 + 1) for i in range(40)]


def test_a_failed_item_costs_only_itself() -> None:
    def read(i: int) -> int:
        if i in (0, 7, 8, 9, 10, 11):  # the first, and a whole batch and more
            raise ValueError(f"unreadable {i}")
        return i * 10

    def write(i: int, made: int) -> tuple[int, int]:
        if i == 3:
            raise ValueError("disk")
        return i, made

    got = in_time(lambda: run(range(14), read=read, write=write))
    assert [g.item if isinstance(g, Failed) else g[0] for g in got] == list(range(14))
    assert [g.item for g in got if isinstance(g, Failed)] == [0, 3, 7, 8, 9, 10, 11]
    assert str(got[7].error) == "unreadable 7"


def test_batches_are_full_except_the_last() -> None:
    sizes = []

    def compute(items: list[int], read: list[int]) -> list[int]:
        sizes.append(len(items))
        return read

    run(range(10), compute=compute)
    assert sizes == [4, 4, 2]


@pytest.mark.parametrize("where", ["read", "compute", "write"])
def test_other_errors_end_the_stream(where: str) -> None:
    def bad(*_: Any) -> Any:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run(range(1000), **{where: bad})


def test_what_is_held_stays_within_the_budget() -> None:
    lock = threading.Lock()
    held, most = 0, 0

    def read(i: int) -> bytes:
        nonlocal held, most
        with lock:
            held += 100
            most = max(most, held)
        return b"x" * 100

    def write(i: int, made: bytes) -> None:
        nonlocal held
        time.sleep(0.001)
        with lock:
            held -= 100

    in_time(
        lambda: run(
            range(200), read=read, compute=lambda i, r: r, write=write, size=len,
            batch_size=32, workers=2, budget=500,
        )
    )  # fmt: skip
    assert most <= 500 + 2 * 100  # one that is allowed in, one for each worker
    assert most >= 500
    assert held == 0


def test_items_are_taken_as_needed() -> None:
    taken = 0

    def items() -> Any:
        nonlocal taken
        for i in range(10_000):
            taken += 1
            yield i

    parts = stream(
        items(), read=lambda i: i, compute=lambda i, r: r, write=lambda i, m: m,
        size=lambda r: 1, skip=(), batch_size=4, workers=2,
    )  # fmt: skip
    assert next(parts) == 0
    parts.close()
    assert taken < 50


def test_an_interrupt_lets_the_begun_writes_finish_and_begins_no_more() -> None:
    begun, done = [], []

    def write(i: int, made: int) -> None:
        begun.append(i)
        time.sleep(0.01)
        done.append(i)

    def compute(items: list[int], read: list[int]) -> list[int]:
        if items[0] >= 16:
            raise KeyboardInterrupt
        return read

    def interrupted() -> bool:
        with pytest.raises(KeyboardInterrupt):
            run(range(1000), write=write, compute=compute)
        return True

    in_time(interrupted)
    time.sleep(0.05)
    assert sorted(begun) == sorted(done)
    assert max(begun) < 16
