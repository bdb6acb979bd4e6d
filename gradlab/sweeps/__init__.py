"""Sweeps: trainings over a grid of temperatures and seeds, each a file of its own, collected into one Dataset."""

from .collecting import collect
from .summary import best, over_seeds, with_means
from .sweeping import sweep

__all__ = ["best", "collect", "over_seeds", "sweep", "with_means"]
