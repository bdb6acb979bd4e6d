"""Arrays over (estimator, target, tf, tb) that are filled from moments point by point, and their Dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr

from ..metrics import NONE, Norms, over_examples, registry, routes
from ..metrics.of_bias import SAMPLED
from ..moments import Moments
from ..sampling import BatchMoments, batch_bounds
from ..schema import COORDINATES, coordinate, dataset, effective_examples, temperatures, with_interval
from ..setup import Setup
from ..statistics import jackknife
from ..statistics.coordinates import (
    QUANTILES,
    elementwise_ratios,
    largest_of_each,
    norm,
    norms,
    norms_by_example,
    per_example_ratios,
    quantiles,
    scale,
    scale_of,
    within,
)
from .metric_arrays import MetricArrays
from .request import Request

NORM = "Euclidean norm over example, latent and category"
OF_EACH = f"{SAMPLED}, and not where these miss what carries an example's gradient (rare_examples)"


class _Reduced(NamedTuple):
    """Moments of points, reduced over coordinates: numpy arrays (point, ...)."""

    mean: np.ndarray  # (point, coordinate), over all draws
    sum_of_squares: np.ndarray  # (point, coordinate), of all draws' deviations from that mean
    squares: np.ndarray  # (point, batch): sum of squared deviations from the batch's mean
    squared_off: np.ndarray  # (point, batch): squared norm of the batch's mean minus the mean of all
    norms: list[np.ndarray]  # fields of `Norms` (point, target or 1, 1 + batch or 1)
    ratios: list[np.ndarray]  # (point, target, 1 + batch, ...): per example, their quantiles, quantiles of coordinates
    by_example: list[np.ndarray]  # fields of `Norms` (point, target or 1, example)


def _over_coordinates(
    count: np.ndarray, found: BatchMoments, exact: np.ndarray, shift: np.ndarray, examples: int, memory: int
) -> _Reduced:
    """The moments reduced over coordinates; `exact` (point, target, coordinate), `shift` (coordinate).

    A CPU takes one point at a time. Another device takes several, with one transfer. 1,000 images have 10^6 numbers per
    point.
    """
    on_cpu = _on_cpu(found)
    numbers = 12 * (len(count) + 1) * exact[0].size  # sorting takes most
    at_once = 1 if on_cpu else max(1, memory // (8 * numbers))
    parts = []
    for start in range(0, len(exact), at_once):
        some = slice(start, start + at_once)
        reduced = _reduced(count, found, some, exact[some], shift, examples)
        parts.append(reduced if on_cpu else _in_one_transfer(reduced))
    mean, sum_of_squares, squares, squared_off, *rest = (np.concatenate(of) for of in zip(*parts, strict=True))
    return _Reduced(mean, sum_of_squares, squares, squared_off, rest[:5], rest[5:8], rest[8:])


def _on_cpu(found: BatchMoments) -> bool:
    return found.mean.device.type == "cpu"


def _in_one_transfer(given: list[torch.Tensor]) -> list[np.ndarray]:
    flat = torch.cat([each.reshape(-1) for each in given]).cpu().numpy()
    ends = np.cumsum([each.numel() for each in given])[:-1]
    return [part.reshape(each.shape) for part, each in zip(np.split(flat, ends), given, strict=True)]


def _reduced(
    count: np.ndarray, found: BatchMoments, points: slice, exact: np.ndarray, shift: np.ndarray, examples: int
) -> list[Any]:
    def by_batch(of: torch.Tensor) -> Any:
        here = of[points].reshape(-1, len(count), len(shift))
        return here.numpy() if _on_cpu(found) else here

    squares = by_batch(found.squares)
    # metrics need no variance of single coordinates, and summing first takes a tenth of the time
    sum_of_squares, by_coordinate = squares.sum(1), squares.sum(-1)
    del squares  # of many images, these arrays are what takes most memory
    batch_mean = by_batch(found.mean)
    g, of_count, of_shift = jackknife.all_like(batch_mean, exact, count, shift)
    batch_mean = batch_mean + of_shift
    means = jackknife.means_without_each(of_count, batch_mean)
    batch_mean -= means[:, :1]
    squared_off = batch_mean
    squared_off *= squared_off
    sum_of_squares += of_count @ squared_off
    summed = by_coordinate, squared_off.sum(-1)
    del batch_mean, squared_off
    g, m = g[:, :, None], means[:, None]
    per_example = per_example_ratios(g, m, examples)
    elementwise = quantiles(elementwise_ratios(g, m))
    ratios = per_example, quantiles(per_example), elementwise
    by_example = norms_by_example(g[:, :, 0], m[:, :, 0], examples)
    return [means[:, 0], sum_of_squares, *summed, *norms(g, m), *ratios, *by_example]


class Points:
    """Arrays over (estimator, target, tf, tb), filled point by point."""

    def __init__(self, setup: Setup, request: Request, draws: int | None, nothing_left: np.ndarray):
        """`nothing_left` (tf,): True if the exact gradient is almost 0, so that relative metrics have no meaning."""
        self.targets, self.tfs, self.tbs, self.memory = request.targets, request.tfs, request.tbs, setup.memory
        chosen, targets, tfs, tbs, shape = len(request.estimators), self.targets, self.tfs, self.tbs, setup.logits.shape
        self.nothing_left = nothing_left
        self.batches = len(batch_bounds(draws)) - 1 if draws else 0  # 0: moments without draws
        grid = (chosen, len(targets), len(tfs), len(tbs))
        self.mean = np.full((chosen, len(tfs), len(tbs), *shape), np.nan)  # NaN where nothing was measured
        self.std = self.mean.copy()
        self.numerical_error = np.full((chosen, len(tfs), len(tbs), 2), np.nan)  # of mean and standard deviation
        self.metrics = MetricArrays(registry.of_analysis("bias"), self.batches, grid, shape[0])
        self.per_example = np.full((*grid, shape[0], 3), np.nan)
        ratios = ("relative_bias_per_example_quantiles", "relative_bias_elementwise_quantiles")
        self.quantiles = {name: np.full((*grid, len(QUANTILES), 3), np.nan) for name in ratios}

    def fill(
        self,
        cells: Sequence[tuple[int, int, int]],
        exact: np.ndarray,
        shift: np.ndarray,
        found: BatchMoments,
        share: float,
    ) -> None:
        """Fill the points at `cells`, positions of estimator, tf and tb; the first dim of the moments is the point.

        `exact` is (target, tf, example, latent[, category]); `shift` is added to every estimate. An estimate is the
        mean of 1/share draws, so its variance is `share` times that of one draw.
        """
        of_exact = {i: max(exact[:, i].max(), -exact[:, i].min()) for _, i, _ in cells}
        drawn = largest_of_each(found.mean)
        sizes = [scale_of(max(of_exact[i], largest)) for (_, i, _), largest in zip(cells, drawn, strict=True)]
        if all(size == 1 for size in sizes):
            self._fill(cells, exact, shift, found, share)
            return
        for k, (cell, size) in enumerate(zip(cells, sizes, strict=True)):
            squares = within(found.squares[k : k + 1], size)
            of_point = BatchMoments(found.count, found.mean[k : k + 1] / size, squares)
            self._fill([cell], exact / size, shift / size, of_point, share)
            self._rescale(cell, size)

    def _rescale(self, cell: tuple[int, int, int], size: float) -> None:
        """Multiply all values with a unit at a point by the size that they were divided by."""
        e, i, j = cell
        self.mean[e, i, j] *= size
        self.std[e, i, j] *= size
        self.metrics.rescale((e, slice(None), i, j), size)

    def _fill(
        self,
        cells: Sequence[tuple[int, int, int]],
        exact: np.ndarray,
        shift: np.ndarray,
        found: BatchMoments,
        share: float,
    ) -> None:
        e, i, j = (list(of) for of in zip(*cells, strict=True))
        count = found.count.numpy().astype(np.float64)
        g = np.moveaxis(exact[:, i], 1, 0)
        of = _over_coordinates(count, found, g.reshape(*g.shape[:2], -1), shift.reshape(-1), len(shift), self.memory)
        bad = np.nonzero(~np.isfinite(of.mean).all(1))[0]
        if len(bad):
            point = f"tf = {self.tfs[i[bad[0]]]:g}, tb = {self.tbs[j[bad[0]]]:g}"
            raise ValueError(f"tf, tb: expected finite estimates, got others at {point}; use larger temperatures")
        draws, variances = jackknife.variances_without_each(count, of.squares.T, of.squared_off.T)
        draws, variances = share * draws, share * variances[..., None]
        shape = self.mean.shape[3:]
        self.mean[e, i, j] = of.mean.reshape(-1, *shape)
        self.std[e, i, j] = np.sqrt(share / (count.sum() - 1) * of.sum_of_squares).reshape(-1, *shape)
        # (1 + batch, point, target[, ...])
        of_norms = Norms(of.norms[0][..., 0], *(np.moveaxis(each, -1, 0) for each in of.norms[1:]))
        at = e, slice(None), i, j
        known = np.where(self.nothing_left[i], np.nan, 1.0)
        for metric, values, low, high in routes.measured(self.metrics.metrics, of_norms, variances, draws):
            if metric.unit == NONE:
                values, low, high = (each * known[:, None] for each in (values, low, high))
            self.metrics.values[metric.name][at] = np.stack([values[0], low, high], -1)
            self.metrics.without[metric.name][:, *at] = np.moveaxis(values[1:], 0, 1)
        by_example = share / (count.sum() - 1) * of.sum_of_squares.reshape(len(cells), 1, shape[0], -1).sum(-1)
        for name, over in over_examples.of_products(self.metrics.metrics, Norms(*of.by_example), by_example, draws[0]):
            relative = self.metrics.metrics[name].unit == NONE
            self.metrics.fill_population(name, at, over, known[:, None] if relative else 1.0)
        into = (self.per_example, *self.quantiles.values())
        for of_each, ratios in zip(into, of.ratios, strict=True):
            found_here = jackknife.with_ends(np.moveaxis(ratios, 2, 0), draws, 0, np.inf)
            of_each[at] = found_here * known.reshape(-1, *[1] * (found_here.ndim - 1))

    def fill_exact(
        self, e: int, i: int, j: int, exact: np.ndarray, shift: np.ndarray, found: Moments, share: float = 1.0
    ) -> None:
        """Fill one point from moments without draws, which also fill its replicates; arguments as for `fill`."""
        size = scale(exact, found.mean)
        if size != 1:
            squares = within(found.variance, size)
            found = Moments(found.mean / size, squares, found.mean_error, found.std_error)
        self._fill_exact((e, i, j), exact / size, shift / size, found, share)
        if size != 1:
            self._rescale((e, i, j), size)

    def _fill_exact(
        self, cell: tuple[int, int, int], exact: np.ndarray, shift: np.ndarray, found: Moments, share: float
    ) -> None:
        e, i, j = cell
        shape = self.mean.shape[3:]
        mean, variance = (moment.cpu().numpy().reshape(-1) for moment in (found.mean, found.variance))
        error = found.mean_error * float(np.linalg.norm(mean)), found.std_error * float(np.sqrt(share * variance.sum()))
        mean, variance = mean + shift.reshape(-1), share * variance
        self.mean[e, i, j] = mean.reshape(shape)
        self.std[e, i, j] = np.sqrt(variance).reshape(shape)
        self.numerical_error[e, i, j] = found.mean_error, found.std_error
        for t in range(len(self.targets)):
            g = exact[t].reshape(-1)
            at = (e, t, i, j)
            products = routes.products_of(g, mean, variance, np.inf)
            for metric, *three in routes.without_draws(self.metrics.metrics, products, *error):
                self.metrics.values[metric.name][at] = three
                self.metrics.without[metric.name][:, *at] = three[0]
            by_example = Norms(*norms_by_example(g, mean, shape[0])), variance.reshape(shape[0], -1).sum(-1)
            for name, over in over_examples.of_products(self.metrics.metrics, *by_example, np.inf):
                self.metrics.fill_population(name, at, over)
            self.per_example[at][:, 0] = per_example_ratios(g, mean, shape[0])
            ratios = (self.per_example[at][:, 0], elementwise_ratios(g, mean))
            for name, values in zip(self.quantiles, ratios, strict=True):
                self.quantiles[name][at][:, 0] = quantiles(values[None])[0]
            if self.batches:
                for of_each in (self.per_example, *self.quantiles.values()):
                    of_each[at][:, 1:] = of_each[at][:, :1]

    def dataset(
        self,
        exact: np.ndarray,
        rounding: np.ndarray | None,
        request: Request,
        about: dict[str, Any],
        more: dict[str, Any],
    ) -> xr.Dataset:
        """`rounding` (target, tf): bounds on the norm of the exact gradient's error, if they matter."""
        coordinates = COORDINATES[: exact.ndim - 2]
        grid = ("estimator", "target", "tf", "tb")
        of_gradient = f"{about['unit']} per logit"
        spread = "standard deviation of the estimates" + (" over draws (N - 1)" if self.batches else "")
        if about["equal_cost"]:
            spread += "; an estimate is the mean of several draws, so that all cost the same number of loss evaluations"
        variables: dict[str, Any] = {
            "exact_gradient": (
                ("target", "tf", *coordinates),
                exact,
                {"long_name": "exact gradient of the expected loss, by enumeration", "units": of_gradient},
            ),
            "mean_gradient": (
                ("estimator", "tf", "tb", *coordinates),
                self.mean,
                {"long_name": "mean of the estimates", "units": of_gradient},
            ),
            "std_gradient": (
                ("estimator", "tf", "tb", *coordinates),
                self.std,
                {"long_name": spread, "units": of_gradient},
            ),
            "exact_norm": (
                grid,
                np.broadcast_to(
                    norm(exact.reshape(*exact.shape[:2], -1))[None, :, :, None],
                    self.per_example.shape[:4],
                ).copy(),
                {"long_name": "norm of the exact gradient", "units": of_gradient, "aggregation": NORM},
            ),
        }
        if rounding is not None:
            words = "bound on the rounding error of the exact gradient"
            named = {"long_name": words, "units": of_gradient, "aggregation": NORM}
            variables["exact_gradient_error"] = (("target", "tf"), rounding, named)
        squares = np.square(norm(exact.reshape(*exact.shape[:3], -1)))
        variables |= effective_examples(over_examples.effective(squares), ("target", "tf"), "exact gradient's norm")
        variables |= self.metrics.variables(grid, of_gradient, NORM) | more
        for name, values in self.quantiles.items():
            over = "examples" if "per_example" in name else "coordinates whose exact gradient is not 0"
            words = f"quantiles over {over} of |mean estimate - exact gradient| / |exact gradient|, {OF_EACH}"
            variables |= with_interval(name, (*grid, "quantile"), values, {"long_name": words, "units": "1"})
        words = f"|mean estimate - exact gradient| / |exact gradient| of each example, {OF_EACH}"
        named = {"long_name": words, "units": "1"}
        variables |= with_interval("relative_bias_per_example", (*grid, "example"), self.per_example, named)
        if not self.batches:
            ends = [name for name in variables if "per_example" in name or "elementwise" in name]
            variables = {k: v for k, v in variables.items() if k not in ends or not k.endswith(("_low", "_high"))}
            for k, of in enumerate(("mean", "std")):
                words = f"norm of the estimated numerical error of {of}_gradient, over the norm of {of}_gradient"
                values = self.numerical_error[..., k]
                variables[f"{of}_numerical_error"] = (
                    ("estimator", "tf", "tb"),
                    values,
                    {"long_name": words, "units": "1"},
                )
        return dataset(
            variables,
            {
                "estimator": coordinate("estimator", request.labels),
                "target": coordinate("target", list(self.targets)),
                **temperatures(self.tfs, self.tbs),
                "quantile": coordinate("quantile", list(QUANTILES)),
                **{
                    name: coordinate(name, np.arange(size))
                    for name, size in zip(coordinates, exact.shape[2:], strict=True)
                },
                **self.metrics.coordinates(),
            },
            about,
            request.dropped,
        )
