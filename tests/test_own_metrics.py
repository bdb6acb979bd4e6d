"""A metric from outside: computed with its interval on every route, stored, shown, plotted, reported."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import gradlab
from gradlab import errors, metrics
from gradlab.fidelity.differences import change
from gradlab.metrics import GapMetric, Metric, registry

from . import problems

ROOT = Path(__file__).parents[1]
PROJECTION = Metric(
    name="projection",
    long_name="part of the mean estimate along the exact gradient, over its norm",
    unit=metrics.NONE,
    value=lambda p: p.norms.along / p.exact_norm**2,
    short_name="projection",
    rank=1.5,
    sentence="of the gradient it keeps {value}",
)
SHRINKAGE = GapMetric(
    name="shrinkage",
    long_name="norm of the relaxed over norm of the discrete gradient, root mean squares",
    unit=metrics.NONE,
    bounds=(0, np.inf),
    terms=lambda p: (p.relaxed * p.relaxed, p.discrete * p.discrete),
    value=lambda relaxed, discrete: np.sqrt(relaxed / discrete),
    rank=1.5,
)
GIVEN = {"tf": 1.0, "tb": [0.6, 1.3]}
ROUTES = {
    "monte-carlo": {"draws": 64},
    "integrated": {"moments": "exact"},
    "sampled reference": {"draws": 64, "reference": "rloo"},
    "encoder": {"draws": 64, "wrt": "encoder"},
    "encoder, integrated": {"moments": "exact", "wrt": "encoder"},
    "encoder, sampled reference": {"draws": 64, "wrt": "encoder", "reference": "rloo"},
}


@pytest.fixture(scope="module")
def found():
    """{route: Dataset}, with two metrics registered that are forgotten when it comes to showing them."""
    assert metrics.register(PROJECTION) is PROJECTION
    metrics.register(SHRINKAGE)
    p = problems.make("2x7-gaussian-conv")
    try:
        measured = {route: gradlab.bias(p.model, p.x, **GIVEN, **options) for route, options in ROUTES.items()}
        return measured | {"gap": gradlab.gap(p.model, p.x, **GIVEN, draws=64)}
    finally:
        del registry._BIAS["projection"], registry._GAP["shrinkage"]


@pytest.mark.parametrize("route", [*ROUTES, "gap"])
def test_every_route_computes_it_with_its_interval(found, route):
    ds = found[route]
    name = "shrinkage" if route == "gap" else "projection"
    low, value, high = (ds[name + end].values for end in ("_low", "", "_high"))
    assert np.isfinite(value).all()
    assert (low <= value).all()
    assert (value <= high).all()
    assert (high > low).any()
    assert ds[name].dims == ds["cosine"].dims
    assert ds[name].attrs["units"] == "1"
    assert ds[name].attrs["short_name"] == name
    assert ds[f"{name}_low"].attrs["long_name"].endswith(ds[name].attrs["long_name"])
    one = ds.isel({dim: 0 for dim in ("definition", "parameter") if dim in ds.dims})
    step = change(one, name, *({"tb": tb} for tb in GIVEN["tb"]))
    assert step.low <= step.value <= step.high


def test_its_values_follow_from_the_arrays(found):
    for route in ("monte-carlo", "integrated"):
        ds = found[route]
        g, m = ds.exact_gradient, ds.mean_gradient
        dims = ["example", "latent", "category"]
        np.testing.assert_allclose(ds.projection, (m * g).sum(dims) / (g * g).sum(dims), rtol=1e-9)
    # without noise, and with the numerical error alone, the interval is the narrowest
    width = {
        route: float((ds.projection_high - ds.projection_low).mean()) for route, ds in found.items() if route != "gap"
    }
    assert width["integrated"] < 0.01 * width["monte-carlo"]


def test_its_interval_is_the_jackknife_of_its_replicates(found):
    """The standard error of a mean: 32 batches of two draws."""
    for route in ("monte-carlo", "sampled reference"):
        ds = found[route].isel(tb=0, tf=0)
        without = ds.replicates.sel(metric="projection").values
        error = np.sqrt(31 / 32 * np.square(without - without.mean()).sum())
        half = float(ds.projection_high - ds.projection)
        assert half == pytest.approx(2.0395 * error, rel=1e-3)


def test_it_is_shown_plotted_and_reported_where_nobody_registered_it(found, run, tmp_path):
    """On every route shown; plotted and reported with and without a dim of parameters, and of a gap."""
    for route, ds in found.items():
        name = "shrinkage" if route == "gap" else "projection"
        assert name not in metrics.names("gap" if route == "gap" else "bias")
        gradlab.save_results(ds, "found.h5")
        shown = run("show", "found.h5")
        assert (shown.code, shown.err) == (0, "")
        assert re.search(rf"\b{name}\b.*\[", shown.out), route
        point = json.loads(run("show", "found.h5", "--json").out)["points"][0]["metrics"][name]
        assert point["low"] <= point["value"] <= point["high"]
        if route not in ("monte-carlo", "encoder", "gap"):
            continue
        gradlab.report(gradlab.open_results("found.h5"), "page.html")
        assert f"{name} <small>(1)</small>" in (tmp_path / "page.html").read_text()
        assert run("plot", "found.h5", "--kind", "heatmap", "--variable", name).code == 0
    drawn = gradlab.plots.bias_trends(found["monte-carlo"], metrics=["projection"])
    assert drawn.axes[0].get_ylabel() == "projection"
    assert gradlab.plots.comparison(found["monte-carlo"].isel(tb=[0])).axes[1].get_xlabel() == "projection"


def test_a_headline_says_its_sentence(found):
    from gradlab.reports.prose import headline

    assert "of the gradient it keeps" in headline(found["monte-carlo"].isel(tb=[0]))


def own(**changes):
    given = {"name": "own", "long_name": "own", "unit": metrics.NONE, "value": lambda p: p.norms.along}
    return Metric(**given | changes)


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("projection", "expected a gradlab.metrics.Metric or GapMetric, got str"),
        (own(name="cosine"), "name: expected a new one, got 'cosine', which is taken"),
        (own(name="exact_norm"), "name: expected a new one, got 'exact_norm'"),
        (own(name="own_low"), "name: expected none that ends in _low or _high"),
        (own(name="Own metric"), "name: expected small letters"),
        (own(unit="nats"), "unit: "),
        (own(bounds=(1, 0)), "bounds: expected the smaller first"),
        (own(long_name=""), "long_name: expected what own is"),
        (own(value=lambda p: p.norms.along.sum()), "value: expected own to keep the shape"),
        (own(noisy=True, debiased="cosin_debiased"), "cosine_debiased"),
        (
            GapMetric(name="gap", long_name="again", unit=metrics.NONE, terms=lambda p: (p.gap,)),
            "'gap', which is taken",
        ),
        (GapMetric(name="own", long_name="own", unit=metrics.NONE, terms=lambda p: p.gap), "terms: expected a tuple"),
    ],
)
def test_what_cannot_be_stored_or_computed_is_refused(metric, said):
    known = metrics.names(), metrics.names("gap")
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        metrics.register(metric)
    assert (metrics.names(), metrics.names("gap")) == known


def test_metrics_are_found_by_name():
    assert metrics.get("cosine").noisy
    assert isinstance(metrics.get("cosine", "gap"), GapMetric)
    with pytest.raises(errors.UnknownName, match="cosine"):
        metrics.get("cosin")
    with pytest.raises(ValueError, match="analysis"):
        metrics.names("sweep")


@pytest.mark.parametrize("analysis", ["bias", "gap"])
def test_the_table_of_the_docs_is_made_from_the_records(analysis):
    """Where this fails, put these lines into docs/science.md."""
    lines = []
    for row in metrics.describe(analysis):
        noise = "; sampling noise included" if row["noisy"] else ""
        lines.append(f"| `{row['name']}` | {row['formula']}{noise} | {row['unit'].replace('^2', '²')} |")
    assert "\n".join(lines) in (ROOT / "docs" / "science.md").read_text()
