"""Every kind of figure at every size that it is published in: nothing overlaps, is cut, too small, or left unsaid."""

import functools
import re

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.text import Text

import gradlab
from gradlab import plots, sweeps
from gradlab.plots.fitting import shown_labels
from gradlab.plots.publishing import resize

from . import test_kinds as kinds
from .drawn_sweeps import scheduled, swept
from .figures import axes_of, caption, overlaps
from .problems import make
from .test_plots_publishing import noisy
from .test_plots_sweep_layout import NINE, SWEEPS

ESTIMATORS = ["st-gs(convention=jang)", "ste", "rloo:n=4"]


@functools.cache
def measured(name):
    """Small Datasets, made once."""
    p = make("3x5-bernoulli-mlp")
    makers = {
        "point": lambda: gradlab.bias(p.model, p.x, 1.2, 1.0, estimator=ESTIMATORS, draws=64, target="both"),
        "cross": lambda: gradlab.bias(
            p.model, p.x, [0.5, 1, 2], [0.5, 1, 2], estimator=ESTIMATORS, draws=64, cross=(1, 1)
        ),
        "grid": lambda: gradlab.bias(p.model, p.x, NINE, NINE, draws=16),
        "encoder": lambda: gradlab.bias(p.model, p.x, 1.2, 1.0, estimator=ESTIMATORS[:2], draws=64, wrt="encoder"),
        "row": lambda: gradlab.bias(p.model, p.x, 1.2, [0.5, 1, 2], estimator=ESTIMATORS, draws=64),
        "gap": lambda: gradlab.gap(p.model, p.x, 1.0, NINE, draws=16),
        "gaps": lambda: gradlab.gap(p.model, p.x, NINE, NINE, draws=4),
    }
    return makers[name]()


def collapsed():
    ds = swept(NINE, NINE, seeds=2)
    ds["final_validation_loss"].values[:3, 5:, 0] = 206.0
    return sweeps.with_means(ds.assign_attrs(loss_without_code=207.0))


WITHOUT_UNIT = re.compile(
    r"(epochs?|steps?|checkpoint|relative|cosine|matched)\b|(forward|backward) temperature t[fb]$"
    r"|tb of the least|rank correlation|share of the cells"
)


def named(label):
    """Whether an axis has no label, or one with its unit, unless it is a number without one, or names things."""
    return not label or label.endswith(")") or bool(WITHOUT_UNIT.match(label))


FIGURES = {
    "comparison": lambda: plots.comparison(measured("point")),
    "bias_trends": lambda: plots.bias_trends(measured("cross")),
    "bias_trends of one": lambda: plots.bias_trends(measured("row")),
    "heatmap": lambda: plots.heatmap(measured("grid"), "relative_bias_debiased"),
    "parameters": lambda: plots.parameters(measured("encoder")),
    "tradeoff": lambda: plots.tradeoff(measured("row")),
    "gap": lambda: plots.gap(measured("gap")),
    "gap over a grid": lambda: plots.gap(measured("gaps")),
    "gap_and_bias": lambda: plots.gap_and_bias(kinds.collected("gap-and-bias-standard")()),
    "recommendation": lambda: plots.recommendation(kinds.recommendation()),
    "losses": lambda: plots.losses(SWEEPS["large"]),
    "losses, collapsed": lambda: plots.losses(collapsed()),
    "losses_by_kl": lambda: plots.losses_by_kl(sweeps.with_means(kinds.collected("figure4-kl-part")())),
    "schedules": lambda: plots.schedules(scheduled()),
    "training_curves": lambda: plots.training_curves(swept()),
    "fidelity_and_loss": lambda: plots.fidelity_and_loss(kinds.collected("fidelity-and-loss-paper")()),
    "tracked": lambda: plots.tracked(kinds.along(kinds.gap(0.5, 1.0))),
    "reconstructions": lambda: plots.reconstructions(np.zeros((12, 1, 5, 5)), np.ones((12, 1, 5, 5)), "Two lines."),
}
# a column is the narrowest
QUICK = {"recommendation", "comparison", "tracked", "reconstructions"}
CASES = [
    pytest.param(name, size, marks=[] if name in QUICK and size == "column" else pytest.mark.deep)
    for name in FIGURES
    for size in plots.SIZES
]


@pytest.mark.parametrize(("name", "size"), CASES)
def test_a_figure_can_be_read_at_its_size(name, size, tmp_path):
    figure = FIGURES[name]()
    assert caption(figure)
    assert hasattr(figure, "_repr_png_")  # a notebook shows it
    plots.save(figure, tmp_path / "x.png", size=size)
    assert overlaps(figure) == []
    width, height = figure.get_size_inches()
    assert width == plots.SIZES[size].width
    assert height < 2.6 * width
    letters = plots.SIZES[size].letters
    # numbers in cells are as large as there is room, but can be read
    assert (
        min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text() and text.get_visible())
        >= 4.2 * letters
    )
    least_axes = min(min(ax.bbox.size) for ax in figure.axes if ax.get_label() != "<colorbar>") / figure.dpi
    assert least_axes > 0.7 * letters  # inches
    assert figure.get_supxlabel() == ""
    broken = [axis.label.get_text() for axis in axes_of(figure) if not named(axis.label.get_text())]
    assert broken == []


@pytest.mark.parametrize("name", ["comparison", "parameters", "recommendation"])
def test_no_interval_ends_outside_the_axes(name):
    """Those over examples are wider than those over draws; both are drawn whole."""
    for ax in FIGURES[name]().axes:
        low, high = ax.get_xlim()
        drawn = [s for c in ax.collections if isinstance(c, LineCollection) for s in c.get_segments()]
        ends = np.concatenate([segment[:, 0] for segment in drawn]) if drawn else np.array([low])
        if ax.get_xscale() == "linear" and drawn:
            assert low <= np.nanmin(ends)
            assert np.nanmax(ends) <= high


def test_every_function_that_draws_is_among_them():
    others = {"FORMATS", "SIZES", "auto", "caption_of", "draw", "save"}
    assert set(plots.__all__) - others == {name.split()[0].rstrip(",") for name in FIGURES}


def test_names_of_rows_all_stay_and_numbers_give_way():
    figure = plots.recommendation(kinds.recommendation())
    resize(figure, "column")
    rows = figure.axes[0].yaxis
    assert len(shown_labels(rows)) == len(rows.get_majorticklocs())
    figure = plots.heatmap(noisy(1.0), "relative_bias")
    figure.axes[0].set_xticks(range(3), [f"{k}.0000000000000000025" for k in range(3)])
    resize(figure, "column")
    assert len(shown_labels(figure.axes[0].xaxis)) < 3
    assert overlaps(figure) == []
    figure.axes[0].set_xticks(range(3), ["1", "2", "3"])
    resize(figure, "page")
    assert len(shown_labels(figure.axes[0].xaxis)) == 3  # whatever size came before
