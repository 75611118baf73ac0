"""The words of vision-language models: rows against the eager model, places by a bright block."""

import numpy as np
import pytest
import torch

from attnviz.attention.image_tokens import image_tokens
from attnviz.attention.token_activation import activation_maps, rank_gaussian
from attnviz.attention.word_reading import words
from attnviz.attention.word_removal import without_region
from attnviz.attention.written import members, offsets, split
from attnviz.data.prepared import mask_share
from attnviz.errors import AttentionUnavailable, DataError, MethodError
from tests.support.vlm_models import FAMILIES, family

pytest.importorskip("transformers", minversion="5.0")

ASKED = "what is in the picture ?"
SIZES = ((40, 64), (64, 40), (50, 50))


def photo(size, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)


def given(processor, image, text=ASKED):
    """Inputs by the processor itself, the placeholder put in front by hand."""
    from PIL import Image

    mark = "" if type(processor).__name__ == "Blip2Processor" else str(processor.image_token)
    made = processor(images=[Image.fromarray(image)], text=[mark + text], return_tensors="pt")
    return {name: value for name, value in made.items() if name != "labels"}


def written(model, processor, image, **options):
    """Words, and what `generate` gave while they were read."""
    seen, generate = [], model.generate

    def watched(*args, **kwargs):
        seen.append(generate(*args, **kwargs))
        return seen[-1]

    model.generate = watched
    try:
        found = words(model, processor, image, ASKED, **settings(model, processor), **options)
    finally:
        del model.generate
    return found, seen[0]


def settings(model, processor):
    """Options of `generate`: five plain words."""
    marks = [t for t in range(model.get_output_embeddings().weight.shape[0]) if not 4 <= t < 16]
    return {"max_new_tokens": 5, "suppress_tokens": marks}


def placed(model, processor, image):
    inputs = given(processor, image)
    names = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
    return image_tokens(model, inputs, image.shape[:2], names), inputs


def by_eager(kind, inputs, answer):
    """Rows (T, N) of each layer that write the answer, and the last hidden states, by loops.

    The eager model reads the prompt and what was written so far from the start, again and again.
    """
    model, _ = family(kind, "eager")
    rows, states = [], []
    for number in range(len(answer)):
        whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], answer[None, :number]], 1)}
        if "attention_mask" in whole:
            whole["attention_mask"] = torch.ones_like(whole["input_ids"])
        for name in ("token_type_ids", "mm_token_type_ids"):
            if name in whole:
                whole[name] = torch.cat([whole[name], whole[name].new_zeros(1, number)], 1)
        if "cross_attention_mask" in whole:
            last = whole["cross_attention_mask"][:, -1:].repeat_interleave(number, 1)
            whole["cross_attention_mask"] = torch.cat([whole["cross_attention_mask"], last], 1)
        if kind == "paligemma" and number:  # the answer is read causally, the prompt both ways
            whole["token_type_ids"][:, -number:] = 1
        with torch.no_grad():
            output = model(**whole, output_attentions=True, output_hidden_states=True)
        inner = output.language_model_outputs if kind == "blip-2" else output
        rows.append([w[0, :, -1].mean(0) for w in inner.attentions])
        states.append(inner.hidden_states[-1][0])
    return rows, states, output


@pytest.mark.parametrize("kind", FAMILIES)
def test_rows_are_those_of_the_eager_model_and_the_answer_is_unchanged(kind):
    model, processor = family(kind)
    image = photo((40, 64))
    place, inputs = placed(model, processor, image)
    plain = model.generate(
        **inputs, **settings(model, processor), do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    hooks = sum(len(m._forward_hooks) for m in model.modules())
    found, out = written(model, processor, image, methods=["attention"])
    assert torch.equal(plain.sequences, out.sequences)
    assert all(torch.equal(a, b) for a, b in zip(plain.logits, out.logits, strict=True))
    assert sum(len(m._forward_hooks) for m in model.modules()) == hooks

    answer = out.sequences[0, -5:]
    rows, _, output = by_eager(kind, inputs, answer)
    layers = range(len(rows[0]))
    if kind == "mllama":
        layers = [i for i in layers if len(rows[0][i]) == len(place.positions)]
    values = torch.stack([torch.stack([row[i][place.positions] for i in layers]) for row in rows])
    if kind == "blip-2":
        eager, _ = family(kind, "eager")
        with torch.no_grad():
            seen = eager.vision_model(inputs["pixel_values"]).last_hidden_state
            asked = eager.qformer(
                query_embeds=eager.query_tokens, encoder_hidden_states=seen, output_attentions=True
            )
        gathered = [w[0].mean(0) for w in asked.cross_attentions]
        values = values @ torch.stack(gathered).mean(0)
    maps = place.on_photo(values)
    assert found.words == tuple(processor.tokenizer.convert_ids_to_tokens(answer.tolist()))
    torch.testing.assert_close(found.layers, maps, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.maps["attention"], maps.mean(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        found.text_share, 1 - maps.sum((2, 3)), atol=1e-5, rtol=1e-4
    )  # fmt: skip
    logprob = torch.stack(
        [step[0].log_softmax(0)[t] for step, t in zip(plain.logits, answer, strict=True)]
    )
    torch.testing.assert_close(found.logprob, logprob)


@pytest.mark.parametrize("kind", [k for k in FAMILIES if k != "mllama"])
def test_rollout_is_the_product_of_the_eager_models_layers(kind):
    model, processor = family(kind)
    image = photo((64, 40))
    options = settings(model, processor)
    found, out = written(model, processor, image, methods=["rollout"])
    place, inputs = placed(model, processor, image)
    answer, count = out.sequences[0, -5:], inputs["input_ids"].shape[1]
    whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], answer[None, :4]], 1)}
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in whole:
            more = whole[name].new_full((1, 4), int(kind == "paligemma"))
            whole[name] = torch.cat([whole[name], more], 1)
    eager, _ = family(kind, "eager")
    with torch.no_grad():
        output = eager(**whole, output_attentions=True)
    inner = output.language_model_outputs if kind == "blip-2" else output
    product = torch.eye(count + 4)
    for weights in inner.attentions:
        product = (weights[0].mean(0) + torch.eye(count + 4)) / 2 @ product
    rows = product[count - 1 :][:, place.positions]
    if kind == "blip-2":
        assert found.maps["rollout"].shape == (5, 4, 4)
        return
    torch.testing.assert_close(found.maps["rollout"], place.on_photo(rows), atol=1e-5, rtol=1e-4)
    assert options["max_new_tokens"] == 5


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_block_of_the_photo_is_seen_by_the_tokens_that_lie_there(kind, size):
    """Vision towers that mix no patches: what a block changes tells where each token lies."""
    model, processor = family(kind)
    blind(model)
    even = np.full((*size, 3), 120, np.uint8)
    mask = np.zeros(size, bool)
    rows, columns = slice(size[0] // 2, size[0] * 3 // 4), slice(size[1] // 4, size[1] // 2)
    mask[rows, columns] = True
    marked = np.where(mask[..., None], np.uint8(250), even)
    place, _ = placed(model, processor, marked)
    changed = (features(model, processor, marked) - features(model, processor, even)).norm(dim=-1)
    if kind != "blip-2":
        changed = changed[place.positions]
    map_ = place.on_photo(changed)
    geometry = words(model, processor, marked, ASKED, **settings(model, processor)).geometry
    share = torch.from_numpy(mask_share(mask, geometry))[None].float()
    share = torch.nn.functional.adaptive_avg_pool2d(share, place.grid)[0]
    # resizing spreads the block's edge to the next cell
    near = torch.nn.functional.max_pool2d(share[None, None], 3, 1, 1)[0, 0] > 0
    assert (map_ * near).sum() / map_.sum() > 0.85
    assert (centre(map_) - centre(share)).abs().max() < 0.75
    assert map_.shape == GRIDS[kind][SIZES.index(size)]


def centre(values):
    """The mean (row, column) of a map, in cells."""
    rows, columns = (torch.arange(n).float() for n in values.shape)
    values = values / values.sum()
    return torch.stack([(values.sum(1) * rows).sum(), (values.sum(0) * columns).sum()])


#: rows and columns of each family at the three sizes, by hand: a landscape, a portrait, a square
GRIDS = {
    "llava": ((4, 4),) * 3,  # 32 px in patches of 8
    "llava_next": ((6, 8), (8, 6), (8, 8)),  # 1.6 : 1 on a canvas of 8 x 8 patches
    "qwen2_vl": ((2, 4), (4, 2), (3, 3)),  # 16 px a merged patch, sides to the nearest
    "qwen2_5_vl": ((2, 4), (4, 2), (3, 3)),
    "paligemma": ((4, 4),) * 3,
    "idefics3": ((4, 6), (6, 4), (6, 6)),  # tiles of 2 x 2, the longer side has three
    "smolvlm": ((4, 4),) * 3,
    "internvl": ((4, 6), (6, 4), (4, 4)),  # tiles of 2 x 2: 2 x 3, 3 x 2, 2 x 2
    "blip-2": ((4, 4),) * 3,
    "mllama": ((5, 8), (8, 5), (6, 6)),  # 8 x 8 patches of a canvas, less its padding
}


def blind(model):
    """Take from a vision tower what mixes its patches."""
    decoder = {id(m) for m in model.get_decoder().modules()}
    last = ("out_proj", "proj", "o_proj", "projection", "projection_layer")
    for name, module in model.named_modules():
        if id(module) in decoder or "qformer" in name or "patch" in name:
            continue
        if ("attn" in name or "attention" in name) and name.rpartition(".")[2] in last:
            module.weight.data.zero_()
            if module.bias is not None:
                module.bias.data.zero_()


def features(model, processor, image):
    """What stands at each place of the sequence (or of the keys) as the decoder is given it."""
    seen = {}

    def keep(module, args, given):
        for name in ("encoder_hidden_states", "cross_attention_states", "inputs_embeds"):
            if given.get(name) is not None:
                seen.setdefault(name, given[name])

    parts = [m for n, m in model.named_modules() if n.endswith("qformer")]
    handles = [
        part.register_forward_pre_hook(keep, with_kwargs=True)
        for part in [*parts, model.get_decoder()]
    ]
    with torch.no_grad():
        model(**given(processor, image))
    for handle in handles:
        handle.remove()
    return next(iter(seen.values())).flatten(0, -2)


@pytest.mark.parametrize("kind", ["llava", "llava_next", "qwen2_vl", "internvl"])
def test_tam_by_its_definition(kind):
    """By loops in numpy: logit lens, less what other words explain, then the filter over ranks."""
    model, processor = family(kind)
    image = photo((64, 40), seed=3)
    found, out = written(model, processor, image, methods=["tam"])
    place, inputs = placed(model, processor, image)
    answer, ids = out.sequences[0, -5:].tolist(), inputs["input_ids"][0].tolist()
    _, states, _ = by_eager(kind, inputs, out.sequences[0, -5:])
    hidden = states[-1].double().numpy()  # of the prompt and all words but the last
    weight = model.get_output_embeddings().weight.detach().double().numpy()
    special = set(processor.tokenizer.all_special_ids)
    for number, word in enumerate(answer):
        text = [i for i, t in enumerate(ids) if t not in special]
        text += [len(ids) + i for i in range(number)]
        told = [(i, (ids + answer)[i]) for i in text if (ids + answer)[i] != word]
        seen = hidden[place.positions.numpy()]
        own = np.maximum(seen @ weight[word], 0)
        share = np.array([max(hidden[i] @ weight[word], 0) for i, _ in told])
        share = share / (share.sum() + 1e-8)
        other = sum(
            s * np.maximum(seen @ weight[t], 0) for s, (_, t) in zip(share, told, strict=True)
        )
        fit = np.linalg.lstsq(other[:, None], own, rcond=None)[0] if other.any() else 0
        left = place.on_photo(torch.from_numpy(np.maximum(own - fit * other, 0)))
        wanted = filtered_by_hand(left.numpy())
        np.testing.assert_allclose(found.maps["tam"][number].numpy(), wanted, atol=1e-5, rtol=1e-4)
    assert float(found.maps["tam"].max()) > 1e-3


def filtered_by_hand(map_):
    padded = np.pad(map_, 1, mode="reflect" if min(map_.shape) > 1 else "edge")
    out = np.zeros_like(map_)
    for i in range(map_.shape[0]):
        for j in range(map_.shape[1]):
            values = sorted(padded[i : i + 3, j : j + 3].flatten())
            if not sum(values):
                continue
            spread = np.std(values) / np.mean(values)
            weights = [np.exp(-((r - 4) ** 2) / (2 * spread**2 + 1e-12)) for r in range(9)]
            out[i, j] = np.dot(values, weights) / sum(weights)
    return out


def test_the_filter_takes_a_single_peak_away_and_leaves_what_is_even():
    peak = torch.zeros(5, 5)
    peak[2, 2] = 9
    assert rank_gaussian(peak).max() < 1.7  # of 9
    even = torch.full((2, 5, 5), 3.0)
    torch.testing.assert_close(rank_gaussian(even), even)
    one = torch.rand(1, 4, 4)
    torch.testing.assert_close(rank_gaussian(2 * one), 2 * rank_gaussian(one))


def test_what_other_words_explain_is_taken_away():
    image = torch.eye(3)
    weight = torch.tensor([[0.0, 0, 0], [1, 1, 0], [1, 0, 1]])
    context = torch.tensor([[5.0, 0, 0]])
    # word 2 is seen at places 0 and 2, and word 1, which speaks for it, at 0 and 1
    word, seen = torch.tensor([2]), torch.tensor([[True]])
    found = activation_maps(word, image, context, torch.tensor([1]), seen, weight)[0]
    torch.testing.assert_close(found, torch.tensor([0.5, 0.0, 1.0]))
    same = activation_maps(word, image, context, torch.tensor([2]), seen, weight)[0]
    torch.testing.assert_close(same, torch.tensor([1.0, 0.0, 1.0]))


def test_region_mass_and_heatmaps():
    model, processor = family("qwen2_vl")
    image = photo((48, 64))
    found, _ = written(model, processor, image)
    mask = np.zeros((48, 64), bool)
    mask[:, :16] = True  # the first of four columns of merged patches
    mass = found.mass(mask)
    total = mass.inside + mass.outside + mass.text
    torch.testing.assert_close(total, torch.ones(5))
    torch.testing.assert_close(mass.inside, found.maps["attention"][:, :, 0].sum(1))
    assert mass.words == found.words
    maps = found.heatmaps("tam")
    assert maps.label == found.words
    assert maps.overlay(0).size == (64, 48)
    first = found.word(found.words[2].upper())
    number = found.words.index(found.words[2])
    torch.testing.assert_close(first.values[0], found.maps["attention"][number])
    with pytest.raises(DataError, match="has no word 'zebra'"):
        found.word("zebra")
    with pytest.raises(MethodError, match="made were attention, tam"):
        found.word(0, "rollout")
    with pytest.raises(DataError, match=r"mask is \(4, 4\)"):
        found.mass(np.ones((4, 4)))


def test_sub_words_are_joined_by_what_they_wrote():
    class Pieces:
        table = ("sail", "boat", " on", " the", " sea", ".", "", " \u6c34\u5cb8")

        def decode(self, ids, skip_special_tokens):
            return "".join(self.table[i] for i in ids)

    text, spans = offsets(Pieces(), [2, 0, 1, 6, 3, 4, 5, 7])
    assert text == "onsailboat the sea. \u6c34\u5cb8"
    text, spans = offsets(Pieces(), [0, 1, 2, 6, 3, 4, 5, 7])
    pieces = split(text)
    assert [text[a:b] for a, b in pieces] == [
        "sailboat",
        "on",
        "the",
        "sea",
        ".",
        "\u6c34",
        "\u5cb8",
    ]
    assert members(pieces, spans) == [[0, 1], [2], [4], [5], [6], [7], [7]]


def test_what_cannot_be_read_is_said():
    model, processor = family("mllama")
    with pytest.raises(MethodError, match="no image tokens among its words"):
        words(model, processor, photo((40, 40)), ASKED, methods=["tam"])
    with pytest.raises(MethodError, match="expected some of attention, tam, rollout, gradient"):
        words(model, processor, photo((40, 40)), ASKED, methods=["gradcam"])
    with pytest.raises(MethodError, match="num_beams"):
        words(model, processor, photo((40, 40)), ASKED, num_beams=2)
    model, processor = family("llava")
    with pytest.raises(AttentionUnavailable, match=r"16 image tokens where a grid of 3 x 3"):
        words(model, processor, photo((40, 40)), ASKED, grid=(3, 3))
    model.config.model_type = "mine"  # sixteen tokens are no grid of 4 x 4 by themselves
    with pytest.raises(AttentionUnavailable, match=r"16 image tokens of a 'mine'.*grid=\(rows"):
        words(model, processor, photo((40, 40)), ASKED)
    ids = torch.tensor([[5] + 16 * [model.config.image_token_id] + [6]])
    told = image_tokens(model, {"input_ids": ids}, (40, 40), [], grid=(2, 8))
    assert told.grid == (2, 8)
    assert told.positions.tolist() == list(range(1, 17))


def whole_of(model, inputs, answer, kind):
    """Prompt and answer but for the last token, for the eager model."""
    whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], answer[None, :-1]], 1)}
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in whole:
            more = whole[name].new_full((1, len(answer) - 1), int(kind == "paligemma"))
            whole[name] = torch.cat([whole[name], more], 1)
    return whole


@pytest.mark.parametrize("kind", ["llava", "qwen2_vl", "paligemma", "blip-2", "internvl"])
def test_gradient_weighted_maps_are_those_of_the_eager_model(kind):
    """By autograd with respect to the eager model's own matrices, which hold their gradients."""
    model, processor = family(kind)
    image = photo((64, 40), seed=2)
    before = [p.grad for p in model.parameters()]
    found, out = written(model, processor, image, methods=["gradient"])
    assert [p.grad for p in model.parameters()] == before
    place, inputs = placed(model, processor, image)
    answer = out.sequences[0, -5:]
    eager, _ = family(kind, "eager")
    output = eager(**whole_of(eager, inputs, answer, kind), output_attentions=True)
    inner = output.language_model_outputs if kind == "blip-2" else output
    values = []
    for number, token in enumerate(answer.tolist()):
        row = inputs["input_ids"].shape[1] - 1 + number
        grads = torch.autograd.grad(
            output.logits[0, number - 5, token], inner.attentions, retain_graph=True
        )
        both = [(a * g).clamp(min=0)[0, :, row].mean(0)
                for a, g in zip(inner.attentions, grads, strict=True)]  # fmt: skip
        values.append(torch.stack(both).mean(0)[place.positions])
    values = torch.stack(values).detach()
    if kind == "blip-2":
        with torch.no_grad():
            seen = eager.vision_model(inputs["pixel_values"]).last_hidden_state
            asked = eager.qformer(
                query_embeds=eager.query_tokens, encoder_hidden_states=seen, output_attentions=True
            )
        values = values @ torch.stack([w[0].mean(0) for w in asked.cross_attentions]).mean(0)
    maps = place.on_photo(values)
    assert float(maps.max()) > 1e-4
    torch.testing.assert_close(found.maps["gradient"], maps, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llava", "qwen2_vl", "mllama"])
def test_without_a_region_the_answer_is_read_again(kind):
    model, processor = family(kind)
    image = photo((48, 64), seed=4)
    found, out = written(model, processor, image, methods=["attention"])
    mask = np.zeros((48, 64), bool)
    mask[:, :20] = True
    fall = without_region(model, processor, found, mask)
    assert list(fall.fall) == ["mean", "blur"]
    torch.testing.assert_close(fall.logprob, found.logprob, atol=1e-5, rtol=1e-5)
    colour = np.rint(255 * np.asarray(processor.image_processor.image_mean)).astype(np.uint8)
    altered = np.where(mask[..., None], colour, image)
    answer = out.sequences[0, -5:]
    alone = []
    for number in range(5):  # each word by itself, behind those before it
        inputs = given(processor, altered)
        whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], answer[None, :number]], 1)}
        whole["attention_mask"] = torch.ones_like(whole["input_ids"])
        for name in ("token_type_ids", "mm_token_type_ids"):
            if name in whole:
                more = whole[name].new_zeros(1, number)
                whole[name] = torch.cat([whole[name], more], 1)
        if "cross_attention_mask" in whole:
            last = whole["cross_attention_mask"][:, -1:].repeat_interleave(number, 1)
            whole["cross_attention_mask"] = torch.cat([whole["cross_attention_mask"], last], 1)
        with torch.no_grad():
            alone.append(model(**whole).logits[0, -1].log_softmax(-1)[answer[number]])
    wanted = found.logprob - torch.stack(alone)
    torch.testing.assert_close(fall.fall["mean"], wanted, atol=1e-5, rtol=1e-4)
    assert float(fall.fall["mean"].abs().max()) > 1e-4
    nothing = without_region(model, processor, found, np.zeros((48, 64)))
    assert all(float(values.abs().max()) < 1e-6 for values in nothing.fall.values())
    with pytest.raises(DataError, match=r"mask is \(4, 4\)"):
        without_region(model, processor, found, np.ones((4, 4)))
    with pytest.raises(MethodError, match="expected some of mean, blur"):
        without_region(model, processor, found, mask, fills=["inpaint"])
