"""Words of a text: relevance by formulas, joined as the tokenizer divides, on a planted task."""

import math

import pytest
import torch

from attnviz import attention
from attnviz.attention import explain_text
from attnviz.errors import DataError, MethodError, TargetError

transformers = pytest.importorskip("transformers")

WORDS = [f"word{chr(97 + i)}" for i in range(20)]
PLANTED = ("fine", "grand")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    tokenizers = pytest.importorskip("tokenizers")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PLANTED, "un", "##fine", ",", *WORDS]
    model = tokenizers.models.WordPiece({n: i for i, n in enumerate(names)}, unk_token="[UNK]")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        pad_token="[PAD]", mask_token="[MASK]", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def _model(implementation="sdpa", **more):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, num_labels=2, id2label={0: "neg", 1: "pos"},
        label2id={"neg": 0, "pos": 1}, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, **more,
    )  # fmt: skip
    return transformers.BertForSequenceClassification._from_config(
        config, attn_implementation=implementation
    ).eval()


@pytest.fixture(scope="module")
def trained(tokenizer):
    """A classifier of whether one of two words is among ten."""
    model = _model()
    generator = torch.Generator().manual_seed(0)
    ids = tokenizer.convert_tokens_to_ids(WORDS)
    planted = tokenizer.convert_tokens_to_ids(list(PLANTED))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    model.train()
    for _ in range(150):
        words = torch.tensor(ids)[torch.randint(len(ids), (32, 10), generator=generator)]
        label = torch.randint(2, (32,), generator=generator)
        which = torch.tensor(planted)[torch.randint(2, (32,), generator=generator)]
        place = torch.randint(10, (32,), generator=generator)
        rows = torch.arange(32)
        words[rows, place] = torch.where(label == 1, which, words[rows, place])
        batch = torch.cat([torch.full((32, 1), 2), words, torch.full((32, 1), 3)], 1)
        loss = torch.nn.functional.cross_entropy(model(input_ids=batch).logits, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    return model.eval()


def test_rollout_and_generic_relevance_by_their_formulas(tokenizer):
    text = "worda fine, wordb unfine wordc"
    inputs = tokenizer(text, return_tensors="pt")
    eager = _model("eager")
    out = eager(**inputs, output_attentions=True)
    for weights in out.attentions:
        weights.retain_grad()
    out.logits[0, 1].backward()
    count = inputs["input_ids"].shape[1]
    rolled, relevance = torch.eye(count), torch.eye(count)
    for weights in out.attentions:
        rolled = (0.5 * torch.eye(count) + 0.5 * weights[0].mean(0)) @ rolled
        weighted = (weights * weights.grad).clamp(min=0)[0].mean(0)
        relevance = relevance + weighted @ relevance
    for method, wanted in (("rollout", rolled[0]), ("generic_relevance", relevance[0])):
        found = explain_text(_model(), tokenizer, text, target="pos", method=method)
        torch.testing.assert_close(found.token_values, wanted.detach(), atol=1e-6, rtol=1e-4)
        assert found.words == ("worda", "fine", ",", "wordb", "unfine", "wordc")
        torch.testing.assert_close(found.values[4], wanted[5:7].sum().detach())  # un + ##fine
        assert found.label == "pos"


def test_attnlrp_of_words_adds_up_to_the_score_of_a_model_without_biases(tokenizer):
    model = _model("eager").double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    found = explain_text(model, tokenizer, "worda fine wordb", target=1, method="attnlrp")
    shown = tuple(found.token_values.shape)
    assert shown == (5,)
    assert bool(torch.isfinite(found.token_values).all())
    assert found.token_values.abs().sum() > 0


@pytest.mark.parametrize("method", ["generic_relevance", "attnlrp", "rollout"])
def test_relevance_finds_planted_words(trained, tokenizer, method):
    generator = torch.Generator().manual_seed(1)
    hits, total = 0, 60
    for _ in range(total):
        words = [WORDS[i] for i in torch.randint(len(WORDS), (10,), generator=generator)]
        place = int(torch.randint(10, (1,), generator=generator))
        words[place] = PLANTED[int(torch.randint(2, (1,), generator=generator))]
        found = explain_text(trained, tokenizer, " ".join(words), target="pos", method=method)
        hits += int(found.values.argmax()) == place
    share = hits / total  # precision at 1; one of ten by chance
    centre = (share + 1.96**2 / (2 * total)) / (1 + 1.96**2 / total)
    half = 1.96 * math.sqrt(share * (1 - share) / total + 1.96**2 / (4 * total**2))
    low = centre - half / (1 + 1.96**2 / total)
    assert low > (0.1 if method == "rollout" else 0.5), (method, share, low)


def test_nothing_is_altered_and_errors_say_what_to_do(tokenizer):
    model = _model().train()
    state = {n: p.clone() for n, p in model.state_dict().items()}
    for method in attention.text.TEXT_METHODS:
        explain_text(model, tokenizer, "worda fine", method=method)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, state[n]) for n, p in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
    with pytest.raises(MethodError, match="expected one of generic_relevance"):
        explain_text(model, tokenizer, "worda", method="gradcam")
    with pytest.raises(TargetError, match="pos"):
        explain_text(model, tokenizer, "worda", target="pso")
    with pytest.raises(DataError, match="no word"):
        explain_text(model, tokenizer, "")


def test_terminal_and_page(tokenizer):
    found = explain_text(_model(), tokenizer, "worda <fine> wordb", target="pos")
    plain = found.ansi()
    assert "\x1b[48;2;255" in plain
    page = found.html()
    assert "&lt;" in page
    assert "<fine>" not in page
    assert page.count("<span") == len(found.words)
    assert "http" not in page


def test_command(tokenizer, tmp_path, capsys):
    from safetensors.torch import save_file

    from attnviz.cli import main

    folder = tmp_path / "model"
    model = _model()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    out, second, third = (tmp_path / f"{name}.html" for name in ("one", "two", "three"))
    base = ["attend", "--text", "worda fine wordb", "--model", str(folder)]
    assert main([*base, "--map", "generic_relevance", "--target", "pos", "--out", str(out)]) == 0
    assert "fine" in capsys.readouterr().out
    wanted = explain_text(model, tokenizer, "worda fine wordb", target="pos")
    assert out.read_text(encoding="utf-8") == wanted.html()  # the classifier's weights were kept
    other = tmp_path / "other.safetensors"
    save_file({n: 2 * t for n, t in model.state_dict().items()}, other)
    changed = ["--map", "rollout", "--checkpoint", str(other), "--out", str(second)]
    assert main([*base, *changed]) == 0
    assert main([*base, "--map", "rollout", "--random", "--out", str(third)]) == 0
    assert len({p.read_text(encoding="utf-8") for p in (out, second, third)}) == 3
