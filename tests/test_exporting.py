"""Exported models: their map is that of `explain`, in ONNX Runtime and in exported programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import attnviz
from attnviz.errors import DataError, MethodError
from attnviz.exporting import export_with_map, with_map

SIZE = 64


class Small(nn.Module):
    """Two convolutions, their mean, and a head that is linear or a 1 x 1 convolution."""

    def __init__(self, *, conv: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 8, 3, 2))
        self.head = nn.Conv2d(8, 5, 1) if conv else nn.Linear(8, 5)
        self.conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.body(x).mean((2, 3), keepdim=True)
        return self.head(pooled if self.conv else pooled.flatten(1)).flatten(1)


def model(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name in ("linear", "conv", "norm"):
        net = Small(conv=name == "conv").eval()
        if name == "norm":
            net.head = nn.Sequential(nn.LayerNorm(8), nn.Dropout(), nn.Linear(8, 5)).eval()
            nn.init.normal_(net.head[0].weight)
        return net
    timm = pytest.importorskip("timm")
    options = {"img_size": SIZE} if name.startswith(("vit", "swin")) else {}
    return timm.create_model(name, num_classes=7, **options).eval()


NAMES = ["linear", "conv", "norm", "vit_tiny_patch16_224"]
SLOW = [
    "resnet18", "resnetv2_50", "tf_efficientnet_lite0", "convnext_atto",
    "swin_tiny_patch4_window7_224",
]  # fmt: skip


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def same(found: torch.Tensor | np.ndarray, wanted: torch.Tensor) -> None:
    scale = float(wanted.abs().max())
    torch.testing.assert_close(torch.as_tensor(found), wanted, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_forward_gives_the_map_of_explain(name: str, x: torch.Tensor) -> None:
    net = model(name)
    wrapped = with_map(net, x[:1])
    with torch.no_grad():
        logits, drawn = wrapped(x)
    maps = attnviz.explain(net, x, method=wrapped.method)
    same(drawn, maps.values)
    same(logits, net(x).detach())
    hooks = [m for m in net.modules() if m._forward_hooks or getattr(m, "fused_attn", 1) == 0]
    assert not hooks  # the user's own model is as it was


@pytest.mark.parametrize(
    "name",
    ["conv", *(pytest.param(n, marks=pytest.mark.slow) for n in [*NAMES, *SLOW] if n != "conv")],
)
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_files_give_the_map_of_explain_for_any_batch(
    name: str, suffix: str, x: torch.Tensor, tmp_path: Path
) -> None:
    if suffix == ".onnx":
        for module in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(module, reason=f"the extra 'export' brings {module}")
    net, path = model(name), tmp_path / f"model{suffix}"
    wrapped = export_with_map(net, path, x[:1])
    for batch in (x, x[:1]):
        if suffix == ".onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            logits, drawn = session.run(["logits", "heatmap"], {"input": batch.numpy()})
        else:
            with torch.no_grad():
                logits, drawn = torch.export.load(str(path)).module()(batch)
        same(drawn, attnviz.explain(net, batch, method=wrapped.method).values)
        same(logits, net(batch).detach())


def test_cam_through_a_convolution_of_one_pixel_adds_up_to_the_logit(x: torch.Tensor) -> None:
    net = model("conv")
    maps = attnviz.explain(net, x, method="cam", layer="body", classes=[1, 3])
    wanted = net(x)[:, [1, 3]].detach().flatten() - net.head.bias.detach()[[1, 3]].repeat(3)
    torch.testing.assert_close(maps.values.mean((1, 2)), wanted)


def test_what_has_no_map_without_gradients_is_refused(x: torch.Tensor, tmp_path: Path) -> None:
    class Deep(Small):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5))

    with pytest.raises(MethodError, match="not one linear layer"):
        with_map(Deep().eval(), x[:1])
    with pytest.raises(DataError, match=r"\.onnx or \.pt2"):
        export_with_map(model("linear"), tmp_path / "model.pth", x[:1])
    assert not list(tmp_path.iterdir())


def test_a_file_in_8_bits_says_how_far_its_maps_are_the_same(
    x: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from attnviz.cli import main
    from attnviz.quantizing import quantise

    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason=f"the extra 'export' brings {module}")
    path = tmp_path / "colours.onnx"
    photos = tmp_path / "photos"
    photos.mkdir()
    draw = np.random.default_rng(0)
    for number in range(6):
        coarse = draw.integers(0, 256, (4, 4, 3), np.uint8).repeat(24, 0).repeat(24, 1)
        Image.fromarray(coarse).save(photos / f"{number}.png")
    line = ["export", "tests.cli.tiny:colours", "--with-map", str(path), "--quantize", "int8"]
    prepare = ["--preprocess", "imagenet", "--resize", "96", "--crop", "96", "--size", "96"]
    assert main([*line, *prepare, "--photos", str(photos), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["quantized"]
    assert said["images"] == 3
    assert said["same_class"] == 1
    assert 0.98 < said["lowest"] <= said["correlation"] < 1
    import onnx

    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert "DequantizeLinear" in kinds
    assert main([*line, "--force"]) == 2
    assert "--photos" in capsys.readouterr().err
    with pytest.raises(DataError, match="at least 2 photos, got 1"):
        quantise(path, [x[0]])


def test_the_command_writes_a_program_that_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from attnviz.cli import main

    path = tmp_path / "colours.pt2"
    line = ["export", "tests.cli.tiny:colours", "--size", "96", "--with-map", str(path)]
    assert main(line) == 0
    assert "input B x 3 x 96 x 96, cam" in capsys.readouterr().out
    assert main(line) == 1
    assert "--force" in capsys.readouterr().err
    assert main([*line, "--force", "--mean", ".5,.5,.5"]) == 2  # no photo is read
    x = torch.randn(3, 3, 96, 96)
    with torch.no_grad():
        _, drawn = torch.export.load(str(path)).module()(x)
    from tests.cli.tiny import colours

    same(drawn, attnviz.explain(colours(), x, method="cam").values)
