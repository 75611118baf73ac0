"""The experiment's runner: what is annotated, what is trained, what is counted."""

import json
from dataclasses import replace
from types import SimpleNamespace

import arms
import pytest
import torch
from study import arm_data as _arm_data
from study import arm_list as _arm_list
from study.arm_data import Part, box_of
from study.arm_table import budget, findings, interval, table
from study.frozen import divide, features

from attnviz import errors


@pytest.fixture(scope="module")
def net():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    return timm.create_model("tf_efficientnet_lite0", num_classes=5).eval()


def part(n=24, erased=True):
    """Class 1 is a bright channel 0 under the mask, and channel 1 everywhere else (the water)."""
    generator = torch.Generator().manual_seed(n)
    x = 0.05 * torch.randn(n, 320, 4, 4, generator=generator)
    labels = torch.arange(n) % 2
    masks = torch.zeros(n, 16, 16, dtype=torch.bool)
    masks[:, 4:8, 8:12] = True
    without = x.clone()
    x[labels == 1, 0, 1, 2] += 3
    for y in (x, without):
        y[labels == 1, 1] += 1
    return Part(
        x, without if erased else torch.zeros(0), without if erased else torch.zeros(0), masks,
        labels, 3 * labels,
    )  # fmt: skip


def test_the_two_parts_are_the_network(net):
    for frozen in (0, 9, 16):
        prefix, tail = divide(net, frozen, classes=5)
        tail.classifier.load_state_dict(net.classifier.state_dict())
        x = torch.randn(3, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(
                tail(features(prefix, x, batch_size=2)), net(x), rtol=1e-4, atol=1e-5
            )
    assert all(p.requires_grad for p in net.parameters())
    with pytest.raises(errors.ModelError, match="0 to 16"):
        divide(net, 17)
    with pytest.raises(errors.ModelError, match="no timm EfficientNet"):
        divide(torch.nn.Linear(2, 2), 1)


def test_annotation_is_dealt_by_class():
    draws = torch.Generator().manual_seed(0)
    data = part(40)
    kinds = data.deal(0.2, 0.5, draws)
    for label in (0, 1):
        own = kinds[data.labels == label]
        assert [(own == k).sum().item() for k in (0, 1, 2)] == [8, 4, 8]
    x, y, known = data.batch(torch.tensor([1, 2]), torch.tensor([0, 1, 0]), mirrored=True)
    assert torch.equal(x, data.features[[1, 2]].flip(-1))
    assert known[1] is None
    expected = torch.zeros(4, 4)
    expected[1, 1] = 1  # column 2, mirrored
    assert torch.equal(known[0], expected)
    assert len(data.context(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2]), False)) == 2
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[1, 2] = mask[3, 4] = True
    assert box_of(mask).nonzero().amin(0).tolist() == [1, 2]
    assert box_of(mask).sum() == 9


@pytest.mark.parametrize("arm", arms.ARMS, ids=lambda a: a.name)
def test_every_arm_trains(arm, net):
    how = arms.Training(steps=6, batch=6, annotated=2)
    tail, log = arms.train(arm, arm.weights[-1], part(), net, 0, how)
    figures = arms.evaluate(tail, part())
    assert not log["stopped"]
    assert figures["chance"] == pytest.approx(1 / 16)
    assert len(figures["accuracy"]) == 4
    again, _ = arms.train(arm, arm.weights[-1], part(), net, 0, how)
    assert torch.equal(again.classifier.weight, tail.classifier.weight)


def test_masks_go_to_the_images_that_were_chosen(net, monkeypatch):
    asked = {}

    def record(model, data, count, *, criterion, layer):
        asked.update(count=count, criterion=criterion, layer=layer, images=len(data))
        return SimpleNamespace(order=(3, 5))

    monkeypatch.setattr(arms, "choose", record)
    arm = replace(next(a for a in arms.ARMS if a.name == "outside_5"), masks=0.1)
    kinds = arms._chosen(arm, part(), net, 0, arms.Training(steps=2, batch=4, annotated=2))
    assert kinds.nonzero()[:, 0].tolist() == [3, 5]
    assert kinds[[3, 5]].tolist() == [1, 1]
    assert asked == {"count": 2, "criterion": "outside", "layer": "bn2", "images": 24}


def test_energy_and_context_do_what_they_are_for(net):
    """The object is in channel 0, the water in channel 1: guided, the evidence moves."""
    how = arms.Training(steps=60, batch=12, annotated=6)
    by_name = {a.name: a for a in arms.ARMS}
    plain, _ = arms.train(by_name["plain"], 0.0, part(), net, 0, how)
    guided, _ = arms.train(by_name["context_100"], 10.0, part(), net, 0, how)

    def both(tail):
        figures = arms.evaluate(tail, part())
        data = part()
        with torch.no_grad():
            told = tail(data.without_mask).softmax(1)[:, 1]
        return figures["energy_by_group"][3], (told - 0.5).abs().mean().item()

    (energy, told), (energy_guided, told_guided) = both(plain), both(guided)
    assert energy_guided > 1.5 * energy
    assert told_guided < 0.5 * told


def test_biases_move_to_the_middle_of_the_best(net):
    """Margins 1 (boat/land) and 2 (other/water) the wrong way round of nothing: by hand."""
    _, tail = divide(net, 16)
    features = torch.zeros(8, 320, 2, 2)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    groups = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    none = torch.zeros(0)
    data = Part(features, none, none, torch.zeros(8, 4, 4, dtype=torch.bool), labels, groups)
    wanted = torch.tensor([-9.0, -8.0, -5.0, -3.0, -2.0, 1.0, 5.0, 6.0])

    class Known(torch.nn.Module):
        classifier = torch.nn.Linear(1, 2)

        def forward(self, x):
            score = wanted + self.classifier.bias[1] - self.classifier.bias[0]
            return torch.stack([torch.zeros_like(score), score], 1)

    known = Known()
    torch.nn.init.zeros_(known.classifier.bias)
    # every margin between -3 and -2 parts all groups rightly
    assert arms.settle(known, data) == pytest.approx(-2.5)
    assert (arms.margins(known, data) > 0).tolist() == [False] * 4 + [True] * 4
    assert arms.settle(known, data) == pytest.approx(0.0)


def test_hidden_cells(net):
    maps = torch.arange(20.0).reshape(1, 4, 5)
    assert arms._hidden("map", maps, None)[0].nonzero().tolist() == [[3, k] for k in (1, 2, 3, 4)]
    draws = torch.Generator().manual_seed(0)
    share = arms._hidden("random", torch.zeros(50, 7, 7), draws).mean()
    assert abs(share - 0.5) < 4 * 0.5 / 2450**0.5  # four standard deviations


def test_boats_alone_change_their_context():
    first, second = part(12), part(8)
    joined = _arm_data._boats_of(first, second)
    assert joined.labels.tolist() == [0] * 6 + [1] * 4
    assert torch.equal(joined.features[:6], first.features[::2])
    assert torch.equal(joined.features[6:], second.features[1::2])


def test_runs_resume_and_choose_on_validation(tmp_path, net, monkeypatch):
    seen = []

    def fake_part(data, folder, model, fold, seed, folds, name, kind="confounded"):
        seen.append((fold, seed, name, kind))
        made = part(24 if name == "train" else 16)
        groups = 2 * made.labels + (torch.arange(len(made)) // 2) % 2
        return made if name == "train" else replace(made, groups=groups)

    monkeypatch.setattr(arms, "load_part", fake_part)
    monkeypatch.setattr("attnviz.models.load", lambda: type("L", (), {"module": net}))
    how = arms.Training(steps=3, batch=4, annotated=2)
    common = {"seeds": 2, "folds": 2, "how": how, "say": lambda *_: None}
    rows = arms.run("", tmp_path, arms=["plain"], **common)
    assert len(rows) == 4
    rows = arms.run("", tmp_path, arms=["plain", "energy_25"], **common)
    assert len(rows) == 8
    lines = [json.loads(t) for t in (tmp_path / "arms.jsonl").read_text().splitlines()]
    assert [(r["arm"], r["fold"], r["seed"]) for r in lines[:2]] == [
        ("plain", 0, 0),
        ("plain", 0, 1),
    ]
    per_fold = {(r["fold"], r["arm"]): set() for r in rows}
    for r in rows:
        per_fold[r["fold"], r["arm"]].add(r["weight"])
    assert all(len(w) == 1 for w in per_fold.values())  # chosen once a fold
    # the test part is opened once for each row
    assert sum(name == "test" for *_, name, _ in seen) == 8
    assert "energy_25" in (tmp_path / "table.md").read_text()
    # what was kept is the network of the row's figures, biases moved
    last = arms.trained(tmp_path, "energy_25", 1, 1)
    figures = arms.evaluate(last[1], fake_part("", "", None, 1, 1, 2, "test"))
    for key, value in rows[-1]["test"].items():
        assert figures[key] == pytest.approx(value), key
    with pytest.raises(errors.GuidanceError, match="unknown arms"):
        arms.run("", tmp_path, arms=["energie"])


def test_the_table_by_hand():
    mean, low, high = interval([0.2, 0.4, 0.6])
    assert mean == pytest.approx(0.4)
    assert (high - mean) == pytest.approx(4.302653 * 0.2 / 3**0.5, rel=1e-4)
    assert low == pytest.approx(2 * mean - high)

    def row(arm, seed, accuracy, energy):
        test = {"accuracy": accuracy, "worst": min(accuracy), "energy": energy, "chance": 0.1}
        unmoved = {"test": {**test, "worst": min(accuracy) / 2}}
        return {"arm": arm, "fold": 0, "seed": seed, "test": test, "unmoved": unmoved}

    rows = [
        row("plain", 0, [1, 0.5, 0.0, 0.9], 0.1), row("plain", 1, [1, 0.5, 0.1, 0.9], 0.1),
        row("b", 0, [1, 0.9, 0.5, 0.9], 0.4), row("b", 1, [1, 0.9, 0.6, 0.9], 0.4),
    ]  # fmt: skip
    text = table(rows, {"plain": "labels", "b": "guided", "none": "not run"})
    line = next(t for t in text.splitlines() if t.startswith("| b"))
    cells = [c.strip() for c in line.split("|")]
    assert cells[2] == "2"
    assert cells[4] == "90 (90 to 90)"
    assert cells[7].startswith("55 (")
    assert cells[8] == "50 (50 to 50)"
    assert cells[9] == "28 (-4 to 59)"  # 25 and 30: 27.5 -+ 12.71 * 3.54 / sqrt(2)
    assert cells[11] == "4.0 (4.0 to 4.0)"
    assert "none" not in text


def test_budget_and_findings_by_hand():
    def row(arm, seed, worst):
        return {"arm": arm, "fold": 0, "seed": seed, "test": {"worst": worst}}

    rows = [
        *(row("plain", s, w) for s, w in enumerate((0.0, 0.1, 0.05))),
        *(row("energy_25", s, w) for s, w in enumerate((0.6, 0.7, 0.66))),
        *(row("gain", s, w) for s, w in enumerate((0.0, 0.3, 0.0))),
    ]
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in budget(rows).splitlines()]
    assert lines[0] == ["annotated", "0 %", "5 %", "10 %", "25 %", "100 %"]
    assert lines[2][0] == "energy, masks"
    assert lines[2][1].startswith("5 (")
    assert lines[2][4].startswith("65 (")
    assert [lines[3][3], lines[4][4]] == ["", ""]
    helped, unsure = findings(rows)
    # differences 60, 60, 61: mean 60.3, deviation .577; t(2) at 1.25 % is 6.205
    assert helped == ("energy_25 helps: worst group +60 points (+58 to +62) in 3 runs")
    assert unsure.startswith("gain makes no sure difference: worst group +5 points")


@pytest.mark.slow
def test_a_part_from_photographs(shared_data, tmp_path, net, monkeypatch):
    """The composites' features are those of the images, and erasing changed what it should."""
    monkeypatch.setattr(_arm_list, "SIZE", 64)
    data = _arm_data.load_part(shared_data / "scenes", tmp_path, net, 0, 0, 2, "train")
    assert len(data) == 320
    assert data.groups.unique().tolist() == [0, 3]
    assert data.without_mask.shape == data.features.shape
    assert (data.without_mask != data.features).flatten(1).any(1).all()
