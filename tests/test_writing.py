"""Files are whole or not there, whatever goes wrong and whenever."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from pathlib import Path

import pytest

from attnviz.errors import OutputExists
from attnviz.writing import cell, printable, write_file, write_files


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_bytes_text_and_functions(tmp_path: Path) -> None:
    write_files(
        {
            tmp_path / "a": b"\x00\xff",
            tmp_path / "b": "Größe\n",
            tmp_path / "deep" / "c": lambda p: p.write_bytes(b"own"),
        },
        force=False,
    )
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b").read_bytes() == "Größe\n".encode()
    assert (tmp_path / "deep" / "c").read_bytes() == b"own"
    assert names(tmp_path) == ["a", "b", "deep"]
    assert names(tmp_path / "deep") == ["c"]


def test_what_is_no_character_is_written_as_json_reads_it(tmp_path: Path) -> None:
    """A name on Linux is bytes: what is no UTF-8 comes as a surrogate, which no file may hold."""
    name = os.fsdecode(b"caf\xe9.png")
    file = write_file(tmp_path / "a.json", json.dumps(["é", name], ensure_ascii=False))
    assert json.loads(file.read_bytes().decode("utf-8")) == ["é", name]
    assert printable(name + "\x1b[31m\x9b\u202ea\nb") == "caf\\udce9.png\\x1b[31m\\x9b\\u202ea\\nb"
    assert printable("é 中 العربية") == "é 中 العربية"
    assert [cell(v) for v in ("=1", "-rf", "a=1", -1.5, None)] == ["'=1", "'-rf", "a=1", -1.5, None]


def test_what_is_there_stays_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    with pytest.raises(OutputExists, match="force=True"):
        write_files({tmp_path / "a": b"1", tmp_path / "b": b"2"}, force=False)
    assert contents(tmp_path) == {"b": b"mine"}
    assert write_file(tmp_path / "b", "new", force=True) == tmp_path / "b"
    assert contents(tmp_path) == {"b": b"new"}


def test_rights_are_those_of_any_new_file(tmp_path: Path) -> None:
    """Also where the writer makes its file readable by the owner alone."""
    old = os.umask(0o027)
    try:
        write_file(tmp_path / "a", b"1")
        write_file(tmp_path / "b", lambda p: (p.write_bytes(b"2"), p.chmod(0o600)))
    finally:
        os.umask(old)
    for name in "ab":
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["write", "flush", "rename"])
@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("links", [True, False])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, nth: int, before: bool, links: bool
) -> None:
    old = {"a": b"1", "b": b"2"} if before else {}
    for name, data in old.items():
        (tmp_path / name).write_bytes(data)
    if not links:
        monkeypatch.setattr(os, "link", full)
    real = {"flush": os.fsync, "rename": os.replace}.get(where)
    count = 0

    def failing(*arguments: object) -> None:
        nonlocal count
        # taking a name is what fails, not giving the old file its second one or its own back
        if where != "rename" or str(arguments[0]).endswith(".new"):
            count += 1
            if count == nth:
                full()
        if real is not None:
            real(*arguments)

    def half(path: Path) -> None:
        path.write_bytes(b"half")
        failing()
        path.write_bytes(b"whole")

    if where != "write":
        monkeypatch.setattr(os, "fsync" if where == "flush" else "replace", failing)
    with pytest.raises(OSError, match="No space left") as caught:
        write_files({tmp_path / n: half if where == "write" else b"new" for n in "ab"}, force=True)
    assert caught.value.errno == errno.ENOSPC
    assert contents(tmp_path) == old


def test_an_interrupt_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_files({tmp_path / "a": b"1", tmp_path / "b": b"2"}, force=False)
    assert list(tmp_path.iterdir()) == []


def test_a_replaced_file_is_never_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader, or a kill, at any moment finds the old file or the new one."""
    for name in "ab":
        (tmp_path / name).write_bytes(b"old")
    seen = []
    for function in ("link", "replace", "fsync", "chmod"):
        real = getattr(os, function)

        def spied(*arguments: object, real: object = real) -> None:
            real(*arguments)
            seen.append({(tmp_path / n).read_bytes() for n in "ab"})

        monkeypatch.setattr(os, function, spied)
    write_files({tmp_path / n: b"new" for n in "ab"}, force=True)
    assert len(seen) >= 6
    assert set().union(*seen) == {b"old", b"new"}
    assert contents(tmp_path) == {"a": b"new", "b": b"new"}


def test_the_longest_name_that_fits(tmp_path: Path) -> None:
    name = "x" * 251 + ".png"
    write_file(tmp_path / name, b"1")
    assert names(tmp_path) == [name]


def test_a_large_folder_is_not_looked_through_at_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 photos would look at 50 million files."""
    looks, now, real = [], [0.0], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: looks.append(folder) or real(folder))
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for number in range(300):
        write_file(tmp_path / str(number), b"")
    assert len(looks) == 202  # the last of them found 201 files, and holds for 2 seconds
    left = tmp_path / f".attnviz-0-{'0' * 16}.new"
    left.write_bytes(b"of a killed process on another machine")
    os.utime(left, (0, 0))
    now[0] = 1.9
    write_file(tmp_path / "a", b"")
    assert left.exists()
    now[0] = 2.1
    write_file(tmp_path / "b", b"")
    assert not left.exists()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """A second process is refused, names the first, and gets the folder once that is killed."""
    import subprocess
    import sys

    from attnviz.errors import DataError
    from attnviz.writing import locked

    folder = tmp_path / "made" / "out"
    hold = (
        "import sys, time\nfrom attnviz.writing import locked\n"
        "with locked(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(DataError, match=rf"in use by another run.*process {other.pid}"):
            with locked(folder):
                pass
    finally:
        other.kill()
        other.wait()
    with locked(folder):
        (folder / "result").write_text("x")
    assert names(folder) == ["result"]


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from attnviz import writing

    def no_locks(_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(writing, "_lock", no_locks)
    with writing.locked(tmp_path / "out") as folder:
        assert folder.is_dir()
    assert not folder.exists()
