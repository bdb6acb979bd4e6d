"""Straight-through estimators: the derivative at a discrete code, pulled back through a soft one.

    z = hard(l/tf + g),   estimate = (1/tb) J(q) v(z)

They differ in q. All are biased; `ste` is exact for losses linear in z at tf = tb = 1.

References: Bengio, Leonard, Courville 2013 (STE); Jang, Gu, Poole 2017 and Maddison, Mnih, Teh 2017 (ST-GS);
Decoupled ST-GS, equations 12 to 16.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from . import parameters
from .base import Relaxation
from .registry import register


@dataclass(frozen=True, kw_only=True)
class StraightThrough(Relaxation):
    """What they share: each is its q, the `relaxation`, a function of noise and all parameters but tf."""

    @property
    def backward(self):
        own = type(self)
        if own.estimate is not StraightThrough.estimate:
            return None  # a subclass with an estimate of its own promises nothing
        fields = (field.name for field in dataclasses.fields(self) if field.name != "tf")
        return own.relaxation, *((name, getattr(self, name)) for name in fields)

    @property
    def scale(self):
        return 1 / self.tb

    @abstractmethod
    def relaxation(self, kind, logits, noise): ...

    def estimate(self, kind, logits, noise, points, loss, derivative):
        return kind.pullback(self.relaxation(kind, logits, noise), derivative[0]) / self.tb


@register
@dataclass(frozen=True, kw_only=True)
class STE(StraightThrough):
    """q = softmax(l/tb), the code sampled."""

    name = "ste"
    formula = "(1/tb) J(softmax(l/tb)) v(z), z ~ softmax(l/tf)"
    reference = "Bengio, Leonard, Courville 2013"
    code_only = True

    def relaxation(self, kind, logits, noise):
        return kind.soft(logits / self.tb)


@register
@dataclass(frozen=True, kw_only=True)
class STEArgmax(STE):
    """q = softmax(l/tb), the code the most probable one: no noise, so tf does not matter."""

    name = "ste-argmax"
    formula = "(1/tb) J(softmax(l/tb)) v(onehot(argmax l))"
    noise_free = True
    code_only = False  # its point is no sample

    @property
    def forward(self):
        return "argmax"

    def points(self, kind, logits, noise):
        return kind.hard(logits).expand_as(noise[:1])


@register
@dataclass(frozen=True, kw_only=True)
class STGS(StraightThrough):
    """q relaxed with the noise that sampled z. convention="paper": softmax(l/tb + g); "jang": softmax((l + g)/tb)."""

    convention: str = parameters.choice("paper", ("paper", "jang"))

    name: ClassVar[str] = "st-gs"
    formula = (
        "(1/tb) J(q) v(z), z = onehot(argmax(l/tf + g)), q = softmax(l/tb + g) [paper] or softmax((l + g)/tb) [jang]"
    )
    reference = "Jang, Gu, Poole 2017; Maddison, Mnih, Teh 2017"

    def relaxation(self, kind, logits, noise):
        g = noise[0]
        return kind.soft(logits / self.tb + g if self.convention == "paper" else (logits + g) / self.tb)


@register
@dataclass(frozen=True, kw_only=True)
class DecoupledSTGS(StraightThrough):
    """ST-GS (paper's convention) with a backward temperature of its own; z is not always the argmax of q."""

    name = "decoupled-st-gs"
    formula = "(1/tb) J(softmax(l/tb + g)) v(z), z = onehot(argmax(l/tf + g))"
    reference = "Decoupled ST-GS, eq. 12-16"

    def relaxation(self, kind, logits, noise):
        return kind.soft(logits / self.tb + noise[0])
