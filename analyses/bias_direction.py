"""A study of ours: bias falls and rises again along either temperature, however the model was trained.

Figure 6's claims (b), bias falls as tb rises at tf = 1.6, and (d), bias rises with tf at tb = 1.3, do not hold of the
bundled model: along tb the bias has a valley. Is that the target law, the aggregation, the temperatures the model was
trained at, or how long?

Measured: 8x4 VAEs trained at several temperatures, each at several epochs, the untrained one included; of each the
cross of figure 6, against both target laws, in five aggregations: the batch norm (the paper's figure), the bias norm
itself, the matched bias, and the medians over examples and over coordinates. Judged: for each aggregation, target law
and claim, of how many models it holds from the first temperature to the last, and where the least bias lies. The effect
is log10 of the last over the first bias, its median and range over the models.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from gradlab.fidelity.differences import Change
from gradlab.training import Settings

from .figure6_bias_variance import TB, TEMPERATURES, TF, cross
from .registry import analysis
from .run_options import OF_PLACE, RunOptions
from .verdicts import Verdict

DATA = "mnist"
MOST, LEAST = 10, 0.01  # relative bias, relative standard deviation: what is drawn
TRAINED_AT = ((0.5, 0.5), (1.0, 1.0), (1.6, 1.3), (3.0, 1.3), (1.6, 3.0))
BUDGETS = {  # training images, epochs measured, images measured, draws
    "quick": (10_000, (0, 1, 4, 16), 100, 1024),
    "standard": (60_000, (0, 1, 4, 16, 40), 100, 1024),
    "paper": (60_000, (0, 1, 4, 16, 40, 160), 1000, 1024),
}
FIGURES = {  # aggregation: (variable, what to select of it)
    "relative_bias_debiased": ("relative_bias_debiased", {}),
    "bias_norm_debiased": ("bias_norm_debiased", {}),
    "matched_bias_debiased": ("matched_bias_debiased", {}),
    "median over examples": ("relative_bias_per_example_quantiles", {"quantile": 0.5}),
    "median over coordinates": ("relative_bias_elementwise_quantiles", {"quantile": 0.5}),
}
CLAIMS = {  # claim: (along, fixed, sign of the change it claims)
    "(b) bias falls as tb rises": ("tb", {"tf": TF}, -1),
    "(d) bias rises with tf": ("tf", {"tb": TB}, 1),
}


@analysis("bias-direction", takes=("data", "data_dir", "images", "draws", *OF_PLACE))
class BiasDirection:
    def cost(self, budget: str) -> str:
        images, epochs, measured, draws = BUDGETS[budget]
        steps = len(TRAINED_AT) * sum(epochs) * images // Settings().batch_size
        trainings, points = len(TRAINED_AT) * len(epochs[1:]), 2 * len(TEMPERATURES) + 1
        return (
            f"{trainings} trainings of up to {epochs[-1]} epochs on {images:,} images, {steps:,} steps of"
            f" {Settings().batch_size} images; {draws:,} draws on {measured} images at {points} points of each model"
        )

    def measure(self, options: RunOptions, budget: str) -> xr.Dataset:
        """Trains missing models in `options.folder` and measures all of them."""
        from gradlab import checkpoints, datasets, networks, progress, results

        images, epochs, measured, draws = BUDGETS[budget]
        x = datasets.load("mnist-sample", "test").first(options.images or measured)
        base = Settings()
        untrained = networks.build(base.architecture, base.config, base.seed)
        about: dict[str, Any] = {"checkpoint": "untrained", "checkpoint_sha256": ""}
        about |= {"trained_epochs": 0, "trained_seed": base.seed}
        models = [(untrained, about | {"trained_tf": np.nan, "trained_tb": np.nan})]
        for count in epochs[1:]:
            for path in _trained(options, images, count):
                model, about = checkpoints.load_described(path)
                # named like a file, because plots show the stem
                name = "{trained_epochs} epochs at ({trained_tf:g}, {trained_tb:g}).safetensors".format(**about)
                models.append((model, about | {"checkpoint": name}))
        found = []
        with progress.bar("measuring", len(models), options.progress) as advance:
            for model, about in models:
                ds = cross(model.to(options.device), x.floats(), options.draws or draws)
                ds = ds.drop_vars([name for name, variable in ds.items() if "example" in variable.dims])
                found.append(ds.assign_attrs(about | x.described()))
                advance()
        joined = results.join_checkpoints(found)
        order = np.lexsort([joined[f"trained_{name}"].values for name in ("tb", "tf", "epochs")])
        return joined.isel(checkpoint=order)

    def judge(self, ds: xr.Dataset) -> list[Verdict]:
        """Supported if a claim holds for all models, contradicted if for none. The interval is their range."""
        return [
            _verdict(ds, claim, name, target) for claim in CLAIMS for name in FIGURES for target in ("sampled", "model")
        ]

    def draw(self, ds: xr.Dataset) -> Any:
        """The models trained longest and the untrained one, without points at which a gradient is almost 0."""
        from gradlab import plots

        epochs = ds.trained_epochs
        some = ds.isel(checkpoint=np.flatnonzero((epochs == epochs.max()) | (epochs == 0)))
        names = [name for name in some.data_vars if str(name).startswith("relative_")]
        kept = (some.relative_bias < MOST) & (some.relative_std < MOST) & (some.relative_std > LEAST)
        some = some.assign({n: some[n].where(kept) for n in names if "quantile" not in some[n].dims})
        drawn = (
            f"{some.sizes['checkpoint']} of {ds.sizes['checkpoint']} checkpoints, without points where bias or standard"
            f" deviation is above {MOST} times the exact gradient, or the latter below {LEAST} of it"
        )
        return plots.bias_trends(some.assign_attrs(checkpoint=drawn), target="sampled")


def _trained(options: RunOptions, count: int, epochs: int) -> list[Path]:
    """Checkpoints of models trained for `epochs` epochs at TRAINED_AT."""
    from gradlab import datasets, sweeps

    folder = options.folder / "bias-direction-cells" / f"{count}-images-{epochs}-epochs"
    images = datasets.load(options.data or DATA, "train", options.data_dir).first(count)
    validation = datasets.load(options.data or DATA, "test", options.data_dir)
    sweeps.sweep(
        dataclasses.replace(Settings(), epochs=epochs),
        images,
        validation.first(min(1000, len(validation))),
        folder,
        tf=sorted({tf for tf, _ in TRAINED_AT}),
        tb=sorted({tb for _, tb in TRAINED_AT}),
        pairs=TRAINED_AT,
        seeds=1,
        keep_models=True,
        **options.where,
    )
    return sorted(folder.glob("*.safetensors"))


def _verdict(ds: xr.Dataset, claim: str, name: str, target: str) -> Verdict:
    along, fixed, sign = CLAIMS[claim]
    variable, which = FIGURES[name]
    lines = (
        ds[variable].sel({"target": target, **fixed, **which}).dropna(along, how="all").transpose("checkpoint", along)
    )
    with np.errstate(divide="ignore", invalid="ignore"):  # a bias that is not resolved may be 0 or below
        changes = np.log10(lines.isel({along: -1}).to_numpy() / lines.isel({along: 0}).to_numpy())
    holds = int((sign * changes > 0).sum())
    verdict = "supported" if holds == len(changes) else "contradicted" if holds == 0 else "undetermined"
    least = lines[along].values[lines.argmin(along).to_numpy()]
    inside = int(((least > lines[along].values[0]) & (least < lines[along].values[-1])).sum())
    note = (
        f"holds from end to end of {holds} of {len(changes)} models; least bias inside the range of {inside},"
        f" at {along} = {least.min():g} to {least.max():g}"
    )
    whole = Change(float(np.nanmedian(changes)), float(np.nanmin(changes)), float(np.nanmax(changes)))
    return Verdict(claim, {"target": target}, name, verdict, whole, unit="decades", note=note)
