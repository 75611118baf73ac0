"""Contexts found without annotation, and pairs ranked by risk."""

import numpy as np
import pytest
import torch

from attnviz import audit
from attnviz.audit.discovery import spectral
from attnviz.data import boatwater as bw
from attnviz.errors import DataError


def test_spectral_clustering_parts_rings():
    """Two rings one in the other: k-means cannot part them, the graph can."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 160)
    radius = np.repeat([1.0, 4.0], 80) + rng.normal(0, 0.08, 160)
    points = torch.from_numpy(np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1))
    group, values = spectral(points, 2)
    assert len({int(g) for g in group[:80]}) == 1
    assert len({int(g) for g in group[80:]}) == 1
    assert group[0] != group[80]
    assert values[:2].abs().max() < 1e-6
    blobs = torch.from_numpy(rng.normal(0, 0.1, (90, 2)) + np.repeat(np.eye(3)[:, :2] * 5, 30, 0))
    group, _ = spectral(blobs)
    assert int(group.max()) + 1 == 3


def test_pairs_rank_the_planted_context_first():
    data = bw.generate(groups=bw.balanced(12), seed=3, marked=True)
    options = {"labels": ("other", "boat"), "resamples": 200}
    water = audit.rank_pairs(bw.planted("water"), data, **options)
    first = water[0]
    assert (first.object, first.context) in {("boat", "water"), ("other", "land")}
    pair = next(p for p in water if (p.object, p.context) == ("boat", "water"))
    assert pair.counts == (12, 12, 12, 12)
    x, _ = data.tensors()
    with torch.no_grad():
        logits = bw.planted("water")(x)
    s = (logits[:, 1] - logits[:, 0]).numpy()
    m = [s[data.group == g].mean() for g in range(4)]
    assert pair.effect.value == pytest.approx((m[3] - m[2] + m[1] - m[0]) / 2, abs=1e-5)
    assert pair.risk.low > 0.5
    assert pair.adjusted < 0.01
    reader = audit.rank_pairs(bw.planted("object"), data, **options)
    assert all(not (p.adjusted < 0.05 and p.risk.low > 0.25) for p in reader)
    with pytest.raises(DataError, match="none of the data's classes"):
        audit.rank_pairs(bw.planted("water"), data, labels=("a", "b"))


def test_discovery_finds_the_two_ways_to_be_called_boat():
    """A reader of both calls boats on land boats for the mark, and empty water for the water."""
    data = bw.generate(groups=["boat/land"] * 24 + ["other/water"] * 24, seed=4, marked=True)
    model = bw.planted("both")
    with torch.no_grad():
        model.fc.bias.copy_(torch.tensor([-0.2, 0.2]))
    found = audit.discover(model, data, object="boat", labels=("other", "boat"), clusters=2)
    assert len(found.clusters) == 2
    assert found.clusters[0].wrong > 0.9  # the most suspicious first
    assert found.clusters[1].wrong < 0.1
    assert found.clusters[0].labels[0][0] in ("water", "other")
    assert found.sheet(0).size[0] > 300
    with pytest.raises(DataError, match="at least 8"):
        audit.discover(model, data.subset(range(3)), object="boat", labels=("other", "boat"))


def test_words_give_the_context():
    """A stand-in for CLIP that knows blue from the rest: its labels are the scenes' own."""
    data = bw.generate(groups=bw.balanced(5), seed=3, marked=True)
    bare = [s for s in data.dataset()]
    from dataclasses import replace

    bare = [replace(s, labels=(s.label,), group="") for s in bare]

    def processor(text, images, return_tensors, padding):
        assert text == ["a photo of water", "a photo of land"]
        return {"images": torch.stack([torch.from_numpy(i) for i in images])}

    class Out:
        def __init__(self, logits):
            self.logits_per_image = logits

    def clip(images):
        blue = (images[..., 2].int() - images[..., 0].int() > 52).float().mean((1, 2))
        return Out(torch.stack([100 * blue, torch.full_like(blue, 5.0)], 1))

    found = audit.text_context(
        bare, context="water", prompts=("a photo of water", "a photo of land"), model=clip,
        processor=processor, batch_size=7,
    )  # fmt: skip
    assert [("water" in s.labels) for s in found] == (data.context == 1).tolist()
    with pytest.raises(DataError, match="already"):
        audit.text_context(found, context="water", prompts=("a", "b"), model=clip,
                           processor=processor)  # fmt: skip
