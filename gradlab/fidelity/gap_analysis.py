"""The function `gap`: the gradient gap between relaxed and discrete forward pass over grids of temperatures -> Dataset.

The noise g is shared: zf = softmax(l/tf + g), z = onehot(argmax zf), qb = softmax(l/tb + g). The discrete gradient of
an example is that of Decoupled ST-GS, d = (1/tb) J(qb) v(z). Its relaxed gradient r has two definitions:

    autodiff          (1/tf) J(zf) v(zf)     automatic differentiation through the relaxed code
    shared-backward   (1/tb) J(qb) v(zf)     only the forward pass differs

Of k-hot codes z is the k largest of zf, and zf and qb are `KHot.relaxed` in place of softmax.

gap = |r - d|, relative gap = |r - d| / |d|, cosine = <r, d> / (|r| |d|), with norms over latent and category. v at z
and zf does not depend on tb, so two decoder passes per noise array and tf serve all tb.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .. import checks, errors, progress
from ..cautions import SamplingWarning, of_sampling
from ..derivatives import at_all_points
from ..estimators import Estimator
from ..estimators.evaluation import estimate_of, points_of
from ..estimators.straight_through import DecoupledSTGS
from ..latents import LatentKind
from ..methods import Compute
from ..metrics import GapMetric, GapTerms, over_examples, registry
from ..model import LatentModel, check_is_model, precision
from ..moved import moved
from ..numerics import plain_arithmetic
from ..sampling import BATCHES, Noise, batch_bounds
from ..schema import (
    coordinate,
    effective_examples,
    example_replicates,
    metric_variables,
    population_ends,
    replicates,
    temperatures,
    with_interval,
)
from ..setup import Setup, prepare
from ..statistics.jackknife import with_ends
from .labels import JACKKNIFE, attributes
from .rarity import rarity, variables
from .request import estimator_of, temperatures_of
from .room import check_result, of_gap

DEFINITIONS = ("autodiff", "shared-backward")

_MEAN = "mean over examples and draws; norms over latent and category of each example"
_MOVED = {
    **{name: f"compute=gradlab.Compute({name}={{}})" for name in ("device", "dtype", "tf32", "memory")},
    "shown": "compute=gradlab.Compute(progress={})",
}
_ARRAYS = 16  # arrays of the size of a block's logits that exist at a time
# of a norm: in float32, squares of numbers below 1e-19 are 0, as gradients at small tb often are, and those above 1e19
# are infinite
_SMALL, _LARGE = 1e-13, 1e13
_IN_CACHE = 2**18  # numbers of an array; larger blocks take twice the time per backward temperature on a CPU


@moved(_MOVED)
def gap(
    model: LatentModel,
    x: Any,
    tf: float | Sequence[float] = 1.0,
    tb: float | Sequence[float] | None = None,
    *,
    estimator: str | Estimator = "decoupled-st-gs",
    draws: int = 64,
    seed: int = 0,
    compute: Compute | None = None,
) -> xr.Dataset:
    """The gradient gap between relaxed and discrete forward pass, by default of Decoupled ST-GS, at all temperatures.

    Works for code spaces of any size. The gap is not the bias: neither gradient is the exact one. The raw gap shrinks
    like 1/tb for any alignment; `relative_gap` and `cosine` do not.

    Parameters
    ----------
    model : LatentModel
    x : observations (example, ...)
    tf, tb : forward and backward temperatures, a number or a sequence; tb defaults to the values of tf
    estimator : a name or an Estimator, one of `from_layer` too: one that pulls df/dz back from the code hard(l/tf + g);
        its backward pass takes the place of Decoupled ST-GS's, and its temperatures are replaced by the grid's
    draws : number of noise arrays, at least 2, shared by all temperatures
    seed : the same seed gives the same numbers up to rounding for any memory; the global random state is not touched
    compute : Compute: device and precision of the gradients, memory, progress bar. Sums use float64, and from the
        first norm below 1e-13 or above 1e13 on, whose squares float32 may not hold, so do the gradients

    Returns
    -------
    A Dataset with dims definition ("autodiff", "shared-backward"), tf, tb, example. `gap`, `squared_gap`,
    `relative_gap`, `cosine`, `discrete_norm` and `relaxed_norm` (definition, tf, tb) are means over examples and draws
    of per-example values. Each has NAME_low and NAME_high, a 95 % interval (jackknife over batches of draws, examples
    fixed), and NAME_population_low and NAME_population_high, a 95 % interval for the data distribution (examples as a
    sample, draws included; NaN with one example). `effective_examples` is the number of examples that carry the
    discrete gradient's norm. `gap_per_example` is a mean over draws. Norms have the unit of the loss per logit.
    `undefined` is the share of (example, draw) that relative_gap and cosine omit, because a gradient is exactly 0
    (saturated codes).
    `replicates` contains each metric without each batch in turn, `example_replicates` without each example, for
    `gradlab.fidelity.differences.change`.

    Raises
    ------
    ValueError
        Invalid temperatures, draws, shapes or values.

    Warns
    -----
    SamplingWarning
        From `gradlab.cautions`, a UserWarning: latents are almost certain, and draws rarely show what carries the gap.

    Source: section 5.2.1, appendix D and figure 5 of the Decoupled ST-GS paper; Huh et al. 2023.

    Examples
    --------
    >>> import gradlab
    >>> model, x = gradlab.bundled("vae-8x4-mnist"), gradlab.datasets.load("mnist-sample", "test").first(4).floats()
    >>> gradlab.gap(model, x, tf=1.0, tb=[0.5, 1.0], draws=64).relative_gap.dims
    ('definition', 'tf', 'tb')
    """
    check_is_model(model)
    tfs, tbs = temperatures_of(tf, tb, [estimator])
    pulled = estimator_of(estimator)
    draws = errors.whole_number("draws", draws, 2, "an interval needs two")
    compute = compute or Compute()
    with plain_arithmetic(compute.tf32):
        setup = prepare(model, x, compute, seed)
        x, logits, memory = setup.x, setup.logits, setup.memory
        points = len(DEFINITIONS) * len(tfs) * len(tbs)
        terms = sum(_terms(registry.of_analysis("gap")).values())
        check_result(len(tfs), len(tbs), len(x), of_gap(setup, points, min(BATCHES, draws), terms))
        _check_pulls_back(pulled, setup)
        arrays = pulled.noise_arrays
        noise = Noise(setup.kind, logits, arrays, draws, setup.seed, memory)
        sums = _Sums(tfs, tbs, len(x), draws, logits.device)
        bar = progress.bar("measuring the gap", draws * len(x) * len(tfs), compute.progress, pieces=1)
        dtype = logits.dtype

        def measured(i: int, examples: slice, chunk: slice, dtype: torch.dtype) -> Tensor:
            g, e = noise.of(arrays, chunk.start, chunk.stop)[:, :, examples], pulled.at(tfs[i], tfs[i])
            return _measure(logits[examples].to(dtype), g.to(dtype), setup.model, x[examples], e, tbs, memory, check)

        with bar as advance, checks.deferred(x.device) as check, checks.read_later(x.device) as later:

            def add(block: tuple[int, slice, slice], found: Tensor) -> None:
                sums.add(*block, *found)
                advance(found.shape[-2] * found.shape[-1])

            def add_if_held(held: bool, block: tuple[int, slice, slice], found: Tensor) -> None:
                nonlocal dtype
                if not held:
                    dtype = torch.float64  # from now on: other blocks have such norms too, and would be measured twice
                add(block, found if held else measured(*block, dtype))

            for block in ((i, *of) for i in range(len(tfs)) for of in _chunks(logits, draws, memory)):
                found = measured(*block, dtype)
                if dtype == torch.float64:
                    add(block, found)
                else:
                    held = ((found[:3] >= _SMALL) & (found[:3] <= _LARGE)).all()  # what float32 can hold
                    later(held, functools.partial(add_if_held, block=block, found=found))
    about = attributes("gap", setup, draws, estimator=pulled.label, tf32=int(compute.tf32))
    rare = rarity(model.kind, logits, [pulled.at(t, t).law_tf for t in tfs]).of_middle_example()
    taken = np.full((len(DEFINITIONS), len(tfs), len(tbs)), float(draws))
    ds = sums.dataset(about).assign(variables(rare, taken, grid=("definition", "tf", "tb")))
    for sentence in of_sampling(ds):
        errors.warn(sentence, SamplingWarning)
    return ds


def _chunks(logits: Tensor, draws: int, memory: int) -> Iterator[tuple[slice, slice]]:
    """Yields blocks (examples, draws) whose arrays fit in the memory and, on a CPU, in the cache."""
    numbers = memory // (_ARRAYS * torch.float64.itemsize)
    if logits.device.type == "cpu":
        numbers = min(numbers, _IN_CACHE)
    rows = max(1, numbers // logits[0].numel())
    of_examples = min(rows, len(logits))
    of_draws = max(1, rows // of_examples)
    for e in range(0, len(logits), of_examples):
        for d in range(0, draws, of_draws):
            yield slice(e, e + of_examples), slice(d, min(d + of_draws, draws))


def _measure(
    logits: Tensor,
    noise: Tensor,
    model: LatentModel,
    x: Tensor,
    e: Estimator,
    tbs: list[float],
    memory: int,
    check: checks.Check,
) -> Tensor:
    """|r - d|, |d|, |r| and <r, d>, (4, definition, tb, draw, example); `noise` (array, draw, example, latent, ...).

    In the precision of the logits, but for the decoder, which keeps its own.
    """
    kind, tf = model.kind, e.law_tf
    a = logits / tf + noise[0]
    zf, z = kind.relaxed(a), kind.hard(a)
    _, v = at_all_points(model, x, torch.stack([z, zf]).to(precision(model, x)), memory, check=check)
    assert v is not None
    v = v.to(logits.dtype)
    through = kind.pull_relaxed(a, v[1]).div_(tf)  # the autodiff definition's r
    through_norm = _norm(through)
    v[1] -= v[0]
    found = []
    for tb in tbs:
        # d and the shared-backward r - d, both times tb; r - d is computed from the difference of v: no cancellation
        d, off = _pulled_back(e.at(e.tf, tb), tb, kind, logits, noise, z, v, check)
        d_norm = _norm(d) / tb
        autodiff = [_norm(torch.sub(through, d, alpha=1 / tb)), d_norm, through_norm, _dot(through, d) / tb]
        off_norm = _norm(off) / tb
        off += d
        shared = [off_norm, d_norm, _norm(off) / tb, _dot(off, d) / tb**2]
        found.append(torch.stack(autodiff + shared))
    return torch.stack(found, 1).unflatten(0, (2, 4)).transpose(0, 1).double()


def _pulled_back(
    e: Estimator,
    tb: float,
    kind: LatentKind,
    logits: Tensor,
    noise: Tensor,
    z: Tensor,
    v: Tensor,
    check: checks.Check,
) -> Tensor:
    """tb times the estimates for both derivatives v (2, draw, example, latent[, category]) at the codes z."""
    if type(e) is DecoupledSTGS:
        return kind.pull_relaxed(torch.add(noise[0], logits, alpha=1 / tb), v)
    points = points_of(e, kind, logits, noise)

    def complain() -> None:
        raise ValueError(
            f"estimator: expected one whose code is hard(l/tf + g) for a gap, got {e.label}, which samples with other"
            " noise"
        )

    if points[0].shape != z.shape:
        complain()
    check((points[0] == z).all(), complain)
    return tb * torch.stack([estimate_of(e, kind, logits, noise, points, None, one[None]) for one in v])


def _check_pulls_back(e: Estimator, setup: Setup) -> None:
    """Raises ValueError unless the estimate is a function of the derivative at one code."""
    if setup.kind.name not in e.kinds:
        raise ValueError(f"estimator: expected one for {setup.kind.name} latents, got {e.label}")
    one_code = e.evaluations_at(setup.kind, setup.logits) == 1 and e.discrete_points and not e.noise_free
    if e.uses_loss or not e.uses_derivative or not one_code:
        raise ValueError(
            f"estimator: expected one that pulls df/dz back from a sampled code for a gap, got {e.label}; take st-gs,"
            " ste, reinmax, ..."
        )


def _norm(a: Tensor) -> Tensor:
    """The norm over all dims except draw and example."""
    return torch.linalg.vector_norm(a.flatten(2), dim=-1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a.flatten(2), b.flatten(2))


def _terms(metrics: Mapping[str, GapMetric]) -> dict[str, int]:
    """The number of terms of each metric."""
    ones = GapTerms(*np.ones((len(GapTerms._fields), 1)))
    return {name: len(metric.terms(ones)) for name, metric in metrics.items()}


class _Sums:
    """Float64 sums of the terms of all metrics over draws and examples, at each point, for each batch of draws."""

    def __init__(self, tfs: list[float], tbs: list[float], examples: int, draws: int, device: torch.device):
        self.tfs, self.tbs, self.examples = tfs, tbs, examples
        self.metrics: dict[str, GapMetric] = registry.of_analysis("gap")
        bounds = np.array(batch_bounds(draws))
        self.per_batch = np.diff(bounds)
        self.batches = len(self.per_batch)
        self.ends = torch.from_numpy(bounds[1:]).to(device)
        points = (len(DEFINITIONS), len(tfs), len(tbs), self.batches)
        self.terms = _terms(self.metrics)
        self.total = torch.zeros(sum(self.terms.values()), *points, dtype=torch.float64, device=device)
        self.count = torch.zeros_like(self.total)
        shape = (*self.total.shape[:4], examples)
        self.total_of_example = self.total.new_zeros(shape)
        self.count_of_example = self.total.new_zeros(shape)
        self.discrete_squares = self.total.new_zeros(len(tfs), len(tbs), examples)
        self.per_example = torch.zeros(*points, examples, dtype=torch.float64, device=device)

    def add(
        self, i: int, examples: slice, draws: slice, gap: Tensor, d_norm: Tensor, r_norm: Tensor, dot: Tensor
    ) -> None:
        """Add |r - d|, |d|, |r| and <r, d>, all (definition, tb, draw, example), at the i-th tf."""
        of = GapTerms(gap, d_norm, torch.where(d_norm > 0, d_norm, torch.nan), r_norm, dot)
        values = torch.stack([term for metric in self.metrics.values() for term in metric.terms(of)])
        here = torch.bucketize(torch.arange(draws.start, draws.stop, device=self.ends.device), self.ends, right=True)
        known = ~values.isnan()
        values, known = torch.where(known, values, 0.0), known.double()
        for sums, of_examples, of_draws in (
            (self.total, self.total_of_example, values),
            (self.count, self.count_of_example, known),
        ):
            sums[:, :, i].index_add_(3, here, of_draws.sum(-1))
            of_examples[:, :, i, :, examples] += of_draws.sum(-2)
        self.discrete_squares[i, :, examples] += d_norm[0].square().sum(-2)
        self.per_example[:, i, :, :, examples].index_add_(2, here, gap)

    def dataset(self, about: dict[str, Any]) -> xr.Dataset:
        total, count = (_without_each(np.moveaxis(sums.cpu().numpy(), 4, 0)) for sums in (self.total, self.count))
        pairs = self.examples * int(self.per_batch.sum())
        first = dict(
            zip(self.terms, np.cumsum([0, *self.terms.values()]), strict=False)
        )  # place of each metric's terms
        if (bad := np.argwhere(count[0, first["gap"]] < pairs)).size:
            point = f"tf = {self.tfs[bad[0][1]]:g}, tb = {self.tbs[bad[0][2]]:g}"
            raise ValueError(f"tf, tb: expected finite gradients, got others at {point}; use larger temperatures")
        with np.errstate(invalid="ignore", divide="ignore"):
            terms = np.moveaxis(total / count, 1, 0)
            means = {
                name: metric.value(*terms[first[name] : first[name] + self.terms[name]])
                for name, metric in self.metrics.items()
            }
        counts = self.per_batch.astype(float)
        draws = np.concatenate([[counts.sum()], counts.sum() - counts])
        per_example = _without_each(np.moveaxis(self.per_example.cpu().numpy(), 3, 0)) / draws.reshape(-1, 1, 1, 1, 1)

        grid = ("definition", "tf", "tb")
        of_gradient = f"{about['unit']} per logit"
        of_metrics = {name: with_ends(means[name], draws, *metric.bounds) for name, metric in self.metrics.items()}
        variables = metric_variables(of_metrics, grid, of_gradient, _MEAN, self.metrics)
        words = "norm of relaxed minus discrete gradient, of each example"
        named = {"long_name": words, "units": of_gradient, "aggregation": "mean over draws"}
        ends = with_ends(per_example, draws, 0, np.inf)
        variables |= with_interval("gap_per_example", (*grid, "example"), ends, named)
        variables |= self._over_examples(first, grid, of_gradient)
        words = "share of examples and draws left out of relative_gap or cosine, because a gradient is exactly 0"
        left_out = 1 - count[0, first["cosine"]] / pairs
        variables["undefined"] = (grid, left_out, {"long_name": words, "units": "1"})
        variables["replicates"] = replicates(np.stack([means[name][1:] for name in self.metrics]), grid)
        about["intervals"] = JACKKNIFE
        return xr.Dataset(
            variables,
            coords={
                "definition": coordinate("definition", list(DEFINITIONS), "definition of the gap"),
                **temperatures(self.tfs, self.tbs),
                "metric": coordinate("metric", list(self.metrics)),
                "example_metric": coordinate("example_metric", list(self.metrics)),
                "example": coordinate("example", np.arange(self.examples)),
                "batch": coordinate("batch", np.arange(self.batches)),
            },
            attrs=about,
        )

    def _over_examples(self, first: Mapping[str, int], grid: Sequence[str], of_gradient: str) -> dict[str, Any]:
        """Intervals over examples, values without each example, and the number of examples that carry the norm."""

        def value(metric: GapMetric, sums: np.ndarray) -> np.ndarray:
            totals, counts = np.split(sums, 2)
            return metric.value(*(totals / counts))

        found: dict[str, over_examples.OverExamples] = {}
        for name, metric in self.metrics.items():
            here = slice(first[name], first[name] + self.terms[name])
            own = [of[here].cpu().numpy() for of in (self.total_of_example, self.count_of_example)]
            found |= dict(over_examples.of_sums({name: metric}, value, np.concatenate(own)))
        ends = {name: np.stack([of.low, of.high], -1) for name, of in found.items()}
        carried = over_examples.effective(self.discrete_squares.cpu().numpy())
        return (
            population_ends(ends, grid, of_gradient, self.metrics)
            | {"example_replicates": example_replicates(np.stack([of.without for of in found.values()]), grid)}
            | effective_examples(carried, ("tf", "tb"), "discrete gradient's norm")
        )


def _without_each(of_batches: np.ndarray) -> np.ndarray:
    """The sum over all batches, then without each batch in turn: (batch, ...) -> (1 + batch, ...)."""
    whole = of_batches.sum(0)
    return np.concatenate([whole[None], whole - of_batches])
