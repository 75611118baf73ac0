"""Finds the commands, runs one, and turns whatever goes wrong into one line and an exit code."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..errors import AttnvizError, AttnvizWarning, FlatMapWarning, did_you_mean
from ..processes import current, launched, together
from ..writing import printable
from ._interrupts import asked_to_stop, listening

OK, FAILURE, USAGE, GATE_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
ANEW = "interrupted: what was written is whole; the same command starts anew"

# Typer brings click along as a dependency or inside itself, depending on its version; this base
# of its usage errors is found without naming either.
_ClickException: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


class LazyGroup(TyperGroup):
    """A group whose commands are the modules beside this one, imported when asked for."""

    def list_commands(self, ctx: typer.Context) -> list[str]:
        """Return the command names: the modules of this package without a leading underscore."""
        package = importlib.import_module(__package__ or "attnviz.cli")
        names = (m.name for m in pkgutil.iter_modules(package.__path__))
        return sorted(n.replace("_", "-") for n in names if not n.startswith("_"))

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:
        """Return the command of a name, or None if there is none."""
        if cmd_name not in self.list_commands(ctx):
            return None
        name = cmd_name.replace("-", "_")
        module = importlib.import_module(f"{__package__}.{name}")
        app = typer.Typer(add_completion=False, rich_markup_mode="rich")
        app.command(cmd_name)(getattr(module, name))
        command = typer.main.get_command(app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:
        """Return name, command and remaining arguments; an unknown name says the nearest ones."""
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            known = self.list_commands(ctx)
            ctx.fail(
                f"command {args[0]!r} is not known{did_you_mean(args[0], known) or '.'} "
                f"Known: {', '.join(known)}"
            )
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: typer.Context) -> Any:
        """Run the command; Ctrl-C is said here, since typer may leave without a word."""
        try:
            return super().invoke(ctx)
        except BaseException as stop:
            if not asked_to_stop(stop):
                raise
            say(ANEW)
            raise typer.Exit(INTERRUPTED) from stop


_app = typer.Typer(
    cls=LazyGroup, name="attnviz", no_args_is_help=True, rich_markup_mode="rich",
)  # fmt: skip


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"attnviz {__version__}")
        raise typer.Exit(OK)


@_app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback on errors (also ATTNVIZ_DEBUG=1).")
    ] = False,
) -> None:
    """See what a vision or text model looks at.

    Start with [bold]attnviz demo[/bold], then [bold]attnviz explain PHOTO[/bold].
    Tab completes commands and options after [bold]attnviz --install-completion[/bold].
    """


def run(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; errors are printed to stderr."""
    words = list(sys.argv[1:] if args is None else args)
    debug = os.environ.get("ATTNVIZ_DEBUG", "") not in ("", "0")
    if "--debug" in words:  # taken anywhere, since it is appended to the line that failed
        words.remove("--debug")
        debug = True
    with warnings.catch_warnings(), _own_bars_alone(), listening():
        _show_warnings_in_one_line(debug)
        try:
            code = _dispatch(words, debug) if launched() == 1 else _shared(words, debug)
            sys.stdout.flush()
        except BrokenPipeError:
            code = _stdout_closed()
    return code


@contextmanager
def _own_bars_alone() -> Iterator[None]:
    """Let Hugging Face's libraries, once they are imported, draw no progress bars of their own."""
    name = "HF_HUB_DISABLE_PROGRESS_BARS"
    before = os.environ.get(name)
    os.environ.setdefault(name, "1")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)


#: what several processes share: each makes a part of the maps, the first writes the result
SHARED = ("explain", "benchmark", "audit")


def _shared(words: list[str], debug: bool) -> int:
    """Run a command as one of the processes that `torchrun` or `accelerate launch` started."""
    name = next((w for w in words if not w.startswith("-")), "")
    if name not in SHARED:
        say(
            f"error: `attnviz {name}` runs in one process, and {launched()} were launched; start "
            f"it without torchrun or accelerate launch. Shared are {', '.join(SHARED)}"
        )
        return USAGE
    with together() as group, open(os.devnull, "w") as nowhere, ExitStack() as stack:
        if not group.first:
            stack.enter_context(redirect_stdout(nowhere))
        return _dispatch(words, debug)


def _dispatch(words: list[str], debug: bool) -> int:
    try:
        result = typer.main.get_command(_app).main(
            args=words, prog_name="attnviz", standalone_mode=False
        )
        return result if isinstance(result, int) else OK
    except _ClickException as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        say(ANEW)
        return INTERRUPTED
    except SystemExit as stop:  # typer leaves this way when stdout was closed under it
        return _stdout_closed() if stop.code == 1 else int(stop.code or 0)
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk, a folder that cannot be written: nothing unexpected
        if debug:
            traceback.print_exc()
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)!r}: "
        say(f"error: {where}{error.strerror or one_line(error)}")
        return FAILURE
    except AttnvizError as error:
        if debug:
            traceback.print_exc()
        say(f"error: {one_line(error)}")
        return FAILURE
    except Exception as error:
        if debug:
            traceback.print_exc()
        text = one_line(error)
        say(f"error: unexpected {type(error).__name__}{': ' + text if text else ''}")
        if not debug:
            say("add --debug (or set ATTNVIZ_DEBUG=1) to see the traceback")
        return FAILURE


def say(line: str) -> None:
    """Print one line to stderr; of several processes the first does, and each its own errors."""
    if current().first or line.startswith("error: "):
        print(printable(line), file=sys.stderr, flush=True)


def tell(line: str) -> None:
    """Print a line of results to stdout; what a name holds moves nothing in the terminal."""
    print(printable(line))


#: Python's arguments that a message names: `target= (--target)`, `labels=[...]`, `train='al'`;
#: what a name of a file looks like is left alone
_ARGUMENT = re.compile(
    r"(?<![\w./'\"-])([a-z]\w*)=(\.\.\.|\[\.\.\.\]|'[^']*'|\w*)"
    r"(?: \((--[a-z-]+)\)|, (--[a-z-]+)(?=\)))?"
)
_OPTION = {"output": "--logits"} | {
    name: "--" + name
    for name in (
        "checkpoint", "context", "crop", "device", "force", "head", "labels", "layer", "masks",
        "method", "monitor", "object", "preprocess", "resize", "resume", "target", "train",
    )
}  # fmt: skip


def one_line(error: BaseException) -> str:
    """Return an error in one line, in the words of the command line."""
    text = getattr(error, "command", None) or _ARGUMENT.sub(_as_option, str(error))
    return " ".join(text.split())


def _as_option(found: re.Match[str]) -> str:
    name, value, *option = found.groups()
    if any(option):
        return option[0] or option[1]
    if name not in _OPTION:
        return found[0]
    said = "" if value in ("...", "[...]", "True") else value
    return f"{_OPTION[name]} {said}".rstrip()


def _usage(error: Any) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return USAGE
    say(f"error: {_one_line_text(error.format_message())}")
    if context is not None:
        say(f"try '{context.command_path} --help'")
    return USAGE


def _one_line_text(text: str) -> str:
    return " ".join(text.split())


def _stdout_closed() -> int:
    """Let the rest of the output go nowhere: the reader (`| head`) has left."""
    sink = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(sink, stream.fileno())
    return FAILURE


def _show_warnings_in_one_line(debug: bool) -> None:
    """Attnviz's own warnings become `warning: ...` lines; other packages' only with --debug."""
    if debug:
        return

    def show(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
        say(f"warning: {one_line(message)}")

    warnings.simplefilter("ignore")
    warnings.simplefilter("default", AttnvizWarning)
    warnings.simplefilter("ignore", FlatMapWarning)  # each photo's own line says it
    warnings.showwarning = show
