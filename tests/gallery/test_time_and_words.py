"""Attention over frames, over words and sentences, and behind the words of a caption."""

import numpy as np
import pytest
import torch

import attnviz
from attnviz.errors import DataError, EnvironmentFault
from attnviz.gallery import cards
from attnviz.gallery import modules as reference
from attnviz.gallery.cards.captioning import scene
from attnviz.gallery.cards.hierarchical import review
from attnviz.gallery.cards.temporal import clip as marked_clip
from attnviz.gallery.drawings.captions import word_maps
from attnviz.gallery.drawings.documents import document
from attnviz.gallery.drawings.frames import frame_weights
from attnviz.gallery.modules.seq2seq import START


def shown(name):
    """A card's picture; skips while its weights are not there."""
    try:
        return cards(name)[0].show()
    except EnvironmentFault as error:
        pytest.skip(str(error))


def built(name):
    torch.manual_seed(3)
    return reference.task(name).build().double().eval()


def doubled(model):
    """Weights far from even: the scores' parameters are made larger."""
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("attention", "attend")):
            parameter.data.mul_(4)
    return model


def exponentials(scores):
    raised = (scores - scores.max()).exp()
    return raised / raised.sum()


@torch.no_grad()
def frames_by_hand(model, clip):
    """alpha (T,) = softmax w . tanh(U v + b), one frame after another."""
    attend, scores = model.attention, []
    for frame in clip:
        v = model.frame(frame[None])[0]
        hidden = torch.tanh(attend.frame.weight @ v + attend.frame.bias)
        scores.append(attend.w.weight[0] @ hidden)
    return exponentials(torch.stack(scores))


@torch.no_grad()
def document_by_hand(model, tokens):
    """Words' weights, a list a sentence, and sentences' weights (L,)."""

    def pool(states, attention):
        u = torch.tanh(states @ attention.w.weight.T + attention.w.bias)
        alpha = exponentials(u @ attention.u.weight[0])
        return alpha @ states, alpha

    vectors, words = [], []
    for row in tokens:
        there = row[row != 0]
        if not len(there):
            continue
        states = model.word_gru(model.embed.weight[there][None])[0][0]
        vector, alpha = pool(states, model.word_attention)
        vectors.append(vector)
        words.append(alpha)
    states = model.sentence_gru(torch.stack(vectors)[None])[0][0]
    return words, pool(states, model.sentence_attention)[1]


@torch.no_grad()
def caption_by_hand(model, image, caption):
    """alpha (T, N) of a soft or hard captioner, word by word."""
    vectors = model.reader(image[None])[0].flatten(1).T
    state = torch.tanh(model.begin)
    score, token, rows = model.attend.score, torch.tensor(START), []
    for word in caption:
        keys = vectors @ score.key.weight.T + score.query.weight @ state
        alpha = exponentials(torch.tanh(keys) @ score.v.weight[0])
        seen = vectors[alpha.argmax()] if model.attend.hard else alpha @ vectors
        state = model.cell(torch.cat((model.word.weight[token], seen))[None], state[None])[0]
        rows.append(alpha)
        token = word
    return torch.stack(rows)


def test_temporal_attention_is_found_and_equals_the_formula():
    model = doubled(built("temporal"))
    clip = reference.sample("temporal", 2).inputs[0].double()
    (entry,) = attnviz.inspect(model, clip)
    assert (entry.name, entry.kind, entry.shape) == ("attention", "temporal", (1, 1, 8))
    assert entry.attends == "1 weighted sum over 8 frames"
    for row in (0, 1):
        expected = frames_by_hand(model, clip[row])
        assert (entry.read()[row, 0, 0] - expected).abs().max() < 1e-9
    assert expected.std() > 0.005


def test_pooling_over_positions_of_a_picture_is_not_called_temporal():
    class Pool(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.score = torch.nn.Linear(3, 1)

        def forward(self, x):
            tokens = x.flatten(2).mT
            return self.score(tokens).softmax(1).mT @ tokens

    (entry,) = attnviz.inspect(Pool().eval(), torch.rand(2, 3, 4, 4))
    assert entry.kind == "spatial"


def test_frames_carry_their_weights():
    weights = torch.tensor([0.1, 0.7, 0.2])
    frames = torch.rand(3, 1, 4, 4)
    figure = frame_weights(weights, frames, marked=1)
    bars, *pictures = figure.axes
    assert np.allclose([bar.get_height() for bar in bars.patches], weights)
    assert bars.get_ylim() == (0, 1)
    assert [ax.get_title() for ax in pictures] == ["0.10", "0.70", "0.20"]
    assert np.allclose(pictures[2].images[0].get_array()[..., 0], frames[2, 0])
    colours = [bar.get_facecolor() for bar in bars.patches]
    assert colours[0] == colours[2] != colours[1]
    with pytest.raises(DataError, match="3 weights for 2 frames"):
        frame_weights(weights, frames[:2])


def test_words_and_sentences_are_found_and_equal_the_formula():
    model = doubled(built("hierarchical"))
    batch = reference.sample("hierarchical", 2)
    tokens = batch.inputs[0]
    words, sentences = attnviz.inspect(model, tokens)
    _, length, width = tokens.shape
    assert (words.name, words.kind) == ("word_attention", "temporal")
    assert words.shape == (length, 1, 1, width)
    assert (sentences.name, sentences.kind) == ("sentence_attention", "temporal")
    assert sentences.shape == (1, 1, length)
    read = words.read().view(2, length, width)
    for row in (0, 1):
        inner, outer = document_by_hand(model, tokens[row])
        assert (sentences.read()[row, 0, 0, : len(outer)] - outer).abs().max() < 1e-9
        assert sentences.read()[row, 0, 0, len(outer) :].abs().sum() == 0
        for place, alpha in enumerate(inner):
            assert (read[row, place, : len(alpha)] - alpha).abs().max() < 1e-9


def test_document_is_shaded_by_its_weights():
    from matplotlib import colormaps

    sentences = [["not", "good"], ["it", "is", "a", "box"]]
    words = torch.tensor([[0.75, 0.25, 0, 0], [0.1, 0.2, 0.3, 0.4]])
    figure = document(torch.tensor([0.875, 0.125]), words, sentences)
    patches = {p.get_gid(): p for p in figure.axes[0].patches if p.get_gid() != "sentence"}
    for row, sentence in enumerate(sentences):
        for place in range(len(sentence)):
            shade = colormaps["Oranges"](words[row, place].item())
            assert patches[f"word {row} {place}"].get_facecolor() == shade
    bars = [p.get_width() for p in figure.axes[0].patches if p.get_gid() == "sentence"]
    assert bars == [0.875, 0.125]
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert texts[:3] == ["0.88", "not", "0.75"]
    with pytest.raises(DataError, match="for 2 sentences of up to 4 words"):
        document(torch.tensor([0.5, 0.5]), words[:, :3], sentences)


def test_soft_captions_are_found_and_equal_the_formula():
    model = doubled(built("captioning_soft"))
    batch = reference.sample("captioning_soft", 1)
    image, caption = batch.inputs[0].double(), batch.truth["caption"]
    inventory = attnviz.inspect(model, (image, caption))
    assert len(inventory) == caption.shape[1]
    assert {(e.name, e.kind, e.shape) for e in inventory} == {("attend", "cross", (1, 1, 100))}
    assert inventory[0].attends == "1 query attends 10 x 10 patches"
    read = torch.cat([e.read()[0, 0] for e in inventory])
    assert (read - caption_by_hand(model, image[0], caption[0])).abs().max() < 1e-9


def test_hard_captions_are_found_and_read_the_likeliest_place():
    model = doubled(built("captioning_hard"))
    batch = reference.sample("captioning_hard", 1)
    image, caption = batch.inputs[0].double(), batch.truth["caption"]
    (entry,) = attnviz.inspect(model, (image, caption))
    assert (entry.name, entry.kind, entry.shape) == ("", "hard", (caption.shape[1], 2))
    best = caption_by_hand(model, image[0], caption[0]).argmax(1)
    assert entry.read()[0].tolist() == [[int(i) // 10, int(i) % 10] for i in best]


def test_each_word_has_its_map_and_its_place():
    maps = torch.tensor([[[0.0, 0.25], [0.5, 0.25]], [[1.0, 0.0], [0.0, 0.0]]])
    photo = torch.rand(3, 8, 8)
    figure = word_maps(maps, ["a", "disc"], photo, places=[[1, 0], [0, 0]])
    first, second = figure.axes[1:3]
    assert np.allclose(figure.axes[0].images[0].get_array(), photo.permute(1, 2, 0))
    for ax, values in ((first, maps[0]), (second, maps[1])):
        assert np.array_equal(ax.images[-1].get_array(), values)
        assert ax.images[-1].get_clim() == (0, 1)
    assert [ax.get_title() for ax in (first, second)] == ["a", "disc"]
    assert first.patches[0].get_xy() == (0, 4)
    assert second.patches[0].get_xy() == (0, 0)
    with pytest.raises(DataError, match="2 maps and 1 places for 2 words"):
        word_maps(maps, ["a", "disc"], photo, places=[[1, 0]])


def test_card_of_temporal_attention():
    card = shown("temporal")
    model, clip = reference.load("temporal"), marked_clip().inputs[0]
    expected = frames_by_hand(model, clip[0])
    assert (card.tensor[0, 0] - expected).abs().max() < 1e-6
    heights = [bar.get_height() for bar in card.figure.axes[0].patches]
    assert np.allclose(heights, expected)
    assert card.numbers["on_marked"] >= 0.7
    names = {"model": model, "example": clip}
    exec(cards("temporal")[0].code, names)
    assert torch.equal(names["weights"], card.tensor)


def test_card_of_hierarchical_attention():
    card = shown("hierarchical")
    model, batch = reference.load("hierarchical"), review()
    inner, outer = document_by_hand(model.double(), batch.inputs[0][0])
    assert (card.tensor[0, 0, : len(outer)] - outer).abs().max() < 1e-5
    bars = [p.get_width() for p in card.figure.axes[0].patches if p.get_gid() == "sentence"]
    assert np.allclose(bars, outer, atol=1e-5)
    verdict = int(batch.truth["sentence"])
    deciding = batch.truth["words"][0, verdict][: len(inner[verdict])]
    assert card.numbers["on_words"] == pytest.approx(
        inner[verdict][deciding].sum().item(), abs=1e-5
    )
    assert card.numbers["on_sentence"] > 2 * card.numbers["even"]
    names = {"model": model.float(), "example": batch.inputs[0]}
    exec(cards("hierarchical")[0].code, names)
    assert torch.equal(names["weights"], card.tensor)


@pytest.mark.parametrize("name", ["captioning_soft", "captioning_hard"])
def test_card_of_captioning(name):
    card = shown(name)
    model, batch = reference.load(name), scene(name)
    example = (batch.inputs[0], batch.truth["caption"])
    expected = caption_by_hand(model.double(), example[0][0].double(), example[1][0])
    for number, ax in enumerate(card.figure.axes[1 : 1 + len(expected)]):
        drawn = ax.images[-1].get_array()
        assert np.allclose(drawn, expected[number].view(10, 10), atol=1e-4)
    assert card.numbers["on_object"] >= 0.5
    names = {"model": model.float(), "example": example}
    exec(cards(name)[0].code, names)
    assert torch.equal(names["weights" if name.endswith("soft") else "cells"], card.tensor)
