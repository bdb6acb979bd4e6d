"""What is measured, by name. On the bundled 8x4 VAE and 100 bundled images, but where the row says otherwise.

A row takes the peak memory after gradlab's part alone; the straightforward version, where it is slow, runs on a
part of the work and is scaled.
"""

from __future__ import annotations

import copy
import functools
import math

import numpy as np
import torch
from torch import Tensor

import gradlab
from gradlab import LatentModel, datasets, networks
from gradlab.sampling import Noise
from gradlab.setup import encode

from . import measure, straightforward, table
from .table import Row

TF, TB = 1.6, 1.3
DRAWS = 1024
TIMED_DRAWS = 4 * straightforward.CHUNK  # of the straightforward version
CHECKED_DRAWS = 2 * straightforward.CHUNK  # same noise on both sides
GRID = [round(0.3 * i, 1) for i in range(1, 11)]  # 0.3 .. 3.0


@functools.cache
def problem() -> tuple[LatentModel, Tensor]:
    return gradlab.bundled("vae-8x4-mnist").to(measure.device), pictures(100)


def pictures(count: int) -> Tensor:
    return datasets.load("mnist-sample").first(count).floats().to(measure.device)


def exact() -> list[Row]:
    model, x = problem()
    first = measure.seconds(lambda: gradlab.exact_gradient(model, x, TF))
    peak = measure.peak_memory()
    some = 4
    wide, few = copy.deepcopy(model).double(), x[:some].double()
    wanted = straightforward.exact_gradient(wide, few, TF)
    fast, slow = measure.best_in_turn(
        5,
        lambda: gradlab.exact_gradient(model, x, TF),
        lambda: straightforward.exact_gradient(wide, few, TF),
    )
    return [
        Row(
            name="exact gradient, float64, warm",
            gradlab=fast,
            straightforward=slow * len(x) / some,
            difference=relative(gradlab.exact_gradient(model, x, TF)[:some], wanted),
            peak=peak,
            remarks=f"limit 0.25 s; best of 5; first call {first:.2g} s; straightforward on {some} images, scaled",
        )
    ]


def point() -> list[Row]:
    return points_of(*problem(), "", "limit 1.5 s", "limit 1.5 s")


def untrained() -> list[Row]:
    """The draws of a model that is sure of nothing seldom meet the same code."""
    return points_of(untrained_model(), pictures(100), ", untrained", "target 1", "target 2")


def points_of(model: LatentModel, x: Tensor, what: str, *targets: str) -> list[Row]:
    bias = gradlab.bias  # imports it
    cold = measure.seconds(lambda: bias(model, x, TF, TB, draws=DRAWS))
    peak = measure.peak_memory()
    slowly = functools.partial(some_draws, model, x)
    slowly()
    warm, slow = measure.best_in_turn(5, lambda: bias(model, x, TF, TB, draws=DRAWS), slowly)
    slow *= DRAWS / TIMED_DRAWS
    difference = sampled_difference(model, x, [TF], [TB], [(TF, TB)])
    remarks = f"straightforward: the draws alone, on {TIMED_DRAWS} draws, scaled"
    states = [("cold", cold, "first call after imports"), ("warm", warm, f"best of 5{on_gpu('; target 10 ms')}")]
    return [
        Row(
            name=f"one point, {DRAWS:,} draws{what}, {state}",
            gradlab=fast,
            straightforward=slow,
            difference=difference,
            peak=peak,
            remarks=f"{target}; {how}; {remarks}",
        )
        for (state, fast, how), target in zip(states, targets, strict=True)
    ]


def untrained_model() -> LatentModel:
    config = {"latents": 4, "categories": 8}
    return networks.build("categorical-vae", config, seed=0).to(measure.device)


def on_gpu(remark: str) -> str:
    return "" if measure.device.type == "cpu" else remark


def cross() -> list[Row]:
    tfs, tbs = sorted([*GRID, TF]), sorted([*GRID, TB])
    return [over_points("cross", tfs, tbs, len(tfs) + len(tbs) - 1, (TF, TB))]


def grid() -> list[Row]:
    limits = "target 1/80 of it, limit 4 s; " if measure.device.type == "cpu" else "target 80 ms; "
    return [over_points("10x10 grid", GRID, GRID, len(GRID) ** 2, None, limits)]


def untrained_grid() -> list[Row]:
    """The first call of a process."""
    model, x = untrained_model(), pictures(100)
    bias = gradlab.bias  # imports it
    first = measure.seconds(lambda: bias(model, x, GRID, GRID, draws=DRAWS))
    peak = measure.peak_memory()
    slowly = functools.partial(some_draws, model, x)
    warm, slow = measure.best_in_turn(3, lambda: bias(model, x, GRID, GRID, draws=DRAWS), slowly)
    difference = sampled_difference(model, x, GRID, GRID, [(0.3, 3.0), (1.5, 1.2), (3.0, 0.3)])
    return [
        Row(
            name=f"10x10 grid, {DRAWS:,} draws, untrained, cold",
            gradlab=first,
            straightforward=slow * DRAWS / TIMED_DRAWS * len(GRID) ** 2,
            difference=difference,
            peak=peak,
            remarks=f"target 60; first call after imports, later calls {warm:.3g} s; straightforward: the draws alone,"
            f" on {TIMED_DRAWS} draws of one point, scaled",
        )
    ]


def images() -> list[Row]:
    """The grid on 1,000 images; the straightforward version on 100 of them, scaled."""
    model, _ = problem()
    x = pictures(1000)
    gradlab.bias(model, x[:10], GRID, GRID, draws=2)
    start = measure.peak_memory()
    fast = measure.seconds(lambda: gradlab.bias(model, x, GRID, GRID, draws=DRAWS))
    peak = measure.peak_memory()
    (slow,) = measure.best_in_turn(3, functools.partial(some_draws, *problem()))
    return [
        Row(
            name=f"10x10 grid, {len(x):,} images, {DRAWS:,} draws",
            gradlab=fast,
            straightforward=slow * DRAWS / TIMED_DRAWS * len(GRID) ** 2 * len(x) / len(problem()[1]),
            peak=peak,
            remarks=f"limits 60 s and 4 GiB, of which {start / 2**20:,.0f} MiB are there before; one run; "
            + rate(fast, len(x), len(GRID) ** 2)
            + "; straightforward on 100 images, scaled",
        )
    ]


def rate(seconds: float, examples: int, points: int) -> str:
    """Numbers of estimates per second, and the least time: that of reading q and v, in float32, once for each."""
    numbers = math.prod(problem()[0].code_shape) * examples * points * DRAWS
    least = table.seconds(2 * 4 * numbers / measure.copy_rate())
    return f"{numbers / seconds / 1e6:,.0f} million estimates/s; to read q and v once for each takes {least}"


def over_points(
    name: str,
    tfs: list[float],
    tbs: list[float],
    points: int,
    through: tuple[float, float] | None,
    limits: str = "",
) -> Row:
    model, x = problem()
    checked = [(0.3, TB), (TF, 3.0), (3.0, TB)] if through else [(0.3, 3.0), (1.5, 1.2), (3.0, 0.3)]
    gradlab.bias(model, x, tfs, tbs, draws=2, cross=through)
    measured = functools.partial(gradlab.bias, model, x, tfs, tbs, draws=DRAWS, cross=through)
    first = measure.seconds(measured)
    peak = measure.peak_memory()
    fast, slow = measure.best_in_turn(3, measured, functools.partial(some_draws, model, x))
    difference = sampled_difference(model, x, tfs, tbs, checked, through)
    return Row(
        name=f"{name}, {points} points, {DRAWS:,} draws",
        gradlab=fast,
        straightforward=slow * DRAWS / TIMED_DRAWS * points,
        difference=difference,
        peak=peak,
        remarks=f"{limits}best of 3, first call {first:.3g} s; {rate(fast, len(x), points)}; straightforward: the"
        f" draws alone, on {TIMED_DRAWS} draws of one point, scaled",
    )


def space() -> list[Row]:
    """4^10 configurations, on a GPU 4^12 too; there the first call loads the libraries."""
    return [_space(latents) for latents in ((10,) if measure.device.type == "cpu" else (10, 12))]


def _space(latents: int) -> Row:
    _, x = problem()
    model = networks.build("categorical-vae", {"latents": latents, "categories": 4}, seed=0).to(measure.device)
    found: list[Tensor] = []
    first = fast = measure.seconds(lambda: found.append(gradlab.exact_gradient(model, x)))
    peak = measure.peak_memory()
    if measure.device.type != "cpu":
        (fast,) = measure.best_in_turn(3, lambda: gradlab.exact_gradient(model, x))
    operations = model.configurations * (decoder_operations(model) + 2 * x[0].numel() * len(x))
    rate, reachable = operations / fast, measure.matrix_product_rate(torch.float64)
    some = 1
    wide = copy.deepcopy(model).double()
    wanted: list[Tensor] = []
    few = x[:some].double()
    slow = measure.seconds(lambda: wanted.append(straightforward.exact_gradient(wide, few, 1.0)))
    reached = f"{rate / 1e9:,.3g} GFLOP/s float64, {rate / reachable:.0%} of a matrix product's"
    return Row(
        name=f"exact gradient, {model.configurations:,} configurations",
        gradlab=fast,
        straightforward=slow * len(x) / some,
        difference=relative(found[0][:some], wanted[0]),
        peak=peak,
        remarks=f"untrained 4x{latents} VAE; {reached}; first call {first:.3g} s; straightforward on {some} image,"
        " scaled",
    )


def moments_exact() -> list[Row]:
    """Of an estimator that enumeration serves, and of one that leaves an integral over noise."""
    model, x = problem()
    gradlab.bias(model, x[:4], TF, TB, estimator="reinmax", moments="exact")
    found = []
    by_enumeration = measure.seconds(
        lambda: found.append(gradlab.bias(model, x, TF, TB, estimator="reinmax", moments="exact"))
    )
    peak = measure.peak_memory()
    wide, few = copy.deepcopy(model).double(), x[:1].double()
    wanted: list[tuple[Tensor, Tensor]] = []
    slow = measure.seconds(lambda: wanted.append(straightforward.reinmax_moments(wide, few, TF, TB)))
    differences = [
        relative(torch.from_numpy(found[0][name].to_numpy()[0, 0, :1]), value)
        for name, value in zip(("mean_gradient", "std_gradient"), wanted[0], strict=True)
    ]
    rows = [
        Row(
            name="exact moments, reinmax, one point",
            gradlab=by_enumeration,
            straightforward=slow * len(x),
            difference=max(differences),
            peak=peak,
            remarks="first call; straightforward on 1 image, scaled",
        )
    ]
    (slow,) = measure.best_in_turn(3, functools.partial(some_draws, *problem()))
    tfs, tbs = sorted([*GRID, TF]), sorted([*GRID, TB])
    for name, points, call in (
        ("one point", 1, lambda: gradlab.bias(model, x, TF, TB, moments="exact")),
        ("cross, 21 points", 21, lambda: gradlab.bias(model, x, tfs, tbs, cross=(TF, TB), moments="exact")),
    ):
        ds = []
        fast = measure.seconds(lambda c=call, into=ds: into.append(c()))
        at = ds[0].sel(tf=TF, tb=TB)
        error = float(at.mean_numerical_error)
        draws = (float(at.std_norm) / (error * float(at.mean_norm))) ** 2
        rows.append(
            Row(
                name=f"exact moments, decoupled-st-gs, {name}",
                gradlab=fast,
                straightforward=slow * draws / TIMED_DRAWS * points,
                remarks=f"numerical error {error:.1e} at ({TF}, {TB}); straightforward: the {draws:.1e} draws whose"
                f" standard error is that, on {TIMED_DRAWS}, scaled",
            )
        )
    return rows


def gap() -> list[Row]:
    model, x = gradlab.bundled("binary-ae-mnist").to(measure.device), pictures(64)
    draws = 4
    gradlab.gap(model, x, draws=2)
    whole = measure.seconds(lambda: gradlab.gap(model, x, GRID, GRID, draws=draws))
    peak = measure.peak_memory()
    noise = Noise(model.kind, encode(model, x), 1, draws, 0).of(1, 0, draws)[0]
    tf, tb = GRID[3], GRID[6]
    grid, single, slow = measure.best_in_turn(
        3,
        lambda: gradlab.gap(model, x, GRID, GRID, draws=draws),
        lambda: [gradlab.gap(model, x, t, tb, draws=draws) for t in GRID],
        lambda: straightforward.gaps(model, x, tf, tb, noise),
    )
    wanted = straightforward.gaps(model, x, tf, tb, noise)
    found = gradlab.gap(model, x, tf, tb, draws=draws).gap_per_example.to_numpy().squeeze()
    remarks = f"limit 1.3 times ten calls of one tf and tb: {grid / single:.3g}; first call {whole:.3g} s; best of 3"
    return [
        Row(
            name=f"gap, 10x10 grid, {model.latents:,} units, {len(x)} images, {draws} draws",
            gradlab=grid,
            straightforward=slow * len(GRID) ** 2,
            difference=relative(torch.from_numpy(found), wanted.mean(1)),
            peak=peak,
            remarks=f"{remarks}; straightforward: autograd at one point, scaled",
        )
    ]


def some_draws(model: LatentModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """The straightforward version's part of one point's draws."""
    return moments(straightforward.estimates(model, x, TF, TB, TIMED_DRAWS))


def sampled_difference(
    model: LatentModel,
    x: Tensor,
    tfs: list[float],
    tbs: list[float],
    checked: list[tuple[float, float]],
    through: tuple[float, float] | None = None,
) -> float:
    """Largest relative difference of mean and standard deviation at some points, with gradlab's noise for both."""
    ds = gradlab.bias(model, x, tfs, tbs, draws=CHECKED_DRAWS, cross=through, seed=0)
    with torch.no_grad():
        logits = model.logits(x)
    noise = Noise(model.kind, logits, 1, CHECKED_DRAWS, 0)
    differences = []
    for tf, tb in checked:
        found = ds.sel(tf=tf, tb=tb)
        estimates = straightforward.estimates(model, x, tf, tb, CHECKED_DRAWS, lambda a, b: noise.of(1, a, b)[0])
        wanted = moments(estimates)
        for name, value in zip(("mean_gradient", "std_gradient"), wanted, strict=True):
            differences.append(relative(torch.from_numpy(found[name].to_numpy()), value))
    return float(np.max(differences))  # NaN stays NaN


def moments(estimates: Tensor) -> tuple[Tensor, Tensor]:
    wide = estimates.double()
    return wide.mean(0), wide.std(0)


def relative(found: Tensor, wanted: Tensor) -> float:
    found, wanted = found.double().cpu(), wanted.double().cpu()
    return float((found - wanted).norm() / wanted.norm())


def decoder_operations(model: LatentModel) -> int:
    """Multiplications and additions of one configuration, of the linear layers."""
    layers = [layer for layer in model.decoder.modules() if isinstance(layer, torch.nn.Linear)]
    return sum(2 * layer.in_features * layer.out_features for layer in layers)
