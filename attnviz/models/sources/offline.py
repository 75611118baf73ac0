"""One clear error where weights would have to be fetched and cannot be."""

from __future__ import annotations

import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import AttnvizError, ModelError


@contextmanager
def fetching(name: str) -> Iterator[None]:
    """Turn any failure to fetch or read a model's files into one ModelError with what to do.

    Raises:
        ModelError: the block failed.
    """
    try:
        yield
    except AttnvizError:
        raise
    except Exception as error:  # each hub's client has errors of its own
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        what = (
            f"the files of {name} cannot be fetched or read ({reason[:300]}). Without a network: "
            "give weights you have with"
        )
        raise ModelError(
            f"{what} checkpoint=FILE, use random ones with pretrained=False, or use the embedded "
            "model (no name)",
            command=f"{what} --checkpoint, or use the embedded model (no --model)",
        ) from error


def check_hub() -> None:
    """Raise at once where the Hugging Face hub cannot be reached: its client retries for long.

    Raises:
        OSError: no connection.
    """
    from huggingface_hub import constants

    if os.environ.get("HF_HUB_OFFLINE") or urllib.request.getproxies():
        return  # the client fails at once itself, or connects another way
    url = urllib.parse.urlsplit(constants.ENDPOINT)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.hostname, port), timeout=10).close()
    except OSError as error:
        raise OSError(f"no connection to {url.hostname}: {error}") from error
