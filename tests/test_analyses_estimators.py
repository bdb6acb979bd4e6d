"""The comparison of all estimators at equal cost: judged and drawn on planted values; the way from models to figure."""

import numpy as np
import pytest
import xarray as xr
from gradlab.analyses import estimators as comparison
from gradlab.analyses.run_options import RunOptions

import gradlab
from gradlab import checkpoints, networks, plots, results

from .figures import legend, misplaced_texts

FAMILIES = {title: [gradlab.estimators.parse(text).label for text in of] for title, of in comparison.FAMILIES.items()}


def planted(bias, std, width=0.1):
    """Two estimators, rloo and ste, of one model: bias and std at two tb, with ends `width` of the value away."""
    dims = ("model", "estimator", "tf", "tb")
    data = {"relative_bias_debiased": np.array(bias, float), "relative_std": np.array(std, float)}
    variables = {
        name + end: (dims, values[None, :, None] * factor)
        for name, values in data.items()
        for end, factor in (("", 1), ("_low", 1 - width), ("_high", 1 + width))
    }
    coordinates = {"model": ["planted"], "estimator": ["rloo", "ste"], "tf": [1.0], "tb": [0.5, 1.0]}
    return xr.Dataset(variables, coordinates, {"analysis": "bias", "equal_cost": 1})


def test_the_least_error_of_both_kinds_is_judged():
    """Error of rloo 0.8/root(n); of ste at its best tb 0.3 for n = 1 (0.224 at n = 10, 0.201 at 100)."""
    ds = planted(bias=[[0.05, np.nan], [0.2, 0.4]], std=[[0.8, np.nan], [0.9, 0.3]])
    first, tenth, hundredth = comparison.Estimators().judge(ds)
    assert first.whole.value == pytest.approx(0.8 - np.hypot(0.4, 0.3))
    assert first.verdict == "contradicted"
    assert first.note == "rloo 0.8, ste 0.5 at tb = 1"
    assert tenth.whole.value == pytest.approx(0.8 / 10**0.5 - np.hypot(0.2, 0.9 / 10**0.5))
    assert tenth.verdict == "supported"
    assert hundredth.whole.high == pytest.approx(0.088 - np.hypot(0.18, 0.081))
    wide = planted(bias=[[0.05, np.nan], [0.2, 0.4]], std=[[0.8, np.nan], [0.9, 0.3]], width=0.5)
    assert comparison.Estimators().judge(wide)[0].verdict == "undetermined"


def test_a_bias_of_what_is_unbiased_by_proof_is_noise():
    found = comparison.errors(planted([[0.3, 0.3], [0.3, 0.3]], [[0.8, 0.8], [0.8, 0.8]]), "planted", 4)
    assert found.error.sel(estimator="rloo", tb=1.0).item() == pytest.approx(0.4)
    assert found.error.sel(estimator="ste", tb=1.0).item() == pytest.approx(0.5)


def test_every_estimator_of_the_catalogue_is_in_one_family():
    texts = [text for of in comparison.FAMILIES.values() for text in of]
    names = {gradlab.estimators.parse(text).name for text in texts}
    assert names == set(gradlab.estimators.names()) - {"exact"}
    assert len(set(comparison.labels())) == len(texts)


@pytest.fixture(scope="module")
def every():
    """All labels on two models, biases and standard deviations spread out, NaN for some of them on either."""
    rng = np.random.default_rng(0)
    labels = comparison.labels()
    dims, shape = ("model", "estimator", "tf", "tb"), (2, len(labels), 1, 3)
    bias, std = 10 ** rng.uniform(-2, 1, shape), 10 ** rng.uniform(-1, 1, shape)
    std[0, :4], std[1, 0], bias[0, 5] = np.nan, 5000, 1e-14
    variables = {}
    for name, values in (("relative_bias_debiased", bias), ("relative_std", std)):
        said = {"units": "1", "long_name": name}
        variables |= {name + end: (dims, values * by, said) for end, by in (("", 1), ("_low", 0.8), ("_high", 1.2))}
    coordinates = {"model": ["one", "other"], "estimator": labels, "tf": [1.0], "tb": [0.5, 1.0, 2.0]}
    return xr.Dataset(variables, coordinates, {"analysis": "bias", "equal_cost": 1, "target": "sampled"})


@pytest.mark.parametrize("size", ["column", pytest.param("page", marks=pytest.mark.deep)])  # the least room
def test_no_label_of_all_estimators_is_cut_or_overlaps(every, size, tmp_path):
    figure = comparison.Estimators().draw(every)
    plots.save(figure, tmp_path / "x.png", size=size)
    assert misplaced_texts(figure) == []
    assert [ax.get_title() for ax in figure.axes] == ["one", "other"]
    assert [name for name in legend(figure) if name in comparison.labels()] == comparison.labels()
    assert set(FAMILIES) <= set(legend(figure))


def test_an_estimator_has_one_look_in_all_panels_and_no_other_has_it(every):
    figure = comparison.Estimators().draw(every)
    looks = {}
    for key in figure.legends[0].legend_handles:
        if key.get_label() in comparison.labels():
            looks[key.get_label()] = (key.get_color(), key.get_marker())
    assert len(set(looks.values())) == len(comparison.labels())
    for of in FAMILIES.values():
        assert len({looks[label][0] for label in of}) == 1


def test_what_is_far_beyond_or_below_stays_at_the_edge(every):
    figure = comparison.Estimators().draw(every)
    one, other = figure.axes
    assert one.get_ylim()[0] > 1e-4
    assert other.get_xlim()[1] < 1000
    first = [line for line in other.lines if line.get_marker() == "o" and line.get_color() == "#0072B2"]
    assert all(x < other.get_xlim()[1] for line in first for x in line.get_xdata())


def test_an_estimator_without_a_family_is_refused(every):
    with pytest.raises(ValueError, match="families: expected each estimator in one, got none with reinforce"):
        plots.tradeoff(every, families={"some": ["rloo"]})


@pytest.mark.deep  # by default one study of trainings, figure 5 and an analysis from outside go from end to end
def test_from_models_to_figure_and_verdicts(tmp_path, monkeypatch):
    """A small model in the place of all three; `leg` takes 2 (3 - 1) + 1 evaluations."""
    small = {"categories": 3, "latents": 2, "hidden": [8], "image_shape": [1, 28, 28]}
    model = networks.build("categorical-vae", small, 0)
    monkeypatch.setattr(comparison, "TB", (0.7, 1.3))
    monkeypatch.setattr(checkpoints, "load_described", lambda path, name: (model, {}))
    monkeypatch.setattr(networks, "build", lambda *of: model)
    ds = comparison.Estimators().measure(RunOptions(images=2, draws=64), "quick")
    results.save_results(ds, tmp_path / "estimators.h5")
    ds = gradlab.open_results(tmp_path / "estimators.h5")
    assert dict(ds.sizes) == {"model": 3, "estimator": 20, "tf": 1, "tb": 2}
    x = gradlab.datasets.load("mnist-sample").first(2).floats()
    plain = gradlab.bias(model, x, 1.0, 0.7, estimator="leg", moments="exact")
    leg = ds.sel(model="8x4 VAE", estimator="leg")
    assert leg.evaluations.item() == 5
    assert leg.relative_std.sel(tb=0.7).item() == pytest.approx(plain.relative_std.item() * (5 / 32) ** 0.5, rel=1e-9)
    assert leg.relative_std.sel(tb=1.3).isnull().all()
    assert len(comparison.Estimators().judge(ds)) == 9
    plots.save(comparison.Estimators().draw(ds), tmp_path / "x.png")
