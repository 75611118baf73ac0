"""Concepts: the factorisation against scikit-learn's, planted parts, and classes by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from attnviz import find_concepts
from attnviz.cli import main
from attnviz.concepts import factorise
from attnviz.errors import AttnvizError


class Parts(nn.Module):
    """Channels are the colours red, green and blue in cells of 8 pixels; a linear classifier."""

    def __init__(self):
        super().__init__()
        self.cells = nn.Sequential(nn.AvgPool2d(8), nn.ReLU())
        self.fc = nn.Linear(3, 2, bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor([[3.0, 0.0, 1.0], [0.0, 2.0, -1.0]]))

    def forward(self, x):
        return self.fc(self.cells(x).mean((2, 3)))


def test_the_updates_are_scikit_learn_s():
    decomposition = pytest.importorskip("sklearn.decomposition")
    values = torch.rand(40, 7, dtype=torch.float64)
    peer = decomposition.NMF(3, solver="mu", init="nndsvda", max_iter=20, tol=0, random_state=0)
    want = peer.fit_transform(values.numpy())
    found = factorise(values, 3, steps=20)
    assert np.allclose(found[0].numpy(), want, atol=1e-6)
    assert np.allclose(found[1].numpy(), peer.components_, atol=1e-6)


def test_planted_parts_are_found_at_their_places_and_speak_for_their_classes():
    x = torch.zeros(2, 3, 32, 32)
    x[0, 0, :16] = 1.0  # red above
    x[0, 1, 16:] = 0.5  # green below
    x[1, 2, :, :8] = 0.25  # blue at the left
    model = Parts().train()
    state = torch.random.get_rng_state()
    found = find_concepts(model, x, count=3, layer="cells", labels=["ant", "bee"])
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training
    assert found.error < 1e-3
    assert found.cut == 0
    # a red half of 8 cells at 1, a green one at .5, a blue column of 4 cells at .25
    assert found.share.tolist() == pytest.approx([8 / 13, 4 / 13, 1 / 13], abs=1e-3)
    assert torch.allclose(found.vectors, torch.eye(3), atol=1e-2)
    red, green, blue = found.maps.values[0], found.maps.values[1], found.maps.values[5]
    assert torch.allclose(red[:2], torch.ones(2, 4), atol=1e-2)
    assert float(red[2:].max()) < 1e-2
    assert torch.allclose(green[2:], torch.full((2, 4), 0.5), atol=1e-2)
    assert torch.allclose(blue[:, 0], torch.full((4,), 0.25), atol=1e-2)
    assert torch.allclose(found.scores, torch.tensor([[3.0, 0], [0, 2], [1, -1]]), atol=0.05)
    assert found.classes(1, most=1)[0][0] == "bee"
    assert found.examples(2, most=1) == [1]


def test_what_cannot_be_factorised_says_so():
    with pytest.raises(AttnvizError, match="5 concepts of 16 positions with 3 channels"):
        find_concepts(Parts(), torch.rand(1, 3, 32, 32), count=5, layer="cells")
    with pytest.raises(AttnvizError, match="0% of them above 0"):
        find_concepts(Parts(), -torch.rand(1, 3, 32, 32), count=2, layer="cells")


def test_command(tmp_path, capsys):
    for i, colour in enumerate([(250, 0, 0), (0, 250, 0), (0, 0, 250)]):
        Image.fromarray(np.full((64, 64, 3), colour, np.uint8)).save(tmp_path / f"{i}.png")
    words = ["concepts", str(tmp_path), "--model", "tests.cli.tiny:colours", "--count", "2",
             "--preprocess", "imagenet", "--out", str(tmp_path / "out")]  # fmt: skip
    assert main([*words, "--json"]) == 0
    assert '"concepts"' in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "concepts.png") as picture:
        assert picture.size[0] > 300
    assert main(words) == 1
    assert "exists already" in capsys.readouterr().err
