"""Bias and variance over grids of temperatures: exact gradient, sampled moments, figures -> Dataset."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from .. import errors, estimators, progress
from ..estimators import Estimator
from ..exact import LIMIT, MEMORY, TARGETS, check_enumerable, exact_gradients, kl_gradient
from ..model import LatentModel, encode, measured_copy, observations, plain_arithmetic
from ..sampling import BATCHES, BatchMoments, Noise, batch_bounds, groups, sample_moments
from . import metrics
from .labels import COORDINATES, attributes, coordinate, temperatures, with_interval

MOST_DRAWS_FOR_ONE = 1000  # of another estimator, at equal cost


def bias(
    model: LatentModel,
    x: Any,
    tf: float | Sequence[float] = 1.0,
    tb: float | Sequence[float] | None = None,
    *,
    estimator: str | Estimator | Sequence[str | Estimator] = "decoupled-st-gs",
    draws: int = 1024,
    target: str = "sampled",
    seed: int = 0,
    moments: str = "monte-carlo",
    cross: tuple[float, float] | None = None,
    equal_cost: bool = False,
    kl: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    limit: int = LIMIT,
    memory: int = MEMORY,
    shown: bool = False,
) -> xr.Dataset:
    """Bias and variance of gradient estimators against the exact gradient, for every pair of temperatures.

    Parameters
    ----------
    model : LatentModel with at most `limit` configurations
    x : observations (example, ...)
    tf, tb : forward and backward temperatures, a number or a sequence; tb defaults to the values of tf
    estimator : a name, an Estimator (its temperatures are replaced by the grid's), or a list of these
    draws : estimates per point, at least 2
    target : law whose expected loss the exact gradient differentiates: "sampled" softmax(l/tf), "model" softmax(l),
        or "both", which adds a dim `target`
    seed : the same seed gives the same numbers, whatever the chunks; the global random state is not touched
    moments : "monte-carlo"
    cross : measure only the pairs with tf = cross[0] or tb = cross[1]; the others are NaN (figure 6)
    equal_cost : compare estimators at equal loss evaluations: one estimate is the mean of as many draws as the loss
        evaluations of one draw of the dearest estimator pay for, so variances are divided by that number (needs not
        be whole) and so many more draws are taken
    kl : add the gradient of the KL term to exact and mean gradient alike
    device, dtype : where and in which precision draws are computed; the model's own by default. The exact gradient
        and all sums over draws are float64
    limit, memory : see `exact_gradient`
    shown : draw a progress bar on standard error

    Returns
    -------
    Dataset with dims tf, tb, example, latent, category (no category: binary; estimator first if a list was given).
    `exact_gradient`, `mean_gradient`, `std_gradient` per coordinate in the loss's unit per logit; per point
    `exact_norm` and the figures of `gradlab.fidelity.metrics.FIGURES`, norms over example, latent and category;
    each sampled figure NAME with NAME_low and NAME_high, a 95 % interval by jackknife over batches of draws.
    `replicates` holds each figure without each batch in turn: differences between temperatures, which share their
    noise, are sharper than their ends.

    Raises
    ------
    ValueError
        Temperatures, draws, names, shapes, or values that will not do; SpaceTooLarge, a ValueError, beyond `limit`.

    Source: section 5.2.2, figure 6 and appendix C of the Decoupled ST-GS paper.
    """
    check_enumerable(model, limit)
    tfs = errors.temperatures("tf", tf)
    tbs = errors.temperatures("tb", tfs if tb is None else tb)
    if cross is not None and not (
        isinstance(cross, tuple | list) and len(cross) == 2 and cross[0] in tfs and cross[1] in tbs
    ):
        raise ValueError(f"cross: got {cross}; give a pair of one of tf {tfs} and one of tb {tbs}")
    draws = errors.whole_number("draws", draws, 2, "a variance needs two")
    seed = errors.whole_number("seed", seed, 0)
    errors.choice("moments", moments, ("monte-carlo",))
    targets = TARGETS if target == "both" else (errors.choice("target", target, (*TARGETS, "both")),)
    listed = not isinstance(estimator, str | Estimator) and isinstance(estimator, Iterable)
    chosen = [_resolve(e, model) for e in (list(estimator) if listed else [estimator])]  # type: ignore[arg-type]
    labels = [e.label for e in chosen]
    if not chosen or len(set(labels)) < len(labels):
        raise ValueError(f"estimator: got {labels}; give at least one, each of them once")

    errors.precision_and_place(dtype, device)
    memory = errors.whole_number("memory", memory, 1)
    with plain_arithmetic():
        measured = measured_copy(model, dtype, device)
        x = observations(measured, x)
        logits = encode(measured, x)
        model.unit_shape = measured.unit_shape
        wide = logits.double()
        laws = [(t, name) for name in targets for t in tfs]
        exact = exact_gradients(model, x, wide, laws, memory=memory, shown=shown).cpu().numpy()
        exact = exact.reshape(len(targets), len(tfs), *logits.shape)
        shift = kl_gradient(model, wide).cpu().numpy() if kl else np.zeros(logits.shape)
        exact = exact + shift

        points = _Points(len(chosen), targets, tfs, tbs, logits.shape, draws)
        costs = [e.evaluations_at(model.kind, logits) for e in chosen]
        alike = _draws_alike(costs, draws) if equal_cost else {draws: list(range(len(chosen)))}
        columns = [[j for j, b in enumerate(tbs) if cross is None or t == cross[0] or b == cross[1]] for t in tfs]
        rows = [
            (of_each, members, i, [chosen[e].at(t, tbs[j]) for e in members for j in columns[i]])
            for of_each, members in alike.items()
            for i, t in enumerate(tfs)
        ]
        total = sum(of_each * len(groups(row)) for of_each, _, _, row in rows)
        noise: Noise | None = None
        with progress.bar("drawing", total, shown) as advance:
            for of_each, members, i, row in rows:
                if noise is None or noise.draws != of_each:
                    arrays = max(chosen[e].noise_arrays for e in members)
                    noise = Noise(model.kind, logits, arrays, of_each, seed, memory)
                found = sample_moments(measured, x, logits, row, noise, memory=memory, advance=advance)
                for position, of_point in enumerate(found):
                    member, j = divmod(position, len(columns[i]))
                    points.fill(members[member], i, columns[i][j], exact[:, i], shift, of_point, draws / of_each)
    about = attributes(
        "bias",
        model,
        x,
        logits,
        draws,
        seed,
        exact_dtype="float64",
        estimator=json.dumps(labels if listed else labels[0]),
        estimator_parameters=json.dumps([_own_parameters(e) for e in chosen]),
        equal_cost=int(equal_cost),
        evaluations=json.dumps(costs if listed else costs[0]),
        target=target,
        moments=moments,
        kl=int(kl),
    )
    if cross is not None:
        about |= {"tf_fixed": float(cross[0]), "tb_fixed": float(cross[1])}
    return points.dataset(exact, labels if listed else None, target == "both", about)


def _draws_alike(costs: list[int], draws: int) -> dict[int, list[int]]:
    """Positions of the estimators by number of draws: `draws` of the dearest, of the others what these pay for."""
    if draws < BATCHES:
        raise ValueError(f"draws: got {draws}; equal cost needs at least {BATCHES}, a draw for each batch")
    if max(costs) > MOST_DRAWS_FOR_ONE * min(costs):
        raise ValueError(
            f"equal_cost: the estimators take {costs} loss evaluations per draw, so that one draw of the dearest stands"
            f" against {max(costs) // min(costs):,} of the cheapest; leave it out"
        )
    found: dict[int, list[int]] = {}
    for position, cost in enumerate(costs):
        found.setdefault(draws * max(costs) // cost, []).append(position)
    return found


def _resolve(given: str | Estimator, model: LatentModel) -> Estimator:
    if isinstance(given, str):
        given = estimators.get(given)
    if not isinstance(given, Estimator):
        raise ValueError(f"estimator: got {given!r}; a name of gradlab.estimators.names(), or an Estimator, would do")
    if model.kind.name not in given.kinds:
        raise ValueError(
            f"estimator: {given.name} is for {' and '.join(given.kinds)} latents, the model's are {model.kind.name}"
        )
    return given


def _own_parameters(estimator: Estimator) -> dict[str, Any]:
    return {k: v for k, v in estimator.parameters.items() if k not in ("tf", "tb")}


class _Points:
    """Arrays over (estimator, target, tf, tb), filled point by point."""

    def __init__(
        self, chosen: int, targets: Sequence[str], tfs: list[float], tbs: list[float], shape: Sequence[int], draws: int
    ):
        self.targets, self.tfs, self.tbs = targets, tfs, tbs
        self.batches = len(batch_bounds(draws)) - 1
        grid = (chosen, len(targets), len(tfs), len(tbs))
        self.mean = np.full((chosen, len(tfs), len(tbs), *shape), np.nan)  # NaN where nothing was measured
        self.std = self.mean.copy()
        self.figures = {name: np.full((*grid, 3), np.nan) for name in metrics.FIGURES}  # value, low, high
        self.replicates = np.full((len(metrics.FIGURES), self.batches, *grid), np.nan)
        self.per_example = np.full((*grid, shape[0], 3), np.nan)
        ratios = ("relative_bias_per_example_quantiles", "relative_bias_elementwise_quantiles")
        self.quantiles = {name: np.full((*grid, len(metrics.QUANTILES), 3), np.nan) for name in ratios}

    def fill(
        self, e: int, i: int, j: int, exact: np.ndarray, shift: np.ndarray, found: BatchMoments, share: float
    ) -> None:
        """One point: `exact` (target, example, latent[, category]), `shift` a constant added to every estimate.

        An estimate is the mean of 1/share draws, whose variance is `share` times that of one.
        """
        count = found.count.numpy().astype(np.float64)
        flat = (len(count), -1)
        batch_mean = found.mean.cpu().numpy().reshape(flat) + shift.reshape(-1)
        draws, means, variances = metrics.leave_one_out(count, batch_mean, found.squares.cpu().numpy().reshape(flat))
        draws, variances = share * draws, share * variances
        if not np.isfinite(means).all():
            point = f"tf = {self.tfs[i]:g}, tb = {self.tbs[j]:g}"
            raise ValueError(f"tf, tb: estimates at {point} are not finite; larger temperatures would do")
        shape = self.mean.shape[3:]
        self.mean[e, i, j] = means[0].reshape(shape)
        self.std[e, i, j] = np.sqrt(variances[0]).reshape(shape)
        for t in range(len(self.targets)):
            g = exact[t].reshape(-1)
            norm = float(np.sqrt(g @ g))
            at = (e, t, i, j)
            for position, (name, values) in enumerate(metrics.figures(g, means, variances, draws).items()):
                low, high = metrics.interval(name, values, draws, norm)
                self.figures[name][at] = values[0], low, high
                self.replicates[(position, slice(None), *at)] = values[1:]
            per_example = metrics.per_example_ratios(g, means, shape[0])
            self.per_example[at] = metrics.with_ends(per_example, draws, 0, np.inf)
            ratios = (per_example, metrics.elementwise_ratios(g, means))
            for name, values in zip(self.quantiles, ratios, strict=True):
                self.quantiles[name][at] = metrics.with_ends(metrics.quantiles(values), draws, 0, np.inf)

    def dataset(self, exact: np.ndarray, labels: list[str] | None, both: bool, about: dict[str, Any]) -> xr.Dataset:
        coordinates = COORDINATES[: exact.ndim - 2]
        grid = ("estimator", "target", "tf", "tb")
        of_gradient = f"{about['unit']} per logit"
        spread = "standard deviation of the estimates over draws (N - 1)"
        if about["equal_cost"]:
            spread += ", an estimate being the mean of the draws that equal loss evaluations pay for"
        variables: dict[str, Any] = {
            "exact_gradient": (
                ("target", "tf", *coordinates),
                exact,
                {"long_name": "exact gradient of the expected loss, by enumeration", "units": of_gradient},
            ),
            "mean_gradient": (
                ("estimator", "tf", "tb", *coordinates),
                self.mean,
                {"long_name": "mean of the estimates over draws", "units": of_gradient},
            ),
            "std_gradient": (
                ("estimator", "tf", "tb", *coordinates),
                self.std,
                {"long_name": spread, "units": of_gradient},
            ),
            "exact_norm": (
                grid,
                np.broadcast_to(
                    np.sqrt(np.square(exact).reshape(*exact.shape[:2], -1).sum(-1))[None, :, :, None],
                    self.per_example.shape[:4],
                ).copy(),
                {"long_name": "norm of the exact gradient", "units": of_gradient, "aggregation": _NORM},
            ),
        }
        for name, values in self.figures.items():
            words, units = metrics.FIGURES[name][0], "1" if _is_relative(name) else of_gradient
            if name == "squared_bias_debiased":
                units = f"({of_gradient})^2"
            variables |= with_interval(name, grid, values, {"long_name": words, "units": units, "aggregation": _NORM})
        for name, values in self.quantiles.items():
            over = "examples" if "per_example" in name else "coordinates whose exact gradient is not 0"
            words = f"quantiles over {over} of |mean estimate - exact gradient| / |exact gradient|"
            variables |= with_interval(name, (*grid, "quantile"), values, {"long_name": words, "units": "1"})
        words = "|mean estimate - exact gradient| / |exact gradient| of each example"
        named = {"long_name": words, "units": "1"}
        variables |= with_interval("relative_bias_per_example", (*grid, "example"), self.per_example, named)
        variables["replicates"] = (
            ("figure", "batch", *grid),
            self.replicates,
            {"long_name": "each figure without each batch of draws in turn", "units": "as the figure"},
        )
        ds = xr.Dataset(
            variables,
            coords={
                "estimator": coordinate("estimator", labels or [""]),
                "target": coordinate("target", list(self.targets), "target law"),
                **temperatures(self.tfs, self.tbs),
                "quantile": coordinate("quantile", list(metrics.QUANTILES)),
                "figure": coordinate("figure", list(metrics.FIGURES)),
                **{
                    name: coordinate(name, np.arange(size))
                    for name, size in zip((*coordinates, "batch"), (*exact.shape[2:], self.batches), strict=True)
                },
            },
            attrs=about,
        )
        if labels is None:
            ds = ds.isel(estimator=0, drop=True)
        return ds if both else ds.isel(target=0, drop=True)


_NORM = "Euclidean norm over example, latent and category"


def _is_relative(name: str) -> bool:
    return name.startswith(("relative", "cosine", "matched"))
