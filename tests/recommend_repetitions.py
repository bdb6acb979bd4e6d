"""How often `gradlab.recommend` keeps its word, against a full grid with 16 times the draws of its last round.

    python -m tests.recommend_repetitions MODEL REPETITIONS RECORDS [SECONDS]    adds to RECORDS, then counts

A repetition is a recommendation with a seed of its own, of the same model at the same examples. It keeps its word if

    regret    the true error of the choice is above the smallest true error by no more than its `margin`
    error     the true error of the choice lies in [error_low, error_high]

Both hold in at least 95 of 100. RECORDS, a file of JSON lines, holds the truth and each repetition, so that a run that
was stopped goes on.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

import gradlab
from gradlab.fidelity.reference import choose
from gradlab.networks import categorical_vae
from gradlab.numerics import plain_arithmetic
from gradlab.recommending.candidates import TEMPERATURES, candidates
from gradlab.recommending.choosing import recommend
from gradlab.recommending.errors_of_averages import root
from gradlab.recommending.measuring import Reference, exact_reference, measured
from gradlab.recommending.subjects import OfModel
from gradlab.setup import prepare

AVERAGED, MORE = 100, 16
# name: (forward temperature, images, draws of the last round)
SIZES = {"8x4": (1.6, 20, 256), "initialisation": (1.0, 20, 256), "autoencoder": (0.3, 8, 64)}
# intervals over draws alone, as of programs; those above hold the variance over examples too, and so are wider than the
# truth here, the error at the same examples, asks for
SIZES["few"] = (1.6, 7, 256)


def problem(name: str) -> tuple[Any, torch.Tensor]:
    """A model and its observations."""
    if name == "initialisation":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = categorical_vae(latents=4, categories=8)
    else:
        model = gradlab.bundled("binary-ae-mnist" if name == "autoencoder" else "vae-8x4-mnist")
    return model, gradlab.datasets.load("mnist-sample").first(SIZES[name][1]).floats()


def truth(name: str) -> dict[str, float]:
    """The error of every candidate, from MORE times the draws."""
    tf, _, draws = SIZES[name]
    model, x = problem(name)
    with plain_arithmetic():
        setup = prepare(model, x, seed=10**6)
        every, _ = candidates(OfModel(setup), [tf], TEMPERATURES, None, AVERAGED)
        if name == "autoencoder":
            reference = Reference(tf, "sampled", None, choose(setup, [tf])[0])
        else:
            reference = exact_reference(setup, tf, "sampled")
        observed = measured(setup, [c.estimator for c in every], reference, MORE * draws, "truth", lambda *a, **k: None)
    return {c.label: float(root(o.squared_error(AVERAGED))) for c, o in zip(every, observed, strict=True)}


def repetition(name: str, seed: int, true: dict[str, float]) -> dict[str, Any]:
    tf, _, draws = SIZES[name]
    model, x = problem(name)
    found = recommend(model, x, tf, averaged=AVERAGED, budget=3600.0, seed=seed, draws=draws)
    chosen = found.table.attrs["chosen"]
    return {
        "seed": seed,
        "chosen": chosen,
        "error": [found.error, found.error_low, found.error_high],
        "margin": found.margin,
        "true": true[chosen],
        "regret": true[chosen] - min(true.values()),
    }


def counts(records: list[dict[str, Any]]) -> dict[str, int]:
    """How many keep their word; `width`: regrets no larger than the width of the error's interval."""
    return {
        "repetitions": len(records),
        "regret": sum(r["regret"] <= r["margin"] + 1e-12 for r in records),
        "width": sum(r["regret"] <= r["error"][2] - r["error"][1] for r in records),
        "error": sum(r["error"][1] <= r["true"] <= r["error"][2] for r in records),
        "best chosen": sum(r["regret"] <= 1e-12 for r in records),
    }


def run(name: str, repetitions: int, path: Path, seconds: float = float("inf")) -> list[dict[str, Any]]:
    """The records of `path`, with those that are missing added while there is time."""
    began = time.monotonic()
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    with path.open("a") as into:
        if not lines:
            lines = [truth(name)]
            print(json.dumps(lines[0]), file=into, flush=True)
        for seed in range(len(lines) - 1, repetitions):
            if time.monotonic() - began > seconds:
                break
            lines.append(repetition(name, seed, lines[0]))
            print(json.dumps(lines[-1]), file=into, flush=True)
    return lines[1:]


if __name__ == "__main__":
    name, repetitions, path, *seconds = sys.argv[1:]
    print(name, counts(run(name, int(repetitions), Path(path), *map(float, seconds))))
