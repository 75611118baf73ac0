"""Words written from a text or from speech: rows by beams, through the cache, against eager."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from attnviz.attention import aligned, tap
from attnviz.errors import AttentionUnavailable, DataError, MethodError
from tests.support.vlm_models import tokenizer

transformers = pytest.importorskip("transformers", minversion="5.0")

_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 16}
_TWO = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
}  # fmt: skip
RATE = 16_000


def build(kind, attention):
    t = transformers
    config, make = {
        "t5": lambda: (
            t.T5Config(d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4,
                       decoder_start_token_id=0, **_IDS),
            t.T5ForConditionalGeneration,
        ),
        "bart": lambda: (
            t.BartConfig(decoder_start_token_id=3, max_position_embeddings=64, **_TWO, **_IDS),
            t.BartForConditionalGeneration,
        ),
        "marian": lambda: (
            t.MarianConfig(decoder_start_token_id=0, max_position_embeddings=64, **_TWO, **_IDS),
            t.MarianMTModel,
        ),
        "whisper": lambda: (
            t.WhisperConfig(
                num_mel_bins=16, max_source_positions=50, max_target_positions=40,
                decoder_start_token_id=1, begin_suppress_tokens=None, **_TWO, **_IDS,
            ),
            t.WhisperForConditionalGeneration,
        ),
        "speech_to_text": lambda: (
            t.Speech2TextConfig(
                input_feat_per_channel=16, max_source_positions=100, max_target_positions=40,
                conv_channels=32, decoder_start_token_id=1, **_TWO, **_IDS,
            ),
            t.Speech2TextForConditionalGeneration,
        ),
    }[kind]()  # fmt: skip
    config._attn_implementation = "eager" if kind == "speech_to_text" else attention
    torch.manual_seed(1)
    model = make(config).eval()
    for p in model.parameters():
        p.data *= 3  # untrained rows are all alike otherwise
    model.generation_config.forced_eos_token_id = None
    return model


class Listener:
    """A feature extractor and a tokenizer, called as Hugging Face's processors of speech are."""

    def __init__(self, kind):
        made = {
            "whisper": lambda: transformers.WhisperFeatureExtractor(
                feature_size=16, chunk_length=1, sampling_rate=RATE
            ),
            "speech_to_text": lambda: transformers.Speech2TextFeatureExtractor(
                feature_size=16, num_mel_bins=16, sampling_rate=RATE
            ),
        }
        self.feature_extractor, self.tokenizer = made[kind](), tokenizer()

    def __call__(self, *args, **kwargs):
        return self.feature_extractor(*args, **kwargs)


def source(kind):
    if kind in ("whisper", "speech_to_text"):
        noise = np.random.default_rng(0).standard_normal(int(0.7 * RATE)).astype(np.float32)
        return Listener(kind), noise
    return tokenizer(), "what is in the picture ?"


KINDS = ("t5", "bart", "marian", "whisper", "speech_to_text")
PLAIN = {"suppress_tokens": [0, 1, 2, 3], "min_new_tokens": 6, "max_new_tokens": 6}


@pytest.mark.parametrize("options", [{}, {"num_beams": 4}, {"num_beams": 4, "use_cache": False}],
                         ids=["greedy", "beams", "no cache"])  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_eager_model_that_is_given_the_answer(kind, options, monkeypatch):
    model, (processor, given) = build(kind, "sdpa"), source(kind)
    kept = {}
    real = type(model).generate
    alone = {"force_unique_generate_call": True} if kind == "whisper" else {}

    def watched(self, force_unique_generate_call=None, **kwargs):
        kept["inputs"], kept["out"] = kwargs, real(self, **kwargs, **alone)
        return kept["out"]

    monkeypatch.setattr(type(model), "generate", watched)
    found = aligned(model, processor, given, **PLAIN, **options)
    monkeypatch.undo()
    out = kept["out"]
    names = ("input_ids", "attention_mask", "input_features")
    inputs = {n: v for n, v in kept["inputs"].items() if n in names}
    plain = build(kind, "sdpa").generate(
        **inputs, **PLAIN, **options, do_sample=False, return_dict_in_generate=True,
        output_logits=True, **alone,
    )  # fmt: skip
    assert torch.equal(out.sequences, plain.sequences)
    assert all(torch.equal(a, b) for a, b in zip(out.logits, plain.logits, strict=True))

    with torch.no_grad():
        output = build(kind, "eager")(
            **inputs, decoder_input_ids=out.sequences[:, :-1], output_attentions=True
        )
    rows = torch.stack([w[0].mean(0)[-6:] for w in output.cross_attentions], 1)
    if isinstance(given, str):
        assert found.source == tuple(given.split())
        rows = rows[..., : len(found.source)] if kind == "marian" else rows
        rows = rows[..., -len(found.source) :] if rows.shape[-1] > len(found.source) else rows
    assert found.words == tuple(processor_words(processor, out.sequences[0, -6:]))
    assert len(found.names) == 2
    assert all("ecoder." in name for name in found.names)
    torch.testing.assert_close(found.layers, rows, atol=1e-5, rtol=1e-4)
    own = output.logits[0, -6:].log_softmax(-1).gather(1, out.sequences[0, -6:, None])[:, 0]
    torch.testing.assert_close(found.logprob, own, atol=1e-4, rtol=1e-4)


def processor_words(processor, tokens):
    reads = getattr(processor, "tokenizer", processor)
    return reads.convert_ids_to_tokens(tokens.tolist())


def test_the_rows_of_beams_are_followed_through_their_reordering():
    """The first beam's rows, step by step, are those of no answer."""
    model, (processor, given) = build("t5", "sdpa"), source("t5")
    ids = processor(given, return_tensors="pt")
    asked = {"num_beams": 4, "do_sample": False, **PLAIN}
    with tap(model, keep="qk") as read:
        out = model.generate(**ids, **asked, return_dict_in_generate=True)
    assert out.beam_indices[0].tolist() != [0] * 6
    names = [
        s for s in read.attention if s.kind == "cross" and s.name.startswith("decoder.block.1")
    ]
    first = torch.stack([s.weights().mean(1)[0, -1] for s in names])
    found = aligned(model, processor, given, num_beams=4, **PLAIN)
    assert (first[:, : len(found.source)] - found.layers[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_that_reads_its_cache_attends_to_itself(kind, beams):
    model, (processor, given) = build(kind, "sdpa"), source(kind)
    encoded = processor(given, return_tensors="pt", sampling_rate=RATE) if kind in (
        "whisper", "speech_to_text") else processor(given, return_tensors="pt")  # fmt: skip
    with tap(model, keep="qk") as read:
        model.generate(**encoded, num_beams=beams, do_sample=False, **PLAIN)
    kinds = {(s.name.split(".")[-1], s.kind) for s in read.attention if "decoder" in s.name}
    assert kinds == {("SelfAttention", "self"), ("EncDecAttention", "cross")} or kinds == {
        ("self_attn", "self"), ("encoder_attn", "cross")}  # fmt: skip


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("beams", [1, 3])
def test_so_does_a_decoder_alone(kind, beams):
    t = transformers
    small = {**_IDS, "vocab_size": 40}
    config, make = {
        "gpt2": lambda: (t.GPT2Config(n_embd=32, n_layer=2, n_head=4, **small), t.GPT2LMHeadModel),
        "llama": lambda: (
            t.LlamaConfig(
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                **small,
            ),
            t.LlamaForCausalLM,
        ),
    }[kind]()
    model = make(config).eval()
    with tap(model, keep="qk") as read:
        model.generate(torch.tensor([[5, 6, 7]]), num_beams=beams, do_sample=False,
                       min_new_tokens=4, max_new_tokens=4)  # fmt: skip
    assert [s.kind for s in read.attention] == ["self"] * 8
    assert [s.keys for s in read.attention[::2]] == [3, 4, 5, 6]


@pytest.mark.parametrize(("kind", "step"), [("whisper", 0.02), ("speech_to_text", 0.04)])
def test_columns_of_speech_are_seconds(kind, step):
    model, (processor, given) = build(kind, "sdpa"), source(kind)
    found = aligned(model, processor, given, **PLAIN)
    torch.testing.assert_close(found.seconds, torch.arange(found.layers.shape[-1]) * step)
    assert found.duration == pytest.approx(0.7)
    assert found.source is None
    if kind == "whisper":  # padded to a second
        assert len(found.seconds) == 50
    else:
        assert len(found.seconds) == 17  # 67 frames of 25 ms, in steps of four
    axes = found.figure(title="heard").axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == list(found.words)
    labels = [text.get_text() for text in axes.get_xticklabels()]
    assert labels[:2] == ["0.00 s", f"{step:.2f} s"]
    assert labels[-1] < "0.70 s"


def test_a_click_in_the_recording_moves_what_is_seen_there():
    """The time axis by a change of the sound: only columns at that time hear of it."""
    model, (processor, given) = build("speech_to_text", "eager"), source("speech_to_text")
    encoder = model.get_encoder()
    louder = given.copy()
    louder[int(0.40 * RATE) : int(0.44 * RATE)] *= 8
    states = []
    for sound in (given, louder):
        processor.feature_extractor.do_ceptral_normalize = False  # else all frames hear of it
        read = processor.feature_extractor(sound, sampling_rate=RATE, return_tensors="pt")
        with torch.no_grad():
            states.append(encoder.conv(read["input_features"])[0])
    moved = (states[0] - states[1]).norm(dim=-1)
    found = aligned(model, processor, given, **PLAIN)
    assert float(found.seconds[int(moved.argmax())]) == pytest.approx(0.40, abs=0.05)


def test_what_is_no_source_is_said():
    model, (processor, _) = build("t5", "sdpa"), source("t5")
    with pytest.raises(DataError, match="expected a text, or a recording as"):
        aligned(model, processor, np.zeros((2, 5)))
    with pytest.raises(MethodError, match="num_return_sequences"):
        aligned(model, processor, "what", num_beams=2, num_return_sequences=2)
    with pytest.raises(DataError, match="load the fast one"):
        aligned(model, SimpleNamespace(is_fast=False), "what")
    model, (processor, given) = build("whisper", "sdpa"), source("whisper")
    model.get_encoder().unused = torch.nn.Conv1d(1, 1, 1, stride=3)
    with pytest.raises(AttentionUnavailable, match="50 columns for 100 frames.* merge 6"):
        aligned(model, processor, given, **PLAIN)
