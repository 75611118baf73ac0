"""A model that writes about pictures (BLIP, GIT, LLaVA, ...) as a scorer of words."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError, TargetError
from ..hooks.preserve import preserved
from ..inputs import Inputs
from .loaded import LoadedModel
from .outputs import logits_of
from .prompts import OfTexts, check_different, named
from .resolving import from_hf
from .text import inputs_of, members, offsets, with_answer

#: tokens that a model writes at most; a word behind them counts as not said
LONGEST = 30


class CaptionScorer(OfTexts):
    """A model that writes about pictures, with log-probabilities of given words as its logits.

    A word is scored where the model says it: the model writes about the picture by itself
    (greedily), and the word's tokens are scored after all that stands before them. A word that it
    does not say is scored as the next one after the prompt. In altered copies of the picture the
    text before the word stays the same. The modules are those of the model, under the same names;
    nothing is copied.

    Attributes:
        spoken: the words, one class each.
        captions: where each of them was scored, after `hear`.
    """

    def __init__(
        self, model: nn.Module, words: Sequence[str], reader: Any, prompt: str = ""
    ) -> None:
        super().__init__()
        for name, part in model.named_children():
            self.add_module(name, part)
        self.__dict__["_writer"] = model  # by itself it is no part: every layer keeps its name
        self.spoken, self.captions = tuple(words), tuple(words)
        self._reader, self._prompt = reader, prompt
        self._given: Mapping[str, Any] = {}  # of one picture, which stands under `_picture`
        self._picture = self._ids = ""
        self._places: list[list[tuple[int, int]]] = []
        self.train(model.training)

    @property
    def writer(self) -> Any:
        """The model itself."""
        return self.__dict__["_writer"]

    def stated_activation(self) -> str:
        """Return "none": of a sum of log-probabilities the exponent is the probability."""
        return "none"

    def hear(self, inputs: Inputs) -> Inputs:
        """Find out where each word is said of one picture, and return what `forward` takes.

        Args:
            inputs: a picture (1, 3, H, W), to which the model writes; or the model's own inputs
                with the text in them: each word is scored where it stands last, or as the next one
                if it does not stand there.

        Raises:
            TargetError: several pictures; inputs without text; a word that is no token; several
                tokens of a word that is not said, beside other words.
            ModelError: the model takes more than a picture and text, or writes no tokens.
        """
        with torch.no_grad(), preserved(self, eval_mode=True):
            if isinstance(inputs, Tensor):
                self._begin(inputs)
                start, said = self._given[self._ids].shape[1], self._written()
            else:
                start, said = 1, self._own(inputs)
            self._place(start, said, fixed=not isinstance(inputs, Tensor))
        return self._given[self._picture] if self._picture else self._given

    def forward(self, picture: Tensor | None = None, **given: Any) -> Tensor:
        """Return the log-probabilities (B, K) of the words, for pictures (B, 3, H, W)."""
        if picture is not None:
            count = len(picture)
            given = {
                name: v.expand(count, *v.shape[1:]) if isinstance(v, Tensor) and len(v) == 1 else v
                for name, v in self._given.items()
            } | {self._picture: picture}
        rows = self._rows(given)
        found = [sum(rows[:, at, token] for at, token in places) for places in self._places]
        return torch.stack([torch.as_tensor(one) for one in found], 1)

    def _rows(self, given: Mapping[str, Any]) -> Tensor:
        """Return the log-probabilities (B, T, vocabulary) behind each of the T tokens."""
        model = self.writer
        number = given[self._ids].shape[1]
        was, model.training = model.training, self.training
        try:
            logits = logits_of(model(**given))
        finally:
            model.training = was
        if logits.ndim != 3 or logits.shape[1] < number:
            raise ModelError(
                f"{type(model).__name__} gives {tuple(logits.shape)} for {number} tokens, and no "
                "logits (B, tokens, vocabulary) of the token behind each"
            )
        return logits[:, -number:].float().log_softmax(-1)

    def _begin(self, picture: Tensor) -> None:
        """Keep what the model is given before it writes: a picture, and the prompt."""
        model, config = self.writer, getattr(self.writer, "config", None)
        kind = str(getattr(config, "model_type", ""))
        if len(picture) != 1:
            raise TargetError(f"a word is looked for in one picture at a time, got {len(picture)}")
        if config is None:
            raise ModelError(
                f"how {type(model).__name__} begins to write is not known; give its own inputs, "
                "the picture and the tokens before the word"
            )
        height, width = picture.shape[-2:]
        if hasattr(self._reader, "tokenizer") and callable(self._reader):
            blank = np.zeros((height, width, 3), np.uint8)  # for the number of its tokens
            given = dict(inputs_of(model, self._reader, blank, self._prompt))
        else:
            ids = self._reader(self._prompt)["input_ids"] if self._prompt else []
            given = {"input_ids": torch.tensor([ids], dtype=torch.long, device=picture.device)}
        self._picture, self._ids = "pixel_values", "input_ids"
        takes = inspect.signature(model.forward).parameters
        alone = given.get("pixel_values", picture)
        if self._picture not in takes or alone.ndim != 4 or len(alone) != 1:
            raise ModelError(
                f"{type(model).__name__} does not take a picture as a tensor (1, 3, H, W); explain "
                "the mapping that its processor makes of photo and text"
            )
        ids = given["input_ids"]
        if ids.shape[1] and int(ids[0, -1]) in self._stops():  # a prompt goes on
            given = {
                n: v[:, :-1] if isinstance(v, Tensor) and v.shape == ids.shape else v
                for n, v in given.items()
            }
        first = self._first(kind)
        # BLIP-2 takes such tokens also where its language model is a decoder alone
        plain = getattr(config, "use_decoder_only_language_model", False)
        if "decoder_input_ids" in takes and not plain:
            self._ids = "decoder_input_ids"
            prompt = given["input_ids"] if "input_ids" not in takes else ids[:, :0]
            if "input_ids" not in takes:
                given = {}
            given["decoder_input_ids"] = torch.cat([ids.new_full((1, 1), first), prompt], 1)
        elif kind == "blip" and given["input_ids"].shape[1]:
            given["input_ids"] = given["input_ids"].clone()
            given["input_ids"][:, 0] = first
        elif not given["input_ids"].shape[1]:
            # the masks of no tokens are as empty as these
            given = {
                n: v for n, v in given.items() if not isinstance(v, Tensor) or v.shape != ids.shape
            }
            given["input_ids"] = ids.new_full((1, 1), first)
        self._given = {**given, self._picture: picture}

    def _first(self, kind: str) -> int:
        """Return the token that a text begins with."""
        model, config = self.writer, getattr(self.writer, "config", None)
        places = [getattr(model, "generation_config", None), config]
        places += [getattr(config, n, None) for n in ("decoder", "text_config")]
        names = ("decoder_start_token_id", "bos_token_id")
        found = [getattr(place, name, None) for name in names for place in places]
        if kind == "blip":  # its text decoder has a token of its own
            found = [getattr(places[-1], "bos_token_id", None)]
        found.append(getattr(self._tokenizer, "bos_token_id", None))
        first = next((int(token) for token in found if isinstance(token, int)), None)
        if first is None:
            raise ModelError(
                f"which token a text of {type(model).__name__} begins with is not stated; give a "
                "prompt, or model.generation_config.bos_token_id"
            )
        return first

    @property
    def _tokenizer(self) -> Any:
        return getattr(self._reader, "tokenizer", None) or self._reader

    def _stops(self) -> set[int]:
        """Return the tokens that end a text."""
        said = getattr(self.writer, "generation_config", None)
        found = getattr(said, "eos_token_id", None)
        ends = list(found) if isinstance(found, list | tuple) else [found]
        ends += [getattr(self._tokenizer, f"{name}_token_id", None) for name in ("eos", "sep")]
        return {int(token) for token in ends if token is not None}

    def _written(self) -> list[int]:
        """Return what the model writes, token by token."""
        start, written = self._given, []
        stops = self._stops()
        while len(written) < LONGEST:
            token = int(self._rows(self._with(start, written))[0, -1].argmax())
            if token in stops:
                break
            written.append(token)
        return written

    def _with(self, given: Mapping[str, Any], tokens: Sequence[int]) -> Mapping[str, Any]:
        """Return the inputs with tokens behind the text."""
        more = given[self._ids].new_tensor([*tokens, 0])
        if self._ids == "input_ids":
            return with_answer(self.writer, given, more)
        return {**given, self._ids: torch.cat([given[self._ids], more[None, :-1]], 1)}

    def _own(self, inputs: Inputs) -> list[int]:
        """Keep the model's own inputs, and return the text in them."""
        model = self.writer
        if not isinstance(inputs, Mapping):
            inputs = dict(zip(inspect.signature(model.forward).parameters, inputs, strict=False))
        texts = {
            name: v for name, v in inputs.items()
            if isinstance(v, Tensor) and v.ndim == 2 and not v.is_floating_point()
        }  # fmt: skip
        named = [n for n in ("decoder_input_ids", "input_ids") if n in texts]
        named = named or [n for n in texts if "mask" not in n and n != "labels"]
        pictures = {n for n, v in inputs.items() if isinstance(v, Tensor) and v.ndim == 4}
        if not named:
            raise TargetError(
                f"the inputs {sorted(map(str, inputs))} hold no text (1, T) as token ids, "
                "input_ids or decoder_input_ids: give the text up to the word, or with it"
            )
        self._given, self._ids = dict(inputs), named[0]
        self._picture = pictures.pop() if len(pictures) == 1 else ""
        ids = texts[self._ids]
        if len(ids) != 1:
            raise TargetError(f"a word is looked for in one text at a time, got {len(ids)}")
        mask = inputs.get(self._ids.replace("input_ids", "attention_mask"))
        if isinstance(mask, Tensor) and mask.shape == ids.shape:  # filled up behind the text
            ids = ids[:, : int(mask[0].nonzero().max()) + 1]
        return ids[0, 1:].tolist()

    def _place(self, start: int, said: list[int], *, fixed: bool) -> None:
        """Find where each word is scored: behind which tokens, and as which."""
        text, spans = offsets(self._tokenizer, said) if hasattr(
            self._tokenizer, "decode"
        ) else ("", [])  # fmt: skip
        places, labels, last = [], [], 0
        for word in self.spoken:
            found = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.I)]
            if found:
                own = members([found[-1 if fixed else 0]], spans)[0]
                labels.append(f"{word} (in {text!r})")
                places.append([(start - 1 + n, said[n]) for n in own])
            else:
                tokens = self._tokens(word)
                if len(tokens) > 1 and (fixed or len(self.spoken) > 1):
                    raise TargetError(
                        f"{word!r} is {len(tokens)} tokens and not said in {text!r}: "
                        + ("give the text with the word in it" if fixed else "explain it by itself")
                    )
                labels.append(f"{word} (next, not in {text!r})" if said else f"{word} (next)")
                at = start - 1 + (len(said) if fixed else 0)
                places.append([(at + n, token) for n, token in enumerate(tokens)])
                if len(tokens) > 1:
                    said = tokens
            last = max(last, places[-1][-1][0] + 1)
        if not fixed:
            self._given = self._with(self._given, said[: last - start])
        self._places, self.captions = places, tuple(labels)

    def _tokens(self, word: str) -> list[int]:
        """Return the tokens of a word that goes on a text."""
        reader = self._tokenizer
        if isinstance(reader, Mapping):
            found = [reader[word]] if word in reader else []
        else:
            options = {"add_special_tokens": False} if hasattr(reader, "is_fast") else {}
            before = reader.decode(self._given[self._ids][0].tolist(), skip_special_tokens=True)
            lead = reader.encode(before, **options) if before else []
            gap = " " if before and not before[-1].isspace() else ""
            found = reader.encode(f"{before}{gap}{word}", **options)
            if found[: len(lead)] == lead:
                found = found[len(lead) :]
            else:
                found = reader.encode(word, **options)
        unknown = getattr(reader, "unk_token_id", None)
        if not found or (unknown is not None and unknown in found):
            raise TargetError(f"{word!r} is no word of the model's tokenizer")
        return [int(token) for token in found]


def captioner(
    model: Any, words: Sequence[str], *, tokenizer: Any = None, prompt: str = ""
) -> LoadedModel:
    """Return a model that writes about pictures as a scorer of words, to explain one.

    Args:
        model: BLIP, GIT, LLaVA, `VisionEncoderDecoderModel` and their like of Hugging Face; one of
            your own that takes pictures and token ids and gives logits (B, T, vocabulary), to be
            explained with both; or what `attnviz.load` returned.
        words: different words, one a class.
        tokenizer: its processor (whose preprocessing of photos is then taken too) or tokenizer; of
            a model of your own anything with `encode` and `decode`, or {word: token}. None takes
            what was loaded with the model.
        prompt: what the model goes on from; "" lets it begin by itself.

    Raises:
        ModelError: no tokenizer is known.
        TargetError: no words, or one of them twice.
    """
    loaded, module, name = named(model)
    check_different("words", words)
    reader = tokenizer or (loaded and loaded.tokenizer)
    if reader is None:
        raise ModelError(
            f"which tokens {name} writes words with is not known: pass its processor or tokenizer, "
            "TokenTarget(word, tokenizer=...)"
        )
    preprocess = loaded.preprocess if loaded is not None else None
    looks = getattr(reader, "image_processor", None)
    if preprocess is None and looks is not None:
        preprocess = from_hf(looks)
    return LoadedModel(CaptionScorer(module, words, reader, prompt), name, preprocess, tuple(words))
