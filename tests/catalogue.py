"""The catalogue as tests go through it: every estimator and some variants, and an estimator that keeps the protocol."""

import dataclasses

from gradlab import estimators
from gradlab.estimators import Relaxation

NAMES = estimators.names()
VARIANTS = [
    "reinforce:baseline=running-mean",
    "rloo:n=4",
    "double-cv:n=3,alpha=0.6",
    "st-gs:convention=jang",
    "gumbel-rao:k=1",
    "gst:gap=0.3",
    "gst:mode=probability",
    "rebar:eta=0.6,lam=1.7",
    "arms:n=3",
    "arms:n=7",
]
ALL = [*NAMES, *VARIANTS]  # as estimators.parse reads them
CASES = [(text, kind) for text in ALL for kind in estimators.parse(text).kinds]
BOTH_KINDS = [text for text in ALL if {"categorical", "binary"} <= set(estimators.parse(text).kinds)]


def sound(**overrides):
    """An estimator that keeps the protocol, but for `overrides`."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Tested(Relaxation):
        name, kinds = "tested", ("categorical", "binary")

        def estimate(self, kind, logits, noise, points, loss, derivative):
            return kind.pullback(kind.soft(logits / self.tb), derivative[0]) / self.tb

    for key, value in overrides.items():
        setattr(Tested, key, value)
    return Tested()
