"""Self-attention with softmax and ReLU scores: read in every layer, equal to the formula."""

import numpy as np
import pytest
import torch
from torch import nn

import attnviz
from attnviz.errors import DataError, EnvironmentFault
from attnviz.gallery import cards
from attnviz.gallery import modules as reference
from attnviz.gallery.cards.self_attention import example
from attnviz.gallery.drawings.self_attention import layer


@torch.no_grad()
def by_hand(model, image, scores):
    """Weights (layers, heads, N, N) of one picture, in float64, head by head."""
    size = model.patch.kernel_size[0]
    pieces = image[0].unfold(0, size, size).unfold(1, size, size).reshape(-1, size * size)
    tokens = pieces @ model.patch.weight.flatten(1).T + model.patch.bias
    x = torch.cat((model.cls[0], tokens)) + model.position[0]
    found = []

    def norm(x, module):
        centred = x - x.mean(1, keepdim=True)
        variance = centred.square().mean(1, keepdim=True)
        return centred / (variance + module.eps).sqrt() * module.weight + module.bias

    for block in model.blocks:
        inner = norm(x, block.norm1) @ block.attention.qkv.weight.T + block.attention.qkv.bias
        q, k, v = inner.chunk(3, 1)
        heads, width = block.attention.heads, q.shape[1] // block.attention.heads
        outs, rows = [], []
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            score = q[:, part] @ k[:, part].T / width**0.5
            if scores == "softmax":
                raised = (score - score.max(1, keepdim=True).values).exp()
                alpha = raised / raised.sum(1, keepdim=True)
            else:
                alpha = score * (score > 0) / len(x)
            rows.append(alpha)
            outs.append(alpha @ v[:, part])
        found.append(torch.stack(rows))
        x = x + torch.cat(outs, 1) @ block.attention.out.weight.T + block.attention.out.bias
        y = norm(x, block.norm2) @ block.mlp[0].weight.T + block.mlp[0].bias
        y = 0.5 * y * (1 + torch.erf(y / 2**0.5))
        x = x + y @ block.mlp[2].weight.T + block.mlp[2].bias
    return torch.stack(found)


@pytest.mark.parametrize("scores", ["softmax", "relu"])
def test_every_layer_is_found_and_equals_the_formula(scores):
    torch.manual_seed(6)
    model = reference.task(f"transformer_{scores}").build().double().eval()
    for block in model.blocks:
        block.attention.qkv.weight.data.mul_(3)
    image = example(scores).inputs[0].double()
    inventory = attnviz.inspect(model, image)
    assert inventory.missed == ()
    assert [e.name for e in inventory] == [f"blocks.{i}.attention" for i in range(4)]
    assert {(e.kind, e.shape) for e in inventory} == {("self", (4, 65, 65))}
    made = {"softmax": "softmax", "relu": "ReLU"}[scores]
    assert {e.mechanism for e in inventory} == {f"{made} attention, 4 heads"}
    expected = by_hand(model, image[0], scores)
    read = torch.stack([e.read()[0] for e in inventory])
    assert (read - expected).abs().max() < 1e-9
    if scores == "relu":
        assert 0.2 < (read == 0).double().mean() < 0.8
        assert (read.sum(-1) - 1).abs().max() > 0.1


def test_a_relu_that_is_no_attention_is_not_listed():
    class Plain(nn.Module):
        """Products of pairs, rectified, and features that go on by parameters alone."""

        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(6, 6))
            self.out = nn.Linear(6, 2)

        def forward(self, x):
            hidden = torch.relu(x @ self.w) @ self.w  # a perceptron written with products
            adjacency = x @ x.mT
            graph = adjacency @ torch.relu(adjacency @ hidden)  # a graph convolution
            return self.out(torch.relu(graph))

    inventory = attnviz.inspect(Plain().eval(), torch.randn(2, 5, 6))
    assert list(inventory) == []


def test_layer_shows_map_matrix_and_sorted_weights():
    torch.manual_seed(0)
    weights = torch.rand(2, 5, 5)
    weights[1, 0, 2:4] = 0
    figure = layer(weights, torch.rand(1, 8, 8), (2, 2), box=[0, 0, 4, 4])
    left, middle, right = figure.axes[:3]
    assert np.allclose(left.images[-1].get_array(), weights[:, 0, 1:].mean(0).view(2, 2))
    assert np.allclose(middle.images[0].get_array(), weights.mean(0))
    for line, row in zip(right.lines, weights[:, 0], strict=True):
        assert np.allclose(line.get_ydata(), row.sort(descending=True).values)
    legend = [t.get_text() for t in right.get_legend().get_texts()]
    assert legend[1] == f"head 1: sum {weights[1, 0].sum():.2f}, 40% exactly 0"
    with pytest.raises(DataError, match="N at least 10"):
        layer(weights, torch.rand(1, 8, 8), (3, 3))


@pytest.mark.parametrize("scores", ["softmax", "relu"])
def test_card(scores):
    name = f"self_attention_{scores}"
    try:
        card = cards(name)[0].show()
    except EnvironmentFault as error:
        pytest.skip(str(error))
    model, image = reference.load(f"transformer_{scores}"), example(scores).inputs[0]
    expected = by_hand(model.double(), image[0].double(), scores)[-1]
    assert (card.tensor[0] - expected).abs().max() < 1e-4
    drawn = card.figure.axes[1].images[0].get_array()
    assert np.allclose(drawn, expected.mean(0), atol=1e-4)
    assert card.numbers["cls_on_digit_mean"] > 2 * card.numbers["even"]
    assert (card.numbers["exact_zeros"] > 0.1) == (scores == "relu")
    names = {"model": model.float(), "example": image}
    exec(cards(name)[0].code, names)
    assert torch.equal(names["weights"], card.tensor)
