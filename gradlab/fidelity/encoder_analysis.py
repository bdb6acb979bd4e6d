"""Bias and variance of the encoder's gradients, by parameter tensor: arrays filled point by point -> Dataset."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..metrics import NONE, Norms, Products, registry, routes
from ..moments import Moments
from ..sampling import batch_bounds
from ..schema import coordinate, dataset, temperatures
from ..setup import Setup
from ..statistics import jackknife
from ..statistics.coordinates import scale, within
from .encoder_gradients import Products as GradientProducts
from .encoder_gradients import PullBack, PulledBackMoments, in_float64, jacobian_products, of_deviations
from .metric_arrays import MetricArrays
from .request import Request

NORM = "Euclidean norm over the entries of a parameter tensor, or of all of them, of the gradient of the examples' mean"
GRID = ("estimator", "target", "tf", "tb", "parameter")


class Gradients(Protocol):
    """Vectors that stand for gradients of the parameters: their inner products by parameter tensor."""

    names: list[str]  # of all tensors together, and of each

    def products(self, fixed: Tensor, others: Tensor) -> GradientProducts:
        """As `PullBack.products`."""

    def coordinates(self) -> dict[str, Any]:
        """As `PullBack.coordinates`."""


class DrawnMoments(Protocol):
    """Of draws, by batch: count, mean (batch, ...), and sum of squared deviations (batch, parameter)."""

    count: Tensor
    mean: Tensor
    squares: Tensor


class ParameterPoints:
    """Arrays over (estimator, target, tf, tb, parameter), filled point by point."""

    def __init__(self, request: Request, draws: int | None, nothing_left: np.ndarray, wide: Gradients):
        """`nothing_left` as for `grid_accumulator.Points`; `wide` gives products of gradients, in float64."""
        self.targets, self.tfs, self.tbs = request.targets, request.tfs, request.tbs
        self.nothing_left, self.wide = nothing_left, wide
        self.batches = len(batch_bounds(draws)) - 1 if draws else 0  # 0: moments without draws
        chosen, targets, tfs, tbs = len(request.estimators), self.targets, self.tfs, self.tbs
        grid = (chosen, len(targets), len(tfs), len(tbs), len(self.wide.names))
        self.exact_norm = np.full(grid, np.nan)  # NaN where nothing was measured
        self.numerical_error = np.full((chosen, len(tfs), len(tbs), 2), np.nan)  # of moments without draws
        self.metrics = MetricArrays(registry.of_analysis("bias"), self.batches, grid)

    def fill(
        self,
        cells: Sequence[tuple[int, int, int]],
        exact: np.ndarray,
        shift: np.ndarray,
        found: DrawnMoments,
        share: float,
    ) -> None:
        """Fill one point; the arguments are those of `grid_accumulator.Points.fill`."""
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

    def dataset(
        self,
        exact: np.ndarray,
        rounding: np.ndarray | None,
        request: Request,
        about: dict[str, Any],
        more: dict[str, Any],
    ) -> xr.Dataset:
        """The Dataset, as from `grid_accumulator.Points.dataset` but without arrays at the logits."""
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
            words = f"norm of the estimated numerical error of the {of} at the logits, over the norm of the {of}"
            values = self.numerical_error[..., k]
            found[f"{of}_numerical_error"] = (GRID[:1] + GRID[2:4], values, {"long_name": words, "units": "1"})
        return found


class EncoderPoints(ParameterPoints):
    """The same, of estimates at the logits, pulled back to the encoder."""

    wide: PullBack

    def __init__(self, setup: Setup, request: Request, draws: int | None, nothing_left: np.ndarray):
        super().__init__(request, draws, nothing_left, in_float64(setup))
        self.setup = setup

    def accumulator(self, draws: int) -> Callable[[], PulledBackMoments]:
        """A function that makes the sums for one estimator at one point; deviations of draws keep their precision."""
        return functools.partial(PulledBackMoments, of_deviations(self.setup, self.wide), draws)

    def fill_exact(
        self, e: int, i: int, j: int, exact: np.ndarray, shift: np.ndarray, found: Moments, share: float = 1.0
    ) -> None:
        """Fill one point from moments without draws; the arguments are those of `Points.fill_exact`.

        The error of the mean is multiplied by its largest factor, sqrt(sum_b |J_b|^2) / B. The relative error of the
        standard deviation is assumed to equal that at the logits.
        """
        assert found.covariance is not None
        jacobian, largest = self._jacobian_products
        size, examples = scale(exact, found.mean), len(jacobian)
        mean = (found.mean + torch.as_tensor(shift).to(found.mean)) / size
        g = torch.as_tensor(exact).to(mean) / size
        fixed = self.wide.gram(torch.cat([mean[None], g, mean - g])).cpu().numpy()
        covariance = within(found.covariance, size)
        variance = share * torch.einsum("bij,bijp->p", covariance, jacobian).clamp(min=0).cpu().numpy() / examples**2
        mean_error = found.mean_error * float(found.mean.norm() / size) / examples * largest
        std_error = found.std_error * np.sqrt(variance)
        self.numerical_error[e, i, j] = found.mean_error, found.std_error
        no_batches = np.empty((0, 3, len(variance)))
        for t in range(len(self.targets)):
            g_m_d = [1 + t, 0, 1 + len(self.targets) + t]
            of_target = fixed[np.ix_(g_m_d, g_m_d)]
            norms = routes.norms_without_each(np.empty(0), of_target, no_batches, no_batches[:, 0])
            self.exact_norm[e, t, i, j] = size * np.sqrt(of_target[0, 0])
            for k in range(len(variance)):
                products = Products(Norms(*(each[0, k] for each in norms)), variance[k], np.inf)
                for metric, *three in routes.without_draws(
                    self.metrics.metrics, products, float(mean_error[k]), float(std_error[k])
                ):
                    self.metrics.values[metric.name][e, t, i, j, k] = three
        self.metrics.rescale((e, slice(None), i, j), size)

    @functools.cached_property
    def _jacobian_products(self) -> tuple[Tensor, np.ndarray]:
        """J_b J_b^T of each example by parameter tensor, and sqrt(sum_b |J_b|^2) of each tensor (parameter,)."""
        products = jacobian_products(self.setup)
        largest = torch.linalg.eigvalsh(products.movedim(-1, 1))[..., -1].clamp(min=0)  # (example, parameter)
        return products, largest.sum(0).sqrt().cpu().numpy()
