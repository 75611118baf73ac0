"""`attnviz serve`: a page in the browser to drop photos on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._options import Labels, Subject, listed, takes_model

LOOPBACK = ("127.0.0.1", "localhost")


@takes_model()
def serve(
    subject: Subject,
    beside: Annotated[
        list[str] | None,
        typer.Option(help="Further models, by name, to choose from and compare with."),
    ] = None,
    labels: Labels = None,
    audit: Annotated[
        list[Path] | None,
        typer.Option(help="A folder that `attnviz audit` wrote, to open there; repeated for more."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="0.0.0.0 lets other machines in, without a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    upload: Annotated[
        int, typer.Option("--max-upload", min=1, metavar="MB", help="The largest photo taken.")
    ] = 20,
    opened: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Serve a page to drop a photo on: map, attention, boxes, top classes, two methods compared.

    For this machine alone, unless --host says otherwise; nothing is sent anywhere. Ctrl-C ends it.
    """
    import socket
    import threading
    import webbrowser
    from dataclasses import replace

    from ..app import launch, page
    from ..errors import EnvironmentFault
    from ..models import read_labels
    from ._app import say

    try:
        with socket.create_server((host, port)):  # before a model is loaded for nothing
            pass
    except OSError as error:
        raise EnvironmentFault(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another --port or --host"
        ) from error
    loaded = subject.load()
    if labels:
        loaded = replace(loaded, labels=tuple(read_labels(labels)))
    models = {loaded.name: loaded}
    for name in listed(beside):
        models[name] = Subject(model=name, device=subject.device).load()
    blocks = page(models, audits=audit or (), upload_bytes=upload * 1_000_000)
    address = launch(blocks, host=host, port=port, upload_bytes=upload * 1_000_000, wait=False)
    if host not in LOOPBACK:
        say(f"warning: whoever reaches {host}:{port} can use the models here; there is no password")
    print(f"{address} (Ctrl-C ends it)", flush=True)
    if opened:
        webbrowser.open(address)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        say("stopped")
    finally:
        blocks.close(verbose=False)
