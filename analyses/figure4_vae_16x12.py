"""Figure 4: a 16x12 categorical VAE, too, is trained best with tf > tb, and one temperature for both is worse.

Claims (f) to (h), measures and verdicts of figure 3, for 16 categories and 12 latents, learning rate 7e-4.
"""

from __future__ import annotations

import dataclasses

import xarray as xr

from gradlab.settings import vae_lr

from . import figure3_vae_8x4 as figure3
from .registry import analysis
from .trainings import TAKEN, OfTrainings
from .verdicts import Verdict

DATA, BUDGETS = figure3.DATA, figure3.BUDGETS
BASE = dataclasses.replace(figure3.BASE, config={"latents": 12, "categories": 16}, lr=vae_lr(12, 16))


@analysis("figure4", takes=(*TAKEN, "kl"))
class Figure4(OfTrainings):
    base, data, budgets = BASE, DATA, BUDGETS

    def judge(self, ds: xr.Dataset) -> list[Verdict]:
        return figure3.verdicts(ds, BUDGETS["paper"])
