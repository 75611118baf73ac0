"""Words, prompts and names that somebody chose on purpose, on the pages and lines of texts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from attnviz.attention.text import TextRelevance
from attnviz.attention.views.word_page import words_page
from attnviz.attention.word_maps import WordMaps
from attnviz.geometry import Geometry
from tests.campaign.test_names import NAMES, Strict


def strict(page: str) -> None:
    parser = Strict()
    parser.feed(page)
    parser.close()
    assert parser.wrong == []
    assert "<script>alert(77)" not in page


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_page_of_words_stays_a_page_and_a_line_stays_a_line(name):
    token = torch.ones(1)
    text = f"a {name} b"
    spans = ((2, 2 + len(name)),)
    found = TextRelevance(
        text=text, words=(name,), spans=spans, values=token, tokens=(name,), token_values=token,
        method=name, label=name, score=1.0,
    )  # fmt: skip
    strict(found.html())
    shown = found.ansi().replace("\x1b[48;2;255;0;0m\x1b[30m", "").replace("\x1b[0m", "")
    assert not set(shown) & {"\x1b", "\u202e", "\u2028", "\r", "\x9b"}
    words = WordMaps(
        text=text, words=(name,), spans=spans, written=token, members=((0,),), logprob=token,
        prompt=name, layers=torch.rand(1, 1, 2, 2), text_share=torch.rand(1, 1), names=(name,),
        maps={"attention": torch.rand(1, 2, 2)}, image=np.zeros((8, 8, 3), np.uint8),
        geometry=Geometry((8, 8), (2, 2), (0.0, 0.0, 8.0, 8.0)), model=name,
    )  # fmt: skip
    page = words_page(words, title=name)
    strict(page)
    script = page.partition("<script>")[2].partition("</script>")[0]
    assert script.rstrip().endswith(("}", ";", ")"))
    assert page.count("</script>") == 1
    strict(words_page(replace(words, model="net"), title=""))
