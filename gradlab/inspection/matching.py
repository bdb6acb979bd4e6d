"""Which catalogue entry a layer is, draw by draw: equal codes and equal estimates on the same noise.

Codes say which tf it would have; then tb is the one with which the entry's estimates are proportional to the layer's. A
factor of proportionality other than 1 is a fault of the layer that `Match.scale` names.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..estimators import Estimator, find, names, parameters
from ..estimators.evaluation import estimate_of, points_of
from ..latents import BINARY, LatentKind
from .setting import Runs

EQUAL = 1e-6  # relative difference of a row's estimates, in the median; 95 % of the rows are closer than LOOSE
LOOSE = 1e-4
SEARCHED = [0.05 * 1.2**i for i in range(34)]  # tb, between 0.05 and 20
FEW_ROWS = 24  # of the search
NEAR = 0.4  # relative difference at the best of the tb searched, above which no tb fits
GOLDEN = (5**0.5 - 1) / 2
SAMPLED = 0.999  # share of equal codes that makes draws the same


@dataclass(frozen=True)
class Match:
    """A catalogue entry whose estimates are the layer's over `scale`; `draws`: its codes are too, draw by draw."""

    entry: Estimator
    scale: float
    draws: bool
    off: float  # median over the rows of the relative difference of the estimates

    @property
    def label(self) -> str:
        return label(self.entry)


def label(e: Estimator) -> str:
    """`st-gs(convention=jang) at tf=1, tb=2`"""
    at = ", ".join(f"{name}={value:g}" for name, value in e.parameters.items() if name in ("tf", "tb"))
    return f"{e.label} at {at}"


def matches(
    runs: Runs,
    kind: LatentKind,
    tfs: Sequence[float],
    lawful: bool,
    among: Collection[type] | None = None,
    limit: float = EQUAL,
) -> list[Match]:
    """All entries that the layer equals but for a factor, those of factor 1 first.

    `among` are classes of entries, by default all. `tfs` are temperatures to try, the likely ones first; `lawful`: the
    codes follow the first of them, so that entries that are functions of the code are found where the layer samples
    with other noise. `limit`: relative difference of a row's estimates, in the median.
    """
    found = []
    tbs = list(dict.fromkeys([*tfs, runs.tb, runs.tf, 1.0, runs.tb / runs.tf, runs.tb * runs.tf]))
    for entry in _entries(kind, len(runs.noise)):
        if among is not None and type(entry) not in among:
            continue
        if entry.discrete_points:
            at = [(tf, tbs, draws) for tf, draws in _forward(entry, runs, kind, tfs, lawful, limit)]
        else:
            at = [(tf, [tb], True) for tf, tb in _of_relaxed(runs, kind)]
        found += [m for one in at if (m := _backward(entry, runs, kind, *one, limit)) is not None][:1]
    return sorted(found, key=lambda match: abs(match.scale - 1) > LOOSE)


def at_other_noise(runs: Runs, kind: LatentKind, tf: float) -> Match | None:
    """The entry whose gradient it has, at the noise of another call than the one that decides its codes."""
    tbs = list(dict.fromkeys([runs.tb, runs.tf, 1.0, tf]))
    for noise in runs.elsewhere:
        at_noise = dataclasses.replace(runs, noise=noise[None])
        for entry in _entries(kind, 1):
            of_noise = entry.discrete_points and not entry.code_only and not entry.noise_free
            if of_noise and (match := _backward(entry, at_noise, kind, tf, tbs, False, EQUAL)) is not None:
                return match
    return None


def _entries(kind: LatentKind, arrays: int) -> Iterator[Estimator]:
    """Entries that are functions of one code and the derivative there, in all their modes."""
    for name in names():
        cls = find(name)
        if cls.uses != ("derivative",) or kind.name not in cls.kinds:
            continue
        choices = {
            field.name: allowed.values
            for field in dataclasses.fields(cls)
            if (allowed := parameters.allowed(field)) is not None and allowed.values
        }
        for values in itertools.product(*choices.values()):
            options: dict[str, Any] = dict(zip(choices, values, strict=True))
            entry = cls(**options)
            if "k" in entry.parameters and arrays > 1:
                entry = dataclasses.replace(entry, k=arrays - 1)  # type: ignore[call-arg]
            if entry.noise_arrays <= arrays:
                yield entry


def _forward(
    entry: Estimator, runs: Runs, kind: LatentKind, tfs: Sequence[float], lawful: bool, limit: float
) -> Iterator[tuple[float, bool]]:
    """The tf with which the entry's points are the layer's codes, and whether they are draw by draw."""
    for tf in tfs:
        points = points_of(entry.at(tf, 1.0), kind, runs.logits, runs.noise)[0]
        if float((points - runs.z).abs().lt(0.01).double().mean()) > min(SAMPLED, 1 - limit):
            yield tf, True
            return
    if lawful and entry.code_only:
        yield tfs[0], False


def _of_relaxed(runs: Runs, kind: LatentKind) -> list[tuple[float, float]]:
    """tf and tb of y = softmax((l/tf + g)/tb): log y is linear in l and g."""
    y, l, g = runs.z, runs.logits, runs.noise[0]
    a = torch.logit(y) if kind is BINARY else y.log() - y.log()[..., :1]
    if kind is not BINARY:
        l, g, a = (one[..., 1:] for one in (l - l[..., :1], g - g[..., :1], a))
    rows = [one.flatten() for one in (l, g, a)]
    known = torch.isfinite(rows[2]) & (rows[2].abs() < 20)
    if int(known.sum()) < 10:
        return []
    of_l, of_g = torch.linalg.lstsq(torch.stack(rows[:2], 1)[known], rows[2][known, None]).solution[:, 0].tolist()
    if not of_l > 0 < of_g:
        return []
    fitted = of_g / of_l, 1 / of_g
    return [(float(f"{fitted[0]:.3g}"), float(f"{fitted[1]:.3g}")), (_plain(fitted[0]), _plain(fitted[1]))]


def _backward(
    entry: Estimator, runs: Runs, kind: LatentKind, tf: float, tbs: Sequence[float], draws: bool, limit: float
) -> Match | None:
    """The entry at the tb that fits, if one does."""
    if "tb" not in entry.parameters:
        return _at(entry.at(tf, tf), runs, kind, draws, limit)
    for tb in tbs:
        if (match := _at(entry.at(tf, tb), runs, kind, draws, limit)) is not None:
            return match
    if not entry.discrete_points:
        return None
    few = dataclasses.replace(
        runs,
        **{name: getattr(runs, name)[:FEW_ROWS] for name in ("logits", "z", "v", "estimate")},
        noise=runs.noise[:, :FEW_ROWS],
    )

    def off(tb: float) -> float:
        return _difference(entry.at(tf, tb), few, kind)[1]

    best = min(SEARCHED, key=off)
    if off(best) > NEAR:
        return None
    low, high = best / 1.2, best * 1.2
    a, b = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    of_a, of_b = off(a), off(b)
    while high - low > 1e-8 * best:
        if of_a < of_b:
            high, b, of_b = b, a, of_a
            a = high - GOLDEN * (high - low)
            of_a = off(a)
        else:
            low, a, of_a = a, b, of_b
            b = low + GOLDEN * (high - low)
            of_b = off(b)
    return _at(entry.at(tf, _plain((low + high) / 2)), runs, kind, draws, limit)


def _at(entry: Estimator, runs: Runs, kind: LatentKind, draws: bool, limit: float) -> Match | None:
    scale, _ = _difference(entry, runs, kind)
    rows = _rows_apart(entry, runs, kind, scale)
    loose = max(LOOSE, 4 * limit)
    if scale == 0 or not (float(rows.median()) < limit and float(rows.quantile(0.95)) < loose):
        return None
    if not entry.discrete_points:
        points = points_of(entry, kind, runs.logits, runs.noise)[0]
        if not torch.allclose(points, runs.z, atol=loose):
            return None
    return Match(entry, _plain(scale), draws, float(rows.median()))


def _difference(entry: Estimator, runs: Runs, kind: LatentKind) -> tuple[float, float]:
    """The scale with which the entry's estimates are closest to the layer's, and their relative difference then."""
    given = _estimate(entry, runs, kind)
    norm = float(given.square().sum())
    if not 0 < norm < float("inf"):
        return 0.0, 1.0
    scale = float((given * runs.estimate).sum()) / norm
    return scale, float((scale * given - runs.estimate).norm() / (runs.estimate.norm() + 1e-300))


def _rows_apart(entry: Estimator, runs: Runs, kind: LatentKind, scale: float) -> Tensor:
    """Of each row, the difference of the estimates over their size."""
    off = (scale * _estimate(entry, runs, kind) - runs.estimate).flatten(1).norm(dim=1)
    sizes = runs.estimate.flatten(1).norm(dim=1)
    return off / (sizes + 1e-3 * sizes.mean() + 1e-300)


def _estimate(entry: Estimator, runs: Runs, kind: LatentKind) -> Tensor:
    return estimate_of(entry, kind, runs.logits, runs.noise, runs.z[None], None, runs.v[None])


def _plain(number: float) -> float:
    """The number to six digits, without the rounding of a fit."""
    return float(f"{number:.6g}")
