"""The study of all methods: which photos fit, one method's maps, and the table."""

import all_methods
import torch
from torch import nn


def test_a_label_names_a_thing_by_a_whole_synonym_or_by_its_range():
    assert all_methods.names("cow", 345, "ox")
    assert not all_methods.names("cow", 10, "oxygen mask")
    assert all_methods.names("dog", 200, "Tibetan terrier")
    assert not all_methods.names("dog", 300, "tiger beetle")
    assert not all_methods.names("grass", 3, "grass")


def test_rows_of_one_method(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.eval()
    x = torch.rand(3, 3, 16, 16)
    masks = torch.zeros(3, 16, 16, dtype=torch.bool)
    masks[:, :8] = True
    maps, seconds = all_methods.one_method(model, x, "gradcam", [0, 1, 2])
    assert maps.shape[0] == 3
    assert seconds > 0
    row = all_methods.measured(model, x, masks, masks.float(), [0, 1, 2])
    assert abs(row["over_chance"] - 2) < 1e-6
    assert row["energy"][0] == 1
    rows = [{"method": "gradcam", "family": "cam", "seconds": seconds} | row]
    assert "| `gradcam` | cam | 2.00 | 1.000 [1.000, 1.000] |" in all_methods.table(rows)
