"""Moments of estimators without sampling the code."""

from .exact import TOLERANCE, Moments, check_supported, exact_moments, steps, supported

__all__ = ["TOLERANCE", "Moments", "check_supported", "exact_moments", "steps", "supported"]
