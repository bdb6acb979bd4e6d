"""Claims about gradients and trainings, measured and judged: those of the paper, some of ours, and anybody's.

Imports no torch, so that the command line can list the analyses.
"""

from .protocol import BUDGETS, Analysis
from .registry import analysis
from .run_options import RunOptions

__all__ = ["BUDGETS", "Analysis", "RunOptions", "analysis"]
