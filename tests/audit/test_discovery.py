"""Contexts found without annotation, and pairs ranked by risk."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from attnviz import audit, errors
from attnviz.data import boatwater as bw
from attnviz.errors import DataError
from attnviz.statistics.clustering import spectral
from tests.support import planting


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
    water = audit.rank_pairs(planting.planted("water"), data, **options)
    first = water[0]
    assert (first.object, first.context) in {("boat", "water"), ("other", "land")}
    pair = next(p for p in water if (p.object, p.context) == ("boat", "water"))
    assert pair.counts == (12, 12, 12, 12)
    x, _ = data.tensors()
    with torch.no_grad():
        logits = planting.planted("water")(x)
    s = (logits[:, 1] - logits[:, 0]).numpy()
    m = [s[data.group == g].mean() for g in range(4)]
    assert pair.effect.value == pytest.approx((m[3] - m[2] + m[1] - m[0]) / 2, abs=1e-5)
    assert pair.risk.low > 0.5
    assert pair.adjusted < 0.01
    reader = audit.rank_pairs(planting.planted("object"), data, **options)
    assert all(not (p.adjusted < 0.05 and p.risk.low > 0.25) for p in reader)
    with pytest.raises(DataError, match="none of the data's classes"):
        audit.rank_pairs(planting.planted("water"), data, labels=("a", "b"))


def test_discovery_finds_the_two_ways_to_be_called_boat():
    """A reader of both calls boats on land boats for the mark, and empty water for the water."""
    data = bw.generate(groups=["boat/land"] * 24 + ["other/water"] * 24, seed=4, marked=True)
    model = planting.planted("both")
    with torch.no_grad():
        model.fc.bias.copy_(torch.tensor([-0.2, 0.2]))
    found = audit.discover(model, data, object="boat", labels=("other", "boat"), clusters=2)
    assert len(found.clusters) == 2
    assert found.clusters[0].wrong > 0.9  # the most suspicious first
    assert found.clusters[1].wrong < 0.1
    assert found.clusters[0].labels[0][0] in ("water", "other")
    # tiles of 50 pixels and gaps of 2: 5 columns, 3 rows, with maps twice as high
    assert found.sheet(0, columns=5, images=12, side=50).size == (262, 158)
    assert found.sheet(0, columns=5, images=12, side=50, maps=True).size == (262, 308)
    first = found.clusters[0].images[0]
    sheet = np.asarray(found.sheet(0, columns=5, images=12, side=64))
    np.testing.assert_array_equal(sheet[2:66, 2:66], data.images[first])
    assert all(len(c.maps) == len(c.images) == len(c.geometry) for c in found.clusters)
    for c in found.clusters:
        np.testing.assert_allclose(c.maps.mean(0), c.map, atol=1e-7)
    with pytest.raises(DataError, match="at least 8"):
        audit.discover(model, data.subset(range(3)), object="boat", labels=("other", "boat"))


@pytest.mark.parametrize(("reads", "alarms"), [("water", 1), ("object", 0)])
def test_concepts_are_judged_as_contexts(reads, alarms):
    """The water's concept is found and judged in a reader of it, and no concept in one of boats."""
    data = bw.generate(groups=bw.balanced(12), seed=3, marked=True)
    found = audit.discover(
        planting.planted(reads), data, object="boat", labels=("other", "boat"), by="concepts",
        clusters=4, fills=("blur",),
    )  # fmt: skip
    kinds = [None if c.verdict is None else c.verdict.kind for c in found.clusters]
    assert sum(c.verdict is not None and c.verdict.alarm for c in found.clusters) == alarms
    boat = [c for c in found.clusters if c.verdict is None]
    assert len(boat) == 1  # what lies on the object is no candidate
    assert boat[0].on_object > 0.9
    if not alarms:
        assert "object" in kinds
        return
    first = found.clusters[0]
    assert kinds[0] == "context"
    assert first.verdict.severity.low > 0.9
    samples = data.dataset()
    water = [samples[i].mask("water").reshape(16, 4, 16, 4).mean((1, 3)) for i in first.images]
    share = (first.maps * water).sum((1, 2)) / first.maps.sum((1, 2))
    assert share.mean() > 0.7


def test_concepts_need_to_know_where_the_object_is():
    data = bw.generate(groups=bw.balanced(4), seed=3, marked=True)
    bare = [replace(s, masks={}, boxes=()) for s in data.dataset()]
    with pytest.raises(DataError, match="no image says where 'boat' is"):
        audit.discover(planting.planted("water"), bare, object="boat", labels=("other", "boat"),
                       by="concepts", clusters=3, preprocess="unit")  # fmt: skip
    with pytest.raises(DataError, match="did you mean 'concepts'"):
        audit.discover(planting.planted("water"), data, object="boat", by="concept")


def test_words_give_the_context():
    """A stand-in for CLIP that knows blue from the rest: its labels are the scenes' own."""
    data = bw.generate(groups=bw.balanced(5), seed=3, marked=True)
    bare = [replace(s, labels=(s.label,), group="") for s in data.dataset()]

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


def test_words_by_a_saved_clip(tmp_path):
    """A tiny CLIP from a folder gives the labels that its own logits give, image by image."""
    transformers = pytest.importorskip("transformers")
    import json

    pieces = ["<|startoftext|>", "<|endoftext|>", *"wlaternd", *(f"{c}</w>" for c in "wlaternd")]
    (tmp_path / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(pieces)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")
    )
    size = {"shortest_edge": 32}
    looks = transformers.CLIPImageProcessor(size=size, crop_size={"height": 32, "width": 32})
    processor = transformers.CLIPProcessor(looks, tokenizer)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2}  # fmt: skip
    text = {**small, "vocab_size": len(pieces), "max_position_embeddings": 16,
            "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}  # fmt: skip
    vision = {**small, "image_size": 32, "patch_size": 8}
    model = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    ).eval()
    model.save_pretrained(tmp_path / "clip")
    processor.save_pretrained(tmp_path / "clip")
    data = bw.generate(groups=bw.balanced(3), seed=3)
    bare = [replace(s, labels=(s.label,), group="") for s in data.dataset()]
    options = {"context": "water", "prompts": ("water", "land"), "threshold": 0.5}
    found = audit.text_context(bare, model=tmp_path / "clip", **options)
    for sample in found:
        inputs = processor(
            text=["water", "land"], images=[sample.read()], return_tensors="pt", padding=True
        )
        with torch.no_grad():
            share = float(model(**inputs).logits_per_image.softmax(1)[0, 0])
        assert sample.meta["p(water)"] == pytest.approx(share, abs=1e-5)
        assert ("water" in sample.labels) == (share >= 0.5)
    with pytest.raises(errors.ModelError, match="no such folder of a CLIP model"):
        audit.text_context(bare, model=tmp_path / "none", **options)
    with pytest.raises(DataError, match="processor is missing"):
        audit.text_context(bare, model=model, **options)
