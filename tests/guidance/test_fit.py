"""The loop: it learns to look, resumes to the bit, and stops itself when it must."""

import json
import random

import numpy as np
import pytest
import torch
from torch import nn

from attnviz import errors, guidance
from attnviz.guidance import checkpoints, fit
from attnviz.guidance.validating import validate


class Stripes:
    """A class-1 image has a bright square somewhere and, always, a stripe at the top."""

    def __init__(self, n=24, seed=0, annotated=1.0, stripe=True, size=16, noise=0.0):
        generator = torch.Generator().manual_seed(seed)
        self.examples = []
        self.noise = noise
        for i in range(n):
            label = i % 2
            image = 0.1 * torch.randn(3, size, size, generator=generator)
            y, x = (torch.randint(5, size - 5, (2,), generator=generator)).tolist()
            mask = torch.zeros(size, size)
            mask[y : y + 4, x : x + 4] = 1
            image += mask * (1.0 if label else -1.0)
            if label and stripe:
                image[:, :3] += 2
            known = torch.rand((), generator=generator) < annotated
            self.examples.append((image, label, mask if known else None))

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, i):
        image, label, mask = self.examples[i]
        if self.noise:  # augmentation from all three generators
            image = image + self.noise * (torch.rand(()) + random.random() + np.random.rand())
            image = image.float()
        return image, label, mask


def net(dropout=0.0, batchnorm=True, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.BatchNorm2d(8) if batchnorm else nn.Identity(),
        nn.ReLU(), nn.Dropout(dropout), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip


# a network without pretrained weights, small steps, and nothing but its labels and its map
SETTINGS = {
    "epochs": 4, "batch_size": 8, "layer": "6", "lr": 1e-2, "warmup": 0.25, "ramp": 0.25,
    "weight": 1.0, "train": "all", "exchange": False, "annotated": 0.0, "monitor": "loss",
}  # fmt: skip


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_guidance_moves_the_evidence_onto_the_object():
    """Both solve the task; the plain one by the stripe, whose area its energy shows."""
    train, test = Stripes(32, annotated=0.5), Stripes(32, seed=9)
    plain, guided = net(), net()
    longer = SETTINGS | {"epochs": 24, "weight": 3.0}
    fit(plain, train, loss="none", validation=test, **longer)
    result = fit(guided, train, validation=test, **longer)

    def figures(model):
        config = guidance.GuideConfig(layer="6", batch_size=32)
        return validate(model, test, config, guidance.losses.energy, torch.device("cpu"))

    before, after = figures(plain), figures(guided)
    assert after["val_energy"] > 3 * before["val_energy"]
    assert after["val_accuracy"] == before["val_accuracy"] == 1
    assert after["val_energy"] == pytest.approx(
        result.history[result.best_epoch - 1]["val_energy"], rel=1e-5
    )
    assert result.history[0]["strength"] == 0
    assert result.best_epoch >= 12  # an epoch in which guidance acted in full
    assert guided.training


@pytest.mark.parametrize(
    ("loss", "options", "extra"),
    [
        ("energy", {}, {"optimizer": "adamw"}),
        ("gain", {"steepness": (5, 20), "fill": "noise"}, {"optimizer": "sgd"}),
        ("box_adversary", {}, {"optimizer": "adam", "accumulate": 2, "clip": 1.0}),
        ("energy", {}, {"optimizer": "sam"}),
    ],
)
def test_resuming_after_a_kill_gives_the_same_to_the_bit(tmp_path, loss, options, extra):
    if extra["optimizer"] == "sam":
        pytest.importorskip("pytorch_optimizer")
    settings = SETTINGS | extra | {"loss": loss, "loss_options": options}
    whole = net(dropout=0.3)
    full = fit(whole, Stripes(noise=0.1), validation=Stripes(seed=1), **settings)

    class Killed(Exception):
        pass

    def kill(kind, record):
        if kind == "step" and record["epoch"] == 3 and record["step"] == 2:
            raise Killed

    broken = net(dropout=0.3)
    with pytest.raises(Killed):
        fit(
            broken, Stripes(noise=0.1), validation=Stripes(seed=1), out=tmp_path, progress=kill,
            **settings,
        )  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.json", "state-0002.safetensors"]
    torch.manual_seed(99)  # another process, another random state, other initial weights
    resumed = net(dropout=0.3, seed=5)
    result = fit(
        resumed, Stripes(noise=0.1), validation=Stripes(seed=1), out=tmp_path, resume=True,
        **settings,
    )  # fmt: skip
    assert same(whole, resumed)
    assert list(result.history) == list(full.history)
    assert result.best_epoch == full.best_epoch
    assert (tmp_path / "model.safetensors").exists()
    again = fit(
        net(dropout=0.3, seed=6), Stripes(noise=0.1), validation=Stripes(seed=1), out=tmp_path,
        resume=True, **settings,
    )  # fmt: skip
    assert same(again.model, whole)  # a finished run is resumed to itself


def test_nothing_outside_the_model_changes(tmp_path):
    model, fresh = net(), net()
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    model[1].eval()
    fit(model, Stripes(8), freeze=("0",), **SETTINGS | {"epochs": 1})
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()
    assert states[2] == random.getstate()
    assert [m.training for m in model][:3] == [True, False, True]
    assert all(p.requires_grad for p in model.parameters())
    assert same(model[0], fresh[0])  # frozen
    assert not any(m._forward_hooks for m in model.modules())


def test_batchnorm_eval_keeps_the_statistics():
    model = net()
    fit(model, Stripes(8), batchnorm="eval", **SETTINGS | {"epochs": 1})
    assert torch.equal(model[1].running_mean, torch.zeros(8))


def test_accumulation_is_the_larger_batch():
    one, two = net(batchnorm=False), net(batchnorm=False)
    data = Stripes(14, annotated=0.0)
    common = SETTINGS | {"epochs": 2, "loss": "none", "optimizer": "sgd"}
    fit(one, data, **common | {"batch_size": 8})
    fit(two, data, **common | {"batch_size": 4, "accumulate": 2})
    for a, b in zip(one.parameters(), two.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_mean_over_an_epoch_and_the_writer():
    class Writer:
        def __init__(self):
            self.seen = []

        def add_scalar(self, name, value, step):
            self.seen.append((name, step, value))

    writer, events = Writer(), []
    result = fit(
        net(), Stripes(20), writer=writer, progress=lambda k, r: events.append((k, dict(r))),
        **SETTINGS | {"epochs": 2},
    )  # fmt: skip
    steps = [r for k, r in events if k == "step" and r["epoch"] == 1]
    assert [r["step"] for r in steps] == [1, 2, 3]
    mean = (8 * steps[0]["loss"] + 8 * steps[1]["loss"] + 4 * steps[2]["loss"]) / 20
    assert result.history[0]["loss"] == pytest.approx(mean)
    assert ("epoch/loss", 1, result.history[0]["loss"]) in writer.seen
    assert ("step/strength", 6, steps[0]["strength"]) not in writer.seen
    assert events[0] == ("start", {"notes": result.notes, "epochs": 2})
    assert {k for k, _ in events} == {"start", "step", "epoch"}


def test_an_iterable_and_two_entries_without_annotation():
    def stream():
        return iter([(x, y) for x, y, _ in Stripes(10).examples])

    class Iterable:
        def __iter__(self):
            return stream()

    result = fit(net(), Iterable(), loss="gain", **SETTINGS | {"epochs": 2})
    assert result.history[1]["guidance/mining"] > 0
    with pytest.raises(errors.DataError, match="used up"):
        fit(net(), stream(), loss="gain", **SETTINGS | {"epochs": 2})


def test_early_stop():
    result = fit(
        net(), Stripes(16), validation=Stripes(8, stripe=False, seed=3), loss="none",
        patience=2, **SETTINGS | {"epochs": 40, "lr": 1e-9, "monitor": "accuracy"},
    )  # fmt: skip
    assert result.stopped == "patience"
    assert len(result.history) == 3
    assert result.best_epoch == 1


def test_maps_before_and_after_every_epoch(tmp_path):
    from attnviz import Heatmaps

    data = Stripes(16)
    photos = torch.stack([data[i][0] for i in (1, 3)])
    quiet, noted = net(dropout=0.2), net(dropout=0.2)
    fit(quiet, data, **SETTINGS)
    fit(noted, data, out=tmp_path, photos=photos, **SETTINGS)
    assert same(quiet, noted)  # looking changes nothing
    files = sorted((tmp_path / "maps").glob("*.npz"))
    assert [f.name for f in files] == [f"epoch-{i:04d}.npz" for i in range(5)]
    last = Heatmaps.load(files[-1])
    from attnviz import explain

    now = explain(noted, photos, target=list(last.target), layer="6")
    torch.testing.assert_close(last.values, now.values)
    assert Heatmaps.load(files[0]).target == last.target


# -- what must not happen ----------------------------------------------------------------------


def test_a_full_disk_as_safetensors_reports_it(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    real = checkpoints.save_file
    calls = []

    def full(tensors, path, metadata=None):
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        return real(tensors, path, metadata)

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(errors.GuidanceError, match=r"No space left.*intact.*resume"):
        fit(net(), Stripes(8), out=tmp_path, **SETTINGS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.json", "state-0001.safetensors"]
    result = fit(net(), Stripes(8), out=tmp_path, resume=True, **SETTINGS)
    assert same(result.model, fit(net(), Stripes(8), **SETTINGS).model)


def test_the_collapse_guard_acts():
    """Unguarded pixel supervision of full strength ends in a map without mass; guarded it stops."""
    data = Stripes(16)
    common = SETTINGS | {
        "epochs": 12,
        "batch_size": 2,
        "weight": 300.0,
        "warmup": 0.2,
        "ramp": 0.0,
        "lr": 3e-2,
        "against": None,
    }
    unguarded = fit(net(), data, loss="l1", guard="off", **common)
    before, after = unguarded.history[1]["mass"], unguarded.history[-1]["mass"]
    assert after < 0.2 * before
    with pytest.raises(errors.GuidanceError, match=r"the map is dying: .* fell to \d\.\d%"):
        fit(net(), data, loss="l1", guard="back_off", **common)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"loss": "enrgy"}, errors.GuidanceError, "did you mean 'energy'"),
        ({"optimizer": "adamx"}, errors.GuidanceError, "did you mean 'adam"),
        ({"epoch": 3}, errors.GuidanceError, "no setting 'epoch'; did you mean 'epochs'"),
        ({"epochs": 0}, errors.GuidanceError, "at least 1, got 0"),
        ({"lr": -1.0}, errors.GuidanceError, "positive number"),
        ({"schedule": "step"}, errors.GuidanceError, "'onecycle'"),
        (
            {"loss_options": {"fom": "abs"}},
            errors.GuidanceError,
            "'energy' has no option 'fom'; did you mean 'form'. It has: form, beta",
        ),
        ({"loss": "gain_ext", "loss_options": {"generator": None}}, errors.GuidanceError, "omega"),
        ({"loss": "none", "loss_options": {"form": "abs"}}, errors.GuidanceError, "no options"),
        ({"loss_options": {"form": "cube"}}, errors.GuidanceError, "'cube' is not one of 'relu'"),
        ({"loss_options": {"form": "softplus", "beta": "x"}}, errors.GuidanceError, "be computed"),
        ({"loss": "consistency"}, errors.GuidanceError, "layer=.deep, shallow"),
        ({"layer": "16"}, errors.LayerNotFound, "'16' not found"),
        ({"freeze": tuple("0123456789")}, errors.GuidanceError, "nothing is trainable"),
        ({"resume": True}, errors.GuidanceError, "out="),
    ],
)
def test_settings_are_checked(change, error, message):
    """Before the first step, also where guidance would begin much later only."""
    steps = []
    with pytest.raises(error, match=message):
        fit(net(), Stripes(8), progress=lambda *s: steps.append(s), **SETTINGS | change)
    assert not steps


@pytest.mark.parametrize("name", ["gain_ext", "box", "mixed", "cdep", "rrr"])
def test_trying_a_loss_out_leaves_no_trace(name):
    """Guidance begins too late to act, so the weights are those of training on labels alone."""
    model, plain = net(dropout=0.3), net(dropout=0.3)
    late = SETTINGS | {"epochs": 1, "warmup": 1.0}
    fit(model, Stripes(noise=0.1), loss=name, **late)
    fit(plain, Stripes(noise=0.1), loss="none", **late)
    for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def broken(kind):
    data = Stripes(8)
    image, _, mask = data.examples[3]
    data.examples[3] = {
        "one class": data.examples[3],
        "none": data.examples[3],
        "size": (image, 1, torch.zeros(5, 5)),
        "empty": (image, 1, torch.zeros(16, 16)),
        "full": (image, 1, torch.ones(16, 16)),
        "box": (image, 1, (0, 0, 40, 4)),
        "label": (image, 7, mask),
        "negative": (image, -1, mask),
        "floats": (image, 0.5, mask),
        "uint8": ((image * 0).to(torch.uint8), 1, mask),
        "sizes": (torch.zeros(3, 8, 8), 1, None),
        "short": (image,),
        "key": (image, 1, {"masque": mask}),
    }[kind]
    if kind == "one class":
        data.examples = [(i, 1, m) for i, _, m in data.examples]
    if kind == "none":
        data.examples = [(i, y, None) for i, y, _ in data.examples]
    return data.examples


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("one class", errors.DataError, "every training example has label 1"),
        ("none", errors.DataError, "no training example is annotated, and the loss 'energy'"),
        ("size", errors.DataError, r"example 3: its annotation has shape \(5, 5\)"),
        ("empty", errors.DataError, "example 3: its mask is empty"),
        ("full", errors.DataError, "example 3: its mask is full"),
        ("box", errors.DataError, "example 3: box .* outside the input of width 16"),
        ("label", errors.GuidanceError, "label 7 is out of range|class 7 is out of range"),
        ("negative", errors.DataError, "example 3: label -1"),
        ("floats", errors.DataError, "example 3: its label is 0.5"),
        ("uint8", errors.DataError, "example 3: its image is torch.uint8"),
        ("sizes", errors.DataError, "different sizes"),
        ("short", errors.DataError, "example 3 is a tuple"),
        ("key", errors.DataError, "'masque' is not known"),
    ],
)
def test_bad_data_is_named(kind, error, message):
    error = (error, errors.TargetError) if kind == "label" else error
    with pytest.raises(error, match=message):
        fit(net(), broken(kind), **SETTINGS)


def test_degenerate_masks_can_be_skipped():
    """An image with such a mask is trained on as one that nobody annotated."""
    masked = Stripes(8).examples
    bare = [(i, y, None if k == 3 else m) for k, (i, y, m) in enumerate(masked)]
    settings = SETTINGS | {"epochs": 1, "warmup": 0.0, "ramp": 0.0}
    nets = [net(), net(), net()]
    for model, data in zip(nets, (broken("empty"), bare, masked), strict=True):
        fit(model, data, degenerate="skip", **settings)
    assert same(nets[0], nets[1])
    assert not same(nets[0], nets[2])


def test_a_run_is_not_overwritten_nor_mixed(tmp_path):
    fit(net(), Stripes(8), out=tmp_path, **SETTINGS | {"epochs": 1})
    with pytest.raises(errors.OutputExists, match="holds a run already"):
        fit(net(), Stripes(8), out=tmp_path, **SETTINGS | {"epochs": 1})
    with pytest.raises(errors.GuidanceError, match=r"other settings: epochs 1"):
        fit(net(), Stripes(8), out=tmp_path, resume=True, **SETTINGS)
    with pytest.raises(errors.DataError, match="another model"):
        fit(
            nn.Sequential(*net()[:-1], nn.Linear(8, 3)), Stripes(8), out=tmp_path, resume=True,
            **SETTINGS | {"epochs": 1},
        )  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps({"schema": "other"}))
    with pytest.raises(errors.DataError, match="no run that this version knows"):
        fit(net(), Stripes(8), out=tmp_path, resume=True, **SETTINGS | {"epochs": 1})


def test_a_loop_of_ones_own_in_three_lines():
    """The lines of the package's docstring, in a plain loop: the evidence moves onto the object."""
    data = Stripes(32).examples
    x, y = torch.stack([e[0] for e in data]), torch.tensor([e[1] for e in data])
    masks = torch.stack([e[2] for e in data])
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    outside = []
    for step in range(80):
        seen = guidance.class_map(model, x, y, layer="6")
        guide = guidance.losses.energy(seen, masks)
        loss = nn.functional.cross_entropy(seen.logits, y) + (step >= 30) * guide.total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        outside.append(guide.total.item())
    accuracy = (model.eval()(x).argmax(1) == y).float().mean()
    assert accuracy == 1
    # the object covers a sixteenth: before guidance the evidence is where it happens to be
    assert min(outside[:30]) > 0.6
    assert outside[-1] < 0.7 * outside[29]


def test_autocast_is_the_same_training_in_half_precision():
    """The first step agrees to what bfloat16 holds, maps stay in single precision, it learns."""
    whole, half = ([], [])
    for amp, records in ((False, whole), (True, half)):
        model = net()
        fit(
            model, Stripes(8), amp=amp, loss="gain_ext", loss_options={"fill": "mean"},
            progress=lambda kind, r, to=records: kind == "step" and to.append(dict(r)),
            **SETTINGS | {"epochs": 3, "warmup": 0.0, "ramp": 0.0, "schedule": "constant"},
        )  # fmt: skip
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    names = [n for n in whole[0] if n.startswith("guidance/")] + ["classification", "mass", "loss"]
    assert len(names) == 6
    for name in names:
        assert half[0][name] == pytest.approx(whole[0][name], rel=0.03, abs=2e-3), name
        assert half[0][name] != whole[0][name], name  # it did run in half precision
    assert half[-1]["classification"] < half[0]["classification"]


@pytest.mark.parametrize("name", ["epoch", "steps", "best", "best_epoch", "annotated", "labels"])
def test_a_damaged_record_is_refused_before_it_trains(name, tmp_path):
    fit(net(), Stripes(8), out=tmp_path, **SETTINGS | {"epochs": 1})
    path = tmp_path / "run.json"
    record = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(record | {name: "no number"}), "utf-8")
    with pytest.raises(errors.DataError, match="is damaged"):
        fit(net(), Stripes(8), out=tmp_path, resume=True, **SETTINGS | {"epochs": 1})
