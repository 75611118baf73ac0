"""Options of the model and its preprocessing: one meaning in every command that loads one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import attnviz
from attnviz.models import Preprocess

TINY = ["--model", "tests.cli.tiny:colours", "--preprocess", "imagenet"]
MODEL = ["--model", "tests.cli.tiny:colours"]
OWN = ["--mean", ".4,.45,.42", "--std", ".2", "--resize", "40x48", "--interpolation", "bicubic"]


@pytest.mark.parametrize("as_file", [False, True])
def test_ones_own_normalisation(run: Callable, photos: Path, tmp_path: Path, as_file: bool) -> None:
    own = Preprocess(
        resize=(40, 48), crop=None, mean=(0.4, 0.45, 0.42), std=(0.2,) * 3, interpolation="bicubic"
    )
    options = OWN
    if as_file:
        fields = {n: getattr(own, n) for n in ("resize", "crop", "mean", "std", "interpolation")}
        (tmp_path / "own.json").write_text(json.dumps(fields))
        options = ["--preprocess", str(tmp_path / "own.json")]
    done = run("explain", photos / "red.png", *MODEL, *options, "--json")
    assert done.code == 0, done.err
    maps = attnviz.explain("tests.cli.tiny:colours", photos / "red.png", preprocess=own)
    (result,) = done.json["results"]
    assert result["target"]["score"] == pytest.approx(float(maps.score[0]), rel=1e-6)
    assert result["input_size"] == [40, 48]
    said = "resize (squash) to 40 x 48 (bicubic), mean (0.4, 0.45, 0.42), deviation (0.2, 0.2, 0.2)"
    assert done.json["preprocess"].endswith(said)
    assert maps.meta["preprocess"].endswith(said)


def test_options_change_what_is_named(run: Callable, photos: Path) -> None:
    done = run("explain", photos / "red.png", *MODEL, "--preprocess", "imagenet", "--crop", "32",
               "--resize", "36", "--json")  # fmt: skip
    own = Preprocess(resize=36, crop=(32, 32))
    maps = attnviz.explain("tests.cli.tiny:colours", photos / "red.png", preprocess=own)
    score = done.json["results"][0]["target"]["score"]
    assert score == pytest.approx(float(maps.score[0]), rel=1e-6)
    assert done.json["preprocess"].startswith("imagenet, changed: resize shorter side to 36")


@pytest.mark.parametrize(
    ("options", "code", "match"),
    [
        (["--mean", "a,b"], 2, "--mean takes one number or three, R,G,B; got 'a,b'"),
        (["--crop", "3x3x3"], 2, "--crop takes 224 or 224x320 (height x width), got '3x3x3'"),
        (["--mean", ".5"], 1, "how a photo becomes the input of tests.cli.tiny:colours"),
        (["--preprocess", "imagnet"], 1, "did you mean 'imagenet' or"),
        (["--preprocess", "none.json"], 1, "'none.json' holds no preprocessing"),
        (["--preprocess", "imagenet", "--std", "0"], 1, "std must be positive"),
        (["--drop-keys", "x"], 1, "there is none: give --checkpoint"),
    ],
)
def test_what_makes_no_sense(
    run: Callable, photos: Path, options: list[str], code: int, match: str
) -> None:
    done = run("explain", photos / "red.png", *MODEL, *options)
    assert done.code == code
    assert match in done.err
    assert len(done.err.splitlines()) <= 2


COMMANDS = {
    "concepts": ["concepts", "{photo}", *MODEL],
    "explain": ["explain", "{photo}", *MODEL],
    "erase": ["erase", "{photo}", *MODEL],
    "benchmark": ["benchmark", "{photo}", *MODEL],
    "selftest": ["selftest", "tests.cli.tiny:colours", "--photos", "{photo}"],
    "layers": ["layers", "tests.cli.tiny:colours"],
    "inspect": ["inspect", "tests.cli.tiny:colours"],
    "attend": ["attend", "{photo}", *MODEL],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_reads_a_checkpoint_the_same_way(
    run: Callable, photos: Path, tmp_path: Path, command: str
) -> None:
    from tests.cli.tiny import colours

    path = tmp_path / "x.pth"
    torch.save({"a": {"w": torch.zeros(1)}, "b": colours().state_dict()}, path)
    words = [w.format(photo=photos / "red.png") for w in COMMANDS[command]]
    with_key = [*words, "--checkpoint", path, "--checkpoint-key"]
    done = run(*with_key, "c")
    assert done.code == 1
    assert "holds no weights under 'c'" in done.err
    save_file({**colours().state_dict(), "loss.weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    done = run(*words, "--checkpoint", tmp_path / "x.safetensors", "--drop-keys", "los.weight")
    assert "did you mean 'loss.weight'" in done.err


def test_a_checkpoint_of_torchvision_says_its_preprocessing(
    run: Callable, photos: Path, tmp_path: Path
) -> None:
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    save_file(squeezenet1_1(num_classes=3).state_dict(), tmp_path / "x.safetensors")
    done = run("explain", photos / "red.png", "--model", "torchvision:squeezenet1_1",
               "--checkpoint", tmp_path / "x.safetensors", "--json")  # fmt: skip
    assert done.code == 0, done.err
    assert "assumed for the checkpoint" in done.err
    assert "resize shorter side to 256" in done.json["preprocess"]


@pytest.mark.parametrize("command", ["explain", "erase", "attend"])
def test_sizes_that_nobody_stated_are_said(run: Callable, photos: Path, command: str) -> None:
    """With --mean and --std alone the model's own size was taken without a word."""
    words = [command, photos / "red.png", "--model", "tests.cli.tiny:sized", "--mean", "0",
             "--std", "1", "--force"]  # fmt: skip
    done = run(*words)
    assert done.code == 0, done.err
    assert "centre crop 160 x 160, mean (0, 0, 0)" in done.err
    assert "--resize and --crop say other sizes" in done.err
    for stated in (["--resize", "160x160"], ["--crop", "160"], ["--preprocess", "imagenet"]):
        assert "say other sizes" not in run(*words, *stated).err


def test_help_says_that_a_factory_runs_code(run: Callable) -> None:
    for command in ("explain", "layers", "audit", "guide"):
        text = " ".join(run(command, "--help").out.replace("│", " ").split())
        assert "imports that module and so runs its code" in text
        assert ("--resize" in text) == (command != "layers")


def test_photos_are_prepared_alike_by_name_and_by_option(run: Callable, photos: Path) -> None:
    one = run("explain", photos / "red.png", *MODEL, "--preprocess", "unit", "--json")
    two = run("explain", photos / "red.png", *MODEL, "--mean", "0", "--std", "1", "--json",
              "--force")  # fmt: skip
    scores = [d.json["results"][0]["target"]["score"] for d in (one, two)]
    # half of the picture is pure red: logit 2 * .5 - 0 of the mean colour, weight 2 - 1
    assert np.allclose(scores, scores[0])


@pytest.mark.slow
def test_hugging_face_draws_no_bars(tmp_path: Path, photos: Path) -> None:
    import os
    import subprocess
    import sys

    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    config = ViTConfig(
        image_size=32, patch_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    words = ["explain", photos / "red.png", "--model", f"hf:{tmp_path / 'vit'}"]
    done = subprocess.run(
        [sys.executable, "-m", "attnviz", *map(str, words), "--out", str(tmp_path / "out")],
        capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Loading weights" not in done.stderr
    assert "%|" not in done.stderr


def test_which_part_of_the_output_are_the_logits(run: Callable, photos: Path) -> None:
    words = ["explain", photos / "red.png", "--model", "tests.cli.tiny:two_heads",
             "--preprocess", "unit", "--json"]  # fmt: skip
    done = run(*words)
    assert done.code == 1
    assert "'heads.plain' (1, 3), 'heads.minus' (1, 3). Say which: --logits heads.minus" in done.err
    assert "output=" not in done.err
    for part in ("heads.plain", "heads.minus"):
        (result,) = run(*words, "--logits", part, "--force").json["results"]
        maps = attnviz.explain(
            "tests.cli.tiny:two_heads", photos / "red.png", preprocess="unit", output=part
        )
        assert result["target"]["score"] == pytest.approx(float(maps.score[0]), rel=1e-6)
        assert maps.target[0] != 0 or part == "heads.plain"  # red, and anything but red
    done = run(*words, "--logits", "heads.none", "--force")
    assert (done.code, "has no 'none' in 'heads'" in done.err) == (1, True)


@pytest.mark.parametrize("command", ["erase", "benchmark"])
@pytest.mark.parametrize("given", [["1,2"], ["1", "--target", "2"]])
def test_one_target_is_taken_where_one_is_meant(
    run: Callable, photos: Path, command: str, given: list[str]
) -> None:
    done = run(*COMMANDS[command][:1], photos / "red.png", *TINY, "--target", *given)
    assert done.code == 2
    assert "--target names 2 here (1, 2) and one is taken" in done.err


def test_a_class_is_named_alike_in_every_command(run: Callable, photos: Path) -> None:
    labels = ["--labels", "red,green,blue"]
    erased = run("erase", photos / "red.png", *TINY, *labels, "--target", "class:green", "--json")
    assert (erased.code, erased.json["label"]) == (0, "green"), erased.err
    judged = run(
        "benchmark", photos / "red.png", *TINY, *labels, "--target", "class:green", "--methods",
        "gradcam", "--metrics", "deletion", "--steps", "2", "--baselines", "mean", "--json",
    )  # fmt: skip
    assert judged.code == 0, judged.err
    wrong = run("benchmark", photos / "red.png", *TINY, "--target", "contrast:1,2")
    assert wrong.code == 2
    assert "methods are judged on a class, class:LABEL" in wrong.err


AUDIT = ["audit", "--data", "{scenes}", "--object", "boat", "--context", "water", *MODEL,
         "--preprocess", "unit"]  # fmt: skip
PHOTO = ["explain", "{red}", *MODEL, "--preprocess", "imagenet"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*PHOTO, "--method", "rollout"], "activation map, e.g. --method 'gradcam'"),
        ([*PHOTO, "--target", "red"], "pass an index from 0 to 2, or --labels"),
        ([*PHOTO, "--target", "finer:red"], "pass an index from 0 to 2, or --labels"),
        ([*PHOTO, "--logits", "heads"], "--logits 'heads': the model's output (Tensor) has no"),
        ([*PHOTO, "--resize", "8", "--crop", "8"], "inputs that it takes (--resize, --crop"),
        ([*PHOTO, "--crop", "99999999"], "an input has at most 67,108,864 pixels"),
        ([*PHOTO, "--layer", ""], "not found in Colours. `attnviz layers MODEL` lists all"),
        ([*PHOTO, "--labels", "{photos}"], "cannot be read: it is a folder; give a file"),
        (["erase", "{photos}", *PHOTO[2:]], "is a directory; expected an image file\n"),
        (["audit", "--data", "{red}", *AUDIT[3:]], "a folder with index.json\n"),
        ([*AUDIT, "--split", "tst"], "has no split 'tst'; it has none: leave --split out"),
        ([*AUDIT, "--object", "x1"], "'x1' is no class of the data. It has: boat, land"),
        ([*AUDIT, "--target", "ship"], "class or classes with --target, as indices"),
        ([*AUDIT, "--target", "0", "--against", "no.pth"], "checkpoint that does not exist"),
        ([*AUDIT, "--context-masks", "foo"], "name one as package.module:function that takes"),
        ([*AUDIT, "--target", "0", "--boxes"], "(--masks), or audit by groups alone (--groups)"),
        ([*AUDIT, "--clip", "no", "--prompts", "a|b"], "no such folder of a CLIP model: 'no'"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_the_words_of_the_command_line(
    run: Callable, photos: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    from attnviz.data import boatwater

    if words[0] == "audit":
        scenes = boatwater.generate(groups=boatwater.balanced(1), seed=3, marked=True)
        scenes.write(tmp_path / "scenes")
    places = {"red": photos / "red.png", "photos": photos, "scenes": tmp_path / "scenes"}
    done = run(*[word.format(**places) for word in words])
    assert done.code == 1
    assert said in done.err
    assert not re.findall(r"\w=(?:\.|\[|'|True|,| )|attnviz\.\w+\.", done.err)


def test_a_name_of_a_file_is_no_argument() -> None:
    from attnviz.cli._app import one_line
    from attnviz.errors import DataError

    for text in ("no such file: 'layer=3.png'", "runs/labels=a/x.png is missing", "3 = 4, x=1"):
        assert one_line(DataError(text)) == text
