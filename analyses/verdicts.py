"""Verdicts on claims: FIGURE falls (or rises) as TEMPERATURE rises; one choice gives a lower loss than another."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from gradlab.fidelity.differences import Change, all_changes, change

PAPER = "arXiv 2410.13331 v1"  # v2 has another title and other tasks
MARGIN = 0.05  # of the largest value along a temperature; a change against a claim that is smaller is negligible
UNTESTED = "not tested at this budget"


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim, for one figure; `which` says of what, a target law for example.

    Of a trend, supported: the whole change is resolved with the claimed sign, and every change against it, between any
    two temperatures, is below a margin; contradicted: the whole change, or one between two temperatures, is resolved
    against it; undetermined: neither.
    Of a difference over seeds, supported or contradicted: its interval lies on one side of the bound.
    Not tested at this budget: the measurement falls short of what the claim is about, in what `lacks` says.
    """

    claim: str
    which: dict[str, str]
    figure: str
    verdict: str
    whole: Change  # 95 % interval
    against: list[tuple[float, float]] = field(default_factory=list)  # changes resolved against it, together at 95 %
    lowest_at: float | None = None
    unit: str = ""
    note: str = ""
    lacks: str = ""
    over: str = ""  # what the intervals of a trend are over: "draws" or "examples"
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
    """Judge one claim on the points of `ds` that `which` selects, along a temperature, the others fixed.

    Intervals are over examples, where the Dataset has values without each example, else over draws. Changes are those
    of all pairs of temperatures, with intervals that hold together in 95 % (largest |t|). A change against the claim is
    negligible if it is below MARGIN of the largest value along the temperature.
    """
    ds = ds.sel(which)
    values = ds[figure].sel(fixed).squeeze(drop=True)
    known = np.isfinite(values.values)
    temperatures = values[along].values[known]
    sign = -1 if falls else 1
    over = "examples" if _has_examples(ds, figure) else "draws"
    points = [{**fixed, along: t} for t in temperatures]
    whole = change(ds, figure, points[0], points[-1], over=over)
    margin = MARGIN * float(np.abs(values.values[known]).max())
    adverse = {pair: _turned(one, -sign) for pair, one in all_changes(ds, figure, points, over).items()}
    resolved = [pair for pair, one in adverse.items() if one.low > 0]
    against = [pair for pair in resolved if not any(_within(other, pair) for other in resolved)]
    if whole.sign == sign and all(one.high < margin for one in adverse.values()):
        verdict, against = "supported", []
    else:
        verdict = "contradicted" if against or whole.sign == -sign else "undetermined"
    lowest_at = float(values[along].values[np.nanargmin(values.values)])
    named = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in which.items()}
    steps = [(float(temperatures[i]), float(temperatures[j])) for i, j in against]
    return Verdict(claim, named, figure, verdict, whole, steps, lowest_at, over=over)


def _has_examples(ds: xr.Dataset, figure: str) -> bool:
    return "example_replicates" in ds and figure in ds.example_metric.values and ds.sizes["example"] > 1


def _turned(one: Change, sign: int) -> Change:
    """The change, or its negative."""
    return one if sign > 0 else Change(-one.value, -one.high, -one.low)


def _within(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return inner != outer and outer[0] <= inner[0] and inner[1] <= outer[1]
