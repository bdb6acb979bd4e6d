"""Bias and variance of the encoder's gradients, by parameter tensor: arrays filled point by point -> Dataset."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from ..metrics import NONE, registry, routes
from ..model import precision
from ..sampling import batch_bounds
from ..schema import coordinate, dataset, temperatures
from ..setup import Setup, measured_copy
from . import jackknife
from .encoder_gradients import PullBack, PulledBackMoments
from .metric_arrays import MetricArrays
from .request import Request

NORM = "Euclidean norm over the entries of a parameter tensor, or of all of them, of the gradient of the examples' mean"
GRID = ("estimator", "target", "tf", "tb", "parameter")


class EncoderPoints:
    """Arrays over (estimator, target, tf, tb, parameter), filled point by point."""

    def __init__(self, setup: Setup, request: Request, draws: int | None, nothing_left: np.ndarray):
        """Deviations of draws are pulled back in the precision of the draws; `nothing_left` as for Points."""
        self.targets, self.tfs, self.tbs = request.targets, request.tfs, request.tbs
        self.nothing_left = nothing_left
        model, x = setup.model, setup.x
        self.wide = PullBack(measured_copy(model, torch.float64, x.device), x, setup.memory)
        # single precision is enough for deviations; half is not
        self.of_draws = PullBack(model, x, setup.memory) if precision(model, x) == torch.float32 else self.wide
        self.batches = len(batch_bounds(draws)) - 1 if draws else 0  # 0: moments without draws
        chosen, targets, tfs, tbs = len(request.estimators), self.targets, self.tfs, self.tbs
        grid = (chosen, len(targets), len(tfs), len(tbs), len(self.wide.names))
        self.exact_norm = np.full(grid, np.nan)  # NaN where nothing was measured
        self.metrics = MetricArrays(registry.of_analysis("bias"), self.batches, grid)

    def accumulator(self, draws: int) -> Callable[[], PulledBackMoments]:
        """Makes what the estimates of each estimator at each point are added to."""
        return functools.partial(PulledBackMoments, self.of_draws, draws)

    def fill(
        self,
        cells: Sequence[tuple[int, int, int]],
        exact: np.ndarray,
        shift: np.ndarray,
        found: PulledBackMoments,
        share: float,
    ) -> None:
        """One point; arguments as those of `grid_accumulator.Points.fill`."""
        ((e, i, j),) = cells
        n = found.count.double().to(found.mean.device)
        mean = torch.tensordot(n / n.sum(), found.mean, 1)
        if not bool(torch.isfinite(mean).all()):
            point = f"tf = {self.tfs[i]:g}, tb = {self.tbs[j]:g}"
            raise ValueError(f"tf, tb: expected finite estimates, got others at {point}; use larger temperatures")
        off = found.mean - mean
        mean = mean + torch.as_tensor(shift).to(mean)
        g = torch.as_tensor(exact[:, i]).to(mean)
        products = self.wide.products(torch.cat([mean[None], g, mean - g]), off)
        fixed, mixed, squared_off = (of.cpu().numpy() for of in products)
        count = found.count.numpy().astype(np.float64)
        draws, variances = jackknife.variances_without_each(count, found.squares.cpu().numpy(), squared_off)
        draws, variances = share * draws, share * variances
        for t in range(len(self.targets)):
            g_m_d = [1 + t, 0, 1 + len(self.targets) + t]
            of_target = fixed[np.ix_(g_m_d, g_m_d)]
            norms = routes.norms_without_each(count, of_target, mixed[:, g_m_d], squared_off)
            at = (e, t, i, j)
            self.exact_norm[at] = np.sqrt(of_target[0, 0])
            for metric, values, low, high in routes.measured(self.metrics.metrics, norms, variances, draws):
                if self.nothing_left[i] and metric.unit == NONE:
                    values, low, high = (np.full_like(each, np.nan) for each in (values, low, high))
                self.metrics.values[metric.name][at] = np.stack([values[0], low, high], -1)
                self.metrics.without[metric.name][:, *at] = values[1:]

    def dataset(
        self,
        exact: np.ndarray,
        rounding: np.ndarray | None,
        request: Request,
        about: dict[str, Any],
        more: dict[str, Any],
    ) -> xr.Dataset:
        """As `grid_accumulator.Points.dataset`; the arrays at the logits are left out."""
        unit = f"{about['unit']} per parameter"
        named = {"long_name": "norm of the exact gradient", "units": unit, "aggregation": NORM}
        return dataset(
            {
                "exact_norm": (GRID, self.exact_norm, named),
                **self.metrics.variables(GRID, unit, NORM),
                **more,
            },
            {
                "estimator": coordinate("estimator", request.labels),
                "target": coordinate("target", list(self.targets)),
                **temperatures(self.tfs, self.tbs),
                **self.wide.coordinates(),
                **self.metrics.coordinates(),
            },
            about,
            request.dropped,
        )
