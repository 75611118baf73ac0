"""`attnviz attend`: maps, the page and the table of heads, for photos and texts."""

import json
import os
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


def test_several_targets_give_a_picture_each(photo, tmp_path, capsys):
    arguments = ["attend", str(photo), "--random", "--model", MODEL, "--map", "legrad"]
    arguments += ["--target", "1,2", "--target", "class:3", "--out", str(tmp_path / "map.png")]
    assert main(arguments) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.count("legrad of timm") == 3
    assert len({p.read_bytes() for p in tmp_path.glob("map.*.png")}) == 3


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
        (["attend", "--model", MODEL], 2, "give photos or --text"),
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


def test_many_photos_and_folders(photo, tmp_path, capsys, monkeypatch):
    """Each photo has its own map and page; the table is of all; what is unreadable is said."""
    import shutil

    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(photo, folder / "a.jpg")
    Image.open(photo).rotate(180).save(folder / "b.png")
    (folder / "c.jpg").write_text("no photo")
    monkeypatch.chdir(tmp_path)
    command = ["attend", str(folder / "a.jpg"), str(folder / "b.png"), "--random", "--model", MODEL]
    command += ["--map", "rollout", "--out", "out", "--html", "page.html"]
    assert main([*command, "--layer", "blocks.11.attn,blocks.10.attn"]) == 0
    said = capsys.readouterr().out
    for stem in ("a", "b"):
        assert (tmp_path / f"page.{stem}.html").is_file()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a.rollout.jpg", "b.rollout.jpg",
    ]  # fmt: skip
    assert said.count("page of 2 layers") == 2
    assert main(["attend", str(folder / "c.jpg"), "none/", "--random", "--model", MODEL]) == 1
    assert "none/" in capsys.readouterr().err
    one = ["attend", str(folder), "--random", "--model", MODEL, "--out", "one.jpg"]
    assert main(one) == 2
    assert "folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_table_of_two_photos_is_the_mean_of_each(photo, tmp_path, capsys):
    from PIL import Image

    other = tmp_path / "b.png"
    Image.open(photo).rotate(180).save(other)
    found = []
    for photos in ([photo], [other], [photo, other]):
        command = ["attend", *map(str, photos), "--random", "--model", MODEL, "--stats", "json"]
        torch.manual_seed(0)
        assert main(command) == 0
        found.append([h["entropy"] for h in json.loads(capsys.readouterr().out)["heads"]])
    a, b, both = torch.tensor(found)
    torch.testing.assert_close(both, (a + b) / 2, rtol=1e-4, atol=1e-5)


def test_a_map_as_a_figure_for_papers(photo, tmp_path):
    words = ["attend", str(photo), "--random", "--model", MODEL, "--map", "cls", "--out"]
    assert main([*words, str(tmp_path / "x.pdf")]) == 0
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")


def test_a_full_disk_is_said_in_a_line(photo, tmp_path, capsys, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "rollout.png"
    words = ["attend", str(photo), "--model", "timm:vit_tiny_patch16_224", "--random"]
    assert main([*words, "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert f"error: cannot write {str(out)!r}: No space left on device; write it elsewhere" in said
    assert list(tmp_path.glob("*.png")) in ([], [photo])
    assert list(tmp_path.glob(".attnviz*")) == []
