"""Reads the attention of a vision-language model while it writes: `words`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import AttentionUnavailable, MethodError
from ..geometry import Geometry
from ..hooks import preserved, unwrap
from ..images import read_image
from ..models.text import inputs_of
from .image_tokens import ImageTokens, image_tokens
from .tap import Site, Tap
from .token_activation import activation_maps, rank_gaussian
from .word_maps import WORD_METHODS, WordMaps
from .word_passes import rolled, weighted
from .written import said_by

#: maps that take another pass over the prompt and the answer
_PASSES = {"rollout": rolled, "gradient": weighted}


def words(
    model: nn.Module,
    processor: Any,
    image: Any,
    prompt: str,
    *,
    max_new_tokens: int = 40,
    methods: tuple[str, ...] | list[str] = ("attention", "tam"),
    grid: tuple[int, int] | None = None,
    heads: bool = False,
    **generate: Any,
) -> WordMaps:
    """Let a vision-language model write about a photo, and return each word with its maps.

    The model writes what it writes by itself, to the bit. Of its attention only the rows that
    write the words are kept, and of them the mean over heads unless `heads` is set. A word's row
    is that of the token before it, which decides what comes next; of a word of several tokens the
    maps are averaged.

    Args:
        model: LLaVA, LLaVA-NeXT, Qwen2/2.5-VL, PaliGemma, Idefics3, SmolVLM, InternVL, BLIP-2 or
            Mllama in the form of Hugging Face; or another with image tokens in its sequence.
        processor: the model's own.
        image: anything `read_image` reads.
        prompt: a question or the start of a sentence. The processor's chat template is put round
            it where there is one, unless it holds the image's placeholder already.
        max_new_tokens: at most so many tokens are written.
        methods: of "attention" (mean over heads and layers), "tam" (Li et al. 2025,
            arXiv:2506.23270: which image tokens speak for the word, less what other words
            explain), "rollout" (Abnar & Zuidema 2020; a second pass that keeps all queries and
            keys) and "gradient" ((A * d logit / dA)+ of the row, after Chefer et al. 2021,
            arXiv:2103.15679; a second pass with a graph). All but "attention" need image tokens in
            the sequence: Mllama has none.
        grid: (rows, columns) of the image tokens, where they are not known.
        heads: keep each head's maps too, as `WordMaps.heads`; 71 MB for 40 words of 24 layers of
            32 heads over 24 x 24 patches.
        **generate: further arguments of the model's `generate`, such as `do_sample`.

    Raises:
        AttentionUnavailable: the image tokens or their grid are not known, or the attention of
            the words was not read.
        DataError: nothing was written.
        MethodError: an unknown method; beams or several answers at once.

    Example:
        >>> found = attention.words(model, processor, photo, "What is this?")  # doctest: +SKIP
        >>> found.word("boat").overlay(0).save("boat.png")  # doctest: +SKIP
    """
    unknown = [m for m in methods if m not in WORD_METHODS]
    if unknown or not methods:
        raise MethodError(f"methods={list(methods)}: expected some of {', '.join(WORD_METHODS)}")
    if generate.get("num_beams", 1) != 1 or generate.get("num_return_sequences", 1) != 1:
        raise MethodError("one answer is read as it is written; leave num_beams at 1")
    module = unwrap(model)
    photo = read_image(image)
    tokenizer = getattr(processor, "tokenizer", processor)
    inputs = inputs_of(module, processor, photo, prompt)
    ids = inputs["input_ids"][0]
    names = [str(t) for t in tokenizer.convert_ids_to_tokens(ids.tolist())]
    place = image_tokens(module, inputs, photo.shape[:2], names, grid)
    rows = _Rows(module, place, len(ids), heads)
    lens = _States(module, place) if "tam" in methods and not place.crossed else None
    decoder = _decoder(module)[1]
    plain = getattr(decoder.config, "_attn_implementation", None) == "sdpa"
    tap = Tap(
        module, keep="qk", graph=False, copy=False, required=False, reduce=rows.read,
        fused_only=plain and not place.resampled,
    )  # fmt: skip
    settings = {"do_sample": False, **generate, "max_new_tokens": max_new_tokens}
    with preserved(module, eval_mode=True), tap, _watched(module, lens):
        network: Any = module  # a Hugging Face model, whose methods torch's types do not know
        out = network.generate(
            **inputs, **settings, return_dict_in_generate=True, output_logits=True
        )
    written = out.sequences[0][-len(out.logits) :]
    logprob = torch.stack(
        [step[0].float().log_softmax(0)[t] for step, t in zip(out.logits, written, strict=True)]
    ).cpu()
    said = said_by(tokenizer, written.cpu(), logprob)
    member = said.members
    attention, rest, split = rows.taken(len(written), tap, member)
    made: dict[str, Tensor] = {}
    for method in methods:
        if method == "attention":
            made[method] = _joined(attention.mean(1), member)
        elif method in _PASSES:
            values = _PASSES[method](module, inputs, written, place, rows.names)
            made[method] = _joined(rows.on_photo(values), member)
        elif lens is not None:
            maps = lens.maps(module, ids, written, set(tokenizer.all_special_ids))
            made[method] = rank_gaussian(_joined(rows.on_photo(maps), member))
    if not made:
        raise MethodError(
            f"{type(module).__name__} has no image tokens among its words, so it has no 'tam'; use "
            "'attention'"
        )
    return WordMaps(
        **vars(said),
        prompt=prompt,
        layers=_joined(attention, member),
        text_share=_joined(rest, member),
        maps=made,
        names=tuple(rows.names),
        image=photo,
        geometry=_geometry(processor, photo, place),
        model=type(module).__name__,
        heads=split,
    )


def _decoder(module: Any) -> tuple[str, nn.Module]:
    """Return the part that reads the words, and its name."""
    part = module.get_decoder()
    while hasattr(part, "get_output_embeddings") and part.get_output_embeddings() is not None:
        part = part.get_decoder()  # a language model with its own head
    name = next(n for n, m in module.named_modules() if m is part)
    if getattr(getattr(part, "config", None), "is_encoder_decoder", False) or not name:
        raise AttentionUnavailable(
            f"the words of {type(module).__name__} are not written by a decoder of its own that "
            "reads image tokens"
        )
    return name, part


class _Rows:
    """Keeps of each attention the row that writes the next token, as it runs."""

    def __init__(self, module: Any, place: ImageTokens, prompt: int, heads: bool) -> None:
        self.place = place
        self.prompt = prompt
        self.heads = heads
        self.decoder = _decoder(module)[0]
        self.names: list[str] = []
        # step -> layer -> (heads, 1 + P) rest and image, or their mean (1, 1 + P)
        self.kept: dict[int, dict[str, Tensor]] = {}
        self.gathered: list[Tensor] = []  # (queries, patches) of each layer of a Q-Former

    def read(self, site: Site) -> Site:
        """Take the row of one attention and let go of the rest."""
        if site.batch == 1 and self._counts(site):
            row = site.weights(rows=site.queries - 1)[0, :, 0]
            row = row if self.heads else row.mean(0, keepdim=True)
            image = self._of_image(row, site)
            rest = row.sum(1, keepdim=True) - image.sum(1, keepdim=True)
            self.kept.setdefault(site.step, {})[site.name] = torch.cat([rest, image], 1).cpu()
        elif self.place.resampled and site.kind in ("cross", "pooling") and site.batch == 1:
            self.gathered.append(site.weights().mean((0, 1)).cpu())
        return replace(
            site, q=None, k=None, v=None, output=None, probabilities=None, mask=None,
            _layout=None, _versions=(),
        )  # fmt: skip

    def _counts(self, site: Site) -> bool:
        inside = site.name.startswith(f"{self.decoder}.")
        count = len(self.place.positions)
        crossed = site.keys == count and "cross" in site.name
        return inside and (crossed if self.place.crossed else site.keys > 1 and not crossed)

    def _of_image(self, row: Tensor, site: Site) -> Tensor:
        positions = self.place.positions.to(row.device)
        if self.place.crossed:
            return row[:, positions]
        # a cache that slides holds the last keys only; a static one is longer than the text
        total = self.prompt + max(len(self.kept) - (site.step in self.kept), 0)
        gone = max(total - site.keys, 0)
        seen = positions >= gone
        return torch.where(seen, row[:, (positions - gone).clamp(min=0)], row.new_zeros(()))

    def taken(
        self, count: int, tap: Tap, member: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return (T, L, h, w) on the photo and (T, L) elsewhere, and heads (W, H, h, w) a layer.

        Args:
            count: T; the last steps are taken.
            tap: what is said of attention that was not read.
            member: the tokens of each of the W words.
        """
        steps = [self.kept[step] for step in sorted(self.kept)][-count:]
        first = steps[0] if steps else {}
        if len(steps) != count or not first or any(s.keys() != first.keys() for s in steps):
            raise AttentionUnavailable(
                f"{count} tokens were written and the attention of {len(steps)} was read"
                + "".join(f"; not readable: {m}" for m in tap.missed[:3])
            )
        self.names = list(first)
        values = torch.stack([torch.stack([s[n].mean(0) for n in self.names]) for s in steps])
        maps = self.on_photo(values[..., 1:])
        split = [
            _joined(self.on_photo(torch.stack([step.pop(name) for step in steps])[..., 1:]), member)
            for name in (self.names if self.heads else ())
        ]
        # tokens that are no place on the photo count as text
        return maps, 1 - maps.sum((-2, -1)), tuple(split)

    def on_photo(self, values: Tensor) -> Tensor:
        """Return values of image tokens (..., P) on the photo."""
        if self.place.resampled:
            if not self.gathered:
                raise AttentionUnavailable("the queries' attention to the patches was not read")
            values = values @ torch.stack(self.gathered).mean(0).to(values)
        return self.place.on_photo(values)


class _States:
    """Keeps the last hidden states of the image tokens and of the text."""

    def __init__(self, module: Any, place: ImageTokens) -> None:
        self.place = place
        self.states: list[Tensor] = []

    def keep(self, _: nn.Module, __: Any, output: Any) -> None:
        found = output[0] if isinstance(output, tuple) else output.last_hidden_state
        self.states.append(found.detach()[0])

    def maps(self, module: Any, ids: Tensor, written: Tensor, special: set[int]) -> Tensor:
        """Return (T, P): the activation map of each token written."""
        head = module.get_output_embeddings()
        states = torch.cat(self.states)
        image = states[self.place.positions.to(states.device)]
        marked = set(self.place.positions.tolist())
        text = [i for i, t in enumerate(ids.tolist()) if i not in marked and t not in special]
        at = torch.tensor([*text, *range(len(ids), len(states))], device=states.device)
        written = written.to(states.device)
        steps = torch.arange(len(written), device=states.device)[:, None]
        return activation_maps(
            written, image, states[at], torch.cat([ids, written.to(ids)]).to(at.device)[at],
            at < len(ids) + steps, head.weight.detach(),
            None if getattr(head, "bias", None) is None else head.bias.detach(),
        ).cpu()  # fmt: skip


@contextmanager
def _watched(module: Any, lens: _States | None) -> Iterator[None]:
    if lens is None:
        yield
        return
    handle = _decoder(module)[1].register_forward_hook(lens.keep)
    try:
        yield
    finally:
        handle.remove()


def _joined(values: Tensor, member: Sequence[Sequence[int]]) -> Tensor:
    return torch.stack([values[list(own)].mean(0) for own in member])


def _geometry(processor: Any, photo: np.ndarray, place: ImageTokens) -> Geometry:
    """Return where what is seen lies on the photo: all of it, unless the processor crops."""
    height, width = photo.shape[:2]
    whole = Geometry.identity(height, width)
    looks = getattr(processor, "image_processor", None)
    if len(place.tiles) > 1 or not getattr(looks, "do_center_crop", False):
        return whole
    from ..models.resolving import from_hf

    return from_hf(looks)(photo)[1]
