"""Layers that others wrote, as estimators: their random calls answered from gradlab's noise."""

from .estimator import LayerEstimator, from_layer
from .habits import LayerWarning

__all__ = ["LayerEstimator", "LayerWarning", "from_layer"]
