"""Monte Carlo moments of estimators: draws in chunks, one decoder pass for every distinct image and code."""

from .batches import BATCHES, Accumulator, BatchMoments, batch_bounds
from .common_draws import PairedDraws, Sums
from .engine import by_points, bytes_of_draw, each_accumulated, each_moments, sample_moments
from .noise import MEMORY, Noise

__all__ = [
    "BATCHES",
    "MEMORY",
    "Accumulator",
    "BatchMoments",
    "Noise",
    "PairedDraws",
    "Sums",
    "batch_bounds",
    "by_points",
    "bytes_of_draw",
    "each_accumulated",
    "each_moments",
    "sample_moments",
]
