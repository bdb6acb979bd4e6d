"""Figures to publish: sizes, captions apart from the axes, bias against standard deviation, noise without colours."""

import io
import resource

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import ListedColormap
from PIL import Image

import gradlab
from gradlab import plots

from .figures import caption, legend, misplaced_texts
from .forks import ended
from .problems import make


@pytest.fixture(scope="module")
def compared():
    p = make("3x5-bernoulli-mlp")
    moments = gradlab.MonteCarlo(draws=128, equal_cost=True)
    return gradlab.bias(
        p.model, p.x, tf=1.2, tb=[0.5, 1.0, 2.0], estimator=["st-gs", "ste", "rloo:n=4"], moments=moments
    )


@pytest.fixture(scope="module")
def grid():
    p = make("3x5-bernoulli-mlp")
    return gradlab.bias(p.model, p.x, tf=[0.5, 1.0, 2.0], tb=[0.5, 1.0, 2.0, 3.0], draws=512)


@pytest.mark.parametrize("size", ["column", pytest.param("page", marks=pytest.mark.deep), "slide"])
@pytest.mark.parametrize("kind", ["tradeoff", "bias_trends", "heatmap"])
def test_no_text_is_cut_or_overlaps_in_any_size(compared, grid, kind, size, tmp_path):
    draw = {
        "tradeoff": lambda: plots.tradeoff(compared),
        "bias_trends": lambda: plots.bias_trends(compared),
        "heatmap": lambda: plots.heatmap(grid, "relative_bias_debiased"),
    }
    figure = draw[kind]()
    plots.save(figure, tmp_path / "x.png", size=size)
    assert misplaced_texts(figure) == []
    assert figure.get_figwidth() == {"column": 3.35, "page": 5.5, "slide": 10}[size]
    least = min(text.get_fontsize() for ax in figure.axes for text in (ax.xaxis.label, ax.yaxis.label))
    assert least >= 7


def test_a_caption_is_text_in_the_file_and_drawn_only_on_request(grid, tmp_path):
    figure = plots.bias_trends(grid)
    assert figure.get_supxlabel() == ""
    text = caption(figure)
    assert "512 draws" in text
    plots.save(figure, tmp_path / "x.png")
    plots.save(figure, tmp_path / "x.svg")
    plots.save(figure, tmp_path / "x.pdf")
    assert Image.open(tmp_path / "x.png").info["Description"] == text
    assert "512 draws" in (tmp_path / "x.svg").read_text()
    assert b"/Subject" in (tmp_path / "x.pdf").read_bytes()
    plots.save(figure, tmp_path / "y.png", caption=True)
    assert " ".join(figure.get_supxlabel().split()) == text


def test_the_curve_of_least_error_passes_through_the_best_point(compared):
    figure = plots.tradeoff(compared, averaged=[1, 1000])
    bias, std = (compared[name].values for name in ("relative_bias_debiased", "relative_std"))
    for n in (1, 1000):
        error = np.sqrt(np.maximum(bias, 0) ** 2 + std**2 / n).min()
        (curve,) = (line for line in figure.axes[0].lines if line.get_label().endswith(f"at n = {n}"))
        x, y = curve.get_data()
        np.testing.assert_allclose(y**2 + x**2 / n, error**2, rtol=1e-6)
    assert legend(figure)[:3] == ["st-gs", "ste", "rloo(n=4)"]


def test_a_tradeoff_of_one_tf_alone(grid, compared):
    with pytest.raises(ValueError, match="ds: expected one tf, got 3"):
        plots.tradeoff(grid)
    with pytest.raises(ValueError, match="averaged: expected"):
        plots.tradeoff(compared, averaged=[0])
    nothing = compared.copy(deep=True)
    for name in nothing.data_vars:
        if nothing[name].dtype.kind == "f":
            nothing[name] = nothing[name] * np.nan
    assert plots.tradeoff(nothing).axes
    assert plots.tradeoff(compared.isel(tb=[0], estimator=[0])).axes


def noisy(spread):
    """A grid whose intervals are +-0.1 around values that differ by `spread`."""
    value = 1 + spread * np.linspace(-0.5, 0.5, 12).reshape(3, 4)
    said = {"short_name": "relative bias", "units": "1", "long_name": "relative bias"}
    variables = {
        f"relative_bias{end}": (("tf", "tb"), value + off, said)
        for end, off in (("", 0), ("_low", -0.1), ("_high", 0.1))
    }
    return xr.Dataset(variables, {"tf": [1.0, 2.0, 3.0], "tb": [0.5, 1.0, 2.0, 3.0]}, {"analysis": "bias", "format": 2})


def test_noise_is_not_coloured_as_structure():
    flat, steep = (plots.heatmap(noisy(spread), "relative_bias") for spread in (0.15, 1.0))
    assert isinstance(flat.axes[0].images[0].get_cmap(), ListedColormap)
    assert len(set(map(tuple, flat.axes[0].images[0].get_cmap().colors))) == 1
    assert "differences between cells may be noise" in caption(flat)
    assert steep.axes[0].images[0].get_cmap().name == "viridis"
    assert "thick outline: least value of a panel" in caption(steep)


def test_the_least_cell_and_what_reaches_its_interval_are_marked():
    figure = plots.heatmap(noisy(1.1), "relative_bias")  # steps of 0.1 between cells, intervals of 0.2
    thick = [patch for patch in figure.axes[0].patches if patch.get_linewidth() == 1.8]
    assert [patch.get_xy() for patch in thick] == [(-0.5, -0.5)]
    dots = figure.axes[0].collections[0].get_offsets()
    assert len(dots) == 2


def test_one_varied_temperature_has_one_column(compared):
    assert len(plots.bias_trends(compared).axes) == 2
    assert plots.bias_trends(compared).axes[0].get_title() == "at tf = 1.2"


def test_bands_over_examples_are_drawn_and_named(grid):
    figure = plots.bias_trends(grid)
    assert "lighter band: interval over examples" in caption(figure)
    alone = grid.drop_vars([name for name in grid.data_vars if "population" in name])
    assert "lighter band" not in caption(plots.bias_trends(alone))


def test_an_unknown_size_is_refused(grid, tmp_path):
    with pytest.raises(ValueError, match="size: unknown name 'poster'"):
        plots.save(plots.bias_trends(grid), tmp_path / "x.png", size="poster")


def test_the_command_line_takes_size_and_caption(run, compared, tmp_path):
    gradlab.save_results(compared, tmp_path / "compared.h5")
    ran = run("plot", "compared.h5", "--kind", "tradeoff", "--size", "column", "--caption", "--out", "x.png")
    assert (ran.code, ran.err) == (0, "")
    picture = Image.open(tmp_path / "x.png")
    assert picture.width == 3.35 * 200
    assert "curves: equal error of n averaged estimates" in picture.info["Description"]


def test_a_notebook_shows_a_figure_by_itself(grid):
    """IPython asks for _repr_png_ where pyplot, which is not imported, has registered no printer."""
    figure = plots.heatmap(grid, "relative_bias_debiased")
    picture, shown = figure._repr_png_()
    with Image.open(io.BytesIO(picture)) as read:
        assert read.size == (2 * shown["width"], 2 * shown["height"])
    assert shown["width"] == round(110 * figure.get_figwidth())


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_a_full_disk_leaves_the_old_figure_and_is_called_that(grid, tmp_path, suffix):
    """Matplotlib's own error, of a PDF stream say, does not say so. Here no file may exceed 2 kB."""
    path = tmp_path / f"a.{suffix}"
    plots.save(plots.bias_trends(grid), path)
    old = path.read_bytes()

    def fails():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        with pytest.raises(OSError, match="File too large") as raised:
            plots.save(plots.bias_trends(grid), path)
        return raised.value.filename

    assert ended(fails) == (0, str(path))
    assert path.read_bytes() == old
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
