"""`attnviz guide` and `attnviz erase`, from the command line to the files."""

import io
import json
import os
import re
import shlex
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from attnviz import Heatmaps
from attnviz.cli import _progress, main
from attnviz.data.boatwater.recipe import SmallNet
from attnviz.writing import locked


@pytest.fixture
def folder(tmp_path):
    """Two classes in folders, with masks that mirror the names."""
    rng = np.random.default_rng(0)
    for k in range(20):
        label = "ring" if k % 2 else "disc"
        image = rng.integers(0, 60, (48, 48, 3), dtype=np.uint8)
        mask = np.zeros((48, 48), np.uint8)
        y, x = rng.integers(4, 24, 2)
        mask[y : y + 16, x : x + 16] = 255
        image[mask > 0] = (250, 40, 40) if k % 2 else (40, 40, 250)
        for kind, array in (("images", image), ("masks", mask)):
            (tmp_path / kind / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / kind / label / f"{k:02d}.png")
    return tmp_path


def guide(folder, *more):
    return main([
        "guide", "--data", str(folder / "images"), "--masks", str(folder / "masks"),
        "--out", str(folder / "run"), "--model", "attnviz.data.boatwater.recipe:SmallNet",
        "--preprocess", "imagenet", "--batch-size", "4", "--photos", "2", "--lr", "0.01", *more,
    ])  # fmt: skip


def test_guide_trains_writes_and_resumes(folder, capsys):
    assert guide(folder, "--epochs", "2", "--json") == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["schema"] == "attnviz.guide"
    assert document["classes"] == ["disc", "ring"]
    assert document["annotated"]["masks"] == 16
    assert "epoch 2/2" in err
    assert "val_accuracy" in document["history"][0]
    names = sorted(p.relative_to(folder / "run").as_posix() for p in (folder / "run").rglob("*.*"))
    assert {"run.json", "model.safetensors", "maps/epoch-0000.png", "maps/epoch-0002.npz"} <= set(
        names
    )
    maps = Heatmaps.load(folder / "run" / "maps" / "epoch-0002.npz")
    assert (maps.target, maps.label) == ((1, 1), ("ring", "ring"))
    assert guide(folder, "--epochs", "2") == 1
    assert "holds a run already" in capsys.readouterr().err
    assert guide(folder, "--epochs", "2", "--resume") == 0
    out = capsys.readouterr().out
    assert "best epoch" in out
    # the command that is printed runs, on the weights and by the names of this run
    words = shlex.split(next(t for t in out.splitlines() if t.startswith("use it")))[3:]
    photo = folder / "images" / "ring" / "01.png"
    words = [str(photo) if w == "PHOTO" else w for w in words]
    assert main([*words, "--out", str(folder / "seen"), "--json"]) == 0
    (seen,) = json.loads(capsys.readouterr().out)["results"]
    assert seen["target"]["label"] in ("disc", "ring")


def test_guide_says_what_is_wrong(folder, capsys):
    assert guide(folder, "--loss", "enrgy") == 1
    assert "did you mean 'energy'" in capsys.readouterr().err
    assert guide(folder, "--boxes", "--mixed") == 2
    assert guide(folder, "--object", "boat") == 1
    assert "boat" in capsys.readouterr().err
    assert not (folder / "run").exists()


@pytest.mark.slow
def test_options_of_the_loss(folder, capsys):
    """The run records them; a pair of layers and a pair of numbers stay pairs."""
    more = ["--epochs", "1", "--warmup", "0", "--force"]
    assert guide(folder, "--set", "form=softplus", "--set", "beta=5", *more) == 0
    config = json.loads((folder / "run" / "run.json").read_text())["config"]
    assert config["loss_options"] == {"form": "softplus", "beta": 5}
    gain = ["--loss", "gain", "--set", "steepness=[5,20]", "--set", "fill=mean"]
    assert guide(folder, *gain, *more) == 0
    config = json.loads((folder / "run" / "run.json").read_text())["config"]
    assert config["loss_options"] == {"steepness": [5, 20], "fill": "mean"}
    layers = ["--loss", "consistency", "--layer", "stages.3, stages.2"]
    assert guide(folder, *layers, *more) == 0, capsys.readouterr().err
    config = json.loads((folder / "run" / "run.json").read_text())["config"]
    assert config["layer"] == ["stages.3", "stages.2"]
    capsys.readouterr()
    assert guide(folder, "--set", "fom=relu", *more) == 1
    assert "no option 'fom'; did you mean 'form'" in capsys.readouterr().err
    assert guide(folder, "--set", "form", *more) == 2
    assert "NAME=VALUE" in capsys.readouterr().err


def test_a_bar_on_a_terminal(monkeypatch):
    """It counts the steps and shows the loss's parts; an epoch leaves a line."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    with _progress.progress_of() as progress:
        progress("start", {"epochs": 3, "notes": ("3 epochs of 5 steps",)})
        step = {"steps": 5, "loss": 0.75, "guidance/outside": 0.625, "lr": 1e-3}
        progress("step", step | {"epoch": 2, "step": 5})
        progress("epoch", {"epoch": 2, "loss": 0.7, "strength": 0.5, "val_accuracy": 0.9})
        progress("step", step | {"epoch": 3, "step": 4})
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "epoch 2/3  loss 0.7  strength 0.5  val_accuracy 0.9" in text
    assert re.search(r"epoch 3 .* 4/5 .*loss 0\.75  outside 0\.625", text)


def test_erase_reports_the_score_after_every_step(photo, tmp_path, capsys):
    command = ["erase", str(photo), "--out", str(tmp_path), "--steps", "2", "--json"]
    assert main(command) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["label"].startswith("military uniform")
    scores = [row["score"] for row in document["steps"]]
    erased = [row["erased"] for row in document["steps"]]
    assert len(scores) == 3
    assert scores[0] > scores[1]  # without the region the class is weaker
    assert erased == sorted(erased)
    assert erased[0] == 0 < erased[1]
    assert Image.open(document["picture"]).size[0] > 300
    assert main(command) == 1
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--force", "--fill", "blurr"]) == 2


def test_the_options_have_the_loop_s_defaults():
    """Typer needs them as constants; the settings are the place where they are kept."""
    import inspect
    from dataclasses import fields

    from attnviz.cli.guide import guide as command
    from attnviz.guidance import GuideConfig

    given = {n: p.default for n, p in inspect.signature(command).parameters.items()}
    same = {"even": "balanced"}
    left_out = {"balanced"}  # the data of --head dfr
    own = {f.name: getattr(GuideConfig(), f.name) for f in fields(GuideConfig)}
    compared = 0
    for name, default in given.items():
        if name in left_out or same.get(name, name) not in own or name == "freeze":
            continue
        assert default == own[same.get(name, name)], name
        compared += 1
    assert compared >= 20


def test_a_new_classifier_is_compared_with_labels_alone(folder, capsys):
    """Before is a training of the same steps without masks; answers under exchange stand beside."""
    factory = "tests.guidance.test_command_line:three_outputs"
    words = [
        "guide", "--data", str(folder / "images"), "--masks", str(folder / "masks"), "--out",
        str(folder / "run"), "--model", factory, "--preprocess", "imagenet", "--photos", "0",
        "--steps", "6", "--batch-size", "8", "--exchanged", "4", "--train", "all",
    ]  # fmt: skip
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "before       labels alone, the same steps" in out
    for text in ("objects exchanged", "pasted back (control)", "context removed"):
        assert text in out
    assert "x chance" in out
    assert "by always naming the commonest class" in out
    assert "guidance: energy, weight 1 (all of the network is trained" in err
    stored = json.loads((folder / "run" / "answers.json").read_text())
    assert stored["compared"] == "labels alone, the same steps"
    assert set(stored["after"]["right"]) == {"as they are", "exchanged", "pasted back", "alone"}
    assert main([*words, "--force", "--no-baseline"]) == 0
    assert "before       a new classifier, untrained" in capsys.readouterr().out


def three_outputs():
    import torch

    from attnviz.data.boatwater import SmallNet

    torch.manual_seed(0)
    return SmallNet(6, num_classes=3)


def test_the_head_alone(folder, capsys):
    assert guide(folder, "--head", "dfr") == 2
    assert "go together" in capsys.readouterr().err
    more = ["--head", "dfr", "--balanced", str(folder / "images"), "--epochs", "0"]
    assert guide(folder, *more, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["head"]["images"] == 20
    assert document["stopped"] == "head"
    assert document["history"] == []
    assert (folder / "run" / "model.safetensors").exists()
    assert guide(folder, "--epochs", "0", "--force") == 2


def scenes(folder, groups):
    """The words that name generated scenes of 32 pixels on disk, taken as they are."""
    from dataclasses import asdict

    from attnviz.data import boatwater as bw
    from attnviz.models import Preprocess

    data = bw.generate(groups=groups, size=32, seed=1).write(folder).parent
    as_is = Preprocess(resize=None, crop=None, mean=(0.5,) * 3, std=(0.25,) * 3)
    (folder / "preprocess.json").write_text(json.dumps(asdict(as_is)))
    return [
        "guide", "--data", str(data), "--preprocess", str(folder / "preprocess.json"),
        "--object", "boat", "--photos", "0", "--batch-size", "8",
    ]  # fmt: skip


SMALL_NET = ["--model", "attnviz.data.boatwater.recipe:SmallNet"]
TINY_VIT = ["--model", "tests.guidance.test_command_line:tiny_vit"]


def test_a_head_retrained_where_the_context_still_tells_is_refused(tmp_path, capsys):
    """Groups are class x context; a missing one is named, and a head that guesses is said to."""
    scenes(tmp_path / "four", [0, 1, 2, 3] * 4)
    words = [*scenes(tmp_path / "data", [0, 3] * 10), *SMALL_NET, "--head", "dfr", "--epochs", "0"]
    data, balanced = tmp_path / "data", tmp_path / "four"
    more = ["--out", str(tmp_path / "run"), "--context", "water", "--balanced"]
    assert main([*words, *more, str(data)]) == 1
    assert "no image of 'other' with 'water'" in capsys.readouterr().err
    assert main([*words, *more, str(balanced), "--force", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["head"]["groups"] == {"0": 4, "1": 4, "2": 4, "3": 4}
    # of an untrained network
    guesses = document["head"]["worst"] <= 0.5
    assert any("no better than guessing" in s for s in document["findings"]) == guesses
    assert main([*words, *more[:2], "--balanced", str(balanced), "--force"]) == 0
    out, err = capsys.readouterr()
    assert "its classes alone" in err
    assert "right in the worst group of the half that chose C" in out


def test_a_head_that_guesses_is_said_to():
    from attnviz.cli._guiding import _unread
    from attnviz.guidance import HeadResult

    made = HeadResult("fc", 8, {0: 4, 3: 4}, 1.0, 0.5, 0.0)
    assert "right on 50% of its worst group, no better than guessing" in _unread(made, 2)[0]
    assert _unread(made, 3) == []


def tiny_vit():
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    return VisionTransformer(
        img_size=32, patch_size=4, embed_dim=24, depth=2, num_heads=2, num_classes=2
    )


def test_a_map_of_attention_is_trained_by_name(tmp_path, capsys):
    """LeGrad over all layers, of the tail's training; the command that is printed names it."""
    pytest.importorskip("timm")
    words = [
        *scenes(tmp_path / "data", [0, 3] * 10), *TINY_VIT,
        "--out", str(tmp_path / "run"), "--method", "legrad", "--steps", "2", "--exchanged", "2",
    ]  # fmt: skip
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "trained: blocks.1." in err
    assert "x chance" in out
    assert out.rstrip().endswith("--method legrad")
    config = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert (config["method"], config["layer"]) == ("legrad", None)
    assert main([*words, "--force", "--method", "lime"]) == 1
    assert "for training use one of" in capsys.readouterr().err


@pytest.mark.slow
def test_guided_attention_moves_onto_the_object(tmp_path, capsys):
    """A small transformer on scenes: the map moves, and what is answered in changed context is
    said beside it, before and after."""
    pytest.importorskip("timm")
    words = [
        *scenes(tmp_path / "data", [0, 3] * 60), *TINY_VIT, "--out", str(tmp_path / "run"),
        "--method", "generic_relevance", "--steps", "120", "--train", "all", "--lr", "0.002",
        "--json",
    ]  # fmt: skip
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    before, after = document["before"], document["after"]
    assert after["over_chance"] > 1.3 * before["over_chance"]
    for found in (before, after):
        assert set(found["right"]) == {"as they are", "exchanged", "pasted back", "alone"}
        assert set(found["right"]["exchanged"]) == {"other", "boat"}


def test_a_crop_that_cuts_objects_is_left_out(tmp_path, capsys):
    """Objects at the border of wide photos: squeezed, and said; the run's file says how."""
    from attnviz.models import Preprocess

    for k in range(12):
        label = "ring" if k % 2 else "disc"
        image = np.random.default_rng(k).integers(0, 60, (48, 96, 3), dtype=np.uint8)
        mask = np.zeros((48, 96), np.uint8)
        mask[8:24, 2:18] = 255
        image[mask > 0] = (250, 40, 40) if k % 2 else (40, 40, 250)
        for kind, array in (("images", image), ("masks", mask)):
            (tmp_path / kind / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / kind / label / f"{k:02d}.png")
    from attnviz.cli._guiding import _uncut
    from attnviz.data import open_dataset

    dataset = open_dataset(tmp_path / "images", masks=tmp_path / "masks")
    pipeline, notes = _uncut(Preprocess(resize=48, crop=(48, 48)), dataset, None)
    assert (pipeline.resize, pipeline.crop, pipeline.fit) == ((48, 48), None, "squash")
    assert "would cut 12 of 12 annotated objects" in notes[0]
    kept = Preprocess(resize=48, crop=None)
    assert _uncut(kept, dataset, None) == (kept, ())
    middle = Preprocess(resize=(48, 96), crop=(48, 92))
    assert _uncut(middle, dataset, None)[1] == ()


def test_a_run_goes_on_only_as_it_was_begun(folder, capsys):
    """Other pixels, another mask, other weights: nothing of the run is taken for theirs."""
    assert guide(folder, "--epochs", "1") == 0
    kept = (folder / "run" / "run.json").read_bytes()
    photo, mask = folder / "images/ring/01.png", folder / "masks/ring/03.png"
    for path, what in ((photo, "data"), (mask, "data")):
        before, stat = path.read_bytes(), path.stat()
        Image.open(path).transpose(Image.Transpose.ROTATE_180).save(path)
        assert guide(folder, "--epochs", "1", "--resume") == 1
        said = capsys.readouterr().err
        assert "belongs to another run" in said
        assert what in said
        path.write_bytes(before)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    weights = folder / "other.safetensors"
    with torch.random.fork_rng(), torch.no_grad():  # the factory draws its weights
        net = SmallNet()
        net.fc.weight.mul_(2)
    save_file(net.state_dict(), weights)
    assert guide(folder, "--epochs", "1", "--resume", "--checkpoint", str(weights)) == 1
    assert "weights" in capsys.readouterr().err
    assert (folder / "run" / "run.json").read_bytes() == kept
    assert guide(folder, "--epochs", "1", "--resume") == 0


def test_maps_that_a_run_lost_are_made_up(folder):
    assert guide(folder, "--epochs", "2") == 0
    path = folder / "run" / "maps" / "epoch-0002.npz"
    before = Heatmaps.load(path).values
    path.unlink()
    assert guide(folder, "--epochs", "2", "--resume") == 0
    assert np.allclose(Heatmaps.load(path).values, before, atol=1e-5)


def test_two_runs_in_one_folder(folder, capsys):
    with locked(folder / "run"):
        assert guide(folder, "--epochs", "1") == 1
        assert "is in use by another run" in capsys.readouterr().err
    assert not (folder / "run").exists()
