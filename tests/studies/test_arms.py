"""The experiment's runner: what is annotated, what is trained, what is counted."""

import json

import arms
import numpy as np
import pytest
import torch
from study import arm_data as _arm_data
from study import arm_list as _arm_list
from study.arm_data import Joined, Parts, Rows, dataset_of, evenly
from study.arm_list import ARMS, Arm
from study.arm_table import findings, interval, table

from attnviz import errors
from attnviz.data import boatwater as bw
from attnviz.guidance import Examples, GuideConfig

SHORT = {"steps": 4, "batch_size": 6, "exchanged": 2}


def parts():
    """Generated scenes in place of composites: boats on water, others on land."""
    train = dataset_of(bw.generate(24, size=64, seed=1, co_occurrence=1.0))
    four = bw.generate(groups=bw.balanced(4), size=64, seed=2)
    known = Examples(dataset_of(four), _arm_data.SCALE, classes=bw.CLASSES)
    groups = torch.from_numpy(four.group.copy())
    ordinary = Examples(
        dataset_of(four.subset(four.label == 0)), _arm_data.SCALE, classes=bw.CLASSES, masks=0.0,
        boxes=0.0,
    )  # fmt: skip
    half = len(train) // 4
    return Parts(train[half:], train[:half], known, groups, known, groups, ordinary)


@pytest.fixture(scope="module")
def scenes():
    pytest.importorskip("timm")
    return parts()


def test_arms_settle_and_say_what_they_were_given():
    """Every arm's settings are ones that `fit` knows, and the table says what is beside labels."""
    for arm in ARMS:
        GuideConfig(**{**arm.settings, "seed": 0})
    given = {a.name: a.given for a in ARMS}
    assert given["plain"] == "nothing"
    assert given["guide"] == "25% masks"
    assert given["guide_dfr"] == "25% masks, 160 images of known groups"
    assert given["boats"] == "other images"
    assert len(given) == len(ARMS)


@pytest.mark.parametrize(
    "name", ["plain", "guide", "has", "acol", "dfr", "dfr_frozen", "validation", "balanced", "jtt"]
)
@pytest.mark.slow
def test_arms_train_and_repeat(name, scenes, tmp_path):
    arm = next(a for a in ARMS if a.name == name)
    net, config, log = arms.train(arm, scenes, 0, SHORT)
    seen = arms.evaluate(net, scenes, config)
    assert len(seen["test"]["accuracy"]) == 4
    assert seen["moved"]["worst"] >= seen["test"]["worst"] - 1e-9
    assert ("head" in log) == (name in ("dfr", "dfr_frozen"))
    if name == "guide":
        assert any(n.startswith("exchange: 2 images beside each batch") for n in log["notes"])
        again, _, _ = arms.train(arm, scenes, 0, SHORT)
        for a, b in zip(net.parameters(), again.parameters(), strict=True):
            assert torch.equal(a, b)
        arms.keep(net, tmp_path / "networks" / "guide-0of2-0.safetensors")
        kept = arms.trained(tmp_path, "guide", 0, 0)
        x = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(kept(x), net(x))


@pytest.mark.slow
def test_masks_go_to_the_images_that_were_chosen(scenes, monkeypatch):
    seen = {}

    def choose(model, data, count, *, criterion, **options):
        seen.update(count=count, criterion=criterion, options=options)
        return type("Choice", (), {"order": list(range(count))})

    monkeypatch.setattr(arms, "choose", choose)
    arm = Arm("chosen", "", {"exchange": False}, masks=0.25, chosen="outside")
    arms.train(arm, scenes, 0, SHORT)
    assert seen == {"count": round(0.25 * len(scenes.train)), "criterion": "outside",
                    "options": {"layer": "bn2"}}  # fmt: skip


def test_the_bias_that_serves_the_worst_group():
    margins = torch.tensor([-3.0, -2.0, -2.5, -1.0, 1.0, 2.0])
    groups = torch.tensor([0, 0, 1, 2, 3, 3])
    # anything between the best other (-2) and the worst boat (-1): the middle
    assert arms.bias(margins, groups) == pytest.approx(-1.5)


def test_rows_and_groups():
    assert evenly(torch.tensor([0, 0, 0, 3])) == [0, 1, 2, 3, 3, 3]

    class Data:
        flip = True

        def __len__(self):
            return 3

        def __getitem__(self, i):
            return i

        def example(self, i, *, mirrored=False):
            return (i, mirrored)

    rows = Rows(Data(), [2, 2, 0])
    both = Joined(Data(), rows)
    assert [both[i] for i in range(len(both))] == [0, 1, 2, 2, 2, 0]
    assert both.example(4, mirrored=True) == (2, True)
    assert both.flip
    with pytest.raises(IndexError):
        both[6]


def test_intervals_of_shares_are_bounded():
    mean, low, high = interval([0.2, 0.4, 0.6])
    assert mean == pytest.approx(0.4)
    assert (high - mean) == pytest.approx(4.302653 * 0.2 / 3**0.5, rel=1e-4)
    assert low == pytest.approx(2 * mean - high)
    # two runs at 0 and 54 %: a plain interval would run from -316 to 370 %
    assert interval([0.0, 0.54], bounds=(0.0, 1.0)) == (pytest.approx(0.27), 0.0, 1.0)


def row(arm, seed, accuracy, energy):
    figures = {"accuracy": accuracy, "worst": min(accuracy), "ordinary": 0.9}
    return {
        "arm": arm, "fold": 0, "seed": seed, "test": figures,
        "moved": {**figures, "worst": 0.6, "ordinary": 0.7},
        "auc": 0.5, "energy": energy, "chance": 0.1,
    }  # fmt: skip


def test_the_table_by_hand():
    rows = [
        row("plain", 0, [1, 0.5, 0.0, 0.9], 0.1), row("plain", 1, [1, 0.5, 0.1, 0.9], 0.1),
        row("guide", 0, [1, 0.9, 0.5, 0.9], 0.4), row("guide", 1, [1, 0.9, 0.6, 0.9], 0.4),
    ]  # fmt: skip
    text = table(rows, ARMS)
    lines = [[c.strip() for c in t.split("|")[1:-1]] for t in text.splitlines()]
    head = lines[0]
    line = dict(zip(head, next(t for t in lines if t[0].startswith("guide:")), strict=True))
    assert line["given"] == "25% masks"
    assert line["runs"] == "2"
    assert line["other/water"] == "90 (90 to 90)"
    assert line["worst group"] == "55 (0 to 100)"
    assert line["ordinary photos"] == "90 (90 to 90)"
    assert line["worst, biases moved"] == "60 (60 to 60)"
    assert line["ordinary, biases moved"] == "70 (70 to 70)"
    assert line["energy / chance"] == "4.0"
    assert "dfr" not in text
    (said,) = findings(rows)
    # 50 and 50: both differences are the same
    assert said == "guide helps: worst group +50 points (+50 to +50) in 2 runs"


@pytest.mark.slow
def test_a_tiny_run_on_photographs(shared_data, tmp_path, monkeypatch):
    """From photographs to the table, and taken up again where it stopped."""
    pytest.importorskip("timm")
    monkeypatch.setattr(_arm_list, "SIZE", 64)
    said = []
    options = {"seeds": 1, "folds": 2, "arms": ["plain", "guide"], "settings": SHORT}
    rows = arms.run(shared_data / "scenes", tmp_path, say=said.append, **options)
    assert [(r["arm"], r["fold"]) for r in rows] == [
        ("plain", 0), ("guide", 0), ("plain", 1), ("guide", 1),
    ]  # fmt: skip
    assert "| plain: labels only | nothing | 2 |" in (tmp_path / "table.md").read_text()
    lines = (tmp_path / "arms.jsonl").read_text().splitlines()
    (tmp_path / "arms.jsonl").write_text("\n".join(lines[:3]) + "\n")
    again = arms.run(shared_data / "scenes", tmp_path, say=said.append, **options)
    for key in ("test", "auc"):
        assert again[3][key] == json.loads(lines[3])[key]
    with pytest.raises(errors.GuidanceError, match="unknown arms"):
        arms.run("", tmp_path, arms=["energie"])
    ordinary = _arm_data.load_parts(shared_data / "scenes", 0, 0, 2, "confounded").ordinary
    assert len(ordinary) > 50
    assert set(ordinary.labels) == {0}
    assert np.asarray(ordinary.samples[0].read()).ndim == 3
