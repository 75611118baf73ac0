"""Alignments of sequences: each step read equals the paper's formula written out in float64."""

import numpy as np
import pytest
import torch

import attnviz
from attnviz.errors import DataError, EnvironmentFault
from attnviz.gallery import cards
from attnviz.gallery import modules as reference
from attnviz.gallery.cards import _alignments
from attnviz.gallery.drawings.alignments import aligned
from attnviz.gallery.modules.seq2seq import START

NAMES = (
    "bahdanau",
    "luong_dot",
    "luong_general",
    "luong_concat",
    "luong_location",
    "cosine",
    "local_m",
    "local_p",
)


def energy(name, score, s, h):
    """Scores (S,) of one state s (d,) and the annotations h (S, e), as in the papers."""
    if name == "bahdanau":
        w, u, v = score.query.weight, score.key.weight, score.v.weight[0]
        return torch.stack([v @ torch.tanh(w @ s + u @ hj) for hj in h])
    if name == "luong_dot":
        return torch.stack([s @ hj for hj in h])
    if name in ("luong_general", "local_m", "local_p"):
        return torch.stack([s @ (score.w.weight @ hj) for hj in h])
    if name == "luong_concat":
        w, v = score.w.weight, score.v.weight[0]
        return torch.stack([v @ torch.tanh(w @ torch.cat((s, hj))) for hj in h])
    if name == "luong_location":
        return (score.w.weight @ s)[: len(h)]
    beta = score.log_beta.exp()
    return torch.stack([beta * (s @ hj) / (s.norm() * hj.norm()) for hj in h])


def weigh(name, attend, s, h, step):
    """alpha (S,) of one step."""
    e = energy(name, attend.score, s, h)
    places = torch.arange(len(h), dtype=s.dtype)
    if name == "local_m":
        centre = torch.tensor(float(min(step, len(h) - 1)))
    elif name == "local_p":
        w, v = attend.predictor[0].weight, attend.predictor[2].weight[0]
        centre = len(h) / (1 + torch.exp(-(v @ torch.tanh(w @ s))))
    else:
        return (e - e.max()).exp() / (e - e.max()).exp().sum()
    inside = (places - centre).abs() <= attend.reach
    raised = (e - e.max()).exp() * inside
    alpha = raised / raised.sum()
    if name == "local_p":
        alpha = alpha * torch.exp(-((places - centre) ** 2) / (2 * (attend.reach / 2) ** 2))
    return alpha


@torch.no_grad()
def by_hand(name, model, source, target):
    """The alignment (T, S) of one sentence, step by step; the GRU is torch's own cell."""
    h, state, _ = model.encode(source[None])
    h, state = h[0], state[0]
    token, feed, rows = torch.tensor(START), torch.zeros_like(state), []
    for step in range(len(target)):
        word = model.write.weight[token]
        if model.order == "bahdanau":
            alpha = weigh(name, model.attend, state, h, step)
            context = alpha @ h
            state = model.cell(torch.cat((word, context))[None], state[None])[0]
        else:
            state = model.cell(torch.cat((word, feed))[None], state[None])[0]
            alpha = weigh(name, model.attend, state, h, step)
            context = alpha @ h
        joined = torch.cat((context, state))
        feed = torch.tanh(model.combine.weight @ joined + model.combine.bias)
        rows.append(alpha)
        token = target[step]
    return torch.stack(rows)


def shown(name):
    """A card's picture; skips while its weights are not there."""
    try:
        return cards(name)[0].show()
    except EnvironmentFault as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", NAMES)
def test_each_step_is_found_and_equals_the_formula(name):
    torch.manual_seed(4)
    model = reference.task(name).build().double().eval()
    for parameter in model.attend.parameters():
        parameter.data.mul_(3)  # far from even weights
    batch = _alignments.sentence(name)
    source, target = batch.inputs[0], batch.truth["target"]
    inventory = attnviz.inspect(model, (source, target))
    assert {e.kind for e in inventory} == {"cross"}
    assert inventory.missed == ()
    assert len(inventory) == target.shape[1]
    assert [e.call for e in inventory] == list(range(target.shape[1]))
    assert {e.name for e in inventory} == {"attend"}
    assert {e.shape for e in inventory} == {(1, 1, source.shape[1])}
    assert inventory[0].mechanism == "softmax attention, 1 head"
    assert inventory[0].attends == f"1 query attends {source.shape[1]} tokens"
    read = _alignments.read(model, source, target)[0]
    expected = by_hand(name, model, source[0], target[0])
    assert read.dtype == torch.float64
    assert (read - expected).abs().max() < 1e-9
    assert expected.std() > 0.02


def test_picture_shows_the_weights_the_frames_and_the_windows():
    weights = torch.tensor([[0.5, 0.25, 0.25, 0], [0, 0.125, 0.875, 0]])
    figure = aligned(
        weights, list("abcd"), ["x", "y"], origin=[[0], [1, 2]], centres=[0.5, 2.25], half=1
    )
    ax = figure.axes[0]
    assert np.array_equal(ax.images[0].get_array(), weights)
    assert ax.images[0].get_clim() == (0, 1)
    assert [t.get_text() for t in ax.get_xticklabels()] == list("abcd")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["x", "y"]
    assert [p.get_xy() for p in ax.patches] == [(-0.5, -0.5), (0.5, 0.5), (1.5, 0.5)]
    bars = ax.collections[0].get_segments()
    assert np.allclose(bars, [[[-0.5, 0], [1.5, 0]], [[1.25, 1], [3.25, 1]]])
    assert ax.lines[0].get_xdata().tolist() == [0.5, 2.25]
    with pytest.raises(DataError, match="origin of 1"):
        aligned(weights, list("abcd"), ["x", "y"], origin=[[0]])
    with pytest.raises(DataError, match="half=None"):
        aligned(weights, list("abcd"), ["x", "y"], centres=[0.5, 2.25])


@pytest.mark.parametrize("name", NAMES)
def test_card(name):
    card = shown(name)
    if name == "luong_location":  # reads no word, so it cannot tell where words swap
        assert card.numbers["aligned"] >= 0.4
        assert card.numbers["aligned_crossing"] < 0.5
        assert "does not cross itself" in card.alt
    else:
        assert card.numbers["aligned"] >= 0.8
        assert card.numbers["aligned_crossing"] >= 0.8
        assert "crosses itself" in card.alt
    figure = card.figure.axes[0]
    assert np.allclose(figure.images[0].get_array(), card.tensor[0])
    batch, model = _alignments.sentence(name), reference.load(name)
    example = (batch.inputs[0], batch.truth["target"])
    expected = by_hand(name, model.double(), example[0][0], example[1][0])
    assert (card.tensor[0] - expected).abs().max() < 1e-4  # float32 over a dozen steps
    names = {"model": model.float(), "example": example}
    exec(cards(name)[0].code, names)
    assert torch.equal(names["weights"], card.tensor)
    if name.startswith("local"):
        assert card.numbers["outside_window"] == 0
        assert "global attention" in card.caption
        centres = _alignments.centres(model, model.attend, batch)
        assert np.allclose(figure.lines[0].get_xdata(), centres)
        if name == "local_m":
            length = example[0].shape[1]
            steps = torch.arange(example[1].shape[1]).clamp(max=length - 1)
            assert torch.equal(centres, steps.float())


def test_weight_on_the_source_by_hand():
    weights = torch.tensor([[[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]]])
    assert _alignments.on_source(weights, torch.tensor([0, 1, -1])) == pytest.approx(0.625)


def test_card_of_letters():
    from attnviz.gallery.cards.bahdanau import date

    card = shown("bahdanau_letters")
    batch, model = date(), reference.load("dates")
    expected = by_hand(
        "bahdanau", model.double(), batch.inputs[0][0], batch.truth["target"][0]
    )  # fmt: skip
    assert (card.tensor[0] - expected).abs().max() < 1e-4
    assert np.allclose(card.figure.axes[0].images[0].get_array(), card.tensor[0])
    assert card.numbers["in_part"] >= 0.6
