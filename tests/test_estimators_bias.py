"""Means against enumeration for every registered estimator: what is unbiased agrees, what is biased is found out."""

import dataclasses
import math

import pytest
import torch

from gradlab import estimators
from gradlab.estimators import conformance
from gradlab.estimators.conformance import FAILURE_RATE, PROBLEMS, bias, check, judge, moments
from gradlab.latents import BINARY

from .catalogue import ALL, sound

UNBIASED = [text for text in ALL if estimators.parse(text).unbiased]
BIASED = [text for text in ALL if not estimators.parse(text).unbiased]
PLANTED = 0.02  # of the norm of the exact gradient
DRAWS = {  # in thousands, categorical and binary: enough to see 1.2 % of the norm in any one coordinate
    "reinforce": (280, 380),
    "reinforce:baseline=running-mean": (210, 300),
    "rloo": (150, 240),
    "rloo:n=4": (50, 80),
    "rebar": (140, 260),
    "rebar:eta=0.6,lam=1.7": (180, 420),
    "disarm": (0, 180),
    "arms": (0, 180),
    "arms:n=3": (0, 120),
    "arms:n=7": (0, 40),
    "double-cv": (290, 900),
    "double-cv:n=3,alpha=0.6": (60, 150),
    "exact": (0.05, 0.05),
}


def suited(texts):
    return [(t, p.name) for t in texts for p in PROBLEMS.values() if p.kind.name in estimators.parse(t).kinds]


def test_problems_are_asymmetric_and_not_quadratic():
    """No two coordinates of the exact gradient agree, and the loss is no polynomial of degree 2 between two codes."""
    for problem in PROBLEMS.values():
        exact = problem.exact_gradient(1.4).flatten()
        gaps = (exact[:, None].abs() - exact.abs()).abs() + torch.eye(len(exact))
        assert float(gaps.min()) > 1e-5 * float(exact.norm())
        codes = problem.configurations()
        line = torch.linspace(0, 1, 4, dtype=torch.float64)[:, None, None, None]
        path = (codes[0] + line.reshape(4, *[1] * (codes.ndim - 1)) * (codes[-1] - codes[0]))[:, None]
        values = problem.loss(path.expand(4, *problem.logits.shape))
        third = values[3] - 3 * values[2] + 3 * values[1] - values[0]
        assert float(third.abs().min()) > 0.01


def test_the_exact_gradient_is_the_slope_of_the_expected_loss():
    """By central differences, in every coordinate."""
    for problem in PROBLEMS.values():
        tf, step, exact = 1.4, 1e-5, problem.exact_gradient(1.4)
        codes = problem.configurations()[:, None].expand(-1, *problem.logits.shape)

        def expected(logits, problem=problem, codes=codes, tf=tf):
            return float((problem.probabilities(logits / tf) * problem.loss(codes)).sum())

        for at in range(exact.numel()):
            moved = torch.zeros_like(exact).flatten()
            moved[at] = step
            moved = moved.reshape(exact.shape)
            slope = (expected(problem.logits + moved) - expected(problem.logits - moved)) / (2 * step)
            assert slope == pytest.approx(float(exact.flatten()[at]), rel=1e-6, abs=1e-8)


FIRST = ("categorical-3x3", "binary-4")  # of each kind; the second problem of a kind is deep
# by formulas that are the same for both kinds: with a million draws on one of them
ON_ONE = ("rebar:eta=0.6,lam=1.7", "double-cv")


def is_deep(text, problem):
    return problem not in FIRST or (text in ON_ONE and problem == "binary-4")


@pytest.mark.parametrize(
    ("text", "problem"),
    [pytest.param(*case, marks=pytest.mark.deep) if is_deep(*case) else case for case in suited(UNBIASED)],
)
@pytest.mark.parametrize("tf", [1.4, pytest.param(1.0, marks=pytest.mark.deep)])
def test_what_is_unbiased_agrees_and_would_not_with_2_percent_of_bias(text, problem, tf):
    """Every coordinate within its standard errors: fails for one unbiased estimator in a million (FAILURE_RATE, with
    Bonferroni over coordinates; the seed is fixed). The same draws, shifted in the coordinate that is known worst by
    2 % of the gradient's norm to the side that is harder to see, are found biased."""
    estimator, problem = estimators.parse(text).at(tf, tf), PROBLEMS[problem]
    draws = int(1000 * DRAWS.get(text, (200, 200))[problem.kind is BINARY])
    exact = problem.exact_gradient(tf)
    deviation, variance = moments(estimator, problem, exact, draws, seed=0)
    verdict = judge(problem, exact, deviation, variance, draws, FAILURE_RATE)
    assert not verdict.biased
    assert verdict.resolution < 0.65 * PLANTED
    worst = int(variance.argmax())
    side = -math.copysign(1.0, float(deviation.flatten()[worst]))
    planted = torch.zeros_like(exact).flatten()
    planted[worst] = side * PLANTED * float(exact.norm())
    shifted = judge(problem, exact, deviation + planted.reshape(exact.shape), variance, draws, FAILURE_RATE)
    assert shifted.biased


@pytest.mark.parametrize("text", BIASED)
def test_what_is_biased_is_found_out(text):
    estimator = estimators.parse(text).at(1.4, 0.8)
    for problem in conformance.problems_of(estimator):
        verdict = bias(estimator, problem, draws=10_000)
        assert verdict.biased
        assert verdict.relative_bias > 5 * verdict.standard_error / verdict.exact_norm


def test_temperature_counts():
    """An unbiased estimator at one temperature is a biased one of the gradient at another."""
    problem = PROBLEMS["binary-4"]
    exact = problem.exact_gradient(1.0)
    deviation, variance = moments(estimators.get("disarm", tf=1.2), problem, exact, 100_000, seed=0)
    assert judge(problem, exact, deviation, variance, 100_000, FAILURE_RATE).biased


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planted(estimators.Estimator):
    """RLOO plus a constant."""

    name, formula, reference = "planted", "rloo + constant", "none"
    kinds = ("binary",)
    unbiased, uses = True, ("loss",)
    size: float = 0.0
    rloo = estimators.get("rloo", n=3)

    def points(self, kind, logits, noise):
        return self.rloo.at(self.tf, self.tf).points(kind, logits, noise)

    def estimate(self, kind, logits, noise, points, loss, derivative):
        return self.rloo.at(self.tf, self.tf).estimate(kind, logits, noise, points, loss, derivative) + self.size


def test_check_reports_what_is_sound_and_what_is_not():
    """A whole estimator through the whole check: as it is, and with a constant of 2 % of the norm added throughout."""
    norm = max(float(p.exact_gradient(1.0).norm()) for p in PROBLEMS.values() if p.kind.name == "binary")
    sane, planted = (check(Planted(size=size), draws=150_000) for size in (0.0, PLANTED * norm))
    assert sane.conforms
    assert sane.violations == ()
    assert [verdict.problem for verdict in sane.verdicts] == ["binary-4", "binary-3"]
    assert not planted.conforms
    assert any(verdict.biased for verdict in planted.verdicts)
    assert planted.estimator == f"planted(size={PLANTED * norm})"


def test_check_refuses_a_claim_that_is_not_so():
    assert check(sound(), draws=5_000).conforms
    assert not check(sound(unbiased=True), draws=5_000).conforms  # it is biased
    exact = dataclasses.make_dataclass("Timid", [], bases=(type(estimators.get("exact")),), frozen=True, kw_only=True)
    exact.unbiased = False
    assert not check(exact(), draws=10).conforms  # said to be biased, and is not
    broken = check(sound(points=lambda s, kind, l, g: kind.hard(l + g[0])))
    assert not broken.conforms
    assert broken.verdicts == ()
    first = [text[:19] for text in broken.violations if "shapes and dtype" in text]
    assert first == ["categorical: shapes", "binary: shapes and "]


def test_check_says_what_it_cannot_check():
    for bad in ("rloo", type(sound()), None):
        with pytest.raises(ValueError, match=r"^estimator: expected an instance"):
            check(bad)
    with pytest.raises(ValueError, match="expected kinds among"):
        check(sound(kinds=("ternary",)))
    with pytest.raises(ValueError, match=r"draws: expected .*, got 1"):
        check(sound(), draws=1)


def test_the_failure_rate_is_what_it_says():
    """400 normal means of 8 coordinates: at a failure rate of 0.1, 40 are called biased, give or take 4 standard
    deviations of 6; p-values below 0.1 and verdicts are one and the same."""
    problem = PROBLEMS["binary-4"]
    exact = problem.exact_gradient(1.0)
    generator = torch.Generator().manual_seed(0)
    verdicts = []
    for _ in range(400):
        means = torch.randn(exact.shape, generator=generator, dtype=torch.float64)
        verdicts.append(judge(problem, exact, means / 10, torch.ones_like(exact), 100, 0.1))
    assert 16 < sum(verdict.biased for verdict in verdicts) < 64
    at_threshold = verdicts[0].resolution * verdicts[0].exact_norm
    for factor, biased in ((0.999, False), (1.001, True)):
        shift = torch.zeros_like(exact)
        shift[0, 0] = factor * at_threshold
        assert judge(problem, exact, shift, torch.ones_like(exact), 100, 0.1).biased == biased


def test_the_moments_are_those_of_the_estimates():
    problem, estimator = PROBLEMS["binary-3"], estimators.get("rloo", n=3)
    exact = problem.exact_gradient(1.0)
    found = torch.cat(list(conformance.estimates_of(estimator, problem, 5_000, seed=2)))
    deviation, variance = moments(estimator, problem, exact, 5_000, seed=2)
    torch.testing.assert_close(deviation, found.mean(0) - exact, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(variance, found.var(0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("problem", ["binary-4", "binary-3"])
def test_antithetic_draws_have_less_variance_than_independent_ones_at_equal_evaluations(problem):
    """40,000 draws; a variance is known to 2 % or so, the smallest difference is 15 %."""
    variance = {
        text: bias(estimators.parse(text), PROBLEMS[problem], draws=40_000).variance
        for text in ("rloo:n=2", "disarm", "arms:n=2", "rloo:n=4", "arms:n=4")
    }
    assert variance["disarm"] < 0.85 * variance["rloo:n=2"]
    assert variance["arms:n=4"] < 0.85 * variance["rloo:n=4"]
    assert variance["arms:n=2"] == pytest.approx(variance["disarm"], rel=0.05)  # equal in law


def test_the_running_mean_takes_an_offset_out_of_the_variance():
    problem = PROBLEMS["binary-4"]
    far = dataclasses.replace(problem, of_scores=lambda r, s, t: problem.of_scores(r, s, t) + 50)
    variance = {
        baseline: bias(estimators.get("reinforce", baseline=baseline), far, draws=40_000).variance
        for baseline in ("none", "running-mean")
    }
    assert variance["running-mean"] < 0.02 * variance["none"]
    near = bias(estimators.get("reinforce", baseline="running-mean"), problem, draws=40_000).variance
    assert variance["running-mean"] == pytest.approx(near, rel=0.2)  # the first draw has no baseline


@pytest.mark.deep
@pytest.mark.parametrize(("text", "problem"), suited([t for t in UNBIASED if t != "exact"]))
@pytest.mark.parametrize("tf", [0.6, 1.0, 1.4])
def test_unbiased_at_many_draws(text, problem, tf):
    """2,400,000 draws and other noise: what may go unseen in one coordinate is 0.75 % of the norm."""
    verdict = bias(estimators.parse(text).at(tf, tf), PROBLEMS[problem], draws=2_400_000, seed=1)
    assert not verdict.biased
    assert verdict.resolution < 0.0075


@pytest.mark.deep
@pytest.mark.parametrize("eta", [-0.5, 0.3, 1.0])
@pytest.mark.parametrize("lam", [0.1, 0.5, 3.0])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_rebar_is_unbiased_for_any_eta_and_lam(eta, lam, problem):
    assert not bias(estimators.get("rebar", eta=eta, lam=lam, tf=1.4), PROBLEMS[problem], draws=1_000_000).biased


@pytest.mark.deep
@pytest.mark.parametrize("n", [2, 3, 5, 12, 40])
def test_arms_is_unbiased_for_any_number_of_draws(n):
    for problem in ("binary-4", "binary-3"):
        assert not bias(estimators.get("arms", n=n, tf=0.7), PROBLEMS[problem], draws=4_000_000 // n).biased
