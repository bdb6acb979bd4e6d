"""Figure 2: a binary autoencoder reconstructs best with a low tf and a high tb, best from tf = 0.3 and tb = 3 on.

Claims of section 5.1.1:
    (i) the loss falls as tb rises, at tf = 0.3;
    (j) the loss rises with tf, at tb = 3;
    (k) beyond tb = 3 there is little to gain, at tf = 0.3: less than 2 % of the loss;
    (g) decoupled temperatures reach a lower loss than a single one, tf = tb.

Measured: trainings of the small autoencoder over a grid of tf and tb and several seeds; validation loss is the mean
squared error per pixel. (i) and (j) compare the ends of the grid, seed by seed; (g) as in figure 3.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from gradlab.training import BINARY_AUTOENCODER

from . import figure3_vae_8x4 as figure3
from . import seeds, trainings
from .registry import analysis
from .trainings import TAKEN, OfTrainings, Trainings
from .verdicts import Verdict, at_budget

DATA = "mnist"
BASE = BINARY_AUTOENCODER
LITTLE = 0.02  # of the loss
_TF, _TB = (0.3, 0.6, 1.0, 1.5, 2.0, 3.0), (0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 4.5, 6.0)
_SOME_TF, _SOME_TB = (0.3, 1.0, 2.0, 3.0), (0.3, 1.0, 2.0, 3.0, 4.5, 6.0)
_SMALL, _LARGE = (("width", 16), ("depth", 2)), (("width", 128), ("depth", 4))
BUDGETS = {
    "quick": Trainings(
        tf=(0.3, 1.0, 3.0), tb=(0.3, 1.0, 3.0, 6.0), seeds=3, epochs=4, images=5000, validation=1000, config=_SMALL
    ),
    "standard": Trainings(tf=_SOME_TF, tb=_SOME_TB, seeds=3, epochs=5, images=60_000, validation=10_000, config=_SMALL),
    "paper": Trainings(tf=_TF, tb=_TB, seeds=5, epochs=100, images=60_000, validation=10_000, config=_LARGE),
}


@analysis("figure2", takes=TAKEN)
class Figure2(OfTrainings):
    base, data, budgets = BASE, DATA, BUDGETS

    def judge(self, ds: xr.Dataset) -> list[Verdict]:
        """Verdicts on (i) to (k) and (g)."""
        values, unit = seeds.losses(ds), str(ds.attrs["unit"])
        best = seeds.at(values, 0.3, 3.0)
        found = [
            seeds.lower(
                "(i) the loss falls as tb rises",
                {"against": "tb 3 against 0.3, tf = 0.3"},
                seeds.paired(best - seeds.at(values, 0.3, 0.3)),
                unit,
            ),
            seeds.lower(
                "(j) the loss rises with tf",
                {"against": "tf 0.3 against 3, tb = 3"},
                seeds.paired(best - seeds.at(values, 3.0, 3.0)),
                unit,
            ),
            seeds.no_better(
                "(k) little to gain beyond tb = 3",
                {"against": "tb 6 against 3, tf = 0.3"},
                seeds.paired(seeds.at(values, 0.3, 6.0) - best),
                LITTLE * float(np.nanmean(best)),
                unit,
                f"little: {LITTLE:.0%} of the loss",
            ),
            figure3.single_temperature(values, unit),
        ]
        return at_budget(seeds.with_failures(found, ds), trainings.lacking(ds, BUDGETS["paper"], DATA))
