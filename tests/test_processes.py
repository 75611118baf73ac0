"""Several processes: the result is that of one, whatever stops them on the way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attnviz.data import boatwater
from attnviz.processes import Group, current, together
from tests.support.folders import two_classes

SHARDS = (
    "import sys; from attnviz.data import open_dataset; from attnviz.processes import together;"
    "from attnviz.shards import explain_dataset; from tests.cli.tiny import *\n"
    "with together(): explain_dataset(slow(), open_dataset(sys.argv[1]), sys.argv[2], shard=2,"
    " preprocess='imagenet', target=1)"
)
MODEL = ["--model", "tests.cli.tiny:colours", "--preprocess", "imagenet"]


def start(arguments: list[str], count: int = 2) -> list[subprocess.Popen[str]]:
    """The processes that `torchrun -m attnviz ARGUMENTS` starts, without its half a minute."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, *arguments], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]  # fmt: skip


def run(arguments: list[str], count: int = 2) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each process."""
    found = []
    for process in start(arguments, count):
        out, err = process.communicate(timeout=240)
        found.append((process.returncode, out, err))
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return two_classes(tmp_path / "data")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boats and others, on water and on land, with masks."""
    folder = tmp_path_factory.mktemp("scenes")
    boatwater.generate(groups=boatwater.balanced(12), seed=3, marked=True).write(folder)
    return folder


def contents(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_one_process_is_a_group_of_one() -> None:
    with together() as group:
        assert group is current()
        assert group.mine(5, 2) == [0, 1, 2, 3, 4]
        assert group.gathered("a") == ["a"]
        assert group.in_order("abc", 3) == ["a", "b", "c"]
        with pytest.raises(ZeroDivisionError):
            group.once(lambda: 1 / 0)


def test_every_thing_is_one_process_s() -> None:
    groups = [Group(rank, 3) for rank in range(3)]
    shares = [g.mine(11, 2) for g in groups]
    assert shares == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10]]


def test_a_command_that_is_not_shared_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from attnviz.cli import main

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert main(["guide", "--data", "x"]) == 2
    assert "`attnviz guide` runs in one process, and 2 were launched" in capsys.readouterr().err


@pytest.mark.slow
def test_shards_are_those_of_one_process_also_after_a_kill(folder: Path, tmp_path: Path) -> None:
    one, two, cut = (tmp_path / name for name in ("one", "two", "cut"))
    line = ["-c", SHARDS, str(folder)]
    for out, count in ((one, 1), (two, 2)):
        assert [code for code, _, _ in run([*line, str(out)], count)] == [0] * count
    assert len(list(one.glob("maps-*.safetensors"))) == 6
    assert contents(two) == contents(one)
    begun = start([*line, str(cut)])
    while len(list(cut.glob("maps-*.safetensors"))) < 2:
        assert begun[1].poll() is None
        time.sleep(0.02)
    for process in begun:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (cut / "index.jsonl").exists()
    assert [code for code, _, _ in run([*line, str(cut)])] == [0, 0]
    assert contents(cut) == contents(one)


@pytest.mark.slow
def test_pictures_are_those_of_one_process(folder: Path, tmp_path: Path) -> None:
    line = [
        "-m",
        "attnviz",
        "explain",
        str(folder),
        "--batch-size",
        "2",
        "--json",
        "--grid",
        *MODEL,
        "--out",
    ]
    ((_, one, _),) = run([*line, str(tmp_path / "one")], 1)
    (_, two, err), (_, nothing, _) = run([*line, str(tmp_path / "two")])
    assert nothing == ""
    assert json.loads(two) == json.loads(one.replace(f"{tmp_path}/one", f"{tmp_path}/two")), err
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    again = run([*line, str(tmp_path / "two")])
    assert [code for code, _, _ in again] == [1, 1]
    assert all("--force" in err for _, _, err in again)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["benchmark", "audit"])
def test_a_judgement_is_that_of_one_process_also_after_a_kill(
    command: str, scenes: Path, tmp_path: Path
) -> None:
    options, result, journal = {
        "benchmark": (
            [str(scenes), "--steps", "4", "--metrics", "deletion,iou", "--methods", "gradcam",
             "--layer", "features"],
            "summary.json", "results-1.jsonl",
        ),
        "audit": (
            ["--data", str(scenes), "--object", "boat", "--context", "water", "--fill", "blur",
             "--method", "gradcam", "--examples", "1", "--resume"],
            "audit.json", "journal-1.jsonl",
        ),
    }[command]  # fmt: skip
    line = ["-m", "attnviz", command, *options, "--batch-size", "2", "--labels", "other,boat"]
    line += ["--model", "tests.audit.makers:reads_water", "--preprocess", "unit", "--out"]
    outcomes = []
    for name, count in (("one", 1), ("two", 2), ("cut", 2)):
        out = tmp_path / name
        if name == "cut":
            part = out / journal
            begun = start([*line, str(out)])
            while not (part.exists() and len(part.read_text().splitlines()) >= 3):
                assert begun[1].poll() is None, begun[1].communicate()
                time.sleep(0.02)
            for process in begun:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
            assert not (out / result).exists()
        found = run([*line, str(out)], count)
        assert [code for code, _, _ in found] == [0] * count, found
        assert not list(out.glob("*-1.jsonl"))
        outcomes.append(json.loads((out / result).read_text()))
    assert outcomes[0] == outcomes[1] == outcomes[2]
