"""Layers that others wrote, as estimators: equal to plain autograd, to the catalogue, and pure."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradlab
from gradlab import estimators, sampling, training
from gradlab.estimators import conformance, from_layer, registry
from gradlab.estimators.evaluation import estimate_of, points_of
from gradlab.estimators.foreign.answers import Answers
from gradlab.latents import BINARY, CATEGORICAL

from . import own_layers, problems
from .own_layers import CORRECT, Overheard

KINDS = {"categorical": CATEGORICAL, "binary": BINARY}
MODELS = {"categorical": "3x5-bernoulli-mlp", "binary": "binary6-bernoulli-mlp"}


def by_name(written):
    return written.name


def kind_of(written):
    return KINDS[written.kinds[0]]


def problem_of(written):
    return problems.make(MODELS[written.kinds[0]])


def overheard_noise(kind, shape, found):
    """The standard noise that makes torch's random results: of exponential and rand calls, of sampled indices."""
    (name, result), *more = found
    if kind is BINARY:
        if name == "bernoulli":
            return (result - 0.5) * 200
        if more:  # two Gumbels
            first, second = (-torch.log(-torch.log(r.double())) for r in (result, more[0][1]))
            return first - second
        if name == "exponential_":  # of the pair (0, l)
            return result[..., 0].log() - result[..., 1].log()
        return torch.logit(result)
    if name == "multinomial":
        return 200 * F.one_hot(result.reshape(shape[:-1]), shape[-1]).double()
    return -torch.log(result) if name == "exponential_" else -torch.log(-torch.log(result))


@pytest.mark.parametrize("written", CORRECT, ids=by_name)
def test_codes_and_estimates_are_those_of_plain_autograd(written):
    """torch draws, autograd pulls back; the estimator is given the noise that torch drew."""
    kind, tb = kind_of(written), 0.7
    shape = (4, 3, 5) if kind is CATEGORICAL else (4, 3)
    generator = torch.Generator().manual_seed(0)
    estimator = written.estimator().at(1.0, tb)
    arguments = estimator.layer.arguments
    for _ in range(3):
        logits, v = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        leaf = logits.clone().requires_grad_()
        with torch.random.fork_rng(), Overheard() as heard:
            given = leaf.flatten(0, 1) if written.name == "two-dimensional" else leaf.clone()
            function = arguments.function.double() if isinstance(arguments.function, nn.Module) else arguments.function
            z = arguments(function, given, 1.0, tb).reshape(shape)
            (z * v).sum().backward()
        noise = overheard_noise(kind, shape, heard.found).reshape(1, *shape)
        if written.name == "uniform":  # u < p is l - logit(u) > 0
            noise = -noise
        noise = torch.cat([noise, kind.noise((1, *shape), dtype=torch.float64, generator=generator)])
        points = points_of(estimator, kind, logits, noise)
        estimate = estimate_of(estimator, kind, logits, noise, points, None, v[None])
        torch.testing.assert_close(points[0], z.detach(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(estimate, leaf.grad, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("written", CORRECT, ids=by_name)
def test_moments_are_those_of_the_catalogue_on_every_route(written):
    """The same draws, whatever is decoded how, alone or beside others."""
    problem, tb = problem_of(written), 0.7
    tf = 1.3 if written.law == "tf" else 1.0
    own, twin = written.estimator().at(tf, tb), written.twin(tf, tb)
    with torch.no_grad():
        setup = problems.setup_of(problem.model, problem.x, problem.model.logits(problem.x))
    every = [estimators.get("ste", tf=tf), own, twin]
    noise = sampling.Noise(setup.kind, setup.logits, max(e.noise_arrays for e in every), 32, 0)
    for decoder in ("pairs", "draws"):
        _, one, other = sampling.sample_moments(setup, every, noise, decoder=decoder)
        torch.testing.assert_close(one.mean, other.mean, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(one.squares, other.squares, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "written",
    [one if i % 4 == 0 else pytest.param(one, marks=pytest.mark.deep) for i, one in enumerate(CORRECT)],
    ids=by_name,
)
def test_the_protocol_is_kept(written):
    """By every fourth: what keeps it is `from_layer`, and the others differ in the layer alone."""
    assert conformance.violations(written.estimator(), kind_of(written)) == []


# --- what is refused, or said ---


def straight_through(hard, soft):
    return hard + soft - soft.detach()


def numpy_noise(logits):
    g = torch.from_numpy(np.random.gumbel(size=tuple(logits.shape))).to(logits)  # noqa: NPY002
    return straight_through(own_layers.one_hot(logits + g), logits.softmax(-1))


def drawn_until(logits):
    while True:
        g = own_layers.gumbel(logits)
        if float(g.max()) < 4:
            return straight_through(own_layers.one_hot(logits + g), logits.softmax(-1))


calls: list[int] = []


def counting(logits):
    calls.append(1)
    return F.gumbel_softmax(logits * (1 + len(calls)), hard=True)


def points_at(estimator, tf=1.0, tb=1.0):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 2, 3, generator=generator)
    noise = CATEGORICAL.noise((2, 6, 4, 2, 3), dtype=logits.dtype, generator=generator)
    return points_of(estimator.at(tf, tb), CATEGORICAL, logits, noise)


REFUSED = {
    "a tuple": (lambda l: (F.gumbel_softmax(l, hard=True), l.softmax(-1)), "got a tuple ((5, 2, 3), (5, 2, 3))"),
    "a distribution": (lambda l: torch.distributions.OneHotCategorical(logits=l), "return its rsample()"),
    "indices": (lambda l: l.argmax(-1), "expected codes of the shape of its logits"),
    "integers": (lambda l: own_layers.one_hot(l).long(), "got torch.int64"),
    "no gradient": (lambda l: F.gumbel_softmax(l.detach(), hard=True), "without one"),
    "nan": (lambda l: F.gumbel_softmax(l, hard=True) / 0 * 0, "got NaN"),
    "poisson": (lambda l: torch.poisson(l.exp()) + l, "got torch's poisson"),
    "gamma": (lambda l: torch.distributions.Gamma(l.exp(), 1.0).rsample(), "got torch's _standard_gamma"),
    "numpy": (numpy_noise, "does it draw from numpy or random"),
    "until something holds": (drawn_until, "does it draw until something holds?"),
    "a state": (counting, "keep a state?"),
    "all examples share": (own_layers.shared_by_examples, "all examples share its numbers"),
    "rows": (own_layers.normalised, "depend on the other rows"),
    "raises": (lambda l: l @ torch.ones(99, 3), "got RuntimeError"),
    "relaxed": (lambda l: F.gumbel_softmax(l), "state discrete=False"),
    "signs": (lambda l: 2 * F.gumbel_softmax(l, hard=True) - 1, "got values between -1 and 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_measured_is_refused_in_one_sentence(name):
    layer, words = REFUSED[name]
    state = torch.random.get_rng_state()
    with pytest.raises(ValueError, match=r"^layer: mine: expected .*, got ") as refused:
        points_at(from_layer(layer))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"layer": 3}, "expected a function"),
        ({"layer": lambda l, a: l}, "expected no arguments but logits, tf and tb, got (l, a)"),
        ({"layer": lambda: 1}, "expected no arguments but"),
        ({"law": "tb"}, "law: expected one of tf, model, got 'tb'"),
        ({"kinds": ("ternary",)}, "kinds: expected some of categorical, binary"),
        ({"name": ""}, "name: expected a text"),
    ],
)
def test_arguments_are_checked(arguments, words):
    with pytest.raises(ValueError, match="expected") as refused:
        from_layer(**({"layer": F.gumbel_softmax} | arguments))
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("layer", "taken"),
    [
        (lambda l: l, ()),
        (lambda l, tf, tb: l, ("tf", "tb")),
        (lambda l, a, b: l, ("tf", "tb")),
        (lambda *a: a[0], ("tf", "tb")),
        (lambda l, tb: l, ("tb",)),
        (lambda l, *, tf=1.0: l, ("tf",)),
        (F.gumbel_softmax, ("tb",)),
        (functools.partial(F.gumbel_softmax, tau=0.5), ()),
        (own_layers.OwnFunction, ("tb",)),
        (own_layers.OwnFunction.apply, ("tb",)),
        (own_layers.ste_of_a_module(), ("tb",)),
    ],
)
def test_temperatures_are_given_to_the_arguments_that_take_them(layer, taken):
    assert from_layer(layer).layer.arguments.taken == taken


def test_a_wrong_law_is_refused_and_none_is_said():
    hard = functools.partial(F.gumbel_softmax, hard=True)
    with pytest.raises(ValueError, match=r"got softmax\(l/\S+\); state law='model'"):
        points_at(from_layer(hard), tf=1.6)
    points_at(from_layer(hard, law="model"), tf=1.6)
    with pytest.raises(ValueError, match=r"follow softmax\(l\) at tf = 1.6, tb = 1, as law='model' states"):
        points_at(from_layer(own_layers.decoupled, law="model"), tf=1.6)
    greedy, _ = own_layers.FAULTY["argmax"]
    with pytest.warns(gradlab.estimators.LayerWarning, match="at no t"):
        points_at(from_layer(greedy))


def test_an_estimate_that_is_not_linear_is_said():
    with pytest.warns(gradlab.estimators.LayerWarning, match="not linear"):
        points_at(from_layer(own_layers.clipped))


# --- the law that it is held against ---


@pytest.mark.parametrize("options", [{}, {"wrt": "encoder"}, {"reference": "rloo"}], ids=str)
def test_the_exact_gradient_is_that_of_the_law_that_is_sampled(options):
    problem = problems.make("3x2-bernoulli-mlp")
    estimator = from_layer(functools.partial(F.gumbel_softmax, hard=True), law="model")
    ds = gradlab.bias(problem.model, problem.x, tf=[0.6, 1.0], tb=1.0, estimator=estimator, draws=64, **options)
    assert ds.attrs["law"] == "softmax(l), whatever tf"
    np.testing.assert_allclose(ds.relative_bias_debiased[0], ds.relative_bias_debiased[1])
    if "exact_norm" in ds and not options:
        exact = gradlab.exact_gradient(problem.model, problem.x, tf=1.0)
        np.testing.assert_allclose(ds.exact_gradient[0], exact, rtol=1e-12)


def test_two_laws_are_not_held_against_one_gradient():
    problem = problems.make("3x2-bernoulli-mlp")
    estimator = from_layer(functools.partial(F.gumbel_softmax, hard=True), law="model")
    both = {"estimator": [estimator, "ste"], "draws": 64, "tb": 1.0}
    with pytest.raises(ValueError, match="which samples softmax\\(l\\) for any tf, beside ste"):
        gradlab.bias(problem.model, problem.x, tf=1.6, **both)
    gradlab.bias(problem.model, problem.x, tf=1.0, **both)
    ds = gradlab.bias(problem.model, problem.x, tf=1.6, target="model", **both)
    assert ds.sizes["estimator"] == 2


def test_a_recommendation_is_not_made_against_another_law():
    problem = problems.make("3x2-bernoulli-mlp")
    estimator = from_layer(functools.partial(F.gumbel_softmax, hard=True), law="model")
    with pytest.raises(ValueError, match=r"tf: expected 1 for mine, which samples softmax\(l\) for any tf, got 1.6"):
        gradlab.recommend(problem.model, problem.x, tf=1.6, estimator=[estimator, "ste"])


# --- routes ---


@pytest.mark.parametrize("name", ["decoupled", "module", "two-gumbels"])
def test_figures_do_not_depend_on_memory_and_leave_the_layer_alone(name):
    written = next(w for w in CORRECT if w.name == name)
    problem = problem_of(written)
    before = {k: v.clone() for k, v in written.layer.state_dict().items()} if name == "module" else {}
    state = torch.random.get_rng_state()
    found = [
        gradlab.bias(
            problem.model, problem.x, estimator=written.estimator(), draws=64, tb=0.7, compute=gradlab.Compute(memory=m)
        )
        for m in (2**16, 2**28)
    ]
    np.testing.assert_allclose(found[0].mean_gradient, found[1].mean_gradient, rtol=1e-9, atol=1e-12)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, written.layer.state_dict()[key]) for key, value in before.items())


def test_the_encoders_gradient_and_equal_cost():
    problem = problems.make("3x2-bernoulli-mlp")
    own = from_layer(own_layers.decoupled, name="own")
    ds = gradlab.bias(problem.model, problem.x, estimator=[own, "decoupled-st-gs"], wrt="encoder", draws=64)
    np.testing.assert_allclose(ds.relative_bias[0], ds.relative_bias[1], rtol=1e-9)
    moments = gradlab.MonteCarlo(draws=64, equal_cost=True)
    ds = gradlab.bias(problem.model, problem.x, estimator=[own, "rloo"], moments=moments)
    assert list(ds.attrs["evaluations"]) == [1, 2]


def test_training_uses_a_registered_layer(monkeypatch):
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))
    own = from_layer(own_layers.decoupled, name="own-decoupled")
    assert estimators.register(own).at(0.7, 0.8) == estimators.get("own-decoupled", tf=0.7, tb=0.8)
    problem, gradients = problems.make("3x2-bernoulli-mlp"), []
    for estimator in ("own-decoupled", "decoupled-st-gs"):
        problem.model.zero_grad()
        e = estimators.get(estimator, tf=0.7, tb=0.8)
        shape = (e.noise_arrays, len(problem.x), *problem.model.code_shape)
        noise = CATEGORICAL.noise(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        training.backward(problem.model, e, problem.x, noise)
        gradients.append([p.grad.clone() for p in problem.model.encoder.parameters()])
    torch.testing.assert_close(*gradients)


def test_the_gap_of_a_layer_is_that_of_the_catalogue():
    problem = problems.make("3x2-bernoulli-mlp")
    at = {"tf": [0.7, 1.3], "tb": [0.6, 2.0], "draws": 32}
    default = gradlab.gap(problem.model, problem.x, **at)
    own = gradlab.gap(problem.model, problem.x, **at, estimator=from_layer(own_layers.decoupled))
    for name in ("gap", "relative_gap", "cosine"):
        np.testing.assert_allclose(own[name], default[name], rtol=1e-8, err_msg=name)
    jang = gradlab.gap(problem.model, problem.x, **at, estimator="st-gs:convention=jang")
    assert abs(jang.relative_gap - default.relative_gap).max() > 0.01
    with pytest.raises(ValueError, match="pulls df/dz back from a sampled code for a gap, got rloo"):
        gradlab.gap(problem.model, problem.x, estimator="rloo")


# --- random calls ---

SIZE = 20_000
CALLS = {
    "rand": lambda: torch.rand(SIZE),
    "rand_like": lambda: torch.rand_like(torch.ones(SIZE)),
    "randn": lambda: torch.randn(SIZE),
    "uniform_": lambda: torch.empty(SIZE).uniform_(-2, 3),
    "exponential_": lambda: torch.empty(SIZE).exponential_(2.5),
    "normal_": lambda: torch.empty(SIZE).normal_(1, 0.3),
    "normal": lambda: torch.normal(torch.ones(SIZE), 0.3),
    "normal of sizes": lambda: torch.normal(1.0, 0.3, (SIZE,)),
    "log_normal_": lambda: torch.empty(SIZE).log_normal_(0.2, 0.5),
    "cauchy_": lambda: torch.empty(SIZE).cauchy_(0.2, 0.5),
    "geometric_": lambda: torch.empty(SIZE).geometric_(0.3),
    "randint": lambda: torch.randint(2, 9, (SIZE,)).float(),
    "randint_like": lambda: torch.randint_like(torch.ones(SIZE), 5),
    "bernoulli": lambda: torch.bernoulli(torch.full((SIZE,), 0.3)),
    "bernoulli_": lambda: torch.empty(SIZE).bernoulli_(0.3),
    "multinomial": lambda: torch.multinomial(torch.tensor([[0.1, 0.6, 0.0, 0.3]]).expand(SIZE, 4), 1).flatten().float(),
    "with replacement": lambda: torch.multinomial(torch.tensor([0.1, 0.6, 0.0, 0.3]), SIZE, True).float(),
    "without replacement": lambda: (
        torch.multinomial(torch.tensor([[0.1, 0.5, 0.1, 0.3]]).expand(SIZE, 4), 2) @ torch.tensor([1, 10])
    ).float(),
    "dropout": lambda: F.dropout(torch.ones(SIZE), 0.3),
    "gumbel": lambda: torch.distributions.Gumbel(0.0, torch.ones(SIZE)).rsample(),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_random_call_is_answered_with_its_distribution(name):
    """Kolmogorov's distance from torch's own numbers; above 0.027 by chance in 1e-6 of cases."""

    class Draw:
        generator = torch.Generator().manual_seed(3)

        def __call__(self, name, shape, device):
            return torch.empty(shape, dtype=torch.float64).exponential_(generator=self.generator)

    with Answers(Draw()):
        answered = CALLS[name]()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own = CALLS[name]()
    assert answered.dtype == own.dtype
    assert answered.shape == own.shape
    at = torch.cat([answered, own]).sort().values
    apart = [torch.searchsorted(one.sort().values, at, right=True) / SIZE for one in (answered, own)]
    assert float((apart[0] - apart[1]).abs().max()) < 0.027
