"""`attnviz benchmark`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TINY = ["--model", "tests.cli.tiny:colours", "--preprocess", "imagenet"]
QUICK = [*TINY, "--methods", "gradcam,hirescam", "--metrics", "average_drop,gini"]


def test_lines_json_and_files_agree(run, photos):
    done = run("benchmark", photos, *QUICK)
    assert done.code == 0
    assert "3 images to judge: " in done.err
    assert "forward passes" in done.err
    assert "average_drop (lower is better)  drop[softmax, zero]" in done.out
    constant = next(line for line in done.out.splitlines() if line.startswith("  constant"))
    assert constant.split() == ["constant", "0.0000", "[0.0000,", "0.0000]", "control"]
    again = run("benchmark", photos, *QUICK, "--json")
    assert "3 of 3 images are done already" in again.err
    document = again.json
    assert document["schema"] == "attnviz.benchmark"
    assert document["schema_version"] == 1
    out = Path(document["out"])
    assert sorted(p.name for p in out.iterdir()) == [
        "index.html",
        "pictures",
        "results.jsonl",
        "summary.json",
        "values.csv",
    ]
    saved = json.loads((out / "summary.json").read_text())
    assert saved["metrics"] == document["metrics"]
    drop = {r["name"]: r for r in document["metrics"][0]["rows"]}
    assert drop["constant"]["value"] == 0
    assert drop["gradcam"]["images"] == 3


def test_dry_run_costs_nothing_but_its_timing(run, photos):
    done = run("benchmark", photos, *QUICK, "--dry-run", "--json")
    assert done.code == 0
    # the class, then two forwards a drop for each of two methods and five controls
    assert done.json["forwards"] == 3 * (1 + 2 * 7)
    assert done.json["maps"] == {"gradcam": 3, "hirescam": 3}
    assert not Path("attnviz-benchmark").exists()
    assert (
        "3 images: 45 forward passes and 6 maps, about "
        in run("benchmark", photos, *QUICK, "--dry-run").out
    )


def test_two_comparisons_in_one_folder(run, photos):
    from attnviz.writing import locked

    with locked("attnviz-benchmark"):
        done = run("benchmark", photos, *QUICK)
    assert done.code == 1
    assert "is in use by another run" in done.err
    assert not Path("attnviz-benchmark").exists()


def test_the_results_folder_is_no_photo_folder(run, photos):
    assert run("benchmark", photos, *QUICK, "--out", photos / "out").code == 0
    done = run("benchmark", photos, *QUICK, "--out", photos / "out", "--json")
    assert "3 of 3 images are done already" in done.err
    assert done.json["images"] == 3


def test_usage_errors_and_failures(run, photos):
    for words, message in (
        (["--metrics", "deletoin"], "did you mean 'deletion'"),
        (["--methods", "gradcamm"], "did you mean 'gradcam'"),
        (["--baselines", "black"], "baseline 'black'"),
        (["--score", "softmax"], "--score 'softmax'"),
        (["--substrate", "square"], "--substrate 'square'"),
        (["--mask", "boat"], "--mask needs an annotated dataset"),
    ):
        done = run("benchmark", photos, *TINY, *words)
        assert (done.code, message in done.err) == (2, True), done.err
    assert run("benchmark", photos, *QUICK).code == 0
    other = run("benchmark", photos, *QUICK, "--seed", "3")
    assert other.code == 1
    assert "another comparison" in other.err
    assert run("benchmark", photos, *QUICK, "--seed", "3", "--force").code == 0
    (photos / "bad.jpg").write_bytes(b"no picture")
    bad = run("benchmark", photos, *QUICK, "--seed", "3")
    assert bad.code == 1
    assert "1 images failed; the rest is judged" in bad.err
    assert run("benchmark", photos / "none", *QUICK).code == 1


def test_metrics_are_listed(run):
    done = run("benchmark", "-", "--metrics", "list")
    assert done.code == 0
    assert "deletion" in done.out
    assert "CVPR" not in done.out  # first lines only
    assert len(done.out.splitlines()) > 25


@pytest.mark.slow
def test_killed_and_started_again(photos, tmp_path):
    """SIGKILL in the middle of a run: the next one finishes it."""
    words = [sys.executable, "-m", "attnviz", "benchmark", str(photos), "--methods", "gradcam"]
    words += ["--metrics", "average_drop", "--out", str(tmp_path / "out"), "--no-controls"]
    words += ["--model", "tests.cli.tiny:slow", "--preprocess", "imagenet"]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    results = tmp_path / "out" / "results.jsonl"
    process = subprocess.Popen(
        words, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and process.poll() is None:
            if results.exists() and len(results.read_bytes().splitlines()) >= 1:
                break
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(
        [*words, "--json"], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["images"] == 3
