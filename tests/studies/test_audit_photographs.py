"""The audit on real photographs: its parts by hand."""

import json

import arms
import audit_photographs as real
import numpy as np
import pytest
import torch

from attnviz import audit
from attnviz.data import boatwater as bw
from attnviz.guidance import new_head
from attnviz.models import load
from tests.support import planting


def test_a_kept_network_takes_photos(tmp_path):
    """What a run keeps, as a classifier of photos, gives the logits of the trained network."""
    pytest.importorskip("timm")
    net = new_head(load().module, 2, seed=3)
    with torch.no_grad():
        net.conv_head.weight.mul_(1.1)
    arms.keep(net, tmp_path / "networks" / "energy-1of2-4.safetensors")
    made = real.network(tmp_path, "energy", 1, 4, 2)
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    x, _ = made.preprocess(photo)
    # the arms train on 2 x - 1 of RGB in 0 to 1
    want = 2 * torch.from_numpy(photo.transpose(2, 0, 1).copy()).float() / 255 - 1
    torch.testing.assert_close(x, want, rtol=0, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(made.module(x[None]), net.eval()(want[None]))
    assert made.labels == ("other", "boat")
    assert real.OPTIONS["layer"] in dict(made.module.named_modules())


def test_findings_of_a_planted_pair():
    data = bw.generate(groups=bw.balanced(12), seed=3, marked=True)
    found = audit.against(
        planting.planted("water"), planting.planted("object"), data, object="boat", context="water",
        fills=("blur",), methods=("gradcam",), examples=0, resamples=200,
    )  # fmt: skip
    told = real.findings(found)
    assert json.loads(json.dumps(told)) == told
    assert (told["found"], told["then"]) == ("context", "object")
    assert told["agree"] is True
    assert set(told["lines"]) == {"groups", "removal", "transplant"}
    assert told["right"]["boat, no water"] == [0.0, 1.0]
    assert told["better"]["boat, no water"] < 0.05
    assert told["worse"] == {}
    other = real.findings(audit.compare(found.after, found.after))
    assert other["agree"] is False
    assert other["better"] == {}
