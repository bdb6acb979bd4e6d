"""Figure 5: the gradient gap of a binary autoencoder falls as the backward temperature rises.

Claim of section 5.2.1:
    (a) the gradient gap falls as tb rises, "indicating better alignment between continuous relaxations and discrete
        samples".

Measured: `gradlab.gap` (standard: 64 noise arrays on 64 images), tf from 0.3 to 3.0, tb from 0.3 to 6.0, both
definitions of the gap. The raw gap carries the 1/tb of the gradients, so that it falls whether or not they align;
therefore the second half of the sentence is judged apart, on the relative gap (root mean squares) and on the cosine
between the two gradients. A claim is judged at the smallest, a middle and the largest tf, on the whole change and on
every step between neighbouring temperatures (see verdicts).
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

BUNDLED = "binary-ae-mnist"
BUDGETS = {"quick": (16, 16), "standard": (64, 64), "paper": (1000, 64)}  # images, draws
TF = [0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1, 2.4, 2.7, 3.0]
TB = [0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1, 2.4, 2.7, 3.0, 3.6, 4.2, 4.8, 5.4, 6.0]
JUDGED_AT = (0.3, 1.5, 3.0)
CLAIMS = {  # claim: {figure: whether it should fall}
    "(a) the gap falls as tb rises": {"gap": True},
    "(a) relaxed and discrete gradient align better as tb rises": {"relative_gap_pooled": True, "cosine": False},
}


@analysis("figure5", takes=OF_A_CHECKPOINT)
class Figure5:
    def cost(self, budget: str) -> str:
        images, draws = BUDGETS[budget]
        passes = f"{2 * len(TF) * images * draws:,} images through the decoder and back"
        return f"{draws} draws on {images:,} images: {passes}, of one trained model"

    def measure(self, options: RunOptions, budget: str) -> xr.Dataset:
        """The grid of figure 5, both definitions, of the bundled model or a checkpoint."""
        return measure_checkpoint(options, BUNDLED, *BUDGETS[budget], partial(grid, progress=options.progress))

    def judge(self, ds: xr.Dataset) -> list[Verdict]:
        """A verdict for each claim, figure, definition and tf of JUDGED_AT."""
        return [
            trend(ds, claim, figure, "tb", {}, falls, {"definition": definition, "tf": tf})
            for claim, figures in CLAIMS.items()
            for figure, falls in figures.items()
            for definition in ds["definition"].values
            for tf in JUDGED_AT
        ]

    def draw(self, ds: xr.Dataset) -> Any:
        """The heatmaps, raw and relative."""
        from gradlab import plots

        return plots.gap(ds)


def grid(model: LatentModel, x: Any, draws: int, progress: bool = False) -> xr.Dataset:
    return gradlab.gap(model, x, TF, TB, draws=draws, compute=gradlab.Compute(progress=progress))
