"""Parts of a model and their names: as torch lists them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attnviz.errors import LayerNotFound
from attnviz.hooks import find_layers, named_parts, preserved, without_checkpointing


def shared() -> nn.Module:
    inner = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model = nn.Sequential(nn.ModuleDict({"a": inner, "b": nn.Identity()}), inner, nn.ReLU())
    model.register_module("empty", None)
    return model


@pytest.mark.parametrize(
    "model",
    [
        shared(),
        nn.Linear(2, 2),
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), 2, enable_nested_tensor=False),
        nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.ReLU())), nn.ReLU()),
    ],
    ids=["shared", "leaf", "transformer", "scripted"],
)
def test_parts_are_those_that_torch_lists_in_its_order(model: nn.Module) -> None:
    found = named_parts(model)
    assert list(found.values()) == [name for name, _ in model.named_modules()]
    kinds = [type(m) for _, m in model.named_modules()]
    assert [type(m) for m in found] == kinds


def test_a_name_that_stands_is_found_without_a_search_and_others_with_one() -> None:
    model = shared()
    assert find_layers(model, ["0.a.1", "2"]) == {"0.a.1": model[1][1], "2": model[2]}
    assert find_layers(nn.Sequential(model), "module.0.2") == {"0.2": model[2]}
    for wrong in ("", "3", "empty", "0.a.7", "0..a"):
        with pytest.raises(LayerNotFound):
            find_layers(model, wrong)


def test_blocks_that_close_in_another_order_than_they_opened_hold_until_the_last() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))
    model[0].grad_checkpointing = True
    for block, held in (
        (lambda: preserved(model, eval_mode=True), lambda: model.training),
        (lambda: without_checkpointing(model), lambda: model[0].grad_checkpointing),
    ):
        first, second = block(), block()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert held() is False
        second.__exit__(None, None, None)
        assert held() is True
