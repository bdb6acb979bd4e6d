"""Gap and bias: a smaller gradient gap means a smaller bias, so the gap can replace a bias that cannot be enumerated.

The paper cannot measure the bias of its binary autoencoder and compares temperatures by their gradient gap. With an
unbiased reference both can be measured. Claims, over a grid of tf and tb:
    (n) the gap ranks temperatures as the bias does: a rank correlation of at least 0.5;
    (o) at each tf, the tb with the smallest gap has the smallest bias, within 5 % of the exact gradient's norm.

Measured: `gradlab.gap` and `gradlab.bias` on the same images, for an 8x4 VAE with exact moments and for a binary
autoencoder against an unbiased reference. (n) is Spearman's rank correlation over the points of the grid. (o) is what
the choice by the gap adds to the relative bias, averaged over tf. Intervals are from 2,000 grids of a normal
distribution with the jackknife covariance of all points. Noise biases both statistics: it lowers a rank correlation,
and no choice is better than the best. The grids show this bias once more, so an interval holds the middle 95 % of the
grids and their reflection at the value, from which the bias is subtracted. It contains the sampling noise for this
model and images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

import gradlab
from gradlab.fidelity.differences import Change
from gradlab.methods import MAX_CONFIGURATIONS

from .registry import analysis
from .run_options import RunOptions
from .verdicts import Verdict

MODELS = {"8x4 VAE": "vae-8x4-mnist", "binary autoencoder": "binary-ae-mnist"}
GAPS = {"gap": "raw", "relative_gap_pooled": "relative"}
BIAS = "relative_bias_debiased"
RANKS = 0.5  # the minimal rank correlation at which the gap can replace the bias
MARGIN = 0.05  # of relative bias
DRAWN = 2000


@dataclass(frozen=True)
class Budget:
    images: int
    draws: int  # of the bias by reference
    gap_draws: int
    tf: tuple[float, ...]
    tb: tuple[float, ...]


BUDGETS = {
    "quick": Budget(16, 256, 32, (0.3, 1.0, 1.6, 3.0), (0.3, 0.6, 1.0, 1.6, 3.0, 6.0)),
    "standard": Budget(64, 512, 64, (0.3, 0.6, 1.0, 1.6, 2.2, 3.0), (0.3, 0.6, 1.0, 1.6, 2.2, 3.0, 4.5, 6.0)),
    "paper": Budget(1000, 1024, 64, (0.3, 0.6, 1.0, 1.6, 2.2, 3.0), (0.3, 0.6, 1.0, 1.6, 2.2, 3.0, 4.5, 6.0)),
}


@analysis("gap-and-bias", takes=("data", "data_dir", "images", "draws", "device"))
class GapAndBias:
    def cost(self, budget: str) -> str:
        b = BUDGETS[budget]
        return (
            f"{len(b.tf) * len(b.tb)} points on {b.images:,} images: {b.draws} draws of bias by reference,"
            f" {b.gap_draws} of the gap, of two trained models"
        )

    def measure(self, options: RunOptions, budget: str) -> xr.Dataset:
        """Bias and gap of both models over the grid, along a dim `model`."""
        from gradlab import checkpoints, datasets, results

        b = BUDGETS[budget]
        test = datasets.load(options.data or "mnist-sample", "test", options.data_dir)
        observed = test.first(options.images or b.images)
        found: list[xr.Dataset] = []
        about: dict[str, Any] = {}
        for name, bundled in MODELS.items():
            model, described = checkpoints.load_described(None, bundled)
            model, x = model.to(options.device), observed.floats()
            exact = model.configurations <= MAX_CONFIGURATIONS
            how: dict[str, Any] = {"moments": "exact"} if exact else {"draws": options.draws or b.draws}
            compute = gradlab.Compute(progress=options.progress)
            bias = gradlab.bias(model, x, b.tf, b.tb, **how, compute=compute)
            gap = gradlab.gap(model, x, b.tf, b.tb, draws=b.gap_draws, seed=1, compute=compute)
            found.append(_joined(bias, gap))
            reference = "exact moments" if exact else f"{bias.attrs['reference']}, {bias.attrs['draws']} draws"
            about |= {f"reference of the {name}": reference, f"checkpoint of the {name}": described["checkpoint"]}
        ds = xr.concat(found, xr.Variable("model", list(MODELS), {"long_name": "model", "units": "1"}))
        stamp = results.stamp(
            analysis="gap-and-bias",
            estimator=bias.attrs["estimator"],
            target=bias.attrs["target"],
            examples=len(x),
            draws_of_gap=b.gap_draws,
            intervals=bias.attrs["intervals"],
        )
        return ds.assign_attrs(stamp | observed.described() | about)

    def judge(self, ds: xr.Dataset) -> list[Verdict]:
        found = []
        for model in ds.model.values:
            for definition in ds.definition.values:
                for name in GAPS:
                    one = ds.sel(model=model, definition=definition)
                    which = {"model": str(model), "definition": str(definition)}
                    found += [_correlation(one, name, which), _choice(one, name, which)]
        return sorted(found, key=lambda v: v.claim)

    def draw(self, ds: xr.Dataset) -> Any:
        from gradlab import plots

        return plots.gap_and_bias(ds)


def _joined(bias: xr.Dataset, gap: xr.Dataset) -> xr.Dataset:
    """The metrics with their intervals and replicates. Bias without replicates has no sampling noise."""
    names = [name + end for name in (BIAS, "matched_bias_debiased") for end in ("", "_low", "_high")]
    kept = bias[names]
    gaps = gap[[name + end for name in GAPS for end in ("", "_low", "_high")]]
    for name in GAPS:
        gaps[f"{name}_replicates"] = gap.replicates.sel(metric=name, drop=True)
    if "replicates" in bias:
        kept[f"{BIAS}_replicates"] = bias.replicates.sel(metric=BIAS, drop=True)
    else:
        kept[f"{BIAS}_replicates"] = bias[BIAS].expand_dims(batch=gap.batch).copy()
    joined = xr.merge([kept, gaps], combine_attrs="override", join="exact", compat="no_conflicts")
    joined.attrs = {}
    for name in ("gap", "gap_low", "gap_high"):
        joined[name].attrs["units"] = "loss per logit"
    return joined


def _correlation(one: xr.Dataset, name: str, which: dict[str, str]) -> Verdict:
    def spearman(gap: np.ndarray, bias: np.ndarray) -> np.ndarray:
        ranks = [stats.rankdata(of.reshape(len(of), -1), axis=1) for of in (gap, bias)]
        a, b = (rank - rank.mean(1, keepdims=True) for rank in ranks)
        return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))

    whole = _interval(one, name, spearman, (-1.0, 1.0))
    verdict = "supported" if whole.low >= RANKS else "contradicted" if whole.high < RANKS else "undetermined"
    return Verdict("(n) the gap ranks temperatures as the bias does", which, name, verdict, whole, unit="(Spearman)")


def _choice(one: xr.Dataset, name: str, which: dict[str, str]) -> Verdict:
    def lost(gap: np.ndarray, bias: np.ndarray) -> np.ndarray:
        chosen = np.take_along_axis(bias, gap.argmin(-1)[..., None], -1)[..., 0]
        return (chosen - bias.min(-1)).mean(-1)

    whole = _interval(one, name, lost, (0.0, np.inf))
    verdict = "supported" if whole.high <= MARGIN else "contradicted" if whole.low > MARGIN else "undetermined"
    gap, bias = (one[n].transpose("tf", "tb") for n in (name, BIAS))
    picked, best = (values.tb.values[values.values.argmin(1)] for values in (gap, bias))
    note = "; ".join(f"tf {t:g}: tb {a:g} for {b:g}" for t, a, b in zip(one.tf.values, picked, best, strict=True))
    return Verdict("(o) the tb of the least gap has the least bias", which, name, verdict, whole, note=note)


def _interval(
    one: xr.Dataset,
    name: str,
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray],
    bounds: tuple[float, float],
) -> Change:
    """The value of a statistic of gap and bias (grid, tf, tb), and its bias-corrected 95 % interval by bootstrap."""
    rng = np.random.default_rng(0)
    values, noisy = [], []
    for figure in (name, BIAS):
        value = one[figure].transpose("tf", "tb").values
        replicates = one[f"{figure}_replicates"].transpose("batch", "tf", "tb").values
        batches = len(replicates)
        factor = np.sqrt((batches - 1) / batches) * (replicates - replicates.mean(0))
        values.append(value[None])
        noisy.append(value + np.tensordot(rng.standard_normal((DRAWN, batches)), factor, 1))
    found = float(statistic(*values)[0])
    low, high = np.quantile(statistic(*noisy), [0.025, 0.975])
    # 2 found - high to 2 found - low, the basic bootstrap, corrects the bias and has the wrong skew; so both count
    low, high = np.clip([min(low, 2 * found - high), max(high, 2 * found - low)], *bounds)
    return Change(found, float(low), float(high))
