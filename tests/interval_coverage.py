"""How often 95 % intervals hold the truth, for every figure that has one, on every route.

    python -m tests.interval_coverage [ROUTE]... [--seeds 200] > table.md

Truth: for figures without sampling noise the estimator's own value, by enumeration of codes and integrals over noise
(`moments="exact"`), for the gap from 2^16 draws. For figures that
include sampling noise the mean of the figure over all seeds: what their intervals are of. Where sampling cannot see
(`unseen`), no interval from draws is one, and the result says so.
"""

from __future__ import annotations

import argparse
import functools
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

import gradlab

ROUTES = ("enumerated", "reference", "encoder", "gap")
PROBLEMS = ("ordinary", "one example", "binary", "near-deterministic", "all but certain")
DRAWS = (64, 256)
ESTIMATORS = ("decoupled-st-gs", "ste", "reinmax", "rloo")
MANY = 2**16  # draws, for the truth where it is not enumerated
SEED = 1000  # of the first repetition; the truth has seed 0


@functools.cache
def problem(name: str) -> tuple[gradlab.LatentModel, torch.Tensor]:
    """3 latents of 4 categories, or 5 units; 4 examples, or one. Logits of some 1, 15 or 60 temperatures."""
    latents, categories = (5, 2) if name == "binary" else (3, 4)
    width = latents if name == "binary" else latents * categories
    spread = {"near-deterministic": 14.0, "all but certain": 60.0}.get(name, 1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, width))
        decoder = nn.Sequential(
            nn.Flatten(), nn.Linear(width, 12), nn.Tanh(), nn.Linear(12, 16), nn.Unflatten(1, (1, 4, 4))
        )
        x = torch.rand(1 if name == "one example" else 4, 1, 4, 4, dtype=torch.float64)
    model = gradlab.LatentModel(
        encoder, decoder, latents=latents, categories=categories, likelihood="bernoulli", binary=name == "binary"
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.5)
        for last in encoder[-1].parameters():
            last.mul_(spread)
    return model, x


def measure(route: str, name: str, draws: int, seed: int) -> xr.Dataset:
    model, x = problem(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if route == "gap":
            return gradlab.gap(model, x, 1.0, 1.5, draws=draws, seed=seed)
        given: dict[str, Any] = {"estimator": list(ESTIMATORS), "draws": draws, "seed": seed}
        given |= {"reference": {"reference": "rloo:n=4"}, "encoder": {"wrt": "encoder"}}.get(route, {})
        return gradlab.bias(model, x, 1.0, 1.5, **given)


@functools.cache
def truth(route: str, name: str) -> xr.Dataset:
    if route == "gap":
        return measure(route, name, MANY, 0)
    model, x = problem(name)
    wrt = "encoder" if route == "encoder" else "logits"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return gradlab.bias(model, x, 1.0, 1.5, estimator=list(ESTIMATORS), moments="exact", wrt=wrt)


def figures(ds: xr.Dataset) -> list[str]:
    return [str(name) for name in ds.data_vars if f"{name}_low" in ds]


def includes_noise(ds: xr.Dataset, name: str) -> bool:
    return "sampling noise included" in ds[name].attrs["long_name"]


def coverage(route: str, name: str, draws: int, seeds: int) -> Iterator[tuple[str, str, float, bool, bool]]:
    """Estimator or definition, figure, share of intervals that hold the truth, whether noise is included, unseen."""
    found = [measure(route, name, draws, SEED + seed) for seed in range(seeds)]
    own = truth(route, name)
    dim = "definition" if route == "gap" else "estimator"
    for which in found[0][dim].values:
        here = [ds.sel({dim: which}) for ds in found]
        unseen = bool((here[0]["unseen"] == 1).any())
        for figure in figures(here[0]):
            values, low, high = (
                np.stack([np.asarray(ds[figure + end], float) for ds in here]) for end in ("", "_low", "_high")
            )
            noisy = includes_noise(here[0], figure)
            wanted = values.mean(0) if noisy else np.asarray(own[figure].sel({dim: which}), float)
            near = 1e-9 * np.abs(wanted)
            # NaN: nothing is said of what cannot be known
            held = ~(low > wanted + near) & ~(high < wanted - near)
            known = ~np.isnan(np.broadcast_to(wanted, held.shape))
            if known.any():  # nothing is relative to a gradient of 0
                yield str(which), figure, float(held[known].mean()), noisy, unseen


def table(routes: list[str], seeds: int) -> Iterator[str]:
    """Lines of Markdown: least and greatest coverage over estimators, a line per figure."""
    for route in routes:
        columns = [(name, draws) for name in PROBLEMS for draws in DRAWS]
        cells: dict[str, dict[tuple[str, int], str]] = {}
        for name, draws in columns:
            rates: dict[str, list[float]] = {}
            blind: dict[str, list[float]] = {}
            noise: dict[str, bool] = {}
            for _, figure, rate, noisy, unseen in coverage(route, name, draws, seeds):
                (blind if unseen else rates).setdefault(figure, []).append(rate)
                noise[figure] = noisy
            for figure, noisy in noise.items():
                label = f"{figure} (noise included)" if noisy else figure
                seen = _range(rates[figure]) if figure in rates else ""
                said = f"said: {_range(blind[figure])}" if figure in blind else ""
                cells.setdefault(label, {})[name, draws] = "; ".join(filter(None, (seen, said)))
        yield f"\n{route}\n"
        yield "| figure | " + " | ".join(f"{name}, {draws}" for name, draws in columns) + " |"
        yield "|---" * (1 + len(columns)) + "|"
        for figure in sorted(cells, key=lambda label: "noise" in label):
            yield f"| {figure} | " + " | ".join(cells[figure].get(column, "") for column in columns) + " |"


def _range(rates: list[float]) -> str:
    least, most = round(100 * min(rates)), round(100 * max(rates))
    return f"{least}" if least == most else f"{least}-{most}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("routes", nargs="*", default=list(ROUTES))
    parser.add_argument("--seeds", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for line in table(given.routes, given.seeds):
        print(line, flush=True)
