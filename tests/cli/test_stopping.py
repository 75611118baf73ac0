"""Ctrl-C in every command that takes long: what is kept is said, and how to go on works."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Never

import numpy as np
import pytest
from PIL import Image

from attnviz.cli._interrupts import listening
from attnviz.data import boatwater

from . import tiny

MODEL = ["--model", "tests.cli.tiny:stopping", "--preprocess", "unit"]
ANEW = "interrupted: what was written is whole; the same command starts anew"
#: name -> command line, passes until it is stopped, what is said, what goes on
COMMANDS = {
    "benchmark": ("{photos} --batch-size 1 --methods gradcam --metrics average_drop --seed 0", 30,
                  "of 3 images are judged and kept in", ""),
    "attend": ("{photos}", 3, "of 3 photos are written; name the others, or --force", "--force"),
    "audit": ("--data {scenes} --object boat --context water --target 0 --method gradcam "
              "--fill mean --batch-size 2", 30, "images are judged and kept in", "--resume"),
    "guide": ("--data {images} --masks {masks} --validation 0.5 --epochs 3 --batch-size 2 "
              "--photos 0 --no-exchange --lr 0.001", 30,
              "kept in", "--resume"),
    "choose": ("{images} --budget 3 --classes disc=0,ring=1", 3, ANEW, ""),
    "concepts": ("{photos} --count 1", 1, ANEW, ""),
    "erase": ("{photos}/red.png", 3, ANEW, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_says_what_is_kept_and_how_to_go_on(
    name: str, run: Callable, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, passes, said, again = COMMANDS[name]
    boatwater.generate(groups=boatwater.balanced(3), seed=3, marked=True).write(tmp_path / "scenes")
    rng = np.random.default_rng(0)
    for k in range(16):
        mask = np.zeros((32, 32), np.uint8)
        mask[8:24, 8:24] = 255
        image = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
        image[mask > 0, k % 2] = 250
        for kind, array in (("images", image), ("masks", mask)):
            folder = tmp_path / kind / ("ring" if k % 2 else "disc")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / f"{k:02d}.png")
    places = {n: tmp_path / n for n in ("scenes", "images", "masks")} | {"photos": photos}
    model = {
        "attend": ["--model", "tests.cli.tiny:stopping_vit"],
        "guide": ["--model", "tests.cli.tiny:stopping_net", "--preprocess", "unit"],
    }.get(name, MODEL)
    words = [name, *(w.format(**places) for w in line.split()), *model, "--out", "out"]
    monkeypatch.setattr(tiny, "LEFT", passes)
    done = run(*words)
    assert done.code == 130, done.err
    assert f"{said}" in done.err.splitlines()[-1]
    assert done.err.splitlines()[-1].startswith("interrupted: ")
    monkeypatch.setattr(tiny, "LEFT", float("inf"))
    done = run(*words, *again.split())
    assert done.code == 0, done.err


def _lost(*_args: object, **_options: object) -> None:
    """As a library in C does: a Ctrl-C inside it becomes an error of its own."""
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise ValueError("invalid matrix") from None


class _Collected:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def _ignored(*_args: object, **_options: object) -> Never:
    """As in the collector, whose errors Python prints and ignores."""
    _Collected()
    raise ValueError("another")


@pytest.mark.parametrize(
    ("where", "lost", "name", "line"),
    [
        ("attnviz.gallery.drawing._picture", _lost, "gallery", "--only se,eca"),
        ("attnviz.gallery.drawing._picture", _ignored, "gallery", "--only se,eca"),
        ("PIL.Image.Image.load", _lost, "concepts", "{photos} --count 1 {model}"),
    ],
)
def test_a_ctrl_c_that_a_library_turns_into_an_error_stops_all_the_same(
    where: str, lost: Callable, name: str, line: str, run: Callable, photos: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(where, lost)
    words = line.format(photos=photos, model=" ".join(MODEL)).split()
    done = run(name, *words, "--out", "out")
    assert done.code == 130, done.err
    assert done.err.splitlines()[-1] == ANEW
    assert "Traceback" not in done.err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("where", ["__enter__", "__exit__"])
def test_a_ctrl_c_leaves_no_lock_held(where: str) -> None:
    lock = threading.Lock()

    class Noisy:
        def __enter__(self) -> None:
            lock.acquire()
            if where == "__enter__":
                signal.raise_signal(signal.SIGINT)

        def __exit__(self, *error: object) -> None:
            if where == "__exit__":
                signal.raise_signal(signal.SIGINT)
            lock.release()

    with pytest.raises(KeyboardInterrupt), listening():
        with Noisy():
            if where == "__enter__":
                time.sleep(5)
        time.sleep(5)
    assert not lock.locked()
