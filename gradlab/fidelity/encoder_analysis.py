"""Bias and variance of the encoder's gradients, by parameter tensor: arrays filled point by point -> Dataset."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .. import errors
from ..model import LatentModel, measured_copy, precision
from ..sampling import batch_bounds
from . import jackknife, metrics
from .encoder_gradients import PullBack, PulledBackMoments, encoder_parameters
from .labels import coordinate, dataset, figure_variables, temperatures

NORM = "Euclidean norm over the entries of a parameter tensor, or of all of them, of the gradient of the examples' mean"
GRID = ("estimator", "target", "tf", "tb", "parameter")


def check_supported(model: LatentModel, moments: str, exact_dtype: torch.dtype, enumerated: bool, limit: int) -> None:
    """ValueError for what is not known of gradients with respect to the encoder."""
    encoder_parameters(model)
    if not enumerated:
        size = errors.count(*model.category_counts)
        message = (
            f"wrt: got 'encoder' with a reference that is sampled ({size} configurations, of which {limit:,} may be"
            " enumerated); wrt='logits' would do, or an exact gradient by enumeration"
        )
        raise errors.SpaceTooLarge(message) if model.configurations > limit else ValueError(message)
    if moments == "exact":
        raise ValueError(
            "moments: 'exact' gives variances of single logits, and wrt='encoder' needs covariances;"
            " moments='monte-carlo' would do"
        )
    if exact_dtype != torch.float64:
        raise ValueError(
            f"exact_dtype: got {exact_dtype}; its error is bounded at the logits only, so wrt='encoder' needs"
            " torch.float64"
        )


class EncoderPoints:
    """Arrays over (estimator, target, tf, tb, parameter), filled point by point."""

    def __init__(
        self,
        model: LatentModel,
        x: Tensor,
        chosen: int,
        targets: Sequence[str],
        tfs: list[float],
        tbs: list[float],
        draws: int,
        nothing_left: np.ndarray,
        memory: int,
    ):
        """`model` and `x` in the precision of the draws, in which deviations of draws are pulled back too.

        `nothing_left` as for `grid_accumulator.Points`.
        """
        self.targets, self.tfs, self.tbs = targets, tfs, tbs
        self.nothing_left = nothing_left
        self.wide = PullBack(measured_copy(model, torch.float64, x.device), x, memory)
        # single precision does for deviations; half would not
        self.of_draws = PullBack(model, x, memory) if precision(model, x) == torch.float32 else self.wide
        grid = (chosen, len(targets), len(tfs), len(tbs), len(self.wide.names))
        self.exact_norm = np.full(grid, np.nan)  # NaN where nothing was measured
        self.figures = {name: np.full((*grid, 3), np.nan) for name in metrics.METRICS}  # value, low, high
        self.replicates = np.full((len(metrics.METRICS), len(batch_bounds(draws)) - 1, *grid), np.nan)

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
            raise ValueError(f"tf, tb: estimates at {point} are not finite; larger temperatures would do")
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
            norms = metrics.norms_without_each(count, of_target, mixed[:, g_m_d], squared_off)
            at = (e, t, i, j)
            self.exact_norm[at] = np.sqrt(of_target[0, 0])
            for position, (name, values, low, high) in enumerate(metrics.measured(norms, variances, draws)):
                if self.nothing_left[i] and metrics.METRICS[name].unit == metrics.NONE:
                    values, low, high = (np.full_like(each, np.nan) for each in (values, low, high))
                self.figures[name][at] = np.stack([values[0], low, high], -1)
                self.replicates[(position, slice(None), *at)] = values[1:]

    def dataset(
        self,
        exact: np.ndarray,
        rounding: np.ndarray | None,
        labels: list[str],
        about: dict[str, Any],
        without: Sequence[str],
        more: dict[str, Any],
    ) -> xr.Dataset:
        """As `grid_accumulator.Points.dataset`; the arrays at the logits are left out."""
        unit = f"{about['unit']} per parameter"
        named = {"long_name": "norm of the exact gradient", "units": unit, "aggregation": NORM}
        return dataset(
            {
                "exact_norm": (GRID, self.exact_norm, named),
                **figure_variables(self.figures, GRID, unit, NORM),
                "replicates": (
                    ("figure", "batch", *GRID),
                    self.replicates,
                    {"long_name": "each figure without each batch of draws in turn", "units": "as the figure"},
                ),
                **more,
            },
            {
                "estimator": coordinate("estimator", labels),
                "target": coordinate("target", list(self.targets), "target law"),
                **temperatures(self.tfs, self.tbs),
                "parameter": coordinate("parameter", self.wide.names, "parameter tensor of the encoder"),
                "entries": ("parameter", self.wide.entries, {"long_name": "entries of the tensor", "units": "1"}),
                "figure": coordinate("figure", list(metrics.METRICS)),
                "batch": coordinate("batch", np.arange(self.replicates.shape[1])),
            },
            about,
            without,
        )
