"""Reviews made of filler and one judgement: is attention on the sentence, and words, that decide?

A document has 4 to 7 sentences. One judges what the review is about ("the camera was truly
wonderful"), maybe negated ("the camera was not good"); another judges something else ("my cousin
said the weather was awful") and does not count; the rest is filler.
"""

from __future__ import annotations

import torch
from torch import Generator, nn

from ..modules.hierarchical import HierarchicalAttention
from .base import Task, TaskBatch

GOOD = ["good", "great", "wonderful", "superb", "excellent", "lovely"]
BAD = ["bad", "awful", "terrible", "poor", "dreadful", "useless"]
PRODUCTS = ["camera", "phone", "laptop", "lamp", "radio", "printer"]
OTHERS = ["weather", "traffic", "party", "film", "dinner", "neighbour"]
PEOPLE = ["cousin", "sister", "friend", "boss", "uncle"]
DEGREES = ["truly", "very", "really", "quite"]
FILLER = [
    "i bought it on a {day}",
    "it came in a {colour} box",
    "the parcel arrived on {day}",
    "we opened it after lunch",
    "it stands on the {colour} table now",
    "i had waited for it since {day}",
    "my {person} was there as well",
    "the manual has many pages",
]
DAYS = ["monday", "tuesday", "friday", "sunday"]
COLOURS = ["red", "green", "brown", "white"]


def words_of(text: str) -> set[str]:
    """Words of a pattern, without its blanks."""
    return {w for w in text.split() if "{" not in w}


VOCABULARY = sorted(
    {*GOOD, *BAD, *PRODUCTS, *OTHERS, *PEOPLE, *DEGREES, *DAYS, *COLOURS}
    | {w for f in FILLER for w in words_of(f)}
    | words_of("my said the was not")
)
CODE = {word: number + 1 for number, word in enumerate(VOCABULARY)}


def document(generator: Generator) -> tuple[list[list[str]], int, int, list[int]]:
    """Sentences, the class (1 good), the deciding sentence, and its deciding words' positions."""

    def pick(options: list[str]) -> str:
        return options[int(torch.randint(len(options), (1,), generator=generator))]

    def judge(subject: str) -> tuple[list[str], int, list[int]]:
        good, negated = (bool(torch.rand(1, generator=generator) < p) for p in (0.5, 0.3))
        words = ["the", subject, "was"]
        if negated:
            words += ["not", pick(GOOD if good else BAD)]
            return words, int(not good), [3, 4]
        if torch.rand(1, generator=generator) < 0.5:
            words.append(pick(DEGREES))
        words.append(pick(GOOD if good else BAD))
        return words, int(good), [len(words) - 1]

    verdict, label, deciding = judge(pick(PRODUCTS))
    hearsay = ["my", pick(PEOPLE), "said", *judge(pick(OTHERS))[0]]
    count = int(torch.randint(2, 6, (1,), generator=generator))
    filler = [
        pick(FILLER).format(day=pick(DAYS), colour=pick(COLOURS), person=pick(PEOPLE)).split()
        for _ in range(count)
    ]
    sentences = [verdict, hearsay, *filler]
    order = torch.randperm(len(sentences), generator=generator).tolist()
    return [sentences[i] for i in order], label, order.index(0), deciding


def sample(count: int, generator: Generator, training: bool) -> TaskBatch:
    """Documents drawn anew; test documents come from another seed, over 10^12 are possible."""
    documents = [document(generator) for _ in range(count)]
    length = max(len(d[0]) for d in documents)
    width = max(len(s) for d in documents for s in d[0])
    source = torch.zeros(count, length, width, dtype=torch.long)
    words = torch.zeros(count, length, width, dtype=torch.bool)
    for row, (sentences, _, decider, deciding) in enumerate(documents):
        for place, sentence in enumerate(sentences):
            source[row, place, : len(sentence)] = torch.tensor([CODE[w] for w in sentence])
        words[row, decider, deciding] = True
    truth = {
        "label": torch.tensor([d[1] for d in documents]),
        "sentence": torch.tensor([d[2] for d in documents]),
        "words": words,
    }
    return TaskBatch((source,), truth, {"source": [d[0] for d in documents]})


def measure(model: nn.Module, batch: TaskBatch) -> dict[str, float]:
    """Accuracy; attention on the deciding sentence, and in it on the deciding words."""
    out = model(*batch.inputs)
    which, words = batch.truth["sentence"], batch.truth["words"]
    rows = torch.arange(len(which))
    source = batch.inputs[0]
    inside = words[rows, which]
    present = source[rows, which] != 0
    return {
        "accuracy": float((out.logits.argmax(1) == batch.truth["label"]).double().mean()),
        "on_sentence": float(out.sentences[rows, which].mean()),
        "on_sentence_chance": float((1 / (source != 0).any(2).sum(1)).mean()),
        "sentence_first": float((out.sentences.argmax(1) == which).double().mean()),
        "on_words": float((out.words[rows, which] * inside).sum(1).mean()),
        "on_words_chance": float((inside.sum(1) / present.sum(1)).mean()),
    }


TASKS = [
    Task(
        "hierarchical",
        "Reviews with one verdict; attention is on its sentence and on the words that judge.",
        lambda: HierarchicalAttention(len(VOCABULARY) + 1),
        sample,
        measure,
        {"accuracy": 0.95, "on_sentence": 0.6, "on_words": 0.5},
    )
]
