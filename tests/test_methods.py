"""Method objects: what they check, what strings stand for, which combinations exist, how old keywords are refused."""

import inspect
import itertools

import pytest
import torch

import gradlab
from gradlab import errors
from gradlab.methods import moments_of, reference_of

from . import problems


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gradlab.MonteCarlo(draws=1), "draws: .* at least 2 .*1"),
        (lambda: gradlab.MonteCarlo(decoder="tables"), "decoder: unknown name 'tables'; did you mean table"),
        (lambda: gradlab.MonteCarlo(equal_cost="yes"), "equal_cost: expected True or False, got 'yes'"),
        (lambda: gradlab.Integrated(tolerance=0), "tolerance: .*0"),
        (lambda: gradlab.Enumerated(dtype=torch.float16), "dtype: unknown name 'float16'; did you mean float"),
        (lambda: gradlab.Enumerated(max_configurations=0), "max_configurations: .*0"),
        (lambda: gradlab.Sampled("rloo", precision=-0.1), "precision: .*-0.1"),
        (lambda: gradlab.Sampled("rloo", precision="tight"), "precision: .*'tight'"),
        (lambda: gradlab.Sampled("rloo", precision=0.1, max_draws=1), "max_draws: .*1"),
        (lambda: gradlab.Sampled("rloo", max_draws=4096), "max_draws: expected precision beside it, got 4096 without"),
        (lambda: gradlab.Compute(memory=0), "memory: .*0"),
        (lambda: gradlab.Compute(progress=1), "progress: expected True or False, got 1"),
    ],
)
def test_options_that_make_no_sense_cannot_be_written_down(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_methods_are_values():
    assert gradlab.Enumerated(dtype=torch.float32) == gradlab.Enumerated(dtype="float32")
    assert len({gradlab.MonteCarlo(), gradlab.MonteCarlo(draws=1024), gradlab.MonteCarlo(draws=64)}) == 2
    with pytest.raises(AttributeError):
        gradlab.MonteCarlo().draws = 5


def test_strings_and_numbers_stand_for_methods():
    assert moments_of("monte-carlo") == gradlab.MonteCarlo()
    assert moments_of("monte-carlo", 64) == gradlab.MonteCarlo(draws=64)
    assert moments_of("exact") == gradlab.Integrated()
    assert reference_of("exact") == gradlab.Enumerated()
    assert reference_of("rloo:n=4") == gradlab.Sampled("rloo:n=4")
    with pytest.raises(errors.UnknownName, match="moments: unknown name 'exat'; did you mean exact"):
        moments_of("exat")
    with pytest.warns(UserWarning, match="draws: no effect with moments='exact'"):
        assert moments_of("exact", 64) == gradlab.Integrated()
    assert moments_of(gradlab.MonteCarlo(decoder="pairs"), 64) == gradlab.MonteCarlo(draws=64, decoder="pairs")
    for method in (gradlab.Integrated(), gradlab.MonteCarlo(draws=128)):
        with pytest.raises(ValueError, match="draws: expected"):
            moments_of(method, 64)


def test_a_short_form_gives_the_figures_of_its_object():
    p = problems.make("3x5-bernoulli-mlp")
    given = {"tf": 1.6, "tb": 1.3}
    pairs = [
        ({"draws": 64}, {"moments": gradlab.MonteCarlo(draws=64)}),
        ({"moments": "exact"}, {"moments": gradlab.Integrated()}),
        ({"draws": 64, "reference": "exact"}, {"draws": 64, "reference": gradlab.Enumerated()}),
        ({"draws": 64, "reference": "rloo"}, {"draws": 64, "reference": gradlab.Sampled("rloo")}),
    ]
    for short, long in pairs:
        one, other = (gradlab.bias(p.model, p.x, **given, **options) for options in (short, long))
        assert one.drop_attrs().identical(other.drop_attrs())


@pytest.mark.parametrize("function", [gradlab.bias, gradlab.gap, gradlab.exact_gradient])
def test_signatures_say_what_there_is(function):
    parameters = inspect.signature(function).parameters.values()
    assert len(parameters) <= 16
    assert all(p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters)


@pytest.mark.parametrize(
    ("keyword", "value", "line"),
    [
        ("limit", 100, "reference=gradlab.Enumerated(max_configurations=100)"),
        ("exact_dtype", torch.float32, "reference=gradlab.Enumerated(dtype=torch.float32)"),
        ("precision", 0.05, "reference=gradlab.Sampled('auto', precision=0.05)"),
        ("max_draws", 64, "max_draws=64)"),
        ("route", "table", "moments=gradlab.MonteCarlo(decoder='table')"),
        ("equal_cost", True, "moments=gradlab.MonteCarlo(equal_cost=True)"),
        ("device", "cpu", "compute=gradlab.Compute(device='cpu')"),
        ("memory", 2**20, "compute=gradlab.Compute(memory=1048576)"),
        ("shown", True, "compute=gradlab.Compute(progress=True)"),
    ],
)
def test_a_keyword_that_moved_is_refused_with_the_line_to_write(keyword, value, line):
    p = problems.make("3x5-bernoulli-mlp")
    with pytest.raises(errors.Moved) as caught:
        gradlab.bias(p.model, p.x, **{keyword: value})
    assert line in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TypeError)


def test_an_unknown_keyword_is_python_s_own_error():
    with pytest.raises(TypeError, match="estimators"):
        gradlab.bias(None, None, estimators="ste")


@pytest.mark.parametrize(
    ("wrt", "moments", "reference"),
    list(itertools.product(("logits", "encoder"), ("monte-carlo", "exact"), ("exact", "rloo"))),
)
def test_every_combination_works_or_is_refused_in_one_place(wrt, moments, reference):
    p = problems.make("3x5-bernoulli-mlp")
    given = {"tf": 1.6, "tb": 1.3, "wrt": wrt, "moments": moments, "reference": reference}
    if moments == "monte-carlo":
        given["draws"] = 64
    if (moments, reference) == ("exact", "rloo"):
        with pytest.raises(ValueError, match="moments: expected 'monte-carlo' beside a sampled reference"):
            gradlab.bias(p.model, p.x, **given)
        return
    ds = gradlab.bias(p.model, p.x, **given)
    assert ds.attrs["wrt"] == wrt
    assert bool(ds.relative_bias_debiased.notnull().any())
