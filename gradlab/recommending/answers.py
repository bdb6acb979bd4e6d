"""What `gradlab.recommend` returns."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass, field

import xarray as xr


@dataclass(frozen=True)
class Recommendation:
    """The choice, how sure it is, and everything that was compared. `str` gives the answer in sentences.

    Parameters
    ----------
    estimator : label of the chosen estimator, which `gradlab.estimators.parse` takes
    tf, tb : its temperatures; tb is None for an estimator without a relaxation
    error, error_low, error_high : its matched error (see `recommend`), with a 95 % interval
    equivalent : labels of the candidates that are not told from it
    margin : no candidate is better by more, 95 %
    resolved : False where the measurement cannot tell which candidate is best
    spec : the choice as a text for `gradlab.estimators.parse`, temperatures included: "rloo:tf=1.6,n=4"
    line, torch_line : code that trains with it; torch's own spelling is "" where it has none that is the same
    table : Dataset of all candidates
    """

    estimator: str
    tf: float
    tb: float | None
    error: float
    error_low: float
    error_high: float
    equivalent: list[str]
    margin: float
    resolved: bool
    spec: str
    line: str
    torch_line: str
    table: xr.Dataset = field(repr=False)
    said: tuple[str, ...] = field(repr=False)

    def __str__(self) -> str:
        return "\n".join(self.said)

    def _repr_html_(self) -> str:
        return _as_html(self.said)


@dataclass(frozen=True)
class Schedule:
    """Recommendations along a training, and whether one choice serves throughout. `str` gives it in sentences.

    Parameters
    ----------
    steps : what the models are called: the keys of a dict, or else their epochs or positions
    recommendations : a Recommendation for each step; iterating gives (step, Recommendation)
    everywhere : label of the candidate that is within noise of the best at every step, "" if there is none
    table : Dataset of all candidates, along a dim `checkpoint`
    """

    steps: list[str]
    recommendations: list[Recommendation]
    everywhere: str
    table: xr.Dataset = field(repr=False)
    said: tuple[str, ...] = field(repr=False)

    def __iter__(self) -> Iterator[tuple[str, Recommendation]]:
        return zip(self.steps, self.recommendations, strict=True)

    def __len__(self) -> int:
        return len(self.steps)

    def __str__(self) -> str:
        return "\n".join(self.said)

    def _repr_html_(self) -> str:
        return _as_html(self.said)


def _as_html(said: tuple[str, ...]) -> str:
    first, *rest = (html.escape(sentence) for sentence in said)
    return f"<p><b>{first}</b></p><p>{'<br>'.join(rest)}</p>"
