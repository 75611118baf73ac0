"""Maps of data sets: as `explain` gives them, whatever stops the run on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import attnviz
from attnviz import shards
from attnviz.data import open_dataset
from attnviz.errors import DataError
from attnviz.heatmaps import Heatmaps
from attnviz.shards import explain_dataset, verify
from tests.cli.tiny import Colours
from tests.support.folders import two_classes

OPTIONS = {"preprocess": "imagenet", "target": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return two_classes(tmp_path / "data")


def contents(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in out.iterdir()}


def test_shards_hold_what_explain_gives_and_the_index_says_where(folder: Path) -> None:
    data = open_dataset(folder)
    out = folder.parent / "out"
    index = explain_dataset(Colours(), data, out, shard=5, **OPTIONS)
    lines = [json.loads(line) for line in index.read_text().splitlines()]
    assert sorted(line["sample"] for line in lines) == sorted(s.id for s in data)
    assert [line["sample"] for line in lines if "error" in line] == ["red/broken.png"]
    for line in lines:
        if "error" in line:
            continue
        kept = Heatmaps.load(out / line["shard"])[line["row"]]
        own = attnviz.explain(Colours(), line["file"], **OPTIONS)
        torch.testing.assert_close(kept.values, own.values, rtol=1e-6, atol=1e-7)
        assert line["score"] == pytest.approx(float(own.score), rel=1e-5)
        assert kept.geometry == own.geometry
    assert len(list(out.glob("maps-*.safetensors"))) == 3


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    folder: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_dataset(folder)
    whole, cut = folder.parent / "whole", folder.parent / "cut"
    explain_dataset(Colours(), data, whole, shard=4, **OPTIONS)
    real, calls = shards.explain, []

    def stopped(*args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) > at:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(shards, "explain", stopped)
    with pytest.raises(KeyboardInterrupt):
        explain_dataset(Colours(), data, cut, shard=4, **OPTIONS)
    assert len(list(cut.glob("maps-*"))) == at
    assert not (cut / "index.jsonl").exists()
    with pytest.raises(DataError, match="no finished run"):
        verify(Colours(), cut)
    monkeypatch.setattr(shards, "explain", real)
    explain_dataset(Colours(), data, cut, shard=4, **OPTIONS)
    assert contents(cut) == contents(whole)


def test_another_model_or_option_is_refused_unless_forced(folder: Path) -> None:
    data, out = open_dataset(folder), folder.parent / "out"
    explain_dataset(Colours(), data, out, **OPTIONS)
    other = Colours()
    with torch.no_grad():
        other.fc.weight += 1
    with pytest.raises(DataError, match="weights differ"):
        explain_dataset(other, data, out, **OPTIONS)
    with pytest.raises(DataError, match="options differ"):
        explain_dataset(Colours(), data, out, **{**OPTIONS, "target": 2})
    with pytest.raises(DataError, match="other weights"):
        verify(other, out)
    before = contents(out)
    explain_dataset(Colours(), data, out, force=True, **{**OPTIONS, "target": 2})
    assert contents(out) != before


def test_verify_tells_what_still_holds(folder: Path) -> None:
    data, out = open_dataset(folder), folder.parent / "out"
    explain_dataset(Colours(), data, out, shard=4, **OPTIONS)
    assert [f["holds"] for f in verify(Colours(), out, sample=5)] == [True] * 5
    Image.fromarray(np.full((40, 50, 3), 9, np.uint8)).save(folder / "red" / "00.png")
    (folder / "red" / "01.png").unlink()
    found = {f["sample"]: f for f in verify(Colours(), out, sample=100)}
    bad = {name: f for name, f in found.items() if not f["holds"]}
    assert set(bad) == {"red/00.png", "red/01.png"}
    assert bad["red/00.png"]["difference"] > 1e-2
    assert "01.png does not exist" in bad["red/01.png"]["reason"]


def test_the_index_as_a_table_holds_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    from attnviz.cli import main

    out = folder.parent / "out"
    model = ["--model", "tests.cli.tiny:colours", "--preprocess", "imagenet"]
    line = ["explain", str(folder), "--out", str(out), *model, "--parquet"]
    assert main(line) == 2
    assert "--parquet is the index of --shards" in capsys.readouterr().err
    assert main([*line, "--shards", "--target", "1"]) == 1  # one file is no picture
    want = [json.loads(x) for x in (out / "index.jsonl").read_text().splitlines()]
    table = parquet.read_table(out / "index.parquet")
    for row, line in zip(table.to_pylist(), want, strict=True):
        row["target"] = None if row["target"] is None else json.loads(row["target"])
        assert row == {**dict.fromkeys(row), **line}
    run = json.loads(table.schema.metadata[b"attnviz.run"])
    assert run == json.loads((out / "run.json").read_text())


@pytest.mark.slow
def test_a_kill_in_the_middle_costs_nothing_but_time(folder: Path) -> None:
    code = (
        "import sys; from attnviz.data import open_dataset; from attnviz.shards import *;"
        "from tests.cli.tiny import slow;"
        "explain_dataset(slow(), open_dataset(sys.argv[1]), sys.argv[2], shard=2,"
        " preprocess='imagenet', target=1)"
    )
    whole, cut = folder.parent / "whole", folder.parent / "cut"
    start = [sys.executable, "-c", code, str(folder)]
    subprocess.run([*start, str(whole)], check=True)
    begun = subprocess.Popen([*start, str(cut)])
    while len(list(cut.glob("maps-*.safetensors"))) < 2:
        assert begun.poll() is None
        time.sleep(0.02)
    os.kill(begun.pid, signal.SIGKILL)
    begun.wait()
    assert not (cut / "index.jsonl").exists()
    subprocess.run([*start, str(cut)], check=True)
    assert contents(cut) == contents(whole)


def test_the_command_writes_goes_on_and_verifies(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from attnviz.cli import main

    model = ["--model", "tests.cli.tiny:colours", "--preprocess", "imagenet"]
    out = folder.parent / "out"
    line = ["explain", str(folder), "--shards", "--out", str(out), "--target", "green",
            "--labels", "red,green,blue", *model]  # fmt: skip
    assert main(line) == 1  # one file is no picture
    assert "maps of 11 images" in capsys.readouterr().out
    assert main(line) == 1
    capsys.readouterr()
    assert main(["verify", str(out), "--json", *model]) == 0
    checked = json.loads(capsys.readouterr().out)["checked"]
    assert len(checked) == 11
    assert all(c["holds"] for c in checked)
    assert main([*line, "--layer", "blur"]) == 1
    assert "options differ" in capsys.readouterr().err
    Image.fromarray(np.full((40, 50, 3), 9, np.uint8)).save(folder / "green" / "06.png")
    assert main(["verify", str(out), *model]) == 3
