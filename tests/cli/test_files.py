"""Files are written whole or not at all, and never over another without being asked to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attnviz.cli._files import refuse_existing, whole_file
from attnviz.errors import DataError, OutputExists


def test_the_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    goal = tmp_path / "deep" / "picture.png"
    with whole_file(goal) as temporary:
        temporary.write_bytes(b"half")
        assert not goal.exists()
        assert temporary.suffix == ".png"  # writers choose the format by it
        temporary.write_bytes(b"whole")
    assert goal.read_bytes() == b"whole"
    assert [p.name for p in goal.parent.iterdir()] == ["picture.png"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_after_an_exception(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), whole_file(tmp_path / "picture.png") as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays_unless_forced(tmp_path: Path) -> None:
    goal = tmp_path / "picture.png"
    goal.write_bytes(b"mine")
    with pytest.raises(OutputExists, match="--force"), whole_file(goal) as temporary:
        temporary.write_bytes(b"new")
    assert goal.read_bytes() == b"mine"
    with whole_file(goal, force=True) as temporary:
        temporary.write_bytes(b"new")
    assert goal.read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failed_forced_write_keeps_the_old_file(tmp_path: Path) -> None:
    goal = tmp_path / "picture.png"
    goal.write_bytes(b"old")
    with pytest.raises(ValueError, match="x"), whole_file(goal, force=True) as temporary:
        temporary.write_bytes(b"half")
        raise ValueError("x")
    assert goal.read_bytes() == b"old"


def test_permissions_are_those_of_an_ordinary_file(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    with whole_file(tmp_path / "picture.png") as temporary:
        temporary.touch()
    modes = [os.stat(tmp_path / n).st_mode & 0o777 for n in ("ordinary", "picture.png")]
    assert modes[0] == modes[1]


def test_a_file_in_the_way_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(DataError, match="--out"), whole_file(tmp_path / "out" / "p.png"):
        pass


def test_existing_results_are_counted(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    refuse_existing(paths)
    paths[1].touch()
    paths[2].touch()
    with pytest.raises(OutputExists, match=r"2 of 3 .*1\.png"):
        refuse_existing(paths)
