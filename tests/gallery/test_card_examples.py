"""Cards of channels, places, branches and unlabelled transformers: their code runs and agrees."""

from __future__ import annotations

import html
import importlib

import matplotlib
import numpy as np
import pytest
import torch

from attnviz.gallery import Drawing, page
from attnviz.gallery.card import cards
from attnviz.gallery.modules.files import folder

REFERENCE = ["attention_gate", "criss_cross", "ema", "hamburger", "stand_alone", "highway"]
TRAINED = ["se", "eca", "cbam_channel", "global_context", "coordinate", "cbam_spatial",
           "non_local", "halo", "bottleneck", "lambda_layer", "selective_kernel",
           "split_attention", "dino", "moco_v3", "beit", "mae", "registers"]  # fmt: skip

#: card -> what must hold of its numbers: that its picture means something
HOLDS = {
    "se": lambda n: n["mean_iou"] > n["mean_iou_with_gates_held"] + 0.2,
    "eca": lambda n: n["mean_iou"] > n["mean_iou_with_gates_held"] + 0.05,
    "cbam_channel": lambda n: n["mean_iou"] > n["mean_iou_with_gates_held"] + 0.05,
    "global_context": lambda n: n["mean_iou"] > n["mean_iou_with_gates_held"] + 0.2,
    "coordinate": lambda n: n["most_open_on_objects"] > 3,
    "cbam_spatial": lambda n: n["gate_on_objects"] > 3 * n["gate_elsewhere"],
    "non_local": lambda n: n["on_own_colour"] > 3 * n["on_own_colour_chance"],
    "halo": lambda n: n["on_own_colour"] > 1.5 * n["on_own_colour_chance"],
    "bottleneck": lambda n: n["on_own_colour"] > 2 * n["on_own_colour_chance"],
    "lambda_layer": lambda n: n["most_on_one_object"] > 2 * n["largest_object"],
    "selective_kernel": lambda n: n["mean_iou"] > n["mean_iou_with_shares_held"] + 0.2,
    "split_attention": lambda n: n["mean_iou"] > n["mean_iou_with_shares_held"] + 0.2,
    "dino": lambda n: n["most_on_objects"] > 2 * n["objects_cover"],
    "moco_v3": lambda n: n["most_on_objects"] > 2 * n["objects_cover"],
    "beit": lambda n: n["most_on_objects"] > 1.5 * n["objects_cover"],
    "mae": lambda n: n["most_on_objects"] > 1.5 * n["objects_cover"],
}


def check(name):
    [card] = cards(name)
    module = importlib.import_module(f"attnviz.gallery.cards.{name}")
    model, example = module.subject()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    shown = card.show()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())

    scope = {"model": model, "example": example}
    exec(card.code, scope)  # as a user would paste it
    got = next(scope[k] for k in ("maps", "weights", "gate") if k in scope)
    if name == "registers":  # the card shows the mean over heads, class token first
        got, want = got.mean(1), shown.tensor[:, 1]
    elif name in ("dino", "moco_v3", "beit", "mae"):  # the card shows both blocks
        want = shown.tensor[:, got.shape[1] :]
    else:
        want = shown.tensor
    np.testing.assert_allclose(got, want, atol=1e-6)
    if name != "hamburger":
        assert float(want.max()) <= 1 + 1e-6
    assert float(want.min()) >= 0

    assert isinstance(shown.figure, matplotlib.figure.Figure)
    assert shown.figure.axes
    assert len(shown.caption) > 80
    assert shown.alt
    assert "nan" not in shown.caption
    assert all(np.isfinite(v) for v in shown.numbers.values())
    assert HOLDS.get(name, lambda numbers: True)(shown.numbers), shown.numbers


@pytest.mark.parametrize("name", REFERENCE)
def test_card_of_a_trained_reference(name):
    if not (folder() / f"{name}.safetensors").is_file():
        pytest.skip(f"{name} is not trained here")
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_card_that_trains_its_own(name):
    check(name)


@pytest.mark.parametrize("card", cards(), ids=lambda card: card.name)
def test_snippets_run_as_pasted(card):
    scope = {}
    exec(card.snippet, scope)
    code = compile(card.snippet, card.name, "exec")
    given = {"attnviz", "torch", "model", "example"}
    made = [k for k in code.co_names if k in scope and k not in given]
    tensors = [scope[k] for k in made if isinstance(scope[k], torch.Tensor)]
    assert tensors
    assert all(torch.isfinite(t).all() for t in tensors)
    assert card.snippet in html.unescape(page([draw_nothing(card)]))


def draw_nothing(card):
    return Drawing(card, error="not drawn here")
