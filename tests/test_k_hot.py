"""k-hot latents: law, score and relaxation against loops over the orders of a set, and against Gumbel draws."""

import itertools
import math
from decimal import Decimal, localcontext

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import gradlab
from gradlab import k_hot
from gradlab.cautions import SamplingWarning
from gradlab.k_hot import MOST_CODES, KHot
from gradlab.latents import BINARY, CATEGORICAL, PADDING, bounded

CATEGORIES = 5
LOGITS = torch.tensor([0.3, -1.1, 1.7, 0.0, -0.4], dtype=torch.float64)


def sets(categories, k):
    return list(itertools.combinations(range(categories), k))


def probabilities(a, k):
    """p of every set, as a sum over the orders in which it may be drawn."""
    found = []
    for chosen in sets(len(a), k):
        of_orders = []
        for order in itertools.permutations(chosen):
            left, chance = list(range(len(a))), a.new_ones(())
            for i in order:
                chance = chance * (a[i] - torch.logsumexp(a[left], 0)).exp()
                left.remove(i)
            of_orders.append(chance)
        found.append(sum(of_orders))
    return torch.stack(found)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_law_and_score_are_those_of_all_orders(k):
    kind, leaf = KHot(k), LOGITS.clone().requires_grad_()
    p = probabilities(leaf, k)
    law = kind.law(torch.stack([LOGITS, LOGITS.flip(0)])[None] * 1.3, 1.3)[0]  # at l/t
    codes = kind.codes(torch.arange(math.comb(CATEGORIES, k)), CATEGORIES, torch.float64)
    assert kind.code_count(CATEGORIES) == len(codes) == len(p)
    torch.testing.assert_close(law[0], p.detach(), rtol=1e-13, atol=0)
    torch.testing.assert_close(law[1], probabilities(LOGITS.flip(0), k), rtol=1e-13, atol=0)
    torch.testing.assert_close(kind.log_probability(LOGITS, codes), p.detach().log(), rtol=1e-13, atol=1e-14)
    scores = kind.score(LOGITS, codes)
    for of_set, score in zip(p, scores, strict=True):
        (wanted,) = torch.autograd.grad(of_set.log(), leaf, retain_graph=True)
        torch.testing.assert_close(score, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("categories", "k"), [(5, 2), (7, 3), (4, 4), (6, 1)])
def test_codes_are_numbered_in_the_order_of_sets(categories, k):
    kind, every = KHot(k), torch.arange(math.comb(categories, k))
    codes = kind.codes(every, categories, torch.float32)
    assert [tuple(code.nonzero()[:, 0].tolist()) for code in codes] == sets(categories, k)
    assert torch.equal(kind.code_indices(codes), every)
    a = torch.randn(50, 3, categories, generator=torch.Generator().manual_seed(0))
    assert torch.equal(kind.codes(kind.indices(a), categories, a.dtype), kind.hard(a))
    assert torch.equal(kind.hard(a).sum(-1), torch.full((50, 3), float(k)))


def test_gumbel_noise_samples_the_law():
    """Chi-square of 200,000 draws over the 10 sets; by chance it fails once in a million times. At tf = 1 it fails."""
    kind, draws, tf = KHot(2), 200_000, 1.6
    noise = kind.noise((draws, CATEGORIES), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = kind.indices(LOGITS / tf + noise).bincount(minlength=10)

    def chi_square(t):
        expected = draws * kind.law(LOGITS, t)
        return float(((counts - expected).square() / expected).sum())

    limit = 9 * (1 - 2 / 81 + 4.7534 * math.sqrt(2 / 81)) ** 3  # Wilson and Hilferty: 9 degrees of freedom, 1e-6
    assert chi_square(tf) < limit < chi_square(1.0)


def test_noise_is_that_of_categorical_latents():
    of_both = [kind.noise((4, 3), dtype=torch.float32, generator=torch.Generator().manual_seed(3)) for kind in KINDS]
    assert torch.equal(*of_both)


KINDS = (CATEGORICAL, KHot(3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_one_of_k_is_the_categorical_latent(dtype):
    kind, generator = KHot(1), torch.Generator().manual_seed(0)
    a = 3 * torch.randn(20, 2, 4, generator=generator, dtype=torch.float64).to(dtype)
    v = torch.randn(20, 2, 4, generator=generator, dtype=torch.float64).to(dtype)
    close = {"rtol": 50 * torch.finfo(dtype).eps, "atol": 50 * torch.finfo(dtype).eps}
    code = CATEGORICAL.hard(a)
    assert torch.equal(kind.hard(a), code)
    assert torch.equal(kind.indices(a), CATEGORICAL.indices(a))
    torch.testing.assert_close(kind.law(a, 0.7), CATEGORICAL.law(a, 0.7), **close)
    torch.testing.assert_close(kind.score(a, code), CATEGORICAL.score(a, code), **close)
    torch.testing.assert_close(kind.relaxed(a), CATEGORICAL.soft(a), **close)
    torch.testing.assert_close(kind.pull_relaxed(a, v, 0.3), CATEGORICAL.pullback_at(a, v), **close)
    torch.testing.assert_close(kind.pull_chances(a, v), CATEGORICAL.pullback_at(a, v), **close)
    torch.testing.assert_close(kind.kl_to_uniform(a), CATEGORICAL.kl_to_uniform(a), **close)


def test_all_of_them_is_a_constant():
    kind, a = KHot(4), torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    code, p = kind.hard(a), kind.law(a, 1.0)
    assert bool((code == 1).all() and (p == 1).all())
    assert bool((kind.score(a, code) == 0).all() and (kind.pull_chances(a, a) == 0).all())
    assert bool((kind.gradient_of_law(a, 1.0, p, torch.full_like(p, 7.0)) == 0).all())
    assert bool((kind.kl_to_uniform(a).abs() < 1e-14).all())


@pytest.mark.parametrize("t", [0.4, pytest.param(1.0, marks=pytest.mark.deep), 2.5])
@pytest.mark.parametrize("k", [2, 3])
def test_relaxation_and_chances_are_pulled_back_as_by_autograd(k, t):
    kind, generator = KHot(k), torch.Generator().manual_seed(1)
    leaf = (3 * torch.randn(7, 2, CATEGORIES, generator=generator, dtype=torch.float64)).requires_grad_()
    v = torch.randn(4, 7, 2, CATEGORIES, generator=generator, dtype=torch.float64)  # of draws
    a, y = leaf, torch.zeros_like(leaf)
    for _ in range(k):  # Xie, Ermon 2019
        p = torch.softmax(a, -1)
        y, a = y + p, a + torch.log(1 - p) / t
    torch.testing.assert_close(kind.relaxed(leaf.detach(), t), y.detach(), rtol=1e-9, atol=1e-12)
    for one, pulled in zip(v, kind.pull_relaxed(leaf.detach(), v, t), strict=True):
        (wanted,) = torch.autograd.grad((y * one).sum(), leaf, retain_graph=True)
        torch.testing.assert_close(pulled, wanted, rtol=1e-8, atol=1e-11)
    codes = kind.codes(torch.arange(kind.code_count(CATEGORIES)), CATEGORIES, torch.float64)
    p = torch.stack([probabilities(row, k) for row in leaf.flatten(0, 1)])
    chances = (p @ codes).reshape(leaf.shape)
    for one, pulled in zip(v, kind.pull_chances(leaf.detach(), v), strict=True):
        (wanted,) = torch.autograd.grad((chances * one).sum(), leaf, retain_graph=True)
        torch.testing.assert_close(pulled, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_relaxation_of_many_categories_is_pulled_back_as_by_autograd(scale):
    """Sums over all but one of 300 terms, of which at scale 30 a few are almost all."""
    generator = torch.Generator().manual_seed(4)
    leaf = (scale * torch.randn(5, 300, generator=generator, dtype=torch.float64)).requires_grad_()
    v = torch.randn(5, 300, generator=generator, dtype=torch.float64)
    a, y = leaf, torch.zeros_like(leaf)
    for _ in range(3):
        log_p = torch.log_softmax(a, -1)
        y, a = y + log_p.exp(), a + k_hot._log_rest(a) / 0.7
    (wanted,) = torch.autograd.grad((y * v).sum(), leaf)
    found = KHot(3).pull_relaxed(leaf.detach(), v, 0.7)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9 * float(wanted.abs().max()))


def test_pulling_a_relaxation_back_takes_no_array_of_categories_squared():
    """For 2^15 categories that array has 8 GiB, and took seconds."""
    a, v = torch.randn(2, 1, 2**15, generator=torch.Generator().manual_seed(5))
    with FlopCounterMode(display=False) as products:
        assert bool(KHot(2).pull_relaxed(a, v).isfinite().all())
    assert products.get_total_flops() == 0


def relaxed_in_many_digits(a, v, k, t):
    """v.y of the relaxation (Xie, Ermon 2019)."""
    found = Decimal(0)
    for _ in range(k):
        weights = [one.exp() for one in a]
        left = [sum(weights) - one for one in weights]
        found += sum(x * w for x, w in zip(v, weights, strict=True)) / sum(weights)
        a = [one + (rest / sum(weights)).ln() / Decimal(t) for one, rest in zip(a, left, strict=True)]
    return found


@pytest.mark.parametrize("t", [0.5, 1.0])
@pytest.mark.parametrize(("dtype", "gap"), [(torch.float32, 20.0), (torch.float64, 40.0)])
def test_the_relaxation_keeps_its_gradient_where_each_choice_is_almost_certain(dtype, gap, t):
    """At t = 1 the two largest share the second choice, and only rounding was left of gradients of exp(-gap)."""
    a = torch.tensor([1.9 * gap, 0.2, gap, -0.3], dtype=dtype)
    v = torch.tensor([2.5, 3.1, 4.4, 1.7], dtype=dtype)
    wanted = []
    with localcontext() as digits:
        digits.prec = 150
        step, exact, slope = Decimal("1e-60"), [Decimal(x) for x in a.tolist()], [Decimal(x) for x in v.tolist()]
        for m in range(4):
            ends = [[x + sign * step * (i == m) for i, x in enumerate(exact)] for sign in (1, -1)]
            high, low = (relaxed_in_many_digits(end, slope, 2, t) for end in ends)
            wanted.append(float((high - low) / (2 * step)))
    found = KHot(2).pull_relaxed(a, v, t)
    rtol = 100 * gap * torch.finfo(dtype).eps
    expected = torch.tensor(wanted, dtype=torch.float64)
    torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


# --- saturation, masks, sizes ---


def precise_gradient(logits, k, losses):
    """Gradient of the expected loss, in 400 digits: sum over sets and orders of p f sum_j (1[i_j] - y_j)."""
    with localcontext() as context:
        context.prec = 400
        w = [Decimal(x).exp() for x in logits]
        gradient = [Decimal(0)] * len(w)
        for chosen, f in zip(sets(len(w), k), losses, strict=True):
            for order in itertools.permutations(chosen):
                left, p, score = list(range(len(w))), Decimal(1), [Decimal(0)] * len(w)
                for i in order:
                    total = sum(w[m] for m in left)
                    for m in left:
                        score[m] += (m == i) - w[m] / total
                    p *= w[i] / total
                    left.remove(i)
                gradient = [g + p * s * Decimal(f) for g, s in zip(gradient, score, strict=True)]
        return [float(g) for g in gradient]


@pytest.mark.parametrize("scale", [1, 10, 40, 300])
def test_gradient_keeps_its_digits_at_saturated_logits(scale):
    """1e-12 of its norm, also where the norm is 1e-91. The naive p f d log p in float64 is off by all of it."""
    kind, logits = KHot(2), [scale * x for x in (0.0, 1.0, -0.4, 0.7, -1.0)]
    losses = [float(n % 4) + 0.25 * n for n in range(10)]
    wanted = torch.tensor(precise_gradient(logits, 2, losses), dtype=torch.float64)
    a, c = torch.tensor([[logits]], dtype=torch.float64), torch.tensor([[losses]], dtype=torch.float64)
    found = kind.gradient_of_law(a, 1.0, kind.law(a, 1.0), c)[0, 0]
    assert float((found - wanted).norm()) <= 1e-12 * float(wanted.norm())


@pytest.mark.parametrize(
    ("gap", "dtype", "tolerance"),
    [(gap, torch.float64, 1e-13) for gap in (5.0, 12.0, 20.0, 40.0, 300.0)]
    + [(gap, torch.float32, 1e-5) for gap in (5.0, 12.0, 20.0, 40.0)],
)
def test_score_of_a_set_that_is_almost_certain_keeps_its_digits(gap, dtype, tolerance):
    """Both choices alike: against 300 digits of log p = a_i + a_j - log Z + log(1/(Z - e_i) + 1/(Z - e_j))."""
    a = torch.tensor([gap, gap, 0.0, -1.0], dtype=dtype)
    found = KHot(2).score(a, torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=dtype))
    with localcontext() as context:
        context.prec = 300
        e = [Decimal(float(each)).exp() for each in a]
        z = sum(e)
        of_i, of_j = 1 / (z - e[0]), 1 / (z - e[1])
        wanted = [
            (m < 2) - each / z - each * ((m != 0) * of_i**2 + (m != 1) * of_j**2) / (of_i + of_j)
            for m, each in enumerate(e)
        ]
        for m, each in enumerate(wanted):
            assert abs(Decimal(float(found[m])) - each) <= Decimal(tolerance) * max(map(abs, wanted))


def test_score_of_three_of_which_two_are_alike_keeps_its_digits():
    """p d log p of the likeliest set, in 400 digits: 1e-12 of its norm."""
    logits, every = [57.481, 60.0, -60.0, 60.451], sets(4, 3)
    wanted = torch.tensor(precise_gradient(logits, 3, [float(s == (0, 1, 3)) for s in every]), dtype=torch.float64)
    a = torch.tensor(logits, dtype=torch.float64)
    found = KHot(3).score(a, torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=torch.float64))  # p is 1 to all digits
    assert float((found - wanted).norm()) <= 1e-12 * float(wanted.norm())


@pytest.mark.parametrize("name", ["reinforce", "rloo"])
def test_an_unbiased_estimator_has_no_bias_where_a_set_is_almost_certain(name):
    """By exact moments, and the chance of another set 4e-18: `reinforce` had a relative bias of 7."""
    encoder = torch.nn.Linear(1, 4, bias=False).double()
    with torch.no_grad():
        encoder.weight[:] = torch.tensor([[4.0], [4.0], [0.0], [-0.1]])
    decoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1).double())
    model = gradlab.LatentModel(encoder, decoder, latents=1, categories=4, top_k=2, likelihood="gaussian")
    with pytest.warns(SamplingWarning, match="every code certain"):
        ds = gradlab.bias(model, torch.ones(1, 1).double(), 0.1, estimator=name, moments="exact")
    assert float(ds.relative_bias.squeeze()) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_logits_of_a_thousand_give_finite_numbers(k, dtype):
    kind = KHot(k)
    for signs in itertools.product((-1.0, 1.0), repeat=4):
        a = 1000 * torch.tensor([signs], dtype=dtype)
        codes = kind.codes(torch.arange(kind.code_count(4)), 4, dtype)
        p = kind.law(a, 1.0)
        found = [p, kind.score(a, codes), kind.pull_relaxed(a, codes), kind.pull_chances(a, codes), kind.relaxed(a)]
        found += [kind.gradient_of_law(a, 1.0, p, torch.arange(len(codes)).to(p)[None]), kind.kl_to_uniform(a[None])]
        assert all(bool(torch.isfinite(each).all()) for each in found)
        assert float(p.sum()) == pytest.approx(1, abs=1e-6)
        large = sum(sign > 0 for sign in signs)
        alike = math.comb(large, k) if large >= k else math.comb(4 - large, k - large)  # and then of the small ones
        assert float(p.max()) == pytest.approx(1 / alike, rel=1e-6)


def test_categories_are_alike():
    kind, order = KHot(2), torch.tensor([3, 0, 4, 1, 2])
    generator = torch.Generator().manual_seed(2)
    a, v = (torch.randn(6, CATEGORIES, generator=generator, dtype=torch.float64) for _ in range(2))
    code = kind.hard(a)
    for function in (
        lambda a, v, z: kind.hard(a),
        lambda a, v, z: kind.score(a, z),
        lambda a, v, z: kind.pull_relaxed(a, v, 0.7),
        lambda a, v, z: kind.pull_chances(a, v),
    ):
        moved = function(a[:, order], v[:, order], code[:, order])
        torch.testing.assert_close(moved, function(a, v, code)[:, order], rtol=1e-12, atol=1e-13)


def test_impossible_categories_are_in_no_set():
    kind = KHot(2)
    logits = bounded(kind, torch.tensor([[[0.4, -torch.inf, 1.0, -0.2]]], dtype=torch.float64))
    left = torch.tensor([[[0.4, 1.0, -0.2]]], dtype=torch.float64)
    p = kind.law(logits, 1.6)[0, 0]
    torch.testing.assert_close(p[[1, 2, 5]], kind.law(left, 1.6)[0, 0])
    assert p[[0, 3, 4]].tolist() == [0, 0, 0]
    torch.testing.assert_close(kind.kl_to_uniform(logits), kind.kl_to_uniform(left))
    found = kind.gradient_of_law(logits, 1.0, kind.law(logits, 1.0), torch.arange(6.0).double()[None, None])
    assert found[0, 0, 1] == 0
    with pytest.raises(ValueError, match=r"logits: expected at least top_k = 2 possible categories.* got 1"):
        bounded(kind, torch.tensor([[0.0, -torch.inf, PADDING]]))
    for wrong in (torch.nan, torch.inf):  # whatever is no logit is left to the check of logits
        assert not bool(bounded(kind, torch.tensor([[0.0, 1.0, wrong]])).isfinite().all())


def test_masked_logits_give_what_the_others_do():
    """-inf as a network gives it: `pull_chances`, of `ste` in a training, was NaN."""
    kind, at = KHot(2), [0, 2, 3, 5]
    a, v = torch.randn(2, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    a[:, [1, 4]] = -torch.inf
    code = kind.hard(a + kind.noise((3, 6), dtype=torch.float64, generator=torch.Generator().manual_seed(8)))
    for function in (
        lambda a, v, z: kind.score(a, z),
        lambda a, v, z: kind.pull_relaxed(a, v, 0.7),
        lambda a, v, z: kind.pull_chances(a, v),
    ):
        found, wanted = function(a, v, code), function(a[:, at], v[:, at], code[:, at])
        torch.testing.assert_close(found[:, at], wanted, rtol=1e-12, atol=1e-14)
        assert bool((found[:, [1, 4]] == 0).all())
    law = kind.law(a, 1.3)
    torch.testing.assert_close(law[law > 0], kind.law(a[:, at], 1.3).flatten())
    gradient = kind.gradient_of_law(a, 1.3, law, torch.arange(15.0, dtype=torch.float64).expand(3, 15))
    assert bool(gradient.isfinite().all() and (gradient[:, [1, 4]] == 0).all())


def test_kl_is_that_of_sets():
    a = torch.randn(3, 2, CATEGORIES, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    p = torch.stack([probabilities(row, 2) for row in a.flatten(0, 1)]).reshape(3, 2, 10)
    torch.testing.assert_close(KHot(2).kl_to_uniform(a), (p * (p * 10).log()).sum((1, 2)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_kl_of_masked_logits_is_that_of_the_others(dtype):
    """Its gradient was NaN at -inf."""
    row = torch.tensor([[0.5, -0.25, 1.0, -0.75]], dtype=dtype)
    masked = torch.tensor([[0.5, -torch.inf, -0.25, 1.0, -torch.inf, -0.75]], dtype=dtype)
    of_row, of_masked = row.clone().requires_grad_(), masked.clone().requires_grad_()
    kl, wanted = KHot(2).kl_to_uniform(of_masked), KHot(2).kl_to_uniform(of_row)
    torch.testing.assert_close(kl, wanted)
    (gradient,) = torch.autograd.grad(kl, of_masked)
    torch.testing.assert_close(gradient[:, [0, 2, 3, 5]], torch.autograd.grad(wanted, of_row)[0])
    assert bool((gradient[:, [1, 4]] == 0).all())
    certain = torch.tensor([[0.5, -torch.inf, -0.25]], dtype=dtype, requires_grad=True)
    kl = KHot(2).kl_to_uniform(certain)
    assert kl == 0
    assert bool((torch.autograd.grad(kl, certain)[0] == 0).all())
    few = masked.clone().requires_grad_()
    kl = KHot(5).kl_to_uniform(few)
    assert bool(kl.isnan() and torch.autograd.grad(kl, few)[0].isnan().any())


@pytest.mark.parametrize("gap", [0.0, 20.0, 40.0, 100.0])
def test_kl_of_an_almost_certain_set_keeps_its_gradient(gap):
    """Through log p of the most probable set, half of the gradient was lost at a gap of 40, and all beyond."""
    row = [gap + 0.3, gap + 0.1, 0.4, -1.0]
    leaf = torch.tensor([row], dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(KHot(2).kl_to_uniform(leaf), leaf)
    log_p = KHot(2).log_law(leaf.detach(), 1.0)[0].tolist()  # a constant more in the losses changes nothing
    wanted = precise_gradient(row, 2, [Decimal(each) for each in log_p])
    torch.testing.assert_close(found[0].tolist(), wanted, rtol=1e-12, atol=0)
    generator = torch.Generator().manual_seed(6)
    leaf = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    torch.autograd.gradcheck(KHot(2).kl_to_uniform, (leaf,))
    torch.autograd.gradgradcheck(KHot(2).kl_to_uniform, (leaf[:1, :1],))


def test_large_arrays_are_computed_in_pieces(monkeypatch):
    kind, a = KHot(2), torch.randn(9, 3, CATEGORIES, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    code, p = kind.hard(a), kind.law(a, 1.0)
    c = torch.arange(10.0).double().expand_as(p)
    whole = [p, kind.score(a, code), kind.gradient_of_law(a, 1.0, p, c), kind.pull_chances(a, a)]
    monkeypatch.setattr("gradlab.k_hot._LEAST", 200)
    rows = []
    score = k_hot._log_and_score
    monkeypatch.setattr(k_hot, "_log_and_score", lambda *some: rows.append(len(some[0])) or score(*some))
    pieces = [kind.law(a, 1.0), kind.score(a, code), kind.gradient_of_law(a, 1.0, p, c), kind.pull_chances(a, a)]
    for one, again in zip(whole, pieces, strict=True):
        torch.testing.assert_close(one, again, rtol=1e-13, atol=1e-15)
    assert max(rows) == 200 // (4 * CATEGORIES)  # arrays of 2^k sets and all categories, larger than 9 * 3 rows are


def test_sizes_are_checked_before_memory_is_taken():
    with pytest.raises(ValueError, match=r"top_k: expected at most 8, .* got 9"):
        KHot(9)
    for bad in (0, -1, 1.5, True, "2"):
        with pytest.raises(ValueError, match=r"^top_k: expected a whole number"):
            KHot(bad)
    with pytest.raises(
        gradlab.errors.SpaceTooLarge, match=f"at most {MOST_CODES:,} sets .*got 409,663,695,276,000, 8 of 256"
    ):
        bounded(KHot(8), torch.zeros(1, 1, 256))


def test_what_is_of_one_hot_codes_refuses_in_a_sentence():
    """So a function that assumes one-hot codes cannot give a number of k-hot ones."""
    kind, a = KHot(2), torch.zeros(1, 4)
    names = [name for name in vars(KHot) if vars(KHot)[name] is KHot.refused and name != "refused"]
    assert {"soft", "pullback", "two_category", "jacobian", "pull_into"} <= set(names)
    for name in names:
        with pytest.raises(ValueError, match="latents: expected categorical or binary ones, got k-hot ones"):
            getattr(kind, name)(a, a, a)
    assert [one.one_hot for one in (BINARY, CATEGORICAL, kind)] == [True, True, False]
