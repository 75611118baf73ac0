"""Training the gallery's modules and cards anew."""

import importlib
import json

import pytest
import torch
from safetensors.torch import load_file
from study.card_networks import SCENES, UNLABELLED, builder, train_card
from study.module_recipes import RECIPES
from train_modules import fit, keep, main

from attnviz.gallery import modules as reference
from attnviz.gallery.card import cards
from attnviz.gallery.modules import files
from attnviz.gallery.modules.files import find, folder


def test_each_module_and_each_stored_card_has_a_recipe():
    assert list(RECIPES) == reference.names()
    stored_cards = {path.stem for path in (folder() / "cards").glob("*.safetensors")}
    assert {*SCENES, *UNLABELLED} == stored_cards


@pytest.mark.parametrize("card", [*SCENES, *UNLABELLED])
def test_what_a_card_builds_is_what_is_trained_and_stored(card):
    network = builder(card)()
    if card in UNLABELLED:
        network = UNLABELLED[card][0](network)
    kept = load_file(find(f"cards/{card}.safetensors"))
    assert {k: v.shape for k, v in network.state_dict().items()} == {
        k: v.shape for k, v in kept.items()
    }


def test_training_repeats_from_its_seed_and_leaves_the_random_state_alone():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first, second = fit("stn", seed=3, steps=3), fit("stn", seed=3, steps=3)
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    third = fit("stn", seed=4, steps=3)
    assert not torch.equal(first.head.weight, third.head.weight)


def test_a_trial_run_writes_weights_and_manifest(tmp_path):
    assert main(["stn", "--steps", "2", "--out", str(tmp_path)]) == 0
    entry = json.loads((tmp_path / "manifest.json").read_text())["models"]["stn"]
    assert entry["steps"] == 2
    assert (tmp_path / "stn.safetensors").stat().st_size == entry["bytes"]
    assert not list(tmp_path.glob("*.part"))


def test_a_trial_run_of_a_card(tmp_path):
    assert main(["dino", "se", "--steps", "2", "--out", str(tmp_path)]) == 0
    assert sorted(p.name for p in (tmp_path / "cards").iterdir()) == [
        "dino.safetensors", "se.safetensors",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"),
    [("se", {"mean_iou": 0.8}), ("moco_v3", {"most_on_objects": 0.34})],  # twice their area
)
def test_training_anew_shows_the_same(name, least, tmp_path, monkeypatch):
    """To what the picture means, not to the digit: other machines sum in another order."""
    [card] = cards(name)
    known = card.show().numbers
    keep(train_card(name), tmp_path / f"{name}.safetensors")
    monkeypatch.setattr(files, "find", lambda name: tmp_path / name.removeprefix("cards/"))
    module = importlib.import_module(f"attnviz.gallery.cards.{name}")
    module.subject.cache_clear()
    try:
        anew = card.show().numbers
    finally:
        module.subject.cache_clear()
    for figure, value in least.items():
        assert known[figure] > value
        assert anew[figure] > value
