"""The study of all methods: which photos fit, the dataset that it writes, and the table."""

import json

import all_methods
import numpy as np
from PIL import Image

from attnviz import load
from attnviz.benchmark import Settings, evaluate, from_dataset
from attnviz.data import open_dataset
from attnviz.data.identity import sample_stamp


def test_a_label_names_a_thing_by_a_whole_synonym_or_by_its_range():
    assert all_methods.names("cow", 345, "ox")
    assert not all_methods.names("cow", 10, "oxygen mask")
    assert all_methods.names("dog", 200, "Tibetan terrier")
    assert not all_methods.names("dog", 300, "tiger beetle")
    assert not all_methods.names("grass", 3, "grass")


def test_the_dataset_is_judged_and_the_table_stands_over_chance(tmp_path, repo):
    photo, mask = tmp_path / "photo.jpg", np.zeros((60, 80), np.uint8)
    Image.open(repo / "assets" / "coffee.jpg").resize((80, 60)).save(photo)
    mask[:, :40] = 7
    Image.fromarray(mask).save(tmp_path / "mask.png")
    data = {"classes": {"7": "cup"}, "images": [
        {"image": "photo.jpg", "mask": "mask.png", "area": {"cup": 0.4}}
    ]}  # fmt: skip
    (tmp_path / "index.json").write_text(json.dumps(data))
    model = load(None, device="cpu")
    assert all_methods.chosen(tmp_path, model, 5) == []  # the network names no cup of WORDS
    rows = [(photo, "cup", mask == 7)]
    file = all_methods.as_dataset(rows, tmp_path / "run")
    subjects = from_dataset(open_dataset(file))
    stamps = [sample_stamp(s) for s in subjects]
    all_methods.as_dataset(rows, tmp_path / "run")  # a run that goes on has judged them already
    assert [sample_stamp(s) for s in from_dataset(open_dataset(file))] == stamps
    assert (subjects[0].mask("cup") == (mask == 7)).all()
    metrics = ("energy", "deletion", "insertion", "road")
    settings = Settings(("gradcam", "saliency"), metrics, ("mean",), steps=2)
    summary = evaluate(model, subjects, settings, out=tmp_path / "run")
    energy = {r.name: r.interval.value for t in summary.tables if t.key == "energy" for r in t.rows}
    times = {"gradcam": all_methods.seconds(model, [photo], "gradcam")}
    assert times["gradcam"] > 0
    lines = all_methods.table(summary, times).splitlines()
    assert f"| `gradcam` | cam | {energy['gradcam'] / energy['constant']:.2f} [" in lines[2]
    assert lines[3].startswith("| `saliency` | attribution | ")
    constant = next(line for line in lines if line.startswith("| `constant` | control | "))
    assert "| 1.00 [" in constant
