"""The tap on Hugging Face models: sdpa to the bit, weights as the eager implementation's."""

import copy

import pytest
import torch

from attnviz import attention
from attnviz.attention import hf
from attnviz.errors import AttentionUnavailable
from tests.support.attention_models import first, hf_config, hf_model, sharpen

transformers = pytest.importorskip("transformers")

SDPA = ("bert", "gpt2", "t5", "bart", "llama", "mistral", "distilbert", "albert", "vit",
        "deit", "beit", "dinov2", "dinov2_registers", "mae", "swin", "segformer", "clip",
        "siglip")  # fmt: skip
EAGER = ("detr", "blip", "swinv2")  # transformers has no sdpa for these (or for a part of them)
KINDS = {"t5": "self cross", "bart": "self cross", "detr": "self cross", "blip": "self cross",
         "swin": "window", "swinv2": "window", "siglip": "self pooling"}  # fmt: skip


def _attentions(output) -> list[torch.Tensor]:
    found = []
    parts = ("vision_model_output", "text_model_output")
    for holder in (output, *(getattr(output, n, None) for n in parts)):
        for name in ("attentions", "encoder_attentions", "decoder_attentions", "cross_attentions"):
            found += [a for a in getattr(holder, name, None) or () if isinstance(a, torch.Tensor)]
    return found


@pytest.mark.parametrize("kind", [*SDPA, *EAGER])
def test_output_to_the_bit_and_weights_of_the_eager_model(kind):
    model, inputs = hf_model(kind, implementation="sdpa" if kind in SDPA else "eager")
    with torch.no_grad():
        plain = first(model(**inputs))
        with attention.tap(model) as tap:
            tapped = first(model(**inputs))
    assert torch.equal(plain, tapped)
    assert not tap.missed
    assert set(KINDS.get(kind, "self").split()) == {s.kind for s in tap.attention}
    assert max(s.error() for s in tap.attention) < 1e-5

    eager, _ = hf_model(kind, implementation="eager")
    eager.load_state_dict(model.state_dict())
    with torch.no_grad():
        wanted = _attentions(eager(**inputs, output_attentions=True))
        with attention.tap(eager) as other:
            eager(**inputs)
    assert [s.name for s in other.attention] == [s.name for s in tap.attention]
    for mine, theirs in zip(tap.attention, other.attention, strict=True):
        torch.testing.assert_close(mine.weights(), theirs.weights(), atol=1e-5, rtol=0)
    got = [s.weights() for s in tap.attention]
    for matrix in wanted:  # those that the model itself hands out
        assert any(
            w.numel() == matrix.numel() and (w.reshape(matrix.shape) - matrix).abs().max() < 1e-5
            for w in got
        )
    if kind not in ("clip", "siglip", "swin", "swinv2"):
        assert wanted


@pytest.mark.parametrize(
    ("kind", "prefix", "grid"),
    [("vit", 1, (4, 4)), ("deit", 2, (4, 4)), ("dinov2_registers", 5, (4, 4)), ("beit", 1, (4, 4)),
     ("clip", 1, (4, 4)), ("siglip", 0, (4, 4)), ("detr", 0, (4, 5)), ("blip", 1, (4, 4))],
)  # fmt: skip
def test_prefix_tokens_and_grid(kind, prefix, grid):
    model, inputs = hf_model(kind, implementation="sdpa" if kind in SDPA else "eager")
    with torch.no_grad(), attention.tap(model, keep="qk") as tap:
        model(**inputs)
    for site in tap.attention:
        words = "text" in site.name and site.kind == "self"
        queries = kind == "detr" and "decoder" in site.name and site.kind == "self"
        if words or queries:  # as many words or object queries as may be: they are no picture
            assert site.grid is None
        else:
            assert (site.prefix, site.grid) == (prefix, grid), site


def test_masked_autoencoder_knows_where_its_shuffled_patches_are():
    model, inputs = hf_model("mae")
    with torch.no_grad(), attention.tap(model, keep="qk") as tap:
        out = model(**inputs)
    site = tap.attention[-1]
    assert site.grid is None  # half of them, in random order
    places = site.places()
    assert places.grid == (4, 4)
    assert (places.position[:, 0] == -1).all()  # the class token
    kept = out.ids_restore.argsort(1)[:, :8]
    assert torch.equal(places.position[:, 1:], kept)


def test_generation_with_a_cache_gives_a_site_for_each_step():
    config = copy.deepcopy(hf_config("gpt2"))
    torch.manual_seed(0)
    make = transformers.AutoModelForCausalLM.from_config
    model = sharpen(make(config, attn_implementation="sdpa"), 5.0).eval()
    ids = torch.randint(3, 90, (2, 5))
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    plain = model.generate(ids, **settings)
    with attention.tap(model) as tap:
        tapped = model.generate(ids, **settings)
    assert torch.equal(plain, tapped)
    assert {s.step for s in tap.attention} == {0, 1, 2, 3}
    last = [s for s in tap.attention if s.step == 3]
    assert [(s.queries, s.keys, s.kind) for s in last] == [(1, 8, "self")] * 2
    assert max(s.error() for s in tap.attention) < 1e-5
    # the last step's rows are the last rows of one pass over the whole text
    with torch.no_grad(), attention.tap(model) as whole:
        model(plain[:, :8])
    for step, full in zip(last, whole.attention, strict=True):
        torch.testing.assert_close(step.weights(), full.weights(rows=[7]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["llama", "bert", "vit", "t5"])
def test_output_attentions_work_again_under_sdpa(kind):
    model, inputs = hf_model(kind)
    eager, _ = hf_model(kind, implementation="eager")
    eager.load_state_dict(model.state_dict())
    with torch.no_grad():
        plain = first(model(**inputs))
        with hf.output_attentions(model):
            found = model(**inputs, output_attentions=True)
        wanted = _attentions(eager(**inputs, output_attentions=True))
        after = model(**inputs)
    assert torch.equal(plain, first(found))
    assert torch.equal(plain, first(after))
    assert model.config._attn_implementation == "sdpa"
    got = _attentions(found)
    assert len(got) == len(wanted) > 0
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_output_attentions_of_another_model_says_what_to_do():
    with (
        pytest.raises(AttentionUnavailable, match=r"attention\.tap"),
        hf.output_attentions(torch.nn.Linear(2, 2)),
    ):
        pass
