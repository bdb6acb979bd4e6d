"""The `gradlab` group: commands, exit codes, one-line errors."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

import click

from gradlab import __version__, errors, files, interrupts, progress

from .bias import bias
from .check_layer import check_layer
from .data import data
from .estimators import check_estimator, estimators
from .gap import gap
from .output import say, warnings_as_lines
from .recommend import recommend
from .report_page import report
from .reproduce import reproduce
from .results import plot, show
from .sweep import sweep
from .train import train
from .wording import speak_of_options

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
EXPECTED = (ValueError, OSError, FloatingPointError, MemoryError)  # errors with messages for users
RENAMED = {"--route": "--decoder", "--every": "--track-every"}
NO_COMMAND: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())  # since click 8.2


class _Commands(click.Group):
    def invoke(self, ctx):
        """Ends on Ctrl-C here: click would put an empty line on standard error first."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            _end(str(interrupt) or "interrupted", 130)
        except EOFError as error:  # which click takes for Ctrl-D at a prompt
            raise OSError(f"a file that is read ends too early ({error})") from error


@click.group(context_settings=CONTEXT, cls=_Commands)
@click.version_option(__version__, prog_name="gradlab")
def cli() -> None:
    """Measure how faithful the gradients of discrete-latent models are.

    \b
    Measure the bias and variance of gradient estimators against the exact gradient:
      gradlab bias --tf 1.6 --tb 1.3
    """


COMMANDS = (
    bias,
    gap,
    recommend,
    train,
    sweep,
    plot,
    show,
    report,
    estimators,
    check_estimator,
    check_layer,
    data,
    reproduce,
)
for command in COMMANDS:
    cli.add_command(command)


def _accept_debug(command: click.Command) -> None:
    """Adds --debug to a command and all below it; `main` looks for it among the arguments."""
    debug = click.Option(["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error.")
    command.params.append(debug)
    for below in getattr(command, "commands", {}).values():
        _accept_debug(below)


_accept_debug(cli)
speak_of_options(cli)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _prepare()
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    try:
        with warnings_as_lines(), _signals_of_schedulers(), interrupts.none_lost(), progress.running(command):
            cli.main(arguments, prog_name="gradlab", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _end("interrupted", 130)
    except NO_COMMAND as error:
        say(error.ctx.get_help(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        message = error.format_message()
        if isinstance(error, click.NoSuchOption) and error.option_name in RENAMED:
            message = f"{error.option_name}: is now called {RENAMED[error.option_name]}"
        where = f" (see {error.ctx.command_path} --help)" if isinstance(error, click.UsageError) and error.ctx else ""
        _end(message + where, error.exit_code)
    except Exception as error:
        if "--debug" in arguments:
            raise
        if errors.out_of_memory(error):
            _end(f"out of memory: {str(error).splitlines()[0] if str(error) else 'no more is free'}", 1)
        if isinstance(error, OSError) and error.filename is None and error.errno in files.FULL:
            _end(f"standard output: {error.strerror}", 1)  # errors of files have their name
        unforeseen = "" if isinstance(error, EXPECTED) else f"unforeseen {type(error).__name__} (--debug shows where): "
        _end(f"{unforeseen}{error}" if str(error) else type(error).__name__, 1)


def _prepare() -> None:
    """Prepares the process for output with any terminal, locale and settings of matplotlib."""
    for number in range(3):  # where one is closed, the next file that is opened would take its place
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  (as long as the process)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal of ASCII, a name that is no text
    sys.excepthook = _traceback
    os.environ["MPLBACKEND"] = "agg"  # figures go into files; another one may not be installed
    os.environ["MATPLOTLIBRC"] = os.devnull  # text.usetex, say, needs programs that may not be there


@contextlib.contextmanager
def _signals_of_schedulers() -> Iterator[None]:
    """SIGTERM and SIGUSR1, by which schedulers announce the end of a job, do what Ctrl-C does: work is saved."""

    def as_interrupt(number: int, frame: FrameType | None) -> None:
        of_interrupt = signal.getsignal(signal.SIGINT)
        (of_interrupt if callable(of_interrupt) else signal.default_int_handler)(signal.SIGINT, frame)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    before = {number: signal.signal(number, as_interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _traceback(*error: Any) -> None:
    """Prints the traceback of --debug, without control characters."""
    say("".join(traceback.format_exception(*error)), err=True)


def _end(message: str, code: int) -> NoReturn:
    """Exits with one line on standard error."""
    one_line = "; ".join(line.strip() for line in message.splitlines() if line.strip())
    say(f"gradlab: {one_line}", err=True)
    sys.exit(code)
