"""Table 1: no schedule of the temperatures trains a binary autoencoder on CIFAR-10 much better than fixed ones.

Claims of appendix B:
    (l) the best schedule is no substantial improvement on tf = 0.3, tb = 3: less than 2 % of the loss;
    (m) tf: 1 -> 2 with tb: 1 -> 0.3 is considerably worse.

Measured: trainings of the autoencoder for each schedule of the table, linear over the training, and for the fixed pair,
on several seeds; validation loss is the mean squared error per pixel. The best schedule is picked, and its interval
allows for that (see seeds).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from gradlab.training import BINARY_AUTOENCODER

from . import seeds, trainings
from .registry import analysis
from .trainings import TAKEN, OfTrainings, Trainings
from .verdicts import Verdict, at_budget

DATA = "cifar10"
BASE = BINARY_AUTOENCODER
LITTLE = 0.02  # of the loss
FIXED = ("0.3", "3")
_TB_FROM_1 = ("1:0.3", 1.0, "1:2")
_TB_TO_3 = ("5:3", "1:3")
PAIRS: tuple[tuple[float | str, float | str], ...] = (
    *((tf, tb) for tf in ("1:0.3", 1.0, "1:2") for tb in _TB_FROM_1),
    *((tf, tb) for tf in ("0.3:0.03", "0.3:2") for tb in _TB_TO_3),
    (0.3, 3.0),
)
_TF, _TB = tuple(dict.fromkeys(tf for tf, _ in PAIRS)), tuple(dict.fromkeys(tb for _, tb in PAIRS))
_SMALL, _LARGE = (("width", 16), ("depth", 2)), (("width", 128), ("depth", 4))
BUDGETS = {
    "quick": Trainings(tf=_TF, tb=_TB, pairs=PAIRS, seeds=3, epochs=4, images=5000, validation=1000, config=_SMALL),
    "standard": Trainings(
        tf=_TF, tb=_TB, pairs=PAIRS, seeds=5, epochs=20, images=10_000, validation=2000, config=_SMALL
    ),
    "paper": Trainings(
        tf=_TF, tb=_TB, pairs=PAIRS, seeds=5, epochs=100, images=50_000, validation=10_000, config=_LARGE
    ),
}


@analysis("table1", takes=TAKEN)
class Table1(OfTrainings):
    base, data, budgets = BASE, DATA, BUDGETS

    def judge(self, ds: xr.Dataset) -> list[Verdict]:
        """Verdicts on (l) and (m)."""
        values, unit = seeds.losses(ds), str(ds.attrs["unit"])
        constant = seeds.named(values, *FIXED)
        best, fixed = seeds.best(values, np.arange(len(values)) != constant), seeds.at(values, *FIXED)
        found = [
            seeds.no_better(
                "(l) no schedule is a substantial improvement",
                {"against": "best against tf = 0.3, tb = 3"},
                seeds.picked(values, (best, constant)),
                LITTLE * float(np.nanmean(fixed)),
                unit,
                f"{seeds.words(values, best)}; substantial: {LITTLE:.0%} of the loss",
            ),
            seeds.lower(
                "(m) tf 1 -> 2 with tb 1 -> 0.3 is worse",
                {"against": "tf = 0.3, tb = 3 against it"},
                seeds.paired(fixed - seeds.at(values, "1:2", "1:0.3")),
                unit,
            ),
        ]
        return at_budget(seeds.with_failures(found, ds), trainings.lacking(ds, BUDGETS["paper"], DATA))

    def draw(self, ds: xr.Dataset) -> Any:
        from gradlab import plots, sweeps

        return plots.schedules(sweeps.with_means(ds))
