"""Models as programs, `loss(x, sample)`: enumerated over paths, drawn through estimators at each site."""

from .program import Program

__all__ = ["Program"]
