"""Figure 6: bias and variance of Decoupled ST-GS on an 8x4 VAE fall as tb rises, and rise with tf.

Claims of section 5.2.2, with (tf, tb) = (1.6, 1.3), one temperature varied and the other fixed:
    (b) bias falls as tb rises at tf = 1.6;
    (c) standard deviation falls as tb rises at tf = 1.6;
    (d) bias rises with tf at tb = 1.3;
    (e) standard deviation rises with tf at tb = 1.3.

Measured: `gradlab.bias` (standard: 1,024 draws on 100 images) on a cross of temperatures from 0.3 to 3.0 through
(1.6, 1.3), against the exact gradient of both target laws. Bias is judged as the relative batch norm the paper plots,
as the norm itself, and as the matched bias, which a learning rate cannot absorb; all with the sampling noise
subtracted. A claim is judged on the whole change and on every step between neighbouring temperatures (see
verdicts).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import xarray as xr

import gradlab
from gradlab import LatentModel

from .registry import analysis
from .run_options import OF_A_CHECKPOINT, RunOptions, measure_checkpoint
from .verdicts import Verdict, trend

BUNDLED = "vae-8x4-mnist"
BUDGETS = {"quick": (100, 256), "standard": (100, 1024), "paper": (1000, 1024)}  # images, draws
TEMPERATURES = [0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1, 2.4, 2.7, 3.0]  # of the paper's range
TF, TB = 1.6, 1.3
CLAIMS = {
    "(b) bias falls as tb rises": (
        "tb",
        {"tf": TF},
        True,
        ("relative_bias_debiased", "bias_norm_debiased", "matched_bias_debiased"),
    ),
    "(c) standard deviation falls as tb rises": ("tb", {"tf": TF}, True, ("relative_std", "std_norm")),
    "(d) bias rises with tf": (
        "tf",
        {"tb": TB},
        False,
        ("relative_bias_debiased", "bias_norm_debiased", "matched_bias_debiased"),
    ),
    "(e) standard deviation rises with tf": ("tf", {"tb": TB}, False, ("relative_std", "std_norm")),
}


@analysis("figure6", takes=OF_A_CHECKPOINT)
class Figure6:
    def cost(self, budget: str) -> str:
        images, draws = BUDGETS[budget]
        return f"{draws:,} draws on {images:,} images at {2 * len(TEMPERATURES) + 1} points, of one trained model"

    def measure(self, options: RunOptions, budget: str) -> xr.Dataset:
        """The cross through (1.6, 1.3), both target laws, of the bundled model or a checkpoint."""
        return measure_checkpoint(options, BUNDLED, *BUDGETS[budget], partial(cross, progress=options.progress))

    def judge(self, ds: xr.Dataset) -> list[Verdict]:
        """A verdict for each claim, target law and aggregation. std_norm does not depend on the target."""
        return [
            trend(ds, claim, figure, along, fixed, falls, {"target": target})
            for claim, (along, fixed, falls, figures) in CLAIMS.items()
            for figure in figures
            for target in ("sampled", "model")
            if not (figure == "std_norm" and target == "model")
        ]

    def draw(self, ds: xr.Dataset) -> Any:
        """The figure, both target laws."""
        from gradlab import plots

        return plots.bias_trends(ds)


def cross(model: LatentModel, x: Any, draws: int, progress: bool = False) -> xr.Dataset:
    return gradlab.bias(
        model,
        x,
        tf=sorted({*TEMPERATURES, TF}),
        tb=sorted({*TEMPERATURES, TB}),
        cross=(TF, TB),
        draws=draws,
        target="both",
        compute=gradlab.Compute(progress=progress),
    )
