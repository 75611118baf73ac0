"""`attnviz attend`: maps, the page and the table of heads, for photos and texts."""

import json
import re

import pytest
import torch

from attnviz.cli import main

MODEL = "timm:vit_tiny_patch16_224"


def test_photo(photo, tmp_path, capsys):
    picture, page = tmp_path / "map.png", tmp_path / "page.html"
    arguments = ["attend", str(photo), "--random", "--model", MODEL, "--map", "rollout"]
    arguments += ["--out", str(picture), "--html", str(page), "--stats", "json"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert picture.is_file()
    assert "Grid" in page.read_text()
    document = json.loads(out[out.index("{") :])
    assert document["schema"] == "attnviz.attend"
    assert document["distance_unit"] == "px"
    assert len(document["heads"]) == 12 * 3
    assert all(0 <= h["class_share"] <= 1 for h in document["heads"])
    # nothing is overwritten unasked, and nothing is computed before that is said
    assert main(arguments) == 1
    assert "exist already" in capsys.readouterr().err
    assert main([*arguments, "--force"]) == 0


@pytest.fixture
def text_model(tmp_path):
    """A tiny BERT with a word tokenizer, in a folder."""
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "boat", "<sails>", "home"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    folder = tmp_path / "model"
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=12,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizerFast(
        tokenizer_file=None, vocab=dict(zip(words, range(len(words)), strict=True))
    ).save_pretrained(folder)
    return str(folder)


def test_text(text_model, tmp_path, capsys):
    figure, page = tmp_path / "graph.svg", tmp_path / "page.html"
    arguments = ["attend", "--text", "the boat the home", "--model", text_model]
    assert main([*arguments, "--map", "graph", "--out", str(figure), "--html", str(page)]) == 0
    capsys.readouterr()
    assert figure.read_text().startswith("<?xml")
    tokens = json.loads(re.search(r"const LAYERS = (.*);\n", page.read_text()).group(1))[0]
    assert tokens["queryTokens"] == ["[CLS]", "the", "boat", "the", "home", "[SEP]"]
    assert main([*arguments, "--stats", "table"]) == 0
    out = capsys.readouterr().out
    assert "distance (tokens)" in out
    assert "duplicate" in out  # "the" stands twice
    assert len(out.strip().splitlines()) == 1 + 2 * 2
    assert main([*arguments[:2], "the " * 40, *arguments[3:], "--stats", "table"]) == 1
    assert "takes 1 to 12" in capsys.readouterr().err


def test_errors(photo, text_model, tmp_path, capsys):
    base = ["attend", str(photo), "--random", "--model", MODEL, "--out", str(tmp_path / "a.png")]
    for arguments, code, message in [
        (["attend", "--model", MODEL], 2, "give a photo or --text"),
        (["attend", str(photo)], 2, "--model is needed"),
        ([*base, "--stats", "csv"], 2, "neither table nor json"),
        ([*base, "--map", "gradcam"], 1, "no map of attention"),
        ([*base, "--map", "rolout"], 1, "did you mean 'rollout'"),
        ([*base, "--map", "rollout", "--head", "1"], 1, "takes all heads together"),
        ([*base, "--map", "cls", "--head", "7"], 1, "7"),
        (["attend", "--text", "a", "--model", text_model, "--map", "flow"], 1, "graph or matr"),
        (["attend", "--text", "a", "--model", str(tmp_path / "none")], 1, "error"),
    ]:
        assert main(arguments) == code, arguments
        err = capsys.readouterr().err
        assert message in err
        assert "Traceback" not in err
    assert not (tmp_path / "a.png").exists()
