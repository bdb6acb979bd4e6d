"""What commands print: tables for people, one JSON object with --json."""

from __future__ import annotations

import json
from typing import Any

import click


def report_training(model: Any, out: str, as_json: bool) -> None:
    about = model.provenance
    last = {name: values[-1] for name, values in about["history"].items()}
    if as_json:
        click.echo(json.dumps({"checkpoint": str(out), "epochs": len(about["history"]["train_loss"]), **last,
                               "seconds": about["seconds"]}))
        return
    click.echo(f"validation loss {last['validation_loss']:.3f} + KL {last['validation_kl']:.3f} nats per image"
               f" (training {last['train_loss']:.3f} + {last['train_kl']:.3f}), {about['seconds']:.0f} s")
    click.echo(f"wrote {out}")
