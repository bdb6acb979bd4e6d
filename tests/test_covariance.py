"""Covariances of estimates without sampling, against loops over codes and against draws."""

import itertools

import pytest
import torch

from gradlab import estimators, latents, moments, sampling
from gradlab.moments.noise import Conditional, Relaxed, integrate

from . import oracles, problems

get = estimators.get


def covariances(problem, *some):
    found = moments.exact_moments(problems.setup_of(problem.model, problem.x), some, covariance=True)
    for one in found:
        diagonal = one.covariance.diagonal(dim1=1, dim2=2).reshape(one.variance.shape)
        torch.testing.assert_close(diagonal, one.variance, rtol=1e-8, atol=1e-12 * float(one.variance.max()))
    return [one.covariance for one in found]


def estimates_at_codes(problem, estimator, count):
    """Probability (draw, example) and estimate (draw, example, D) of every `count` codes drawn, by brute force."""
    model, x = problem.model, problem.x
    logits, kind = problems.setup_of(model, x).logits, model.kind
    pairs = kind.two_category(logits)
    p = torch.softmax(pairs / estimator.tf, -1)
    single = list(itertools.product(*map(range, model.category_counts)))
    rows = []
    for codes in itertools.product(single, repeat=count):
        indices = torch.tensor(codes)  # (evaluation, latent)
        if model.binary:
            z = (indices == 0).to(x.dtype)
        else:
            z = torch.nn.functional.one_hot(indices, model.categories).to(x.dtype)
        z = z[:, None].expand(count, len(x), *z.shape[1:])
        f, v = (torch.stack(of) for of in zip(*(model.losses_and_derivatives(one, x) for one in z), strict=True))
        noise = logits.new_zeros(estimator.noise_arrays, *logits.shape)
        e = estimator.estimate(kind, logits, noise, z, f, v)
        chosen = [p[:, torch.arange(model.latents), one] for one in indices]
        rows.append((torch.stack(chosen).flatten(2).prod(-1).prod(0), e.flatten(1)))
    return (torch.stack(of) for of in zip(*rows, strict=True))


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "binary6-bernoulli-mlp"])
def test_functions_of_the_code_against_all_codes(name):
    p = problems.make(name)
    some = [get("ste", tf=1.6, tb=0.7), get("reinmax", tf=0.8), get("reinforce", tf=1.1)]
    for estimator, found in zip(some, covariances(p, *some), strict=True):
        weight, e = estimates_at_codes(p, estimator, 1)
        mean = torch.einsum("cb,cbi->bi", weight, e)
        wanted = torch.einsum("cb,cbi,cbj->bij", weight, e - mean, e - mean)
        assert oracles.relative_error(found, wanted) < 1e-9


@pytest.mark.parametrize("name", ["3x2-bernoulli-mlp", "binary3-bernoulli-mlp"])
def test_leg_against_all_codes(name):
    p = problems.make(name)
    leg, kind = get("leg", tf=1.2), p.model.kind
    (found,) = covariances(p, leg, get("ste"))[:1]
    with torch.no_grad():
        logits = p.model.logits(p.x)
    indices = latents.configurations(p.model.latents, p.model.categories, 0, p.model.configurations)
    weight = torch.softmax(kind.two_category(logits) / 1.2, -1)
    weight = torch.stack([weight[:, torch.arange(p.model.latents), row].prod(-1) for row in indices])
    e = []
    for code in latents.codes_at(indices, p.model.categories, p.model.binary, torch.float64):
        points = leg.points(kind, logits, 1e6 * (code - 0.5).expand(1, *logits.shape))
        loss = torch.stack([p.model.losses(point, p.x).detach() for point in points])
        e.append(leg.estimate(kind, logits, points, points, loss, None).flatten(1))
    mean = torch.einsum("cb,cbi->bi", weight, torch.stack(e))
    off = torch.stack(e) - mean
    assert oracles.relative_error(found, torch.einsum("cb,cbi,cbj->bij", weight, off, off)) < 1e-9


@pytest.mark.parametrize(("binary", "n"), [(False, 2), (True, 2), (True, 3)])
def test_leave_one_out_against_all_sets_of_codes(binary, n):
    small = problems.make("binary3-bernoulli-mlp" if binary else "3x2-bernoulli-mlp")
    estimator = get("rloo", tf=1.2, n=n)
    (found,) = covariances(small, estimator, get("ste"))[:1]
    weight, e = estimates_at_codes(small, estimator, n)
    mean = torch.einsum("cb,cbi->bi", weight, e)
    wanted = torch.einsum("cb,cbi,cbj->bij", weight, e - mean, e - mean)
    assert oracles.relative_error(found, wanted) < 1e-9


class Kept:
    """All estimates, (draw, example, D)."""

    def __init__(self):
        self.parts = []

    def add(self, batch, estimates):
        self.parts.append(estimates.flatten(2))


DEEP = pytest.param("4x3-bernoulli-mlp", marks=pytest.mark.deep)  # more categories, by the same integrals


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", DEEP, "binary6-bernoulli-mlp"])
def test_the_gumbel_family_against_draws(name):
    """Every entry within 6 standard errors of 20,000 draws: failure rate below 1e-5 over some 5,000 entries."""
    p = problems.make(name)
    setup = problems.setup_of(p.model, p.x)
    some = [
        get("decoupled-st-gs", tf=1.6, tb=0.8),
        get("st-gs", tf=1.0, tb=0.7, convention="jang"),
        get("gumbel-rao", tf=1.0, tb=0.7, k=3),
    ]
    wanted = covariances(p, *some)
    noise = sampling.Noise(setup.kind, setup.logits, max(e.noise_arrays for e in some), 20_000, 1, 2**20)
    for (position,), kept in sampling.each_accumulated(setup, some, noise, Kept):
        draws = torch.cat(kept.parts)
        off = draws - draws.mean(0)
        found = torch.einsum("neb,nec->ebc", off, off) / (len(off) - 1)
        fourth = torch.einsum("neb,nec->ebc", off.square(), off.square()) / len(off)
        error = ((fourth - found.square()).clamp(min=0) / len(off)).sqrt()
        z = (found - wanted[position]).abs() / error.clamp(min=1e-9 * float(error.max()))
        assert float(z.max()) < 6, some[position].label
        blind = wanted[position] * torch.eye(wanted[position].shape[-1])  # it can fail
        assert float(((found - blind).abs() / error.clamp(min=1e-9 * float(error.max()))).max()) > 20


def test_what_has_no_noise_has_no_covariance():
    (found,) = covariances(problems.make("3x5-bernoulli-mlp"), get("ste-argmax"), get("ste"))[:1]
    assert float(found.abs().max()) == 0


def test_rows_of_a_jacobian_of_softmax_sum_to_zero():
    """So do those of the covariance within a latent, whatever the number of categories."""
    generator = torch.Generator().manual_seed(0)
    logits = 1.5 * torch.randn(2, 3, 5, dtype=torch.float64, generator=generator)
    u = torch.randn(2, 3, 5, 5, 3, dtype=torch.float64, generator=generator)
    u = u - torch.stack([u[:, :, k, k] for k in range(5)], 2)[..., None, :]
    given = Conditional(torch.log_softmax(logits, -1), u.mean(-1), (u @ u.mT) / 3)
    found = integrate(Relaxed(1.0, 0.8, 1.0), given, logits, 1e-4, covariance=True)
    scale = float(found.covariance.abs().max())
    assert float(found.covariance.sum(-1).abs().max()) < 1e-3 * scale
    torch.testing.assert_close(found.covariance, found.covariance.mT)
    torch.testing.assert_close(found.covariance.diagonal(dim1=-2, dim2=-1), found.variance, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("some", "passes"),
    [
        ([get("reinmax", tf=1.6), get("rloo", tf=0.7), get("ste-argmax")], 1),
        ([get("reinmax", tf=1.6), get("st-gs"), get("st-gs", tf=0.5)], 2),
    ],
)
def test_only_noise_integrals_take_a_second_pass_over_the_configurations(some, passes):
    problem = problems.make("3x5-own-mlp")  # an own likelihood, decoded pair by pair
    rows, done = [], []
    problem.model.decoder.register_forward_hook(lambda module, given, output: rows.append(len(output)))
    setup = problems.setup_of(problem.model, problem.x)
    rows.clear()
    moments.exact_moments(setup, some)
    alone = sum(rows)
    rows.clear()
    moments.exact_moments(setup, some, covariance=True, advance=done.append)
    pairs = len(problem.x) * problem.model.configurations
    assert alone // pairs == 1
    assert sum(rows) // pairs == passes
    assert (
        sum(done)
        == pytest.approx(moments.steps(some, covariance=True))
        == pytest.approx(passes + len({e for e in some if e.name == "st-gs"}))
    )
