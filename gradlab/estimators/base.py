"""The estimator protocol: logits and noise -> points; loss and derivative at the points -> estimate.

An estimator is a frozen record of its parameters and two pure functions. It never sees a model, so the same
object serves sampling, enumeration, training and tests. Shapes, with `...` any leading dimensions (draws):

    logits      (example, latent, category)                             binary: (example, latent)
    noise       (array, ..., example, latent, category)                 standard Gumbel (binary: logistic) arrays
    points      (evaluation, ..., example, latent, category)            where the loss is wanted
    loss        (evaluation, ..., example)                              f(z, x)
    derivative  (evaluation, ..., example, latent, category)            v = df/dz
    estimate    (..., example, latent, category)                        of dE[f]/dlogits, per example

Noise array 0 is the one that samples the code, so that all estimators share it (common random numbers).
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


@dataclass(frozen=True, kw_only=True)
class Estimator(ABC):
    """Base of all estimators. `tf` is the temperature of the law that codes are sampled from."""

    tf: float = 1.0

    name: ClassVar[str]
    formula: ClassVar[str]
    reference: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = ("categorical", "binary")
    unbiased: ClassVar[bool] = False  # for the expected loss under softmax(l/tf)
    uses_loss: ClassVar[bool] = False
    uses_derivative: ClassVar[bool] = True
    discrete_points: ClassVar[bool] = True  # all points are codes, none is relaxed
    code_only: ClassVar[bool] = False  # the estimate is a function of the sampled code alone

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if field.name in ("tf", "tb"):
                given = getattr(self, field.name)
                value = self.tf if given is None and field.name == "tb" else errors.temperature(field.name, given)
                object.__setattr__(self, field.name, value)

    @property
    def noise_arrays(self) -> int:
        """Noise arrays per draw."""
        return 1

    @property
    def evaluations(self) -> int:
        """Loss evaluations per draw."""
        return 1

    @property
    def forward(self) -> Hashable:
        """Equal for two estimators exactly if, at equal noise, they evaluate the loss at the same points."""
        return ("sample", self.tf)

    def points(self, kind: LatentKind, logits: Tensor, noise: Tensor) -> Tensor:
        """By default one code per draw, z = hard(l/tf + g) ~ softmax(l/tf)."""
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
        """The estimate; `loss` and `derivative` are given where `uses_loss` and `uses_derivative` say so."""

    def at(self, tf: float, tb: float) -> Estimator:
        """The same estimator at other temperatures; tb is ignored by those without a relaxation."""
        fields = {field.name for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **{k: v for k, v in {"tf": tf, "tb": tb}.items() if k in fields})

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

    tb: float = None  # type: ignore[assignment]  # filled in by __post_init__
