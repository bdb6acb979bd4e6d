"""Monte Carlo moments of estimators: draws in chunks, one decoder pass for every distinct image and code."""

from .batches import BATCHES, BatchMoments, batch_bounds
from .engine import each_moments, groups, sample_moments
from .noise import MEMORY, Noise
from .pairs import evaluate_points

__all__ = [
    "BATCHES",
    "MEMORY",
    "BatchMoments",
    "Noise",
    "batch_bounds",
    "each_moments",
    "evaluate_points",
    "groups",
    "sample_moments",
]
