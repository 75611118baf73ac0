"""Words of models that write about pictures: scores and maps against the model called by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import attnviz
from attnviz import TokenTarget
from attnviz.data import boatwater as bw
from attnviz.errors import ModelError, TargetError
from tests.support.vlm_models import family, tokenizer

transformers = pytest.importorskip("transformers", minversion="5.0")

CLOSE = {"atol": 1e-6, "rtol": 1e-4}
WORDS = tokenizer()
_SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
          "num_attention_heads": 2}  # fmt: skip
_SEES = {**_SMALL, "image_size": 32, "patch_size": 8}
_SAYS = {**_SMALL, "vocab_size": len(WORDS), "pad_token_id": 0, "bos_token_id": 1,
         "eos_token_id": 2, "max_position_embeddings": 64}  # fmt: skip


def _awake(model):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def blip():
    t = transformers
    config = t.BlipConfig(
        vision_config=_SEES, text_config={**_SAYS, "encoder_hidden_size": 16, "sep_token_id": 2}
    )
    return _awake(t.BlipForConditionalGeneration(config))


def git():
    t = transformers
    return _awake(t.GitForCausalLM(t.GitConfig(vision_config=_SEES, **_SAYS)))


def encoder_decoder():
    t = transformers
    says = t.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=len(WORDS), n_positions=64,
                        bos_token_id=1, eos_token_id=2, add_cross_attention=True,
                        is_decoder=True)  # fmt: skip
    model = t.VisionEncoderDecoderModel(
        encoder=t.ViTModel(t.ViTConfig(**_SEES)), decoder=t.AutoModelForCausalLM.from_config(says)
    )
    model.config.decoder_start_token_id = 1
    model.config.pad_token_id = 0
    return _awake(model)


def seen(model, layer, given, places):
    """Sum of the log-probabilities by hand, and the layer's tokens with their gradient."""
    kept = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda m, a, o: kept.append(o[0] if isinstance(o, tuple) else o)
    )
    logits = model(**given).logits
    handle.remove()
    text = given.get("decoder_input_ids", given.get("input_ids"))
    rows = logits[0, -text.shape[1] :].log_softmax(-1)
    score = sum(rows[at, token] for at, token in places)
    return score, kept[0], torch.autograd.grad(score, kept[0])[0]


def gradcam(tokens, slope):
    """(h, w) of tokens (1, 1 + 16, C) by hand."""
    return (slope[0, 1:].mean(0) * tokens[0, 1:]).sum(-1).relu().view(4, 4).detach()


@pytest.fixture
def picture():
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))


KINDS = {
    "blip": (blip, "vision_model.encoder.layers.0", "input_ids", "text_decoder"),
    "git": (git, "git.image_encoder.vision_model.encoder.layers.0", "input_ids", None),
    "encoder_decoder": (encoder_decoder, "encoder.encoder.layer.0", "decoder_input_ids", None),
}


def _layer(model, wanted):
    names = [n for n, _ in model.named_modules()]
    return wanted if wanted in names else next(n for n in names if n.endswith("layers.0"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_word_and_a_word_that_is_said(kind, picture):
    build, layer, name, _ = KINDS[kind]
    model = build()
    layer = _layer(model, layer)
    token = WORDS.convert_tokens_to_ids
    # where the text is given, the word is scored where it stands; else as the next one
    text = torch.tensor([[1, token("a"), token("boat"), token("on")]])
    for word, places in (("boat", [(1, token("boat"))]), ("water", [(3, token("water"))])):
        given = {"pixel_values": picture, name: text}
        target = TokenTarget(word, WORDS)
        maps = attnviz.explain(model, given, target=target, layer=layer)
        score, tokens, slope = seen(model, layer, given, places)
        torch.testing.assert_close(maps.score, score.detach()[None], **CLOSE)
        torch.testing.assert_close(maps.values[0], gradcam(tokens, slope), **CLOSE)
        assert word in maps.label[0]
        assert maps.label[0].startswith(f"{word} (" + ("in" if word == "boat" else "next, not in"))
        assert maps.probability is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_alone_is_captioned_first(kind, picture):
    build, layer, name, _ = KINDS[kind]
    model = build()
    layer = _layer(model, layer)
    text = torch.tensor([[1]])
    for _ in range(30):  # greedily, from the start again and again
        with torch.no_grad():
            logits = model(pixel_values=picture, **{name: text}).logits
        best = int(logits[0, -1].argmax())
        if best == 2:
            break
        text = torch.cat([text, torch.tensor([[best]])], 1)
    said = [w for w in WORDS.convert_ids_to_tokens(text[0].tolist()) if w.isalpha()]
    never = next(w for w in ("house", "tree", "water", "boat") if w not in said)
    words = [(never, text[:, :1])]
    if said:
        first = text[0].tolist().index(WORDS.convert_tokens_to_ids(said[-1]))
        words.append((said[-1], text[:, :first]))
    for word, before in words:
        maps = attnviz.explain(model, picture, target=TokenTarget(word, WORDS), layer=layer)
        given = {"pixel_values": picture, name: before}
        places = [(before.shape[1] - 1, WORDS.convert_tokens_to_ids(word))]
        score, tokens, slope = seen(model, layer, given, places)
        torch.testing.assert_close(maps.score, score.detach()[None], **CLOSE)
        torch.testing.assert_close(maps.values[0], gradcam(tokens, slope), **CLOSE)


def test_a_llava_with_its_processor_goes_on_from_a_prompt():
    model, processor = family("llava")
    photo = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    given = dict(
        processor(images=[Image.fromarray(photo)], text=["<image>what is"], return_tensors="pt")
    )
    out = model.generate(**given, do_sample=False, max_new_tokens=30)
    token = WORDS.convert_tokens_to_ids("water")
    places = out[0, given["input_ids"].shape[1] :].tolist()
    target = TokenTarget("water", processor, "what is")
    layer = "model.vision_tower.vision_model.encoder.layers.0"
    layer = _layer(model, layer)
    maps = attnviz.explain(model, photo, target=target, layer=layer)
    before = places[: places.index(token)] if token in places else []
    ids = torch.cat([given["input_ids"], torch.tensor([before], dtype=torch.long)], 1)
    mask = torch.ones_like(ids)
    score, tokens, slope = seen(
        model, layer, {**given, "input_ids": ids, "attention_mask": mask},
        [(ids.shape[1] - 1, token)],
    )  # fmt: skip
    torch.testing.assert_close(maps.score, score.detach()[None], **CLOSE)
    torch.testing.assert_close(maps.values[0], gradcam(tokens, slope), **CLOSE)
    assert maps.images[0].shape == (32, 32, 3)


def test_tiny_llava_boat_lies_on_the_boat():
    data = bw.generate(groups=bw.balanced(4), seed=93)
    loaded = attnviz.load("tiny-llava")
    target = "token:sailboat@a"
    photos = list(data.images[:2])
    maps = attnviz.explain(loaded, photos, target=target, method=["gradcam", "occlusion"])
    for found in maps.values():
        assert (found.score <= 0).all()
        assert not found.flat[0]
        assert all("sailboat" in label for label in found.label)
    assert torch.equal(maps["gradcam"].score, maps["occlusion"].score)
    single = attnviz.explain(loaded, photos[1], target=target)
    torch.testing.assert_close(maps["gradcam"].values[1:2], single.values, **CLOSE)


class Own(nn.Module):
    """A captioner of one's own: pictures and token ids to logits of the next tokens."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.words = nn.Embedding(6, 8)
        self.head = nn.Linear(8, 6)

    def forward(self, images, captions):
        seen = self.conv(images).relu().mean((2, 3))
        return self.head(self.words(captions).cumsum(1) * seen[:, None])


def test_a_captioner_of_ones_own(picture):
    model = Own().eval()
    captions = torch.tensor([[0, 4, 2]])
    target = TokenTarget("boat", {"boat": 5})
    maps = attnviz.explain(model, (picture, captions), target=target, layer="conv")
    seen = model.conv(picture).detach().requires_grad_()
    read = seen.relu().mean((2, 3))
    score = model.head(model.words(captions).sum(1) * read).log_softmax(-1)[0, 5]
    slope = torch.autograd.grad(score, seen)[0]
    torch.testing.assert_close(maps.score, score.detach()[None], **CLOSE)
    by_hand = (slope.mean((2, 3), keepdim=True) * seen).sum(1).relu().detach()
    torch.testing.assert_close(maps.values, by_hand, **CLOSE)


def test_what_cannot_be_known_is_refused(picture):
    with pytest.raises(ModelError, match="which tokens .* writes words with is not known"):
        attnviz.explain(blip(), picture, target="token:boat")
    with pytest.raises(TargetError, match="no word of the model's tokenizer"):
        attnviz.explain(blip(), picture, target=TokenTarget("zebra", WORDS))
    with pytest.raises(TargetError, match="hold no text"):
        attnviz.explain(blip(), {"pixel_values": picture}, target=TokenTarget("boat", WORDS))
    with pytest.raises(TargetError, match="explained by themselves"):
        attnviz.explain(blip(), picture, classes=[TokenTarget("boat", WORDS), 3])
    with pytest.raises(ModelError, match="how Own begins to write"):
        attnviz.explain(Own(), picture, target=TokenTarget("boat", {"boat": 5}))
    with pytest.raises(TargetError, match="'token:boat'"):
        attnviz.explain(attnviz.load("tiny-llava"), picture)


@pytest.mark.parametrize("kind", ["git", "blip", "blip_2"])
def test_captioners_of_a_folder(kind, picture, tmp_path):
    """Saved and loaded: a prompt of no tokens has no mask, and words behind a picture no grid."""
    t = transformers
    if kind == "blip_2":
        model, reader = family(kind)
    elif kind == "blip":
        looks = t.BlipImageProcessor(size={"height": 32, "width": 32})
        model, reader = blip(), t.BlipProcessor(looks, WORDS)
    else:
        looks = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
        model, reader = git(), t.GitProcessor(looks, WORDS)
    model.save_pretrained(tmp_path)
    reader.save_pretrained(tmp_path)
    maps = attnviz.explain(f"hf:{tmp_path}", picture, target="token:boat")
    again = attnviz.explain(model, picture, target=TokenTarget("boat", reader))
    assert maps.values.shape == (1, 4, 4)
    assert "vision_model" in maps.layer
    torch.testing.assert_close(maps.score, again.score)
    torch.testing.assert_close(maps.values, again.values)


def test_blip_2_writes_behind_its_picture(picture):
    """A decoder alone reads the words behind the queries of the picture, as `generate` does."""
    model, reader = family("blip_2")
    maps = attnviz.explain(model, picture, target=TokenTarget("boat", reader))
    given = reader(images=Image.new("RGB", (32, 32)), text="", return_tensors="pt")
    given["pixel_values"] = picture
    text = given["input_ids"]
    said = []
    with torch.no_grad():
        for _ in range(64):
            rows = model(**given).logits[0, -1].log_softmax(-1)
            said.append((rows, int(rows.argmax())))
            given["input_ids"] = torch.cat([given["input_ids"], rows.argmax().view(1, 1)], 1)
            given["attention_mask"] = torch.ones_like(given["input_ids"])
            if said[-1][1] in (WORDS.eos_token_id, WORDS.sep_token_id):
                break
    assert given["input_ids"].shape[1] > text.shape[1]
    boat = WORDS.convert_tokens_to_ids("boat")
    at = next((n for n, (_, token) in enumerate(said) if token == boat), 0)
    torch.testing.assert_close(maps.score, said[at][0][None, boat], **CLOSE)
