"""Values, intervals and replicates of metrics over a grid of points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..metrics import GRADIENT, SQUARED, Metric
from ..metrics.over_examples import OverExamples, has_interval, has_replicates
from ..schema import coordinate, example_replicates, metric_variables, population_ends, replicates


class MetricArrays:
    """Arrays filled point by point; NaN where nothing was measured.

    `values` (*grid, 3) hold value, low end and high end. `without` (batch, *grid) holds the values without each batch
    of draws in turn; it is empty for moments without draws. With
    `examples`, `population` (*grid, 2) holds the ends over examples of metrics that are ratios, and `without_example`
    (*grid, example) the values without each example in turn.
    """

    def __init__(self, metrics: Mapping[str, Metric], batches: int, grid: Sequence[int], examples: int = 0):
        self.metrics, self.batches, self.examples = metrics, batches, examples
        self.values = {name: np.full((*grid, 3), np.nan) for name in metrics}
        self._replicates = np.full((len(metrics), batches, *grid), np.nan)
        self.without = dict(zip(metrics, self._replicates, strict=True))
        self.population, self.without_example = (
            {name: np.full((*grid, size), np.nan) for name, metric in metrics.items() if examples and has(metric)}
            for has, size in ((has_interval, 2), (has_replicates, examples))
        )

    def fill_population(self, name: str, at: Any, found: OverExamples, known: Any = 1.0) -> None:
        """At a place of the grid; `known` is NaN where nothing is relative to the exact gradient."""
        known = np.expand_dims(known, -1)
        if name in self.population:
            self.population[name][at] = np.stack([found.low, found.high], -1) * known
        if name in self.without_example:
            self.without_example[name][at] = found.without * known

    def rescale(self, at: tuple[Any, ...], size: float) -> None:
        """Multiply all values with a unit at the grid position `at` by the size that gradients were divided by."""
        if size == 1:
            return
        for name, metric in self.metrics.items():
            for _ in range({GRADIENT: 1, SQUARED: 2}.get(metric.unit, 0)):
                self.values[name][at] *= size
                self.without[name][:, *at] *= size
                if name in self.without_example:
                    self.without_example[name][at] *= size

    def variables(self, dims: Sequence[str], of_gradient: str, aggregation: str) -> dict[str, Any]:
        """Variables of the metrics with their ends, and `replicates`; `of_gradient` is the unit of a gradient."""
        found = metric_variables(self.values, dims, of_gradient, aggregation, self.metrics)
        found |= population_ends(self.population, dims, of_gradient, self.metrics)
        if self.examples:
            found["example_replicates"] = example_replicates(np.stack([*self.without_example.values()]), dims)
        return found | ({"replicates": replicates(self._replicates, dims)} if self.batches else {})

    def coordinates(self) -> dict[str, Any]:
        """Coordinates of the replicates."""
        found = {}
        if self.batches:
            found["metric"] = coordinate("metric", list(self.metrics))
            found["batch"] = coordinate("batch", np.arange(self.batches))
        if self.examples:
            found["example_metric"] = coordinate("example_metric", list(self.without_example))
            found["example"] = coordinate("example", np.arange(self.examples))
        return found
