"""The audit's question: a vision-language model that is asked what a photo shows.

    asked = Question(model, processor, "What is in the picture?", answer="It shows a")
    confusion(asked, data, object="boat", context="water")

What is scored is one place of the answer, the same for every photo: how likely the object's word
is there.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ..attention import words
from ..attention.word_maps import WordMaps
from ..attention.word_passes import log_rows
from ..errors import AttnvizWarning, DataError, MissingFile
from ..geometry import Geometry, size_of
from ..hooks import unwrap
from ..models.text import inputs_of
from .journal import Row
from .lending import draw_donors
from .log_odds import LogOdds
from .measuring import REGIONS, Instrument, finite, regions_of
from .pictures import AuditPicture, PictureReader, unit_range

#: photos are asked at this longest side at most; no model sees more of one
_SIDE = 1344
#: tokens of the answers that show how the model talks
_TALK = 20


@dataclass(frozen=True, eq=False)
class Question:
    """A question to a vision-language model, in the place of a classifier in `confusion`.

    The score is the log-odds that the answer goes on with the object's word. The words are
    `confusion`'s `target`; without it the object's name, or yes where the question names it.

    Args:
        model, processor: as `attnviz.attention.words` takes them.
        text: such as "What is in the picture?" or "Is there a {class} in the picture?".
        answer: how the answer starts, up to the word. A model that talks in sentences would
            hardly ever say the word first: let it say "There is a", or ask for yes or no.
        name: of the model, for the report; its class if left out.

    Example:
        >>> asked = audit.Question(model, processor, "Is there a {class}?")  # doctest: +SKIP
        >>> audit.confusion(asked, data, object="boat", context="water")  # doctest: +SKIP
    """

    model: nn.Module
    processor: Any
    text: str
    answer: str = ""
    name: str = ""

    def about(
        self, object: str, target: Any = None, given: Mapping[str, Any] = MappingProxyType({})
    ) -> Asked:
        """Return the model that is asked about an object, as a classifier.

        Args:
            given: arguments that have no place beside a question, by name; None were not given.

        Raises:
            DataError: no word to wait for, or such an argument.
        """
        extra = ", ".join(name for name, value in given.items() if value is not None)
        if extra:
            raise DataError(f"{extra}: not for a question; the model's processor prepares photos")
        told: list[Any] | None = [target] if isinstance(target, str | int) else target
        if told is None:
            told = ["yes", "Yes"] if "{class}" in self.text else [object]
        if not told or not all(isinstance(word, str) and word.strip() for word in told):
            raise DataError(
                f"target={target!r}: a question waits for words of the answer, as text (one or "
                "several)"
            )
        return Asked(self, self.text.replace("{class}", object), told)


class Asked(nn.Module):
    """Whether the answer goes on with one of some words: log (1 - p, p) of a photo.

    Args:
        question: with the model.
        prompt: what is asked.
        told: the words, of one meaning; their probabilities are added.
    """

    def __init__(self, question: Question, prompt: str, told: Sequence[str]) -> None:
        super().__init__()
        self.model = unwrap(question.model)
        self.processor = question.processor
        self.prompt, self.begun, self.told = prompt, question.answer, list(told)
        self.name = question.name or type(self.model).__name__
        self.lead = self._tokens(question.answer) if question.answer else []
        rests = [self._behind(question.answer, word) for word in told]
        # what begins with another's tokens is counted with it
        self.tokens = [
            rest for i, rest in enumerate(rests)
            if not any(rest[: len(o)] == o and (rest != o or j < i)
                       for j, o in enumerate(rests) if j != i)
        ]  # fmt: skip

    def _tokens(self, text: str) -> list[int]:
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        plain = {} if not hasattr(tokenizer, "vocab_size") else {"add_special_tokens": False}
        return list(tokenizer.encode(text, **plain))

    def _behind(self, lead: str, word: str) -> list[int]:
        whole = self._tokens(f"{lead} {word}" if lead else word)
        rest = whole[len(self.lead) :] if whole[: len(self.lead)] == self.lead else []
        if not rest:
            raise DataError(
                f"the word {word!r} does not follow {lead!r} as tokens of its own; end the "
                "answer's start with a whole word"
            )
        return rest

    def each(self, photo: np.ndarray) -> list[float]:
        """Return the log-probability of each of `tokens` behind the question and the lead."""
        inputs = inputs_of(self.model, self.processor, photo, self.prompt)
        found, at, first = [], len(self.lead), None
        for rest in self.tokens:
            if first is None or len(rest) > 1:
                rows = log_rows(self.model, inputs, torch.tensor([*self.lead, *rest]))
                first = rows[at] if first is None else first
            else:
                rows = torch.cat([rows[:at], first[None]])
            found.append(sum(float(rows[at + i, token]) for i, token in enumerate(rest)))
        return found

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (B, 2): log-probability that the words do not follow, and that they do.

        Args:
            inputs: (B, 3, H, W), RGB in 0..1.
        """
        each = torch.tensor([self.each(as_photo(x)) for x in inputs], dtype=torch.float64)
        told = each.logsumexp(1).clamp(max=-1e-12)
        return torch.stack([torch.log(-torch.expm1(told)), told], 1).float()

    def maps(self, photo: np.ndarray, methods: Sequence[str]) -> tuple[WordMaps, list[int]]:
        """Return the maps of the answer up to its likeliest word, and which words are that one."""
        each = self.each(photo)
        rest = self.tokens[max(range(len(each)), key=each.__getitem__)]
        forced = [*self.lead, *rest]
        found = words(
            self.model, self.processor, photo, self.prompt, methods=list(methods),
            max_new_tokens=len(forced), logits_processor=[_Forced(forced)],
        )  # fmt: skip
        own = set(range(len(self.lead), len(forced)))
        return found, [i for i, tokens in enumerate(found.members) if own & set(tokens)]

    def says(self, photo: np.ndarray) -> str:
        """Return what the model answers by itself, behind the lead."""
        return words(
            self.model, self.processor, photo, self.prompt, methods=["attention"],
            max_new_tokens=len(self.lead) + _TALK, logits_processor=[_Forced(self.lead)],
        ).text  # fmt: skip


class _Forced:
    """Lets `generate` write some tokens first, whatever it would say."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.left = list(tokens)

    def __call__(self, _: Tensor, scores: Tensor) -> Tensor:
        if not self.left:
            return scores
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.left.pop(0)] = 0
        return forced


@dataclass(frozen=True, eq=False)
class Interview(Instrument):
    """What every image is measured with where a question is asked: the word's own maps."""

    def look(self, pictures: Sequence[AuditPicture]) -> tuple[dict[str, Tensor], Tensor, list[Row]]:
        """Return maps, logits, and of each picture where the attention of its word goes."""
        asked: Any = self.module
        maps: dict[str, list[Tensor]] = {name: [] for name in self.methods}
        shares = []
        for picture in pictures:
            photo = as_photo(picture.input)
            found, at = asked.maps(photo, self.methods)
            for name in self.methods:
                maps[name].append(map_of(found, at, name))
            masks = regions_of([picture])[0].numpy()
            kept = [found.mass(mask) for mask in masks[:2]]
            text = float(kept[0].text[at].mean())
            inside = [float(mass.inside[at].mean()) for mass in kept]
            inside.append(1 - text - sum(inside))
            seen = max(1 - text, 1e-12)
            shares.append(
                {region: finite(part / seen) for region, part in zip(REGIONS, inside, strict=True)}
                | {"text": finite(text)}
            )
        logits = self.logits(torch.stack([p.input for p in pictures]))
        return {name: torch.stack(each) for name, each in maps.items()}, logits, shares

    def maps(self, inputs: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return method -> the word's maps (B, H, W), and the logits (B, 2)."""
        asked: Any = self.module
        made = [asked.maps(as_photo(x), self.methods) for x in inputs]
        maps = {n: torch.stack([map_of(f, at, n) for f, at in made]) for n in self.methods}
        return maps, self.logits(inputs)


def interview(
    asked: Asked, reader: PictureReader, methods: Sequence[str] | None, fills: tuple[str, ...],
    seed: int,
) -> Interview:  # fmt: skip
    """Return what the images of an audit are measured with where a question is asked.

    Args:
        methods: of `attnviz.attention.words`; None takes its attention alone.
    """
    aim = LogOdds((1,), f"the answer {' or '.join(asked.told)!r} to {asked.prompt!r}")
    donors = draw_donors(reader, seed) if reader.regions != "groups" else None
    return Interview(
        asked, aim.bind(2, None), tuple(methods or ("attention",)), "", True, fills, donors, 1, seed
    )


def talk(instrument: Interview, reader: PictureReader) -> dict[str, Any]:
    """Return the question, and what the model answers by itself to the first image of each group.

    Warns where none of the words is in an answer about the object: then its place is a wrong one.
    """
    asked: Any = instrument.module
    first: dict[Any, int] = {}
    for index, sample in enumerate(reader.data):
        first.setdefault(reader.presence(sample), index)
    answers, about = {}, []
    for (has_object, _), index in first.items():
        with suppress(MissingFile):  # said when it is its turn
            picture = reader.read(index)
            answers[picture.id] = text = asked.says(as_photo(picture.input))
            about += [text] if has_object else []
    if about and not any(w.lower() in text.lower() for w in asked.told for text in about):
        warnings.warn(
            f"asked {asked.prompt!r}, the model answers {about[0]!r} about {reader.object}, and "
            f"never {' or '.join(asked.told)!r}: name its words with target= (--target), or "
            "start its answer for it with answer= (--answer)",
            AttnvizWarning, stacklevel=3,
        )  # fmt: skip
    return {"question": asked.prompt, "answer": asked.begun, "words": asked.told,
            "answers": answers}  # fmt: skip


def map_of(found: WordMaps, at: Sequence[int], method: str) -> Tensor:
    """Return the map of some words together, over the whole photo; 0 where it is cropped off."""
    maps = found.heatmaps(method)
    if found.geometry.crop != Geometry.identity(*found.image.shape[:2]).crop:
        maps = maps.resize("photo")
    return maps.values[list(at)].mean(0).nan_to_num(0)


def as_photo(x: Tensor) -> np.ndarray:
    """Return an input (3, H, W) in 0..1 as (H, W, 3) uint8."""
    return (255 * x).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def as_it_is(photo: np.ndarray) -> tuple[Tensor, Geometry]:
    """Return a photo (h, w, 3) uint8 as (3, H, W) in 0..1, at most `_SIDE` long, and its place."""
    height, width = photo.shape[:2]
    scale = _SIDE / max(height, width)
    if scale < 1:
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    tensor, _ = unit_range(photo)
    crop = (0.0, 0.0, float(width), float(height))
    return tensor, Geometry((height, width), size_of(tensor), crop)
