"""A study of ours: an unbiased estimator errs least where many estimates are averaged, a biased one where few are.

Three problems: the bundled 8x4 VAE against its exact gradient, the bundled binary autoencoder against an unbiased
reference, and an 8x4 VAE before training against its exact gradient. All estimators for their kind of latents, at
tf = 1 and a few tb.

Measured: relative bias and relative standard deviation of an estimate that costs 32 loss evaluations. An estimator that
takes m evaluations per draw has its standard deviation multiplied by the root of m/32. Moments without sampling where
an estimator has them. The average of n estimates is off by error(n), the root of bias^2 + standard deviation^2 / n.
Judged, for each problem and n = 1, 10, 100: whether the least error of an unbiased estimator is below the least error
of a biased one. Ends of errors combine the ends of bias and standard deviation, which overstates their width; the least
of several noisy errors is a little low. Backward passes to the codes are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from gradlab.fidelity.differences import Change

from .registry import analysis
from .run_options import RunOptions
from .verdicts import Verdict

TF, TB = 1.0, (0.5, 1.0, 2.0)
COST = 32  # loss evaluations of an estimate
AVERAGED = (1, 10, 100)
TRAINED, UNITS, UNTRAINED = "8x4 VAE", "binary autoencoder", "untrained 8x4 VAE"
FAMILIES = {
    "unbiased": ("reinforce", "rloo", "rloo:n=4", "leg", "disarm", "arms:n=4"),
    "unbiased, with df/dz": ("rebar", "double-cv", "double-cv:n=4"),
    "straight-through": ("ste-identity", "ste-identity:clip=1", "ste", "ste-argmax", "gst"),
    "with Gumbel noise": ("st-gs:convention=jang", "decoupled-st-gs", "gumbel-rao", "gumbel-softmax"),
    "second order": ("reinmax", "zgr", "mve", "reinmax-rao", "reinmax-cv"),
}
METRICS = ("relative_bias_debiased", "relative_std", "matched_bias_debiased", "cosine_debiased")


@dataclass(frozen=True)
class Budget:
    images: int
    draws: int
    of_units: int  # draws of the binary autoencoder


BUDGETS = {"quick": Budget(8, 64, 64), "standard": Budget(50, 1024, 512), "paper": Budget(1000, 1024, 1024)}


@analysis("estimators", takes=("images", "draws", "device"))
class Estimators:
    def cost(self, budget: str) -> str:
        b = BUDGETS[budget]
        return (
            f"{sum(map(len, FAMILIES.values()))} estimators at {len(TB)} tb on {b.images:,} images: {b.draws:,} draws"
            f" of two 8x4 VAEs, {b.of_units:,} of a binary autoencoder"
        )

    def measure(self, options: RunOptions, budget: str) -> xr.Dataset:
        """All problems along a dim `model`, with NaN where an estimator is not for the kind of latents."""
        import gradlab
        from gradlab import checkpoints, datasets, networks, results
        from gradlab.training import Settings

        b = BUDGETS[budget]
        observed = datasets.load("mnist-sample", "test").first(options.images or b.images)
        plain = Settings()
        models = {
            TRAINED: (checkpoints.load_described(None, "vae-8x4-mnist")[0], b.draws),
            UNITS: (checkpoints.load_described(None, "binary-ae-mnist")[0], b.of_units),
            UNTRAINED: (networks.build(plain.architecture, plain.config, plain.seed), b.draws),
        }
        compute = gradlab.Compute(progress=options.progress)
        found, about = [], {}
        for name, (model, draws) in models.items():
            draws = options.draws or draws
            ds = _measured(model.to(options.device), observed.floats(), draws, compute)
            about[f"reference of the {name}"] = ds.attrs.get("reference", "exact")
            about[f"draws of the {name}"] = draws
            found.append(ds)
        dim = xr.Variable("model", list(models), {"long_name": "model", "units": "1"})
        joined = xr.concat(found, dim, join="outer", combine_attrs="override")
        order = [label for label in labels() if label in joined.estimator]
        stamp = results.stamp(
            analysis="bias",
            target="sampled",
            equal_cost=1,
            examples=len(observed),
            intervals=found[0].attrs["intervals"],
            estimator=order,
            **about,
        )
        joined.attrs = stamp | observed.described()
        return joined.sel(estimator=order)

    def judge(self, ds: xr.Dataset) -> list[Verdict]:
        """Supported if the least error of the unbiased ones lies below that of the biased ones by the intervals."""
        return [_verdict(ds, model, n) for model in ds.model.values for n in AVERAGED]

    def draw(self, ds: xr.Dataset) -> Any:
        from gradlab import estimators, plots

        families = {title: [estimators.parse(text).label for text in of] for title, of in FAMILIES.items()}
        return plots.tradeoff(ds, averaged=AVERAGED, families=families)


def labels() -> list[str]:
    """The estimators' labels, family by family."""
    from gradlab import estimators

    return [estimators.parse(text).label for of in FAMILIES.values() for text in of]


def _measured(model: Any, x: Any, draws: int, compute: Any) -> xr.Dataset:
    """Metrics of an estimate that costs COST evaluations, over estimator and tb, of the estimators for its latents."""
    import gradlab
    from gradlab import estimators, moments
    from gradlab.methods import MAX_CONFIGURATIONS
    from gradlab.setup import encode

    exact = model.configurations <= MAX_CONFIGURATIONS
    every = [estimators.parse(text) for of in FAMILIES.values() for text in of]
    logits = encode(model, x)
    costs = {e.label: e.evaluations_at(model.kind, logits) for e in every if model.kind.name in e.kinds}
    fit = [e for e in every if costs.get(e.label, np.inf) <= COST]
    without = [e for e in fit if exact and moments.supported(e)]
    found = []
    for some, how in ((without, {"moments": "exact"}), ([e for e in fit if e not in without], {"draws": draws})):
        for with_tb in (False, True):
            of = [e for e in some if hasattr(e, "tb") is with_tb]
            if of:
                ds = gradlab.bias(model, x, TF, TB if with_tb else TB[:1], estimator=of, **how, compute=compute)
                found.append(_kept(ds, of))
    joined = xr.concat(found, "estimator", join="outer", combine_attrs="override")
    share = [np.sqrt(costs[str(label)] / COST) for label in joined.estimator.values]
    for end in ("", "_low", "_high"):
        about = joined[f"relative_std{end}"].attrs
        scaled = joined[f"relative_std{end}"] * xr.DataArray(share, dims="estimator")
        joined[f"relative_std{end}"] = scaled.transpose(*joined.relative_std.dims).assign_attrs(about)
    evaluations = [costs[str(label)] for label in joined.estimator.values]
    said = {"long_name": "loss evaluations of one draw", "units": "1"}
    joined = joined.assign(evaluations=("estimator", np.array(evaluations, float), said))
    joined.attrs = found[-1].attrs
    return joined


def _kept(ds: xr.Dataset, estimators: list[Any]) -> xr.Dataset:
    """The metrics with their ends, whatever else the Dataset holds; `estimator` is a dim."""
    names = [name + end for name in METRICS for end in ("", "_low", "_high") if name + end in ds]
    ds = ds[names].drop_vars("target", errors="ignore")
    if "target" in ds.dims:
        ds = ds.isel(target=0, drop=True)
    if "estimator" not in ds.dims:
        ds = ds.expand_dims(estimator=[estimators[0].label])
    return ds


def errors(ds: xr.Dataset, model: str, n: int) -> xr.Dataset:
    """error, low, high of the average of n estimates, over estimator and tb; what is unbiased by proof has no bias."""
    from gradlab import estimators

    of, found = ds.sel(model=model).squeeze("tf"), {}
    biased = xr.DataArray([not estimators.parse(str(e)).unbiased for e in of.estimator.values], dims="estimator")
    for name, end in (("error", ""), ("low", "_low"), ("high", "_high")):
        bias = np.maximum(of[f"relative_bias_debiased{end}"], 0) * biased
        found[name] = np.sqrt(bias**2 + of[f"relative_std{end}"] ** 2 / n)
    return xr.Dataset(found, attrs={}).dropna("estimator", how="all")


def ranked(ds: xr.Dataset, model: str, n: int, unbiased: bool | None = None) -> list[tuple[str, float, Change]]:
    """Label, tb and error of each estimator at its best tb, the least error first."""
    from gradlab import estimators

    of, rows = errors(ds, model, n), []
    for label in of.estimator.values:
        one = of.sel(estimator=label)
        if unbiased is None or estimators.parse(str(label)).unbiased is unbiased:
            best = one.isel(tb=int(one.error.argmin("tb")))
            rows.append((str(label), float(best.tb), Change(*(float(best[key]) for key in ("error", "low", "high")))))
    return sorted(rows, key=lambda row: row[2].value)


def _verdict(ds: xr.Dataset, model: str, n: int) -> Verdict:
    (free, _, left), (biased, tb, right) = (ranked(ds, model, n, kind)[0] for kind in (True, False))
    whole = Change(left.value - right.value, left.low - right.high, left.high - right.low)
    verdict = "supported" if whole.high < 0 else "contradicted" if whole.low > 0 else "undetermined"
    note = f"{free} {left.value:.2g}, {biased} {right.value:.2g} at tb = {tb:g}"
    which = {"model": model, "n": str(n)}
    return Verdict(
        "an unbiased estimator errs least",
        which,
        "error of the average",
        verdict,
        whole,
        unit="of |g|",
        note=note,
        paper="",
    )
