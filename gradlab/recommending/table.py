"""The comparison as a Dataset, a candidate a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from ..attributes import stored
from ..schema import coordinate, with_interval
from .findings import Findings
from .subjects import Subject

ERROR = "matched error of the average: min over a of E|a average - g| / |g|, root mean square"
EXCESS = "matched error less that of the choice, on common noise and examples"
INTERVALS = "95 %, delta method and multiplier bootstrap, together for the candidates of a round, Student's t"


def table(of: Findings, subject: Subject, said: Sequence[str], about: dict[str, Any]) -> xr.Dataset:
    """`said`: the sentences of the answer; `about`: more attributes."""
    rows = of.rows
    dims = ("candidate",)
    of_error = {"long_name": ERROR, "units": "1", "short_name": "matched error of the average", "rank": 1.0}
    variables: dict[str, Any] = with_interval(
        "error", dims, np.array([row.error for row in rows]), of_error | {"smallest": 0.0, "largest": 1.0}
    )
    of_excess = {"long_name": EXCESS, "units": "1", "short_name": "error less that of the choice", "rank": 2.0}
    variables |= with_interval("excess", dims, np.array([row.excess for row in rows]), of_excess)
    for name, values, words in (
        ("equivalent", [row.equivalent or row is of.best for row in rows], "1 where not told from the choice"),
        ("evaluations", [row.evaluations for row in rows], "loss evaluations of one draw"),
        ("draws", [row.draws for row in rows], "draws of the last round in which it was measured"),
        ("unbiased", [row.unbiased for row in rows], "1 where unbiased by its formula"),
    ):
        variables[name] = (dims, np.array(values, float), {"long_name": words, "units": "1"})
    nan = float("nan")
    coordinates = {
        "candidate": coordinate("candidate", [row.candidate.label for row in rows]),
        **{
            name: (dims, values, {"long_name": words, "units": "1"})
            for name, values, words in (
                ("estimator", [row.candidate.estimator.label for row in rows], "estimator"),
                ("tf", [float(row.candidate.tf) for row in rows], "forward temperature"),
                ("tb", [nan if row.candidate.tb is None else row.candidate.tb for row in rows], "backward temperature"),
            )
        },
    }
    draws = max(row.draws for row in rows)
    stamped = subject.attributes(
        draws,
        estimator=stored(list(dict.fromkeys(row.candidate.estimator.label for row in rows))),
        averaged=of.averaged,
        answer=stored(list(said)),
        chosen=of.best.candidate.label,
        present=of.present.candidate.label if of.present else "",
        margin=of.margin,
        resolved=int(not of.unresolved),
        interrupted=int(of.interrupted),
        **about,
    )
    return xr.Dataset(variables, coordinates, stamped | {"intervals": INTERVALS})
