"""Values, intervals and replicates of metrics over a grid of points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..metrics import GRADIENT, SQUARED, Metric
from ..schema import coordinate, metric_variables, replicates


class MetricArrays:
    """Arrays filled point by point; NaN where nothing was measured.

    `values` (*grid, 3) hold value, low end and high end. `without` (batch, *grid) holds the values without each batch
    of draws in turn; it is empty for moments without draws.
    """

    def __init__(self, metrics: Mapping[str, Metric], batches: int, grid: Sequence[int]):
        self.metrics, self.batches = metrics, batches
        self.values = {name: np.full((*grid, 3), np.nan) for name in metrics}
        self._replicates = np.full((len(metrics), batches, *grid), np.nan)
        self.without = dict(zip(metrics, self._replicates, strict=True))

    def rescale(self, at: tuple[Any, ...], size: float) -> None:
        """Multiply all values with a unit at the grid position `at` by the size that gradients were divided by."""
        if size == 1:
            return
        for name, metric in self.metrics.items():
            for _ in range({GRADIENT: 1, SQUARED: 2}.get(metric.unit, 0)):
                self.values[name][at] *= size
                self.without[name][:, *at] *= size

    def variables(self, dims: Sequence[str], of_gradient: str, aggregation: str) -> dict[str, Any]:
        """Variables of the metrics with their ends, and `replicates`; `of_gradient` is the unit of a gradient."""
        found = metric_variables(self.values, dims, of_gradient, aggregation, self.metrics)
        return found | ({"replicates": replicates(self._replicates, dims)} if self.batches else {})

    def coordinates(self) -> dict[str, Any]:
        """Coordinates of the replicates."""
        if not self.batches:
            return {}
        batch = coordinate("batch", np.arange(self.batches))
        return {"metric": coordinate("metric", list(self.metrics)), "batch": batch}
