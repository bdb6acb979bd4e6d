"""Estimators in loops of one's own: the layers, and the surrogate loss of every registered estimator."""

import copy
import re

import pytest
import torch
from torch import nn

from gradlab import errors, estimators, training
from gradlab.estimators import RunningMean, surrogate_loss
from gradlab.estimators.conformance import KINDS

from . import problems
from .catalogue import CASES, NAMES

SHAPES = {"categorical": (5, 3, 4), "binary": (5, 4), "k-hot": (5, 3, 4)}  # of logits


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def logits_of(kind, dtype=torch.float64):
    return torch.randn(SHAPES[kind], generator=seeded(0), dtype=torch.float64).to(dtype).requires_grad_()


class Decoder(nn.Module):
    """Loss of codes at observations x: not linear, different at each example."""

    def __init__(self, kind, dtype=torch.float64):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            flat = nn.Identity() if kind == "binary" else nn.Flatten()
            width = logits_of(kind).flatten(1).shape[1]
            self.net = nn.Sequential(flat, nn.Linear(width, 6), nn.Tanh(), nn.Linear(6, 7)).to(dtype)
            self.x = torch.rand(5, 7, dtype=torch.float64).to(dtype)
        self.calls = []

    def forward(self, codes):
        self.calls.append(tuple(codes.shape))
        x = self.x.repeat(len(codes) // len(self.x), 1)  # as the docstring says
        return (self.net(codes) - x).square().sum(1)


def baseline_of(estimator):
    return None if estimator.baseline_decay is None else RunningMean(estimator.baseline_decay)


def slowly(estimator, kind, logits, decoder, noise, coefficients):
    """Values, gradient to the logits, gradients to the decoder: an evaluation and an example at a time."""
    points = estimator.points(kind, logits, noise)
    weights = estimator.weights(kind, logits, points)
    loss, derivative = points.new_zeros(points.shape[:2]), torch.zeros_like(points)
    values, gradients = points.new_zeros(len(logits)), [torch.zeros_like(p) for p in decoder.parameters()]
    for e in range(points.shape[0]):
        for i in range(points.shape[1]):
            code = points[e, i].clone().requires_grad_()
            one = (decoder.net(code[None])[0] - decoder.x[i]).square().sum()
            loss[e, i] = one.detach()
            (derivative[e, i],) = torch.autograd.grad(one, code, retain_graph=True)
            share = 1 / len(points) if weights is None else weights[e, i]
            values[i] += share * one.detach()
            of_decoder = torch.autograd.grad(coefficients[i] * share * one, list(decoder.parameters()))
            gradients = [total + term for total, term in zip(gradients, of_decoder, strict=True)]
    if estimator.baseline_decay is not None:
        loss = RunningMean(estimator.baseline_decay).centre(loss)
    estimate = estimator.estimate(kind, logits, noise, points, loss, derivative)
    return values, coefficients.reshape(-1, *[1] * (logits.ndim - 1)) * estimate, gradients


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("text", "kind"), CASES)
def test_backward_gives_the_estimate_and_the_decoder_s_own_gradient(text, kind, dtype):
    estimator = estimators.parse(text).at(1.6, 0.7)
    logits, decoder = logits_of(kind, dtype), Decoder(kind, dtype)
    coefficients = torch.linspace(-1.0, 2.0, len(logits), dtype=dtype)
    options = {"binary": kind == "binary", "baseline": baseline_of(estimator)}
    options |= {"top_k": 2} if kind == "k-hot" else {}
    loss = surrogate_loss(estimator, logits, decoder, generator=seeded(5), **options)
    assert (loss.shape, loss.dtype) == ((len(logits),), dtype)
    (loss * coefficients).sum().backward()
    assert decoder.calls == [(estimator.evaluations_at(KINDS[kind], logits) * len(logits), *logits.shape[1:])]
    found = [p.grad for p in decoder.parameters()]

    noise = KINDS[kind].noise((estimator.noise_arrays, *logits.shape), dtype=dtype, generator=seeded(5))
    values, estimate, gradients = slowly(estimator, KINDS[kind], logits.detach(), decoder, noise, coefficients)
    close = {"rtol": 1e-9, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 2e-3, "atol": 2e-4}
    torch.testing.assert_close(loss.detach(), values, **close)
    torch.testing.assert_close(logits.grad, estimate, **close)
    assert float(estimate.abs().max()) > 0.01
    for one, wanted in zip(found, gradients, strict=True):
        torch.testing.assert_close(one, wanted, **close)
        assert float(wanted.abs().max()) > 0.01


def test_every_registered_estimator_is_among_the_cases():
    assert {text for text, _ in CASES} >= set(NAMES)


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "binary6-bernoulli-mlp"])
@pytest.mark.parametrize("text", ["decoupled-st-gs", "gumbel-softmax", "rloo:n=3", "rebar", "exact"])
def test_a_loop_of_one_s_own_trains_as_the_library_does(text, name):
    """Gradients of all parameters, KL term included, of the library's own backward pass."""
    problem = problems.make(name)
    estimator = estimators.parse(text).at(1.6, 0.7)
    kind, x = problem.model.kind, problem.x
    noise = kind.noise((estimator.noise_arrays, len(x), *problem.model.code_shape), dtype=x.dtype, generator=seeded(5))
    training.backward(problem.model, estimator, x, noise)
    wanted = [p.grad.clone() for p in problem.model.parameters()]
    problem.model.zero_grad()

    logits = problem.model.logits(x)

    def f(codes):
        return problem.model.losses(codes, x.repeat(len(codes) // len(x), 1, 1, 1))

    loss = surrogate_loss(estimator, logits, f, binary="binary" in name, generator=seeded(5))
    (loss + kind.kl_to_uniform(logits)).mean().backward()
    for parameter, gradient in zip(problem.model.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-11)


def test_a_name_and_its_parameters_will_do():
    for given, same in (("rloo", "rloo:n=2"), ("rloo:n=4,tf=1.6", estimators.get("rloo", n=4, tf=1.6))):
        one, other = (surrogate_loss(e, logits_of("categorical"), Decoder("categorical"), generator=seeded(2))
                      for e in (given, same))  # fmt: skip
        assert torch.equal(one, other)


def test_what_f_makes_of_the_logits_themselves_is_autograd_s():
    logits, decoder = logits_of("categorical"), Decoder("categorical")
    plain, penalised = (
        surrogate_loss("rloo", logits, f, generator=seeded(3))
        for f in (decoder, lambda z: decoder(z) + 2 * logits.sum())
    )
    before, after = (torch.autograd.grad(loss.sum(), logits)[0] for loss in (plain, penalised))
    torch.testing.assert_close(after, before + 2 * len(logits))


def test_observations_in_the_other_order_would_be_noticed():
    """What the two tests above rest on: rows are evaluation by evaluation, and the examples differ."""
    logits, decoder = logits_of("categorical"), Decoder("categorical")
    right = surrogate_loss("rloo", logits, decoder, generator=seeded(3))

    def wrong(codes):
        return (decoder.net(codes) - decoder.x.repeat_interleave(2, 0)).square().sum(1)

    assert not torch.allclose(right, surrogate_loss("rloo", logits, wrong, generator=seeded(3)), rtol=0.01)


# --- noise, gradients not wanted, losses without a derivative ---


@pytest.mark.parametrize("text", ["st-gs", "rebar", "rloo", "reinforce:baseline=running-mean", "exact"])
def test_without_a_gradient_to_the_logits_it_is_the_loss(text):
    estimator, logits = estimators.parse(text), logits_of("categorical")
    baseline = baseline_of(estimator)
    full = surrogate_loss(
        estimator, logits, Decoder("categorical"), generator=seeded(5), baseline=copy.deepcopy(baseline)
    )
    decoder = Decoder("categorical")
    fixed = surrogate_loss(estimator, logits.detach(), decoder, generator=seeded(5), baseline=baseline)
    assert torch.equal(fixed, full)
    fixed.sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in decoder.parameters())
    with torch.no_grad():
        plain = surrogate_loss(estimator, logits, decoder, generator=seeded(5), baseline=baseline)
    assert torch.equal(plain, full)
    assert not plain.requires_grad
    assert baseline is None or float(baseline.state.abs().max()) == 0


@pytest.mark.parametrize("name", ["rloo", "decoupled-st-gs"])
def test_noise_comes_from_the_generator_or_else_from_torch_s_own(name):
    def value(generator):
        return surrogate_loss(name, logits_of("categorical"), Decoder("categorical"), generator=generator).detach()

    before = torch.random.get_rng_state()
    first, again, other = value(seeded(1)), value(seeded(1)), value(seeded(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        assert torch.equal(value(None), first)
        assert not torch.equal(value(None), first)


@pytest.mark.parametrize("name", [n for n in NAMES if not estimators.find(n)().uses_derivative])
def test_a_score_function_takes_any_loss(name):
    kind = estimators.get(name).kinds[-1]
    decoder, logits = Decoder(kind), logits_of(kind)

    def f(codes):
        with torch.no_grad():
            return torch.from_numpy((8 * decoder(codes)).round().numpy())

    surrogate_loss(name, logits, f, binary=kind == "binary", generator=seeded(5)).sum().backward()
    assert float(logits.grad.abs().max()) > 0


def test_f_may_work_in_place():
    for name in ("st-gs", "rloo"):
        found = []
        for change in (lambda z: z * 2, lambda z: z.mul_(2)):
            logits, decoder = logits_of("categorical"), Decoder("categorical")
            surrogate_loss(name, logits, lambda z, d=decoder, c=change: d(c(z)), generator=seeded(4)).sum().backward()
            found.append(logits.grad)
        assert torch.equal(*found)


def test_a_running_mean_is_subtracted_from_the_second_step_on():
    baseline = RunningMean(0.9)
    logits, decoder = logits_of("categorical"), Decoder("categorical")
    steps = []
    for step in range(2):
        asked = "reinforce:baseline=running-mean,decay=0.9"
        loss = surrogate_loss(asked, logits, decoder, generator=seeded(step), baseline=baseline)
        plain = surrogate_loss("reinforce", logits, decoder, generator=seeded(step))
        assert torch.equal(loss, plain)
        centred, uncentred = (torch.autograd.grad(v.sum(), logits)[0] for v in (loss, plain))
        steps.append((loss.detach(), centred, uncentred))
    (first, centred, uncentred), (second, *_) = steps
    assert torch.equal(centred, uncentred)
    _, (_, centred, uncentred) = steps
    share = ((second - first.mean()) / second)[:, None, None]  # reinforce is f times the score
    torch.testing.assert_close(centred, share * uncentred)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("of_loss", [None, torch.float32], ids=["half", "single"])
def test_losses_of_half_logits_keep_their_type(dtype, of_loss):
    """Of `exact`, `leg` and `rebar` shares in float32 made it float32."""
    wanted = of_loss or dtype

    def f(codes):
        return codes.flatten(1).square().sum(1).to(wanted)

    for text, kind in CASES:
        estimator, logits = estimators.parse(text), logits_of(kind, dtype)
        options = {"binary": kind == "binary", "top_k": 2 if kind == "k-hot" else None, "generator": seeded(5)}
        options["baseline"] = baseline_of(estimator)
        assert surrogate_loss(estimator, logits.detach(), f, **options).dtype == wanted, text
        loss = surrogate_loss(estimator, logits, f, **options)
        assert loss.dtype == wanted, text
        loss.sum().backward()
        assert logits.grad.dtype == dtype


def test_an_estimate_above_the_largest_half_number_leaves_the_loss_as_it_is():
    """As a float16 it is infinite, and 0 times it is NaN, which was the loss."""
    logits = torch.zeros(5, 3, 4, dtype=torch.float16, requires_grad=True)
    loss = surrogate_loss("reinforce:tf=0.05", logits, lambda z: z.flatten(1).sum(1) * 1e4, generator=seeded(5))
    assert torch.equal(loss.detach(), torch.full((5,), 3e4, dtype=torch.float16))
    (loss.float() * 2.0**-10).sum().backward()  # the estimate, loss times (code - p)/tf, is 4.5e5, scaled 439
    assert bool(logits.grad.isfinite().all())
    codes = logits.grad > 0
    assert torch.equal(codes.sum(-1), torch.ones(5, 3, dtype=torch.long))
    torch.testing.assert_close(logits.grad[codes], torch.full((15,), 3e4 * 0.75 / 0.05 / 2**10, dtype=torch.float16))


@pytest.mark.parametrize(("text", "kind"), [(t, k) for t, k in CASES if "running-mean" not in t])
def test_nothing_is_read_back_from_the_device(text, kind):
    """On the meta device, where tensors have no values to read."""
    logits = torch.empty(SHAPES[kind], device="meta", requires_grad=True)
    decoder = Decoder(kind, torch.float32).to("meta")
    decoder.x = decoder.x.to("meta")
    surrogate_loss(text, logits, decoder, binary=kind == "binary").sum().backward()
    assert logits.grad.shape == logits.shape
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(logits.isfinite().all())


# --- what is refused ---


def fixed(value):
    return lambda z: value


REFUSED = {
    "unknown name": ({"estimator": "rlo"}, "did you mean rloo"),
    "no name": ({"estimator": 3}, "estimator: unknown name 3"),
    "class": ({"estimator": estimators.find("rloo")}, "expected a name or an instance, RLOO(), got the class RLOO"),
    "binary only": (
        {"estimator": "disarm"},
        "expected one for categorical latents, got disarm for binary latents; give binary=True",
    ),
    "logits of units": (
        {"logits": torch.zeros(5, 4)},
        "logits: expected shape (example, latent, category) for categorical latents, or, with",
    ),
    "units with categories": (
        {"binary": True},
        "logits: expected shape (example, latent) for binary latents, got (5, 3, 4)",
    ),
    "whole numbers": (
        {"logits": torch.zeros(5, 3, 4, dtype=torch.long)},
        "logits: expected a floating-point tensor, got torch.int64",
    ),
    "no tensor": ({"logits": [[0.0]]}, "logits: expected a floating-point tensor, got list"),
    "no baseline": (
        {"estimator": "reinforce:baseline=running-mean"},
        "for reinforce(baseline=running-mean), made once before the loop, got None",
    ),
    "cure": (
        {"estimator": "reinforce:baseline=running-mean"},
        "baseline: expected a gradlab.estimators.RunningMean(0.99)",
    ),
    "other decay": (
        {"estimator": "reinforce:baseline=running-mean", "baseline": RunningMean(0.5)},
        "got a RunningMean(0.5)",
    ),
    "baseline of no use": (
        {"baseline": RunningMean(0.5)},
        "baseline: expected none, because rloo subtracts none, got ",
    ),
    "loss of the batch": (
        {"f": lambda z: z.sum()},
        "per row of codes (10, 3, 4), shape (10,) on cpu, got torch.float64 of shape ()",
    ),
    "loss per latent": ({"f": lambda z: z.sum(-1)}, "got torch.float64 of shape (10, 3) on cpu"),
    "loss of the examples": (
        {"f": lambda z: z.sum((1, 2))[:5]},
        "(rows are evaluation by evaluation: repeat x with x.repeat(",
    ),
    "loss in whole numbers": ({"f": lambda z: z.argmax(-1).sum(1)}, "got torch.int64 of shape (10,)"),
    "no loss": ({"f": fixed(None)}, "f: expected a tensor of one loss per row, shape (10,), got a NoneType"),
    "detached": ({"estimator": "ste", "f": lambda z: z.detach().sum((1, 2))}, "since ste uses df/dz, got others"),
    "of parameters only": (
        {"estimator": "st-gs", "f": lambda z: torch.ones(5, dtype=torch.float64, requires_grad=True) * 1},
        "f: expected losses that torch can differentiate with respect to the codes",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_in_words(change, message):
    arguments = {"estimator": "rloo", "logits": logits_of("categorical"), "f": Decoder("categorical")} | change
    with pytest.raises(ValueError, match=re.escape(message)):
        surrogate_loss(**arguments)


def test_an_estimator_of_categories_only_says_so():
    class Categories(estimators.find("ste")):
        kinds = ("categorical",)

    with pytest.raises(
        ValueError, match=r"expected one for binary latents, got ste for categorical latents; give binary=False"
    ):
        surrogate_loss(Categories(), logits_of("binary"), Decoder("binary"), binary=True)


def test_a_large_space_is_refused():
    with pytest.raises(errors.SpaceTooLarge, match="4\\^8"):
        surrogate_loss("exact", torch.zeros(2, 8, 4), Decoder("categorical"))
