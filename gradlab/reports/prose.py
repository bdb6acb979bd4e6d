"""A result in words: what was found, how sure that is, and on what."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import xarray as xr

from .. import rounding
from ..attributes import groups, nested, texts
from ..cautions import nothing_left, of_sampling
from ..kinds import first_metrics, kind
from ..schema import along, negative_by_chance, said, short_name
from ..terminal import counted
from .points import Estimate, centre, coordinates_at, estimates_at, places

LAWS = {"sampled": "softmax(l/tf)", "model": "softmax(l)", "both": "both softmax(l/tf) and softmax(l)"}


def headline(ds: xr.Dataset) -> str:
    """What was found, in one or two sentences. Raises ValueError for a Dataset of no known analysis."""
    of, first = kind(ds), first_metrics(ds)
    around = centre(ds)
    at = places(around, first)
    vanishes = nothing_left(around)
    if of.name.startswith("bias") and vanishes is not None and bool(vanishes.all()):
        return of_sampling(around)[0]
    if not len(at):
        return "Nothing in it is a finite number." if not of.of_trainings else "No training is done."
    if len(at) == 1:
        if of.of_trainings:
            return f"Validation loss {written(estimates_at(around, first[0], at)[0])} {unit_of(ds, first[0])}."
        point = coordinates_at(around, at)[0]
        sentence = _point(around, first, at, point)
        return sentence if len(around[first[0]].values.ravel()) == ds[first[0]].size else f"{sentence} {_range(ds)}"
    return _range(ds)


def _point(ds: xr.Dataset, first: list[str], at: np.ndarray, point: Mapping[str, Any]) -> str:
    where = ", ".join(f"{name} = {short(point[name])}" for name in ("tf", "tb") if name in point)
    parts = [_told(ds, name, estimates_at(ds, name, at)[0]) for name in first]
    whose = f"With {alone} at" if (alone := _estimator(ds)) else "At"
    return f"{whose} {where}, {_listed(parts)}.{_population(ds, first[0], at)}"


def _listed(parts: list[str]) -> str:
    """One, two, and three."""
    return ", and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _population(ds: xr.Dataset, name: str, at: np.ndarray) -> str:
    """The leading metric's interval over examples, as a sentence."""
    (estimate,) = estimates_at(ds, name, at)
    if not (ends := written_population(estimate)):
        return ""
    return f" For the data that the examples are a sample of, the {short_name(ds, name)} lies in {ends} (95 %)."


def _told(ds: xr.Dataset, name: str, estimate: Estimate) -> str:
    """A metric in the words that its record gives it."""
    about = said(ds, name)
    plain = f"{short_name(ds, name)} {{value}}{_unit(ds, name)}"
    told = str(about.get("sentence", plain)).replace("{reference}", _reference(ds))
    beyond = ""
    if negative_by_chance(ds, name):
        beyond = _unresolved(estimate)
    elif estimate.value > about.get("largest", math.inf) or estimate.value < about.get("smallest", -math.inf):
        end = about["largest" if estimate.value > about.get("largest", math.inf) else "smallest"]
        beyond = f" (beyond {end:g} by sampling noise)"
    return told.replace("{value}", written(estimate)) + beyond


def _range(ds: xr.Dataset) -> str:
    """The least and the greatest value of the leading metric, and where they are."""
    of_trainings = kind(ds).of_trainings
    name = next(name for name in first_metrics(ds) if len(places(ds, [name])))
    at = places(ds, [name])
    estimates, points = estimates_at(ds, name, at), coordinates_at(ds, at)
    values = np.array([estimate.value for estimate in estimates])
    ends = [f"{written(estimates[k])} ({_where(ds, points[k])})" for k in (int(values.argmin()), int(values.argmax()))]
    unit = _unit(ds, name)
    noun = "pairs of temperatures" if of_trainings else "points"
    what = short_name(ds, name).capitalize() + (f" of {alone}" if (alone := _estimator(ds)) else "")
    text = f"{what} over {len(at):,} {noun}: least {ends[0]}, greatest {ends[1]}{unit}."
    if along(ds) and not of_trainings and len(at) > 1:
        last = estimates[-1]
        text = f"{what} from {written(estimates[0])} ({_where(ds, points[0])}) to {written(last)}"
        text += f" ({_where(ds, points[-1])}){unit}; least {ends[0]}, greatest {ends[1]}."
    if negative_by_chance(ds, name) and (open_ones := sum(not is_resolved(estimate) for estimate in estimates)):
        text += f" No bias is resolved at {open_ones:,} of them: the interval holds 0, or lies below it by chance."
    return text


def _unresolved(estimate: Estimate) -> str:
    if estimate.high < 0:
        return " (its square is estimated below 0, which sampling noise alone does: no bias resolved)"
    return "" if is_resolved(estimate) else " (the interval holds 0: no bias resolved)"


def sureness(ds: xr.Dataset) -> str:
    """What the intervals are, and what they leave out."""
    a = ds.attrs
    if kind(ds).of_trainings:
        seeds = ds.sizes.get("seed", 1)
        if seeds < 2:
            return "One seed: no interval."
        return (
            f"Brackets: 95 % over {seeds} seeds, Student's t. Pairs were ranked on these seeds: with new ones the"
            " lowest loss is likely higher."
        )
    method = str(a.get("intervals", ""))
    if a.get("moments") == "exact":
        return "Nothing was sampled: brackets are twice the estimated numerical error."
    how = f" from {_draws(ds)}draws"
    of = method.removeprefix("95 %, ") or "method not given"
    given = "They take the examples as given; the intervals over examples do not."
    if (why := str(a.get("population_intervals", ""))).startswith("none: "):
        given = f"The examples are taken as given; there is no interval over examples: {why.removeprefix('none: ')}."
    elif not any(str(name).endswith("_population_low") for name in ds.data_vars):
        given = "The examples are taken as given."
    return f"Brackets: 95 % interval{how} ({of}). {given}"


def subject(ds: xr.Dataset) -> list[str]:
    """On what: model, data, estimators, target law, aggregation; a line each."""
    a = ds.attrs
    if kind(ds).of_trainings:
        settings = nested(a, "settings")
        of = [str(settings[k]) for k in ("architecture", "estimator") if k in settings]
        epochs = [counted(settings["epochs"], "epoch")] if "epochs" in settings else []
        trained = f"{', '.join(of + epochs)}; {a.get('data', 'data not named')}"
        return [trained, f"validation loss: {a.get('loss', '?')}, without KL, after the last epoch, mean over seeds"]
    sets = f"{a['top_k']} of " if "top_k" in a else ""
    size = f"{counted(a.get('latents', '?'), 'latent')} x {sets}{a.get('categories', '?')} categories"
    if a.get("latent_kind") == "binary":
        size = counted(a.get("latents", "?"), "binary unit")
    if "sites" in a:
        sites = texts(a["sites"])
        size = f"{counted(len(sites), 'site')} ({', '.join(dict.fromkeys(sites))}), paths {a['paths']}"
    if of_groups := groups(a):
        size = " + ".join(f"{name} ({counted(count, 'latent')} x {most} categories)" for name, count, most in of_groups)
    names = ", ".join(texts(a.get("estimator", "?")))
    equal = ", at equal loss evaluations" if a.get("equal_cost") else ""
    how = "moments without sampling of" if a.get("moments") == "exact" else f"{_draws(ds)}draws of"
    if "model" in ds.dims:
        models = f"models: {', '.join(str(name) for name in ds['model'].values)}"
    else:
        models = f"{a.get('checkpoint', 'model not named')}: {size}"
        models += "" if "sites" in a else f", {a.get('loss', '?')} loss in {a.get('unit', '?')}"
    lines = [
        models,
        f"{a.get('data', 'data not named')} ({counted(a.get('examples', '?'), 'example')}); {how} {names}{equal}",
    ]
    lead = ds[first_metrics(ds)[0]]
    aggregation = str(lead.attrs.get("aggregation", ""))
    if "target" in a:
        law = LAWS.get(str(a["target"]), "")
        if a.get("wrt") in ("encoder", "parameters"):
            aggregation = f"gradients of the examples' mean with respect to the {a['wrt']}; {aggregation}"
        lines.append(f"target law {a['target']}{f': {law}' if law else ''}; {aggregation}".rstrip("; "))
    elif aggregation:
        lines.append(aggregation)
    if _is_sampled(ds):
        lines.append(f"bias is against an unbiased reference sampled by {a['reference']}, not the exact gradient")
    return lines


def is_resolved(estimate: Estimate) -> bool:
    """Whether a bias is told from 0, as far as there is an interval."""
    return not estimate.low <= 0


def written(estimate: Estimate) -> str:
    """0.86 [0.81, 0.92]."""
    return rounding.written(estimate.value, estimate.low, estimate.high)


def written_population(estimate: Estimate) -> str:
    """[0.77, 0.96], the interval over examples; "" where there is none."""
    low, high = estimate.population_low, estimate.population_high
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"[{', '.join(rounding.three(estimate.value, low, high)[1:])}]"


def short(value: Any) -> str:
    """A coordinate: temperatures to four digits, a checkpoint without folder and suffix."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def unit_of(ds: xr.Dataset, name: str) -> str:
    return str(ds[name].attrs.get("units", ""))


def _unit(ds: xr.Dataset, name: str) -> str:
    unit = unit_of(ds, name)
    return "" if unit in ("", "1") else f" {unit}"


def _where(ds: xr.Dataset, point: Mapping[str, Any]) -> str:
    """What tells a point from others."""
    varied = {k: v for k, v in point.items() if ds[k].size > 1 and not (k in ("tf", "tb") and k not in ds.dims)}
    names = {"checkpoint": lambda v: PurePath(str(v)).stem, "epoch": "epoch {}".format, "step": "step {:,}".format}
    named = [f"{k} {short(v)}" if k in ("tf", "tb") else names.get(k, str)(v) for k, v in varied.items()]
    return ", ".join(named)


def _reference(ds: xr.Dataset) -> str:
    return f"the unbiased reference ({ds.attrs['reference']})" if _is_sampled(ds) else "the exact gradient"


def _is_sampled(ds: xr.Dataset) -> bool:
    """Whether bias is against a reference that was sampled."""
    return str(ds.attrs.get("reference", "exact")) != "exact"


def _draws(ds: xr.Dataset) -> str:
    """How many, where that is known; against a sampled reference it may go with the point."""
    if "draws" in ds.attrs and "draws" not in ds.data_vars:
        return f"{_count(ds.attrs['draws'])} "
    found = ds["draws"].to_numpy().ravel().astype(float) if "draws" in ds.data_vars else np.array([])
    found = found[np.isfinite(found)]
    ends = [f"{v:,}" for v in sorted({int(found.min()), int(found.max())})] if found.size else []
    return f"{' to '.join(ends)} " if ends else ""


def _count(value: Any) -> str:
    """A number with separators; what a foreign file says, as it is."""
    return f"{int(value):,}" if isinstance(value, int | np.integer) else str(value)


def _estimator(ds: xr.Dataset) -> str:
    """The estimator, where there is but one and bias is of it."""
    named = texts(ds.attrs.get("estimator", ""))
    return named[0] if len(named) == 1 and "estimator" not in ds.dims and kind(ds).name.startswith("bias") else ""
