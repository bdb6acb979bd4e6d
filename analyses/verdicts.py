"""Verdicts on claims: FIGURE falls (or rises) as TEMPERATURE rises; one choice gives a lower loss than another."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import xarray as xr

from gradlab.fidelity.differences import Change, change

PAPER = "arXiv 2410.13331 v1"  # v2 has another title and other tasks
UNTESTED = "not tested at this budget"


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim, for one figure; `which` says of what, a target law for example.

    Of a trend, supported: the whole change has the claimed sign and no step between neighbours is resolved against it;
    contradicted: the whole change, or at least one step, is resolved against it; undetermined: neither.
    Of a difference over seeds, supported or contradicted: its interval lies on one side of the bound.
    Not tested at this budget: the measurement falls short of what the claim is about, in what `lacks` says.
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
    lacks: str = ""
    paper: str = PAPER  # whose claim it is; "" for a question that the paper does not ask

    @property
    def detectable(self) -> float:
        """The least difference that decides, at the spread that was measured; infinite without an interval."""
        value, low, high = self.whole
        return max(value - low, high - value)

    @property
    def words(self) -> str:
        if not self.against:
            verdict = f"{self.verdict} ({self.lacks})" if self.lacks else self.verdict
            if self.verdict == "undetermined" and math.isfinite(self.detectable):
                unit = f" {self.unit}" if self.unit else ""
                size = f"{self.detectable:.0f}" if self.detectable >= 100 else f"{self.detectable:.2g}"
                verdict += f" (a difference of {size}{unit} could have been found)"
            return f"{verdict}: {self.note}" if self.note else verdict
        joined = [list(self.against[0])]
        for start, end in self.against[1:]:
            if start == joined[-1][1]:
                joined[-1][1] = end
            else:
                joined.append([start, end])
        return f"{self.verdict}: goes the other way from " + ", ".join(f"{a:g} to {b:g}" for a, b in joined)


def at_budget(found: Iterable[Verdict], lacking: Sequence[str]) -> list[Verdict]:
    """The same values, with the verdict "not tested at this budget" where anything is lacking."""
    if not lacking:
        return list(found)
    return [dataclasses.replace(v, verdict=UNTESTED, lacks="; ".join(lacking)) for v in found]


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
