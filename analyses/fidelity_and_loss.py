"""A study of ours: does the fidelity of gradients predict training? It decides whether to choose temperatures by it.

Questions, none of which the paper asks:
    (r) the error of the gradient ranks all pairs of temperatures as the final loss does: a rank correlation of 0.5 or
        more;
    (s) so it does along tb, at each tf, which is what `gradlab recommend` chooses;
    (t) the tb of least error trains as well as the tb of least loss: within 1 nat, mean over tf.

Measured: the trainings of figure 3; along each of them, after epochs 1, 5, 20 and the last, bias and standard deviation
of its own estimates against the exact gradient, on its own weights, at its own temperatures. The error is the matched
error of the average of n estimates, over the norm of the exact gradient (n = 1, 100, and infinitely many: the matched
bias). Loss is the final validation loss without KL. Correlations are Spearman's, seed by seed, with Student's interval
over seeds; a failed training counts as one without a code. (t) takes the tb of least error by the mean over seeds; the
tb of least loss is chosen on the other seeds, so that it does not look better than it is. Both thresholds were set
before any result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from gradlab.fidelity.differences import Change
from gradlab.sweeps import collapsed

from . import figure3_vae_8x4 as figure3
from . import seeds, trainings
from .registry import analysis
from .run_options import RunOptions
from .trainings import TAKEN, Trainings
from .verdicts import Verdict, at_budget

DATA = figure3.DATA
BASE = figure3.BASE
EPOCHS = (1, 5, 20)  # and the last
AVERAGED = (1.0, 100.0, np.inf)  # estimates
RANKS, MARGIN = 0.5, 1.0  # rank correlation, nats
DRAWN = 1000  # sets of pairs, of the bootstrap
KEPT = ("exact_norm", "mean_norm", "std_norm", "cosine", "relative_bias_debiased", "relative_std", "matched_bias")


@dataclass(frozen=True)
class Budget:
    """Trainings, and on how many images and with how many draws fidelity is measured along them."""

    trainings: Trainings
    images: int = 100
    draws: int = 1024

    @property
    def epochs(self) -> tuple[int, ...]:
        return (*(epoch for epoch in EPOCHS if epoch < self.trainings.epochs), self.trainings.epochs)


BUDGETS = {name: Budget(of) for name, of in figure3.BUDGETS.items()}


@analysis("fidelity-and-loss", takes=(*TAKEN, "kl", "draws"))
class FidelityAndLoss:
    def cost(self, budget: str) -> str:
        b = BUDGETS[budget]
        return (
            f"{b.trainings.cost(BASE)}; fidelity on {b.images} images with {b.draws:,} draws after"
            f" {len(b.epochs)} epochs of each"
        )

    def measure(self, options: RunOptions, budget: str) -> xr.Dataset:
        """Losses, and fidelity along the trainings, as a Dataset that figure 3 can be judged from too."""
        b = BUDGETS[budget]
        track = {
            "track": ["bias"],
            "track_every": b.epochs,
            "track_images": b.images,
            "track_draws": options.draws or b.draws,
        }
        ds = trainings.measure(options, BASE, b.trainings, DATA, "fidelity-and-loss", track=track)
        other = [name for name, of in ds.data_vars.items() if "tracked_epoch" in of.dims and name not in KEPT]
        return with_relations(ds.drop_vars(other))

    def judge(self, ds: xr.Dataset) -> list[Verdict]:
        """Verdicts on (r), (s) and (t), for each number of estimates averaged and each epoch."""
        found = []
        gone = collapsed(ds).transpose("seed", "tf", "tb").to_numpy()
        for (n, e), error, loss in _points(ds):
            averaged, epoch = float(ds.averaged[n]), int(ds.tracked_epoch[e])
            which = {"estimates averaged": f"{averaged:g}", "epoch": str(epoch)}
            found += [
                _ranks("(r) the error ranks all pairs as the final loss does", which, over_all, error, loss, gone),
                _ranks(
                    "(s) the error ranks tb at a given tf as the final loss does", which, along_tb, error, loss, gone
                ),
                _choice(ds, which, error, loss),
            ]
        lacking = trainings.lacking(ds, figure3.BUDGETS["paper"], DATA)
        return at_budget(seeds.with_failures(sorted(found, key=lambda v: v.claim), ds), lacking)

    def draw(self, ds: xr.Dataset) -> Any:
        """Loss against error, the rank correlations along the trainings, and the tb that either chooses."""
        from gradlab import plots

        return plots.fidelity_and_loss(ds)


def with_relations(ds: xr.Dataset) -> xr.Dataset:
    """The Dataset with matched errors, their rank correlations with the loss, and the tb that either chooses."""
    ds = ds.assign_coords(averaged=("averaged", list(AVERAGED), {"long_name": "estimates averaged", "units": "1"}))
    words = {"long_name": "matched error of averaged estimates, over the exact gradient (norms)", "units": "1"}
    ds["matched_error"] = matched_error(ds).assign_attrs(words)
    dims = ("averaged", "tracked_epoch")
    found = {name: np.full((ds.sizes["averaged"], ds.sizes["tracked_epoch"], 3), np.nan) for name in CORRELATIONS}
    for at, error, loss in _points(ds):
        for name, (correlation, _) in CORRELATIONS.items():
            found[name][at] = over_seeds(correlation(error, loss))
    for name, (_, words_of) in CORRELATIONS.items():
        for i, end in enumerate(("", "_low", "_high")):
            about = {"long_name": f"rank correlation of error and final loss {words_of}", "units": "1"}
            ds[name + end] = (dims, found[name][..., i], about)
    least = ds.matched_error.mean("seed").fillna(np.inf).argmin("tb")
    ds["tb_of_least_error"] = ds.tb[least].drop_vars("tb").assign_attrs(long_name="tb of the least error", units="1")
    losses = ds[seeds.LOSS].fillna(ds.attrs["loss_without_code"]).mean("seed")
    ds["tb_of_least_loss"] = ds.tb[losses.argmin("tb")].drop_vars("tb")
    ds["tb_of_least_loss"].attrs = {"long_name": "tb of the least final loss", "units": "1"}
    return ds


def matched_error(ds: xr.Dataset) -> xr.DataArray:
    """Root of min over a of E|a average - g|^2 / |g|^2, of the average of n estimates: 1 - c^2/((M + V/n) |g|^2).

    c = <m, g>, M = |m|^2 - V/N, V the sum of the variances, N draws. 1, as of an average that says nothing of the
    gradient, where it is not resolved that there is a mean estimate or a gradient; NaN where nothing was measured.
    """
    variance = ds.std_norm**2
    second = ds.mean_norm**2 - variance / int(ds.attrs["bias_draws"]) + variance / ds.averaged
    along = ds.cosine * ds.mean_norm  # c/|g|
    square = 1 - along**2 / second.where(second > 0)
    unresolved = ds.mean_norm.notnull() & square.isnull()
    return np.sqrt(square.clip(0, 1)).where(~unresolved, 1.0)


def _points(ds: xr.Dataset) -> Any:
    """Position, error and final loss (seed, tf, tb), for each averaged and tracked epoch."""
    loss = ds[seeds.LOSS].fillna(ds.attrs["loss_without_code"]).transpose("seed", "tf", "tb").to_numpy()
    errors = ds.matched_error.transpose("averaged", "tracked_epoch", "seed", "tf", "tb").to_numpy()
    for at in np.ndindex(errors.shape[:2]):
        yield at, errors[at], loss


def over_all(error: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Rank correlation (seed,) over all pairs."""
    return spearman(error.reshape(len(error), -1), loss.reshape(len(loss), -1))


def along_tb(error: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Rank correlation (seed,) along tb, mean over the tf that have one."""
    each = spearman(error, loss)
    count = np.isfinite(each).sum(1)
    return np.where(count, np.nansum(each, 1) / np.maximum(count, 1), np.nan)


CORRELATIONS = {
    "rank_correlation": (over_all, "over all pairs"),
    "rank_correlation_along_tb": (along_tb, "along tb, mean over tf"),
}


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Along the last axis, of the entries that `a` has; 0 where either ranks all the same, NaN below three entries."""
    there = ~np.isnan(a)
    found = np.full(a.shape[:-1], np.nan)
    for count in np.unique(there.sum(-1)):
        if count >= 3:  # lines with as many entries are ranked together
            lines = there.sum(-1) == count
            some = [of[lines][there[lines]].reshape(-1, count) for of in (a, b)]
            found[lines] = _ranked(some[0], some[1])
    return found


def _ranked(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation along the last axis, 0 where either ranks all the same."""
    ranks = [stats.rankdata(of, axis=-1) for of in (a, b)]
    x, y = (of - of.mean(-1, keepdims=True) for of in ranks)
    norm = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    return np.where(norm > 0, (x * y).sum(-1) / np.where(norm > 0, norm, 1), 0.0)


def over_seeds(correlations: np.ndarray) -> Change:
    """Mean and Student's interval, within the range of a correlation."""
    value, low, high = seeds.paired(correlations)
    return Change(value, max(low, -1.0), min(high, 1.0))


def _ranks(
    claim: str, which: dict[str, str], correlation: Any, error: np.ndarray, loss: np.ndarray, gone: np.ndarray
) -> Verdict:
    whole = over_seeds(correlation(error, loss))
    verdict = "supported" if whole.low >= RANKS else "contradicted" if whole.high < RANKS else "undetermined"
    some = over_seeds(correlation(np.where(gone, np.nan, error), loss))
    notes = []
    if correlation is over_all:
        notes.append("95 % over pairs [{:.2f}, {:.2f}]".format(*_over_pairs(error, loss)))
    if gone.any():
        ends = f"[{some.low:.2f}, {some.high:.2f}]"
        notes.append(f"without the {gone.sum()} collapsed trainings {some.value:.2f} {ends}")
    return Verdict(claim, which, "matched_error", verdict, whole, unit="(Spearman)", note="; ".join(notes), paper="")


def _over_pairs(error: np.ndarray, loss: np.ndarray) -> tuple[float, float]:
    """95 % of the rank correlation, mean over seeds, over sets of pairs drawn from those measured at every seed."""
    a, b = (of.reshape(len(of), -1) for of in (error, loss))
    there = np.flatnonzero(~np.isnan(a).any(0))
    drawn = np.random.default_rng(0).choice(there, (DRAWN, len(there)))
    low, high = np.quantile(_ranked(a[:, drawn], b[:, drawn]).mean(0), [0.025, 0.975])
    return float(low), float(high)


def _choice(ds: xr.Dataset, which: dict[str, str], error: np.ndarray, loss: np.ndarray) -> Verdict:
    """The verdict on (t): what the tb of least error costs beside the tb of least loss."""
    by_error = np.where(np.isnan(error), np.inf, error).mean(0).argmin(-1)
    costs, random = [], []
    for seed in range(len(loss)):
        others = np.delete(loss, seed, 0).mean(0) if len(loss) > 1 else loss[0]
        by_loss = others.argmin(-1)
        own = loss[seed]
        rows = np.arange(len(own))
        costs.append((own[rows, by_error] - own[rows, by_loss]).mean())
        random.append((own.mean(-1) - own[rows, by_loss]).mean())
    whole = seeds.paired(np.array(costs)) if len(loss) > 1 else Change(float(costs[0]), -np.inf, np.inf)
    verdict = "supported" if whole.high <= MARGIN else "contradicted" if whole.low > MARGIN else "undetermined"
    best = loss.mean(0).argmin(-1)
    chosen = "; ".join(
        f"tf {tf:g}: tb {ds.tb.values[a]:g} for {ds.tb.values[b]:g}"
        for tf, a, b in zip(ds.tf.values, by_error, best, strict=True)
    )
    note = f"a tb at random costs {np.mean(random):.3g}; {chosen}"
    claim = "(t) the tb of least error trains as well as the tb of least loss"
    unit = str(ds.attrs["unit"])
    return Verdict(claim, which, "matched_error", verdict, whole, unit=unit, note=note, paper="")
