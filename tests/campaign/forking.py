"""Commands in processes that can be killed at any moment, without importing torch for each.

A server of one thread imports attnviz once and forks for every command; `Forks` talks to it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (minus the signal that ended it), seconds, what it said."""

    code: int
    seconds: float
    said: str


class Forks:
    """The client: runs commands one by one, or two at once."""

    def __init__(self, log: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
        self._log = log
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.campaign.forking"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=REPO,
        )

    def __call__(
        self,
        words: Sequence[str],
        *,
        after: float | None = None,
        by: signal.Signals = signal.SIGKILL,
        largest: int | None = None,
        memory: int | None = None,
        gone: str | None = None,
        offline: bool = False,
        beside: Sequence[str] | None = None,
    ) -> list[Ended]:
        """Run a command, and one beside it if given.

        Args:
            words: of the command line.
            after: seconds after which the signal `by` is sent.
            by: the signal.
            largest: bytes that a file may have; writing more fails, as on a full disk.
            memory: bytes that the process may take beyond what it has at its start.
            gone: a file that is removed after `after` seconds, in place of a signal.
            offline: let every attempt to connect be said, and fail.
            beside: words of a second command that starts at the same moment.
        """
        both = [list(words)] if beside is None else [list(words), list(beside)]
        job = dict(
            commands=both, after=after, by=int(by), gone=gone, log=str(self._log),
            bounds=dict(largest=largest, memory=memory, offline=offline),
        )  # fmt: skip
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return [Ended(**found) for found in json.loads(self._server.stdout.readline())]

    def close(self) -> None:
        """End the server."""
        self._server.stdin.close()
        self._server.wait(30)


def _refuse(*address: object, **_: object) -> None:
    print(f"a connection was tried: {address}", file=sys.stderr, flush=True)
    raise OSError("no network")


def _child(
    words: list[str], log: Path, *, largest: int | None, memory: int | None, offline: bool
) -> None:
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(out, number)
        if largest is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        if memory is not None:
            has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (has + memory, has + memory))
        if offline:
            socket.socket.connect = socket.socket.connect_ex = _refuse
            socket.getaddrinfo = socket.create_connection = _refuse
        from attnviz.cli import main

        code = main(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 71  # a raw one: the command line should have ended by itself
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def _serve() -> None:
    import cv2
    import timm  # noqa: F401
    import torch

    import attnviz

    for module in pkgutil.walk_packages(attnviz.__path__, "attnviz."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job = json.loads(line)
        began = time.monotonic()
        started = {}
        for i, words in enumerate(job["commands"]):
            log = Path(f"{job['log']}.{i}")
            pid = os.fork()
            if pid == 0:
                _child(words, log, **job["bounds"])
            started[pid] = (i, log)
        if job["after"] is not None:
            time.sleep(job["after"])
            if job["gone"]:
                os.unlink(job["gone"])
            for pid in () if job["gone"] else started:
                os.kill(pid, job["by"])  # not yet waited for, so it exists
        found = {}
        for pid, (i, log) in started.items():
            status = os.waitpid(pid, 0)[1]
            said = log.read_text(errors="replace") if log.exists() else ""
            code = os.waitstatus_to_exitcode(status)
            found[i] = {"code": code, "seconds": time.monotonic() - began, "said": said[-4000:]}
        answers.write(json.dumps([found[i] for i in sorted(found)]) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
