"""What a run depends on: anything that changes its numbers changes its identity."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from attnviz import shards
from attnviz.data import Sample
from attnviz.data.identity import option_stamp, run_versions, sample_stamp, weights_stamp
from attnviz.data.masks import ArrayMask, BoxMask, MaskFile, PolygonMask, RunLengthMask, UnionMask
from attnviz.data.sample import Box
from attnviz.errors import DataError


class Net(nn.Module):
    def __init__(self, scale: float = 1.0, p: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.drop = nn.Dropout(p)
        self.head = nn.Linear(4, 2)
        self.register_buffer("scale", torch.tensor(scale), persistent=False)

    def forward(self, x):
        x = self.drop(self.again(self.conv(x).relu()).relu())
        return self.head(x.mean((2, 3))) * self.scale


def test_weights_buffers_that_no_checkpoint_keeps_and_settings_count():
    assert weights_stamp(Net()) == weights_stamp(Net())
    other = Net()
    with torch.no_grad():
        other.head.bias[0] += 1e-6
    stamps = {weights_stamp(n) for n in (Net(), other, Net(scale=2.0), Net(p=0.5), Net().double())}
    assert len(stamps) == 5


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize")
def test_quantised_weights_count():
    """They stand in no tensor of the state dict, but in a pair."""
    quantization = pytest.importorskip("torch.ao.quantization")
    made = []
    for value in (0.5, -0.5):
        net = nn.Sequential(nn.Linear(4, 2))
        with torch.no_grad():
            net[0].weight.fill_(value)
            net[0].bias.zero_()
        made.append(quantization.quantize_dynamic(net, {nn.Linear}, torch.qint8))
    assert weights_stamp(made[0]) != weights_stamp(made[1])


def test_what_lies_in_memory_where_does_not_count():
    """A function as an attribute prints its address, another one in each process."""

    class Activated(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = lambda x: x

        def extra_repr(self):
            return f"act={self.act}"

    assert weights_stamp(Activated()) == weights_stamp(Activated())


def test_options_that_json_does_not_hold():
    net = Net()
    told = [
        option_stamp(v, net)
        for v in (net.conv, net.again, torch.zeros(9), torch.ones(9), np.zeros(3), [net.conv, 1])
    ]
    assert len({str(t) for t in told}) == len(told)
    assert option_stamp(net.again, Net()) != option_stamp(net.again, net)
    assert option_stamp(torch.zeros(9)) == option_stamp(torch.zeros(9))
    assert option_stamp(torch.zeros(2000)) != option_stamp(torch.zeros(2001))
    assert option_stamp([1, "a", None]) == [1, "a", None]
    assert option_stamp(run_versions) == {"given": "attnviz.data.identity.run_versions"}


@pytest.fixture
def samples(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(2):
        pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    Image.fromarray(np.eye(16, dtype=np.uint8)).save(tmp_path / "mask.png")
    return [Sample(str(i), tmp_path / f"{i}.png", label="a") for i in range(2)]


def kept_time(path, change):
    """Change a file, and put its time back, as `cp -p` and archives do."""
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def flip(path):
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(bytes(data))


def test_a_photo_or_mask_changed_with_its_time_kept_is_another(samples, tmp_path):
    mask = MaskFile(tmp_path / "mask.png")
    for source in (mask, UnionMask((BoxMask((0, 0, 2, 2)), mask))):
        sample = Sample("0", samples[0].image, label="a", masks={"a": source})
        before = sample_stamp(sample)
        kept_time(tmp_path / "mask.png", flip)
        after = sample_stamp(sample)
        kept_time(samples[0].image, flip)
        assert len({before, after, sample_stamp(sample)}) == 3


def test_everything_that_annotation_says_counts(samples):
    image = samples[0].image
    masks = [
        {}, {"a": BoxMask((0, 0, 4, 4))}, {"a": BoxMask((0, 0, 4, 5))},
        {"a": PolygonMask(((0, 0, 4, 0, 4, 4.0),))}, {"a": PolygonMask(((0, 0, 4, 0, 4, 4.5),))},
        {"a": RunLengthMask((10, 246), (16, 16))}, {"a": RunLengthMask((11, 245), (16, 16))},
        {"a": ArrayMask(np.eye(16))}, {"a": ArrayMask(np.ones((16, 16)))},
        {"b": ArrayMask(np.ones((16, 16)))}, {"a": MaskFile(image)}, {"a": MaskFile(image, (1,))},
    ]  # fmt: skip
    made = [Sample("0", image, label="a", masks=m) for m in masks]
    made += [
        Sample("0", image, label="b"), Sample("1", image, label="a"),
        Sample("0", image, label="a", boxes=(Box(0, 0, 3, 3, "a"),)),
        Sample("0", image, label="a", group="a/b"), Sample("0", image, label="a", source="x"),
        Sample("0", image, label="a", meta={"background": "sea.jpg"}),
    ]  # fmt: skip
    stamps = [sample_stamp(s) for s in made]
    assert len(set(stamps)) == len(stamps)


@pytest.mark.parametrize("what", ["photo", "mask", "label", "weights", "layer", "torch"])
def test_shards_of_another_run_are_refused_with_what_differs(samples, tmp_path, monkeypatch, what):
    masks = {"a": MaskFile(tmp_path / "mask.png")}
    samples[0] = Sample("0", samples[0].image, label="a", masks=masks)
    net, out = Net(), tmp_path / "out"
    options = {"preprocess": "unit", "layer": net.conv, "target": 0}
    shards.explain_dataset(net, samples, out, **options)
    shards.explain_dataset(net, samples, out, **options)  # the same: nothing to say
    said = "data"
    if what == "photo":
        kept_time(samples[1].image, flip)
    elif what == "mask":
        kept_time(tmp_path / "mask.png", flip)
    elif what == "label":
        samples[1] = Sample("1", samples[1].image, label="b")
    elif what == "weights":
        said = "weights"
        net.scale += 1  # a buffer that its checkpoint leaves out
    elif what == "layer":
        said = "options"
        options["layer"] = net.again
    else:
        said = "torch"
        monkeypatch.setattr(torch, "__version__", "9.9")
    with pytest.raises(DataError, match=f"another run, .*{said}.* differ"):
        shards.explain_dataset(net, samples, out, **options)
