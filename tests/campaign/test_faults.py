"""Commands that are killed, interrupted, out of disk, or started twice on one folder."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest

from .bombs import bombs
from .commands import check_whole, commands, contents

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
NAMES = (
    *("explain", "page", "shards", "erase", "attend", "gallery", "demo", "benchmark"),
    *("audit", "guide", "concepts", "choose", "words", "drawing", "export", "discover"),
)


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    return tmp_path_factory.mktemp("campaign")


@pytest.fixture(scope="module")
def undisturbed(top, forks):
    """A function: name -> (the command, seconds it takes, the files it writes)."""
    known = {c.name: c for c in commands(top / "data")}
    found = {}

    def run(name):
        if name not in found:
            out = top / f"{name}-undisturbed"
            (ended,) = forks(known[name].words(out))
            assert ended.code == 0, ended.said
            found[name] = (known[name], ended.seconds, contents(out))
        return found[name]

    return run


def begun_again(command, out, files, forks, seen):
    """Start a stopped command again; it must end well, and leave what an undisturbed run does."""
    words = command.words(out)
    (ended,) = forks([*words, *command.again])
    if ended.code and not any(f in files for f in contents(out)):
        (ended,) = forks(words)  # it had not begun: there is nothing to go on with
    assert ended.code == 0, f"{seen}; then: {ended.said}"
    now = contents(out)
    assert sorted(now) == sorted(files), seen
    assert [name for name in files if now[name] != files[name]] == [], seen


@pytest.mark.parametrize("name", NAMES)
def test_killed_at_any_moment(name, top, forks, undisturbed, campaign):
    """SIGKILL: no half file, and the next start makes up for it to the byte."""
    command, seconds, files = undisturbed(name)
    moments = random.Random(name)
    for i in range(campaign(10)):
        out = top / f"{name}-killed"
        shutil.rmtree(out, ignore_errors=True)
        after = moments.uniform(0.02, 1.0) * seconds
        (ended,) = forks(command.words(out), after=after)
        seen = f"{name} {i}, killed after {after:.2f} of {seconds:.2f} s: {ended.said[-200:]}"
        assert ended.code in (0, -signal.SIGKILL), seen
        check_whole(out)
        if ended.code == 0:
            assert contents(out) == files
        else:
            begun_again(command, out, files, forks, seen)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", NAMES)
def test_stopped_on_request(name, by, top, forks, undisturbed, campaign):
    """SIGINT and SIGTERM: the usual exit code, no traceback, no half file."""
    command, seconds, files = undisturbed(name)
    moments = random.Random(f"{name} {by}")
    for i in range(campaign(5)):
        out = top / f"{name}-stopped"
        shutil.rmtree(out, ignore_errors=True)
        after = moments.uniform(0.1, 0.9) * seconds
        (ended,) = forks(command.words(out), after=after, by=by)
        seen = f"{name} {i}, {by.name} after {after:.2f} of {seconds:.2f} s: {ended.said[-1500:]}"
        assert ended.code in (0, 128 + by, -by), seen
        if by == signal.SIGINT:
            assert "Traceback" not in ended.said, seen
        check_whole(out)
        if ended.code:
            begun_again(command, out, files, forks, seen)


@pytest.mark.parametrize("name", NAMES)
def test_no_room_left(name, top, forks, undisturbed, campaign):
    """A file that may not grow, as on a full disk: said in a line, nothing half written."""
    command, _, files = undisturbed(name)
    sizes = random.Random(f"{name} full")
    most = max(len(data) for data in files.values())
    for i in range(campaign(5)):
        out = top / f"{name}-full"
        shutil.rmtree(out, ignore_errors=True)
        largest = sizes.randrange(min(2000, most - 1), most)  # what it says has to fit, too
        (ended,) = forks(command.words(out), largest=largest)
        seen = f"{name} {i}, files of at most {largest} of {most} bytes: {ended.said[-1500:]}"
        assert ended.code == 1, seen
        assert "error: " in ended.said, seen
        assert "Traceback" not in ended.said, seen
        check_whole(out)
        begun_again(command, out, files, forks, seen)


@pytest.mark.parametrize("name", NAMES)
def test_two_at_once(name, top, forks, undisturbed, campaign):
    """Two processes on one folder: at least one ends well, and the files are those of one."""
    command, _, files = undisturbed(name)
    for i in range(campaign(2)):
        out = top / f"{name}-two"
        shutil.rmtree(out, ignore_errors=True)
        both = forks(command.words(out), beside=command.words(out))
        seen = f"{name} {i}: {[(e.code, e.said[-700:]) for e in both]}"
        assert 0 in [e.code for e in both], seen
        assert {e.code for e in both} <= {0, 1}, seen
        assert not any("Traceback" in e.said for e in both), seen
        assert contents(out) == files, seen


@pytest.mark.parametrize("name", NAMES)
def test_a_photo_vanishes(name, top, forks, campaign):
    """A photo that is removed while a command runs: said in a line, no traceback."""
    moments = random.Random(f"{name} gone")
    for i in range(campaign(3)):
        data = top / f"{name}-gone-data"
        shutil.rmtree(data, ignore_errors=True)
        command = next(c for c in commands(data) if c.name == name)
        photos = sorted(p for p in data.rglob("*.png") if "mask" not in str(p))
        out = top / f"{name}-gone"
        shutil.rmtree(out, ignore_errors=True)
        gone = moments.choice(photos)
        (ended,) = forks(command.words(out), after=moments.uniform(0, 1.5), gone=str(gone))
        seen = f"{name} {i}, without {gone.name}: {ended.said[-1500:]}"
        assert ended.code in (0, 1), seen
        assert "Traceback" not in ended.said, seen
        assert "unexpected" not in ended.said, seen
        check_whole(out)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_cannot_be_written(name, top, forks, undisturbed, campaign):
    """An output folder below a file, on a system's own disk, or with too long a name: refused."""
    command, _, _ = undisturbed(name)
    (top / "file").write_text("")
    places = [top / "file" / "below", Path("/proc/attnviz-out"), top / ("n" * 300)]
    for place in places[: campaign(len(places))]:
        (ended,) = forks(command.words(place))
        seen = f"{name} into {str(place)[:60]}: {ended.said[-1500:]}"
        assert ended.code == 1, seen
        assert "error: " in ended.said, seen
        assert "unexpected" not in ended.said, seen


@pytest.mark.parametrize("name", NAMES)
def test_no_command_asks_another_machine(name, forks, top, undisturbed, campaign):
    """Sockets blocked: nothing tries to connect, and the files are the same."""
    command, _, files = undisturbed(name)
    campaign(1)
    out = top / f"{name}-offline"
    (ended,) = forks(command.words(out), offline=True)
    assert ended.code == 0, ended.said
    assert "a connection was tried" not in ended.said
    assert contents(out) == files


READING = (
    ("inspect",), ("layers",), ("selftest",), ("methods",), ("doctor",), ("gallery", "--list"),
    ("explain", "--help"),
)  # fmt: skip


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_no_command_that_only_prints_asks_another_machine(words, forks, campaign):
    """Sockets blocked in inspect, layers, selftest, methods, doctor."""
    campaign(1)
    needs = words[0] in ("inspect", "layers", "selftest")
    model = ("tests.cli.tiny:colours",) if needs else ()
    if words[0] == "selftest":
        model += ("--preprocess", "unit")
    (ended,) = forks([*words, *model], offline=True)
    assert ended.code in (0, 3), ended.said  # 3: a gate of the self-test, on random weights
    assert "a connection was tried" not in ended.said


def test_memory_has_a_ceiling(top, forks, campaign):
    """Files that open into gigabytes, under a limit of 1 GB more than the program has: refused."""
    for name, words in bombs(top / "bombs").items():
        campaign(1)
        (ended,) = forks(words, memory=1 << 30)
        seen = f"{name}: {ended.said[-1500:]}"
        assert ended.code == 1, seen
        assert "error: " in ended.said, seen
        assert not any(w in ended.said for w in ("MemoryError", "unexpected", "Traceback")), seen
