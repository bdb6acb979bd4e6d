"""Properties of an estimator found by trial on a few numbers: noise arrays, evaluations, tensor temperatures.

They do not depend on temperatures, so one trial serves a whole grid.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from .. import errors
from ..k_hot import KHot
from ..latents import BINARY, CATEGORICAL, LatentKind

if TYPE_CHECKING:
    from .base import Estimator

MOST_ARRAYS = 64  # largest number of noise arrays that is tried
SMALL = 2**12  # most numbers of noise that points are made of; the first use of meta tensors imports for a second
DRAWS = 100  # enough that discrete codes differ between different arrays
SHAPES: dict[str, tuple[LatentKind, tuple[int, ...]]] = {  # (latent[, category])
    "categorical": (CATEGORICAL, (2, 3)),
    "binary": (BINARY, (3,)),
    "k-hot": (KHot(2), (2, 4)),
}
_known: dict[Hashable, Any] = {}
T = TypeVar("T")


def noise_arrays(estimator: Estimator) -> int:
    """The smallest number of noise arrays that gives the same points and estimate as any larger number.

    Raises ValueError if there is no such number, and the estimator's own error if it accepts no noise.
    """
    return _once(estimator, "noise arrays", lambda: _noise_arrays(_plain(estimator)))


def evaluations(estimator: Estimator, kind: LatentKind, shape: tuple[int, ...]) -> int:
    """The number of points for codes of shape (latent[, category])."""

    def count(device: str) -> int:
        plain = _plain(estimator)
        logits = torch.zeros(1, *shape, dtype=torch.float64, device=device)
        shape_of_noise = plain.noise_arrays, *logits.shape
        numbers = torch.Size(shape_of_noise).numel()  # all different, as of a sample: equal ones would be ties
        noise = torch.linspace(-1, 1, numbers, dtype=torch.float64, device=device).reshape(shape_of_noise)
        with torch.no_grad():
            return len(plain.points(kind, logits, noise))

    def counted() -> int:
        if estimator.noise_arrays * torch.Size(shape).numel() <= SMALL:
            return count("cpu")
        try:
            return count("meta")  # without the memory that many points take
        except Exception as error:  # an estimator may look at the numbers, or make tensors of its own
            errors.pass_on_memory(error)
            return count("cpu")

    return _once(estimator, ("evaluations", kind.name, shape), counted)


def takes_tensors(estimator: Estimator, kind: LatentKind, shape: tuple[int, ...]) -> bool:
    """Whether two models together, each at its own temperatures, get the same estimates as alone."""

    def agrees() -> bool:
        try:
            return tensors_agree(estimator, kind, shape)
        except Exception as error:  # an estimator that does not accept tensors may raise any error
            errors.pass_on_memory(error)
            return False

    return _once(estimator, ("tensors", kind.name, shape), agrees)


def tensors_agree(estimator: Estimator, kind: LatentKind, shape: tuple[int, ...]) -> bool:
    """Like `takes_tensors`, but raises the error of the estimator."""
    tfs, tbs = (0.8, 1.3), (1.1, 0.7)
    logits, noise = _numbers(2, DRAWS, *shape), _noise(kind, estimator.noise_arrays, 2, DRAWS, *shape)
    of_models = (torch.tensor(t, dtype=logits.dtype).reshape(2, *[1] * (1 + len(shape))) for t in (tfs, tbs))
    together = _results(estimator.at(*of_models), kind, logits, noise)
    for i, (tf, tb) in enumerate(zip(tfs, tbs, strict=True)):
        alone = _results(estimator.at(tf, tb), kind, logits[i], noise[:, i])
        if not _equal([a[:, i] for a in together], alone):
            return False
    return True


def _noise_arrays(estimator: Estimator) -> int:
    kind, shape = SHAPES[estimator.kinds[0]]
    logits, noise = _numbers(2, *shape), _noise(kind, MOST_ARRAYS, DRAWS, 2, *shape)
    failures: list[Exception] = []

    def given(arrays: int) -> list[Tensor] | None:
        try:
            return _results(estimator, kind, logits.clone(), noise[:arrays].clone())  # it may work in place
        except Exception as error:  # for example too few or too many arrays
            failures.append(error)
            return None

    numbers = range(1, MOST_ARRAYS + 1)
    most = given(MOST_ARRAYS)
    if most is not None:
        if _equal(most, given(MOST_ARRAYS - 1)):
            return next(arrays for arrays in numbers if _equal(most, given(arrays)))
    else:  # an estimator that unpacks its arrays accepts one number only
        able = [arrays for arrays in numbers if given(arrays) is not None]
        if len(able) == 1:
            return able[0]
        if not able:
            raise failures[1]  # with one array
    raise ValueError(
        f"estimator: {estimator.label}: expected `noise_arrays`, the number of noise arrays that it reads, got none;"
        f" trials with up to {MOST_ARRAYS} arrays do not determine it"
    )


def _equal(some: list[Tensor], others: list[Tensor] | None) -> bool:
    return others is not None and all(_close(*pair) for pair in zip(some, others, strict=True))


def _results(estimator: Estimator, kind: LatentKind, logits: Tensor, noise: Tensor) -> list[Tensor]:
    """Points and estimate, for a loss that is a simple function of the points."""
    with torch.enable_grad():
        points = estimator.points(kind, logits, noise).detach()
        flat = points.flatten(-1 - kind.event_dims)
        loss, derivative = torch.sin(flat.sum(-1)) + (flat * _numbers(flat.shape[-1])).sum(-1), torch.cos(points)
        f = loss if estimator.uses_loss else None
        v = derivative + _numbers(*points.shape[-1 - kind.event_dims :]) if estimator.uses_derivative else None
        return [points, estimator.estimate(kind, logits, noise, points, f, v).detach()[None]]


def _plain(estimator: Estimator) -> Estimator:
    return estimator.at(1.0, 1.0)


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-9, atol=1e-12, equal_nan=True)


def _noise(kind: LatentKind, *shape: int) -> Tensor:
    return kind.noise(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _numbers(*shape: int) -> Tensor:
    """Numbers in [-1, 1] without a pattern."""
    count = torch.Size(shape).numel()
    return torch.sin(2.3 * torch.arange(1, 1 + count, dtype=torch.float64) ** 1.5).reshape(shape)


@functools.cache
def _parameters_of(cls: type[Estimator]) -> tuple[str, ...]:
    """Names of the parameters other than temperatures."""
    return tuple(field.name for field in dataclasses.fields(cls) if field.name not in ("tf", "tb"))


def _once(estimator: Estimator, what: Hashable, find: Callable[[], T]) -> T:
    """`find()`, cached for all estimators that differ in their temperatures only."""
    cls = type(estimator)
    key = cls, *(getattr(estimator, name) for name in _parameters_of(cls)), what
    try:
        if key not in _known:
            _known[key] = find()
        return _known[key]
    except TypeError:
        if _hashable(key):
            raise
        return find()


def _hashable(key: Hashable) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True
