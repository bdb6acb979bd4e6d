"""Measurements in parts, one for each model and forward temperature, by several processes or a cluster."""

from .models import Source
from .run import Campaign

__all__ = ["Campaign", "Source"]
