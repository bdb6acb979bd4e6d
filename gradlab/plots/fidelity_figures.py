"""Fidelity of gradients along trainings against the loss they end with."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .axes_style import FONT, SMALL, caption, temperature_label, value_axis
from .fitting import keep_panels, key_above
from .lines import COLOURS, MARKERS
from .notebooks import Figure
from .selection import checked, with_interval
from .sweep_points import FINAL, facts, loss_label, pairs

SHOWN = 100.0  # estimates averaged, in the panels that show one
ENOUGH = 0.5  # rank correlation
NEEDED = ("matched_error", "rank_correlation", "rank_correlation_along_tb", "tb_of_least_error", "tb_of_least_loss")


def fidelity_and_loss(ds: xr.Dataset) -> Figure:
    """Three panels: loss against error, rank correlations along the training, and the tb that either chooses.

    Left the final validation loss of each training against the matched error of 100 averaged estimates at the second
    epoch measured, a colour for each tf. In the middle the rank correlation of error and loss at each epoch, over all
    pairs and along tb, with intervals over seeds. Right, for each tf, the tb of least error at each epoch and the tb of
    least loss.

    Parameters
    ----------
    ds : of the analysis fidelity-and-loss

    Raises
    ------
    ValueError
        Another Dataset.

    Examples
    --------
    >>> ds = gradlab.open_results("fidelity-and-loss.h5")
    >>> figure = gradlab.plots.fidelity_and_loss(ds)
    """
    ds = checked(ds)
    if missing := [name for name in (*NEEDED, FINAL) if name not in ds]:
        raise ValueError(f"ds: expected a Dataset of fidelity-and-loss, got one without {', '.join(missing)}")
    figure = Figure(figsize=(9.4, 4.3), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    keep_panels(figure, [left, middle, right], 2.8, 2.8)
    early = ds["tracked_epoch"][min(1, ds.sizes["tracked_epoch"] - 1)].item()
    _scatter(left, ds.sel(tracked_epoch=early, averaged=SHOWN))
    left.set_xlabel(f"matched error of {SHOWN:g} estimates\nafter {_epochs(early)}", fontsize=FONT)
    _correlations(middle, ds)
    _choices(right, ds.sel(averaged=SHOWN))
    caption(figure, ds, ds[FINAL], *facts(ds, pairs(ds)), _measured_on(ds), intervals=False)
    return figure


def _measured_on(ds: xr.Dataset) -> str:
    """How the error was measured, where the Dataset tells."""
    about = ds.attrs
    if not {"bias_examples", "bias_draws"} <= set(about):
        return ""
    return f"error on {int(about['bias_examples']):,} validation images, {int(about['bias_draws']):,} draws"


def _scatter(ax: Axes, ds: xr.Dataset) -> None:
    colours = colormaps["viridis"](np.linspace(0, 0.9, ds.sizes["tf"]))
    for colour, tf in zip(colours, ds["tf"].values, strict=True):
        one = ds.sel(tf=tf).transpose("tb", "seed", ...)
        error, loss = one["matched_error"].to_numpy().ravel(), one[FINAL].to_numpy().ravel()
        ax.plot(error, loss, ls="", marker="o", ms=3, mec="none", color=colour, alpha=0.8, label=f"tf {tf:g}")
    drawn = ds[FINAL].to_numpy().ravel()
    if "loss_without_code" in ds.attrs:
        ax.axhline(ds.attrs["loss_without_code"], color="0.4", lw=0.8, ls=":", zorder=0, label="no code")
        drawn = np.append(drawn, ds.attrs["loss_without_code"])
    value_axis(ax, "x", np.stack([ds["matched_error"].to_numpy().ravel()] * 3), zero=False)
    value_axis(ax, "y", np.stack([drawn] * 3), zero=False)
    ax.set_ylabel(f"final {loss_label(ds[FINAL])}", fontsize=FONT)
    key_above(ax, ax.get_legend_handles_labels()[0], 3, SMALL)


def _correlations(ax: Axes, ds: xr.Dataset) -> None:
    """Epochs stand side by side, since the last is far from the others."""
    epochs = ds["tracked_epoch"].to_numpy().tolist()
    count = ds.sizes["averaged"]
    handles = []
    for i, (n, colour) in enumerate(zip(ds["averaged"].values, COLOURS, strict=False)):
        for name, face, side in (("rank_correlation", colour, -1), ("rank_correlation_along_tb", "white", 1)):
            at = np.arange(len(epochs)) + 0.09 * (2 * i - count + 1) + 0.04 * side
            value, low, high = with_interval(ds.sel(averaged=n), name, least=-np.inf)
            ax.vlines(at, np.clip(low, -1, 1), np.clip(high, -1, 1), color=colour, lw=1)
            ax.plot(at, value, ls="", marker=MARKERS[i], ms=4, color=colour, mfc=face)
        handles.append(Line2D([], [], ls="", marker=MARKERS[i], ms=4, color=colour, label=f"n = {_count(n)}"))
    handles += [
        Line2D([], [], ls="", marker="o", ms=4, color="0.3", label="all pairs"),
        Line2D([], [], ls="", marker="o", ms=4, color="0.3", mfc="white", label="along tb"),
    ]
    for level, style in ((0.0, "-"), (ENOUGH, "--")):
        ax.axhline(level, color="0.6", lw=0.6, ls=style, zorder=0)
    ax.set_ylim(-1.05, 1.05)
    ax.set_xticks(range(len(epochs)), [f"{epoch:g}" for epoch in epochs])
    ax.tick_params(labelsize=SMALL)
    ax.set_xlabel("epoch at which the error is measured", fontsize=FONT)
    ax.set_ylabel("rank correlation of error and final loss", fontsize=FONT)
    key_above(ax, handles, 3, SMALL)


def _choices(ax: Axes, ds: xr.Dataset) -> None:
    tf = ds["tf"].to_numpy()
    epochs = ds["tracked_epoch"].to_numpy().tolist()
    for i, (epoch, colour) in enumerate(zip(epochs, COLOURS, strict=False)):
        tb = ds["tb_of_least_error"].sel(tracked_epoch=epoch).to_numpy()
        across = tf * 1.03 ** (i - (len(epochs) - 1) / 2)
        ax.plot(across, tb, color=colour, marker=MARKERS[i], ms=4, lw=0.8, label=f"error, {_epochs(epoch)}")
    ax.plot(tf, ds["tb_of_least_loss"].to_numpy(), color="black", marker="*", ms=8, lw=1.4, label="loss", zorder=0)
    ends = np.array([min(tf.min(), ds["tb"].min()), max(tf.max(), ds["tb"].max())])
    ax.plot(ends, ends, color="0.6", lw=0.6, ls="--", zorder=0, label="tb = tf")
    sides = (ends[0] / 1.2, ends[1] * 1.2)
    ax.set(xscale="log", yscale="log", xlim=sides, ylim=sides)
    for axis, values in ((ax.xaxis, tf), (ax.yaxis, ds["tb"].to_numpy())):
        axis.set_ticks(values, _spaced(values))
        axis.set_ticks([], minor=True)
        axis.set_tick_params(labelsize=SMALL)
    ax.set_xlabel(temperature_label(ds, "tf"), fontsize=FONT)
    ax.set_ylabel(f"tb of the least error (n = {SHOWN:g}) or loss", fontsize=FONT)
    key_above(ax, ax.get_legend_handles_labels()[0], 2, SMALL)


def _spaced(values: np.ndarray) -> list[str]:
    """Labels, without those that stand on the one before."""
    labels, last = [], 0.0
    for value in values:
        labels.append(f"{value:g}" if value >= 1.25 * last else "")
        last = value if labels[-1] else last
    return labels


def _count(n: float) -> str:
    return "∞" if np.isinf(n) else f"{n:g}"


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' * (count != 1)}"
