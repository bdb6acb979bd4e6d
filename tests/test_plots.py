"""Figures: what is drawn is what the Dataset holds, labelled, and nothing outside the figure is touched."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.colors import CenteredNorm, LogNorm, to_hex
from matplotlib.patches import Rectangle

import gradlab
from gradlab import networks, plots

from .figures import band, caption, cell_texts, curves, drawn_texts, legend, misplaced_texts, segments, thin

NAMES = ["decoupled-st-gs", "ste", "gumbel-softmax"]
TFS, TBS = [0.5, 1.0, 1.6, 2.0], [0.4, 1.0, 1.3, 1.6]


def measured(tf, tb, **options):
    config = {"latents": 2, "categories": 3, "hidden": [8], "image_shape": [1, 3, 3]}
    model = networks.build("categorical-vae", config, seed=0)
    x = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    return gradlab.bias(model, x, tf=tf, tb=tb, draws=64, **options)


@pytest.fixture(scope="module")
def grid():
    return measured(TFS, TBS)


@pytest.fixture(scope="module")
def cross():
    return measured(TFS, TBS, cross=(1.0, 1.6))


@pytest.fixture(scope="module")
def several():
    return measured([0.5, 1.6], [1.0, 1.3], estimator=NAMES, target="both")


@pytest.fixture(scope="module")
def checkpoints(grid):
    paths = ["runs/vae-epoch0001.safetensors", "runs/vae-epoch0002.safetensors"]
    return xr.concat(
        [grid, grid.map(lambda v: 2 * v, keep_attrs=True)],
        xr.DataArray(paths, dims="checkpoint", name="checkpoint"),
        data_vars="all",
        combine_attrs="override",
    )


def changed(ds, name, values):
    return ds.assign({name: ds[name].copy(data=values)})


# trends


@pytest.mark.parametrize(
    ("relative", "names"),
    [
        (True, ("relative_bias_debiased", "relative_bias", "relative_std")),
        (False, ("bias_norm_debiased", "bias_norm", "std_norm")),
    ],
)
def test_trends_draw_the_lines_of_the_grid(grid, relative, names):
    axes = plots.bias_trends(grid, tf=1.0, tb=1.3, relative=relative).axes
    lines = {"tf": grid.sel(tb=1.3), "tb": grid.sel(tf=1.0)}
    for ax, name, along in zip(axes, (names[0], names[0], names[2], names[2]), ("tf", "tb") * 2, strict=True):
        (line,) = curves(ax)
        np.testing.assert_array_equal(line.get_xdata(), grid[along])
        np.testing.assert_array_equal(line.get_ydata(), np.maximum(lines[along][name], 0))
    for ax, along in zip(axes[:2], ("tf", "tb"), strict=True):
        (line,) = thin(ax)
        np.testing.assert_array_equal(line.get_ydata(), lines[along][names[1]])
    assert not thin(axes[2])
    assert not thin(axes[3])


def test_the_band_is_the_interval_of_the_dataset(grid):
    axes = plots.bias_trends(grid, tf=1.0, tb=1.3).axes
    for ax, name in ((axes[0], "relative_bias_debiased"), (axes[2], "relative_std")):
        corners = band(ax).get_paths()[0].vertices
        for k, tf in enumerate(TFS):
            low, high = (np.maximum(grid[name + end].sel(tf=tf, tb=1.3).item(), 0) for end in ("_low", "_high"))
            at = corners[np.isclose(corners[:, 0], tf), 1]
            assert (at.min(), at.max()) == (low, high), k


def test_negative_debiased_bias_is_clipped_for_display_and_only_there(grid):
    values = grid["relative_bias_debiased"].values.copy()
    values[1] = -0.3
    ds = changed(grid, "relative_bias_debiased", values)
    (line,) = curves(plots.bias_trends(ds, tf=1.6, tb=1.3).axes[0])
    assert line.get_ydata()[1] == 0
    assert (line.get_ydata()[[0, 2, 3]] > 0).all()
    assert ds["relative_bias_debiased"].values[1, 0] == -0.3


def test_labels_carry_units_and_the_caption_says_what_was_measured(grid):
    figure = plots.bias_trends(grid)
    top, right, bottom, corner = figure.axes
    assert top.get_ylabel() == "relative bias"
    assert bottom.get_ylabel().replace("\n", " ") == "relative standard deviation"
    assert (bottom.get_xlabel(), corner.get_xlabel()) == (
        "forward temperature tf",
        "backward temperature tb",
    )
    assert (top.get_title(), right.get_title()) == ("at tb = 1.3", "at tf = 1.6")
    for fact in (
        "decoupled-st-gs",
        "target law sampled (softmax(l/tf))",
        "64 draws",
        "4 examples",
        "code 3x2",
        "bernoulli (nats)",
        "interval: 95 %, delete-one-batch jackknife",
        "Euclidean norm over example, latent and category",
    ):
        assert fact in caption(figure)
    absolute = plots.bias_trends(grid, relative=False)
    assert absolute.axes[0].get_ylabel().replace("\n", " ") == "bias (nats per logit)"
    assert absolute.axes[2].get_ylabel().replace("\n", " ") == "standard deviation (nats per logit)"


def test_a_cross_padded_with_nan_is_drawn_along_its_arms(cross):
    assert int(cross["relative_std"].isnull().sum()) == 9
    axes = plots.bias_trends(cross).axes
    assert [ax.get_title() for ax in axes[:2]] == ["at tb = 1.6", "at tf = 1"]
    for ax, along in zip(axes, ("tf", "tb") * 2, strict=True):
        (line,) = curves(ax)
        np.testing.assert_array_equal(line.get_xdata(), cross[along])
        assert np.isfinite(line.get_ydata()).all()


def test_the_arms_of_a_cross_are_found_without_its_attributes(cross):
    bare = cross.copy()
    bare.attrs = {}
    assert [ax.get_title() for ax in plots.bias_trends(bare).axes[:2]] == ["at tb = 1.6", "at tf = 1"]


def test_points_missing_on_a_line_are_left_out(grid):
    values = grid["relative_std"].values.copy()
    values[1, 2] = np.nan
    line = curves(plots.bias_trends(changed(grid, "relative_std", values), tf=1.6, tb=1.3).axes[2])[0]
    np.testing.assert_array_equal(line.get_xdata(), [0.5, 1.6, 2.0])


def test_unsorted_temperatures_are_drawn_in_order(grid):
    line = curves(plots.bias_trends(grid.isel(tf=[2, 0, 3, 1]), tf=1.6, tb=1.3).axes[0])[0]
    np.testing.assert_array_equal(line.get_xdata(), TFS)
    np.testing.assert_array_equal(line.get_ydata(), grid["relative_bias_debiased"].sel(tb=1.3))


def test_a_point_alone_is_a_marker_with_its_interval(grid):
    ds = grid.sel(tf=[1.6], tb=[1.3])
    for ax, name in zip(plots.bias_trends(ds).axes[::2], ("relative_bias_debiased", "relative_std"), strict=True):
        (line,) = curves(ax)
        assert line.get_linestyle() == "None"
        assert line.get_ydata() == [ds[name].item()]
        (segment,) = segments(ax)
        assert segment[:, 1].tolist() == [ds[f"{name}_low"].item(), ds[f"{name}_high"].item()]
        low, high = ax.get_xlim()
        assert (low + high) / 2 == pytest.approx(1.6)


def test_a_selected_temperature_is_a_point(grid):
    axes = plots.bias_trends(grid.sel(tf=1.6)).axes
    assert len(axes) == 2  # one column
    assert all(len(curves(ax)[0].get_xdata()) == len(TBS) for ax in axes)


def test_without_intervals_there_are_lines_all_the_same(grid):
    ends = [name for name in grid if name.endswith(("_low", "_high"))]
    figure = plots.bias_trends(grid.drop_vars(ends))
    np.testing.assert_array_equal(curves(figure.axes[2])[0].get_ydata(), grid["relative_std"].sel(tb=1.3))
    assert "interval" not in caption(figure)


def test_each_estimator_and_target_has_its_own_look(several):
    figure = plots.bias_trends(several)
    lines = curves(figure.axes[1])
    assert len(lines) == len(thin(figure.axes[1])) == 6
    assert len({(to_hex(l.get_color()), l.get_marker()) for l in lines}) == 3
    assert len({(to_hex(l.get_color()), l.get_linestyle(), l.get_markerfacecolor()) for l in lines}) == 6
    assert [l.get_markerfacecolor() == "white" for l in lines] == [False, True] * 3
    assert legend(figure) == [*NAMES, "target sampled", "target model", "relative bias 1", "thin: noise included"]
    assert "target laws sampled (softmax(l/tf)) and model (softmax(l))" in caption(figure)
    chosen = plots.bias_trends(several, target="model")
    assert legend(chosen) == [*NAMES, "thin: noise included"]
    assert "target law model (softmax(l));" in caption(chosen)
    expected = several["relative_bias_debiased"].sel(target="model", estimator="ste", tf=1.6)
    np.testing.assert_array_equal(curves(chosen.axes[1])[1].get_ydata(), np.maximum(expected, 0))


def test_one_line_per_checkpoint(checkpoints):
    figure = plots.bias_trends(checkpoints)
    assert legend(figure)[:2] == ["vae-epoch0001", "vae-epoch0002"]
    first, second = curves(figure.axes[2])
    np.testing.assert_array_equal(2 * first.get_ydata(), second.get_ydata())
    alone = plots.bias_trends(checkpoints.isel(checkpoint=[1]))
    assert legend(alone) == ["relative bias 1", "thin: noise included"]
    assert "vae-epoch0002" in caption(alone)


def test_a_logarithmic_scale_only_where_it_serves(grid):
    std = grid["relative_std"].values
    assert plots.bias_trends(grid).axes[2].get_yscale() == "linear"
    wide = grid
    for end in ("", "_low", "_high"):
        wide = changed(wide, f"relative_std{end}", grid[f"relative_std{end}"].values ** 9)
    assert (std**9).max() / (std**9).min() > 1000
    assert plots.bias_trends(wide).axes[2].get_yscale() == "log"
    touching = changed(wide, "relative_std_low", np.zeros_like(std))
    assert plots.bias_trends(touching).axes[2].get_yscale() == "linear"


# heatmaps


def test_heatmap_shows_tf_to_the_right_and_tb_upwards(grid):
    figure = plots.heatmap(grid, "relative_std")
    ax, bar = figure.axes
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array(), grid["relative_std"].transpose("tb", "tf"))
    assert image.origin == "lower"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.5", "1", "1.6", "2"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0.4", "1", "1.3", "1.6"]
    assert ax.get_xlabel() == "forward temperature tf"
    assert bar.get_ylabel().replace("\n", " ") == "relative standard deviation"
    definition = "relative standard deviation: root of the summed variances over norm of the exact gradient"
    told = f"{definition}; decoupled-st-gs; target law sampled (softmax(l/tf)); 64 draws"
    assert caption(figure).startswith(told)
    thin_ones = [p for p in ax.patches if isinstance(p, Rectangle) and p.get_linewidth() < 1]
    outlined = [(p.get_x() + 0.46, p.get_y() + 0.46) for p in thin_ones]
    assert sorted((round(x), round(y)) for x, y in outlined) == [(1, 1), (2, 3)]  # tf = tb = 1 and 1.6


def test_cells_hold_their_values_in_small_grids_only(grid):
    texts = cell_texts(plots.heatmap(grid, "relative_std").axes[0])
    assert len(texts) == 16
    assert float(texts[0]) == pytest.approx(grid["relative_std"].values[0, 0], rel=0.01)
    assert float(texts[1]) == pytest.approx(grid["relative_std"].values[1, 0], rel=0.01)
    many = grid.isel(tf=[0] * 13).assign_coords(tf=np.linspace(0.3, 3, 13))
    ax = plots.heatmap(many, "relative_std").axes[0]
    assert not cell_texts(ax)
    assert len(ax.get_xticklabels()) == 7


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0.0, "0"), (0.5346, "0.535"), (1.0, "1.00"), (0.99, "0.990"), (-0.0234, "-0.023"), (0.02, "0.020")],
        *[(123.4, "123"), (999.4, "999"), (999.6, "1.0e3"), (4321.0, "4.3e3"), (-1.26e-9, "-1.3e-9")],
    ],
)
def test_values_in_cells_are_short(grid, value, text):
    ds = changed(grid, "cosine", np.full((4, 4), value))
    assert set(cell_texts(plots.heatmap(ds, "cosine").axes[0])) == {text}


def test_colours_fit_the_values(grid):
    def norm(values):
        return plots.heatmap(changed(grid, "cosine", np.reshape(values, (4, 4))), "cosine").axes[0].images[0].norm

    ramp = np.linspace(1, 2, 16)
    assert type(norm(ramp)) is matplotlib.colors.Normalize
    assert isinstance(norm(10 ** (2 * ramp)), LogNorm)
    signed = norm(ramp - 1.75)
    assert isinstance(signed, CenteredNorm)
    assert (signed.vmin, signed.vmax) == (-0.75, 0.75)


def test_cells_without_a_value_stay_hatched(cross):
    figure = plots.heatmap(cross, "relative_std")
    ax = figure.axes[0]
    assert int(ax.images[0].get_array().mask.sum()) == 9
    assert ax.patch.get_hatch()
    assert len(cell_texts(ax)) == 7
    assert "hatched: no finite value" in caption(figure)


def test_one_panel_for_each_estimator_and_target_unless_selected(several):
    figure = plots.heatmap(several, "relative_bias")
    titles = [f"{e}, target {t}" for e in NAMES for t in ("sampled", "model")]
    assert [ax.get_title() for ax in figure.axes[:-1]] == titles
    assert len({(ax.images[0].norm.vmin, ax.images[0].norm.vmax) for ax in figure.axes[:-1]}) == 1
    one = plots.heatmap(several, "relative_bias", target="model", estimator="ste")
    assert len(one.axes) == 2
    expected = several["relative_bias"].sel(target="model", estimator="ste").transpose("tb", "tf")
    np.testing.assert_array_equal(one.axes[0].images[0].get_array(), expected)
    assert "ste; target law model" in caption(one)


# comparison, choice


def test_comparison_draws_values_and_intervals(several):
    point = several.sel(tf=[1.6], tb=[1.3])
    figure = plots.comparison(point)
    for ax, name in zip(figure.axes, ("relative_bias_debiased", "relative_std"), strict=True):
        shown = point[name].transpose("estimator", "target", ...).values.ravel()
        np.testing.assert_array_equal([line.get_xdata()[0] for line in ax.lines], np.maximum(shown, 0))
        ends = [point[f"{name}_{end}"].transpose("estimator", "target", ...).values.ravel() for end in ("low", "high")]
        np.testing.assert_array_equal([s[:, 0] for s in segments(ax)], np.maximum(np.stack(ends, 1), 0))
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == NAMES
    assert figure.axes[0].yaxis_inverted()
    assert [ax.get_xlabel() for ax in figure.axes] == ["relative bias", "relative standard deviation"]
    assert "tf = 1.6, tb = 1.3" in caption(figure)
    assert legend(figure) == ["target sampled", "target model"]
    assert len(plots.comparison(point, target="model").axes[0].lines) == 3


def test_auto_picks_the_figure(grid, cross, several, checkpoints):
    def shown(ds):
        figure = plots.auto(ds)
        if figure.axes[0].images:
            return "heatmap"
        return "trends" if "temperature" in figure.axes[-1].get_xlabel() else "comparison"

    assert shown(grid) == "heatmap"
    assert shown(checkpoints) == "heatmap"
    assert shown(cross) == shown(several) == shown(grid.isel(tf=[0])) == shown(grid.isel(tb=slice(3))) == "trends"
    assert shown(several.isel(tf=[0], tb=[0])) == shown(grid.isel(tf=0, tb=0)) == "comparison"


def test_a_results_file_draws_the_same(several, tmp_path):
    gradlab.save_results(several, tmp_path / "bias.h5")
    again = plots.bias_trends(gradlab.open_results(tmp_path / "bias.h5"))
    figure = plots.bias_trends(several)
    assert caption(again) == caption(figure)
    for ax, other in zip(figure.axes, again.axes, strict=True):
        for line, same in zip(ax.lines, other.lines, strict=True):
            np.testing.assert_array_equal(line.get_ydata(), same.get_ydata())


@pytest.mark.parametrize("draw", [plots.bias_trends, lambda ds: plots.heatmap(ds, "relative_bias")])
def test_no_text_overlaps_or_leaves_the_figure(several, draw):
    figure = draw(several)
    assert len(drawn_texts(figure)) > 8
    assert misplaced_texts(figure) == []


# nothing else is touched


def test_figures_leave_pyplot_settings_and_data_alone(several, tmp_path):
    before, settings, numbers = several.copy(deep=True), dict(matplotlib.rcParams), plt.get_fignums()
    plots.heatmap(several, "cosine")
    plots.comparison(several.isel(tf=0, tb=0))
    plots.save(plots.auto(several), tmp_path / "figure.png")
    assert plt.get_fignums() == numbers
    assert dict(matplotlib.rcParams) == settings
    xr.testing.assert_identical(several, before)


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG"), ("b.PDF", b"%PDF"), ("c.svg", b"<?xml"), ("sub/d.png", b"\x89PNG")]
)
def test_save_writes_what_the_suffix_says(grid, tmp_path, name, start):
    plots.save(plots.heatmap(grid, "cosine"), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
    assert [p.name for p in (tmp_path / name).parent.iterdir()] == [name.split("/")[-1]]


def test_a_save_that_fails_leaves_what_was_there(grid, tmp_path, monkeypatch):
    figure, path = plots.heatmap(grid, "cosine"), tmp_path / "a.png"
    plots.save(figure, path)
    before = path.read_bytes()

    def torn(file, **options):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", torn)
    with pytest.raises(OSError, match="disk full"):
        plots.save(figure, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


# errors


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.gz"])
def test_save_names_the_suffixes_that_would_do(grid, tmp_path, name):
    with pytest.raises(ValueError, match=r"^path: expected a name ending in \.png, \.pdf or \.svg, got .*$"):
        plots.save(plots.heatmap(grid, "cosine"), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda ds: plots.heatmap(ds, "relativ_bias"),
            r"variable: unknown name 'relativ_bias'; did you mean.*relative_bias",
        ),
        (
            lambda ds: plots.heatmap(ds, "exact_gradient"),
            "variable: expected one over tf and tb .*, got exact_gradient",
        ),
        (lambda ds: plots.heatmap(ds, "std_gradient"), "variable: expected one over tf and tb .*, got std_gradient"),
        (lambda ds: plots.heatmap(ds, "cosine", estimator="st"), "estimator: unknown name 'st'; .*ste"),
        (lambda ds: plots.bias_trends(ds, target="modle"), "target: unknown name 'modle'; did you mean model"),
        (lambda ds: plots.bias_trends(ds.isel(target=0), target="model"), "target: unknown name 'model'; .*sampled"),
        (lambda ds: plots.bias_trends(ds, tf=1.7), r"tf: expected one of 0\.5, 1\.6, got 1\.7"),
        (lambda ds: plots.bias_trends(ds, tb=-1), "tb: expected a finite number above 0, got -1"),
        (
            lambda ds: plots.comparison(ds),
            r"ds: expected one point .*, got 2 tf and 2 tb; .*ds\.sel\(tf=\.\.\., tb=\.\.\.\)",
        ),
        (
            lambda ds: plots.bias_trends(ds[["cosine"]]),
            "ds: expected a Dataset of .*, got a Dataset without relative_bias_debiased",
        ),
        (
            lambda ds: plots.auto(ds[["cosine"]]),
            "ds: expected a Dataset of .*, got a Dataset without relative_bias_debiased",
        ),
        (
            lambda ds: plots.auto(ds.mean("tb").drop_vars("tb", errors="ignore")),
            "ds: expected a Dataset of .*, got a Dataset without tb",
        ),
        (lambda ds: plots.auto(ds["cosine"]), "ds: expected an xarray.Dataset of .*, got DataArray"),
        (lambda ds: plots.auto({}), "ds: expected an xarray.Dataset of .*, got dict"),
    ],
)
def test_errors_say_what_came_and_what_would_do(several, call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call(several)
