"""The estimator protocol: logits and noise -> points; loss and derivative at the points -> estimate.

An estimator is a frozen record of its parameters and a few pure functions. It never sees a model, so the same
object serves sampling, enumeration, training and tests. Shapes, with `...` any leading dimensions (draws, models):

    logits      (example, latent, category)                             binary: (example, latent)
    noise       (array, ..., example, latent, category)                 standard Gumbel (binary: logistic) arrays
    points      (evaluation, ..., example, latent, category)            where the loss is wanted
    loss        (evaluation, ..., example)                              f(z, x)
    derivative  (evaluation, ..., example, latent, category)            v = df/dz
    weights     (evaluation, ..., example)                              shares in the loss the decoder is trained on
    estimate    (..., example, latent, category)                        of dE[f]/dlogits, per example

Logits may have the leading dimensions too, those of several models, and temperatures are numbers or tensors that
broadcast with them: (model, 1, 1, 1), binary (model, 1, 1).

Noise array 0 is the one that samples the code, so that all estimators share it (common random numbers).

An author has to write `name` and `estimate`, and `points` unless its point is the one code sampled. All else is
optional, and what is left out costs time and never a wrong figure:

    for readers         formula, reference
    about the estimate  kinds, unbiased, uses, weights, baseline_decay
    promises            shared_points, pull_back, exact_moments (see promises), noise_arrays

Callers go through `evaluation.evaluate`, which goes from points to loss to estimate.
"""

from __future__ import annotations

import dataclasses
import warnings
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..latents import LatentKind
from . import parameters, probing, promises
from .promises import Constant, ExactMoments, FunctionOfCode, PullBack, SharedPoints

# derived from what a class states, or from its functions; a class that states one of these is told what to state
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
    """Replace what a class states of derived members by what stands for it now, with a warning; never an error."""
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
    warnings.warn(
        f"{cls.__qualname__}: expected {', '.join(sorted(stated))} not to be stated; state {instead}",
        DeprecationWarning,
        stacklevel=4,
    )


@dataclass(frozen=True, kw_only=True)
class Estimator(ABC):
    """Base of all estimators. `tf` is the temperature of the law that codes are sampled from."""

    tf: float = parameters.temperature(1.0)

    name: ClassVar[str]
    formula: ClassVar[str] = ""
    reference: ClassVar[str] = ""
    kinds: ClassVar[tuple[str, ...]] = ("categorical",)  # and "binary", of the latents it is for
    unbiased: ClassVar[bool] = False  # for the expected loss under softmax(l/tf)
    uses: ClassVar[tuple[str, ...]] = ("loss", "derivative")  # what `estimate` reads; the other one is not given

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
        """Where the loss is wanted; by default one code per draw, z = hard(l/tf + g) ~ softmax(l/tf)."""
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
        """The estimate; of `loss` and `derivative` those are given that `uses` names."""

    def weights(self, kind: LatentKind, logits: Tensor, points: Tensor) -> Tensor | None:
        """Share of each evaluation in the expected loss, which is what the decoder is trained on; None: equal shares.

        Where a share is 0 the derivative may still be used: it is df/dz, not that of the weighted loss.
        """
        return None

    @property
    def baseline_decay(self) -> float | None:
        """Decay of the running mean that is subtracted from the loss (see RunningMean); None: no such mean."""
        return None

    @property
    def noise_arrays(self) -> int:
        """Noise arrays per draw; found by trial where the class does not state it."""
        return probing.noise_arrays(self)

    @property
    def shared_points(self) -> SharedPoints | None:
        """What is promised of `points`; None where nothing is, and then no other estimator shares them."""
        return SharedPoints(("sample", self.tf))

    @property
    def pull_back(self) -> PullBack | None:
        """The promise that the estimate is the derivative pulled back through a softmax; None: no such promise."""
        return None

    @property
    def exact_moments(self) -> ExactMoments | None:
        """How mean and variance are found without sampling; None: they have to be sampled."""
        return None

    # --- what callers read ---

    def evaluations_at(self, kind: LatentKind, logits: Tensor) -> int:
        """Loss evaluations per draw, the number of points, at such logits, of which only the shape matters."""
        return probing.evaluations(self, kind, tuple(logits.shape[-1 - kind.event_dims :]))

    @property
    def points_key(self) -> Hashable:
        """Equal for estimators that share their points: those of other functions never do, whatever they state."""
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
    def uses_loss(self) -> bool:
        return "loss" in self.uses

    @property
    def uses_derivative(self) -> bool:
        return "derivative" in self.uses

    @property
    def discrete_points(self) -> bool:
        """Whether all points are promised to be codes."""
        return self.shared_points is not None and self.shared_points.codes

    @property
    def all_configurations(self) -> bool:
        """Whether the points are promised to be the configurations in their order."""
        return self.shared_points is not None and self.shared_points.all_configurations

    @property
    def code_only(self) -> bool:
        """Whether the estimate is promised to be a function of the code sampled."""
        return isinstance(self.exact_moments, FunctionOfCode)

    @property
    def noise_free(self) -> bool:
        """Whether every draw is promised to give the same estimate."""
        return isinstance(self.exact_moments, Constant)

    def at(self, tf: float | Tensor, tb: float | Tensor) -> Estimator:
        """The same estimator at other temperatures; tb is ignored by those without a relaxation."""
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
    """Losses (..., example), to be multiplied with codes (..., example, latent, category)."""
    return loss[(..., *[None] * (1 + kind.event_dims))]
