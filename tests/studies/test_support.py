"""The table of support: one architecture of each kind, against what is known of it."""

import pytest
import support
import torch
from torch import nn


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_a_row_says_what_was_checked_and_what_is_refused():
    row = support.row("net", lambda name: (_net(), torch.rand(1, 3, 16, 16)))
    assert row.layer == "1"
    assert row.gradcam.startswith("equal (")
    assert row.rollout == row.legrad == "no attention"
    assert row.line().startswith("| `net` | `1` | equal (")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(27, 4))
    row = support.row("flat", lambda name: (flat, torch.rand(1, 3, 3, 3)))
    assert row.gradcam.startswith("refused: Sequential has no layer with positions")


def test_a_wrong_map_would_be_seen(monkeypatch):
    monkeypatch.setattr(support, "by_hand", lambda *_: torch.zeros(1, 14, 14))
    row = support.row("net", lambda name: (_net(), torch.rand(1, 3, 16, 16)))
    assert row.gradcam.startswith("differs: ")


def test_the_page_counts_what_is_equal():
    one, two = support.Row("a", "x", "equal (1e-07)"), support.Row("b", "", "refused: no layer")
    page = support.table([("timm", one), ("torchvision", two)])
    assert "Of 2 architectures" in page
    assert "on 1;" in page
    assert "| `a` | `x` | equal (1e-07) |  |  |" in page


@pytest.mark.slow
def test_stages_of_unlike_widths_are_refused_by_legrad_with_the_reason():
    import timm

    row = support.row(
        "pit_ti_224",
        lambda name: (timm.create_model(name, num_classes=10), torch.rand(1, 3, 224, 224)),
    )
    assert row.gradcam.startswith("equal")
    assert row.legrad.startswith("legrad reads the tokens of every block as if they were the last")
