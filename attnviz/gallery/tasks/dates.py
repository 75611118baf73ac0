"""Written dates to ISO dates, letter by letter: each part of the output has its place in the input.

"friday 12 march 1987" becomes "1987-03-12": day, month and year come out in reverse order, so the
alignment's blocks run against the diagonal, while digits inside the year run along it.
"""

from __future__ import annotations

import datetime
import zlib

import torch
import torch.nn.functional as F
from torch import Generator, nn

from ..modules.seq2seq import END, Seq2Seq
from .base import Task, TaskBatch

MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 ,-"
CODE = {letter: number + 3 for number, letter in enumerate(LETTERS)}
FIRST, COUNT = datetime.date(1950, 1, 1).toordinal(), 36_525


def write(day: datetime.date, style: int) -> tuple[str, dict[str, range]]:
    """One of six ways to write a date, and where its year, month and day stand in it."""
    name = MONTHS[day.month - 1]
    year, number, week = str(day.year), str(day.day), DAYS[day.weekday()]
    parts = [
        [("day", number), ("", " "), ("month", name), ("", " "), ("year", year)],
        [("month", name), ("", " "), ("day", number), ("", ", "), ("year", year)],
        [("day", number), ("", " "), ("month", name[:3]), ("", " "), ("year", year)],
        [("", week + " "), ("day", number), ("", " "), ("month", name), ("", " "), ("year", year)],
        [("", week + ", "), ("month", name), ("", " "), ("day", number), ("", " "), ("year", year)],
        [("year", year), ("", ", "), ("day", number), ("", " "), ("month", name)],
    ][style]
    text, spans = "", {}
    for kind, piece in parts:
        if kind:
            spans[kind] = range(len(text), len(text) + len(piece))
        text += piece
    return text, spans


def alignment(spans: dict[str, range]) -> tuple[list[list[int]], list[list[int]]]:
    """For each letter of YYYY-MM-DD: the positions that settle it, and its whole part's.

    None for the dashes.
    """
    year, day = list(spans["year"]), list(spans["day"])
    tens = day if len(day) == 1 else day[:1]
    month = list(spans["month"])
    exact = [[p] for p in year] + [[], month, month, [], tens, day[-1:]]
    return exact, [year] * 4 + [[], month, month, [], day, day]


def sample(count: int, generator: Generator, training: bool) -> TaskBatch:
    """Dates from 1950 to 2049 in six styles; a fifth of all written dates is kept for measuring."""
    texts, answers, spans = [], [], []
    while len(texts) < count:
        ordinal = FIRST + int(torch.randint(COUNT, (1,), generator=generator))
        style = int(torch.randint(6, (1,), generator=generator))
        day = datetime.date.fromordinal(ordinal)
        text, where = write(day, style)
        if (zlib.crc32(text.encode()) % 5 == 0) == training:
            continue
        texts.append(text)
        answers.append(day.isoformat())
        spans.append(alignment(where))
    source = torch.zeros(count, max(map(len, texts)), dtype=torch.long)
    target = torch.full((count, 11), END)
    truth = torch.zeros(2, count, 11, source.shape[1], dtype=torch.bool)
    for row, (text, answer) in enumerate(zip(texts, answers, strict=True)):
        source[row, : len(text)] = torch.tensor([CODE[c] for c in text])
        target[row, :10] = torch.tensor([CODE[c] for c in answer])
        for which, steps in enumerate(spans[row]):
            for step, positions in enumerate(steps):
                truth[which, row, step, positions] = True
    written = {"source": [list(t) for t in texts], "target": [list(a) for a in answers]}
    return TaskBatch(
        (source,), {"target": target, "alignment": truth[0], "part": truth[1]}, written
    )


def share_right(model: nn.Module, batch: TaskBatch) -> float:
    """Share of sources that are translated without any error, writing freely."""
    written, target = model(*batch.inputs).tokens, batch.truth["target"]
    width = max(written.shape[1], target.shape[1])
    gap = F.pad(written, (0, width - written.shape[1])) == F.pad(
        target, (0, width - target.shape[1])
    )
    return float(gap.all(1).double().mean())


def measure(model: nn.Module, batch: TaskBatch) -> dict[str, float]:
    """Whole dates right; share of letters whose strongest attention is where they come from.

    `aligned` asks for the letter itself (any of the month's letters for the month's digits),
    `in_part` for the right one of year, month and day.
    """
    weights = model(*batch.inputs, batch.truth["target"]).attention
    truth = batch.truth["alignment"]
    counts = truth.any(2)
    peak = weights.argmax(2, keepdim=True)
    strongest = truth.gather(2, peak).squeeze(2)
    part = batch.truth["part"].gather(2, peak).squeeze(2)
    length = (batch.inputs[0] != 0).sum(1)[:, None]
    parts = {"year": slice(0, 4), "month": slice(5, 7), "day": slice(8, 10)}
    return {
        "accuracy": share_right(model, batch),
        "aligned": float(strongest[counts].double().mean()),
        "mass": float((weights * truth).sum(2)[counts].mean()),
        "aligned_chance": float((truth.sum(2) / length)[counts].mean()),
        "in_part": float(part[counts].double().mean()),
        "in_part_chance": float((batch.truth["part"].sum(2) / length)[counts].mean()),
        **{f"in_part_{k}": float(part[:, v].double().mean()) for k, v in parts.items()},
    }


def build() -> Seq2Seq:
    """Bahdanau's decoder and score over letters."""
    size = len(LETTERS) + 3
    return Seq2Seq(
        size, size, order="bahdanau", score="additive", context=16, dropout=0.5, longest=40
    )


TASKS = [
    Task(
        "dates",
        "Dates written out become ISO dates; each letter attends to its part, in reverse order.",
        build,
        sample,
        measure,
        {"accuracy": 0.95, "in_part": 0.75},
    )
]
