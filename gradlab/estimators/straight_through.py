"""Straight-through estimators: the derivative at a discrete code, pulled back through a soft code.

    z = hard(l/tf + g),   estimate = (1/tb) J(q) v(z)

They differ in q. All are biased; `ste` is exact for losses linear in z at tf = tb = 1.

Of k-hot codes, hard takes the k largest, and J(q) v becomes the product of v with the derivative of

    ste             the probabilities that each category is chosen, at l/tb
    st-gs, ...      `KHot.relaxed` at the perturbed logits: k softmaxes, each of log(1 - y) less than the one before
                    (Xie, Ermon 2019, whose temperature is that of convention="jang")

`ste-identity` leaves out J: quantisers and binary networks hand v to the logits as it is.

References: Bengio, Leonard, Courville 2013 (STE); Jang, Gu, Poole 2017 and Maddison, Mnih, Teh 2017 (ST-GS);
Decoupled ST-GS, equations 12 to 16.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..k_hot import KHot
from ..latents import LatentKind, masked
from . import parameters
from .base import Estimator, Relaxation
from .promises import Constant, ExactMoments, FunctionOfCode, NoiseIntegral, PullBack, SharedPoints, follows
from .registry import register

KINDS: tuple[str, ...] = ("categorical", "binary", "k-hot")


@dataclass(frozen=True, kw_only=True)
class StraightThrough(Relaxation):
    """Base of these estimators, defined by q = soft(`perturbed`), a function of logits, noise and parameters."""

    kinds: ClassVar[tuple[str, ...]] = ("categorical", "binary")
    uses = ("derivative",)
    same_at_every_tf: ClassVar[bool] = False  # the promise that tf does not enter `perturbed`

    def perturbed(self, kind: LatentKind, logits: Tensor, noise: Tensor) -> Tensor:
        """The logits of q."""
        raise NotImplementedError(f"{self.name} has no perturbed logits")

    @property
    def scale(self) -> float:
        """The factor before J(q) v."""
        return 1 / self.tb

    @property
    @follows("perturbed", "scale")
    def pull_back(self):
        fields = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        known = (field for field in fields if not (self.same_at_every_tf and field[0] == "tf"))
        return PullBack(self.perturbed, self.scale, key=(type(self), *known))

    def estimate(self, kind, logits, noise, points, loss, derivative):
        a = self.perturbed(kind, logits, noise)
        if isinstance(kind, KHot):
            return self.scale * _pulled_k_hot(self, kind, a, derivative[0])
        jacobian = kind.jacobian(a)
        return self.scale * kind.pull(jacobian, kind.centred(derivative[0], jacobian))


@register
@dataclass(frozen=True, kw_only=True)
class STE(StraightThrough):
    """Straight-through with a sampled code and q = softmax(l/tb)."""

    name = "ste"
    kinds = KINDS
    formula = "(1/tb) J(softmax(l/tb)) v(z), z ~ softmax(l/tf)"
    reference = "Bengio, Leonard, Courville 2013"
    same_at_every_tf = True
    exact_moments: ClassVar[ExactMoments] = FunctionOfCode()

    def perturbed(self, kind, logits, noise):
        return logits / self.tb


@register
@dataclass(frozen=True, kw_only=True)
class STEArgmax(STE):
    """Straight-through with the most probable code and q = softmax(l/tb); no noise, so tf has no effect."""

    name = "ste-argmax"
    formula = "(1/tb) J(softmax(l/tb)) v(onehot(argmax l))"
    shared_points = SharedPoints("argmax")
    exact_moments = Constant()

    def points(self, kind, logits, noise):
        return kind.hard(logits).expand_as(noise[:1])


@register
@dataclass(frozen=True, kw_only=True)
class STGS(StraightThrough):
    """ST-GS: q uses the noise that sampled z. convention="paper": softmax(l/tb + g); "jang": softmax((l + g)/tb)."""

    convention: str = parameters.choice("paper", ("paper", "jang"))

    name: ClassVar[str] = "st-gs"
    kinds = KINDS
    formula = (
        "(1/tb) J(q) v(z), z = onehot(argmax(l/tf + g)), q = softmax(l/tb + g) [paper] or softmax((l + g)/tb) [jang]"
    )
    reference = "Jang, Gu, Poole 2017; Maddison, Mnih, Teh 2017"
    same_at_every_tf = True

    @property
    def exact_moments(self):
        return NoiseIntegral(self.tb, power=1.0 if self.convention == "paper" else 1 / self.tb)

    def perturbed(self, kind, logits, noise):
        g = noise[0]
        return logits / self.tb + g if self.convention == "paper" else (logits + g) / self.tb


def _pulled_k_hot(e: StraightThrough, kind: KHot, a: Tensor, v: Tensor) -> Tensor:
    of = next((one for one in (STE, STGS, DecoupledSTGS) if isinstance(e, one)), None)
    if of is None or type(e).perturbed is not of.perturbed:  # its soft code is another than those below
        raise ValueError(
            f"estimator: expected a class that has its own `estimate` for k-hot latents beside its own `perturbed`, got"
            f" {type(e).__name__}"
        )
    if isinstance(e, STE):
        return kind.pull_chances(a, v)
    return kind.pull_relaxed(a, v, e.tb if isinstance(e, STGS) and e.convention == "jang" else 1.0)


@register
@dataclass(frozen=True, kw_only=True)
class DecoupledSTGS(StraightThrough):
    """Decoupled ST-GS: the paper's ST-GS with a separate tb; z is not always the argmax of q."""

    name = "decoupled-st-gs"
    kinds = KINDS
    formula = "(1/tb) J(softmax(l/tb + g)) v(z), z = onehot(argmax(l/tf + g))"
    reference = "Decoupled ST-GS, eq. 12-16"
    same_at_every_tf = True

    @property
    def exact_moments(self):
        return NoiseIntegral(self.tb, power=1.0)

    def perturbed(self, kind, logits, noise):
        return logits / self.tb + noise[0]


@register
@dataclass(frozen=True, kw_only=True)
class STEIdentity(Estimator):
    """The derivative at the code, unchanged; `clip` stops it at binary units whose |l| is above it.

    Where l goes through the identity, as in quantisers (VQ, FSQ, LFQ) and binary networks (clip=1). The estimate has
    no factor p(1-p) and none of 1/tf, so its size tells nothing: read its cosine, or its bias at the best scale.
    """

    clip: float | str = parameters.bound()  # of binary units, in units of l

    name = "ste-identity"
    formula = "v(D), D ~ softmax(l/tf); binary: v(D) 1[|l| <= clip]"
    reference = "Bengio, Leonard, Courville 2013; Hubara, Courbariaux, Soudry, El-Yaniv, Bengio 2016 (clip)"
    kinds = KINDS
    uses = ("derivative",)
    exact_moments: ClassVar[ExactMoments] = FunctionOfCode()

    def __post_init__(self):
        super().__post_init__()
        if self.clip != "none":
            object.__setattr__(self, "kinds", ("binary",))  # categorical logits have no middle

    def estimate(self, kind, logits, noise, points, loss, derivative):
        stopped = masked(kind, logits)  # an impossible category has no gradient
        if self.clip != "none":
            stopped = stopped | (logits.abs() > self.clip)
        return derivative[0].masked_fill(stopped, 0.0)
