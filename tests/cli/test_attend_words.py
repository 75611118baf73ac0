"""`attnviz attend PHOTO --text`: the words of a vision-language model, each with its maps."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from attnviz.cli import main


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """A folder of a tiny LLaVA with its processor."""
    pytest.importorskip("transformers", minversion="5.0")
    from tests.support.vlm_models import family

    folder = tmp_path_factory.mktemp("llava")
    model, processor = family("llava")
    plain = [t for t in range(model.get_output_embeddings().weight.shape[0]) if not 4 <= t < 16]
    model.generation_config.suppress_tokens = plain
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return f"hf:{folder}"


def page_data(page):
    return json.loads(re.search(r"const DATA = (.*);\n", page.read_text())[1])


def test_words_about_a_photo(photo, writer, tmp_path, capsys):
    """The words, a page of them, and the shares that the library gives."""
    from attnviz.attention import without_region, words
    from attnviz.images import read_image
    from attnviz.models.text import load_writer

    page = tmp_path / "words.html"
    mask = np.zeros(read_image(photo).shape[:2], np.uint8)
    mask[:, mask.shape[1] // 2 :] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    arguments = ["attend", str(photo), "--text", "what is this", "--model", writer, "--html",
                 str(page), "--max-new-tokens", "4"]  # fmt: skip
    assert main([*arguments, "--region", str(tmp_path / "mask.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    model, processor = load_writer(writer)
    found = words(model, processor, photo, "what is this", max_new_tokens=4)
    assert lines[0] == found.text
    mass = found.mass(mask)
    rows = [line.split() for line in lines if line.split()[:1] and line.split()[0] in found.words]
    fall = without_region(model, processor, found, mask).fall
    columns = (mass.inside, mass.outside, mass.text, fall["mean"], fall["blur"])
    shares = [
        [word, *(f"{float(v[i]):.3f}" for v in columns)] for i, word in enumerate(found.words)
    ]
    assert rows[-4:] == shares
    assert "TAM" in page.read_text()
    assert main(arguments) == 1
    assert "exist" in capsys.readouterr().err
    assert "heads" not in page_data(page)
    assert main([*arguments, "--head", "each", "--force"]) == 0
    assert page_data(page)["heads"]["count"] == [4, 4, 4]
    assert main([*arguments, "--force", "--head", "1"]) == 2
    assert "--head: not for a photo and a text" in " ".join(capsys.readouterr().err.split())
    assert main([*arguments, "--stats", "table"]) == 2
    assert "--stats: not for a photo and a text" in " ".join(capsys.readouterr().err.split())
    for extra in (["--drop-keys", "a"], ["--window", "0,9"], ["--mean", ".5,.5,.5"]):
        assert main([*arguments, "--force", *extra]) == 2
        assert f"{extra[0]}: not for a photo" in " ".join(capsys.readouterr().err.split())
    assert main([*arguments, "--force", "--grid", "3x3"]) == 1
    assert "grid of 3 x 3 was expected" in " ".join(capsys.readouterr().err.split())
