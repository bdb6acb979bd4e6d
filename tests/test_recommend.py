"""gradlab.recommend: the error of an average, the choice, its sentences, and the lines to paste."""

import copy
import dataclasses
import math
import re

import numpy as np
import pytest
import torch

import gradlab
from gradlab import estimators
from gradlab.recommending import from_bias
from gradlab.recommending.candidates import Candidate
from gradlab.recommending.errors_of_averages import ALONG, Observed, joint_quantile
from gradlab.recommending.findings import Row, _excess, findings
from gradlab.recommending.halving import Course, Round
from gradlab.recommending.sentences import closing, too_short

from . import recommend_repetitions
from .problems import make

NAMES = ["ste", "reinmax", "rloo:n=4", "zgr"]
TBS = [0.5, 1.3]


@pytest.fixture(scope="module")
def problem():
    return make("4x3-bernoulli-mlp")


def many(problem, examples=40):
    """More examples of a problem, so that intervals are over examples."""
    generator = torch.Generator().manual_seed(3)
    return torch.rand(examples, *problem.x.shape[1:], dtype=problem.x.dtype, generator=generator)


@pytest.fixture(scope="module")
def found(problem):
    return gradlab.recommend(problem.model, many(problem), tf=0.7, tb=TBS, estimator=NAMES, averaged=20, draws=512)


COSTS = {"ste": 1, "reinmax": 1, "rloo(n=4)": 4, "zgr": 1}


def exact_errors(model, x, tf, averaged):
    """Matched errors of averages from moments without sampling, by the formula written out: {(label, tb): error}."""
    ds = gradlab.bias(model, x, tf=tf, tb=TBS, estimator=NAMES, moments="exact")
    errors = {}
    for label in ds.estimator.values:
        for tb in TBS:
            of = ds.sel(estimator=label, tf=tf, tb=tb)
            m, g, std = (of[name].values.ravel() for name in ("mean_gradient", "exact_gradient", "std_gradient"))
            spread = (std**2).sum() * COSTS[label] / averaged
            errors[label, tb] = math.sqrt(1 - (m @ g) ** 2 / ((m @ m + spread) * (g @ g)))
    return errors


# --- the figure ---


def test_errors_are_those_of_exact_moments(problem, found):
    """Every candidate's interval holds the error from moments without sampling.

    Intervals are joint for the candidates of a round and over examples too, which are here the same on both sides, so
    that a miss is rarer than 5 % in 6.
    """
    truth = exact_errors(problem.model, many(problem), 0.7, 20)
    assert found.table.sizes["candidate"] == 6
    for row in (found.table.isel(candidate=k) for k in range(6)):
        tb = TBS[0] if math.isnan(row.tb) else float(row.tb)
        error = truth[str(row.estimator.item()), tb]
        assert row.error_low <= error <= row.error_high, (str(row.candidate.item()), error)
        assert row.error_high - row.error_low < 0.5


def test_the_choice_is_the_smallest_error(problem, found):
    truth = exact_errors(problem.model, many(problem), 0.7, 20)
    best = min(truth.values())
    assert truth[found.estimator, found.tb or TBS[0]] <= best + found.margin + 1e-12


def test_an_average_of_an_unbiased_estimator_has_the_error_of_its_noise():
    """And a biased one with M = c = |g|^2 the same; a negative <m, g> is worse than the answer 0."""
    influence = np.zeros((10, 4))
    for unbiased in (True, False):
        of = Observed(np.array([2.0, 2.0, 2.0, 8.0]), 0.0, influence, 4, unbiased)
        assert of.squared_error(100) == pytest.approx(8 * 4 / 100 / (2 + 8 * 4 / 100))
    assert Observed(np.array([2.0, -1.0, 1.0, 8.0]), 0.0, influence, 1, False).squared_error(1) > 1


def test_influences_are_derivatives_of_the_squared_error():
    for unbiased in (True, False):
        total = np.array([2.0, 1.3, 1.7, 9.0])
        for column in range(4):
            influence = np.zeros((2, 4))
            influence[0, column] = 1.0
            of = Observed(total, 0.01, influence, 3, unbiased)
            step = 1e-6 * np.eye(4)[column]
            ends = [Observed(total + s * step, 0.01, influence, 3, unbiased).squared_error(17) for s in (1, -1)]
            assert of.of_error(17)[0] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-8)


def test_joint_quantile_of_one_and_of_many():
    """Of one: Student's t. Of ten independent ones, about that of Bonferroni; of ten copies, that of one."""
    rng = np.random.default_rng(1)
    one, ten = rng.standard_normal((1, 400)), rng.standard_normal((10, 400))
    assert joint_quantile(one, 0.95) == pytest.approx(1.97, abs=0.08)
    assert joint_quantile(ten, 0.95) == pytest.approx(2.80, abs=0.12)
    assert joint_quantile(np.repeat(one, 10, 0), 0.95) == pytest.approx(joint_quantile(one, 0.95))


def test_a_smallest_error_that_is_luck_is_not_chosen():
    """Of two that are not told from each other, the one that is known better; a clear winner stays."""
    steady = np.zeros((10, 4))
    noisy = steady.copy()
    noisy[0, ALONG], noisy[1, ALONG] = 0.3, -0.3
    plain, lucky = (Candidate(estimators.get("ste", tb=tb)) for tb in (1.0, 2.0))

    def best(along, influence):
        known = Observed(np.array([1.0, 0.9, 1.0, 1.0]), 0.0, steady, 1, False)
        other = Observed(np.array([1.0, along, 1.0, 1.0]), 0.0, influence, 1, False)
        return Course(100, [Round(64, {plain: known, lucky: other})]).best

    assert best(0.95, noisy) == plain
    assert best(0.95, steady + 1e-6 * noisy) == lucky


def test_the_plain_estimator_is_named_at_the_tb_that_is_as_good():
    """A smaller error of an early round, which is told from the choice, does not stand for it."""

    def row(spec, error, above):
        return Row(Candidate(estimators.parse(spec)), (error, error, error), (error, above, 1.0), 64, 1, False)

    known = [row("reinmax:tb=1", 0.2, 0.0), row("ste:tb=0.5", 0.1, 0.05), row("ste:tb=0.7", 0.21, -0.01)]
    found = dataclasses.replace(at_crossing(1e-6, 0.9), rows=known, unresolved="")
    assert "Plain ste at tb = 0.7 is as good, as far as this measurement can tell." in closing(found)
    found = dataclasses.replace(found, rows=known[:2])
    assert any(sentence.startswith("Plain ste at tb = 0.5 is not as good") for sentence in closing(found))


def test_seconds_are_written_as_such():
    assert too_short(40, 134.2, 126, 32).endswith("this took 134 s.")
    assert too_short(1e-4, 0.31, 6, 32).endswith("this took 0.3 s.")


def at_crossing(width, *along):
    """Findings of rounds in which the biased error is 1 - along^2/0.8 for any n, the unbiased 20/(n + 20)."""
    biased, unbiased = Candidate(estimators.get("ste", tf=1.0)), Candidate(estimators.get("rloo", tf=1.0))
    influence = np.zeros((16, 4))
    influence[:, ALONG] = width * np.resize([1.0, -1.0], 16)
    noise = Observed(np.array([1.0, 1.0, 1.0, 10.0]), 0.0, np.zeros((16, 4)), 2, True)
    observed = [Observed(np.array([1.0, a, 0.8, 0.0]), 0.0, influence, 1, False) for a in along]
    return findings(Course(100, [Round(64, {biased: one, unbiased: noise}) for one in observed]), None, "", False)


def test_the_number_from_which_unbiased_is_best_is_that_of_the_last_rounds():
    """It was that of the first round, whose few draws had put the least biased error below 0: never, for 80."""
    assert math.isinf(at_crossing(1e-6, 0.9).crossover.n)
    found = at_crossing(1e-6, 0.9, 0.8).crossover
    assert 80 < found.n <= 80 * 10 ** (1 / 20)
    assert found.low == found.high == found.n


@pytest.mark.parametrize(
    ("along", "said"),
    [
        (0.8, r"From 89 \[\d+, more than a million\] loss evaluations on, an unbiased estimator is best"),
        (0.895, r"A biased estimator is best up to a million .*; from \d+ on, an unbiased one is as good within noise"),
    ],
)
def test_a_crossing_that_is_not_resolved_says_so(along, said):
    assert any(re.match(said, sentence) for sentence in closing(at_crossing(0.03, along)))


def test_a_sampled_reference_agrees_with_the_exact_gradient(problem, monkeypatch):
    """On a space that has both; the two intervals overlap at every candidate (a miss is rarer than 1 in 100)."""
    x = many(problem)
    given = {"tf": 0.7, "tb": TBS, "estimator": NAMES, "averaged": 20, "draws": 512}
    exact = gradlab.recommend(problem.model, x, **given)
    monkeypatch.setattr("gradlab.recommending.subjects.MAX_CONFIGURATIONS", 1)
    sampled = gradlab.recommend(problem.model, x, **given)
    assert exact.table.attrs["reference"] == "exact"
    assert sampled.table.attrs["reference"].startswith("rloo")
    both = [one.table.sortby("candidate") for one in (exact, sampled)]
    assert (both[0].error_low <= both[1].error_high).all()
    assert (both[1].error_low <= both[0].error_high).all()
    assert float(abs(both[0].error - both[1].error).max()) < 0.15


def test_few_examples_have_intervals_from_batches_of_draws(problem):
    found = gradlab.recommend(problem.model, problem.x, tf=0.7, tb=TBS, estimator=NAMES, averaged=20, draws=256)
    assert "the examples are taken as given" in str(found)
    assert found.error_low < found.error < found.error_high


def test_a_comparison_at_equal_cost_ends_with_the_same_answer(problem):
    """From the Dataset's metrics: the inner products are those of its arrays, without the noise of sampling."""
    moments = gradlab.MonteCarlo(draws=256, equal_cost=True)
    ds = gradlab.bias(problem.model, problem.x, tf=0.7, tb=TBS, estimator=NAMES, moments=moments)
    observed = {c.label: o for c, o in from_bias._observed(ds.sel(tf=0.7))}
    assert len(observed) == 6
    of = ds.sel(tf=0.7, tb=1.3, estimator="ste")
    m, g, std = (of[name].values.ravel() for name in ("mean_gradient", "exact_gradient", "std_gradient"))
    spread = (std**2).sum()
    naive = [g @ g, m @ g, m @ m - spread / 256, spread]  # of 256 estimates, each the mean of four draws
    np.testing.assert_allclose(observed["ste at tb = 1.3"].total, naive, rtol=1e-9)
    said = from_bias.closing_sentences(ds, 20)
    assert said[0].startswith(("Use ", "Cannot tell"))
    alone = ds.assign_attrs(equal_cost=0)
    assert from_bias.closing_sentences(alone) == []


def test_the_excess_is_the_largest_that_both_intervals_allow():
    """Of errors e with e^2 in [least, most] and another whose square is e^2 + d, d in [low, high]: by a fine grid."""
    cases = [(0.1, 0.05, 0.2, -0.08, 0.03), (0.0, 0.0, 0.1, -0.04, 0.02), (0.3, 0.2, 0.4, 0.05, 0.1)]
    cases += [(0.0, 0.0, 0.09, -0.5, 0.0), (0.2, 0.1, 0.3, -0.05, -0.02)]
    for value, least, most, low, high in cases:
        squares = np.linspace(least, most, 2001)
        ends = [np.sqrt(np.clip(squares + d, 0, 1)) - np.sqrt(squares) for d in (low, high)]
        found = _excess((value, least, most), 0.5, low, high)
        assert found == pytest.approx((0.5 - math.sqrt(value), ends[0].min(), ends[1].max()), abs=1e-4)


def test_a_squared_error_below_0_keeps_an_interval():
    """Of 0 and of what the noise allows, also where 0 is farther than the noise; so does the margin."""
    influence = np.zeros((16, 4))
    influence[0, ALONG], influence[1, ALONG] = 0.01, -0.01
    first, other = (Candidate(estimators.get("ste", tb=tb)) for tb in (1.0, 2.0))
    observed = {
        candidate: Observed(np.array([1.0, along, 1.0, 0.0]), 0.0, sign * influence, 1, False)
        for candidate, along, sign in ((first, 1.2, 1), (other, 1.195, -1))
    }
    of = findings(Course(100, [Round(64, observed)]), None, "", False)
    value, low, high = of.best.error
    assert value == low == 0.0
    assert 0.1 < high < 0.5
    assert 0 < of.margin <= high


# --- what is asked for ---


def test_equal_seeds_give_equal_numbers_and_leave_the_global_state_alone(problem):
    given = {"tf": 1.0, "tb": TBS, "estimator": ["ste", "rloo"], "draws": 64}
    state = torch.random.get_rng_state()
    first, again = (gradlab.recommend(problem.model, problem.x, seed=5, **given) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    other = gradlab.recommend(problem.model, problem.x, seed=6, **given)
    assert first.error == again.error != other.error


def test_the_present_choice_is_told(problem):
    """It is measured beside the candidates, at temperatures of its own."""
    found = gradlab.recommend(problem.model, problem.x, tf=1.0, estimator="ste", tb=5.5, averaged=1000, draws=64)
    assert "ste at tb = 5.5" in found.table.candidate.values
    assert "The present choice, ste at tb = 5.5, has an error of" in str(found)
    assert found.table.attrs["present"] == "ste at tb = 5.5"


def test_a_trained_model_knows_its_own():
    model, x = gradlab.bundled("vae-8x4-mnist"), gradlab.datasets.load("mnist-sample").first(3).floats()
    found = gradlab.recommend(model, x, estimator=["ste", "rloo"], tb=[1.0, 2.0], draws=32)
    assert found.tf == model.provenance["settings"]["tf"]
    assert "The present choice, decoupled-st-gs at tb = 1.3, has an error of" in str(found)


def test_temperatures_that_a_name_states_are_kept(problem):
    """Of the present choice, and among those to choose from; a layer of a package has its own."""
    given = {"tf": 1.0, "averaged": 50, "draws": 32}
    alone = gradlab.recommend(problem.model, problem.x, estimator="ste:tb=0.3", **given)
    assert alone.table.attrs["present"] == "ste at tb = 0.3"
    among = ["ste:tb=0.3", "torch:gumbel-softmax(tau=0.5, hard=True)", "zgr"]
    found = gradlab.recommend(problem.model, problem.x, tb=TBS, estimator=among, **given)
    assert set(found.table.candidate.values) == {"ste at tb = 0.3", "st-gs(convention=jang) at tb = 0.5", "zgr"}
    with pytest.raises(ValueError, match=r"tf: expected 1, which .torch:gumbel-softmax. states, got 0\.5"):
        gradlab.recommend(problem.model, problem.x, tf=0.5, estimator=["torch:gumbel-softmax"])


def test_tf_is_free_where_the_law_of_the_objective_is_fixed(problem):
    """Against exact moments at target="model": the choice is the smallest of all tf but for its margin."""
    tfs = [0.7, 1.0]
    given = {"tb": TBS, "estimator": NAMES}
    found = gradlab.recommend(problem.model, many(problem), tf=tfs, target="model", averaged=20, draws=512, **given)
    assert found.table.sizes["candidate"] == 12
    assert f"{found.estimator} at tf = {found.tf:g}" in str(found).splitlines()[0]
    ds = gradlab.bias(problem.model, many(problem), tf=tfs, target="model", moments="exact", **given)
    for row in (found.table.isel(candidate=k) for k in range(12)):
        of = ds.sel(
            estimator=str(row.estimator.item()), tf=float(row.tf), tb=float(row.tb) if row.tb == row.tb else 0.5
        )
        m, g, std = (of[name].values.ravel() for name in ("mean_gradient", "exact_gradient", "std_gradient"))
        spread = (std**2).sum() * COSTS[str(row.estimator.item())] / 20
        error = math.sqrt(1 - (m @ g) ** 2 / ((m @ m + spread) * (g @ g)))
        assert row.error_low <= error <= row.error_high, str(row.candidate.item())
        assert bool(row.unbiased) == (row.estimator == "rloo(n=4)" and row.tf == 1.0)
    with pytest.raises(ValueError, match="tf: expected one, since it changes the objective, got 2"):
        gradlab.recommend(problem.model, problem.x, tf=tfs, **given)


def test_several_models_give_a_schedule(problem):
    """The same answers as one by one, and whether one choice serves throughout."""
    given = {"tf": 1.0, "tb": TBS, "estimator": ["ste", "rloo:n=4"], "draws": 64}
    other = copy.deepcopy(problem.model)
    with torch.no_grad():
        next(other.decoder.parameters()).mul_(-3)
    both = gradlab.recommend({10: problem.model, 20: other}, problem.x, **given)
    assert both.steps == ["step 10", "step 20"]
    alone = [gradlab.recommend(model, problem.x, **given) for model in (problem.model, other)]
    assert [one.error for _, one in both] == [one.error for one in alone]
    assert str(both).startswith("Schedule: ")
    assert both.table.sizes["checkpoint"] == len(both) == 2
    assert gradlab.recommend([problem.model], problem.x, **given).steps == ["model 1"]
    with pytest.raises(ValueError, match="model: expected at least one, got none"):
        gradlab.recommend([], problem.x)


def test_what_costs_more_than_the_average_is_left_out(problem):
    found = gradlab.recommend(
        problem.model, problem.x, tf=1.0, tb=1.0, estimator=["ste", "rloo:n=4"], averaged=3, draws=32
    )
    assert set(found.table.estimator.values) == {"ste"}
    assert "Left out, since one draw costs more than 3 loss evaluations: rloo(n=4) (4)." in str(found)


def test_a_present_choice_that_the_average_does_not_pay_for_is_not_compared(problem):
    """It was quoted, and even recommended, as an average of less than a draw."""
    found = gradlab.recommend(problem.model, problem.x, tf=1.0, estimator="rloo:n=4", tb=1.0, averaged=3, draws=32)
    assert "rloo(n=4)" not in found.table.candidate.values
    assert "The present choice, rloo(n=4), is not compared: one draw costs 4 loss evaluations" in str(found)
    assert "Use rloo(n=4)" not in str(found)


def test_saturated_latents_are_not_decided(problem):
    found = gradlab.recommend(problem.model, problem.x, tf=0.01, tb=TBS, estimator=["ste", "rloo"], draws=32)
    assert not found.resolved
    assert str(found).startswith("Cannot tell which estimator is best:")


class IgnoresCodes(torch.nn.Module):
    """A collapsed decoder: its output has a derivative with respect to the codes, which is 0, or none at all."""

    def __init__(self, pixels, connected):
        super().__init__()
        self.bias, self.connected = torch.nn.Parameter(torch.zeros(pixels, dtype=torch.float64)), connected

    def forward(self, z):
        return self.bias + 0 * z.flatten(1).sum(1, keepdim=True) if self.connected else self.bias.expand(len(z), -1)


def test_a_gradient_of_0_is_said_in_one_sentence(problem):
    """Of a collapsed decoder nothing is recommended; one that never sees the codes is refused."""
    model = copy.deepcopy(problem.model)
    model.decoder = IgnoresCodes(problem.x[0].numel(), True)
    found = gradlab.recommend(model, problem.x, tf=1.0, tb=TBS, estimator=NAMES, draws=64)
    why = "on these draws and examples, the gradient cannot be distinguished from 0"
    assert str(found) == f"Cannot tell which estimator is best: {why}."
    assert not found.resolved
    model.decoder = IgnoresCodes(problem.x[0].numel(), False)
    with pytest.raises(ValueError, match="decoder: expected a loss that depends on the codes differentiably"):
        gradlab.recommend(model, problem.x, tf=1.0, tb=TBS, estimator=NAMES, draws=64)


def test_a_budget_that_is_too_short_gives_the_least_draws_and_says_so(problem):
    found = gradlab.recommend(problem.model, problem.x, tf=1.0, tb=TBS, estimator=NAMES, budget=1e-4)
    assert set(found.table.draws.values) == {32}
    assert "The budget of 0.0001 s is too short for 6 candidates" in str(found)


def test_an_answer_that_is_no_better_than_0_is_not_decided(problem):
    found = gradlab.recommend(problem.model, problem.x, tf=1.0, estimator=["reinforce"], averaged=1, draws=32)
    assert not found.resolved
    assert "than the answer 0, whose error is 1" in str(found)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tf": -1}, "tf: expected"),
        ({"tb": [0.0]}, "tb: expected"),
        ({"tf": math.nan}, "tf: expected"),
        ({"tb": [1.0, math.nan]}, "tb: expected"),
        ({"tb": []}, "tb: expected"),
        ({"averaged": 2.5}, "averaged: expected"),
        ({"budget": math.nan}, "budget: expected"),
        ({"tb": 1.0}, "tb: expected the present estimator"),
        ({"estimator": "frobnicate"}, "frobnicate"),
        ({"estimator": ["exact"]}, "estimator: expected one that is sampled"),
        ({"estimator": ["disarm"]}, "estimator: expected one for categorical latents"),
        ({"estimator": ["reinforce:baseline=running-mean"]}, "whose baseline depends on earlier draws"),
        ({"estimator": []}, "estimator: expected"),
        ({"estimator": 3}, "estimator: expected a name, an Estimator, or a list of these, got 3"),
        ({"averaged": 0}, "averaged: expected"),
        ({"averaged": 1, "estimator": ["rloo"]}, "averaged: expected"),
        ({"budget": 0}, "budget: expected"),
        ({"draws": 3}, "draws: expected"),
        ({"target": "both"}, "target"),
    ],
)
def test_rubbish_is_named(problem, given, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        gradlab.recommend(problem.model, problem.x, **given)


def test_an_interrupt_gives_the_best_so_far(problem, monkeypatch):
    from gradlab.recommending import subjects

    measured = subjects.measured

    def interrupted(setup, some, reference, draws, name, advance):
        if name == "last":
            raise KeyboardInterrupt
        return measured(setup, some, reference, draws, name, advance)

    monkeypatch.setattr(subjects, "measured", interrupted)
    found = gradlab.recommend(problem.model, problem.x, tf=1.0, tb=TBS, estimator=NAMES, draws=512)
    assert str(found).startswith("Interrupted: this is the best so far.")
    assert found.table.attrs["interrupted"] == 1
    assert math.isfinite(found.error)


# --- whether it keeps its word ---


@pytest.mark.deep
@pytest.mark.parametrize("name", ["8x4", "initialisation", "autoencoder", "few"])
def test_the_recommendation_keeps_its_word(name, tmp_path):
    """In at least 95 of 100 repetitions, against a full grid with 16 times the draws; hours for the autoencoder."""
    of = recommend_repetitions.counts(recommend_repetitions.run(name, 100, tmp_path / "records.jsonl"))
    assert of["regret"] >= 95
    assert of["error"] >= 95


def test_an_interrupt_at_a_later_model_gives_those_so_far(problem, monkeypatch):
    """Before the first round of that model."""
    from gradlab.recommending import choosing

    one, calls = choosing._one, []

    def second_is_interrupted(*given):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return one(*given)

    monkeypatch.setattr(choosing, "_one", second_is_interrupted)
    given = {"tf": 1.0, "tb": [0.5, 1.3], "estimator": ["ste", "zgr"], "draws": 32}
    found = gradlab.recommend({"a": problem.model, "b": problem.model}, problem.x, **given)
    assert [step for step, _ in found] == ["a"]
    assert found.table.attrs["interrupted"] == 1
