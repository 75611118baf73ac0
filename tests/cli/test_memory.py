"""What a run holds does not grow with the number of photos."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CODE = (
    "import resource, sys; from attnviz.cli import main; code = main(sys.argv[1:]);"
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is in KiB on Linux")
@pytest.mark.parametrize("options", [[], ["--json"], ["--shards"]])
def test_memory_is_that_of_a_few_photos(options: list[str], tmp_path: Path) -> None:
    peaks = []
    for count in (100, 1500):
        folder = tmp_path / str(count)
        folder.mkdir()
        draw = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
        Image.fromarray(draw).save(folder / "0.jpg")
        for number in range(1, count):
            os.link(folder / "0.jpg", folder / f"{number}.jpg")
        line = ["explain", str(folder), "--out", str(tmp_path / f"out-{count}"), *options]
        line += ["--model", "tests.cli.tiny:colours", "--preprocess", "unit"]
        done = subprocess.run(
            [sys.executable, "-c", CODE, *line], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stderr.split()[-1]) / 1024)
    # the photos decoded would be 80 MiB; a photo's line of JSON is 1 KiB
    assert peaks[1] - peaks[0] < 30, peaks
