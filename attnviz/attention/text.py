"""Which words of a text a score is associated with, by the attention of an encoder.

Sub-word tokens are joined to words as the tokenizer itself divides the text.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import AttentionUnavailable, DataError, MethodError
from ..hooks import eager, preserved, unwrap, wide
from ..targets import resolve
from ..writing import printable
from .tap import Site, Tap

#: what `explain_text` can color words by
TEXT_METHODS = ("generic_relevance", "rollout", "attnlrp")


@dataclass(frozen=True, eq=False, repr=False)
class TextRelevance:
    """Words and what each contributes; made by `explain_text`.

    Attributes:
        text: what was read.
        words: as they stand in the text, in order.
        spans: (start, end) of each in the text.
        values: (W,) sum over each word's tokens; signed for "attnlrp" only.
        tokens, token_values: the same before joining, special tokens included.
        method: how it was made.
        label: what is explained.
        score: of it.
    """

    text: str
    words: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    values: Tensor
    tokens: tuple[str, ...]
    token_values: Tensor
    method: str
    label: str
    score: float

    def __repr__(self) -> str:
        return f"TextRelevance({len(self.words)} words, {self.method} of {self.label!r})"

    @property
    def strengths(self) -> list[float]:
        """Values divided by the largest absolute one, in [-1, 1]."""
        largest = float(self.values.abs().max()) if len(self.values) else 0.0
        return [float(v) / largest if largest else 0.0 for v in self.values]

    def ansi(self) -> str:
        """Return the text with words coloured for a terminal: red for, blue against the score."""
        parts = []
        for mark, text in self._parts():
            part = "\n".join(map(printable, text.split("\n")))
            if mark is None or abs(mark) < 0.05:
                parts.append(part)
                continue
            faint = round(255 * (1 - abs(mark)))
            colour = (255, faint, faint) if mark > 0 else (faint, faint, 255)
            parts.append(f"\x1b[48;2;{colour[0]};{colour[1]};{colour[2]}m\x1b[30m{part}\x1b[0m")
        return "".join(parts)

    def html(self) -> str:
        """Return an offline page: each word on a ground as strong as its value, which it shows."""
        parts = []
        values = iter(self.values.tolist())
        for mark, part in self._parts():
            if mark is None:
                parts.append(html.escape(part))
                continue
            ground = "220,50,47" if mark > 0 else "38,100,210"
            parts.append(
                f'<span title="{next(values):.4g}" style="background:rgba({ground},'
                f'{abs(mark):.3f})">{html.escape(part)}</span>'
            )
        about = html.escape(f"{self.method} of {self.label} (score {self.score:.4g})")
        largest = float(self.values.abs().max()) if len(self.values) else 0.0
        return (
            '<!doctype html><meta charset="utf-8"><title>attnviz</title>'
            '<body style="font:18px/1.8 sans-serif;margin:2em;max-width:45em">'
            f'<p style="color:#666;font-size:14px">{about}. Red: for it, blue: against it; full '
            f"colour is {largest:.4g}.</p><p>{''.join(parts)}</p></body>\n"
        )

    def _parts(self) -> list[tuple[float | None, str]]:
        """Return the text in pieces: words with their strength, what lies between with None."""
        found: list[tuple[float | None, str]] = []
        at = 0
        for (start, end), strength in zip(self.spans, self.strengths, strict=True):
            if start > at:
                found.append((None, self.text[at:start]))
            found.append((strength, self.text[start:end]))
            at = end
        found.append((None, self.text[at:]))
        return [part for part in found if part[1]]


def explain_text(
    model: nn.Module,
    tokenizer: Any,
    text: str,
    *,
    target: Any = None,
    method: str = "generic_relevance",
) -> TextRelevance:
    """Return which words a text classifier's score is associated with.

    The row that the classifier reads (its class token, or a mean) is told by the gradient of the
    score, as for images. The model is left as it was.

    Args:
        model: an encoder with a classifier, such as BertForSequenceClassification.
        tokenizer: its tokenizer, a fast one (it says which token belongs to which word).
        text: one text.
        target: a class index, a label of the model's `id2label`, a function of the output that
            gives (1,), or None for the predicted class.
        method: "generic_relevance" (Chefer et al. 2021, arXiv:2103.15679), "rollout" (Abnar &
            Zuidema 2020, arXiv:2005.00928; the same for every class) or "attnlrp" (Achtibat et
            al. 2024, arXiv:2402.05602; signed).

    Raises:
        MethodError: an unknown method, or it is not known which tokens the classifier reads.
        DataError: a slow tokenizer, a text without words.
        TargetError: an unknown label; the model gives no logits.
        AttentionUnavailable: no self-attention among the tokens was read.

    Example:
        >>> found = explain_text(model, tokenizer, "a good film", target="pos")  # doctest: +SKIP
        >>> print(found.ansi())  # doctest: +SKIP
    """
    if method not in TEXT_METHODS:
        raise MethodError(f"method={method!r} of a text: expected one of {', '.join(TEXT_METHODS)}")
    module = unwrap(model)
    encoded = _encoded(tokenizer, text)
    device = next(module.parameters()).device
    inputs = {n: encoded[n].to(device) for n in encoded if n in tokenizer.model_input_names}
    labels = _labels(module)
    with torch.inference_mode(False), eager(module), preserved(module):
        if method == "attnlrp":
            values, column, score = _propagated(module, inputs, target, labels)
        else:
            values, column, score = _attended(module, inputs, target, labels, method)
    tokens = tuple(map(str, tokenizer.convert_ids_to_tokens(encoded["input_ids"][0].tolist())))
    values = values.detach().cpu()
    spans, sums = joined(encoded, text, values)
    return TextRelevance(
        text, tuple(text[a:b] for a, b in spans), tuple(spans), sums, tokens, values, method,
        column.labels[0], float(score.detach()),
    )  # fmt: skip


def _encoded(tokenizer: Any, text: str) -> Any:
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"{type(tokenizer).__name__} does not say which token belongs to which word; load the "
            "fast one (AutoTokenizer gives it where there is one)"
        )
    encoded = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
    if all(word is None for word in encoded.word_ids(0)):
        raise DataError(f"the text {text!r} has no word that the tokenizer knows of")
    return encoded


def joined(encoded: Any, text: str, values: Tensor) -> tuple[list[tuple[int, int]], Tensor]:
    """Return the span of each word, without the space before it, and the sum over its tokens.

    A token of the space alone counts with its word.
    """
    offsets = encoded["offset_mapping"][0].tolist()
    spans: dict[int, tuple[int, int]] = {}
    sums: dict[int, Tensor] = {}
    for word, (start, end), value in zip(encoded.word_ids(0), offsets, values, strict=True):
        if word is None or start == end:
            continue
        first, last = spans.get(word, (start, end))
        spans[word] = (min(first, start), max(last, end))
        sums[word] = sums.get(word, torch.zeros_like(value)) + value
    bare = {}
    for word, (start, end) in spans.items():
        own = text[start:end]
        if own.strip():
            bare[word] = (start + len(own) - len(own.lstrip()), start + len(own.rstrip()))
    order = sorted(bare, key=lambda word: bare[word])
    return [bare[word] for word in order], torch.stack([sums[word] for word in order])


def _labels(module: nn.Module) -> list[str] | None:
    named = getattr(getattr(module, "config", None), "id2label", None)
    if not isinstance(named, Mapping) or not named:
        return None
    return [str(named[i]) for i in sorted(named)]


def _attended(
    module: nn.Module, inputs: Mapping[str, Tensor], target: Any, labels: Any, method: str
) -> tuple[Tensor, Any, Tensor]:
    from ..methods import Request
    from ..methods.attention.reading import Reading
    from ..methods.attention.rollout import rollout
    from ..methods.attention.steps import attend, gradient_rows
    from ..methods.attention.tail import row_of_head
    from ..methods.forward import forward_pass

    weighted = method == "generic_relevance"
    taken = Tap(
        module, keep="all", graph=True, copy=False, required=True, restart=True
    )  # the graph tells which row the classifier reads, too
    request = Request(module, dict(inputs), 1, target=target, labels=labels)
    with torch.no_grad():
        done = forward_pass(request, reading=(taken,))
    count = inputs["input_ids"].shape[1]
    sites = _among(taken.attention, count)
    reading = Reading(done, tuple(sites), tuple(sites), stream=taken.stream)
    row = row_of_head(reading, sites[-1], 0).detach()
    with torch.no_grad():
        if not weighted:
            return rollout(sites, row)[0], done.columns[0], done.scores[0][0]
        for site in reversed(sites):
            rows = gradient_rows(site, reading.gradient(site, 0))
            row = row + attend(site, row, None, weights=rows)
    return row[0], done.columns[0], done.scores[0][0]


def _among(sites: tuple[Site, ...], count: int) -> list[Site]:
    found = [s for s in sites if s.kind == "self" and s.queries == s.keys == count]
    if not found:
        names = ", ".join(f"{s.name} ({s.kind}, {s.queries} x {s.keys})" for s in sites[:3])
        raise AttentionUnavailable(
            f"no self-attention among the text's {count} tokens was read; found: {names or 'none'}"
        )
    return found


def _propagated(
    module: nn.Module, inputs: Mapping[str, Tensor], target: Any, labels: Any
) -> tuple[Tensor, Any, Tensor]:
    """Return Gradient x Input of the word vectors under the rules of AttnLRP."""
    from ..methods.attention.lrp_rules import LrpMode

    network: Any = module  # a Hugging Face model, whose methods torch's types do not know
    table = network.get_input_embeddings()
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    handle = table.register_forward_hook(keep)
    try:
        with torch.enable_grad(), LrpMode(False):
            output = module(**inputs)
    finally:
        handle.remove()
    with torch.enable_grad():
        (column,) = resolve(target, output, batch=1, labels=labels)
        score = column.score(output)
    (gradient,) = torch.autograd.grad(score.sum(), kept[0])
    return (wide(gradient) * wide(kept[0])).sum(-1)[0], column, score[0]
