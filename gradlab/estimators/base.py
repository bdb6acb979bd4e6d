"""The estimator protocol: logits and noise -> points; loss and derivative at the points -> estimate.

An estimator is a frozen record of its parameters with a few pure functions. It never sees a model, so the same object
serves sampling, enumeration, training and tests. Shapes, where `...` are any leading dims (draws, models):

    logits      (example, latent, category)                             binary: (example, latent)
    noise       (array, ..., example, latent, category)                 standard Gumbel (binary: logistic) arrays
    points      (evaluation, ..., example, latent, category)            where the loss is wanted
    loss        (evaluation, ..., example)                              f(z, x)
    derivative  (evaluation, ..., example, latent, category)            v = df/dz
    weights     (evaluation, ..., example)                              shares in the loss the decoder is trained on
    estimate    (..., example, latent, category)                        of dE[f]/dlogits, per example

Logits may have leading dims too, one for several models. Temperatures are numbers, or tensors that broadcast with the
logits: (model, 1, 1, 1), binary (model, 1, 1).

Noise array 0 samples the code, so all estimators share their codes (common random numbers).

A class must state `name` and `estimate`, and `points` unless its only point is the sampled code. All other members are
optional. Leaving them out costs time but never gives a wrong result:

    for readers         formula, reference
    about the estimate  kinds, unbiased, uses, weights, baseline_decay
    promises            shared_points, pull_back, exact_moments (see promises), noise_arrays

Callers use `evaluation.evaluate`, which computes points, loss and estimate.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from .. import errors
from ..latents import LatentKind
from . import parameters, probing, promises
from .promises import Constant, ExactMoments, FunctionOfCode, PullBack, SharedPoints

# members that are derived from others -> what a class has to state instead
_DERIVED = {
    "evaluations": "nothing, the points are counted",
    "evaluations_at": "nothing, the points are counted",
    "points_key": "shared_points",
    "relaxation_key": "pull_back",
    "uses_loss": 'uses = ("loss",), ("derivative",) or both',
    "uses_derivative": 'uses = ("loss",), ("derivative",) or both',
    "discrete_points": "shared_points = SharedPoints(key, codes=...)",
    "all_configurations": "shared_points = SharedPoints(key, all_configurations=True)",
    "code_only": "exact_moments = FunctionOfCode()",
    "noise_free": "exact_moments = Constant()",
}


def _translate(cls: type[Estimator]) -> None:
    """Replace derived members that a class states by the members they are derived from, with a warning."""
    stated = {name: vars(cls)[name] for name in _DERIVED.keys() & vars(cls).keys()}
    if not stated:
        return
    for name in stated:
        delattr(cls, name)
    uses = {name: stated.get(f"uses_{name}", name in cls.uses) for name in ("loss", "derivative")}
    if all(isinstance(value, bool) for value in uses.values()) and any(uses.values()) and "uses" not in vars(cls):
        cls.uses = tuple(name for name, value in uses.items() if value)
    for name, moments in (("code_only", FunctionOfCode()), ("noise_free", Constant())):
        if stated.get(name) is True and "exact_moments" not in vars(cls):
            cls.exact_moments = moments  # type: ignore[assignment, method-assign]
    instead = "; ".join(f"for {name}, {_DERIVED[name]}" for name in sorted(stated))
    errors.warn(
        f"{cls.__qualname__}: expected {', '.join(sorted(stated))} not to be stated; state {instead}",
        DeprecationWarning,
    )


@dataclass(frozen=True, kw_only=True)
class Estimator(ABC):
    """Base of all estimators. `tf` is the temperature of the law softmax(l/tf) from which codes are sampled."""

    tf: float = parameters.temperature(1.0)

    name: ClassVar[str]
    formula: ClassVar[str] = ""
    reference: ClassVar[str] = ""
    kinds: ClassVar[tuple[str, ...]] = ("categorical",)  # kinds of latent, also "binary"
    unbiased: ClassVar[bool] = False  # for the gradient of the expected loss under softmax(l/tf)
    uses: ClassVar[tuple[str, ...]] = ("loss", "derivative")  # the arguments that `estimate` gets; others are None
    law: ClassVar[str] = "tf"  # what its codes follow: "tf" softmax(l/tf), "model" softmax(l), whatever tf

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        _translate(cls)
        promises.withdraw(cls, {"noise_arrays": Estimator.noise_arrays})

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, allowed = getattr(self, field.name), parameters.allowed(field)
            if field.name == "tb" and value is None:
                value = self.tf
            elif allowed is not None:
                value = allowed.check(field.name, value)
            object.__setattr__(self, field.name, value)

    # --- what an author writes ---

    def points(self, kind: LatentKind, logits: Tensor, noise: Tensor) -> Tensor:
        """The points where the loss is evaluated; by default one code per draw, z = hard(l/tf + g) ~ softmax(l/tf)."""
        return kind.hard(logits / self.tf + noise[0])[None]

    @abstractmethod
    def estimate(
        self,
        kind: LatentKind,
        logits: Tensor,
        noise: Tensor,
        points: Tensor,
        loss: Tensor | None,
        derivative: Tensor | None,
    ) -> Tensor:
        """The estimate. `loss` or `derivative` is None if `uses` does not name it."""

    def weights(self, kind: LatentKind, logits: Tensor, points: Tensor) -> Tensor | None:
        """Share of each evaluation in the loss that the decoder is trained on; None: equal shares.

        An evaluation with share 0 may still use its derivative, because that is df/dz, not of the weighted loss.
        """
        return None

    @property
    def baseline_decay(self) -> float | None:
        """Decay of the running mean that the caller subtracts from the loss (see RunningMean); None: no baseline."""
        return None

    @property
    def noise_arrays(self) -> int:
        """Number of noise arrays per draw; determined by trial if the class does not state it."""
        return probing.noise_arrays(self)

    @property
    def shared_points(self) -> SharedPoints | None:
        """The promise about `points`; None: no promise, and no other estimator shares the points."""
        return SharedPoints(("sample", self.tf))

    @property
    def pull_back(self) -> PullBack | None:
        """The promise that the estimate is the derivative pulled back through a softmax; None: no such promise."""
        return None

    @property
    def exact_moments(self) -> ExactMoments | None:
        """How mean and variance are computed without sampling; None: only by sampling."""
        return None

    # --- what callers read ---

    def evaluations_at(self, kind: LatentKind, logits: Tensor) -> int:
        """Number of loss evaluations (points) per draw for logits of this shape."""
        return probing.evaluations(self, kind, tuple(logits.shape[-1 - kind.event_dims :]))

    @property
    def points_key(self) -> Hashable:
        """Equal for estimators with equal points. Estimators with different `points` functions have different keys."""
        shared = self.shared_points
        return (type(self), self) if shared is None else (type(self).points, shared.key)

    @staticmethod
    def sample_key(tf: float | Tensor) -> Hashable:
        """The points key of estimators whose only point is the code that noise array 0 samples."""
        return Estimator.points, ("sample", tf)

    @property
    def samples(self) -> bool:
        """Whether its only point is the code that noise array 0 samples."""
        return type(self).points is Estimator.points

    @property
    def relaxation_key(self) -> Hashable | None:
        """Equal for estimators whose softmax of `pull_back` is the same; None without that promise."""
        promise = self.pull_back
        return None if promise is None else (getattr(promise.perturbed, "__func__", promise.perturbed), promise.key)

    @property
    def law_tf(self) -> float:
        """The t of the law softmax(l/t) that its codes follow."""
        return 1.0 if self.law == "model" else self.tf

    @property
    def uses_loss(self) -> bool:
        return "loss" in self.uses

    @property
    def uses_derivative(self) -> bool:
        return "derivative" in self.uses

    @property
    def discrete_points(self) -> bool:
        """Whether the estimator promises that all points are codes."""
        return self.shared_points is not None and self.shared_points.codes

    @property
    def all_configurations(self) -> bool:
        """Whether the estimator promises that its points are all configurations in order."""
        return self.shared_points is not None and self.shared_points.all_configurations

    @property
    def code_only(self) -> bool:
        """Whether the estimator promises that the estimate is a function of the sampled code."""
        return isinstance(self.exact_moments, FunctionOfCode)

    @property
    def noise_free(self) -> bool:
        """Whether the estimator promises that every draw gives the same estimate."""
        return isinstance(self.exact_moments, Constant)

    def at(self, tf: float | Tensor, tb: float | Tensor) -> Estimator:
        """The same estimator at other temperatures; estimators without a relaxation ignore tb."""
        fields = {field.name for field in dataclasses.fields(self)}
        own: dict[str, Any] = {k: v for k, v in {"tf": tf, "tb": tb}.items() if k in fields}
        return dataclasses.replace(self, **own)

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters by name, temperatures included."""
        return dataclasses.asdict(self)

    @property
    def label(self) -> str:
        """Name, and parameters that are neither temperatures nor defaults: `st-gs(convention=jang)`."""
        own = [
            f"{f.name}={getattr(self, f.name)}"
            for f in dataclasses.fields(self)
            if f.name not in ("tf", "tb") and getattr(self, f.name) != f.default
        ]
        return f"{self.name}({', '.join(own)})" if own else self.name


@dataclass(frozen=True, kw_only=True)
class Relaxation(Estimator):
    """An estimator with a backward temperature; `tb` defaults to `tf`."""

    tb: float = parameters.temperature(None)


def per_latent(kind: LatentKind, loss: Tensor) -> Tensor:
    """Losses (..., example) with the dims of codes (..., example, latent, category) added, for products with codes."""
    return loss[(..., *[None] * (1 + kind.event_dims))]
