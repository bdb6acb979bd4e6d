"""Verdicts on claims: FIGURE falls (or rises) as TEMPERATURE rises; one choice gives a lower loss than another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import xarray as xr

from gradlab.fidelity.changes import Change, change


@dataclass(frozen=True)
class Verdict:
    """What came of a claim, for one figure; `which` says of what, a target law for example.

    Of a trend, supported: the whole change has the claimed sign and no step between neighbours is resolved against it;
    contradicted: the whole change, or at least one step, is resolved against it; undetermined: neither.
    Of a difference over seeds, supported or contradicted: its interval lies on one side of the bound.
    """

    claim: str
    which: dict[str, str]
    figure: str
    verdict: str
    whole: Change  # 95 % interval
    against: list[tuple[float, float]] = field(default_factory=list)  # steps resolved against it, together at 95 %
    lowest_at: float | None = None
    unit: str = ""
    note: str = ""

    @property
    def words(self) -> str:
        if not self.against:
            return f"{self.verdict}: {self.note}" if self.note else self.verdict
        joined = [list(self.against[0])]
        for start, end in self.against[1:]:
            if start == joined[-1][1]:
                joined[-1][1] = end
            else:
                joined.append([start, end])
        return f"{self.verdict}: goes the other way from " + ", ".join(f"{a:g} to {b:g}" for a, b in joined)


def trend(
    ds: xr.Dataset,
    claim: str,
    figure: str,
    along: str,
    fixed: Mapping[str, object],
    falls: bool,
    which: Mapping[str, object],
) -> Verdict:
    """Judge one claim on the points of `ds` that `which` selects, along a temperature, the others fixed."""
    ds = ds.sel(which)
    values = ds[figure].sel(fixed).squeeze(drop=True)
    temperatures = values[along].values[np.isfinite(values.values)]
    sign = -1 if falls else 1
    steps = list(pairwise(temperatures))
    level = 1 - 0.05 / len(steps)  # Bonferroni

    def between(start: float, end: float, level: float) -> Change:
        return change(ds, figure, {**fixed, along: start}, {**fixed, along: end}, level)

    whole = between(temperatures[0], temperatures[-1], 0.95)
    against = [(float(a), float(b)) for a, b in steps if between(a, b, level).sign == -sign]
    if against or whole.sign == -sign:
        verdict = "contradicted"
    else:
        verdict = "supported" if whole.sign == sign else "undetermined"
    lowest_at = float(values[along].values[np.nanargmin(values.values)])
    named = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in which.items()}
    return Verdict(claim, named, figure, verdict, whole, against, lowest_at)
