"""gradlab estimators: the catalogue."""

from __future__ import annotations

import click

from .options import json_option


@click.command()
@json_option
def estimators(as_json):
    """List the gradient estimators.

    \b
    Example:
      gradlab estimators --json
    """
    from gradlab.estimators import describe

    from . import output

    output.catalogue(describe(), as_json)
