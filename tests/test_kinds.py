"""Whatever gradlab writes, gradlab shows, plots and reports; files of earlier versions too."""

import json
import re
from pathlib import Path

import pytest
import xarray as xr
from gradlab.analyses import gap_and_bias

import gradlab
from gradlab import results, schema
from gradlab.kinds import KINDS, first_metrics, kind

from . import problems, tiny_sweep

COLLECTED = Path(__file__).parents[1] / "analyses" / "results"
ONE = "2x7-gaussian-conv"


def bias(tf, tb, **options):
    p = problems.make(ONE)
    return gradlab.bias(p.model, p.x, tf, tb, **{"draws": 64} | options)


def gap(tf=(0.5, 1.0), tb=(0.6, 1.3)):
    p = problems.make(ONE)
    return gradlab.gap(p.model, p.x, tf, tb, draws=32)


def along(ds):
    """As a training tracks it."""
    rows = [ds.isel(tf=0, tb=0).expand_dims(epoch=[k]) for k in range(3)]
    rows = [row.assign_coords({t: ("epoch", [row[t].item()]) for t in ("tf", "tb")}) for row in rows]
    kept = [name for name in ds.data_vars if set(ds[name].dims) <= {"definition", "tf", "tb"}]
    joined = xr.concat([row[kept] for row in rows], "epoch", combine_attrs="override")
    joined.epoch.attrs = {"long_name": "epochs of training", "units": "1"}
    return joined.assign_attrs(ds.attrs, analysis=f"{ds.attrs['analysis']}-along-training")


def both():
    one = gap_and_bias._joined(bias([0.5, 1.0], [0.6, 1.3]), gap())
    ds = xr.concat([one, one], xr.Variable("model", ["a", "b"], {"long_name": "model", "units": "1"}))
    return ds.assign_attrs(results.stamp(analysis="gap-and-bias", estimator="decoupled-st-gs", target="sampled"))


def checkpoints():
    found = [bias(1.6, [0.5, 1.3], seed=k).assign_attrs(checkpoint=f"{k}.safetensors") for k in range(2)]
    return results.join_checkpoints(found)


def collected(name):
    """Three temperatures a side of it."""
    return lambda: gradlab.open_results(COLLECTED / f"{name}.h5").isel(tf=slice(3), tb=slice(3))


def recommendation():
    p = problems.make(ONE)
    return gradlab.recommend(p.model, p.x, 1.0, [0.5, 1.3], ["ste", "rloo"], averaged=10, draws=64).table


def cell():
    tiny_sweep.sweep("cell", epochs=1, tf=[0.5], tb=[0.7], seeds=1)
    (path,) = Path("cell").glob("?*.h5")
    return gradlab.open_results(path)


TRACKED = {"tf": [0.5], "tb": [0.7], "seeds": 1, "track": ["bias"], "track_images": 4, "track_draws": 64}
FILES = {
    "point": (lambda: bias(1.6, 1.3), "bias"),
    "cross": (lambda: bias([0.5, 1.6], [0.5, 1.3], cross=(1.6, 1.3), estimator=["ste", "rloo"], target="both"), "bias"),
    "grid": (lambda: bias([0.5, 1.0, 1.6, 2.0], [0.5, 1.0, 1.6, 2.0]), "bias"),
    "integrated": (lambda: bias(1.0, [0.5, 1.3], moments="exact", draws=None), "bias"),
    "sampled reference": (lambda: bias(1.0, [0.5, 1.3], reference="rloo"), "bias"),
    "encoder": (lambda: bias(1.0, 1.3, wrt="encoder"), "bias"),
    "encoder, integrated": (lambda: bias(1.0, 1.3, wrt="encoder", moments="exact", draws=None), "bias"),
    "encoder, sampled reference": (lambda: bias(1.0, 1.3, wrt="encoder", reference="rloo"), "bias"),
    "checkpoints": (checkpoints, "bias"),
    "gap": (gap, "gap"),
    "gap at a point": (lambda: gap(0.5, 1.0), "gap"),
    "bias along a training": (lambda: along(bias(1.0, 1.3)), "bias-along-training"),
    "gap along a training": (lambda: along(gap(0.5, 1.0)), "gap-along-training"),
    "gap and bias": (both, "gap-and-bias"),
    "sweep": (lambda: tiny_sweep.sweep("cells", epochs=1), "sweep"),
    "cell of a sweep": (cell, "sweep cell"),
    "tracked sweep": (
        lambda: tiny_sweep.sweep(
            "cells", epochs=1, tf=[0.5], tb=[0.7], seeds=1, track=["bias"], track_images=4, track_draws=64
        ),
        "sweep",
    ),
    "sweep of schedules": (lambda: tiny_sweep.sweep("cells", epochs=1, tf=["1:0.3", 0.5], tb=[1.0], seeds=1), "sweep"),
    "sweep by KL term": (collected("figure4-kl-part"), "sweep-by-kl"),
    "recommendation": (recommendation, "recommendation"),
    "fidelity and loss": (collected("fidelity-and-loss-paper"), "fidelity-and-loss"),
}


# one of each kind; a report has the figure that `plot` draws, so once is enough
FIRST = {named: name for name, (_, named) in reversed(FILES.items())}.values()


def test_every_kind_is_among_the_files():
    assert {named for _, named in FILES.values()} == set(KINDS)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FIRST else pytest.mark.deep) for n in FILES])
def test_a_file_is_shown_plotted_and_reported(name, run, tmp_path):
    make, named = FILES[name]
    gradlab.save_results(make(), "found.h5")
    ds = gradlab.open_results("found.h5")
    assert kind(ds).name == named
    assert ds.attrs["format"] == schema.FORMAT
    shown = run("show", "found.h5")
    assert (shown.code, shown.err) == (0, "")
    assert re.search(r"\d \[|: \d", shown.out)
    json.loads(run("show", "found.h5", "--json").out)
    if name in FIRST:
        plotted = run("plot", "found.h5", "--out", "found.png")
        assert (plotted.code, plotted.err) == (0, "")
    reported = run("report", "found.h5", "--out", "found.html")
    assert (reported.code, reported.err) == (0, "")
    page = (tmp_path / "found.html").read_text()
    assert "<figure>" in page
    assert "no figure" not in page


def as_before(ds):
    """The Dataset as version 0.1 wrote it: dim figure, metrics that do not say what they are called."""
    old = ds.rename(metric="figure") if "metric" in ds.dims else ds.copy()
    for variable in old.variables.values():
        variable.attrs = {k: variable.attrs[k] for k in ("long_name", "units", "aggregation") if k in variable.attrs}
    del old.attrs["format"]
    return old


@pytest.mark.parametrize("name", ["cross", "integrated", "sampled reference", "encoder", "gap", "gap and bias"])
def test_files_of_earlier_versions_are_read_as_this_one_writes_them(name, tmp_path):
    ds = FILES[name][0]()
    gradlab.save_results(as_before(ds), tmp_path / "old.h5")
    old = gradlab.open_results(tmp_path / "old.h5")
    xr.testing.assert_equal(old, ds)
    assert first_metrics(old) == first_metrics(ds)
    for metric in ds.data_vars:
        for told in (schema.short_name, schema.includes_noise, schema.negative_by_chance):
            same = {"exact_norm", "mean_norm"} if told is schema.short_name else set()  # against a sampled reference
            assert metric in same or told(old, metric) == told(ds, metric), metric
    assert schema.upgraded(ds) is ds


def test_another_file_is_refused_by_what_it_says_it_is(run):
    gradlab.save_results(xr.Dataset({"a": ("x", [1.0])}, attrs={"analysis": "weather"}), "other.h5")
    for command in ("show", "plot", "report"):
        ran = run(command, "other.h5")
        assert ran.code == 1
        assert "weather" in ran.err
