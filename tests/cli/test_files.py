"""Files are written whole or not at all, and never over another without being asked to."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnviz.cli._files import refuse_existing, write_file
from attnviz.errors import DataError, OutputExists


def test_what_is_there_stays_unless_forced(tmp_path: Path) -> None:
    goal = tmp_path / "deep" / "picture.png"
    write_file(goal, b"mine")
    with pytest.raises(OutputExists, match="--force"):
        write_file(goal, b"new")
    assert goal.read_bytes() == b"mine"
    write_file(goal, b"new", force=True)
    assert goal.read_bytes() == b"new"
    assert [p.name for p in goal.parent.iterdir()] == ["picture.png"]


def test_a_file_in_the_way_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(DataError, match="File exists; write it elsewhere"):
        write_file(tmp_path / "out" / "p.png", b"")


def test_existing_results_are_counted(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    refuse_existing(paths)
    paths[1].touch()
    paths[2].touch()
    with pytest.raises(OutputExists, match=r"2 of 3 .*1\.png"):
        refuse_existing(paths)


def test_a_name_cannot_move_or_colour_the_terminal(run, tmp_path, capsys):
    """Escapes, line breaks and direction marks in names of photos are written out."""
    from PIL import Image

    name = "a\x1b[31mred\n\u202egnp.png"
    Image.new("RGB", (64, 64), "red").save(tmp_path / name)
    (tmp_path / "b\x1b[2J.png").write_bytes(b"no photo")
    done = run("explain", str(tmp_path), "--model", "tests.cli.tiny:colours", "--preprocess",
               "unit", "--out", "out")  # fmt: skip
    assert done.code == 1
    for text in (done.out, done.err):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert r"a\x1b[31mred\n\u202egnp.png" in done.out
    assert r"b\x1b[2J.png" in done.err


def test_a_folder_below_a_file_is_nothing_unexpected(run, tmp_path):
    """`choose` raised NotADirectoryError."""
    import numpy as np
    from PIL import Image

    for k in range(4):
        path = tmp_path / "data" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 60 * k, np.uint8)).save(path)
    (tmp_path / "file").write_text("")
    done = run(
        "choose", str(tmp_path / "data"), "--model", "tests.cli.tiny:colours", "--preprocess",
        "unit", "--classes", "a=0,b=1", "--out", str(tmp_path / "file" / "below"),
    )  # fmt: skip
    assert done.code == 1
    assert "Not a directory" in done.err
    assert "unexpected" not in done.err
