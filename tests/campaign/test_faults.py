"""Commands that are killed, interrupted, out of disk, or started twice on one folder."""

from __future__ import annotations

import random
import shutil
import signal

import pytest

from .commands import check_whole, commands, contents
from .forking import Forks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
NAMES = ("explain", "erase", "attend", "gallery", "demo", "benchmark", "audit", "guide")


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    return tmp_path_factory.mktemp("campaign")


@pytest.fixture(scope="module")
def forks(top):
    server = Forks(top / "log")
    yield server
    server.close()


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
        largest = sizes.randrange(most)
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
