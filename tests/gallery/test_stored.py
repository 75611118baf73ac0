"""Stored weights of the cards: restored as kept, and nothing is trained for a page."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from attnviz.errors import EnvironmentFault
from attnviz.gallery.card import cards
from attnviz.gallery.modules import files
from attnviz.gallery.modules.files import folder

KEPT = sorted(path.stem for path in (folder() / "cards").glob("*.safetensors"))


def build():
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))


@pytest.mark.parametrize("part", ["", "encoder"])
def test_what_is_kept_is_restored(tmp_path, monkeypatch, part):
    network = build()
    network(torch.randn(4, 3))  # statistics and a counter of batches to keep
    whole = nn.ModuleDict({"encoder": network, "teacher": build()}) if part else network
    path = tmp_path / "small.safetensors"
    save_file({k: v.half() if v.is_floating_point() else v for k, v in whole.state_dict().items()},
              path)  # fmt: skip
    monkeypatch.setattr(files, "find", lambda name: tmp_path / name.removeprefix("cards/"))
    before = torch.get_rng_state()
    again = files.restored("cards/small", build, part=part)
    assert torch.equal(before, torch.get_rng_state())
    assert not again.training
    for name, exact in network.state_dict().items():
        value = again.state_dict()[name]
        assert value.dtype == exact.dtype
        # float16 has 11 bits
        torch.testing.assert_close(value, exact, rtol=2**-11, atol=1e-7)


def test_missing_weights_say_how_to_get_them():
    with pytest.raises(EnvironmentFault, match=r"reinstall attnviz, or .*train_modules.py"):
        files.restored("cards/no_such_card", build)


def test_every_card_with_weights_shows_them():
    assert len(KEPT) == 17
    for name in KEPT:
        assert cards(name)[0].show().numbers, name
