"""Sweeps: trainings over a grid of temperatures and seeds. Each is one file; all are collected in one Dataset."""

from .collecting import collect
from .run import sweep
from .summary import best, collapsed, loss_without_code, over_seeds, with_means

__all__ = ["best", "collapsed", "collect", "loss_without_code", "over_seeds", "sweep", "with_means"]
