"""Figures of gradients with respect to the encoder: a row for each parameter tensor; the others draw all together."""

import numpy as np
import pytest
import torch

import gradlab
from gradlab import networks, plots

from .figures import caption, curves, legend, misplaced_texts, segments


def measured(**options):
    config = {"latents": 2, "categories": 3, "hidden": [8], "image_shape": [1, 3, 3]}
    model = networks.build("categorical-vae", config, seed=0)
    x = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    return gradlab.bias(model, x, **({"tf": 1.6, "tb": 1.3, "draws": 64, "wrt": "encoder"} | options))


@pytest.fixture(scope="module")
def point():
    return measured()


@pytest.fixture(scope="module")
def several():
    return measured(tf=[0.5, 1.6], tb=[0.5, 1.3], estimator=["st-gs", "ste"], target="both")


def test_rows_are_the_tensors_with_their_sizes(point):
    figure = plots.parameters(point)
    left, right = figure.axes
    names = [text.get_text() for text in left.get_yticklabels()]
    assert names[0].startswith("all (")
    assert [name.split(" (")[0] for name in names] == list(point.parameter.values)
    assert [int(name.split("(")[1][:-1]) for name in names] == list(point.entries.values)
    for ax, name in ((left, "relative_bias_debiased"), (right, "relative_std")):
        at = point.isel(tf=0, tb=0)
        (marks,) = curves(ax)
        np.testing.assert_array_equal(marks.get_xdata(), np.maximum(at[name], 0))
        ends = np.array([sorted(s[:, 0]) for s in segments(ax)])
        np.testing.assert_array_equal(ends[:, 0], np.maximum(at[f"{name}_low"], 0))
        np.testing.assert_array_equal(ends[:, 1], np.maximum(at[f"{name}_high"], 0))


def test_labels_and_caption(point):
    figure = plots.parameters(point)
    assert [ax.get_xlabel() for ax in figure.axes] == ["relative bias", "relative standard deviation"]
    for fact in ("tf = 1.6, tb = 1.3", "with respect to the encoder's parameters", "64 draws", "entries of a"):
        assert fact in caption(figure).replace("\N{NO-BREAK SPACE}", " ")
    assert not misplaced_texts(figure)


def test_estimators_and_targets_have_their_looks(several):
    figure = plots.parameters(several, tf=0.5, tb=1.3)
    assert legend(figure) == ["st-gs", "ste", "target sampled", "target model"]
    drawn = [line.get_xdata() for line in curves(figure.axes[1])]
    at = several.relative_std.sel(tf=0.5, tb=1.3)
    wanted = [at.sel(estimator=e, target=t) for e in ("st-gs", "ste") for t in ("sampled", "model")]
    for one, other in zip(drawn, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not misplaced_texts(figure)
    assert len(curves(plots.parameters(several, target="model").axes[0])) == 2


def test_auto_draws_the_tensors_and_the_other_figures_all_together(several, point):
    assert plots.auto(point).axes[0].get_yticklabels()[0].get_text().startswith("all (")
    lines = curves(plots.bias_trends(several, target="model").axes[2])
    wanted = several.relative_std.sel(parameter="all", tb=1.3, target="model")
    for line, name in zip(lines, ("st-gs", "ste"), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), wanted.sel(estimator=name))
    assert plots.heatmap(several, "relative_std").axes
    assert plots.comparison(point).axes


def test_a_tensor_of_no_gradient_has_no_mark(point):
    ds = point.copy(deep=True)
    for name in ("relative_bias_debiased", "relative_std"):
        for end in ("", "_low", "_high"):
            ds[name + end][..., 2] = np.nan
    figure = plots.parameters(ds)
    assert np.isnan(curves(figure.axes[0])[0].get_xdata()[2])
    assert not misplaced_texts(figure)


def test_what_has_no_tensors_is_refused(several):
    with pytest.raises(ValueError, match="dim parameter"):
        plots.parameters(measured(wrt="logits"))
    with pytest.raises(ValueError, match=r"tf: expected .*, got 9"):
        plots.parameters(several, tf=9)
    with pytest.raises(ValueError, match="did you mean model"):
        plots.parameters(several, target="modl")
