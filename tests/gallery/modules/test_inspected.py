"""`attnviz.inspect` on every reference: names, kinds, shapes, and the very tensor that attends."""

import pytest
import torch
from torch import nn

import attnviz
from attnviz.gallery import modules as reference
from attnviz.gallery.modules.dynamic_capacity import entropy
from attnviz.gallery.modules.glimpses import glimpse

SOURCE = (1, 1, None)  # None: the length of the source
ALIGNMENTS = (
    "dates",
    "bahdanau",
    "luong_dot",
    "luong_general",
    "luong_concat",
    "cosine",
    "luong_location",
    "local_m",
    "local_p",
)

#: name -> module, kind, shape without the batch, and the output's tensor(s), one for each entry
EXPECTED = {
    "stn": ("transformer", "spatial", (2, 3), lambda out: [out.theta]),
    "ram": ("", "hard", (5, 2), lambda out: [out.locations]),
    "dcn": ("", "hard", (3, 2), lambda out: [out.chosen]),
    **{
        f"transformer_{scores}": (
            "blocks.{}.attention",
            "self",
            (4, 65, 65),
            lambda out: list(out.attention.unbind(1)),
        )
        for scores in ("softmax", "relu")
    },
    **{
        name: (
            "attend",
            "cross",
            SOURCE,
            lambda out: list(out.attention[:, :, None, None].unbind(1)),
        )
        for name in ALIGNMENTS
    },
    "captioning_soft": (
        "attend",
        "cross",
        (1, 1, 100),
        lambda out: list(out.attention.flatten(2)[:, :, None, None].unbind(1)),
    ),
    "captioning_hard": (
        "",
        "hard",
        (None, 2),
        lambda out: [torch.stack((out.places // 10, out.places % 10), 2)],
    ),
    "criss_cross": ("context", "self", (2, 20, 20, 40), lambda out: [out.attention]),
    # a window for each of 400 pixels, folded into the batch
    "stand_alone": (
        "context",
        "self",
        (400, 2, 1, 25),
        lambda out: [out.attention.flatten(4).flatten(2, 3).transpose(1, 2).reshape(-1, 2, 1, 25)],
    ),
    "ema": ("context", "spatial", (8, 20, 20), lambda out: [out.attention]),
    "hamburger": ("context", "spatial", (8, 20, 20), lambda out: [out.attention]),
    "attention_gate": ("gate", "spatial", (1, 40, 40), lambda out: [out.gate]),
    "temporal": ("attention", "temporal", (1, 1, 8), lambda out: [out.attention[:, None, None]]),
    "highway": (
        "layers.{}",
        "branch",
        (2, 32),
        lambda out: [torch.stack((gate, 1 - gate), 1) for gate in out.gates.unbind(1)],
    ),
}


@pytest.mark.parametrize("name", [name for name in reference.names() if name != "hierarchical"])
def test_inventory_lists_the_mechanism_and_reads_it(name):
    model, batch = reference.load(name), reference.sample(name, 3, seed=11)
    with torch.no_grad():
        out = model(*batch.inputs)
    module, kind, shape, tensors = EXPECTED[name]
    inventory = attnviz.inspect(model, batch.inputs)
    assert inventory.missed == ()
    found, wanted = inventory.of_kind(kind), tensors(out)
    assert len(found) == len(wanted) > 0
    if name == "ram":  # beside the places: each glimpse's content is gated by its place
        assert [e.kind for e in inventory if e.kind != "hard"] == ["channel"] * 5
    else:
        assert len(inventory) == len(found)
    for number, (entry, tensor) in enumerate(zip(found, wanted, strict=True)):
        assert entry.name == module.format(number)
        last = batch.inputs[0].shape[1] if name in ALIGNMENTS else None
        first = out.tokens.shape[1] if name == "captioning_hard" else None
        expected = tuple(shape)
        if last is not None:
            expected = (*shape[:-1], last)
        if first is not None:
            expected = (first, *shape[1:])
        assert entry.shape == expected
        if name in (*ALIGNMENTS, "captioning_soft"):
            assert entry.call == number  # the same module, once a step
        torch.testing.assert_close(entry.read(), tensor, rtol=0, atol=1e-6)


def test_hierarchical_has_words_and_sentences():
    model, batch = reference.load("hierarchical"), reference.sample("hierarchical", 3, seed=11)
    with torch.no_grad():
        out = model(*batch.inputs)
    _, sentences, width = batch.inputs[0].shape
    words, whole = attnviz.inspect(model, batch.inputs)
    assert (words.name, words.kind) == ("word_attention", "temporal")
    assert words.shape == (sentences, 1, 1, width)
    # rows of words lie in the batch, sentence by sentence
    torch.testing.assert_close(words.read().view(3, sentences, width), out.words, rtol=0, atol=1e-6)
    assert (whole.name, whole.kind, whole.shape) == (
        "sentence_attention",
        "temporal",
        (1, 1, sentences),
    )
    torch.testing.assert_close(whole.read()[:, 0, 0], out.sentences, rtol=0, atol=1e-6)


def test_every_reference_is_expected():
    assert {*EXPECTED, "hierarchical"} == set(reference.names())


# hard attention, against computations of its own


def hard(name, count=3):
    model, batch = reference.load(name), reference.sample(name, count, seed=3)
    [entry] = attnviz.inspect(model, batch.inputs).of_kind("hard")
    return model, batch.inputs[0], entry


def test_glimpses_are_those_of_a_recurrence_written_out():
    model, image, entry = hard("ram")
    assert (entry.mechanism, entry.attends) == ("glimpses", "5 glimpses, one place (x, y) each")
    cell, state = model.cell, torch.zeros(3, model.cell.hidden_size)
    place, path = torch.zeros(3, 2), []
    with torch.no_grad():
        for _ in range(5):
            path.append(place)
            patch = glimpse(image, place, size=model.size, scales=model.scales)
            seen = model.what(patch.flatten(1)) * torch.sigmoid(model.where(place))
            state = cell(model.merge(seen.clamp_min(0)).clamp_min(0), state)
            place = torch.tanh(model.locate(state)).clamp(-1, 1)
    torch.testing.assert_close(entry.read(), torch.stack(path, 1), rtol=0, atol=1e-6)


def test_refined_cells_are_where_a_small_step_changes_the_entropy_most():
    model, image, entry = hard("dcn", 2)
    assert entry.attends == "3 cells (row, column) of 5 x 5 are refined"
    model = model.double()
    with torch.no_grad():
        vectors, step = model.coarse(image.double()), 1e-6
        # central differences along each of a cell's 32 numbers
        slopes = torch.zeros(2, *vectors.shape[1:], dtype=torch.float64)
        for index in range(slopes[0].numel()):
            push = torch.zeros(slopes[0].numel(), dtype=torch.float64)
            push[index] = step
            push = push.view_as(slopes[0])
            ahead, back = entropy(model.top(vectors + push)), entropy(model.top(vectors - push))
            slopes.flatten(1)[:, index] = (ahead - back) / (2 * step)
    size = slopes.square().sum(1).sqrt()
    for picture in range(2):
        order = size[picture].flatten().argsort(descending=True)[:3]
        assert entry.read()[picture].tolist() == [[int(i) // 5, int(i) % 5] for i in order]


def test_words_are_read_from_the_cell_that_alone_decides_them():
    model, image, entry = hard("captioning_hard")
    assert entry.attends == "each word one cell (row, column) of 10 x 10"
    with torch.no_grad():
        out = model(image)
        vectors = model.reader(image)
        # word t from the state before it and the vector of the chosen cell, nothing else
        state = torch.tanh(model.begin)[None].repeat(len(image), 1)
        token = torch.ones(len(image), dtype=torch.long)
        for step, cells in enumerate(entry.read().unbind(1)):
            seen = torch.stack(
                [v[:, r, c] for v, (r, c) in zip(vectors, cells.tolist(), strict=True)]
            )
            word = model.word(token)
            state = model.cell(torch.cat((word, seen), 1), state)
            logits = nn.functional.linear(
                torch.cat((state, seen, word), 1), model.head.weight, model.head.bias
            )
            torch.testing.assert_close(logits, out.logits[:, step], rtol=0, atol=1e-4)
            token = out.tokens[:, step]
        alpha = out.attention.flatten(2)
        row, column = entry.read().unbind(2)
        assert torch.equal(row * 10 + column, alpha.argmax(2))
