"""Figure 4: a 16x12 categorical VAE, too, is trained best with tf > tb, and one temperature for both is worse.

Claims (f) to (h), measures and verdicts of figure 3, for 16 categories and 12 latents, learning rate 7e-4.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import xarray as xr

from . import figure3_vae_8x4 as figure3
from . import trainings
from .run_options import Given
from .verdicts import Verdict

DATA, NAME = "mnist", "figure4"
BASE = dataclasses.replace(figure3.BASE, config={"latents": 12, "categories": 16}, lr=7e-4)
BUDGETS = figure3.BUDGETS


def cost(budget: str) -> str:
    return BUDGETS[budget].cost(BASE)


def measure(given: Given, budget: str) -> xr.Dataset:
    return trainings.measure(given, BASE, BUDGETS[budget], DATA, NAME)


def judge(ds: xr.Dataset) -> list[Verdict]:
    return figure3.verdicts(ds, BUDGETS["paper"])


def draw(ds: xr.Dataset) -> Any:
    return figure3.draw(ds)
