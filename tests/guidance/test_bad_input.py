"""What must not go wrong in silence, through `fit` and through the command line."""

import copy
import errno
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from attnviz import errors
from attnviz.cli import main
from attnviz.guidance import Examples, checkpoints, fit

from .test_fit import SETTINGS, Stripes, net, same


@pytest.fixture
def folder(tmp_path):
    """Two classes in folders, with masks that mirror the names."""
    rng = np.random.default_rng(0)
    for k in range(10):
        label = "ring" if k % 2 else "disc"
        image = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
        mask = np.zeros((32, 32), np.uint8)
        y, x = rng.integers(4, 16, 2)
        mask[y : y + 12, x : x + 12] = 255
        image[mask > 0] = (250, 40, 40) if k % 2 else (40, 40, 250)
        for kind, array in (("images", image), ("masks", mask)):
            (tmp_path / kind / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / kind / label / f"{k:02d}.png")
    return tmp_path


def guide(folder, *more, masks=True, data="images"):
    return main([
        "guide", "--data", str(folder / data), "--out", str(folder / "run"),
        *(["--masks", str(folder / "masks")] if masks else []),
        "--model", "attnviz.data.boatwater.recipe:SmallNet", "--preprocess", "imagenet",
        "--batch-size", "4", "--photos", "0", "--epochs", "2", "--lr", "0.01", *more,
    ])  # fmt: skip


def store_mask(folder, array):
    Image.fromarray(array).save(folder / "masks" / "disc" / "00.png")


def coco(folder, box):
    """The ten photos as COCO, a box a photo, one of them as given."""
    images, annotations = [], []
    for k in range(10):
        name = f"{'ring' if k % 2 else 'disc'}/{k:02d}.png"
        images.append({"id": k, "file_name": name, "width": 32, "height": 32})
        where = box if k == 4 else [4, 4, 9, 9]
        annotations.append({"id": k, "image_id": k, "category_id": 1 + k % 2, "bbox": where})
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "disc"}, {"id": 2, "name": "ring"}],
    }
    (folder / "annotations.json").write_text(json.dumps(document))


def refused(folder, capsys, *parts, **how):
    """Exit code 1, one line that says all of `parts`, and no run that could be mistaken for one."""
    more = how.pop("more", ())
    assert guide(folder, *more, **how) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(said) == 1, said
    for part in parts:
        assert part in said[0], said[0]
    assert not (folder / "run" / "run.json").exists()
    assert not (folder / "run" / "model.safetensors").exists()


# -- what the data holds -------------------------------------------------------------------------


def test_a_mask_of_another_size(folder, capsys):
    store_mask(folder, np.full((10, 32), 255, np.uint8))
    refused(folder, capsys, "disc/00", "10 x 32 pixels", "the image 32 x 32", "at the size of")


@pytest.mark.parametrize("state", ["empty", "full"])
def test_a_mask_that_says_nothing(folder, capsys, state):
    store_mask(folder, np.full((32, 32), 255 if state == "full" else 0, np.uint8))
    refused(folder, capsys, "'disc/00", f"its mask is {state}", "--skip-bad-masks")
    assert guide(folder, "--skip-bad-masks", "--force") == 0
    if state == "empty":  # no box can be put around it either
        assert guide(folder, "--boxes", "--force") == 1
        assert "its mask is empty" in capsys.readouterr().err


def test_boxes_outside_the_image(folder, capsys):
    coco(folder, [40, 2, 9, 9])
    refused(
        folder, capsys, "box (40.0, 2.0, 49.0, 11.0)", "outside the image of width 32",
        masks=False, data="annotations.json", more=["--boxes", "--object", "ring"],
    )  # fmt: skip
    coco(folder, [20, 2, 12, 9])  # to the border is inside
    more = {"masks": False, "data": "annotations.json"}
    refused(folder, capsys, "no image has a label of its own", "disc, ring", "--object", **more)
    assert guide(folder, "--boxes", "--object", "disc", **more) == 0


def test_one_class(folder, capsys):
    (folder / "images" / "ring").rename(folder / "rings")
    refused(folder, capsys, "every training example has label 0", "at least two classes")


def test_nothing_annotated(folder, capsys):
    refused(
        folder, capsys, "no training example is annotated", "'energy'", "--masks", "gain",
        masks=False,
    )  # fmt: skip
    assert guide(folder, "--loss", "none", masks=False) == 0


def test_masks_cropped_to_nothing_are_no_fault(folder):
    """A mask beside the crop, or one that fills it, says nothing; one that is so itself is bad."""
    from attnviz.data import Sample
    from attnviz.data.masks import ArrayMask
    from attnviz.models import Preprocess

    prepare = Preprocess(resize=32, crop=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3)
    image = np.zeros((32, 32, 3), np.uint8)
    masks = [np.zeros((32, 32), bool) for _ in range(4)]
    masks[0][:4, :4] = True  # outside the crop
    masks[1][4:28, 4:28] = True  # all of it
    masks[3][:] = True
    samples = [
        Sample(str(k), image, label="a", masks={"a": ArrayMask(m)}) for k, m in enumerate(masks)
    ]
    examples = Examples(samples, prepare)
    found = [examples[k][2] for k in range(4)]
    assert found[:2] == [None, None]
    assert [bool(f["mask"].any()) for f in found[2:]] == [False, True]


# -- numbers that are not finite -----------------------------------------------------------------


class Poisoned(Stripes):
    """An image turns to NaN after so many have been read."""

    def __init__(self, after, **more):
        super().__init__(**more)
        self.left = after

    def __getitem__(self, i):
        self.left -= 1
        image, label, mask = super().__getitem__(i)
        return (image * float("nan") if self.left == 0 else image), label, mask


def finite(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 (no mapping)
    return all(torch.isfinite(t).all() for t in tensors if t.is_floating_point())


def test_a_loss_that_is_not_a_number(tmp_path):
    with pytest.raises(errors.GuidanceError, match="not finite|the loss is nan") as caught:
        fit(net(), Poisoned(40 + 25), out=tmp_path, **SETTINGS)
    assert f"the last good checkpoint, of epoch 1, is in {str(tmp_path)!r}" in str(caught.value)
    assert checkpoints.read_run(tmp_path)["epoch"] == 1
    assert finite(tmp_path / "state-0001.safetensors")
    result = fit(net(), Stripes(), out=tmp_path, resume=True, **SETTINGS)  # the data repaired
    assert same(result.model, fit(net(), Stripes(), **SETTINGS).model)


def test_a_last_step_that_ruins_the_weights_is_not_stored(tmp_path, monkeypatch):
    """The loss before it is finite, and the next one is only seen in the epoch after."""
    from attnviz.guidance import fitting

    real, calls = fitting.take_step, []

    def ruin(optimiser, *rest):
        real(optimiser, *rest)
        calls.append(1)
        if len(calls) == 6:  # of three a epoch
            optimiser.param_groups[0]["params"][0].data[0] = float("inf")

    monkeypatch.setattr(fitting, "take_step", ruin)
    with pytest.raises(errors.GuidanceError, match=r"epoch 2: '0\.weight' is not finite") as caught:
        fit(net(), Stripes(), out=tmp_path, **SETTINGS)
    assert "of epoch 1, is in" in str(caught.value)
    assert [p.name for p in tmp_path.glob("state-*")] == ["state-0001.safetensors"]
    assert finite(tmp_path / "state-0001.safetensors")


@pytest.mark.parametrize(
    ("loss", "said"), [("none", "validation example 2 is nan"), ("energy", "for image 2 of the")]
)
def test_a_validation_loss_that_is_not_a_number(tmp_path, loss, said):
    bad = Poisoned(24 + 3)
    with pytest.raises(errors.GuidanceError, match=rf"{said}.*epoch 1, is in"):
        fit(net(), Stripes(), validation=bad, out=tmp_path, loss=loss, **SETTINGS)
    assert checkpoints.read_run(tmp_path)["epoch"] == 1


def test_nan_by_the_command_line(folder, capsys, monkeypatch):
    real, calls = Examples.__getitem__, []

    def poisoned(self, i):
        image, label, where = real(self, i)
        calls.append(i)
        return (image * float("nan") if len(calls) == 18 else image), label, where

    monkeypatch.setattr(Examples, "__getitem__", poisoned)
    assert guide(folder, "--train", "all") == 1
    said = capsys.readouterr().err
    assert "not finite" in said or "the loss is nan" in said
    assert "the last good checkpoint, of epoch 1, is in" in said
    assert checkpoints.read_run(folder / "run")["epoch"] == 1
    monkeypatch.undo()
    assert guide(folder, "--train", "all", "--resume") == 0


# -- a full disk ---------------------------------------------------------------------------------


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def fill_disk(monkeypatch, when, what, nth):
    """The nth time that a file whose name holds `what` is written, or gets its name, fails."""
    from attnviz import writing

    real, calls = {"write": writing._write, "rename": os.replace}[when], []
    current = []

    def write(path, content):
        real(path, content)
        if what in current[-1]:
            calls.append(path)
            if len(calls) == nth:
                path.write_bytes(b"half")
                full()

    def replace(fresh, path):
        if what in str(path):
            calls.append(path)
            if len(calls) == nth:
                full()
        real(fresh, path)

    files = writing.write_files

    def write_files(contents, *, force):
        current.append(" ".join(map(str, contents)))
        files(contents, force=force)

    if when == "write":
        monkeypatch.setattr(writing, "_write", write)
        monkeypatch.setattr(writing, "write_files", write_files)
    else:
        monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize("when", ["write", "rename"])
@pytest.mark.parametrize(
    ("what", "nth", "kept"),
    [
        ("state-", 1, None), ("state-", 3, 2), ("run.json", 1, None), ("run.json", 2, 1),
        ("model.safetensors", 1, 4),
    ],
)  # fmt: skip
def test_the_checkpoint_before_stays(tmp_path, monkeypatch, when, what, nth, kept):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        fill_disk(patch, when, what, nth)
        with pytest.raises(errors.GuidanceError) as caught:
            fit(net(), Stripes(8), out=out, **SETTINGS)
    for part in ("cannot write", what, "No space left", "is intact", "resume=True, --resume"):
        assert part in str(caught.value)
    names = sorted(p.name for p in out.iterdir())
    assert names == ([] if kept is None else ["run.json", f"state-{kept:04d}.safetensors"])
    if kept is not None:
        assert checkpoints.read_run(out)["epoch"] == kept
    result = fit(net(), Stripes(8), out=out, resume=True, **SETTINGS)
    assert same(result.model, fit(net(), Stripes(8), **SETTINGS).model)


@pytest.mark.parametrize("nth", [1, 3])
def test_maps_on_a_full_disk(tmp_path, monkeypatch, nth):
    """Those of before training, and of an epoch: its checkpoint is there already."""
    from attnviz.heatmaps import saving

    data, out = Stripes(8), tmp_path / "run"
    photos = torch.stack([data[0][0]])
    real, calls = saving.write_files, []

    def failing(*arguments, **options):
        calls.append(1)
        if len(calls) == nth:
            full()
        real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(saving, "write_files", failing)
        with pytest.raises(errors.GuidanceError, match=rf"epoch-000{nth - 1}\.npz.*No space left"):
            fit(net(), data, out=out, photos=photos, **SETTINGS)
    assert (out / "run.json").exists() == (nth == 3)
    result = fit(net(), data, out=out, photos=photos, resume=True, **SETTINGS)
    assert same(result.model, fit(net(), data, **SETTINGS).model)


def test_what_a_kill_left_is_cleared_away(tmp_path):
    tmp_path.joinpath(".attnviz-0123456789abcdef.new").write_bytes(b"half a state")
    fit(net(), Stripes(8), out=tmp_path, **SETTINGS | {"epochs": 1})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "model.safetensors", "run.json", "state-0001.safetensors"
    ]  # fmt: skip


@pytest.mark.parametrize("when", ["write", "rename"])
def test_a_full_disk_by_the_command_line(folder, capsys, monkeypatch, when):
    with monkeypatch.context() as patch:
        fill_disk(patch, when, "state-", 2)
        assert guide(folder, "--train", "all") == 1
    said = capsys.readouterr().err
    for part in ("state-0002.safetensors", "No space left", "is intact", "--resume"):
        assert part in said
    assert checkpoints.read_run(folder / "run")["epoch"] == 1
    assert guide(folder, "--train", "all", "--resume") == 0
    assert "best epoch" in capsys.readouterr().out


def test_a_photo_that_goes_while_training_is_left_out_and_said(tmp_path):
    """It ended the training. What the others teach is what they teach without it."""
    from attnviz.data import Sample
    from attnviz.errors import AttnvizWarning, MissingFile
    from attnviz.models import resolve_preprocess

    rng = np.random.default_rng(0)
    samples = []
    for k in range(8):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(
            tmp_path / f"{k}.png"
        )
        samples.append(Sample(str(k), tmp_path / f"{k}.png", label="ab"[k % 2]))
    prepare = resolve_preprocess("unit", nn.Identity(), None)
    settings = dict(epochs=2, batch_size=4, loss="none", train="all", exchange=False)
    torch.manual_seed(0)
    start = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 2),
    )  # fmt: skip

    def after(progress=None):
        model = copy.deepcopy(start)
        fit(model, Examples(samples, prepare), progress=progress, **settings)
        return model

    def unlink(kind, record):
        if kind == "epoch":
            samples[3].image.unlink(missing_ok=True)

    with pytest.warns(AttnvizWarning, match="3.png does not exist; it is left out"):
        kept = after(unlink)
    assert all(p.isfinite().all() for p in kept.parameters())
    with pytest.warns(AttnvizWarning, match="3.png does not exist; it is left out"):
        after()
    for sample in samples:
        sample.image.unlink(missing_ok=True)
    with pytest.warns(AttnvizWarning), pytest.raises(MissingFile):
        after()
