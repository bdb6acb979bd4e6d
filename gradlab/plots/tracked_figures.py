"""Along a training: the validation loss by epoch, and bias or gap by epoch or step."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ..kinds import first_metrics, kind
from ..schema import along, short_name
from .axes_style import FONT, WIDTH, caption, epoch_axis, long_name, value_axis
from .fitting import keep_panels
from .lines import COLOURS, MARKERS, Series, Style, keys, series, shifts, trend
from .notebooks import Figure
from .publishing import legend
from .selection import checked, described, least_drawn, panel_label, with_interval
from .sweep_points import MEAN, comparable, facts, label, loss_label, lowest, pairs, single, temperature, trained

CURVE = "validation_loss"
ZOOM = 8  # epochs from which the second half of a training has a panel of its own


def training_curves(ds: xr.Dataset) -> Figure:
    """Validation loss against epoch, mean over seeds, of the best and the worst pair and the best with tf = tb.

    Best and worst by the mean of the last epoch, of the pairs with the most seeds done. Bands are intervals over
    seeds. Of longer trainings the second half is drawn once more, on its own scale.

    Parameters
    ----------
    ds : a sweep with means over seeds, as gradlab.sweeps.with_means returns it

    Raises
    ------
    ValueError
        Another Dataset, or one without the means.

    Examples
    --------
    >>> ds = gradlab.sweeps.with_means(gradlab.open_results("sweep.h5"))
    >>> figure = gradlab.plots.training_curves(ds)
    """
    ds = trained(ds, f"{CURVE}_mean")
    of = pairs(ds)
    lines = _curves(of)
    epochs = ds["epoch"]
    half = epochs.to_numpy() > float(epochs[-1]) / 2
    panels = [(np.ones(len(half), bool), lines)] + [(half, lines[:-1] or lines)] * (len(half) >= ZOOM)
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    for ax, (part, shown) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        drawn = []
        for one in shown:
            values = with_interval(one.data.isel(epoch=part), f"{CURVE}_mean", least=-np.inf)
            drawn.append(trend(ax, one, epochs.to_numpy()[part], values))
        epoch_axis(ax, epochs[part])
        value_axis(ax, "y", np.hstack(drawn), zero=False)
    figure.axes[0].set_ylabel(loss_label(ds[MEAN]), fontsize=FONT)
    legend(figure, keys(lines))
    several = len(lines) > 1
    zoomed = f"right: second half{', without the highest' * several}" if len(panels) > 1 else ""
    chosen = "lowest and highest: by the mean after the last epoch, chosen on the seeds shown" if several else ""
    first = f"mean over seeds of the {long_name(ds[CURVE])}"
    caption(figure, ds, ds[CURVE], *facts(ds, of), zoomed, chosen, first=first)
    return figure


def _curves(of: xr.Dataset) -> list[Series]:
    """The pair with the lowest mean, that with tf = tb, the one with the highest; each pair once, the highest last."""
    among = comparable(of)
    highest = int(np.where(among, of[MEAN], -np.inf).argmax())
    names: dict[int, list[str]] = {}
    for name, found in (("lowest", lowest(of, among)), ("lowest of tf = tb", lowest(of, among & single(of)))):
        for pair in found:
            names.setdefault(pair, []).append(name)
    if highest != next(iter(names)):
        names[highest] = [*names.pop(highest, []), "highest"]
    looks = zip(names.items(), COLOURS, MARKERS, strict=False)
    return [_curve(of.isel(pair=pair), words, colour, marker) for (pair, words), colour, marker in looks]


def _curve(pair: xr.Dataset, words: list[str], colour: str, marker: str) -> Series:
    return Series(f"{' and '.join(words)}: {label(pair)}", "", pair, colour, marker, Style("-"))


def tracked(ds: xr.Dataset) -> Figure:
    """Bias or gap along a training, by epoch or step, with intervals: a panel for each of the first metrics.

    Of bias these are the relative bias (clipped at 0), the relative standard deviation and the cosine, the sampling
    noise subtracted; of the gap the relative gap, the gap and the cosine, one colour per definition.

    Parameters
    ----------
    ds : what gradlab.training.train tracks, as NAME.bias.h5 or NAME.gap.h5 hold it, or gradlab.Monitor writes

    Raises
    ------
    ValueError
        Another Dataset.

    Examples
    --------
    >>> ds = gradlab.open_results("small.bias.h5")
    >>> figure = gradlab.plots.tracked(ds)
    """
    ds = checked(ds)
    dim = along(ds)
    if not dim or not {"tf", "tb"} <= set(ds.coords) or kind(ds).of_trainings:
        raise ValueError("ds: expected bias or gap along a training (--track, gradlab.Monitor), got another Dataset")
    panels = first_metrics(ds)
    lines = series(ds, ["definition"], "", [Style("-")])
    figure = Figure(figsize=(0.35 + 2.3 * len(panels), 3.1), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    keep_panels(figure, axes, 1.7, 2.0)
    for ax, name in zip(axes, panels, strict=True):
        drawn = [
            trend(ax, one, ds[dim].to_numpy(), with_interval(one.data, name, least_drawn(ds, name)), shift=shift)
            for one, shift in zip(lines, shifts(len(lines)), strict=True)
        ]
        ax.set_ylabel(panel_label(ds, name), fontsize=FONT)
        epoch_axis(ax, ds[dim])
        value_axis(ax, "y", np.hstack(drawn))
    legend(figure, keys(lines))
    what = "; ".join(f"{short_name(ds, name)}: {described(ds, name)}" for name in panels)
    caption(figure, ds, ds[panels[0]], first=f"at {_temperatures(ds)}; {what}")
    return figure


def _temperatures(ds: xr.Dataset) -> str:
    """Those in force: tf = 1.6, or tf = 1 → 0.3 from the first to the last."""
    found = []
    for name in ("tf", "tb"):
        values = np.atleast_1d(ds[name].to_numpy())
        ends = values[:1] if (values == values[0]).all() else values[[0, -1]]
        found.append(f"{name} = {' → '.join(temperature(float(end)) for end in ends)}")
    return ", ".join(found)
