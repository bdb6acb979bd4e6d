"""A promise of an estimator ends where a subclass overrides what it speaks of: no route takes it for granted."""

import dataclasses

import pytest
import torch

import gradlab
from gradlab import estimators, moments, sampling
from gradlab.estimators import Estimator, FunctionOfCode, SharedPoints, conformance
from gradlab.estimators.exact import Exact
from gradlab.estimators.score_function import RLOO, Reinforce
from gradlab.estimators.straight_through import STE, DecoupledSTGS, STEArgmax
from gradlab.latents import CATEGORICAL

from . import problems

SECOND = {"points": lambda s, kind, l, g: kind.hard(l / s.tf + g[1])[None]}
HALVED = {"estimate": lambda s, *given: STE.estimate(s, *given) / 2}
NOISY = {"perturbed": lambda s, kind, l, g: l / s.tb + g[0]}


def below(parent, **functions):
    """A subclass, as a user writes it who thinks of the functions alone."""
    return dataclasses.dataclass(frozen=True, kw_only=True)(type("Own", (parent,), {"name": "own", **functions}))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Helped(Estimator):
    """Its points and its estimate are made by further functions, of which the protocol knows nothing."""

    name, uses = "helped", ("loss",)
    shared_points = property(lambda self: SharedPoints(("helped", self.tf), sample_first=True))

    def perturbed_by(self, logits, noise):
        return logits / self.tf + noise[:2]

    def baseline(self, kind, logits, noise):
        return kind.soft(logits / self.tf)

    def points(self, kind, logits, noise):
        return kind.hard(self.perturbed_by(logits, noise))

    def estimate(self, kind, logits, noise, points, loss, derivative):
        return loss[0][..., None, None] * (points[0] - self.baseline(kind, logits, noise))


class OneCode(Helped):
    """The same of one code, and a function of it."""

    exact_moments = FunctionOfCode()
    points = Estimator.points
    estimate = Helped.estimate
    shared_points = Estimator.shared_points


WIDE = {"perturbed_by": lambda s, logits, noise: logits / s.tf / 2 + noise[:2]}
BY_NOISE = {"baseline": lambda s, kind, logits, noise: kind.soft(logits / s.tf + noise[0])}


def measured(problem, several, route="auto", draws=64):
    with torch.no_grad():
        logits = problem.model.logits(problem.x)
    noise = sampling.Noise(CATEGORICAL, logits, max(e.noise_arrays for e in several), draws, 0)
    return sampling.sample_moments(problems.setup_of(problem.model, problem.x, logits), several, noise, decoder=route)


CASES = {
    "points below the base": below(Reinforce, **SECOND),
    "points two classes below": below(below(Reinforce, formula="the same"), **SECOND),
    "points below shared points of its own": below(below(STEArgmax, formula="the same"), **SECOND),
    "points of the second of two arrays": below(STE, **SECOND),
    "an estimate of its own": below(STE, **HALVED),
    "a scale of its own": below(STE, scale=property(lambda self: 3.0)),
    "a q of its own": below(STE, **NOISY),
    "a q of its own, two classes below": below(below(STE, formula="the same"), **NOISY),
    "what its points call": below(Helped, **WIDE),
    "what its points call, two classes below": below(below(Helped, formula="the same"), **WIDE),
    "what its estimate calls": below(OneCode, **BY_NOISE),
    "points from a mixin": dataclasses.dataclass(frozen=True, kw_only=True)(
        type("Own", (type("Mixin", (), SECOND), STE), {"name": "own"})
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_override_costs_time_and_no_figure(case):
    """The figures of an estimator beside others, on every route, are those of its own functions draw by draw."""
    problem = problems.make("3x5-bernoulli-mlp")
    e = CASES[case](tf=1.3)
    others = [estimators.get(name, tf=1.3) for name in ("reinforce", "ste", "ste-argmax", "decoupled-st-gs", "rloo")]
    others += [Helped(tf=1.3), OneCode(tf=1.3)]
    (alone,) = measured(problem, [e], "draws")
    for route in ("pairs", "table", "draws"):  # "auto" is one of these
        for several in ([e, *others], [*others, e]):
            found = measured(problem, several, route)[several.index(e)]
            torch.testing.assert_close(found.mean, alone.mean, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(found.squares, alone.squares, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        logits = problem.model.logits(problem.x)
    paired = sampling.PairedDraws(problems.setup_of(problem.model, problem.x, logits), [*others, e], 2)
    paired.add(32)
    mean = alone.mean.mean(0)  # of batches of equal size
    torch.testing.assert_close(paired.sums[-1].mean.mean(0), mean, rtol=1e-10, atol=1e-12)


def test_the_example_of_an_unbiased_one_that_reads_its_own_noise():
    """It was given the points of the ordinary sample, and with them a bias of 1.17 [0.86, 1.42]."""
    model, x = (lambda p: (p.model, p.x))(problems.make("3x5-bernoulli-mlp"))
    own = below(Reinforce, **SECOND)()
    found = gradlab.bias(model, x, estimator=[own, "reinforce"], draws=4096)
    low = found.relative_bias_debiased_low.squeeze().values
    assert (low <= 0).all()  # 95 % intervals, the seed fixed


@pytest.mark.parametrize("case", CASES)
def test_enumeration_takes_no_broken_promise(case):
    own = CASES[case]()
    assert own.exact_moments is None
    assert not own.code_only
    assert not moments.supported(own)


def test_what_is_stated_again_holds():
    own = below(STE, exact_moments=FunctionOfCode(), **HALVED)()
    assert own.code_only
    assert own.pull_back is None
    assert below(RLOO, **SECOND)().shared_points is None
    assert not below(RLOO, **SECOND).unbiased
    assert below(RLOO, estimate=lambda *given: None).uses == ("loss", "derivative")
    assert not below(Exact, **SECOND)().all_configurations
    assert not below(STEArgmax, **SECOND)().noise_free
    assert below(DecoupledSTGS, **NOISY)().pull_back is not None  # q is what straight-through estimators are asked for
    assert below(DecoupledSTGS, **NOISY)().relaxation_key != DecoupledSTGS().relaxation_key


def test_a_reference_states_itself_that_it_is_unbiased():
    problem = problems.make("3x5-bernoulli-mlp")
    own = below(RLOO, estimate=lambda s, *given: RLOO.estimate(s, *given) * 0.9)
    with pytest.raises(ValueError, match="got own; a class that overrides points or estimate has to state"):
        gradlab.bias(problem.model, problem.x, reference=own(), draws=64)


def test_relaxed_points_that_pass_for_codes_are_found():
    problem = problems.make("3x5-bernoulli-mlp")
    soft = {"points": lambda s, kind, l, g: kind.soft(l + g[0])[None], "shared_points": SharedPoints("soft")}
    own = below(STE, **soft)
    with pytest.raises(ValueError, match="own: expected codes, got relaxed points; state `codes=False`"):
        measured(problem, [own()])


def test_a_number_of_points_that_depends_on_the_logits_is_refused():
    """It is counted once for all logits of a shape."""
    problem = problems.make("3x5-bernoulli-mlp")
    more = below(Reinforce, points=lambda s, kind, l, g: kind.hard(l + g[:1]).repeat(1 + bool(l.any()), 1, 1, 1, 1))
    for route in ("draws", "pairs"):
        with pytest.raises(ValueError, match=r"own: expected points of shape \(1, "):
            measured(problem, [more()], route)


def unpacked(self, kind, logits, noise):
    first, second = noise
    return kind.hard(logits / self.tf + torch.maximum(first, second))[None]


def test_noise_that_is_not_stated_is_counted():
    assert [estimators.parse(text).noise_arrays for text in ("ste", "st-gs", "disarm", "exact")] == [1, 1, 1, 1]
    assert below(STE, **NOISY)().noise_arrays == 1
    assert below(Reinforce, points=lambda s, kind, l, g: kind.hard(l / s.tf + g[1])[None])().noise_arrays == 2
    assert below(Reinforce, points=lambda s, kind, l, g: kind.hard(l / s.tf + g[2:5].sum(0))[None])().noise_arrays == 5
    assert below(Reinforce, points=unpacked)().noise_arrays == 2


def test_noise_that_cannot_be_counted_is_asked_for():
    """Else a figure would depend on what else is measured."""
    problem = problems.make("3x5-bernoulli-mlp")
    own = below(Reinforce, points=lambda s, kind, l, g: kind.hard(l + g.mean(0))[None])()
    with pytest.raises(ValueError, match="own: expected `noise_arrays`, the number of noise arrays that it reads"):
        measured(problem, [own])


def test_noise_beyond_what_is_stated_is_not_at_hand():
    """Else a figure would depend on what else is measured."""
    last = below(Reinforce, points=lambda s, kind, l, g: kind.hard(l / s.tf + g[-1])[None], noise_arrays=1)()
    problem = problems.make("3x5-bernoulli-mlp")
    alone, beside = measured(problem, [last])[0], measured(problem, [last, RLOO(n=4)])[0]
    assert torch.equal(alone.mean, beside.mean)


def test_conformance_finds_a_promise_that_its_functions_do_not_keep():
    """Restated, `shared_points` makes it share the points of its parent, which are others."""
    assert conformance.violations(Helped(tf=1.3), CATEGORICAL) == []
    assert conformance.violations(below(Helped, **WIDE)(tf=1.3), CATEGORICAL) == []
    own = below(Helped, shared_points=property(lambda self: SharedPoints(("helped", self.tf))), **WIDE)
    (found,) = conformance.violations(own(tf=1.3), CATEGORICAL)
    assert found.startswith("sampling routes: route pairs, after others, off by ")


@pytest.mark.parametrize("old", ["evaluations", "uses_loss", "code_only", "discrete_points"])
def test_what_is_derived_need_not_be_stated(old):
    with pytest.warns(DeprecationWarning, match=f"Own: expected {old} not to be stated; state for {old}, "):
        own = below(STE, **{old: True})()
    (plain,), (found,) = (measured(problems.make("3x5-bernoulli-mlp"), [e]) for e in (STE(), own))
    torch.testing.assert_close(found.mean, plain.mean)


def test_an_estimator_of_the_protocol_before_gives_its_own_figures():
    """It states what is derived now: which losses and derivatives it reads, how many, that a code decides all."""

    with pytest.warns(DeprecationWarning, match="Before: expected code_only, discrete_points, evaluations, uses_deriv"):

        class Before(Estimator):
            name, formula, reference = "before", "f (z - p)/tf", "none"
            uses_loss, uses_derivative, code_only, discrete_points = True, False, True, True
            evaluations = property(lambda self: 1)
            forward = property(lambda self: ("sample", self.tf))

            def estimate(self, kind, logits, noise, points, loss, derivative):
                assert derivative is None
                return loss[0][..., None, None] * (points[0] - kind.soft(logits / self.tf)) / self.tf

    with pytest.warns(DeprecationWarning, match="Before: expected code_only"):
        Own = dataclasses.dataclass(frozen=True, kw_only=True)(type("Before", (Before,), {"code_only": True}))
    assert Own.uses == ("loss",)
    problem = problems.make("3x5-bernoulli-mlp")
    ours, theirs = (gradlab.bias(problem.model, problem.x, 1.3, estimator=e, moments="exact") for e in (
        "reinforce", Own()))  # fmt: skip
    torch.testing.assert_close(torch.tensor(theirs.mean_norm.values), torch.tensor(ours.mean_norm.values))
    torch.testing.assert_close(torch.tensor(theirs.std_norm.values), torch.tensor(ours.std_norm.values))


def test_every_estimator_of_the_catalogue_keeps_its_promises():
    for name in estimators.names():
        cls = estimators.find(name)
        if cls.points is not Estimator.points:
            assert cls().shared_points is not None
            assert cls().points_key != Estimator.sample_key(1.0)
