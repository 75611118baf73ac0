"""A toy English to a toy French: word for word, except that colours change places with nouns.

"the small red car follows a black cat" becomes "la petite voiture rouge suit un chat noir".
Articles and adjectives take the noun's gender, so they cannot be translated without looking
further; the true alignment is known for every word.
"""

from __future__ import annotations

import zlib

import torch
from torch import Generator

from ..modules.seq2seq import END, Seq2Seq
from .base import Task, TaskBatch
from .dates import share_right

# noun: its translation and gender (0 masculine, 1 feminine)
NOUNS = {
    "cat": ("chat", 0),
    "dog": ("chien", 0),
    "horse": ("cheval", 0),
    "boat": ("bateau", 0),
    "train": ("train", 0),
    "lake": ("lac", 0),
    "car": ("voiture", 1),
    "house": ("maison", 1),
    "cow": ("vache", 1),
    "girl": ("fille", 1),
    "table": ("table", 1),
    "river": ("rivière", 1),
}
ARTICLES = {"the": ("le", "la"), "a": ("un", "une"), "this": ("ce", "cette"), "my": ("mon", "ma")}
BEFORE = {"small": ("petit", "petite"), "big": ("grand", "grande"), "old": ("vieux", "vieille")}
AFTER = {
    "black": ("noir", "noire"),
    "white": ("blanc", "blanche"),
    "green": ("vert", "verte"),
    "blue": ("bleu", "bleue"),
}
VERBS = {"sees": "voit", "follows": "suit", "hides": "cache", "takes": "prend", "leaves": "quitte"}
PLACES = {"near": "près-de", "behind": "derrière", "with": "avec"}

ENGLISH = [*NOUNS, *ARTICLES, *BEFORE, *AFTER, *VERBS, *PLACES]
FRENCH = sorted(
    {w for w, _ in NOUNS.values()}
    | {w for table in (ARTICLES, BEFORE, AFTER) for pair in table.values() for w in pair}
    | {*VERBS.values(), *PLACES.values()}
)
SOURCE = {word: number + 3 for number, word in enumerate(ENGLISH)}
TARGET = {word: number + 3 for number, word in enumerate(FRENCH)}


def sentence(generator: Generator) -> tuple[list[str], list[str], list[int], list[bool]]:
    """English words, French words, each French word's English position, and whether it crosses."""
    english: list[str] = []
    french: list[str] = []
    origin: list[int] = []
    crossing: list[bool] = []

    def pick(table: dict) -> str:
        return list(table)[int(torch.randint(len(table), (1,), generator=generator))]

    def chance(share: float) -> bool:
        return float(torch.rand(1, generator=generator)) < share

    def translate(word: str, at: int, crosses: bool = False) -> None:
        french.append(word)
        origin.append(at)
        crossing.append(crosses)

    def noun_phrase() -> None:
        article, noun = pick(ARTICLES), pick(NOUNS)
        before = pick(BEFORE) if chance(0.4) else None
        after = pick(AFTER) if chance(0.6) else None
        name, gender = NOUNS[noun]
        start = len(english)
        english.extend(w for w in (article, before, after, noun) if w)
        translate(ARTICLES[article][gender], start)
        if before:
            translate(BEFORE[before][gender], start + 1)
        translate(name, len(english) - 1, after is not None)
        if after:
            translate(AFTER[after][gender], len(english) - 2, True)

    noun_phrase()
    english.append(pick(VERBS))
    translate(VERBS[english[-1]], len(english) - 1)
    noun_phrase()
    if chance(0.5):
        english.append(pick(PLACES))
        translate(PLACES[english[-1]], len(english) - 1)
        noun_phrase()
    return english, french, origin, crossing


def sample(count: int, generator: Generator, training: bool) -> TaskBatch:
    """Sentences of 5 to 14 words; a fifth of all possible ones is kept for measuring."""
    rows = []
    while len(rows) < count:
        row = sentence(generator)
        if (zlib.crc32(" ".join(row[0]).encode()) % 5 == 0) != training:
            rows.append(row)
    longest = max(len(english) for english, *_ in rows)
    source = torch.zeros(count, longest, dtype=torch.long)
    target = torch.zeros(count, longest + 1, dtype=torch.long)
    origin = torch.full((count, longest + 1), -1)
    crossing = torch.zeros(count, longest + 1, dtype=torch.bool)
    for index, (english, french, places, crosses) in enumerate(rows):
        size = len(english)
        source[index, :size] = torch.tensor([SOURCE[w] for w in english])
        target[index, :size] = torch.tensor([TARGET[w] for w in french])
        target[index, size] = END
        origin[index, :size] = torch.tensor(places)
        crossing[index, :size] = torch.tensor(crosses)
    text = {"source": [r[0] for r in rows], "target": [r[1] for r in rows]}
    truth = {"target": target, "origin": origin, "crossing": crossing}
    return TaskBatch((source,), truth, text)


def measure(model: Seq2Seq, batch: TaskBatch) -> dict[str, float]:
    """Whole sentences right; words whose strongest attention is their own source word.

    `aligned_straight` counts words that keep their place, `aligned_crossing` nouns and colours that
    change places; `aligned_if_diagonal` is what a plain diagonal would score on the latter.
    """
    weights = model(*batch.inputs, batch.truth["target"]).attention
    origin, crossing = batch.truth["origin"], batch.truth["crossing"]
    word = origin >= 0
    right = (weights.argmax(2) == origin).double()
    mass = weights.gather(2, origin.clamp_min(0)[..., None]).squeeze(2)
    diagonal = (torch.arange(origin.shape[1]) == origin).double()
    length = (batch.inputs[0] != 0).sum(1)[:, None].expand_as(origin)
    return {
        "accuracy": share_right(model, batch),
        "aligned": float(right[word].mean()),
        "aligned_straight": float(right[word & ~crossing].mean()),
        "aligned_crossing": float(right[crossing].mean()),
        "aligned_if_diagonal": float(diagonal[crossing].mean()),
        "aligned_chance": float((1 / length)[word].mean()),
        "mass": float(mass[word].mean()),
    }


def build(score: str, order: str = "luong", local: str | None = None) -> Seq2Seq:
    """A decoder over words with one of the alignments."""
    size = len(ENGLISH) + 3, len(FRENCH) + 3
    return Seq2Seq(*size, order=order, score=score, local=local, half=2, longest=16)


def task(name: str, says: str, holds: dict[str, float], **options) -> Task:
    """A translation task with its own alignment."""
    return Task(name, says, lambda: build(**options), sample, measure, holds)


GLOBAL = {"accuracy": 0.9, "aligned_straight": 0.9, "aligned_crossing": 0.9}
SAYS = "English words to French ones; diagonal, and crossing where colour and noun change places"
TASKS = [
    task("bahdanau", f"{SAYS}; additive score.", GLOBAL, score="additive", order="bahdanau"),
    *(
        task(name, f"{SAYS}; {score} score.", GLOBAL, score=score)
        for name, score in [
            ("luong_dot", "dot"),
            ("luong_general", "general"),
            ("luong_concat", "concat"),
            ("cosine", "cosine"),
        ]
    ),
    task(
        "luong_location",
        "English words to French ones; positions from the state alone: diagonal, also where words "
        "change places and the neighbour is read.",
        # which words will swap stands in the keys, and this score reads none
        {"accuracy": 0.9, "aligned_straight": 0.9},
        score="location",
    ),
    task("local_m", f"{SAYS}; a window that walks along.", GLOBAL, score="general", local="m"),
    task("local_p", f"{SAYS}; a window that is predicted.", GLOBAL, score="general", local="p"),
]
