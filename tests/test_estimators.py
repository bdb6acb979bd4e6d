"""Conformance of every registered estimator, driven by the registry: a new entry cannot escape."""

import dataclasses
import itertools

import pytest
import torch
from scipy import stats

import gradlab
from gradlab import estimators
from gradlab.estimators import Relaxation
from gradlab.latents import BINARY, CATEGORICAL

from . import oracles, problems

NAMES = estimators.names()
KINDS = {"categorical": CATEGORICAL, "binary": BINARY}
CASES = [(name, kind) for name in NAMES for kind in estimators.find(name).kinds]


def quadratic(codes):
    """A small asymmetric loss of all coordinates (evaluation, ..., example, *code) and its derivative."""
    event = 2 if codes.shape[-1] in (3,) else 1
    flat = codes.flatten(-event)
    n = flat.shape[-1]
    matrix = torch.sin(torch.arange(n * n, dtype=codes.dtype).reshape(n, n))
    slope = torch.cos(3.0 * torch.arange(n, dtype=codes.dtype))
    loss = flat @ slope + 0.5 * (flat @ matrix * flat).sum(-1)
    derivative = slope + 0.5 * flat @ (matrix + matrix.T)
    return loss, derivative.reshape(codes.shape)


def draw(estimator, kind, logits, noise):
    points = estimator.points(kind, logits, noise)
    loss, derivative = quadratic(points)
    return estimator.estimate(kind, logits, noise, points, loss, derivative)


def example(kind, dtype, draws=6, estimator=None):
    generator = torch.Generator().manual_seed(3)
    shape = (2, 4, 3) if kind is CATEGORICAL else (2, 4)
    logits = 1.5 * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    arrays = estimator.noise_arrays if estimator else 1
    noise = kind.noise((arrays, draws, *shape), dtype=torch.float64, generator=generator).to(dtype)
    return logits, noise


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtype(name, kind, dtype):
    estimator = estimators.get(name, tf=1.6)
    logits, noise = example(KINDS[kind], dtype, estimator=estimator)
    points = estimator.points(KINDS[kind], logits, noise)
    assert points.shape == (estimator.evaluations, *noise.shape[1:])
    found = draw(estimator, KINDS[kind], logits, noise)
    assert found.shape == noise.shape[1:]
    assert found.dtype == dtype


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_float32_agrees_with_float64(name, kind):
    estimator = estimators.get(name, tf=1.6)
    logits, noise = example(KINDS[kind], torch.float32, estimator=estimator)
    single = draw(estimator, KINDS[kind], logits, noise)
    double = draw(estimator, KINDS[kind], logits.double(), noise.double())
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 1e4), (torch.float32, 80.0)])
def test_finite_at_saturated_logits(name, kind, dtype, size):
    estimator = estimators.get(name, tf=0.5)
    logits, noise = example(KINDS[kind], dtype, estimator=estimator)
    found = draw(estimator, KINDS[kind], logits.sign() * size, noise)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_permuting_latents_permutes_the_estimate(name, kind):
    """With a loss that treats latents alike up to the permutation: f(z) of permuted codes at permuted logits."""
    estimator = estimators.get(name, tf=1.3)
    kind = KINDS[kind]
    logits, noise = example(kind, torch.float64, estimator=estimator)
    order = torch.tensor([2, 0, 3, 1])
    axis = -1 - kind.event_dims

    def permuted(t):
        return t.index_select(axis, order)

    points = estimator.points(kind, logits, noise)
    loss, derivative = quadratic(points)
    plain = estimator.estimate(kind, logits, noise, points, loss, derivative)
    moved = estimator.estimate(
        kind,
        permuted(logits),
        permuted(noise),
        estimator.points(kind, permuted(logits), permuted(noise)),
        loss,
        permuted(derivative),
    )
    assert torch.equal(moved, permuted(plain))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_discrete_points_are_codes(name, kind):
    estimator = estimators.get(name, tf=1.6)
    logits, noise = example(KINDS[kind], torch.float64, estimator=estimator)
    points = estimator.points(KINDS[kind], logits, noise)
    assert estimator.discrete_points == bool(((points == 0) | (points == 1)).all())
    assert ((points >= 0) & (points <= 1)).all()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_equal_forward_means_equal_points_and_unequal_other_points(name, kind):
    kind = KINDS[kind]
    logits, noise = example(kind, torch.float64, draws=200)
    made = [estimators.get(name).at(tf, tb) for tf, tb in itertools.product((0.4, 1.0, 2.5), (0.5, 2.0))]
    for a, b in itertools.combinations(made, 2):
        same = torch.equal(a.points(kind, logits, noise), b.points(kind, logits, noise))
        assert same == (a.forward == b.forward)


@pytest.mark.parametrize("name", [n for n in NAMES if estimators.find(n).kinds == ("categorical", "binary")])
def test_binary_is_the_categorical_pair(name):
    """One logit l with logistic noise g0 - g1 is the pair (l, 0) with Gumbel noise (g0, g1)."""
    estimator = estimators.get(name).at(1.6, 1.3)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    pair = torch.stack([logits, torch.zeros_like(logits)], -1)
    noise = CATEGORICAL.noise((estimator.noise_arrays, 7, 3, 5, 2), dtype=torch.float64, generator=generator)
    as_unit = noise[..., 0] - noise[..., 1]
    of_pair, of_unit = estimator.points(CATEGORICAL, pair, noise), estimator.points(BINARY, logits, as_unit)
    torch.testing.assert_close(of_pair[..., 0], of_unit, rtol=0, atol=1e-12)
    loss, v = torch.sin(of_unit.sum(-1)), torch.cos(of_unit + torch.arange(5))
    pair_v = torch.stack([v, torch.zeros_like(v)], -1)
    a = estimator.estimate(CATEGORICAL, pair, noise, of_pair, loss, pair_v)[..., 0]
    b = estimator.estimate(BINARY, logits, as_unit, of_unit, loss, v)
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_bias_is_as_declared(name, kind):
    """Against enumeration at 40,000 draws; what "agrees" means is proven on a score function below."""
    estimator = estimators.get(name).at(1.4, 0.8)
    kind = KINDS[kind]
    logits, noise = example(kind, torch.float64, draws=40_000, estimator=estimator)
    found = draw(estimator, kind, logits, noise)
    exact = enumerated_gradient(kind, logits, 1.4)
    assert agrees(found, exact) == estimator.unbiased


def agrees(estimates, exact):
    """Every coordinate within 6 standard errors: fails for one unbiased estimator in 10 million, at 24 coordinates."""
    error = estimates.std(0) / len(estimates) ** 0.5 + 1e-12
    return bool((((estimates.mean(0) - exact) / error).abs() < 6).all())


def test_agreement_has_power():
    """A score function with the mean as baseline agrees; with 2 % of the gradient's norm planted it does not."""
    logits, noise = example(CATEGORICAL, torch.float64, draws=400_000)
    codes = CATEGORICAL.hard(logits / 1.4 + noise[0])
    loss, _ = quadratic(codes)
    exact = enumerated_gradient(CATEGORICAL, logits, 1.4)
    scores = (codes - torch.softmax(logits / 1.4, -1)) / 1.4
    unbiased = (loss - loss.mean(0))[..., None, None] * scores
    assert agrees(unbiased, exact)
    planted = torch.zeros_like(exact)
    planted[0, 0, 0] = 0.02 * exact.norm()
    assert not agrees(unbiased + planted, exact)


def enumerated_gradient(kind, logits, tf):
    """Exact gradient of the expected quadratic loss, by autograd over all configurations."""
    leaf = logits.clone().requires_grad_()
    log_p = torch.log_softmax(kind.two_category(leaf) / tf, -1)
    total = 0.0
    for configuration in itertools.product(range(log_p.shape[-1]), repeat=log_p.shape[-2]):
        one_hot = torch.eye(log_p.shape[-1], dtype=logits.dtype)[list(configuration)]
        code = one_hot[:, 0] if kind is BINARY else one_hot
        loss, _ = quadratic(code[None])
        total = total + ((log_p * one_hot).sum((1, 2)).exp() * loss).sum()
    return torch.autograd.grad(total, leaf)[0]


def test_ste_is_exact_for_linear_losses_at_temperature_1():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    slope = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    leaf = logits.clone().requires_grad_()
    (wanted,) = torch.autograd.grad((torch.softmax(leaf, -1) * slope).sum(), leaf)
    noise = CATEGORICAL.noise((1, 1, 2, 4, 3), dtype=torch.float64, generator=generator)
    ste = estimators.get("ste")
    points = ste.points(CATEGORICAL, logits, noise)
    found = ste.estimate(CATEGORICAL, logits, noise, points, None, slope.expand_as(points))
    torch.testing.assert_close(found[0], wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", [CATEGORICAL, BINARY])
def test_noise_has_the_standard_law(kind):
    """Kolmogorov-Smirnov at 200,000 numbers; fixed seed, failure rate 1e-4 over seeds. Scaled by 1.02 it is found."""
    noise = kind.noise((200_000,), dtype=torch.float64, generator=torch.Generator().manual_seed(0)).numpy()
    law = stats.gumbel_r if kind is CATEGORICAL else stats.logistic
    assert stats.kstest(noise, law.cdf).pvalue > 1e-4
    assert stats.kstest(1.02 * noise, law.cdf).pvalue < 1e-4


def test_codes_follow_the_tempered_law():
    """Frequencies of 200,000 draws within 5 standard errors of softmax(l/tf), and not of softmax(l)."""
    logits = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64)
    noise = CATEGORICAL.noise((1, 200_000, 1, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = estimators.get("st-gs", tf=1.6).points(CATEGORICAL, logits, noise)[0].mean(0)[0]
    for tf, agrees in ((1.6, True), (1.0, False)):
        p = torch.softmax(logits[0] / tf, -1)
        assert bool((((found - p) / (p * (1 - p) / 200_000).sqrt()).abs() < 5).all()) == agrees


@pytest.mark.parametrize("convention", ["paper", "jang"])
def test_st_gs_against_autograd(convention):
    problem = problems.make("3x5-bernoulli-mlp")
    tf, tb = 1.6, 1.3
    with torch.no_grad():
        logits = problem.model.logits(problem.x)
    noise = CATEGORICAL.noise((1, 9, *logits.shape), dtype=logits.dtype, generator=torch.Generator().manual_seed(0))
    wanted = oracles.straight_through_draws(
        problem.model, problem.x, lambda l, g: oracles.one_hot_argmax(l / tf + g),
        lambda l, g: torch.softmax(l / tb + g if convention == "paper" else (l + g) / tb, -1), noise[0],
    )  # fmt: skip
    assert (
        oracles.relative_error(
            estimates(problem, estimators.get("st-gs", tf=tf, tb=tb, convention=convention), noise), wanted
        )
        < 1e-12
    )


def test_gumbel_softmax_against_autograd():
    problem = problems.make("3x5-own-mlp")
    with torch.no_grad():
        logits = problem.model.logits(problem.x)
    noise = CATEGORICAL.noise((1, 4, *logits.shape), dtype=logits.dtype, generator=torch.Generator().manual_seed(0))
    wanted = []
    for g in noise[0]:
        leaf = logits.clone().requires_grad_()
        y = torch.softmax((leaf / 1.6 + g) / 0.7, -1)
        wanted.append(torch.autograd.grad(problem.model.losses(y, problem.x).sum(), leaf)[0])
    found = estimates(problem, estimators.get("gumbel-softmax", tf=1.6, tb=0.7), noise)
    assert oracles.relative_error(found, torch.stack(wanted)) < 1e-12


def estimates(problem, estimator, noise):
    from gradlab.sampling import evaluate_points

    with torch.no_grad():
        logits = problem.model.logits(problem.x)
    points = estimator.points(problem.model.kind, logits, noise)
    loss, derivative = evaluate_points(problem.model, problem.x, points, 2**24)
    return estimator.estimate(problem.model.kind, logits, noise, points, loss, derivative)


def test_decoupled_at_equal_temperatures_is_st_gs():
    logits, noise = example(CATEGORICAL, torch.float64)
    a, b = (draw(estimators.get(n).at(0.7, 0.7), CATEGORICAL, logits, noise) for n in ("st-gs", "decoupled-st-gs"))
    assert torch.equal(a, b)


def test_backward_temperature_defaults_to_the_forward_one():
    assert estimators.get("st-gs", tf=0.7).tb == 0.7
    assert estimators.get("st-gs", tb=0.7).tf == 1.0
    assert estimators.get("st-gs").tb == 1.0


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), "warm", None, True])
@pytest.mark.parametrize("name", NAMES)
def test_bad_temperatures_are_refused(name, bad):
    with pytest.raises(ValueError, match="tf: got"):
        estimators.get(name, tf=bad)


def test_unknown_names_and_parameters_give_near_matches():
    with pytest.raises(ValueError, match="decoupled-st-gs"):
        estimators.get("decoupled-stgs")
    with pytest.raises(ValueError, match="convention"):
        estimators.get("st-gs", convetion="jang")
    with pytest.raises(ValueError, match="paper"):
        estimators.get("st-gs", convention="papr")


def test_parse_reads_the_command_lines_form():
    assert estimators.parse("st-gs:convention=jang,tb=0.5") == estimators.get("st-gs", convention="jang", tb=0.5)
    with pytest.raises(ValueError, match="key=value"):
        estimators.parse("st-gs:jang")


def test_a_name_can_be_registered_and_not_taken_twice():
    from gradlab.estimators import registry

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Halved(Relaxation):
        name = "test-halved"
        formula = "v / 2"
        reference = "none"

        def estimate(self, kind, logits, noise, points, loss, derivative):
            return derivative[0] / 2

    try:
        estimators.register(Halved)
        assert estimators.get("test-halved", tb=2.0).tb == 2.0
        taken = dataclasses.make_dataclass("Other", [], bases=(Halved,), frozen=True, kw_only=True)
        with pytest.raises(ValueError, match="taken"):
            estimators.register(taken)
    finally:
        registry._CLASSES.pop("test-halved", None)


class TestLayer:
    def test_values_are_exactly_one_hot_and_gradient_is_the_estimators(self):
        logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
        z = gradlab.decoupled_st_gumbel_softmax(logits, tf=1.6, tb=1.3, generator=torch.Generator().manual_seed(5))
        assert set(z.unique().tolist()) == {0.0, 1.0}
        assert (z.sum(-1) == 1).all()
        v = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
        (found,) = torch.autograd.grad((z * v).sum(), logits)
        noise = CATEGORICAL.noise(tuple(logits.shape), dtype=logits.dtype, generator=torch.Generator().manual_seed(5))
        estimator = estimators.get("decoupled-st-gs", tf=1.6, tb=1.3)
        plain = logits.detach()
        assert torch.equal(z, estimator.points(CATEGORICAL, plain, noise[None])[0])
        wanted = estimator.estimate(CATEGORICAL, plain, noise[None], z.detach()[None], None, v[None])
        torch.testing.assert_close(found, wanted)

    def test_drops_in_for_torch(self):
        """At tf = tb = 1 and the same noise: the same codes and the same gradient as torch's own."""
        logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
        v = torch.arange(35.0).reshape(7, 5)
        found = []
        for layer in (
            lambda: torch.nn.functional.gumbel_softmax(logits, hard=True),
            lambda: gradlab.decoupled_st_gumbel_softmax(logits),
        ):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(2)
                z = layer()
            found.append((z.detach().round(), torch.autograd.grad((z * v).sum(), logits)[0]))
        assert torch.equal(found[0][0], found[1][0])
        torch.testing.assert_close(found[0][1], found[1][1])

    def test_a_generator_leaves_the_global_state_alone(self):
        before = torch.random.get_rng_state()
        gradlab.decoupled_st_gumbel_softmax(torch.zeros(3, 4), generator=torch.Generator().manual_seed(0))
        assert torch.equal(before, torch.random.get_rng_state())

    @pytest.mark.parametrize("bad", [{"tf": 0.0}, {"tb": -1.0}, {"tf": float("nan")}])
    def test_bad_temperatures(self, bad):
        with pytest.raises(ValueError, match="temperature"):
            gradlab.decoupled_st_gumbel_softmax(torch.zeros(3), **bad)

    def test_integer_logits(self):
        with pytest.raises(ValueError, match="logits"):
            gradlab.decoupled_st_gumbel_softmax(torch.zeros(3, dtype=torch.long))
