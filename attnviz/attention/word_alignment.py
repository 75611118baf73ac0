"""Which part of its source an encoder-decoder looks at for each word that it writes: `aligned`."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import AttentionUnavailable, DataError, MethodError
from ..hooks import preserved, unwrap
from .tap import Site, Tap
from .text import joined
from .written import Written, said_by

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: columns of a figure of speech, at most
_COLUMNS = 60


@dataclass(frozen=True, eq=False, repr=False)
class WordAlignment(Written):
    """The words that an encoder-decoder wrote, each with its attention to the source.

    Attributes:
        layers: (W, L, S) cross-attention of the rows that wrote the word, each layer's mean over
            heads, in shares of the row. Columns are words of a text (the sum over their tokens;
            what goes to marks of the tokenizer is left out), frames of a recording.
        names: of the L layers.
        source: the columns' words, or None of a recording.
        seconds: (S,) when each column begins, in a recording; None of a text.
        duration: of the recording, in seconds; NaN of a text.
    """

    layers: Tensor
    names: tuple[str, ...]
    source: tuple[str, ...] | None
    seconds: Tensor | None
    duration: float

    def __repr__(self) -> str:
        return f"WordAlignment({len(self.words)} words over {self.layers.shape[-1]} columns)"

    @property
    def weights(self) -> Tensor:
        """(W, S), mean over layers."""
        return self.layers.mean(1)

    def figure(self, *, title: str = "") -> Figure:
        """Draw the source across and the words written down; a recording in even steps of time."""
        from .views.figures import alignment

        weights = self.weights
        if self.seconds is None:
            assert self.source is not None
            return alignment(weights, self.source, self.words, title=title)
        heard = weights[:, self.seconds < self.duration]
        each = math.ceil(heard.shape[1] / _COLUMNS)
        starts = list(range(0, heard.shape[1], each))
        steps = torch.stack([heard[:, a : a + each].sum(1) for a in starts], 1)
        times = [f"{float(self.seconds[a]):.2f} s" for a in starts]
        return alignment(steps, times, self.words, title=title)


def aligned(
    model: nn.Module, processor: Any, source: Any, *, max_new_tokens: int = 60, **generate: Any
) -> WordAlignment:
    """Let an encoder-decoder write, and return where it looks in its source for each word.

    The model writes what it writes by itself, with its cache, greedily or with beams. Of each
    cross-attention only the rows that write are kept, and of them the mean over heads; of beams
    the row of the hypothesis that became the answer, step by step. A word's row is that of the
    token before it; of a word of several tokens the mean.

    Args:
        model: T5, BART, Marian and others of Hugging Face; of speech Whisper, Speech2Text,
            Moonshine.
        processor: the model's own, of a text its fast tokenizer.
        source: a text; or a recording, (samples,) at the processor's sampling rate.
        max_new_tokens: at most so many tokens are written.
        **generate: further arguments of the model's `generate`, such as `num_beams`.

    Raises:
        AttentionUnavailable: the cross-attention was not read, or when its columns are is not
            known.
        DataError: the source is neither, or nothing was written.
        MethodError: several answers at once.

    Example:
        >>> found = attention.aligned(model, tokenizer, "a boat", num_beams=4)  # doctest: +SKIP
        >>> found.figure()  # doctest: +SKIP
    """
    if generate.get("num_return_sequences", 1) != 1:
        raise MethodError("one answer is read as it is written; leave num_return_sequences at 1")
    module: Any = unwrap(model)
    encoded, inputs = _inputs(module, processor, source)
    settings = {"do_sample": False, **generate, "max_new_tokens": max_new_tokens}
    if "force_unique_generate_call" in inspect.signature(module.generate).parameters:
        settings["force_unique_generate_call"] = True  # Whisper: one piece of speech, not cut
    rows = _Crossing()
    tap = Tap(module, keep="qk", graph=False, copy=False, required=False, reduce=rows.read)
    heard: list[Tensor] = []  # of all beams; Whisper hands out those of the first
    with preserved(module, eval_mode=True), tap:
        handle = module.register_forward_hook(lambda _, __, o: heard.append(o.logits[:, -1].cpu()))
        try:
            out = module.generate(
                **inputs, **settings, return_dict_in_generate=True, output_logits=True
            )
        finally:
            handle.remove()
    beams = getattr(out, "beam_indices", None)
    chosen = [0] * len(out.logits) if beams is None else [b for b in beams[0].tolist() if b >= 0]
    count = len(chosen)
    written = out.sequences[0][-count:].cpu()
    logprob = torch.stack(
        [
            step[beam].float().log_softmax(0)[token]
            for step, beam, token in zip(heard[-len(out.logits) :], chosen, written, strict=False)
        ]
    )
    values = rows.taken(len(out.logits), chosen, tap)
    tokenizer = getattr(processor, "tokenizer", processor)
    said = said_by(tokenizer, written, logprob)
    names, seconds, duration = None, None, math.nan
    if isinstance(source, str):
        spans, sums = joined(encoded, source, values.permute(2, 0, 1))
        names, values = tuple(source[a:b] for a, b in spans), sums.permute(1, 2, 0)
    else:
        seconds, duration = _times(module, processor, inputs, source, values.shape[-1])
    layers = torch.stack([values[list(own)].mean(0) for own in said.members])
    return WordAlignment(
        **vars(said), layers=layers, names=tuple(rows.names), source=names, seconds=seconds,
        duration=duration,
    )  # fmt: skip


def _inputs(module: Any, processor: Any, source: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return what the processor makes of a source, and the tensors of it on the model's device."""
    if isinstance(source, str):
        if not getattr(processor, "is_fast", False):
            raise DataError(
                f"{type(processor).__name__} does not say which token belongs to which word; load "
                "the fast one (AutoTokenizer gives it where there is one)"
            )
        encoded = processor(source, return_tensors="pt", return_offsets_mapping=True)
    else:
        samples = np.asarray(source)
        if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
            raise DataError(
                f"expected a text, or a recording as (samples,) of floats, got {samples.dtype} "
                f"{samples.shape}"
            )
        encoded = processor(samples, sampling_rate=_rate(processor), return_tensors="pt")
    place = next(module.parameters())
    return encoded, {
        name: value.to(place.device, place.dtype if value.is_floating_point() else value.dtype)
        for name, value in encoded.items()
        if isinstance(value, Tensor) and name != "offset_mapping"
    }


class _Crossing:
    """Keeps of each cross-attention the rows that write the next tokens, one a beam."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.kept: dict[int, dict[str, Tensor]] = {}  # step -> layer -> (beams, S)

    def read(self, site: Site) -> Site:
        """Take the last rows of one attention and let go of the rest."""
        if site.kind == "cross":
            rows = site.weights(rows=site.queries - 1).mean(1)[:, 0]
            self.kept.setdefault(site.step, {})[site.name] = rows.cpu()
        return replace(
            site, q=None, k=None, v=None, output=None, probabilities=None, mask=None,
            _layout=None, _versions=(),
        )  # fmt: skip

    def taken(self, written: int, chosen: list[int], tap: Tap) -> Tensor:
        """Return (T, L, S): of the last `written` steps the chosen beams' rows."""
        steps = [self.kept[step] for step in sorted(self.kept)][-written:]
        if len(steps) != written or any(s.keys() != steps[0].keys() for s in steps):
            raise AttentionUnavailable(
                f"{written} tokens were written and the cross-attention of {len(steps)} was read"
                + "".join(f"; not readable: {m}" for m in tap.missed[:3])
            )
        self.names = list(steps[0])
        return torch.stack([
            torch.stack([step[name][beam] for name in self.names])
            for step, beam in zip(steps, chosen, strict=False)
        ])  # fmt: skip


def _rate(processor: Any) -> int:
    return int(getattr(processor, "feature_extractor", processor).sampling_rate)


def _times(
    module: Any, processor: Any, inputs: dict[str, Tensor], source: Any, columns: int
) -> tuple[Tensor, float]:
    """Return when each column begins (S,), and how long the recording is, in seconds.

    The encoder's convolutions over time merge as many frames as their strides multiply to.
    """
    reader, rate = getattr(processor, "feature_extractor", processor), _rate(processor)
    merged = math.prod(
        m.stride[0] for m in module.get_encoder().modules() if isinstance(m, nn.Conv1d)
    )
    if "input_values" in inputs:
        frame, frames = 1 / rate, inputs["input_values"].shape[-1]
    else:
        given = inputs["input_features"]
        sizes = [
            reader(np.zeros(n * rate, np.float32), sampling_rate=rate, return_tensors="pt")
            for n in (1, 2)
        ]
        one, two = (tuple(found["input_features"].shape) for found in sizes)
        axis = next((i for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b), None)
        if axis is None:  # padded to one length
            frame, frames = reader.hop_length / rate, given.shape[-1]
        else:
            frame, frames = 1 / (two[axis] - one[axis]), given.shape[axis]
    if abs(frames / merged - columns) > 2:
        raise AttentionUnavailable(
            f"the encoder of {type(module).__name__} has {columns} columns for {frames} frames, "
            f"and its convolutions merge {merged}: when each column is, is not known"
        )
    return torch.arange(columns) * (merged * frame), len(source) / rate
