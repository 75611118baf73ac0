"""The command line: `attnviz COMMAND ...`, one file a command.

To add the command `attnviz two-words`, add `attnviz/cli/two_words.py` with a function
`two_words`; its typed parameters are the options and its docstring is the help. The module must
import without torch (import it inside the function), so that `attnviz --help` stays quick.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 ok, 1 failure, 2 usage, 3 gate failed.

    Args:
        args: the command and its arguments; None takes them from the command line.
    """
    from ._app import run

    return run(args)
