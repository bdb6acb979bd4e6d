"""The metrics of the gap, one record each: means over examples and draws of terms in the gradients r and d.

r is the relaxed gradient, d the discrete one. A mean of ratios explodes if some d nearly vanish; a pooled ratio does
not.
"""

from __future__ import annotations

import numpy as np

from .record import GRADIENT, NONE, SQUARED, GapMetric

_POSITIVE = (0, np.inf)

METRICS = (
    GapMetric(
        name="gap",
        long_name="norm of relaxed minus discrete gradient",
        unit=GRADIENT,
        bounds=_POSITIVE,
        terms=lambda p: (p.gap,),
        formula="‖r − d‖",
        rank=2,
    ),
    GapMetric(
        name="squared_gap",
        long_name="squared norm of relaxed minus discrete gradient",
        unit=SQUARED,
        bounds=_POSITIVE,
        terms=lambda p: (p.gap * p.gap,),
        formula="‖r − d‖²",
    ),
    GapMetric(
        name="relative_gap",
        long_name="norm of relaxed minus discrete gradient over norm of the discrete gradient",
        unit=NONE,
        bounds=_POSITIVE,
        terms=lambda p: (p.gap / p.divisor,),
        formula="‖r − d‖ / ‖d‖: a mean of ratios, which explodes where some d nearly vanish",
    ),
    GapMetric(
        name="relative_gap_pooled",
        long_name="root mean square of the gap over that of the discrete gradient's norm",
        unit=NONE,
        root=True,
        bounds=_POSITIVE,
        terms=lambda p: (p.gap * p.gap, p.discrete * p.discrete),
        value=lambda gap, discrete: np.sqrt(gap / discrete),
        formula="root mean square of ‖r − d‖ over that of ‖d‖",
        short_name="relative gap",
        rank=1,
    ),
    GapMetric(
        name="cosine",
        long_name="cosine between relaxed and discrete gradient",
        unit=NONE,
        bounds=(-1, 1),
        terms=lambda p: ((p.along / (p.relaxed * p.discrete)).clip(-1, 1),),
        formula="⟨r, d⟩ / (‖r‖ ‖d‖)",
        rank=3,
    ),
    GapMetric(
        name="discrete_norm",
        long_name="norm of the discrete gradient",
        unit=GRADIENT,
        bounds=_POSITIVE,
        terms=lambda p: (p.discrete,),
        formula="‖d‖",
    ),
    GapMetric(
        name="relaxed_norm",
        long_name="norm of the relaxed gradient",
        unit=GRADIENT,
        bounds=_POSITIVE,
        terms=lambda p: (p.relaxed,),
        formula="‖r‖",
    ),
)
