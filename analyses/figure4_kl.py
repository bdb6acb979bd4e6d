"""Figure 4 again: with which KL term were the published 16x12 models trained? The paper does not say.

Question (q): the published heatmap is that of models trained without KL, with KL(softmax(l) || uniform), or with
KL(softmax(l/tf) || uniform). With tf other than 1 only the last one is that of the distribution that codes are sampled
from.

Measured: the trainings of figure 4 with each of the three. The published values that are known are in published.py,
without their temperatures; two rows of nine are whole. The misfit of a KL term is the root mean square difference, in
nats, between these rows and rows of ours, under the assignment that makes it least: any row or column of our grid, in
either direction, our temperatures at any of the nine columns, in order, with 0.3 and 3 at the ends. So a large misfit
cannot be cured by another reading of the labels; it holds if our temperatures are among the published ones, as those
that the paper names are. Judged: the misfit of a KL term against the least of the others, with an interval over seeds
(bootstrap). And claims (f) to (h) of figure 4 under each KL term.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import xarray as xr

from gradlab.choices import KL_TERMS
from gradlab.fidelity.differences import Change

from . import figure3_vae_8x4 as figure3
from . import figure4_vae_16x12 as figure4
from . import seeds, trainings
from .published import FIGURE4, WHOLE_ROWS
from .registry import analysis
from .run_options import RunOptions
from .trainings import TAKEN, OfTrainings
from .verdicts import Verdict, at_budget

DATA, BASE = figure4.DATA, figure4.BASE
BUDGETS = figure4.BUDGETS
RESAMPLED = 1000
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
TERMS = {"none": "without KL", "model": "with KL(softmax(l))", "sampled": "with KL(softmax(l/tf))"}


@analysis("figure4-kl", takes=TAKEN)
class Figure4ByKL(OfTrainings):
    base, data, budgets = BASE, DATA, BUDGETS

    def cost(self, budget: str) -> str:
        return f"each KL term: {super().cost(budget)}"

    def measure(self, options: RunOptions, budget: str) -> xr.Dataset:
        """The trainings of figure 4, along a dim `kl`; they share their cells with it."""
        ds = trainings.measure(options, BASE, BUDGETS[budget], DATA, self.name, kls=KL_TERMS, cells="figure4")
        words = {"long_name": "published validation losses, of pairs that are not known", "units": ds.attrs["unit"]}
        return ds.assign(published=("published_cell", np.array(FIGURE4), words))

    def judge(self, ds: xr.Dataset) -> list[Verdict]:
        """Verdicts on (q) and, under each KL term, on (f) to (h)."""
        lacking = trainings.lacking(ds.sel(kl=KL_TERMS[0]), BUDGETS["paper"], DATA)
        found = at_budget(_published(ds), lacking)
        for kl in ds.kl.values:
            found += figure3.verdicts(ds.sel(kl=kl), BUDGETS["paper"], names=(seeds.LOSS,))
        return sorted(found, key=lambda v: v.claim)

    def draw(self, ds: xr.Dataset) -> Any:
        """A heatmap for each KL term, and all cells by size beside the published ones."""
        from gradlab import plots, sweeps

        return plots.losses_by_kl(sweeps.with_means(ds))


def _published(ds: xr.Dataset) -> list[Verdict]:
    """Verdicts on (q)."""
    rng = np.random.default_rng(0)
    value, resampled = {}, {}
    for kl in map(str, ds.kl.values):
        losses = ds[seeds.LOSS].sel(kl=kl).transpose("seed", "tf", "tb").to_numpy()
        value[kl] = misfit(_mean(losses))
        chosen = rng.integers(len(losses), size=(RESAMPLED, len(losses)))
        resampled[kl] = np.array([misfit(_mean(losses[some])) for some in chosen])
    found = []
    for kl in value:
        others = [name for name in value if name != kl]
        whole = _interval(
            value[kl] - min(value[name] for name in others),
            resampled[kl] - np.min([resampled[name] for name in others], 0),
        )
        verdict = {-1: "supported", 0: "undetermined", 1: "contradicted"}[whole.sign]
        claim, unit = f"(q) the published heatmap is of trainings {TERMS[kl]}", str(ds.attrs["unit"])
        note = f"misfit {value[kl]:.3g} {unit}; {_cells(ds[seeds.LOSS].sel(kl=kl).mean('seed').to_numpy())}"
        found.append(Verdict(claim, {"KL": kl}, "misfit", verdict, whole, unit=unit, note=note))
    return found


def _interval(value: float, noisy: np.ndarray) -> Change:
    """95 % of what resampled seeds give; none from one seed, or where pairs are left without a loss."""
    if len(np.unique(noisy)) == 1 or not np.isfinite(noisy).all():
        return Change(value, -np.inf, np.inf)
    low, high = np.quantile(noisy, [0.025, 0.975]).tolist()
    return Change(value, min(value, low), max(value, high))


def _cells(means: np.ndarray) -> str:
    """Range and quantiles of our cells and of the published ones."""
    ours, theirs = (np.nanquantile(of, LEVELS) for of in (means, FIGURE4))
    at = ", ".join(f"{level:.0%}" for level in LEVELS)
    return f"cells at {at}: {', '.join(f'{a:.1f} (published {b:.1f})' for a, b in zip(ours, theirs, strict=True))}"


def _mean(losses: np.ndarray) -> np.ndarray:
    """Over seeds, the first axis, that are done; inf where none is."""
    done = np.isfinite(losses)
    count = done.sum(0)
    return np.where(count, np.where(done, losses, 0.0).sum(0) / np.maximum(count, 1), np.inf)


def misfit(means: np.ndarray) -> float:
    """Root mean square difference of the published whole rows from rows of `means` (tf, tb), at its least."""
    squares = [min(_squares(np.array(row), lines).min() for lines in (means, means.T)) for row in WHOLE_ROWS]
    return float(np.sqrt(np.mean(squares)))


def _squares(published: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """Mean square differences (assignment, line) of a published row from lines of ours."""
    columns = _columns(len(published), lines.shape[1])
    assigned = np.concatenate([published[columns], published[::-1][columns]])
    return np.square(assigned[:, None] - lines).mean(-1)


@functools.cache
def _columns(published: int, count: int) -> np.ndarray:
    """(assignment, column) of a published row: the first, the last and, in order, some between them."""
    last = published - 1
    return np.array([(0, *inner, last) for inner in itertools.combinations(range(1, last), count - 2)])
