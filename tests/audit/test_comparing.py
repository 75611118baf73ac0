"""Two models on the same images; and the story that compares before and after."""

import numpy as np
import pytest

from attnviz import audit
from attnviz.audit.story import Story, tell
from attnviz.data import boatwater as bw
from attnviz.errors import DataError
from tests.support import planting

FAST = {"object": "boat", "context": "water", "fills": ("blur",), "methods": ("gradcam",),
        "examples": 0, "resamples": 200}  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return bw.generate(groups=bw.balanced(12), seed=3, marked=True)


def test_paired_by_hand(data):
    both = audit.against(planting.planted("water"), planting.planted("object"), data, **FAST)
    a, b = both.before.table, both.after.table
    changes = {(c.what, c.group): c for c in both.changes}
    land = changes["right", "boat, no water"]
    assert (land.better, land.worse) == (12, 0)
    assert land.p == pytest.approx(2 / 2**12)
    assert land.significant
    whole = changes["right", "all"]
    assert whole.better == int((b.right > a.right).sum())
    assert whole.difference.value == pytest.approx((b.right - a.right).mean())
    energy = changes["energy in boat", "boat, water"]
    rows = a.group == 3
    name = "map:gradcam:object"
    want = np.nanmean((b.columns[name] - a.columns[name])[rows])
    assert energy.difference.value == pytest.approx(want, abs=1e-6)
    assert energy.difference.low > 0
    assert set(both.better) == {a.ids[i] for i in np.flatnonzero(b.right > a.right)}
    assert both.worse == ()
    assert "answers got better over all images and in 'boat, no water'" in both.text
    # each that is shown is what the tables say, before and after
    assert [m.id for m in both.shown] == list(both.better[:6])
    for moved in both.shown:
        row = a.ids.index(moved.id)
        assert moved.better
        for example, table in ((moved.before, a), (moved.after, b)):
            assert example.score == pytest.approx(float(table.columns["score"][row]), abs=1e-5)
            assert example.right == bool(table.right[row])
            assert example.strip == ()


def test_a_model_against_itself_changes_nothing(data):
    same = audit.against(planting.planted("water"), planting.planted("water"), data, **FAST)
    assert all(c.difference.value == 0 for c in same.changes)
    assert not any(c.significant for c in same.changes)
    assert "no change of the answers is beyond chance" in same.text
    assert same.shown == ()
    other = audit.confusion(planting.planted("water"), data.subset(range(44)), **FAST)
    with pytest.raises(DataError, match="unlike images"):
        audit.compare(same.before, other)


def test_a_model_trained_on_since_its_audit_is_not_shown(data):
    import pickle

    import torch

    model = planting.planted("water")
    before = audit.confusion(model, data, **FAST)
    after = audit.confusion(planting.planted("object"), data, **FAST)
    assert len(audit.compare(before, after, examples=2).shown) == 2
    with torch.no_grad():
        model.fc.bias.add_(1)
    assert audit.compare(before, after).shown == ()
    again = pickle.loads(pickle.dumps(before))
    assert again.as_dict() == before.as_dict()
    assert audit.compare(again, after).shown == ()


@pytest.mark.slow
def test_story_finds_the_confusion_and_reports_what_guidance_did(tmp_path):
    told = tell(scenes=300, test_per_group=12, settings={"epochs": 2})
    before = told.comparison.before
    assert before.verdict.kind == "context"
    assert before.severity.low > 0.5
    assert told.save(tmp_path)["report"].exists()
    rise = {(c.what, c.group): c for c in told.comparison.changes}["energy in boat", "boat, water"]
    assert rise.difference.low > 0  # the maps moved onto the boat, on scenes that neither saw
    assert set(told.alone) == {"before", "map", "images", "both"}
    assert told.alone["before"] < 0.2
    assert all(f"{100 * v:.0f} %" in told.repaired_by for v in told.alone.values())


def test_the_story_credits_what_repaired():
    def said(map_, images, both):
        alone = {"before": 0.0, "map": map_, "images": images, "both": both}
        return Story(None, None, None, {}, alone).repaired_by

    assert said(0.0, 0.92, 0.88).startswith(
        "what repaired the answers: the images put together anew and not the loss on the map"
    )
    assert said(0.8, 0.0, 0.8).startswith("what repaired the answers: the loss on the map (")
    assert "neither alone" in said(0.1, 0.2, 0.9)
    assert said(0.0, 0.0, 0.05).startswith("the answers were not repaired")
