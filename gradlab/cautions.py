"""Cautions about a result: points where sampling misses the gradient, and values that are negative by chance.

They are derived from the variables of a Dataset, so every display of a file can show them.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from .outputs import INCOMPLETE
from .schema import negative_by_chance, ranked, short_name, upgraded, variable

SEEN = 10  # minimal expected number of draws that show what carries the exact gradient
MOST_NAMED = 4
FEW_EXAMPLES = 2  # effective number of examples below which one carries most of the gradient
BATCHES = 32  # fewer are single draws
SAME = 1e-9  # width of an interval over examples that is rounding alone


class SamplingWarning(UserWarning):
    """A warning that draws do not show what carries the exact gradient."""


def cautions(ds: xr.Dataset) -> list[str]:
    """All cautions as sentences."""
    return [*_incomplete(ds), *of_sampling(ds), *_enumerated(ds), *_carried_by_one(ds), *_below_zero(ds)]


def _incomplete(ds: xr.Dataset) -> list[str]:
    return [f"Incomplete: {there}." for there in [ds.attrs.get(INCOMPLETE)] if there]


def of_sampling(ds: xr.Dataset) -> list[str]:
    """Cautions about codes that are certain, and about important categories that are almost never drawn."""
    return [*_certain(ds), *_unseen(ds)]


def nothing_left(ds: xr.Dataset) -> xr.DataArray | None:
    """True where the codes of all examples are certain, or None if this is unknown."""
    if "certain_examples" not in ds or "examples" not in ds.attrs:
        return None
    return ds["certain_examples"] == int(ds.attrs["examples"])


def _has(ds: xr.Dataset, name: str, value: int) -> bool:
    """Whether a variable is there and has this value anywhere."""
    return name in ds and bool((variable(ds, name).values == value).any())


def _certain(ds: xr.Dataset) -> list[str]:
    if "examples" not in ds.attrs or not _has(ds, "certain_examples", int(ds.attrs["examples"])):
        return []
    there = nothing_left(ds)
    assert there is not None
    what = "relative metrics have no meaning, as the exact gradient is almost 0"
    if _is_gap(ds):
        what = "the gap comes from noise that is almost never drawn"
    examples = int(ds.attrs["examples"])
    return [_sentence(_at_tf(there), f"{examples} of {examples} examples have every code certain: {what}.")]


def _unseen(ds: xr.Dataset) -> list[str]:
    if not _has(ds, "unseen", 1):
        return []
    unseen = ds["unseen"] == 1
    if (vanishes := nothing_left(ds)) is not None:
        unseen = unseen & ~vanishes
    if not bool(unseen.any()):
        return []
    count = ds["expected_count"].where(unseen)
    rare, examples = int(ds["rare_examples"].where(unseen).max()), ds.attrs.get("examples", "?")
    draws = _draws(ds)
    needed = draws * SEEN / float(count.min()) if float(count.min()) > 0 else np.inf
    cures = [*([f"{_rounded_up(needed)} draws"] if needed < 1e7 else []), "a larger tf"]
    in_all = f"in {draws:,.0f} draws" if np.isfinite(draws) else "in all draws"
    if (
        not _is_gap(ds)
        and str(ds.attrs.get("reference", "exact")) == "exact"
        and ds.attrs.get("wrt") not in ("encoder", "parameters")
    ):
        cures.insert(0, "moments='exact' if the estimator supports it")
    carried = "gap" if _is_gap(ds) else "exact gradient"
    return [
        _sentence(
            _at_tf(unseen),
            f"{rare} of {examples} examples are near-deterministic: {in_all}, what carries the {carried} is expected"
            f" {_few(float(count.max()))} times. Values from draws miss it, and their intervals do not show this; use"
            f" {', or '.join(cures)}.",
        )
    ]


def _draws(ds: xr.Dataset) -> float:
    """How many at a point; of what a sweep tracked, too. NaN where it is not known."""
    if "draws" in ds:
        return float(ds["draws"].max())
    known = [ds.attrs[name] for name in ("draws", "bias_draws", "gap_draws") if name in ds.attrs]
    return float(known[0]) if known else np.nan


def _enumerated(ds: xr.Dataset) -> list[str]:
    if "enumerated" not in ds or not bool((there := ds["enumerated"] == 1).any()):
        return []
    names = ""
    if "estimator" in there.dims:
        others = [d for d in there.dims if d != "estimator"]
        names = " of " + ", ".join(str(n) for n in ds["estimator"].values[there.any(others).to_numpy()])
    text = f"moments{names} are enumerated, because draws miss what carries the exact gradient."
    return [_sentence(_at_tf(there), text)]


def _carried_by_one(ds: xr.Dataset) -> list[str]:
    """Where one example, or one batch of draws, decides a value."""
    found = []
    examples = ds.attrs.get("examples", 0)
    if "effective_examples" in ds and isinstance(examples, int | np.integer) and examples > 1:
        count = ds["effective_examples"]
        one = (count < FEW_EXAMPLES) & (count < 0.75 * examples)
        if bool(one.any()):
            least = float(count.where(one).min())
            of = "discrete" if _is_gap(ds) else "exact"
            found.append(
                _sentence(
                    _at_tf(one),
                    f"one example carries most of the {of} gradient (effective number of examples {least:.1f} of"
                    f" {examples:,}): relative metrics describe this example, and their interval over examples is too"
                    " narrow.",
                )
            )
    if isinstance(examples, int | np.integer) and examples > 1 and _without_spread(ds):
        found.append("All examples give the same values: the interval over examples has no width. Are they copies?")
    share = _share_of_a_batch(ds)
    if share is not None and bool((decides := share > 0.5).any()):
        text = (
            f"one batch of {ds.attrs.get('draws_per_batch', '?')} draws carries {float(share.max()):.0%} of the"
            " variance: a few draws decide the standard deviation, and its interval is too narrow."
        )
        found.append(_sentence(_at_tf(decides), text))
    return found


def _without_spread(ds: xr.Dataset) -> bool:
    """Whether no ratio of a point differs between examples."""
    names = [str(name) for name in ds.data_vars if f"{name}_population_low" in ds]
    low, high = ([ds.variables[f"{name}_population_{end}"] for name in names] for end in ("low", "high"))
    widths = [above - below for below, above in zip(low, high, strict=True)]
    known = [width for width in widths if bool(width.notnull().any())]
    return bool(known) and all(float(width.max()) < SAME for width in known)


def _share_of_a_batch(ds: xr.Dataset) -> xr.DataArray | None:
    """The largest share of the variance that one batch of draws carries; None where it is unknown."""
    if "replicates" not in ds or "std_norm" not in ds or ds.sizes["batch"] < BATCHES:
        return None
    batches = ds.sizes["batch"]
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = (ds["replicates"].sel(metric="std_norm", drop=True) / ds["std_norm"]) ** 2
    return 1 - rest.min("batch") * (batches - 1) / batches


def _below_zero(ds: xr.Dataset) -> list[str]:
    ds = upgraded(ds)
    signed = [str(name) for name in ds.data_vars if negative_by_chance(ds, str(name)) and f"{name}_high" in ds]
    found = []
    for name in dict.fromkeys([*ranked(ds, signed), *signed]):
        words, count = short_name(ds, name), int((ds[f"{name}_high"] < 0).sum())
        if count:
            where = f"at {count:,} of {int(ds[name].notnull().sum()):,} points " if ds[name].size > 1 else ""
            found.append(
                f"{words.capitalize()}: {where}the whole interval is below 0. The estimate of the square is negative by"
                " sampling noise, so the value is not resolved from 0."
            )
    return found


def _is_gap(ds: xr.Dataset) -> bool:
    return str(ds.attrs.get("analysis", "")).startswith("gap")


def _at_tf(where: xr.DataArray) -> str:
    """The forward temperatures at which `where` is true, shortened if there are many."""
    if "tf" not in where.coords:
        return ""
    if where["tf"].ndim == 0:
        return f"at tf = {where['tf'].item():g}"
    others = [d for d in where.dims if d not in where["tf"].dims]
    values = [f"{t:g}" for t in where["tf"].values[where.any(others).to_numpy()]]
    values = list(dict.fromkeys(values))
    if len(values) > MOST_NAMED:
        values = [*values[: MOST_NAMED - 1], "...", values[-1]]
    return f"at tf = {', '.join(values)}"


def _sentence(where: str, text: str) -> str:
    joined = f"{where}, {text}" if where else text
    return joined[0].upper() + joined[1:]


def _few(count: float) -> str:
    return f"{count:.1f}" if count >= 0.1 else f"{count:.1g}"


def _rounded_up(draws: float) -> str:
    """The number rounded up to two digits."""
    unit = 10 ** max(int(np.floor(np.log10(draws))) - 1, 0)
    return f"{int(np.ceil(draws / unit)) * unit:,}"
