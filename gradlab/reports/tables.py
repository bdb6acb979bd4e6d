"""Results as tables to compute with or to publish: a row a point, digits by the interval."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import xarray as xr

from .. import errors, rounding
from ..kinds import first_metrics, kind, metric_names
from ..schema import short_name, upgraded
from .points import Estimate, coordinates_at, estimates_at, places

FORMATS = ("dataframe", "csv", "latex", "markdown")
TIDY = ("metric", "value", "low", "high", "units")
_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after the end of a row, a bracket is an argument
    "\n": " ",
}
_MARKDOWN = {"|": "\\|", "\n": " ", "\r": " ", "<": "&lt;", "*": "\\*", "`": "\\`", "\\": "\\\\"}


def table(ds: xr.Dataset, format: str = "dataframe", metrics: Sequence[str] | None = None) -> Any:
    """A result as a table: its points with their metrics, each with its 95 % interval, to the digits this supports.

    For computing, "dataframe" and "csv" are tidy: a row for each point and metric, with the columns value, low, high
    and units. For publishing, "latex" (for the package booktabs) and "markdown" have a row for each point and a column
    for each metric, as 12.3(4), or 0.86 [0.80, 0.88] where the two sides of the interval differ. Text from files is
    escaped. The results file keeps all digits.

    Parameters
    ----------
    ds : what any function or command of gradlab returned or wrote
    format : "dataframe" (pandas), "csv", "latex" or "markdown"
    metrics : names of variables; by default all, in "latex" and "markdown" those that are shown first

    Returns
    -------
    A pandas DataFrame, or the text.

    Raises
    ------
    ValueError
        A Dataset that gradlab does not know, an unknown format or metric.

    Examples
    --------
    >>> ds = gradlab.open_results("bias.h5")
    >>> print(gradlab.table(ds.sel(tf=[1.6], tb=[1.3]), "markdown", ["cosine_debiased"]).splitlines()[0])
    | tf | tb | cosine |
    """
    errors.choice("format", format, FORMATS)
    if not isinstance(ds, xr.Dataset):
        raise ValueError(f"ds: expected an xarray.Dataset of gradlab, got {type(ds).__name__}")
    parts = _parts(upgraded(ds))
    known = metric_names(parts[0][1])
    chosen = [errors.choice("metrics", name, known) for name in metrics or []]
    if format in ("dataframe", "csv"):
        return (_dataframe if format == "dataframe" else _csv)(parts, chosen or known)
    return (_latex if format == "latex" else _markdown)(parts, chosen or first_metrics(parts[0][1]))


Parts = list[tuple[dict[str, Any], xr.Dataset]]  # coordinates that a part has in common, and its points


def _parts(ds: xr.Dataset) -> Parts:
    """Sweeps with their means over seeds, one part for each KL term; else the one part that a Dataset is."""
    if not kind(ds).of_trainings:
        return [({}, ds)]
    from ..sweeps import with_means

    if "kl" in ds.dims:
        return [({"kl": str(kl)}, with_means(ds.sel(kl=kl))) for kl in ds["kl"].values]
    return [({}, with_means(ds))]


def _points(parts: Parts, names: Sequence[str]) -> Iterator[tuple[dict[str, Any], dict[str, Estimate]]]:
    """Coordinates of each point, and the estimates there."""
    for common, ds in parts:
        at = places(ds, names)
        of = {name: estimates_at(ds, name, at) for name in names}
        for k, where in enumerate(coordinates_at(ds, at)):
            yield common | where, {name: estimates[k] for name, estimates in of.items()}


def _tidy(parts: Parts, names: Sequence[str]) -> Iterator[tuple[dict[str, Any], str, Estimate, str]]:
    units = _units(parts, names)
    for point, of in _points(parts, names):
        for name in names:
            if math.isfinite(of[name].value):
                yield point, name, of[name], units[name]


def _units(parts: Parts, names: Sequence[str]) -> dict[str, str]:
    return {name: str(parts[0][1][name].attrs.get("units", "")) for name in names}


def _dataframe(parts: Parts, names: Sequence[str]) -> Any:
    import pandas as pd

    rows = []
    for point, name, estimate, units in _tidy(parts, names):
        value, low, high = (math.nan if text == rounding.UNKNOWN else float(text) for text in _texts(estimate))
        rows.append(point | dict(zip(TIDY, (name, value, low, high, units), strict=True)))
    return pd.DataFrame(rows)


def _csv(parts: Parts, names: Sequence[str]) -> str:
    into = io.StringIO()
    writer = csv.writer(into, lineterminator="\n")
    header: list[str] = []
    for point, name, estimate, units in _tidy(parts, names):
        if not header:
            header = [*point, *TIDY]
            writer.writerow(map(_harmless, header))
        numbers = ["" if text == rounding.UNKNOWN else text for text in _texts(estimate)]
        where = (_harmless(_coordinate(value)) for value in point.values())
        writer.writerow([*where, _harmless(name), *numbers, _harmless(units)])
    return into.getvalue()


def _texts(estimate: Estimate) -> tuple[str, str, str]:
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return rounding.plain(estimate.value), rounding.UNKNOWN, rounding.UNKNOWN
    return rounding.three(*estimate[:3])


def _harmless(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    is_number = re.fullmatch(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?|[-+]?(inf|nan)", text)
    acts = text[:1] in ("=", "+", "-", "@", "\t", "\r") and not is_number
    return ("'" if acts else "") + text.replace("\r", " ")


def _coordinate(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _rows(
    parts: Parts, names: Sequence[str], text: Callable[[str], str], number: Callable[[str], str]
) -> Iterator[list[str]]:
    """The header, then a row a point; `text` escapes, `number` writes a value with its uncertainty."""
    units = _units(parts, names)
    of_first = parts[0][1]
    titles = [short_name(of_first, n) + (f" ({units[n]})" if units[n] not in ("", "1") else "") for n in names]
    points = list(_points(parts, names))
    yield [text(title) for title in [*(points[0][0] if points else []), *titles]]
    for where, of in points:
        values = [number(rounding.with_uncertainty(*of[name][:3])) for name in names]
        yield [*(text(_coordinate(value)) for value in where.values()), *values]


def _latex(parts: Parts, names: Sequence[str]) -> str:
    def text(given: str) -> str:
        return "".join(_LATEX.get(c, c) for c in given)

    def number(given: str) -> str:
        return given if given == rounding.UNKNOWN else f"${_powers(given)}$"

    header, *rows = _rows(parts, names, text, number)
    columns = "l" * (len(header) - len(names)) + "r" * len(names)
    lines = [" & ".join(cells) + r" \\" for cells in (header, *rows)]
    head, body = lines[0], lines[1:]
    inside = [r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *inside, r"\end{tabular}"]) + "\n"


def _powers(given: str) -> str:
    """1.2e-05 as 1.2 times a power of ten; a space stays."""
    return re.sub(r"e([-+]\d+)", lambda of: rf"\times 10^{{{int(of[1])}}}", given).replace(" [", r"\ [")


def _markdown(parts: Parts, names: Sequence[str]) -> str:
    def text(given: str) -> str:
        return "".join(_MARKDOWN.get(c, c) for c in given)

    header, *rows = _rows(parts, names, text, lambda given: given)
    rule = ["---"] * (len(header) - len(names)) + ["---:"] * len(names)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *rows))
