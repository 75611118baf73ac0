"""Stored weights of the cards: restored as kept, and nothing is trained for a page."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attnviz.gallery import stored
from attnviz.gallery.card import cards
from attnviz.gallery.modules.files import folder

KEPT = sorted(path.stem for path in (folder() / "cards").glob("*.safetensors"))


def test_what_is_kept_is_restored(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "folder", lambda: tmp_path)

    def build():
        return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))

    assert stored.restored("small", build) is None
    torch.manual_seed(0)
    network = build()
    network(torch.randn(4, 3))  # statistics and a counter of batches to keep
    exact = {k: v.clone() for k, v in network.state_dict().items()}
    with stored.trained_anew(tmp_path / "cards"):
        kept = stored.keep("small", network)
        assert stored.restored("small", build) is None  # anew: what is there is not taken
    before = torch.get_rng_state()
    again = stored.restored("small", build)
    assert torch.equal(before, torch.get_rng_state())
    assert not again.training
    for name, value in again.state_dict().items():
        assert torch.equal(value, kept.state_dict()[name]), name
        assert value.dtype == exact[name].dtype
        # float16 has 11 bits
        torch.testing.assert_close(value, exact[name], rtol=2**-11, atol=1e-7)


def test_a_card_kept_is_not_trained(monkeypatch):
    assert len(KEPT) == 17

    def fail(*args, **options):
        raise AssertionError("an optimiser was made")

    monkeypatch.setattr(torch.optim, "AdamW", fail)
    for name in KEPT:
        assert cards(name)[0].show().numbers, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"),
    [("se", {"accuracy": 0.8}), ("moco_v3", {"most_on_objects": 0.34})],  # twice their area
)
def test_training_anew_shows_the_same(name, least, tmp_path):
    """To what the picture means, not to the digit: other machines sum in another order."""
    import importlib

    [card] = cards(name)
    module = importlib.import_module(f"attnviz.gallery.cards.{name}")
    known = card.show().numbers
    module.subject.cache_clear()
    with stored.trained_anew(tmp_path):
        anew = card.show().numbers
    module.subject.cache_clear()
    assert [p.name for p in tmp_path.iterdir()] == [f"{name}.safetensors"]
    for figure, value in least.items():
        assert known[figure] > value
        assert anew[figure] > value
