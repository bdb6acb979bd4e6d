"""No text of a sweep's figures overlaps or leaves the figure; nothing else is touched; errors."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from gradlab import plots, sweeps

from .drawn_sweeps import FAILED, scheduled, swept
from .figures import overlaps

NINE = [0.3, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0, 2.5, 3.0]
SWEEPS = {
    "grid": swept(),
    "large": swept(NINE, NINE, seeds=2),
    "larger": swept(np.linspace(0.1, 6, 14).tolist(), np.linspace(0.1, 6, 16).tolist(), seeds=2),
    "small losses": swept(level=2.6e-3, unit="squared error per pixel"),
    "tall": swept([1.0], NINE, unit="squared error per pixel"),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_no_text_of_losses_overlaps_or_leaves_the_figure(name):
    assert overlaps(plots.losses(SWEEPS[name])) == []


@pytest.mark.parametrize("name", ["grid", "small losses"])
@pytest.mark.parametrize("draw", [plots.schedules, plots.training_curves])
def test_no_text_of_a_sweep_overlaps_or_leaves_the_figure(name, draw):
    assert overlaps(draw(SWEEPS[name])) == []


@pytest.mark.parametrize("draw", [plots.schedules, plots.training_curves])
def test_no_text_of_schedules_overlaps_or_leaves_the_figure(draw):
    assert overlaps(draw(scheduled(without={(2, 2, 1): FAILED}))) == []


def test_an_overlap_would_be_found():
    figure = plots.losses(swept())
    figure.axes[1].set_ylabel("far too long " * 20)
    figure.axes[0].set_xticks([1.0, 1.01], ["near", "another"])
    found = overlaps(figure)
    assert ("near", "another") in found
    assert any("far too long" in one for one in found)


def test_neither_data_nor_pyplot_is_touched():
    ds = swept(tf=[1.6, 0.3, 1.0], level=2.6e-3)
    before, numbers = ds.copy(deep=True), plt.get_fignums()
    for draw in (plots.losses, plots.schedules, plots.training_curves):
        draw(ds)
    assert plt.get_fignums() == numbers
    xr.testing.assert_identical(ds, before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ds: plots.losses({}), r"ds: expected an xarray\.Dataset of .*, got dict"),
        (
            lambda ds: plots.losses(ds.drop_vars("status")),
            "ds: expected a Dataset of gradlab.sweeps.sweep, got a Dataset without status along seed",
        ),
        (
            lambda ds: plots.schedules(ds.isel(seed=0)),
            "ds: expected a Dataset of .*, got a Dataset without final_validation_loss along seed",
        ),
        (
            lambda ds: plots.auto(ds.drop_vars("final_validation_loss_mean")),
            r"ds: .*, got a sweep without final_validation_loss_mean; gradlab\.sweeps\.with_means adds it",
        ),
        (
            lambda ds: plots.training_curves(ds.drop_vars("validation_loss_mean")),
            "ds: expected a sweep with .*, got a sweep without validation_loss_mean; gradlab",
        ),
        (
            lambda ds: plots.losses(ds.isel(seed=[0, 1])),
            "ds: expected final_validation_loss_mean of all seeds, got one of other seeds",
        ),
        (
            lambda ds: plots.losses(sweeps.with_means(ds.where(ds.tf > 5))),
            "ds: expected at least one finished training, got a sweep without one",
        ),
        (
            lambda ds: plots.losses(scheduled()),
            r"ds: expected a sweep of numbers, got a sweep of schedules; use plots\.schedules",
        ),
        (
            lambda ds: plots.tracked(ds),
            "ds: expected bias or gap along a training",
        ),
        (
            lambda ds: plots.auto(ds[["validation_loss"]]),
            "ds: expected a Dataset of .*, got a Dataset without final_validation_loss along seed",
        ),
        (
            lambda ds: plots.heatmap(ds, "final_validation_loss"),
            "variable: expected one over tf and tb .*, got final_validation_loss",
        ),
    ],
)
def test_errors_say_what_came_and_what_would_do(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call(swept())
