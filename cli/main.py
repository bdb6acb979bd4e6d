"""The `gradlab` group: commands, exit codes, one-line errors."""

from __future__ import annotations

import sys

import click

from gradlab import __version__

from .bias import bias
from .data import data
from .estimators import estimators
from .reproduce import reproduce
from .results import plot, show
from .train import train

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="gradlab")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """How faithful are the gradients of discrete-latent models?

    \b
    Measure the bias and variance of gradient estimators against the exact gradient:
      gradlab bias --tf 1.6 --tb 1.3
    """


for command in (bias, train, plot, show, estimators, data, reproduce):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        cli.main(arguments, prog_name="gradlab", standalone_mode=False)
    except click.exceptions.Abort as abort:
        _end("interrupted", 130, abort.__cause__)
    except KeyboardInterrupt as interrupt:
        _end(str(interrupt) or "interrupted", 130)
    except click.ClickException as error:
        where = f" (see {error.ctx.command_path} --help)" if isinstance(error, click.UsageError) and error.ctx else ""
        _end(error.format_message() + where, error.exit_code)
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        if "--debug" in arguments:
            raise
        _end(str(error) or type(error).__name__, 1)


def _end(message: str, code: int, cause: BaseException | None = None) -> None:
    if cause is not None and str(cause):
        message = str(cause)
    click.echo(f"gradlab: {message}", err=True)
    sys.exit(code)
