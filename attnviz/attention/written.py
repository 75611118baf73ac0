"""What a model wrote, word by word: which tokens wrote each, and how likely they were."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from ..models.text import members, offsets

#: words, single signs of scripts that write no spaces, and punctuation
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+(?:['’.,-][^\W_]+)*|[^\w\s]|_+")


@dataclass(frozen=True, eq=False, repr=False)
class Written:
    """The words that a model wrote.

    Attributes:
        text: what was written.
        words: of it, in order; spans: (start, end) of each in the text.
        written: (T,) tokens; members: the numbers of each word's.
        logprob: (W,) log-probability of each word (of its tokens, summed).
    """

    text: str
    words: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    written: Tensor
    members: tuple[tuple[int, ...], ...]
    logprob: Tensor


def said_by(tokenizer: Any, written: Tensor, logprob: Tensor) -> Written:
    """Return the words of tokens (T,), each of a log-probability (T,).

    Raises:
        DataError: there are none.
    """
    text, spans = offsets(tokenizer, written.tolist())
    pieces = split(text)
    if not pieces:
        raise DataError(f"the model wrote no words: {text!r}")
    own = members(pieces, spans)
    likely = torch.stack([logprob[tokens].sum() for tokens in own])
    said = tuple(text[a:b] for a, b in pieces)
    return Written(text, said, tuple(pieces), written, tuple(map(tuple, own)), likely)


def split(text: str) -> list[tuple[int, int]]:
    """Return the (start, end) of each word and sign of a text; marks stay with what they mark."""
    found: list[tuple[int, int]] = []
    for match in _WORD.finditer(text):
        start, end = match.span()
        if found and found[-1][1] == start and _joins(text, found[-1][0], start):
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def _joins(text: str, first: int, start: int) -> bool:
    """Return whether what starts here goes on a word: accents, vowel signs, parts of an emoji."""
    after = _is_mark(text[start - 1]) and text[first].isalnum() == text[start].isalnum()
    return _is_mark(text[start]) or after


def _is_mark(letter: str) -> bool:
    joiner_or_tone = letter == "\u200d" or "\U0001f3fb" <= letter <= "\U0001f3ff"
    return joiner_or_tone or unicodedata.category(letter).startswith("M")
