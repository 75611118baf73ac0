"""Labels: known where the model or its weights say so, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from attnviz.errors import ModelError
from attnviz.models import LoadedModel, imagenet_labels, labels_of, read_labels


def test_imagenet_labels_are_in_the_usual_order() -> None:
    labels = imagenet_labels()
    assert len(set(labels)) == 1000
    known = {0: "tench", 134: "crane bird", 517: "crane", 652: "military uniform", 814: "speedboat",
             978: "seashore", 999: "toilet tissue"}  # fmt: skip
    assert {k: labels[k] for k in known} == known


def test_a_thousand_outputs_do_not_make_an_imagenet_model() -> None:
    import timm
    from torchvision.models import mnasnet0_5

    assert labels_of(mnasnet0_5()) is None
    model = timm.create_model("resnet10t")
    assert labels_of(model) == imagenet_labels(), "timm's config names in1k"
    assert labels_of(timm.create_model("resnet10t", num_classes=7)) is None
    model.pretrained_cfg = {**model.pretrained_cfg, "tag": "in12k_ft_places"}
    assert labels_of(model) is None


def test_labels_of_a_timm_config() -> None:
    import timm

    model = timm.create_model("resnet10t", num_classes=2)
    model.pretrained_cfg = {"num_classes": 2, "label_names": ["boat", "water"]}
    assert labels_of(model) == ("boat", "water")


def test_labels_of_a_hugging_face_config() -> None:
    model = nn.Linear(1, 2)
    model.config = SimpleNamespace(id2label={1: "water", 0: "boat"})
    assert labels_of(model) == ("boat", "water")
    model.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    assert labels_of(model) is None
    model.config.id2label = {0: "boat", 7: "water"}
    assert labels_of(model) is None


def test_loaded_labels_come_first() -> None:
    model = nn.Linear(1, 2)
    model.config = SimpleNamespace(id2label={0: "a", 1: "b"})
    assert labels_of(model, LoadedModel(model, "x", labels=("c", "d"))) == ("c", "d")
    assert labels_of(model, LoadedModel(model, "x")) == ("a", "b")
    assert labels_of() is None


def test_labels_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("boat\n water \n\n", encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps(["boat", "water"]))
    (tmp_path / "c.json").write_text(json.dumps({"1": "water", "0": "boat"}))
    for name in ("a.txt", "b.json", "c.json"):
        assert read_labels(tmp_path / name) == ("boat", "water")
    assert read_labels("imagenet") == imagenet_labels()


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("none.txt", None, "cannot be read"),
        ("a.txt", "", "must name every class"),
        ("a.txt", "boat\n\nwater\n", "without empty names or lines"),
        ("a.json", "[1, 2", "cannot be read"),
        ("a.json", "3", "cannot be read"),
        ("a.json", '{"a": "boat"}', "cannot be read"),
    ],
)
def test_label_files_that_are_none(name: str, text: str | None, match: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ModelError, match=match):
        read_labels(tmp_path / name)
