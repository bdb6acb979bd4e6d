"""Mean, variance and covariance of an estimate by enumeration and integration, without sampling noise."""

from .exact import TOLERANCE, Moments, check_supported, enumerable, exact_moments, steps, supported

__all__ = ["TOLERANCE", "Moments", "check_supported", "enumerable", "exact_moments", "steps", "supported"]
