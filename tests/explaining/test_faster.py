"""Half precision and compiled code: the same maps, up to the rounding that each has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import attnviz
from attnviz.errors import CaptureError, MethodError
from tests.support.folders import two_classes


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in ((3, 16), (16, 24), (24, 32))]  # fmt: skip
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)).eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(1))


def compiled_parts(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Have `torch.compile` run code as it is, and say which modules ran so."""
    ran: list[nn.Module] = []

    def compile(run: object) -> object:
        def call(part: nn.Module, *args: object) -> object:
            ran.append(part)
            return run(part, *args)

        return call

    monkeypatch.setattr(torch, "compile", compile)
    return ran


@pytest.mark.parametrize(
    ("method", "least"),
    # occlusion is a difference of two scores, each rounded to 8 bits
    [("gradcam", 0.999), ("layercam", 0.999), ("eigencam", 0.999), ("occlusion", 0.95)],
)
def test_maps_in_half_precision_are_those_in_single(net, x, method, least) -> None:
    full = attnviz.explain(net, x, method=method, target=2)
    half = attnviz.explain(net, x, method=method, target=2, amp=True)
    assert half.meta["amp"] == "bfloat16"
    assert "amp" not in full.meta
    assert half.values.dtype == torch.float32
    assert not torch.equal(half.values, full.values)
    for a, b in zip(half.values, full.values, strict=True):
        assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > least
    assert all(p.dtype == torch.float32 for p in net.parameters())
    assert not torch.is_autocast_enabled("cpu")


def test_half_precision_is_of_a_single_precision_model(net, x) -> None:
    with pytest.raises(MethodError, match=r"are float64; leave it out, or .* model\.float\(\)"):
        attnviz.explain(net.double(), x.double(), amp=True)


def test_what_is_read_runs_as_it_is_and_the_rest_compiled(net, x, monkeypatch) -> None:
    want = attnviz.explain(net, x, layer="1.1", target=2)
    ran = compiled_parts(monkeypatch)
    seen: list[int] = []
    net[2].register_forward_hook(lambda *_: seen.append(1))
    got = attnviz.explain(net, x, layer="1.1", target=2, compile=True)
    assert torch.equal(got.values, want.values)
    assert got.meta["compile"] is True
    # whole parts where nothing is read; around the layer that is read, and the user's own hook,
    # what stands beside them
    for part in (net[0], net[1][0], net[1][2], *net[2], *net[3:]):
        assert any(part is other for other in ran)
    assert not any(other in (net, net[1], net[1][1], net[2], net[0][0]) for other in ran)
    assert seen
    assert all("_compiled_call_impl" not in part.__dict__ for part in net.modules())


def test_compiled_parts_are_put_back_and_refused_where_they_would_not_do(
    net, x, monkeypatch
) -> None:
    compiled_parts(monkeypatch)
    with pytest.raises(attnviz.errors.TargetError):
        attnviz.explain(net, x, target=99, compile=True)
    assert all("_compiled_call_impl" not in part.__dict__ for part in net.modules())
    with pytest.raises(MethodError, match="compile=True is not for integrated_gradients"):
        attnviz.explain(net, x, method="integrated_gradients", compile=True)
    with pytest.raises(MethodError, match="training on maps"):
        attnviz.explain(net, x, create_graph=True, compile=True)
    net[0]._compiled_call_impl = net[0]._call_impl
    with pytest.raises(CaptureError, match="compiled already"):
        attnviz.explain(net, x, compile=True)


@pytest.mark.slow
def test_without_a_compiler_the_next_step_is_said(tmp_path: Path) -> None:
    code = "import attnviz, torch; from tests.cli.tiny import Colours\n"
    code += "attnviz.explain(Colours(), torch.rand(1, 3, 32, 32), compile=True)"
    env = {**os.environ, "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, text=True, capture_output=True)
    last = done.stderr.strip().splitlines()[-1]
    assert "CaptureError: torch.compile cannot compile" in last
    assert "Leave compile=True out; on a CPU it needs a C++ compiler" in last


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gradcam", "scorecam"])
def test_compiled_maps_are_the_eager_ones(net, x, method) -> None:
    want = attnviz.explain(net, x, method=method, target=2, layer="2")
    for batch in (x, x[:2], x):
        got = attnviz.explain(net, batch, method=method, target=2, layer="2", compile=True)
        torch.testing.assert_close(got.values, want.values[: len(batch)], rtol=1e-5, atol=1e-6)


def test_the_command_records_half_precision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from attnviz.cli import main

    folder = two_classes(tmp_path / "data")
    (folder / "red" / "broken.png").unlink()
    model = ["--model", "tests.cli.tiny:colours", "--preprocess", "imagenet"]
    for path in sorted((folder / "red").iterdir()):
        if path.suffix != ".png":
            path.unlink()
    out = tmp_path / "out"
    line = ["explain", str(folder), "--shards", "--amp", "--target", "1", "--out", str(out), *model]
    assert main(line) == 0, capsys.readouterr()
    assert json.loads((out / "run.json").read_text())["options"]["amp"] is True
    assert main(["verify", str(out), *model]) == 0
    assert main(["explain", str(folder), "--method", "lrp", "--compile", *model]) != 0
    assert "--compile is not for lrp" in capsys.readouterr().err
