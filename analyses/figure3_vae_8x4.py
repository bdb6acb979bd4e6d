"""Figure 3: an 8x4 categorical VAE is trained best with tf > tb, and one temperature for both is worse.

Claims of section 5.1.2:
    (f) the best validation loss lies in the triangle tf > tb;
    (g) decoupled temperatures reach a lower loss than a single one, tf = tb;
    (h) tuning the single temperature brings little beside that.

Measured: trainings over a grid of tf and tb and several seeds, validation loss at one code per image without KL, in
nats. Pairs that are picked for their low loss have intervals that allow for the picking (see seeds). (h) compares the
gain from tuning the single temperature, starting at 1, with the gain from decoupling after that.
"""

from __future__ import annotations

from typing import Any

import xarray as xr

from gradlab.training import Settings

from . import seeds, trainings
from .given import Given
from .trainings import Trainings
from .verdicts import Verdict

DATA, NAME = "mnist", "figure3"
BASE = Settings()
_SOME, _ALL = (0.3, 0.6, 1.0, 1.3, 1.6, 3.0), (0.3, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0, 2.5, 3.0)
BUDGETS = {
    "quick": Trainings(
        tf=(0.3, 1.0, 1.6, 3.0), tb=(0.3, 1.0, 1.3, 3.0), seeds=3, epochs=8, images=10_000, validation=2000
    ),
    "standard": Trainings(tf=_SOME, tb=_SOME, seeds=3, epochs=10, images=60_000, validation=10_000),
    "paper": Trainings(tf=_ALL, tb=_ALL, seeds=10, epochs=160, images=60_000, validation=10_000),
}


def cost(budget: str) -> str:
    return BUDGETS[budget].cost(BASE)


def measure(given: Given, budget: str) -> xr.Dataset:
    return trainings.measure(given, BASE, BUDGETS[budget], DATA, NAME)


def judge(ds: xr.Dataset) -> list[Verdict]:
    return of_triangle(ds)


def of_triangle(ds: xr.Dataset) -> list[Verdict]:
    """Verdicts on (f) to (h)."""
    values, unit = seeds.losses(ds), str(ds.attrs["unit"])
    tf, tb = values.tf.to_numpy(), values.tb.to_numpy()
    below, above, single = (seeds.best(values, some) for some in (tf > tb, tf < tb, tf == tb))
    either, one = seeds.best(values, tf != tb), seeds.named(values, 1.0, 1.0)
    gains = [seeds.picked(values, weights).value for weights in (single - one, either - single)]
    return [
        seeds.lower(
            "(f) the best loss lies at tf > tb",
            {"against": "best of tf < tb"},
            seeds.picked(values, below - above),
            unit,
            f"{seeds.words(values, below)} against {seeds.words(values, above)}",
        ),
        single_temperature(values, unit),
        seeds.lower(
            "(h) decoupling gains more than tuning one temperature",
            {"against": "tuning from tf = tb = 1"},
            seeds.picked(values, either - 2 * single + one),
            unit,
            f"tuning changes the loss by {gains[0]:+.3g}, decoupling by {gains[1]:+.3g}",
        ),
    ]


def single_temperature(values: xr.DataArray, unit: str) -> Verdict:
    """Of (g)."""
    single = values.tf.to_numpy() == values.tb.to_numpy()
    either, one = seeds.best(values, ~single), seeds.best(values, single)
    return seeds.lower(
        "(g) decoupled temperatures beat a single one",
        {"against": "best of tf = tb"},
        seeds.picked(values, either - one),
        unit,
        f"{seeds.words(values, either)} against {seeds.words(values, one)}",
    )


def draw(ds: xr.Dataset) -> Any:
    """Heatmap, and the diagonal against the best beside it."""
    from gradlab import plots, sweeps

    return plots.losses(sweeps.with_means(ds))
