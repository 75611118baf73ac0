"""The experiment's runner: what is annotated, what is trained, what is counted."""

import json

import arms
import numpy as np
import pytest
import torch
from study import arm_data as _arm_data
from study import arm_list as _arm_list
from study.arm_data import Joined, Rows, evenly, parts_of
from study.arm_list import ARMS, Arm
from study.arm_table import findings, interval, table
from study.group_dro import GroupWeights
from study.worlds import COLOURS, WORLDS, digit_parts, groups_of

from attnviz import errors
from attnviz.data import boatwater as bw
from attnviz.guidance import GuideConfig

SHORT = {"steps": 4, "batch_size": 6, "exchanged": 2}


def parts():
    """Generated scenes in place of composites: boats on water, others on land."""
    train = bw.generate(24, size=64, seed=1, co_occurrence=1.0)
    four = bw.generate(groups=bw.balanced(4), size=64, seed=2)
    return parts_of(train, four, four, four.subset(four.label == 0), seed=0)


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
    "name",
    [
        "plain",
        "guide",
        "has",
        "acol",
        "dfr",
        "dfr_frozen",
        "validation",
        "balanced",
        "jtt",
        "group_dro",
    ],
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


def test_more_runs_on_the_same_objects_do_not_narrow_an_interval_to_nothing():
    """Runs that agree on 25 objects: 1.96 sqrt(p (1 - p) / 25), and by t over runs beside it."""
    same = [0.5] * 20
    assert interval(same) == (0.5, 0.5, 0.5)
    _, low, high = interval(same, objects=25)
    assert high - 0.5 == pytest.approx(1.96 * 0.1)
    assert 0.5 - low == pytest.approx(1.96 * 0.1)
    _, low, high = interval([0.2, 0.4, 0.6], objects=25)
    runs = 4.302653 * 0.2 / 3**0.5
    objects = 1.96 * (11 / 27 * 16 / 27 / 25) ** 0.5
    assert high - 0.4 == pytest.approx((runs**2 + objects**2) ** 0.5, rel=1e-4)
    # all right of 10: the interval is not empty
    assert interval([1.0, 1.0], bounds=(0.0, 1.0), objects=10)[1] < 0.9


def test_group_weights_by_hand():
    """Algorithm 1 of Sagawa et al.: q moves before it weighs, groups without an image rest."""
    weights = GroupWeights(4, rate=0.5)
    losses, groups = torch.tensor([1.0, 3.0, 0.4]), torch.tensor([0, 0, 3])
    total = weights.loss(losses, groups)
    q = torch.tensor([1.0, 0.0, 0.0, 0.2]).mul(2.0 * 0.5).exp() / 4
    q /= q.sum()
    torch.testing.assert_close(weights.q, q)
    assert float(total) == pytest.approx(float(q[0] * 2.0 + q[3] * 0.4), rel=1e-6)


def test_digits_are_coloured_by_their_groups():
    """A class has its colour in training, no digit is in two parts, masks are the white strokes."""
    pytest.importorskip("sklearn")
    made = digit_parts(None, 0, 0, 2, "0.95")
    share = float((made.train_groups % 3 == 0).float().mean())
    assert share == pytest.approx(0.95, abs=0.02)
    assert digit_parts(None, 0, 0, 2, "confounded").train_groups.unique().tolist() == [0, 3]
    assert made.test_groups.bincount().tolist() == [80] * 4
    assert made.objects == (80,) * 4
    for i, group in enumerate(made.test_groups[:12].tolist()):
        sample = made.test.samples[i]
        image, mask = sample.read().astype(int), sample.mask(sample.label)
        near = [np.abs(image[~mask].mean(0) - c).sum() for c in COLOURS]
        assert np.argmin(near) == group % 2
        assert made.test.labels[i] == group // 2
        assert image[mask].min() > 180
    assert groups_of(40, "swapped", np.random.default_rng(0)).tolist().count(3) == 15


@pytest.mark.slow
@pytest.mark.parametrize("world", ["digits", "scenes"])
def test_a_tiny_run_in_another_world(world, tmp_path):
    """Group labels tell a small network what confounded data cannot."""
    names = ["plain", "guide", "gain", "dfr", "group_dro"]
    rows = arms.run(
        None, tmp_path, world=world, seeds=1, folds=2, arms=names, co_occurrence=0.95,
        settings={"steps": 60}, say=lambda _: None,
    )  # fmt: skip
    assert [r["arm"] for r in rows] == names * 2
    worst = {n: np.mean([r["test"]["worst"] for r in rows if r["arm"] == n]) for n in names}
    assert worst["group_dro"] > worst["plain"] + 0.2
    text = (tmp_path / "table.md").read_text()
    assert " | ".join(WORLDS[world].groups) in text
    assert "all images' groups, 160 images of known groups" in text
    with pytest.raises(errors.GuidanceError, match="needs data"):
        arms.run(None, tmp_path / "more")


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
    assert line["ordinary"] == "90 (90 to 90)"
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
