"""Bias and variance of the encoder's gradients, by parameter tensor: arrays filled point by point -> Dataset."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..metrics import NONE, Norms, Products, registry, routes
from ..model import precision
from ..moments import Moments
from ..sampling import batch_bounds
from ..schema import coordinate, dataset, temperatures
from ..setup import Setup, measured_copy
from . import jackknife
from .coordinates import scale, within
from .encoder_gradients import PullBack, PulledBackMoments, jacobian_products
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
        self.x, self.memory = x, setup.memory
        self.wide_model = measured_copy(model, torch.float64, x.device)
        self.wide = PullBack(self.wide_model, x, setup.memory)
        # single precision is enough for deviations; half is not
        self.of_draws = PullBack(model, x, setup.memory) if precision(model, x) == torch.float32 else self.wide
        self.batches = len(batch_bounds(draws)) - 1 if draws else 0  # 0: moments without draws
        chosen, targets, tfs, tbs = len(request.estimators), self.targets, self.tfs, self.tbs
        grid = (chosen, len(targets), len(tfs), len(tbs), len(self.wide.names))
        self.exact_norm = np.full(grid, np.nan)  # NaN where nothing was measured
        self.numerical_error = np.full((chosen, len(tfs), len(tbs), 2), np.nan)  # of moments without draws
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
        size = scale(g, found.mean)
        mean, g, off = mean / size, g / size, off / size
        products = self.wide.products(torch.cat([mean[None], g, mean - g]), off)
        fixed, mixed, squared_off = (of.cpu().numpy() for of in products)
        count = found.count.numpy().astype(np.float64)
        draws, variances = jackknife.variances_without_each(
            count, within(found.squares, size).cpu().numpy(), squared_off
        )
        draws, variances = share * draws, share * variances
        for t in range(len(self.targets)):
            g_m_d = [1 + t, 0, 1 + len(self.targets) + t]
            of_target = fixed[np.ix_(g_m_d, g_m_d)]
            norms = routes.norms_without_each(count, of_target, mixed[:, g_m_d], squared_off)
            at = (e, t, i, j)
            self.exact_norm[at] = size * np.sqrt(of_target[0, 0])
            for metric, values, low, high in routes.measured(self.metrics.metrics, norms, variances, draws):
                if self.nothing_left[i] and metric.unit == NONE:
                    values, low, high = (np.full_like(each, np.nan) for each in (values, low, high))
                self.metrics.values[metric.name][at] = np.stack([values[0], low, high], -1)
                self.metrics.without[metric.name][:, *at] = values[1:]
        self.metrics.rescale((e, slice(None), i, j), size)

    def fill_exact(
        self, e: int, i: int, j: int, exact: np.ndarray, shift: np.ndarray, found: Moments, share: float = 1.0
    ) -> None:
        """One point of moments found without draws, with their covariance; arguments as for `grid_accumulator`'s.

        The error of the mean is pulled back by its largest factor, sqrt(sum_b |J_b|^2) / B; that of the standard
        deviation, relative to it, is taken to be that at the logits.
        """
        assert found.covariance is not None
        jacobian = self._jacobian_products
        examples = len(jacobian)
        mean = found.mean + torch.as_tensor(shift).to(found.mean)
        g = torch.as_tensor(exact).to(mean)
        fixed = self.wide.gram(torch.cat([mean[None], g, mean - g])).cpu().numpy()
        variance = torch.einsum("bij,bijp->p", found.covariance, jacobian).clamp(min=0) / examples**2
        largest = torch.linalg.eigvalsh(jacobian.movedim(-1, 1))[..., -1].clamp(min=0)  # (example, parameter)
        mean_error = found.mean_error * float(found.mean.norm()) / examples * largest.sum(0).sqrt()
        std = (share * variance).sqrt()
        self.numerical_error[e, i, j] = found.mean_error, found.std_error
        for t in range(len(self.targets)):
            m, of_g, d = 0, 1 + t, 1 + len(self.targets) + t
            for k in range(len(self.wide.names)):
                p = fixed[..., k]
                across = max(p[d, d] - p[d, of_g] ** 2 / p[of_g, of_g], 0.0) if p[of_g, of_g] else p[d, d]
                norms = Norms(*map(np.asarray, (p[of_g, of_g], p[m, m], p[m, of_g], p[d, d], across)))
                products = Products(norms, np.asarray(float(std[k]) ** 2), np.inf)
                error = float(mean_error[k]), found.std_error * float(std[k])
                at = (e, t, i, j, k)
                self.exact_norm[at] = np.sqrt(norms.exact)
                for metric, *three in routes.without_draws(self.metrics.metrics, products, *error):
                    self.metrics.values[metric.name][at] = three

    @functools.cached_property
    def _jacobian_products(self) -> Tensor:
        return jacobian_products(self.wide_model, self.x, self.memory)

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
                **({} if self.batches else self._errors()),
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

    def _errors(self) -> dict[str, Any]:
        """Variables of the numerical error of moments without draws."""
        found = {}
        for k, of in enumerate(("mean", "std")):
            words = f"estimated numerical error of the {of} at the logits, as a norm over its norm"
            values = self.numerical_error[..., k]
            found[f"{of}_numerical_error"] = (GRID[:1] + GRID[2:4], values, {"long_name": words, "units": "1"})
        return found
