"""The figure of the gradient gap: every panel and line shows what the Dataset holds, on the scale it says."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import LogNorm, to_hex
from matplotlib.patches import Rectangle

from gradlab import plots

from .figures import band, caption, cell_texts, curves, legend, misplaced_texts, segments, ticks

DEFINITIONS = ["autodiff", "shared-backward"]
TFS, TBS = [0.5, 1.0, 2.0], [0.5, 1.0, 1.5, 2.0]
PATHS = [f"runs/vae-epoch{epoch:04d}.safetensors" for epoch in (1, 10, 160)]
COLUMNS = {"gap": "gap (nats per logit)", "relative_gap_pooled": "relative gap"}


def measured(tf=TFS, tb=TBS, checkpoints=None, **about):
    """What a gap analysis returns, with values that all differ: the gap falls as 1/tb, the relative gap does not."""
    rng = np.random.default_rng(0)
    shape = (len(checkpoints or [0]), 2, len(tf), len(tb))
    relative = rng.uniform(0.5, 2.0, shape)
    values = {"gap": 3 * relative / np.asarray(tb), "relative_gap_pooled": relative, "cosine": 1 / (1 + relative)}
    values["squared_gap"] = values["gap"] ** 2
    words = {
        "gap": ("norm of the difference", "nats per logit"),
        "squared_gap": ("its square", "(nats per logit)^2"),
        "relative_gap_pooled": ("over the norm of the discrete gradient", "1"),
        "cosine": ("cosine of the two gradients", "1"),
    }
    dims = ("checkpoint", "definition", "tf", "tb")
    variables = {
        name + end: (dims, values[name] * factor, {"long_name": long_name, "units": units})
        for name, (long_name, units) in words.items()
        for end, factor in (("", 1.0), ("_low", 0.9), ("_high", 1.2))
    }
    variables["discrete_norm"] = (("tf", "tb"), rng.uniform(1, 2, shape[2:]), {"long_name": "norm", "units": "nats"})
    coords = {
        "checkpoint": checkpoints or ["one"],
        "definition": DEFINITIONS,
        "tf": ("tf", list(tf), {"long_name": "forward temperature", "units": "1"}),
        "tb": ("tb", list(tb), {"long_name": "backward temperature", "units": "1"}),
    }
    attributes = {
        "analysis": "gap",
        "estimator": '"decoupled-st-gs"',
        "draws": 64,
        "examples": 1500,
        "latents": 4,
        "categories": 8,
        "latent_kind": "categorical",
        "loss": "bernoulli",
        "unit": "nats",
        "data": "mnist-sample",
        "checkpoint": f"{len(checkpoints)} checkpoints" if checkpoints else "vae.safetensors",
        "intervals": "95 %, by jackknife",
    }
    ds = xr.Dataset(variables, coords, attributes | about)
    return ds if checkpoints else ds.isel(checkpoint=0, drop=True)


def replaced(ds, name, values):
    return ds.assign({name: ds[name].copy(data=np.broadcast_to(values, ds[name].shape))})


def panels(figure):
    """{(variable, definition): axes} of the heatmaps, and {variable: axes of its colour bar}."""
    names = [(name, definition) for name in COLUMNS for definition in DEFINITIONS]
    maps = [ax for ax in figure.axes if ax.images]
    bars = [ax for ax in figure.axes if not ax.images]
    by_column = sorted(maps, key=lambda ax: (ax.get_subplotspec().colspan.start, ax.get_subplotspec().rowspan.start))
    assert len(maps) == 4
    return dict(zip(names, by_column, strict=True)), dict(zip(COLUMNS, bars, strict=True))


# grids


def test_rows_are_definitions_and_columns_gap_and_relative_gap():
    ds = measured()
    maps, bars = panels(plots.gap(ds))
    for (name, definition), ax in maps.items():
        (image,) = ax.images
        np.testing.assert_array_equal(image.get_array(), ds[name].sel(definition=definition).transpose("tb", "tf"))
        assert image.origin == "lower"
        assert ax.get_title() == definition
        assert len(cell_texts(ax)) == 12
        assert len([p for p in ax.patches if isinstance(p, Rectangle)]) == 3  # tf = tb
    for bar, (name, label) in zip(bars.values(), COLUMNS.items(), strict=True):
        assert bar.get_xlabel() == label
        assert bar.get_position().y0 > maps[name, "autodiff"].get_position().y1


def test_temperatures_stand_at_the_outer_panels():
    maps, _ = panels(plots.gap(measured()))
    labelled = {where: (ax.get_xlabel(), ax.get_ylabel()) for where, ax in maps.items()}
    tf, tb = "forward temperature tf", "backward temperature tb"
    expected = [("", tb), (tf, tb), ("", ""), (tf, "")]
    assert list(labelled.values()) == expected
    assert [t.get_text() for t in maps["gap", "shared-backward"].get_xticklabels()] == ["0.5", "1", "2"]
    assert [t.get_text() for t in maps["gap", "autodiff"].get_yticklabels()] == ["0.5", "1", "1.5", "2"]


def test_a_column_has_one_logarithmic_scale():
    ds = measured()
    assert ds["gap"].max() / ds["gap"].min() < 30  # from which other heatmaps are logarithmic
    maps, _ = panels(plots.gap(ds))
    for name in ("gap", "relative_gap_pooled"):
        first, second = (maps[name, definition].images[0].norm for definition in DEFINITIONS)
        assert type(first) is type(second) is LogNorm
        ends = (ds[name].min(), ds[name].max())
        assert (first.vmin, first.vmax) == (second.vmin, second.vmax) == ends


def test_a_gap_of_zero_is_shown():
    """Of a linear decoder; on a logarithmic scale it would look like no value."""
    ds = measured()
    values = ds["gap"].values.copy()
    values[1] = 0
    maps, _ = panels(plots.gap(replaced(ds, "gap", values)))
    ax = maps["gap", "shared-backward"]
    assert not isinstance(ax.images[0].norm, LogNorm)
    assert not ax.images[0].get_array().mask.any()
    assert set(cell_texts(ax)) == {"0"}


# lowest value and span of each bar
SCALES = list(itertools.product([2e-5, 0.414, 1.1], [1.0, 1.3, 1.6, 3, 6, 20, 29, 31, 190, 300, 1e5]))


PAIRS_OF_SCALES = [*zip(SCALES[::2], SCALES[1::2] + SCALES[:1], strict=True)]


@pytest.mark.parametrize(
    "scales",
    [p if i % 8 == 0 else pytest.param(p, marks=pytest.mark.deep) for i, p in enumerate(PAIRS_OF_SCALES)],
    ids=str,
)
def test_bars_have_numbers_that_do_not_touch(scales):
    ds = measured()
    for name, (lowest, span) in zip(COLUMNS, scales, strict=True):
        ds = replaced(ds, name, np.geomspace(lowest, lowest * span, 24).reshape(2, 3, 4))
    _, bars = panels(plots.gap(ds))
    for name, (_, span) in zip(COLUMNS, scales, strict=True):
        labels = ticks(bars[name].xaxis)
        assert len(labels) >= (4 if 20 <= span < 30 else 2)
        assert not [(a, b) for (a, left), (b, right) in itertools.pairwise(labels) if left.overlaps(right)]


def test_small_numbers_at_a_bar_are_all_written_alike():
    _, bars = panels(plots.gap(replaced(measured(), "gap", np.geomspace(1.9e-5, 5.5e-4, 24).reshape(2, 3, 4))))
    assert [text for text, _ in ticks(bars["gap"].xaxis)] == ["2e-5", "5e-5", "1e-4", "2e-4", "5e-4"]


@pytest.mark.parametrize("name", COLUMNS)
def test_cells_without_a_finite_value_are_hatched(name):
    """A relative gap, say, where every discrete gradient is 0."""
    ds = measured()
    assert "hatched" not in caption(plots.gap(ds))
    values = ds[name].values.copy()
    values[0, 1, 2] = np.nan
    figure = plots.gap(replaced(ds, name, values))
    maps, _ = panels(figure)
    hidden = {where: np.argwhere(ax.images[0].get_array().mask).tolist() for where, ax in maps.items()}
    assert hidden.pop((name, "autodiff")) == [[2, 1]]
    assert set(map(str, hidden.values())) == {"[]"}
    assert all(ax.patch.get_hatch() for ax in maps.values())
    assert caption(figure).count("hatched: no finite value") == 1


def test_cells_of_large_grids_hold_no_values():
    maps, _ = panels(plots.gap(measured(tb=np.linspace(0.3, 6, 20))))
    assert not any(cell_texts(ax) for ax in maps.values())
    assert len(maps["gap", "autodiff"].get_yticklabels()) == 10


def test_one_definition_is_one_row_and_named_below():
    ds = measured().sel(definition=["shared-backward"])
    figure = plots.gap(ds)
    maps = [ax for ax in figure.axes if ax.images]
    assert len(maps) == 2
    np.testing.assert_array_equal(maps[0].images[0].get_array(), ds["gap"].isel(definition=0).T)
    assert "definition shared-backward" in caption(figure)
    assert "definition" not in caption(plots.gap(measured()))


# what the caption says


@pytest.mark.parametrize(
    "ds", [measured(), measured(tf=[1.6]), measured(tf=[1.6], tb=[1.3])], ids=["grid", "line", "point"]
)
def test_the_caption_says_what_was_measured(ds):
    text = caption(plots.gap(ds))
    for fact in (
        "gap: norm of the difference",
        "relative gap: over the norm of the discrete gradient",
        "decoupled-st-gs",
        "64 draws",
        "1,500 examples",
        "vae.safetensors",
        "mnist-sample",
        "code 8x4",
        "loss bernoulli (nats)",
    ):
        assert fact in text
    assert ("interval: 95 %, by jackknife" in text) == (ds.sizes["tf"] == 1)  # heatmaps show none


def test_binary_units_are_called_so():
    ds = measured(latent_kind="binary", latents=2048, categories=2, loss="gaussian", unit="squared error per pixel")
    for figure in (plots.gap(ds), plots.heatmap(ds, "cosine")):
        assert "2,048 binary units; loss gaussian (squared error per pixel)" in caption(figure)
        assert "code" not in caption(figure)


# one temperature, one point


@pytest.mark.parametrize("along", ["tf", "tb"])
def test_along_one_temperature_there_are_lines_with_bands(along):
    ds = measured(**({"tf": [1.6]} if along == "tb" else {"tb": [1.3]}))
    figure = plots.gap(ds)
    assert len(figure.axes) == 2
    for ax, (name, label) in zip(figure.axes, COLUMNS.items(), strict=True):
        lines = curves(ax)
        for line, definition in zip(lines, DEFINITIONS, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), ds[along])
            np.testing.assert_array_equal(line.get_ydata(), ds[name].sel(definition=definition).squeeze())
        assert len({to_hex(line.get_color()) for line in lines}) == 2
        corners = band(ax).get_paths()[0].vertices
        for position, at in enumerate(ds[along].values):
            edge = corners[corners[:, 0] == at, 1]
            expected = [ds[name + end].sel(definition="autodiff").values.ravel()[position] for end in ("_low", "_high")]
            assert [edge.min(), edge.max()] == expected
        assert ax.get_ylabel() == label
        assert ax.get_xlabel() == {"tf": "forward", "tb": "backward"}[along] + f" temperature {along}"
    assert legend(figure) == DEFINITIONS
    assert caption(figure).startswith({"tf": "at tb = 1.3; gap", "tb": "at tf = 1.6; gap"}[along])


def test_lines_of_a_gap_over_decades_are_on_a_logarithmic_axis():
    ds = measured(tf=[1.6])
    assert [ax.get_yscale() for ax in plots.gap(ds).axes] == ["linear", "linear"]
    wide = ds
    for end in ("", "_low", "_high"):
        wide = replaced(wide, f"gap{end}", ds[f"gap{end}"].values ** 4)
    assert [ax.get_yscale() for ax in plots.gap(wide).axes] == ["log", "linear"]


def test_points_without_a_relative_gap_are_left_out_of_its_line():
    ds = measured(tf=[1.6])
    values = ds["relative_gap_pooled"].values.copy()
    values[0, 0, 0] = np.nan
    left, right = plots.gap(replaced(ds, "relative_gap_pooled", values)).axes
    np.testing.assert_array_equal(curves(left)[0].get_xdata(), TBS)
    np.testing.assert_array_equal(curves(right)[0].get_xdata(), TBS[1:])


def test_a_point_alone_is_two_markers_with_intervals():
    ds = measured(tf=[1.6], tb=[1.3])
    figure = plots.gap(ds)
    for ax, name in zip(figure.axes, COLUMNS, strict=True):
        lines = curves(ax)
        assert [line.get_linestyle() for line in lines] == ["None", "None"]
        assert [line.get_ydata().item() for line in lines] == ds[name].values.ravel().tolist()
        ends = np.stack([ds[name + end].values.ravel() for end in ("_low", "_high")], 1)
        np.testing.assert_array_equal([segment[:, 1] for segment in segments(ax)], ends)
    first, second = (line.get_transform().transform((1.3, 1))[0] for line in curves(figure.axes[0]))
    assert second - first > 5  # beside each other
    assert caption(figure).startswith("at tf = 1.6; gap")


# checkpoints


def test_a_grid_is_drawn_for_the_last_checkpoint_unless_another_is_chosen():
    ds = measured(checkpoints=PATHS)
    for figure, position, name in (
        (plots.gap(ds), 2, "vae-epoch0160.safetensors"),
        (plots.gap(ds, checkpoint=PATHS[0]), 0, "vae-epoch0001.safetensors"),
    ):
        maps, _ = panels(figure)
        shown = maps["gap", "autodiff"].images[0]
        expected = ds["gap"].isel(checkpoint=position)
        np.testing.assert_array_equal(shown.get_array(), expected.sel(definition="autodiff").T)
        assert (shown.norm.vmin, shown.norm.vmax) == (expected.min(), expected.max())
        assert f"; {name}; mnist-sample" in caption(figure)


def test_along_one_temperature_each_checkpoint_has_its_line_style():
    ds = measured(tf=[1.6], checkpoints=PATHS)
    figure = plots.gap(ds)
    lines = curves(figure.axes[0])
    expected = ds["gap"].squeeze().transpose("definition", "checkpoint", "tb").values.reshape(6, -1)
    np.testing.assert_array_equal([line.get_ydata() for line in lines], expected)
    styles = [line.get_linestyle() for line in lines]
    assert len(set(styles[:3])) == 3
    assert styles[:3] == styles[3:]
    assert [to_hex(line.get_color()) for line in lines] == [to_hex(lines[0].get_color())] * 3 + [
        to_hex(lines[3].get_color())
    ] * 3
    assert legend(figure) == [*DEFINITIONS, "vae-epoch0001", "vae-epoch0010", "vae-epoch0160"]
    assert len(curves(plots.gap(ds, checkpoint=PATHS[1]).axes[0])) == 2


def test_eight_checkpoints_look_different():
    ds = measured(tf=[1.6], checkpoints=[f"epoch{k}" for k in range(8)])
    lines = curves(plots.gap(ds).axes[0])
    assert len({(l.get_color(), l.get_linestyle(), l.get_markerfacecolor()) for l in lines}) == 16


def test_at_one_point_checkpoints_stand_in_their_order():
    ds = measured(tf=[1.6], tb=[1.3], checkpoints=PATHS[::-1])
    figure = plots.gap(ds)
    for ax, name in zip(figure.axes, COLUMNS, strict=True):
        values = ds[name].squeeze().transpose("definition", "checkpoint").values
        np.testing.assert_array_equal([line.get_ydata() for line in curves(ax)], values)
        np.testing.assert_array_equal([line.get_xdata() for line in curves(ax)], [[0, 1, 2]] * 2)
        ends = np.stack([values * 0.9, values * 1.2], -1).reshape(6, 2)
        np.testing.assert_allclose([segment[:, 1] for segment in segments(ax)], ends)
        assert [t.get_text() for t in ax.get_xticklabels()] == ["vae-epoch0160", "vae-epoch0010", "vae-epoch0001"]
        assert ax.get_xlabel() == "checkpoint"
    assert caption(figure).startswith("at tf = 1.6, tb = 1.3; gap")
    assert legend(figure) == DEFINITIONS
    assert len(plots.gap(ds, checkpoint=PATHS[0]).axes[0].get_xticklabels()) == 1


def test_of_many_checkpoints_some_are_named():
    ds = measured(tf=[1.6], tb=[1.3], checkpoints=[f"vae-epoch{k:04d}" for k in range(36)])
    ax = plots.gap(ds).axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == [f"vae-epoch{k:04d}" for k in range(0, 36, 4)]
    assert len(curves(ax)[0].get_xdata()) == 36


def test_names_of_checkpoints_are_slanted_where_they_would_touch():
    for names, rotation in ((["a1", "a2", "a3"], 0), (PATHS, 45)):
        ax = plots.gap(measured(tf=[1.6], tb=[1.3], checkpoints=names)).axes[0]
        assert {text.get_rotation() for text in ax.get_xticklabels()} == {rotation}
        if not rotation:
            assert not [1 for (_, left), (_, right) in itertools.pairwise(ticks(ax.xaxis)) if left.overlaps(right)]


# look, choice, errors


@pytest.mark.parametrize(
    "ds",
    [
        measured(),
        measured(tf=np.linspace(0.3, 3, 10), tb=np.linspace(0.3, 3, 10)),
        measured(tf=[1.6]),
        measured(tf=[1.6], checkpoints=PATHS),
        measured(tf=[1.6], tb=[1.3], checkpoints=PATHS),
        measured(tf=[1.6], tb=[1.3]),
    ],
    ids=["small", "grid", "line", "lines", "checkpoints", "point"],
)
def test_no_text_overlaps_or_leaves_the_figure(ds):
    assert misplaced_texts(plots.gap(ds)) == []


@pytest.mark.parametrize("remove", ["analysis", None])
def test_auto_draws_a_gap(remove):
    ds = measured()
    ds.attrs.pop(remove, None)
    assert caption(plots.auto(ds)) == caption(plots.gap(ds))
    panels(plots.auto(ds))


def test_heatmaps_of_a_gap_have_a_panel_for_each_checkpoint_and_definition():
    ds = measured(checkpoints=PATHS[:2])
    figure = plots.heatmap(ds, "relative_gap_pooled")
    titles = [f"vae-epoch{epoch}, {definition}" for epoch in ("0001", "0010") for definition in DEFINITIONS]
    assert [ax.get_title() for ax in figure.axes] == [*titles, ""]
    expected = ds["relative_gap_pooled"].isel(checkpoint=1, definition=0).T
    np.testing.assert_array_equal(figure.axes[2].images[0].get_array(), expected)
    assert figure.axes[-1].get_ylabel().replace("\n", " ") == "relative gap"
    assert len(plots.heatmap(measured(), "gap").axes) == 3
    assert len(plots.heatmap(measured(), "discrete_norm").axes) == 2


def test_neither_data_nor_pyplot_is_touched():
    ds = measured(tf=[2.0, 0.5, 1.0], checkpoints=PATHS)
    before, numbers = ds.copy(deep=True), plt.get_fignums()
    plots.gap(ds)
    plots.gap(ds.isel(tf=[0]))
    assert plt.get_fignums() == numbers
    xr.testing.assert_identical(ds, before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda ds: plots.gap(ds, checkpoint="runs/vae-epoch001.safetensors"),
            "checkpoint: unknown name .*did you mean",
        ),
        (lambda ds: plots.gap(ds.isel(checkpoint=0), checkpoint=PATHS[1]), f"checkpoint: unknown name .*{PATHS[0]}"),
        (
            lambda ds: plots.gap(ds[["relative_gap_pooled"]]),
            "ds: expected a Dataset of gradlab.gap, got a Dataset without gap over tf and tb",
        ),
        (
            lambda ds: plots.gap(ds[["gap"]]),
            "ds: expected a Dataset of .*, got a Dataset without relative_gap_pooled over tf and tb",
        ),
        (lambda ds: plots.auto(ds[["cosine"]]), "ds: expected a Dataset of .*, got a Dataset without gap over"),
        (lambda ds: plots.gap(ds.isel(tb=0, drop=True)), "ds: expected a Dataset of .*, got a Dataset without tb"),
        (lambda ds: plots.gap(ds["gap"]), r"ds: expected an xarray\.Dataset of .*gradlab\.gap, got DataArray"),
        (
            lambda ds: plots.bias_trends(ds),
            "ds: expected a Dataset of .*, got a Dataset without relative_bias_debiased",
        ),
    ],
)
def test_errors_say_what_came_and_what_would_do(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call(measured(checkpoints=PATHS))
