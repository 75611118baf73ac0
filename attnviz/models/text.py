"""Text models of the Hugging Face hub or of a local folder, with their tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import ModelError
from .checkpoints import load_checkpoint
from .environment import import_transformers


@dataclass(frozen=True)
class LoadedText:
    """A text model in eval mode, and how words become its input.

    Attributes:
        module: the model.
        tokenizer: a Hugging Face tokenizer.
        name: as it was asked for.
    """

    module: nn.Module
    tokenizer: Any
    name: str

    def encode(self, text: str) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
        """Return the model's keyword arguments for one text (1, N), and the names of its tokens.

        Raises:
            ModelError: the text gives no token, or more than the model takes.
        """
        inputs = dict(self.tokenizer(text, return_tensors="pt"))
        count = int(inputs["input_ids"].shape[1])
        limit = getattr(self.module.config, "max_position_embeddings", None)
        if count == 0 or (limit and count > limit):
            raise ModelError(
                f"the text has {count} tokens; {self.name} takes 1 to {limit}. Give less of it"
            )
        names = self.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
        # GPT-2's bytes: a leading space is shown as a thin mark and not as a letter
        return inputs, tuple(str(n).replace("Ġ", "·").replace("▁", "·") for n in names)


def load_text(
    name: str,
    *,
    device: str | None = None,
    random: bool = False,
    checkpoint: str | Path | None = None,
) -> LoadedText:
    """Load a text model and its tokenizer; no remote code is run.

    Args:
        name: `hf:NAME_OR_FOLDER`, or a folder.
        device: None leaves it on the CPU.
        random: random weights, from the configuration alone (with torch's random state).
        checkpoint: a file of weights for it.

    Raises:
        EnvironmentFault: transformers is not installed.
        ModelError: not found, no network, or without a tokenizer.
    """
    from .sources.offline import check_hub, fetching

    transformers = import_transformers()
    short = name.removeprefix("hf:")
    folder = Path(short).expanduser()
    place = str(folder) if folder.is_dir() else short
    with fetching(name):
        try:
            module, tokenizer = _read(transformers, place, local=True, random=random)
        except OSError:
            if folder.is_dir():
                raise
            check_hub()
            module, tokenizer = _read(transformers, place, local=False, random=random)
    if tokenizer is None:
        raise ModelError(f"{name} comes without a tokenizer, so a text cannot become its input")
    if checkpoint is not None:
        module = load_checkpoint(checkpoint, lambda _: module, name=name)
    if device is not None:
        module.to(device)
    return LoadedText(module.eval(), tokenizer, name)


def _read(
    transformers: Any, place: str, *, local: bool, random: bool = False
) -> tuple[nn.Module, Any]:
    options = {"trust_remote_code": False, "local_files_only": local}
    config = transformers.AutoConfig.from_pretrained(place, **options)
    named = next(iter(getattr(config, "architectures", None) or ()), "")
    # a classifier keeps its classifier; what writes words is read as an encoder
    auto = transformers.AutoModel
    if named.endswith("ForSequenceClassification"):
        auto = transformers.AutoModelForSequenceClassification
    if random:
        module = auto.from_config(config, trust_remote_code=False)
    else:
        module = auto.from_pretrained(place, **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(place, **options)
    return module, tokenizer
