"""What all figures share: sizes, scales, ticks, labels, captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter, StrMethodFormatter

from ..attributes import groups, texts
from ..cautions import cautions
from ..terminal import counted
from .publishing import FONT as FONT
from .publishing import SMALL as SMALL
from .publishing import WIDTH as WIDTH
from .publishing import keep_caption
from .selection import known_name, units

WRT = {
    "encoder": "gradients with respect to the encoder's parameters",
    "parameters": "gradients with respect to the program's parameters",
}
LAWS = {"sampled": "softmax(l/tf)", "model": "softmax(l)"}
LOG_FROM = 30  # largest over smallest value from which a logarithmic scale serves


def letters_across(inches: float) -> int:
    """How many small letters a width has room for; letters are about half as wide as high."""
    return int(inches * 72 / (0.53 * SMALL))


def temperature_axis(ax: Axes, grid: np.ndarray, fixed: float | None = None) -> None:
    """Temperatures to the right, with a thin line at `fixed`."""
    ax.tick_params(labelsize=SMALL)
    low, high = grid.min(), grid.max()
    if low == high:
        ax.set_xlim(0.5 * low, 1.5 * low)
        ax.set_xticks([low], [f"{low:g}"])
        return
    if fixed is not None:
        ax.axvline(fixed, color="0.6", lw=0.6, zorder=0)
    if serves_log(grid):
        ax.set_xscale("log")
        ax.set_xlim(low / 1.2, high * 1.2)
        log_ticks(ax.xaxis, grid)
    else:
        ax.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))


def epoch_axis(ax: Axes, epochs: xr.DataArray) -> None:
    """Epochs to the right, whole numbers at the ticks."""
    ax.tick_params(labelsize=SMALL)
    ax.set_xlabel(f"{long_name(epochs)}{units(epochs)}", fontsize=FONT)
    first, last = float(epochs[0]), float(epochs[-1])
    margin = 0.03 * (last - first) or 0.5
    ax.set_xlim(first - margin, last + margin)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def value_axis(ax: Axes, which: str, drawn: np.ndarray, zero: bool = True, log_from: float = LOG_FROM) -> None:
    """A scale that holds 0 unless not wanted, or logarithmic where that serves; `drawn` as `with_interval` gives it."""
    ax.tick_params(labelsize=SMALL)
    ax.set_axisbelow(True)
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.get_offset_text().set_fontsize(SMALL)
    finite = drawn[np.isfinite(drawn)]
    if serves_log(drawn[0], log_from) and finite.min() > 0:
        margin = (finite.max() / finite.min()) ** 0.04
        ax.set(**{f"{which}scale": "log", f"{which}lim": (finite.min() / margin, finite.max() * margin)})
        log_ticks(axis, finite)
    else:
        least, most = (finite.min(initial=0), finite.max(initial=0)) if zero else (finite.min(), finite.max())
        span = most - least
        if isinstance(formatter := axis.get_major_formatter(), ScalarFormatter):
            formatter.set_powerlimits((-3, 5))  # 1.4 and a factor 1e-4, not 0.00014
            formatter.set_useMathText(True)
        ax.set(**{f"{which}lim": (least - 0.03 * span, most + 0.05 * span if span else least + 1)})


def serves_log(values: np.ndarray, log_from: float = LOG_FROM) -> bool:
    values = values[np.isfinite(values)]
    return bool(values.size and values.min() > 0 and values.max() / values.min() > log_from)


def log_ticks(axis: Axis, values: np.ndarray, steps: Sequence[int] = (1, 2, 5)) -> None:
    """Plain numbers at `steps` of each decade where there are few; powers of ten stay where there are many."""
    span = values.max() / values.min()
    if span < 200:
        # too short a span may hold no step
        few = MaxNLocator(5, steps=[1, 2, 5, 10])
        axis.set_major_locator(few if span < 5 else LogLocator(subs=steps, numticks=12))
        axis.set_major_formatter(StrMethodFormatter("{x:g}") if values.min() >= 1e-3 else FuncFormatter(_scientific))
        axis.set_minor_formatter(NullFormatter())


def _scientific(value: float, _: object = None) -> str:
    """3e-5"""
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def temperature_label(data: xr.Dataset | xr.DataArray, name: str) -> str:
    return f"{data[name].attrs.get('long_name', 'temperature')} {name}"


def long_name(values: xr.DataArray) -> str:
    return values.attrs.get("long_name", str(values.name))


def caption(
    figure: Figure, ds: xr.Dataset, values: xr.DataArray, *more: str, first: str = "", intervals: bool = True
) -> None:
    """Keep what was measured, and how, as the figure's caption; `intervals` says whether they are drawn."""
    about = ds.attrs
    laws = [str(t) for t in ds["target"].values] if "target" in ds.dims else [known_name(ds, "target")]
    named = " and ".join(f"{law} ({LAWS[law]})" for law in laws if law in LAWS)
    method = about.get("intervals") if intervals and f"{values.name}_low" in ds else ""
    definition = "" if "definition" in ds.dims else known_name(ds, "definition")
    files = (known_name(ds, "checkpoint"), known_name(ds, "data"))
    facts = [
        first,
        "" if "estimator" in ds.dims else known_name(ds, "estimator"),
        WRT.get(str(about.get("wrt")), ""),
        f"definition {definition}" if definition else "",
        f"target law{'s' if len(laws) > 1 else ''} {named}" if named else "",
        _draws(ds),
        f"reference {about['reference']}" if about.get("reference", "exact") != "exact" else "",
        "moments without sampling" if about.get("moments") == "exact" else "",
        "at equal loss evaluations" if about.get("equal_cost") else "",
        counted(int(about["examples"]), "example") if "examples" in about else "",
        *(PurePath(known).name for known in files if known and known[:5] != "given"),
        _code(ds),
        f"loss {about['loss']} ({about.get('unit', '')})" if "loss" in about else "",
        *more,
        f"aggregation: {values.attrs['aggregation']}" if "aggregation" in values.attrs else "",
        f"interval: {method}" if method else "",
        *(caution.rstrip(".") for caution in cautions(ds)),
    ]
    text = (
        "; ".join(fact for fact in facts if fact)
        .replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
        .replace(" %", "\N{NO-BREAK SPACE}%")
    )
    keep_caption(figure, f"{text}.")


def _draws(ds: xr.Dataset) -> str:
    """How many; a variable tells where points differ."""
    if "draws" in ds and ds["draws"].notnull().any():
        ends = sorted({int(ds["draws"].min()), int(ds["draws"].max())})
        return f"{' to '.join(f'{end:,}' for end in ends)} draws"
    return f"{int(ds.attrs['draws']):,} draws" if "draws" in ds.attrs else ""


def _code(ds: xr.Dataset) -> str:
    about = ds.attrs
    if "sites" in about:
        return f"program {about['program']}, sites {', '.join(dict.fromkeys(texts(about['sites'])))}"
    if not {"categories", "latents"} <= set(about):
        return ""
    if about.get("latent_kind") == "binary":
        return counted(int(about["latents"]), "binary unit")
    if of_groups := groups(about):
        return "code " + " + ".join(f"{categories}x{latents}" for _, latents, categories in of_groups)
    sets = f"{about['top_k']} of " if "top_k" in about else ""
    return f"code {sets}{about['categories']}x{about['latents']}"
