"""Each estimator against a slow, obvious version, and its closed-form claims by enumeration; nothing statistical
but the law of the noise and points that an estimator makes for itself."""

import itertools
import math

import pytest
import torch
from scipy import stats

from gradlab import estimators
from gradlab.estimators import RunningMean
from gradlab.estimators.antithetic import arms_factor, log_one_minus_dirichlet
from gradlab.estimators.conditional import noise_given_code, pullback_given_code, softplus
from gradlab.estimators.conformance import PROBLEMS
from gradlab.latents import BINARY, CATEGORICAL

CATEGORICALS = [PROBLEMS["categorical-3x3"], PROBLEMS["categorical-4x2"]]
BINARIES = [PROBLEMS["binary-4"], PROBLEMS["binary-3"]]
TF, TB = 1.4, 0.8


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def noise_for(estimator, problem, draws=6, seed=3):
    shape = (estimator.noise_arrays, draws, *problem.logits.shape)
    return problem.kind.noise(shape, dtype=torch.float64, generator=seeded(seed))


def drawn(text, problem, draws=6, tf=TF, tb=TB):
    """Noise, points, loss, derivative and estimate of the library, a draw per entry."""
    estimator = estimators.parse(text).at(tf, tb)
    noise = noise_for(estimator, problem, draws)
    points = estimator.points(problem.kind, problem.logits, noise)
    loss, v = problem.loss_and_derivative(points)
    return noise, points, loss, v, estimator.estimate(problem.kind, problem.logits, noise, points, loss, v)


def soft(problem, a):
    """Probabilities; of a binary unit, that it is on."""
    return torch.softmax(problem.kind.two_category(a), -1)[..., 0] if problem.kind is BINARY else torch.softmax(a, -1)


def through(problem, layer, noise, slope_at=None):
    """Autograd of f(z) where z = layer(l, noise of the draw), the slope taken at `slope_at` if given: one per draw."""
    found = []
    for draw in range(noise.shape[1]):
        leaf = problem.logits.clone().requires_grad_()
        z = layer(leaf, noise[:, draw], draw)
        if slope_at is not None:
            z = slope_at[draw] + z - z.detach()
        found.append(torch.autograd.grad(problem.loss(z).sum(), leaf)[0])
    return torch.stack(found)


def close(found, wanted, rtol=1e-10):
    scale = float(wanted.abs().max())
    assert scale > 1e-3
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=rtol * scale)


# --- straight-through, by autograd ---

STRAIGHT = {
    "ste": lambda problem: lambda l, g, d: soft(problem, l / TB),
    "ste-argmax": lambda problem: lambda l, g, d: soft(problem, l / TB),
    "st-gs": lambda problem: lambda l, g, d: soft(problem, l / TB + g[0]),
    "st-gs:convention=jang": lambda problem: lambda l, g, d: soft(problem, (l + g[0]) / TB),
    "decoupled-st-gs": lambda problem: lambda l, g, d: soft(problem, l / TB + g[0]),
}


@pytest.mark.parametrize("problem", [CATEGORICALS[0], BINARIES[0]], ids=lambda p: p.name)
@pytest.mark.parametrize("text", STRAIGHT)
def test_straight_through_is_the_slope_at_the_code_pulled_through_a_relaxed_one(text, problem):
    noise, points, _, _, found = drawn(text, problem)
    close(found, through(problem, STRAIGHT[text](problem), noise, slope_at=points[0]))


@pytest.mark.parametrize("problem", [CATEGORICALS[0], BINARIES[0]], ids=lambda p: p.name)
def test_gumbel_softmax_is_autograd_of_the_relaxed_loss(problem):
    noise, _, _, _, found = drawn("gumbel-softmax", problem)
    close(found, through(problem, lambda l, g, d: soft(problem, (l / TF + g[0]) / TB), noise))


def test_decoupled_at_equal_temperatures_is_st_gs():
    for problem in (CATEGORICALS[0], BINARIES[0]):
        a, b = (drawn(text, problem, tf=0.7, tb=0.7)[-1] for text in ("st-gs", "decoupled-st-gs"))
        assert torch.equal(a, b)


@pytest.mark.parametrize("problem", CATEGORICALS, ids=lambda p: p.name)
def test_reinmax_is_what_its_authors_write_with_autograd(problem):
    """2 softmax(l + const) - softmax(l)/2 with the constant that makes the first pi."""
    noise, points, _, _, found = drawn("reinmax", problem, tf=1.0)

    def layer(l, g, draw):
        pi = (points[0, draw] + torch.softmax(l / TB, -1).detach()) / 2
        return 2 * torch.softmax(l + (pi.log() - l).detach(), -1) - torch.softmax(l, -1) / 2

    close(found, through(problem, layer, noise, slope_at=points[0]))


def jacobian(q):
    return torch.diag(q) - torch.outer(q, q)


@pytest.mark.parametrize("text", ["reinmax", "zgr"])
@pytest.mark.parametrize("problem", CATEGORICALS, ids=lambda p: p.name)
def test_second_order_estimators_with_matrices_written_out(text, problem):
    _, points, _, v, found = drawn(text, problem)
    wanted = torch.zeros_like(found)
    for at in itertools.product(*(range(n) for n in found.shape[:-1])):
        _, example, latent = at
        p, p_back = (torch.softmax(problem.logits[example, latent] / t, -1) for t in (TF, TB))
        d, slope = points[0][at], v[0][at]
        if text == "reinmax":
            matrix = 2 * jacobian((d + p_back) / 2) - jacobian(p) / 2
        else:
            matrix = (jacobian(p) + torch.outer(d - p, d - p)) / 2
        wanted[at] = matrix @ slope / TF
    close(found, wanted)


@pytest.mark.parametrize("mode", ["fixed", "probability"])
@pytest.mark.parametrize("problem", [*CATEGORICALS, *BINARIES], ids=lambda p: p.name)
def test_gst_with_its_two_moves_written_out(mode, problem):
    _, points, _, v, found = drawn(f"gst:gap=0.7,mode={mode}", problem, draws=20)
    pair = problem.kind.two_category(problem.logits)
    wanted = torch.zeros_like(found)
    binary = problem.kind is BINARY
    for at in itertools.product(*(range(n) for n in points[0].shape[: None if binary else -1])):
        l = pair[at[1:]]
        d = torch.stack([points[0][at], 1 - points[0][at]]) if binary else points[0][at]
        slope = torch.stack([v[0][at], torch.zeros((), dtype=l.dtype)]) if binary else v[0][at]
        p_d = float((torch.softmax(l / TF, -1) * d).sum())
        gap = 0.7 if mode == "fixed" else -math.log(1 - p_d) / p_d
        m1 = (l.max() - (l * d).sum()) * d
        m2 = (l - l.max() + gap).clamp(min=0) * (1 - d)
        moved = l + m1 - m2
        assert float(moved[d > 0.5] - moved[d < 0.5].max()) >= gap - 1e-12
        by_pair = jacobian(torch.softmax(moved / TB, -1)) @ slope / TB
        wanted[at] = by_pair[0] if binary else by_pair
    close(found, wanted)


def test_the_probability_gap_is_that_of_gumbel_noise_in_the_mean():
    """Mean lead of the winner among perturbed logits over 400,000 draws, within 5 standard errors, per winner (failure
    rate 2e-6); at tf = 1, where one unit of l is one unit of a."""
    l = torch.tensor([0.5, -1.0, 1.2], dtype=torch.float64)
    perturbed = l + CATEGORICAL.noise((400_000, 3), dtype=torch.float64, generator=seeded(0))
    lead = perturbed.topk(2).values
    lead = lead[:, 0] - lead[:, 1]
    for winner, p in enumerate(torch.softmax(l, -1).tolist()):
        of_winner = lead[perturbed.argmax(-1) == winner]
        error = float(of_winner.std()) / len(of_winner) ** 0.5
        assert abs(float(of_winner.mean()) + math.log(1 - p) / p) < 5 * error
        assert abs(float(of_winner.mean()) - 1 - p) > 5 * error  # another gap would be found


# --- noise given the code ---


@pytest.mark.parametrize("kind", [CATEGORICAL, BINARY], ids=lambda k: k.name)
def test_noise_given_a_code_that_is_drawn_from_its_law_is_standard_noise(kind):
    """Kolmogorov-Smirnov per category at 100,000 numbers (failure rate 4e-4; fixed seed): with the code drawn from the
    law the noise is standard; always hard(a + noise) = code. At the law of another temperature it is not standard."""
    a = torch.tensor([[0.8, -0.7, 0.1]], dtype=torch.float64)
    draw = kind.noise((2, 100_000, *a.shape), dtype=torch.float64, generator=seeded(0))
    law = stats.gumbel_r if kind is CATEGORICAL else stats.logistic
    for temperature, standard in ((1.0, True), (0.6, False)):
        code = kind.hard(a / temperature + draw[0])
        found = noise_given_code(kind, a, code, draw[1])
        assert torch.equal(kind.hard(a + found), code)
        p_values = [stats.kstest(found[:, 0, j].numpy(), law.cdf).pvalue for j in range(3)]
        assert (min(p_values) > 1e-4) == standard


def test_noise_given_the_code_as_published():
    """(a + g)_k = log Z - log E_k, others -log(E_j exp(-a_j) + E_k/Z), with Z = sum exp(a)."""
    a = torch.tensor([0.8, -0.7, 0.1, 2.0], dtype=torch.float64)
    e = torch.empty(4, dtype=torch.float64).exponential_(generator=seeded(1))
    z = a.exp().sum()
    for k in range(4):
        code = torch.eye(4, dtype=torch.float64)[k]
        wanted = torch.stack(
            [z.log() - e[k].log() if j == k else -(e[j] / a[j].exp() + e[k] / z).log() for j in range(4)]
        )
        torch.testing.assert_close(a + noise_given_code(CATEGORICAL, a, code, -e.log()), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("a", [-40.0, -2.0, 0.0, 0.3, 40.0])
def test_logistic_noise_given_its_sign_by_inverse_probabilities(a):
    """u' = 1 - sigmoid(a) (1 - u) where the unit is on, sigmoid(-a) u where it is off: uniform above and below the
    threshold sigmoid(-a). (A published sampler has log p + log1p(p) for the log-odds log p - log1p(-p).)"""
    m = torch.linspace(-3, 3, 7, dtype=torch.float64)
    u, p = torch.sigmoid(m), 1 / (1 + math.exp(-a))
    for unit, v in ((1.0, 1 - p * (1 - u)), (0.0, (1 - p) * u)):
        found = noise_given_code(BINARY, torch.tensor(a).double(), torch.tensor(unit).double(), m)
        good = (v > 1e-10) & (v < 1 - 1e-10)  # where the naive form has digits left
        torch.testing.assert_close(found[good], torch.logit(v)[good], rtol=1e-5, atol=1e-5)
        assert ((a + found > 0) == (unit == 1)).all()


@pytest.mark.parametrize("problem", [CATEGORICALS[0], BINARIES[0]], ids=lambda p: p.name)
def test_pullback_given_the_code_is_that_of_autograd(problem):
    kind, shape = problem.kind, (5, *problem.logits.shape)
    code = kind.hard(problem.logits + kind.noise(shape, dtype=torch.float64, generator=seeded(0)))
    noise = kind.noise(shape, dtype=torch.float64, generator=seeded(1))
    r = torch.randn(shape, dtype=torch.float64, generator=seeded(2))
    leaf = problem.logits.expand(shape).clone().requires_grad_()
    # away from the clones: the noise's own dependence on a is what is differentiated
    (wanted,) = torch.autograd.grad(((leaf + noise_given_code(kind, leaf, code, noise)) * r).sum(), leaf)
    close(pullback_given_code(kind, problem.logits, code, noise, r), wanted)


def test_softplus_is_precise():
    x = torch.tensor([-600.0, -30.0, 0.0, 19.0, 21.0, 800.0], dtype=torch.float64)
    wanted = torch.tensor([math.log1p(math.exp(v)) if v < 700 else v for v in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(softplus(x), wanted, rtol=1e-14, atol=0)


# --- gumbel-rao ---


@pytest.mark.parametrize("problem", [CATEGORICALS[0], BINARIES[0]], ids=lambda p: p.name)
def test_gumbel_rao_is_the_mean_over_its_arrays(problem):
    """With the k arrays one by one, and autograd through (l + g_i)/tb at fixed g_i."""
    noise, points, _, _, found = drawn("gumbel-rao:k=3", problem)
    each = []
    for i in (1, 2, 3):
        g = noise_given_code(problem.kind, problem.logits / TF, points[0], noise[i])
        layer = lambda l, _, draw, g=g: soft(problem, (l + g[draw]) / TB)  # noqa: E731
        each.append(through(problem, layer, noise, slope_at=points[0]))
    close(found, torch.stack(each).mean(0))


@pytest.mark.parametrize(("tf", "tb"), [(1.0, 1.0), (1.4, 0.8), (0.5, 2.0)])
@pytest.mark.parametrize("l", [-1.3, 0.4])
def test_gumbel_rao_has_the_mean_of_st_gs_jang_by_quadrature(l, tf, tb):
    """One binary unit: E over the noise as a sum over 200,000 midpoints of its uniform, for `gumbel-rao` code by code.

    The jump of `st-gs` at its threshold leaves an error of some 1e-5."""
    logits = torch.tensor([[l]], dtype=torch.float64)
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    grid = torch.logit(u)[:, None, None]

    def v_at(code):  # any slope that tells the codes apart
        return 0.7 - 1.9 * code

    def of_st_gs(convention):
        st_gs = estimators.get("st-gs", tf=tf, tb=tb, convention=convention)
        code = st_gs.points(BINARY, logits, grid[None])
        return float(st_gs.estimate(BINARY, logits, grid[None], code, None, v_at(code)).mean())

    rao = estimators.get("gumbel-rao", tf=tf, tb=tb, k=1)
    found, p = 0.0, torch.sigmoid(logits / tf)
    for unit, probability in ((1.0, p), (0.0, 1 - p)):
        code = torch.full_like(grid, unit)[None]
        both = torch.stack([grid, grid])  # the first array is not looked at: the code is given
        found = found + probability * rao.estimate(BINARY, logits, both, code, None, v_at(code)).mean()
    assert float(found) == pytest.approx(of_st_gs("jang"), rel=1e-4)
    if tb != 1:
        assert float(found) != pytest.approx(of_st_gs("paper"), rel=1e-2)


def test_gumbel_rao_has_the_mean_of_st_gs_jang_and_less_variance_the_larger_k():
    """Categorical, 40,000 draws that share their codes: the differences of the two estimates vanish within 5.5
    standard errors in each of 18 coordinates (failure rate 7e-7)."""
    problem, draws = CATEGORICALS[0], 40_000
    jang = drawn("st-gs:convention=jang", problem, draws)
    plain, variances = jang[-1], [float(jang[-1].var(0).sum())]
    paper = drawn("st-gs", problem, draws)[-1]
    for k in (1, 3, 9):
        estimator = estimators.get("gumbel-rao", k=k).at(TF, TB)
        others = CATEGORICAL.noise((k, draws, 2, 3, 3), dtype=torch.float64, generator=seeded(9 + k))
        noise = torch.cat([jang[0], others])
        found = estimator.estimate(CATEGORICAL, problem.logits, noise, jang[1], None, jang[3])
        for other, agrees in ((plain, True), (paper, False)):
            difference = found - other
            z = difference.mean(0) / (difference.std(0) / draws**0.5)
            assert (float(z.abs().max()) < 5.5) == agrees
        variances.append(float(found.var(0).sum()))
    st_gs, once, thrice, nine = variances
    assert once == pytest.approx(st_gs, rel=0.05)
    assert nine < thrice < 0.98 * once


# --- rebar ---


@pytest.mark.parametrize("problem", [*CATEGORICALS, *BINARIES], ids=lambda p: p.name)
def test_rebar_against_autograd_through_both_relaxed_points(problem):
    """z~ built from Exp(1) numbers (binary: uniforms) as published, differentiated at fixed b."""
    eta, lam = 0.6, 0.7
    noise, points, *_, found = drawn(f"rebar:eta={eta},lam={lam}", problem)
    wanted = []
    for draw in range(found.shape[0]):
        leaf = problem.logits.clone().requires_grad_()
        a, b = leaf / TF, points[0, draw]
        if problem.kind is BINARY:
            u, p = torch.sigmoid(noise[1, draw]), torch.sigmoid(a)
            conditional = a + torch.logit(torch.where(b > 0.5, 1 - p * (1 - u), (1 - p) * u))
            log_p = torch.where(b > 0.5, p, 1 - p).log().sum(-1)
        else:
            e, z_sum = (-noise[1, draw]).exp(), a.exp().sum(-1, keepdim=True)
            e_k = (e * b).sum(-1, keepdim=True)
            conditional = torch.where(b > 0.5, z_sum.log() - e_k.log(), -(e / a.exp() + e_k / z_sum).log())
            log_p = (torch.log_softmax(a, -1) * b).sum((-2, -1))
        s, s_conditional = (soft(problem, z / lam) for z in (a + noise[0, draw], conditional))
        torch.testing.assert_close(points[1:, draw], torch.stack([s, s_conditional]), rtol=1e-8, atol=1e-10)
        f_s, f_conditional = problem.loss(s), problem.loss(s_conditional)
        weight = (problem.loss(b) - eta * f_conditional).detach()
        surrogate = (weight * log_p + eta * (f_s - f_conditional)).sum()
        wanted.append(torch.autograd.grad(surrogate, leaf)[0])
    close(found, torch.stack(wanted), rtol=1e-7)


@pytest.mark.parametrize("problem", [CATEGORICALS[0], BINARIES[0]], ids=lambda p: p.name)
def test_rebar_without_its_control_variate_is_reinforce(problem):
    noise, points, loss, _, found = drawn("rebar:eta=0", problem)
    reinforce = estimators.get("reinforce", tf=TF)
    assert torch.equal(reinforce.points(problem.kind, problem.logits, noise), points[:1])
    close(found, reinforce.estimate(problem.kind, problem.logits, noise, points[:1], loss[:1], None))


def test_rebar_trains_the_decoder_on_the_code_alone():
    points = drawn("rebar", CATEGORICALS[0])[1]
    found = estimators.get("rebar").weights(CATEGORICAL, CATEGORICALS[0].logits, points)
    assert found.shape == points.shape[:3]
    assert (found[0] == 1).all()
    assert (found[1:] == 0).all()


# --- score functions ---


@pytest.mark.parametrize("text", ["reinforce", "rloo:n=2", "rloo:n=5"])
@pytest.mark.parametrize("problem", [CATEGORICALS[1], BINARIES[1]], ids=lambda p: p.name)
def test_score_functions_with_autograd_of_the_log_probability(text, problem):
    _, points, loss, _, found = drawn(text, problem)
    n = len(points)
    wanted = torch.zeros_like(found)
    for i, draw, example in itertools.product(range(n), range(found.shape[0]), range(found.shape[1])):
        leaf = problem.logits[example].clone().requires_grad_()
        p, z = soft(problem, leaf / TF), points[i, draw, example]
        log_p = (z * p + (1 - z) * (1 - p)).log().sum() if problem.kind is BINARY else ((z * p).sum(-1)).log().sum()
        others = [float(loss[j, draw, example]) for j in range(n) if j != i]
        baseline = sum(others) / len(others) if others else 0.0
        (score,) = torch.autograd.grad(log_p, leaf)
        wanted[draw, example] += (loss[i, draw, example] - baseline) * score / n
    close(found, wanted)


class TestRunningMean:
    def test_it_is_the_corrected_weighted_mean_of_what_came_before(self):
        loss = torch.randn(1, 20, 3, dtype=torch.float64, generator=seeded(0)) + 5
        found = RunningMean(0.9).centre(loss)
        assert torch.equal(found[0, 0], loss[0, 0])  # 0 before the first
        for t in range(1, 20):
            weights = [0.9 ** (t - 1 - s) for s in range(t)]
            baseline = sum(w * float(loss[0, s].mean()) for s, w in enumerate(weights)) / sum(weights)
            torch.testing.assert_close(found[0, t], loss[0, t] - baseline, rtol=1e-12, atol=1e-12)

    def test_decay_0_is_the_loss_before(self):
        loss = torch.tensor([[[1.0, 3.0], [10.0, 20.0], [0.0, 0.0]]])
        assert RunningMean(0.0).centre(loss).tolist() == [[[1, 3], [8, 18], [-15, -15]]]

    @pytest.mark.parametrize("cuts", [[1] * 20, [7, 13], [19, 1], [20]])
    def test_chunks_do_not_matter(self, cuts):
        loss = torch.randn(2, 20, 3, generator=seeded(0)) + 5
        whole, mean = RunningMean(0.9), RunningMean(0.9)
        wanted = whole.centre(loss)
        assert torch.equal(torch.cat([mean.centre(part) for part in loss.split(cuts, 1)], 1), wanted)
        assert torch.equal(mean.state, whole.state)

    def test_a_restored_state_goes_on_as_if_nothing_had_happened(self):
        loss = torch.randn(1, 20, 3, generator=seeded(0)) + 5
        whole, before, after = (RunningMean(0.9) for _ in range(3))
        wanted = whole.centre(loss)
        before.centre(loss[:, :8])
        after.state = before.state.clone()
        assert torch.equal(after.centre(loss[:, 8:]), wanted[:, 8:])

    def test_draws_of_any_shape_and_none_and_the_input_stays(self):
        loss = torch.randn(1, 6, 3, generator=seeded(0)) + 5
        kept = loss.clone()
        wanted = RunningMean(0.9).centre(loss)
        assert torch.equal(loss, kept)
        assert torch.equal(RunningMean(0.9).centre(loss.reshape(1, 2, 3, 3)), wanted.reshape(1, 2, 3, 3))
        one_by_one = RunningMean(0.9)
        assert torch.equal(torch.stack([one_by_one.centre(loss[:, t]) for t in range(6)], 1), wanted)
        assert wanted.dtype == torch.float32

    def test_it_takes_a_constant_offset_away(self):
        """Losses of hundreds of nats: from the second draw on, the offset is gone to the precision of the loss."""
        loss = torch.full((1, 9, 4), 700.0)
        assert float(RunningMean(0.99).centre(loss)[:, 1:].abs().max()) < 1e-4


# --- antithetic ---


@pytest.mark.parametrize("problem", BINARIES, ids=lambda p: p.name)
def test_disarm_as_published_from_uniforms(problem):
    noise, points, loss, _, found = drawn("disarm", problem)
    u = torch.sigmoid(noise[0])
    p = torch.sigmoid(problem.logits / TF)
    b, other = (u > 1 - p).double(), (u < p).double()
    assert torch.equal(points, torch.stack([b, other]))
    sign = torch.where(other > 0.5, -1.0, 1.0) * (b != other)
    wanted = 0.5 * (loss[0] - loss[1])[..., None] * sign * torch.sigmoid((problem.logits / TF).abs()) / TF
    close(found, wanted)


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize("problem", BINARIES, ids=lambda p: p.name)
def test_arms_as_published_from_uniforms(problem, n):
    noise, points, loss, _, found = drawn(f"arms:n={n}", problem)
    e = -torch.log(torch.sigmoid(-noise))
    u = (1 - e / e.sum(0)) ** (n - 1)
    p = torch.sigmoid(problem.logits / TF)
    u = torch.where(p > 0.5, 1 - u, u)
    assert torch.equal(points, (u < p).double())
    q = torch.minimum(p, 1 - p)
    c = (2 * q ** (1 / (n - 1)) - 1).clamp(min=0) ** (n - 1)
    p11 = torch.where(p > 0.5, 2 * p - 1 + c, c)
    total = sum((loss[i] - loss.mean(0))[..., None] * (points[i] - p) for i in range(n))
    close(found, total / (n - 1) * p * (1 - p) / (p - p11) / TF)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_dirichlet_copula_has_the_law_it_should_have(n):
    """200,000 draws: each u_i uniform (Kolmogorov-Smirnov, failure rate 1e-4), each pair below q as often as c(q)
    (within 5 standard errors, failure rate 6e-7)."""
    noise = BINARY.noise((n, 200_000), dtype=torch.float64, generator=seeded(0))
    u = torch.exp((n - 1) * log_one_minus_dirichlet(noise))
    assert min(stats.kstest(u_i.numpy(), stats.uniform.cdf).pvalue for u_i in u) > 1e-4 / n
    for q in (0.2, 0.45):
        c = max(0.0, 2 * q ** (1 / (n - 1)) - 1) ** (n - 1)
        both = float(((u[0] < q) & (u[1] < q)).double().mean())
        assert abs(both - c) <= 5 * (c * (1 - c) / 200_000) ** 0.5
        assert c < q * q - 0.02  # negative correlation, which independent uniforms do not have


def test_the_factor_of_arms_is_finite_and_meets_its_limits():
    for n in (2, 3, 8, 50):
        a = torch.tensor([-1e4, -800.0, -30.0, 0.0, 30.0, 1e4], dtype=torch.float64)
        factor = arms_factor(a, n)
        assert torch.isfinite(factor).all()
        assert (factor <= 1 + 1e-12).all() if n == 2 else (factor > 0.5).all()
        assert factor[[0, -1]].tolist() == [1.0, 1.0]
        assert torch.isfinite(arms_factor(a.float(), n)).all()
    assert arms_factor(torch.zeros(1, dtype=torch.float64), 2).item() == 0.5


def test_arms_of_two_is_disarm():
    """d_1/d_2 = e_1/e_2, whose logarithm is logistic: DisARM on that noise (negative where p > 1/2) is ARMS."""
    for problem in BINARIES:
        noise, points, loss, _, arms = drawn("arms:n=2", problem)
        e = softplus(noise)
        logistic = torch.log(e[0] / e[1]) * torch.where(problem.logits > 0, -1.0, 1.0)
        disarm = estimators.get("disarm", tf=TF)
        pair = disarm.points(BINARY, problem.logits, logistic[None])
        assert torch.equal(pair, points)
        close(disarm.estimate(BINARY, problem.logits, logistic[None], pair, loss, None), arms)


def test_logs_of_exp1_ratios_are_logistic():
    noise = BINARY.noise((2, 100_000), dtype=torch.float64, generator=seeded(4))
    assert stats.kstest(torch.log(softplus(noise)).diff(dim=0)[0].numpy(), stats.logistic.cdf).pvalue > 1e-4


# --- means by enumeration ---


def enumerated_mean(estimator, problem, loss_and_derivative=None):
    """Sum over codes of p(z) estimate(z), for one whose estimate is a function of the code."""
    codes = problem.configurations()[:, None].expand(-1, *problem.logits.shape)
    loss, v = (loss_and_derivative or problem.loss_and_derivative)(codes[None])
    nothing = torch.full((estimator.noise_arrays, *codes.shape), torch.nan, dtype=torch.float64)
    found = estimator.estimate(problem.kind, problem.logits, nothing, codes[None], loss, v)
    p = problem.probabilities(problem.logits / estimator.tf)
    return (p[(..., *[None] * (found.ndim - 2))] * found).sum(0)


def enumerated_gradient(problem, tf, loss):
    codes = problem.configurations()[:, None].expand(-1, *problem.logits.shape)
    leaf = problem.logits.clone().requires_grad_()
    return torch.autograd.grad((problem.probabilities(leaf / tf) * loss(codes)).sum(), leaf)[0]


def polynomial(problem, degree):
    """A loss of that degree in all coordinates, and its derivative."""
    n = problem.logits[0].numel()
    slope = torch.cos(3.0 * torch.arange(n, dtype=torch.float64))
    matrix = torch.sin(torch.arange(n * n, dtype=torch.float64).reshape(n, n) ** 1.2)
    other = torch.sin(2.0 * torch.arange(n, dtype=torch.float64) ** 1.5)

    def loss(codes):
        flat = codes.flatten(-1 - problem.kind.event_dims)
        total = flat @ slope
        total = total + ((flat @ matrix) * flat).sum(-1) if degree > 1 else total
        return total + (flat @ other) ** 3 if degree > 2 else total

    def with_derivative(codes):
        leaf = codes.clone().requires_grad_()
        value = loss(leaf)
        return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]

    return loss, with_derivative


EXACT_UP_TO = [  # estimator, temperatures, degree of the losses for which its mean is the exact gradient
    ("ste", 1.0, 1.0, 1),
    ("ste", 1.4, 1.4, 1),
    ("reinmax", 1.0, 1.0, 2),
    ("reinmax", 1.4, 1.4, 2),
    ("zgr", 1.0, 1.0, 2),
    ("zgr", 1.4, 1.0, 2),
    ("reinforce", 1.0, 1.0, 3),
    ("reinforce", 1.4, 1.0, 3),
    # and where nothing is promised
    ("ste", 1.4, 1.0, 0),
    ("reinmax", 1.4, 1.0, 0),
    ("gst", 1.0, 1.0, 0),
    ("gst:mode=probability", 1.0, 1.0, 0),
]


@pytest.mark.parametrize(("text", "tf", "tb", "degree"), EXACT_UP_TO)
@pytest.mark.parametrize("problem", [*CATEGORICALS, *BINARIES], ids=lambda p: p.name)
def test_exact_up_to_a_degree_and_no_further(problem, text, tf, tb, degree):
    estimator = estimators.parse(text).at(tf, tb)
    assert estimator.code_only
    for of_degree in (1, 2, 3):
        loss, with_derivative = polynomial(problem, of_degree)
        exact = enumerated_gradient(problem, tf, loss)
        error = float((enumerated_mean(estimator, problem, with_derivative) - exact).norm() / exact.norm())
        assert error < 1e-12 if of_degree <= degree else error > 1e-3, of_degree


def test_reinmax_and_zgr_are_one_at_equal_temperatures():
    for problem in (*CATEGORICALS, *BINARIES):
        zgr = drawn("zgr", problem)[-1]
        close(drawn("reinmax", problem, tb=TF)[-1], zgr)
        assert float((drawn("reinmax", problem, tb=TB)[-1] - zgr).norm() / zgr.norm()) > 0.01


@pytest.mark.parametrize("problem", [*CATEGORICALS, *BINARIES], ids=lambda p: p.name)
def test_exact_gives_the_exact_gradient_whatever_the_noise(problem):
    *_, found = drawn("exact", problem)
    for draw in found:
        close(draw, problem.exact_gradient(TF))


@pytest.mark.parametrize("problem", [CATEGORICALS[0], BINARIES[0]], ids=lambda p: p.name)
def test_the_weights_of_exact_are_probabilities(problem):
    estimator = estimators.get("exact", tf=TF)
    points = estimator.points(problem.kind, problem.logits, noise_for(estimator, problem, 2))
    found = estimator.weights(problem.kind, problem.logits, points)
    torch.testing.assert_close(found[:, 0], problem.probabilities(problem.logits / TF), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("problem", BINARIES, ids=lambda p: p.name)
@pytest.mark.parametrize("tf", [1.0, 1.4])
def test_disarm_is_unbiased_by_enumeration_of_its_pairs(problem, tf):
    """(b, b') is (1, 0) or (0, 1) with q = min(p, 1-p) each, else (0, 0) or (1, 1) as p is below or above 1/2."""
    p = torch.sigmoid(problem.logits / tf)
    q = torch.minimum(p, 1 - p)
    outcomes = [(1.0, 0.0, q), (0.0, 1.0, q), (None, None, 1 - 2 * q)]
    estimator = estimators.get("disarm", tf=tf)
    total = 0.0
    for chosen in itertools.product(outcomes, repeat=p.shape[1]):
        same = (p > 0.5).double()
        points = torch.stack(
            [
                torch.stack(
                    [
                        same[:, i] if o[side] is None else torch.full_like(q[:, i], o[side])
                        for i, o in enumerate(chosen)
                    ],
                    -1,
                )
                for side in (0, 1)
            ]
        )
        probability = torch.stack([o[2][:, i] for i, o in enumerate(chosen)], -1).prod(-1)
        estimate = estimator.estimate(BINARY, problem.logits, None, points, problem.loss(points), None)
        total = total + probability[:, None] * estimate
    close(total, problem.exact_gradient(tf))


@pytest.mark.parametrize("tf", [1.0, 1.4])
@pytest.mark.parametrize("n", [2, 3, 4])
def test_arms_is_unbiased_by_enumeration_of_its_units(n, tf):
    """P(d_i > x for all i in S) = max(0, 1 - |S| x)^(n-1), and inclusion-exclusion for the other units of S."""
    problem = BINARIES[1]
    p = torch.sigmoid(problem.logits / tf)
    q = torch.minimum(p, 1 - p)
    x = 1 - q ** (1 / (n - 1))

    def all_in(size):  # probability that u_i < q for these at least; u_i < q means d_i > x
        return (1 - size * x).clamp(min=0) ** (n - 1) if size else torch.ones_like(x)

    exactly = [
        sum((-1) ** extra * math.comb(n - size, extra) * all_in(size + extra) for extra in range(n - size + 1))
        for size in range(n + 1)
    ]
    assert float((sum(math.comb(n, size) * exactly[size] for size in range(n + 1)) - 1).abs().max()) < 1e-12
    estimator = estimators.get("arms", n=n, tf=tf)
    patterns = list(itertools.product((0.0, 1.0), repeat=n))
    joint = torch.tensor(list(itertools.product(patterns, repeat=p.shape[1])), dtype=p.dtype)  # (outcome, unit, draw)
    below = joint.permute(2, 0, 1)[:, :, None].expand(n, len(joint), *p.shape)  # u_i < q
    points = torch.where(p > 0.5, 1 - below, below)
    sizes = joint.sum(-1).long()[:, None].expand(-1, *p.shape)
    probability = torch.stack(exactly).gather(0, sizes).prod(-1)
    estimate = estimator.estimate(BINARY, problem.logits, None, points, problem.loss(points), None)
    total, mass = (probability[..., None] * estimate).sum(0), probability.sum(0)
    torch.testing.assert_close(mass, torch.ones_like(mass))
    close(total, problem.exact_gradient(tf))


@pytest.mark.parametrize("problem", [CATEGORICALS[1], BINARIES[1]], ids=lambda p: p.name)
def test_rloo_is_unbiased_by_enumeration_of_its_pairs(problem):
    codes = problem.configurations()[:, None].expand(-1, *problem.logits.shape)
    p = problem.probabilities(problem.logits / TF)
    estimator = estimators.get("rloo", n=2, tf=TF)
    total = 0.0
    for first in range(len(codes)):
        points = torch.stack([codes[first].expand_as(codes), codes])
        estimate = estimator.estimate(problem.kind, problem.logits, None, points, problem.loss(points), None)
        weight = p[first] * p
        total = total + (weight[(..., *[None] * (estimate.ndim - 2))] * estimate).sum(0)
    close(total, problem.exact_gradient(TF))
