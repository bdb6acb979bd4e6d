"""Newer estimators: against loops, and their claims by enumeration."""

import itertools

import pytest
import torch

from gradlab import estimators
from gradlab.estimators.conditional import noise_given_code
from gradlab.estimators.conformance import PROBLEMS
from gradlab.latents import BINARY, CATEGORICAL

CATEGORICALS = [PROBLEMS["categorical-3x3"], PROBLEMS["categorical-4x2"]]
EVERY = [*CATEGORICALS, PROBLEMS["binary-4"], PROBLEMS["binary-3"]]
TF, TB, DRAWS = 1.4, 0.8, 5


def by_name(problem):
    return problem.name


def drawn(text, problem, draws=DRAWS, seed=3):
    """Noise, points, loss, derivative and estimate of the library, a draw per entry."""
    estimator = estimators.parse(text).at(TF, TB)
    generator = torch.Generator().manual_seed(seed)
    shape = (estimator.noise_arrays, draws, *problem.logits.shape)
    noise = problem.kind.noise(shape, dtype=torch.float64, generator=generator)
    points = estimator.points(problem.kind, problem.logits, noise)
    loss, v = problem.loss_and_derivative(points)
    return noise, points, loss, v, estimator.estimate(problem.kind, problem.logits, noise, points, loss, v)


def configurations(problem):
    """Every code of one example, (code, latent[, category])."""
    latents = problem.logits.shape[1]
    if problem.kind is BINARY:
        return torch.tensor(list(itertools.product([0.0, 1.0], repeat=latents)), dtype=torch.float64)
    eye = torch.eye(problem.logits.shape[2], dtype=torch.float64)
    return torch.stack([torch.stack(rows) for rows in itertools.product(eye, repeat=latents)])


def probability(problem, code, tf=TF):
    """p(code) of each example."""
    if problem.kind is BINARY:
        p = torch.sigmoid(problem.logits / tf)
        return torch.where(code > 0.5, p, 1 - p).prod(-1)
    return (torch.softmax(problem.logits / tf, -1) * code).sum(-1).prod(-1)


def enumerated(estimator, problem, tf=TF):
    """Mean and variance of an estimate that is a function of the code: a sum over codes, one at a time."""
    first = second = 0.0
    for code in configurations(problem):
        noise = 1e6 * (code - 0.5).expand(estimator.noise_arrays, 1, *problem.logits.shape)  # samples the code
        points = estimator.points(problem.kind, problem.logits, noise)
        assert torch.equal(points[0, 0], code.expand_as(points[0, 0]))
        loss, v = problem.loss_and_derivative(points)
        estimate = estimator.estimate(problem.kind, problem.logits, noise, points, loss, v)[0]
        p = probability(problem, code, tf).reshape(-1, *[1] * (estimate.ndim - 1))
        first, second = first + p * estimate, second + p * estimate**2
    return first, second - first**2


def close(found, wanted, rtol=1e-10):
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=rtol * float(wanted.abs().max()))


# --- local expectation ---


@pytest.mark.parametrize("problem", EVERY, ids=by_name)
def test_leg_is_the_loss_at_every_category_of_every_latent_by_a_loop(problem):
    _, points, _, _, found = drawn("leg", problem)
    pairs = problem.kind.two_category(problem.logits)
    p = torch.softmax(pairs / TF, -1)
    wanted = torch.zeros_like(found)
    for draw, latent in itertools.product(range(DRAWS), range(pairs.shape[1])):
        f = torch.zeros(len(pairs), pairs.shape[2], dtype=torch.float64)
        for category in range(pairs.shape[2]):
            code = points[0, draw].clone()
            code[:, latent] = float(category == 0) if problem.kind is BINARY else torch.eye(pairs.shape[2])[category]
            f[:, category] = problem.loss(code)
        of_latent = p[:, latent] * (f - (p[:, latent] * f).sum(-1, keepdim=True)) / TF
        wanted[draw][:, latent] = of_latent[:, 0] if problem.kind is BINARY else of_latent
    close(found, wanted)


@pytest.mark.parametrize("problem", EVERY, ids=by_name)
@pytest.mark.parametrize("tf", [1.0, TF])
def test_leg_has_the_exact_gradient_as_its_mean(problem, tf):
    mean, variance = enumerated(estimators.get("leg", tf=tf), problem, tf)
    close(mean, problem.exact_gradient(tf))
    assert float(variance.sum()) > 0.01 * float(mean.square().sum())  # the other latents are sampled


@pytest.mark.parametrize("problem", EVERY, ids=by_name)
def test_leg_costs_one_evaluation_and_one_per_other_category(problem):
    latents, categories = problem.kind.two_category(problem.logits).shape[1:]
    leg = estimators.get("leg")
    assert leg.evaluations_at(problem.kind, problem.logits) == latents * (categories - 1) + 1
    assert leg.noise_arrays == 1
    assert leg.unbiased


def test_leg_evaluates_no_impossible_category():
    """Latents of 2 and 3 categories, the first padded: the loss of its third category would be NaN."""
    logits = torch.tensor([[[0.3, -1.0, -1e8], [0.5, 2.0, -0.2]]], dtype=torch.float64)
    f = torch.tensor([[1.0, -2.0, torch.nan], [0.5, 3.0, -1.0]], dtype=torch.float64)
    leg = estimators.get("leg", tf=TF)
    generator = torch.Generator().manual_seed(0)
    noise = CATEGORICAL.noise((1, 20, *logits.shape), dtype=torch.float64, generator=generator)
    points = leg.points(CATEGORICAL, logits, noise)
    loss = torch.where(points > 0, f, 0.0).sum((-2, -1))
    found = leg.estimate(CATEGORICAL, logits, noise, points, loss, None)
    p, known = torch.softmax(logits / TF, -1), f.nan_to_num()
    close(found, (p * (known - (p * known).sum(-1, keepdim=True)) / TF).expand_as(found))  # additive, so exact


def test_the_evaluations_of_leg_are_counted_without_taking_their_memory():
    """A point of 1,024 latents x 32 categories takes 256 KiB, all of them 8 GB."""
    assert estimators.get("leg").evaluations_at(CATEGORICAL, torch.zeros(1, 1024, 32)) == 1024 * 31 + 1


def test_leg_of_one_latent_is_exact_in_every_draw():
    logits = torch.tensor([[[0.3, -1.0, 0.5, 2.0]]], dtype=torch.float64)
    f = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    leg = estimators.get("leg", tf=TF)
    noise = CATEGORICAL.noise((1, 20, 1, 1, 4), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = leg.points(CATEGORICAL, logits, noise)
    p = torch.softmax(logits / TF, -1)
    found = leg.estimate(CATEGORICAL, logits, noise, points, (points * f).sum((-2, -1)), None)
    close(found, (p * (f - (p * f).sum()) / TF).expand(20, 1, 1, 4))


# --- double control variates ---


@pytest.mark.parametrize("problem", EVERY, ids=by_name)
@pytest.mark.parametrize("text", ["double-cv", "double-cv:n=4,alpha=0.7"])
def test_double_cv_is_its_formula_by_a_loop(text, problem):
    _, points, loss, v, found = drawn(text, problem)
    n, alpha = len(points), 0.7 if "alpha" in text else 1.0
    p = problem.kind.soft(problem.logits / TF)
    wanted = torch.zeros_like(found)
    for at in itertools.product(range(DRAWS), range(len(p))):
        codes, slopes, q = points[:, *at], v[:, *at], p[at[1]]
        left = torch.zeros(n, dtype=torch.float64)
        for i in range(n):
            others = sum(slopes[j] for j in range(n) if j != i) / (n - 1)
            left[i] = loss[i][at] - alpha * (others * (codes[i] - q)).sum()
        for i in range(n):
            wanted[at] += (left[i] - left.sum() / n) * (codes[i] - q) / (n - 1)
        mean = slopes.mean(0)
        pulled = q * (1 - q) * mean if problem.kind is BINARY else q * (mean - (q * mean).sum(-1, keepdim=True))
        wanted[at] += alpha * pulled
    close(found, wanted / TF)


@pytest.mark.parametrize("name", ["binary-3", "categorical-4x2"])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_double_cv_is_exact_in_the_mean_over_all_pairs_of_codes(name, alpha):
    problem = PROBLEMS[name]
    estimator = estimators.get("double-cv", tf=TF, alpha=alpha)
    found = 0.0
    for pair in itertools.product(configurations(problem), repeat=2):
        noise = 1e6 * (torch.stack(pair)[:, None, None] - 0.5).expand(2, 1, *problem.logits.shape)  # samples the pair
        points = estimator.points(problem.kind, problem.logits, noise)
        loss, v = problem.loss_and_derivative(points)
        estimate = estimator.estimate(problem.kind, problem.logits, noise, points, loss, v)[0]
        p = probability(problem, pair[0]) * probability(problem, pair[1])
        found = found + p.reshape(-1, *[1] * (estimate.ndim - 1)) * estimate
    close(found, enumerated(estimators.get("leg", tf=TF), problem)[0])


@pytest.mark.parametrize("problem", EVERY, ids=by_name)
def test_double_cv_without_alpha_is_rloo(problem):
    noise, points, loss, _, found = drawn("double-cv:n=3,alpha=0", problem)
    rloo = estimators.get("rloo", tf=TF, n=3)
    close(found, rloo.estimate(problem.kind, problem.logits, noise, points, loss, None))


@pytest.mark.parametrize("scale", [1.0, 40.0, 300.0])
@pytest.mark.parametrize("problem", EVERY, ids=by_name)
def test_double_cv_of_a_linear_loss_is_exact_in_every_draw_also_at_saturated_logits(problem, scale):
    logits, kind, estimator = scale * problem.logits, problem.kind, estimators.get("double-cv", tf=TF, n=3)
    slope = torch.linspace(-1.0, 2.0, logits[0].numel(), dtype=torch.float64).reshape(logits.shape[1:])
    generator = torch.Generator().manual_seed(0)
    noise = kind.noise((3, 50, *logits.shape), dtype=torch.float64, generator=generator)
    points = estimator.points(kind, logits, noise)
    loss = (points * slope).flatten(-1 - kind.event_dims).sum(-1)
    found = estimator.estimate(kind, logits, noise, points, loss, slope.expand_as(points))
    wanted = kind.pullback_at(logits / TF, slope.expand_as(logits)) / TF
    assert found.isfinite().all()
    torch.testing.assert_close(found, wanted.expand_as(found), rtol=1e-9, atol=1e-13)
    assert scale > 1 or float(wanted.abs().max()) > 0.01


# --- minimum variance ---


def mve_by_loops(p, code, v, tau):
    """One latent, entry by entry as the formula has it."""
    n = len(p)
    jacobian = torch.diag(p) - torch.outer(p, p)
    a = torch.zeros(n, n, dtype=torch.float64)
    for i, j in itertools.product(range(n), repeat=2):
        if i != j:
            a[i, j] = -tau * p[i] * p[j] / (1 + tau * (p[i] + p[j]))
        else:
            total = sum(p[m] / (1 + tau * (p[i] + p[m])) for m in range(n))
            a[i, i] = (1 + tau * p[i]) * total - tau * p[i] ** 2 / (1 + 2 * tau * p[i])
    shared = torch.linalg.inv(a) @ torch.diag((1 + tau * p) / (1 + 2 * tau * p)) @ jacobian
    d = int(code.argmax())
    rows = [
        ((1 + tau * p[i]) * shared[i] - tau * p[i] * shared[d] + tau * (i == d) * jacobian[d])
        / (1 + tau * (p[i] + p[d]))
        for i in range(n)
    ]
    return torch.stack(rows).T @ v


@pytest.mark.parametrize("problem", CATEGORICALS, ids=by_name)
@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0, 50.0])
def test_mve_is_its_formula_entry_by_entry(problem, tau):
    _, points, _, v, found = drawn(f"mve:tau={tau}", problem)
    p = torch.softmax(problem.logits / TF, -1)
    wanted = torch.zeros_like(found)
    for at in itertools.product(*map(range, found.shape[:-1])):
        wanted[at] = mve_by_loops(p[at[1:]], points[0][at], v[0][at], tau) / TF
    close(found, wanted)


@pytest.mark.parametrize("problem", CATEGORICALS, ids=by_name)
def test_mve_without_tau_is_ste(problem):
    estimator = estimators.get("ste", tf=TF, tb=TF)
    noise, points, loss, v, found = drawn("mve:tau=0", problem)
    close(found, estimator.estimate(problem.kind, problem.logits, noise, points, loss, v))


def polynomial(degree):
    """A loss of one latent with 4 categories, its derivative, and its exact gradient at p = softmax(l/TF)."""
    a = torch.sin(1.0 + torch.arange(16, dtype=torch.float64) ** 1.5).reshape(4, 4) * (degree > 1)
    a, b = a + a.T, torch.tensor([0.3, -1.2, 0.8, 2.0], dtype=torch.float64)
    logits = torch.tensor([0.5, -0.4, 1.1, 0.0], dtype=torch.float64)
    p = torch.softmax(logits / TF, -1)
    f = torch.diag(a) / 2 + b
    return logits, p, lambda z: z @ a + b, p * (f - p @ f) / TF


def relative_bias_of_mve(degree, tau):
    logits, p, slope, exact = polynomial(degree)
    mve, mean = estimators.get("mve", tf=TF, tau=tau), 0.0
    for k, code in enumerate(torch.eye(4, dtype=torch.float64)):
        points, v = code.reshape(1, 1, 1, 4), slope(code).reshape(1, 1, 1, 4)
        estimate = mve.estimate(CATEGORICAL, logits[None, None], points, points, None, v)
        mean = mean + p[k] * estimate[0, 0]
    return float((mean - exact).norm() / exact.norm())


def test_mve_is_exact_for_linear_losses_and_for_quadratic_ones_as_tau_grows():
    assert max(relative_bias_of_mve(1, tau) for tau in (0.0, 0.5, 1.0, 1e6)) < 1e-12
    biases = [relative_bias_of_mve(2, tau) for tau in (0.0, 0.5, 1.0, 10.0, 1e3, 1e6)]
    assert biases == sorted(biases, reverse=True)
    assert biases[0] > 0.05
    assert biases[-1] < 1e-4


@pytest.mark.parametrize("scale", [5.0, 40.0, 300.0])
def test_mve_keeps_its_precision_at_saturated_logits(scale):
    logits = scale * torch.tensor([[[0.2, 1.0, -0.7]]], dtype=torch.float64)
    v = torch.tensor([[[0.4, -1.0, 2.0]]], dtype=torch.float64)
    mve = estimators.get("mve", tf=1.0, tau=1.0)
    for code in torch.eye(3, dtype=torch.float64).reshape(3, 1, 1, 1, 3):
        wide = mve.estimate(CATEGORICAL, logits, code, code, None, v[None])[0]
        narrow = mve.estimate(CATEGORICAL, logits.float(), code, code.float(), None, v[None].float())[0]
        assert wide.isfinite().all()
        shown = wide.abs() > 1e-36  # the range of float32
        torch.testing.assert_close(narrow.double()[shown], wide[shown], rtol=2e-4, atol=0)


# --- relaxed midpoints ---


def of_softmax(a, v, tb):
    q = torch.softmax(a / tb, -1)
    return q * (v - (q * v).sum(-1, keepdim=True)) / tb


def midpoint(problem, code):
    return torch.log((code + torch.softmax(problem.logits / TF, -1)) / 2)


@pytest.mark.parametrize("problem", CATEGORICALS, ids=by_name)
@pytest.mark.parametrize("text", ["reinmax-rao:k=3", "reinmax-cv:k=3,eta=0.7"])
def test_relaxed_midpoints_average_over_noise_that_samples_the_code(problem, text):
    noise, points, _, v, found = drawn(text, problem)
    p, code, v = torch.softmax(problem.logits / TF, -1), points[0], v[0]
    theta = midpoint(problem, code)
    averaged = 0.0
    for array in noise[1:4]:
        given = noise_given_code(CATEGORICAL, theta, code, array)
        assert torch.equal(CATEGORICAL.hard(theta + given), code)
        averaged = averaged + of_softmax(theta + given, v, TB) / 3
    plain = p * (v - (p * v).sum(-1, keepdim=True))
    pi = (code + p) / 2
    at_midpoint = pi * (v - (pi * v).sum(-1, keepdim=True))
    if text.startswith("reinmax-rao"):
        close(found, (2 * averaged - plain / 2) / TF)
    else:
        at_noise = of_softmax(theta + noise[0], v, TB)
        close(found, (2 * at_midpoint - plain / 2 - 0.7 * (at_noise - averaged)) / TF)


@pytest.mark.parametrize("problem", CATEGORICALS, ids=by_name)
def test_reinmax_cv_without_eta_is_reinmax(problem):
    noise, points, loss, v, found = drawn("reinmax-cv:eta=0", problem)
    reinmax = estimators.get("reinmax", tf=TF, tb=TF)
    close(found, reinmax.estimate(problem.kind, problem.logits, noise[:1], points, loss, v))


def test_reinmax_rao_draws_its_noise_by_the_law_that_rejection_gives():
    """Mean pull-back against Gumbel noise kept where theta + G has its largest entry at D; |z| < 4.5 fails 2e-5."""
    logits = torch.tensor([0.5, -0.4, 1.1], dtype=torch.float64)
    code, v = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), torch.tensor([0.4, -1.0, 2.0], dtype=torch.float64)
    p = torch.softmax(logits / TF, -1)
    theta = torch.log((code + p) / 2)
    draws = torch.Generator().manual_seed(1)
    plain = CATEGORICAL.noise((40_000, 3), dtype=torch.float64, generator=draws)
    kept = of_softmax(theta + plain[(theta + plain).argmax(-1) == 0], v, TB)
    rao = estimators.get("reinmax-rao", tf=TF, tb=TB, k=1)
    noise = CATEGORICAL.noise((2, 40_000, 1, 1, 3), dtype=torch.float64, generator=draws)
    shape = (1, 40_000, 1, 1, 3)
    found = rao.estimate(CATEGORICAL, logits[None, None], noise, code.expand(shape), None, v.expand(shape))[:, 0, 0]
    found = (found * TF + (p * (v - p @ v)) / 2) / 2
    spread = (found.var(0) / len(found) + kept.var(0) / len(kept)).sqrt()
    assert float(((found.mean(0) - kept.mean(0)) / spread).abs().max()) < 4.5
    wrong = of_softmax(theta + plain, v, TB)  # without the condition
    assert float(((wrong.mean(0) - kept.mean(0)) / spread).abs().max()) > 20


def test_the_correction_of_reinmax_cv_has_no_mean_of_zero():
    """A finding: reinmax is exact for a quadratic loss, so all bias here is the correction's."""
    logits, _, slope, exact = polynomial(2)
    noise = CATEGORICAL.noise((5, 20_000, 1, 1, 4), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    code = CATEGORICAL.hard(logits / TF + noise[0])
    found = {}
    for eta in (0.0, 1.0):
        cv = estimators.get("reinmax-cv", tf=TF, tb=1.0, k=4, eta=eta)
        found[eta] = cv.estimate(CATEGORICAL, logits[None, None], noise, code[None], None, slope(code)[None])[:, 0, 0]

    def z(estimates):
        return float(((estimates.mean(0) - exact) / (estimates.var(0) / len(estimates)).sqrt()).abs().max())

    assert z(found[0.0]) < 6
    assert z(found[1.0]) > 20


# --- identity ---


@pytest.mark.parametrize("problem", EVERY, ids=by_name)
def test_ste_identity_is_the_derivative_at_the_code(problem):
    _, _, _, v, found = drawn("ste-identity", problem)
    assert torch.equal(found, v[0])


def test_ste_identity_stops_at_units_beyond_the_clip():
    problem = PROBLEMS["binary-4"]
    middle = float(problem.logits.abs().median())
    _, _, _, v, found = drawn(f"ste-identity:clip={middle}", problem)
    kept = problem.logits.abs() <= middle
    assert 0 < int(kept.sum()) < kept.numel()
    assert torch.equal(found, v[0] * kept)


def test_a_clip_is_for_binary_units():
    assert estimators.get("ste-identity").kinds == ("categorical", "binary", "k-hot")
    assert estimators.get("ste-identity", clip=1).kinds == ("binary",)
    with pytest.raises(ValueError, match="for categorical latents"):
        estimators.surrogate_loss("ste-identity:clip=1", torch.zeros(1, 2, 3), lambda z: z.sum((1, 2)))
