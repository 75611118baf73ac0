"""The examples of CONTRIBUTING.md work as they stand: one file each, and nothing else touched."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

USED = """
import numpy as np, timm, torch
from PIL import Image
import attnviz
from attnviz import guidance
from attnviz.cli import main

torch.manual_seed(0)
net, x = timm.create_model("resnet18", num_classes=4).eval(), torch.rand(2, 3, 64, 64)
with attnviz.capture(net, layers=["layer4"]) as cap:
    net(x)
cam = attnviz.explain(net, x, method="meancam", layer="layer4")
torch.testing.assert_close(cam.values, cap.activations["layer4"].mean(1).relu())

vit = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=4).eval()
seen = attnviz.explain(vit, x, method="value_norm")
with attnviz.attention.tap(vit) as tap:
    vit(x)
site = tap.sites[-1]
row = site.weights(rows=0).mean(1).flatten(1)[:, 1:].view(2, 4, 4)
norms = site.values().norm(dim=-1).mean(1)[:, 1:].view(2, 4, 4)
torch.testing.assert_close(seen.values, row * norms, rtol=1e-4, atol=1e-6)
assert not seen.meta["class_specific"]

maps, mask = torch.full((1, 4, 4), 2.0), torch.zeros(1, 4, 4)
mask[:, :2] = 1
assert guidance.losses.outside(maps, mask).total == 2.0

assert attnviz.metrics.mean_value(maps).values.tolist() == [2.0]
assert "mean_value" in attnviz.metrics.METRICS

Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("a.png")
open("lines.txt", "w").write("a.png boat\\n")
data = attnviz.data.open_dataset(".")
assert (data.format, data[0].label, data.classes) == ("lines", "boat", ("boat",))
assert main(["labels"]) == 0
"""

#: the tests that go over all parts of a kind; of those of losses, what concerns the new one
GENERIC = [
    "tests/test_package.py", "tests/guidance/test_losses.py", "tests/data/test_readers.py",
    "tests/cli/test_commands.py", "-k", "outside or every_reader or methods_lists or package",
]  # fmt: skip


@pytest.mark.slow
def test_the_examples_are_one_file_each_and_break_no_test(repo: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for part in ("attnviz", "tests", "notebooks", "assets", ".github", ".ci"):
        shutil.copytree(repo / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repo / file, copy)
    text = (repo / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    examples = dict(re.findall(r"```python\n# (attnviz/\S+)\n(.*?)```", text, re.S))
    assert len(examples) == 6
    for place, source in examples.items():
        assert not (copy / place).exists(), f"{place} is taken; name the example otherwise"
        (copy / place).write_text(source, encoding="utf-8")
    work = tmp_path / "work"
    work.mkdir()
    env = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run(
        [sys.executable, "-c", USED], cwd=work, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "speedboat" in done.stdout
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *GENERIC]
    done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
