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
    with pytest.raises(DataError, match="--out"):
        write_file(tmp_path / "out" / "p.png", b"")


def test_existing_results_are_counted(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    refuse_existing(paths)
    paths[1].touch()
    paths[2].touch()
    with pytest.raises(OutputExists, match=r"2 of 3 .*1\.png"):
        refuse_existing(paths)
