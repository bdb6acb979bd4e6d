"""Moments without sampling do not depend on how they are computed; what has none is refused."""

import itertools
import random
import warnings

import numpy as np
import pytest
import torch

from gradlab import estimators, moments

from . import oracles, problems
from .enumerated_moments import CODE_ONLY, RELAXED, agree, found, get, logits_of


def name_of(estimator):
    return f"{estimator.label}-{estimator.tf}"


@pytest.mark.parametrize(
    "name",
    ["3x5-bernoulli-mlp", pytest.param("3x5-own-mlp", marks=pytest.mark.deep), "binary6-bernoulli-mlp"],
)
def test_blocks_do_not_change_the_moments(name):
    problem = problems.make(name)
    some = [*CODE_ONLY, *RELAXED[::4], get("rloo", n=3, tf=0.7), get("leg", tf=0.7), get("ste-argmax"), get("exact")]
    wanted = found(problem, *some)
    for memory in (1, 100_000):
        for one, other in zip(found(problem, *some, memory=memory), wanted, strict=True):
            assert oracles.relative_error(one.mean, other.mean) < 1e-10
            torch.testing.assert_close(one.variance, other.variance, rtol=1e-9, atol=1e-12)


def test_company_does_not_change_the_moments():
    problem = problems.make("3x5-bernoulli-mlp")
    some = [*CODE_ONLY, *RELAXED[::2], get("rloo", tf=0.7), get("leg", tf=1.6), RELAXED[0]]
    together = found(problem, *some)
    for estimator, one in zip(some, together, strict=True):
        agree(found(problem, estimator), one, 1e-12)


def test_one_pass_over_the_configurations_serves_all():
    problem = problems.make("3x5-own-mlp")
    rows = []
    problem.model.decoder.register_forward_hook(lambda module, given, output: rows.append(len(output)))
    logits = logits_of(problem)
    moments.exact_moments(problems.setup_of(problem.model, problem.x, logits), [get("ste")])
    alone, rows[:] = sum(rows), []
    grid = list(itertools.product((0.5, 1.0, 2.0), (1.0, 2.0)))
    some = [get(name, tf=tf, tb=tb) for name in ("ste", "decoupled-st-gs") for tf, tb in grid]
    moments.exact_moments(problems.setup_of(problem.model, problem.x, logits), some)
    assert sum(rows) == alone
    assert sum(rows) >= 5 * 3**5


def test_progress_adds_up():
    problem = problems.make("3x5-bernoulli-mlp")
    done = []
    some = [get("ste"), *RELAXED, RELAXED[0], get("exact")]
    found(problem, *some, memory=200_000, advance=done.append)
    assert sum(done) == pytest.approx(moments.steps(some)) == pytest.approx(1 + len(RELAXED))
    assert len(done) > 8
    done.clear()
    found(problem, get("ste-argmax"), advance=done.append)
    assert sum(done) == moments.steps([get("ste-argmax")]) == 1


def test_float32_models_are_measured_in_float64():
    single, double = problems.make("3x5-bernoulli-mlp", torch.float32), problems.make("3x5-bernoulli-mlp")
    double.model.load_state_dict({k: v.double() for k, v in single.model.state_dict().items()})
    logits = logits_of(single)
    some = [CODE_ONLY[0], RELAXED[0], get("rloo"), get("leg")]
    one = moments.exact_moments(problems.setup_of(single.model, single.x, logits), some)
    other = moments.exact_moments(problems.setup_of(double.model, single.x.double(), logits.double()), some)
    for a, b in zip(one, other, strict=True):
        assert a.mean.dtype == torch.float64
        agree(a, b, 1e-12)
    assert next(single.model.parameters()).dtype == torch.float32


SATURATED = {
    "binary6-bernoulli-mlp": [1.0, -1.0, 0.3, 0.0, -0.2, 1.0],
    "4x1-own-mlp": [[1.0, -1.0, 0.0, 0.4]],
    "3x5-bernoulli-mlp": [[1.0, -1.0, 0.0]] * 5,
}


@pytest.mark.parametrize("name", [*list(SATURATED)[:2], pytest.param("3x5-bernoulli-mlp", marks=pytest.mark.deep)])
@pytest.mark.parametrize("scale", [40.0, 1e4])
def test_saturated_logits_give_finite_moments(name, scale):
    problem = problems.make(name)
    logits = scale * torch.tensor([SATURATED[name]]).double()
    temperatures = [(1.0, 1.0), (0.3, 3.0), (3.0, 0.3)]
    some = [e.at(tf, tb) for e in (*CODE_ONLY, *RELAXED[:1], get("rloo", n=3)) for tf, tb in temperatures]
    some += [get("st-gs", tf=tf, tb=max(tb, 0.6), convention="jang") for tf, tb in temperatures]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = moments.exact_moments(problems.setup_of(problem.model, problem.x[:1], logits), some)
    # decoupled at tf = 3, tb = 0.3 and gaps of 80: a mean of 1e-55, which no step resolves, and which is said
    assert sum("relative numerical error" in str(each.message) for each in said) == len(
        {(r.mean_error, float(r.mean.norm())) for r in found if r.mean_error > moments.TOLERANCE}
    )
    for result in found:
        assert torch.isfinite(result.mean).all()
        assert torch.isfinite(result.variance).all()
        assert float(result.variance.min()) >= 0
        assert np.isfinite([result.mean_error, result.std_error]).all()


def test_global_random_state_is_untouched():
    problem = problems.make("3x5-bernoulli-mlp")
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    first = found(problem, *RELAXED[::4])
    again = found(problem, *RELAXED[::4])
    assert all(torch.equal(a.variance, b.variance) for a, b in zip(first, again, strict=True))
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert before[2] == random.getstate()


# --- what can be done ---


@pytest.mark.parametrize(
    "estimator",
    [get("gumbel-softmax"), get("rebar"), get("disarm"), get("arms"), get("reinforce", baseline="running-mean")],
    ids=name_of,
)
def test_others_are_refused_with_a_way_out(estimator):
    assert not moments.supported(estimator)
    problem = problems.make("binary6-bernoulli-mlp")
    with pytest.raises(ValueError, match="monte-carlo") as caught:
        found(problem, get("ste"), estimator)
    assert estimator.label in str(caught.value)
    assert "decoupled-st-gs" in str(caught.value)


def test_every_estimator_is_either_supported_or_refused():
    able = {name for name in estimators.names() if moments.supported(get(name))}
    assert {"reinforce", "rloo", "leg", "ste", "ste-argmax", "exact", "reinmax", "zgr", "gst"} <= able
    assert {"decoupled-st-gs", "st-gs", "gumbel-rao"} <= able
    assert not {"gumbel-softmax", "rebar", "disarm", "arms"} & able
