"""Weights of the cards' small networks, so that a page need not train them.

    python -m attnviz.gallery.stored [CARD ...]

trains them anew and writes them beside the reference modules' weights, as float16.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..writing import write_file
from .modules.files import folder

Network = TypeVar("Network", bound=nn.Module)

#: where new weights go while networks are trained anew, else None
_target: Path | None = None


@contextmanager
def trained_anew(target: Path) -> Iterator[None]:
    """Restore nothing inside the block, and keep what is trained in `target`."""
    global _target
    _target = target
    try:
        yield
    finally:
        _target = None


def restored(name: str, build: Callable[[], Network]) -> Network | None:
    """Return a card's network with its stored weights, in eval mode; None if there are none.

    Args:
        name: of the card.
        build: makes the untrained network; the random state is left alone.
    """
    path = folder() / "cards" / f"{name}.safetensors"
    if _target is not None or not path.is_file():
        return None
    with torch.random.fork_rng(devices=[]):
        network = build()
    network.load_state_dict(_single(load_file(path)))
    return network.eval()


def keep(name: str, network: Network) -> Network:
    """Return a network as it will be restored, and store it if networks are trained anew."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    if _target is not None:
        _target.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.contiguous() for k, v in state.items()}
        path = _target / f"{name}.safetensors"
        write_file(path, lambda part: save_file(tensors, part), force=True)
    network.load_state_dict(_single(state))
    return network


def _single(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def main(words: list[str] | None = None) -> int:
    """Run from the command line."""
    # the package's own module, of which this is a copy when it is run
    from . import stored
    from .card import cards

    parser = argparse.ArgumentParser(prog="python -m attnviz.gallery.stored")
    parser.add_argument("card", nargs="*", help="names; all without any")
    parser.add_argument("--out", type=Path, help="folder; the installed one if left out")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    target = options.out or folder() / "cards"
    with stored.trained_anew(target):
        for card in cards(*options.card):
            print(card.name, card.show().numbers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
