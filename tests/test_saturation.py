"""Latents that are all but certain, and categories that are impossible: nothing cancels, and no mask is a number."""

import decimal
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import gradlab
from gradlab import cautions, estimators, latents, moments
from gradlab.estimators import evaluation
from gradlab.latents import BINARY, CATEGORICAL

from . import oracles

DIGITS = decimal.Context(prec=700)  # 1 - p may be 1e-300
MASKS = [-60.0, -1e4, -1e8, torch.finfo(torch.float32).min, torch.finfo(torch.float64).min, -math.inf]


def names_for(kind):
    """The estimators whose estimate vanishes with the probability of a category: all but ste-identity, which is v."""
    return [n for n in estimators.names() if kind.name in estimators.find(n).kinds and n != "ste-identity"]


class Fixed(nn.Module):
    """The same logits for every x."""

    def __init__(self, logits, groups=None):
        super().__init__()
        self.logits, self.groups = nn.Parameter(torch.as_tensor(logits, dtype=torch.float64)), groups

    def forward(self, x):
        rows = self.logits.expand(len(x), *self.logits.shape)
        if self.groups is None:
            return rows
        return {name: rows[:, i : i + 1, :n] for i, (name, (_, n)) in enumerate(self.groups.items())}


class Multilinear(nn.Module):
    """f(z) = sum over configurations of table[z]: a table of losses at the codes, differentiable between them."""

    def __init__(self, table, binary):
        super().__init__()
        self.table, self.binary = nn.Parameter(torch.as_tensor(table, dtype=torch.float64)), binary

    def forward(self, z):
        if isinstance(z, dict):
            codes = [code[:, 0] for code in z.values()]
        elif self.binary:
            codes = torch.stack([z, 1 - z], -1).unbind(1)
        else:
            codes = z.unbind(1)
        f = self.table.expand(len(codes[0]), *self.table.shape)
        for code in codes:
            f = torch.einsum("nk...,nk->n...", f, code)
        return f[:, None]


def model_of(logits, table, binary=False, groups=None):
    logits, table = torch.as_tensor(logits, dtype=torch.float64), torch.as_tensor(table, dtype=torch.float64)
    shape = {"groups": groups} if groups else {"latents": table.ndim, "categories": max(table.shape), "binary": binary}
    encoder, decoder = Fixed(logits, groups), Multilinear(table, binary)
    return gradlab.LatentModel(encoder, decoder, likelihood=lambda parameters, x: parameters[:, 0], **shape)


X = torch.zeros(1, 2, dtype=torch.float64)


def in_many_digits(pairs, table, t):
    """Gradient at logits (latent, category), each latent of its own categories, by enumeration."""
    with decimal.localcontext(DIGITS):
        t = decimal.Decimal(t)
        p = []
        for row in pairs:
            weights = [((decimal.Decimal(l) - decimal.Decimal(max(row))) / t).exp() for l in row]
            p.append([w / sum(weights) for w in weights])
        joint = {}
        for code in itertools.product(*(range(len(row)) for row in pairs)):
            weight = math.prod((p[i][k] for i, k in enumerate(code)), start=decimal.Decimal(1))
            joint[code] = weight, decimal.Decimal(float(table[code]))
        mean = sum(w * f for w, f in joint.values())
        gradient = []
        for i, row in enumerate(pairs):
            of = [sum(w * f for code, (w, f) in joint.items() if code[i] == k) for k in range(len(row))]
            gradient.append([float((of[k] - p[i][k] * mean) / t) for k in range(len(row))])
        return gradient


def case(seed, kind):
    """Logits (latent, category) or (latent,), their pairs for the oracle, and a table of losses."""
    generator = torch.Generator().manual_seed(seed)
    scale = 10 ** float(2.3 * torch.rand((), generator=generator) - 0.3)
    counts = {"categorical": (3, 3), "binary": (2, 2, 2), "groups": (4, 2, 3), "one": (5,)}[kind]
    table = 3 * torch.randn(counts, generator=generator, dtype=torch.float64) + 100 * (seed % 2)
    if kind == "binary":
        logits = scale * torch.randn(3, generator=generator, dtype=torch.float64)
        return logits, [[l, 0.0] for l in logits.tolist()], table
    logits = scale * torch.randn(len(counts), max(counts), generator=generator, dtype=torch.float64)
    return logits, [row[:n] for row, n in zip(logits.tolist(), counts, strict=True)], table


def made(seed, kind):
    logits, pairs, table = case(seed, kind)
    groups = {f"group{i}": (1, n) for i, n in enumerate(table.shape)} if kind == "groups" else None
    return model_of(logits, table, kind == "binary", groups), pairs, table


@pytest.mark.parametrize("t", [0.06, 0.05, 0.02])
def test_two_categories(t):
    """p_1 (c_1 - c) with 1 - p_1 = 3e-15 was 0.2 % off at t = 0.06, and 0 from there on."""
    model = model_of([[2.0, 0.0]], [1.3, -0.7])
    found = gradlab.exact_gradient(model, X, tf=t)[0, 0].tolist()
    assert found == pytest.approx(in_many_digits([[2.0, 0.0]], torch.tensor([1.3, -0.7]).double(), t)[0], rel=1e-13)
    assert found[0] == -found[1]


@pytest.mark.parametrize("kind", ["categorical", "binary", "groups", "one"])
@pytest.mark.parametrize("t", [0.3, 1.0])
@pytest.mark.parametrize("seeds", [range(6), pytest.param(range(6, 60), marks=pytest.mark.deep)], ids=["few", "many"])
def test_every_coordinate_to_full_precision(kind, t, seeds):
    for seed in seeds:
        model, pairs, table = made(seed, kind)
        found, bound = gradlab.exact_gradient(model, X, tf=t, return_error=True)
        single, bound_of_single = gradlab.exact_gradient(model, X, tf=t, return_error=True, dtype=torch.float32)
        wanted = in_many_digits(pairs, table, t)
        exact = torch.zeros_like(found)
        for latent, row in enumerate(wanted):
            if kind == "binary":
                exact[0, latent] = row[0]
            else:
                exact[0, latent, : len(row)] = torch.tensor(row, dtype=torch.float64)
        # losses of 100 that differ by 3 have lost two digits
        torch.testing.assert_close(found, exact, rtol=1e-11, atol=1e-290)
        size = float(exact.abs().max())  # the squares of some would underflow
        for off, most in ((found - exact, bound), (single - exact, bound_of_single)):
            assert float((off / size).norm()) <= float(most) / size
        assert float(bound_of_single) <= 1e-3 * size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tf", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("name", [n for n in estimators.names() if "categorical" in estimators.find(n).kinds])
def test_masks_are_all_alike(name, tf, dtype):
    """An estimator sees no number where a category is impossible, whatever stands for that."""
    generator = torch.Generator().manual_seed(2)
    e = estimators.get(name).at(tf, 0.7)
    plain = torch.randn(2, 3, 4, generator=generator, dtype=dtype)
    noise = CATEGORICAL.noise((e.noise_arrays, 5, *plain.shape), dtype=dtype, generator=generator)
    table = torch.randn(4**3, 2, generator=generator, dtype=dtype)
    slope = torch.randn(2, 3, 4, generator=generator, dtype=dtype)
    found = []
    for mask in MASKS:
        logits = plain.clone()
        logits[:, 0, 1] = logits[0, 2, 3] = max(mask, torch.finfo(dtype).min) if math.isfinite(mask) else mask
        points = evaluation.points_of(e, CATEGORICAL, logits, noise)
        loss = (points * slope).sum((-1, -2)).cos()
        if e.all_configurations:
            loss = table[:, None].expand(-1, 5, -1)
        derivative = slope * points.sin()
        found.append(evaluation.estimate_of(e, CATEGORICAL, logits, noise, points, loss, derivative))
    tolerance = 100 * torch.finfo(dtype).eps
    for other in found[2:]:
        torch.testing.assert_close(other, found[1], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)  # exp(-30) at tf = 2


@pytest.mark.parametrize(
    ("tf", "weights"), [(0.5, torch.float64), pytest.param(2.0, torch.float32, marks=pytest.mark.deep)]
)
def test_figures_are_the_same_under_every_mask(tf, weights):
    table = torch.linspace(-1, 2, 9, dtype=torch.float64).cos().reshape(3, 3)
    every = names_for(CATEGORICAL)
    integrated = [n for n in every if moments.supported(estimators.get(n))]
    found = []
    for mask in (-60.0, torch.finfo(torch.float64).min, -math.inf):
        logits = torch.tensor([[0.3, mask, -0.4], [0.1, 0.2, mask]], dtype=torch.float64)
        model = model_of(logits.clamp(min=torch.finfo(weights).min) if math.isfinite(mask) else logits, table)
        model = model.to(weights)
        figures = [gradlab.exact_gradient(model, X, tf=tf, target=target) for target in ("sampled", "model")]
        exact = {"estimator": integrated, "moments": "exact", "draws": None}
        for options in ({"estimator": every}, exact, {"kl": True}):
            ds = gradlab.bias(model, X, tf, [0.5, 2.0], **{"draws": 64} | options)
            figures += [torch.tensor(ds[name].values) for name in ("mean_gradient", "std_gradient")]
        for options in ({"wrt": "encoder"}, {"reference": "rloo"}):
            ds = gradlab.bias(model, X, tf, [0.5, 2.0], draws=64, estimator=["ste", "reinmax"], **options)
            figures += [torch.tensor(ds[name].values) for name in ("relative_bias_debiased", "relative_std")]
        figures.append(torch.tensor(gradlab.gap(model, X, tf, [0.5, 2.0], draws=8).gap_per_example.values))
        found.append(torch.cat([f.flatten() for f in figures]))
    assert found[0].isfinite().all()
    rtol = 1e-4 if weights == torch.float32 else 1e-9
    for other in found[2:]:
        torch.testing.assert_close(other, found[1], rtol=rtol, atol=rtol)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [CATEGORICAL, BINARY], ids=lambda kind: kind.name)
def test_the_surrogate_loss_takes_all_masks_alike(kind, dtype):
    """`gumbel-rao` and `rebar` gave NaN for units at finfo.min or -inf, and the loss itself was NaN beside -inf."""
    for name in names_for(kind):
        found = []
        for mask in MASKS:
            logits = torch.tensor([[[0.3, mask, -0.6], [0.5, -1.0, 0.2]]], dtype=torch.float64)
            logits = (logits if kind is CATEGORICAL else logits[:, 0]).to(dtype).requires_grad_()
            e = estimators.get(name, tf=0.7)
            generator = torch.Generator().manual_seed(2)
            loss = estimators.surrogate_loss(
                e, logits, lambda z: (z.flatten(1) - 0.3).square().sum(1), binary=kind is BINARY, generator=generator
            )
            assert bool(torch.isfinite(loss).all()), (name, mask)
            loss.sum().backward()
            found.append(logits.grad.double())
        for mask, gradient in zip(MASKS, found, strict=True):
            assert bool(torch.isfinite(gradient).all()), (name, mask)
            torch.testing.assert_close(gradient, found[0], rtol=8 * torch.finfo(dtype).eps, atol=1e-20)


@pytest.mark.parametrize("mask", [-1e4, -math.inf])
def test_half_precision_takes_masks_at_small_temperatures(mask):
    """The mask was -16,376, which 0.05 divides to an infinity; then estimates were refused as not finite."""
    model = model_of([0.4, mask, -0.3], torch.linspace(-3, 4, 8).cos().reshape(2, 2, 2), binary=True)
    names = [name for name in estimators.names() if "binary" in estimators.find(name).kinds]
    with pytest.warns(cautions.SamplingWarning, match="At tf = 0.05, 1 of 1 examples are near-deterministic"):
        ds = gradlab.bias(model, X, 0.05, 0.7, estimator=names, draws=32, compute=gradlab.Compute(dtype=torch.float16))
    assert bool(np.isfinite(ds.mean_gradient.values).all())


@pytest.mark.parametrize("size", [200.0, 1e30, math.inf])
def test_binary_units_may_be_certain(size):
    table = torch.linspace(-1, 2, 8, dtype=torch.float64).cos().reshape(2, 2, 2)
    found = gradlab.exact_gradient(model_of([0.4, size, -size], table, binary=True), X)
    alone = gradlab.exact_gradient(model_of([0.4], table[:, 0, 1], binary=True), X)
    torch.testing.assert_close(found[0, 0], alone[0, 0])
    ds = gradlab.bias(model_of([0.4, size, -size], table, binary=True), X, estimator=names_for(BINARY), draws=32)
    assert bool((abs(ds.mean_gradient[..., 1:]) < 1e-80).all())


@pytest.mark.parametrize("kind", [CATEGORICAL, BINARY], ids=lambda kind: kind.name)
@pytest.mark.parametrize("mask", [-1e8, torch.finfo(torch.float64).min, -math.inf])
def test_ste_identity_is_zero_at_what_is_impossible_and_nowhere_else(kind, mask):
    logits = torch.tensor([[[0.3, mask, -0.6], [0.5, -60.0, 0.2]]], dtype=torch.float64)
    logits = logits if kind is CATEGORICAL else logits[:, 0]
    v = torch.ones_like(logits)[None]
    found = evaluation.estimate_of(estimators.get("ste-identity"), kind, logits, v[:1], v, None, v)
    assert torch.equal(found, (logits > -1e3).double())


def test_what_no_category_is_left_of_is_refused_by_name():
    table = torch.zeros(3, 3)
    for bad in (-math.inf, math.nan, math.inf):
        logits = torch.zeros(2, 3)
        logits[1] = bad
        with pytest.raises(
            ValueError,
            match=r"logits: expected finite values, got .* at index \(0, 1, 0\).*-inf for an impossible category",
        ):
            gradlab.exact_gradient(model_of(logits, table), X)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kl_and_its_gradient_leave_impossible_categories_out(dtype):
    leaf = torch.tensor([[[0.3, -math.inf, -0.4], [0.1, torch.finfo(dtype).min, 0.2]]], dtype=dtype, requires_grad=True)
    two = leaf.detach()[..., ::2].clone()
    two[0, 1] = torch.tensor([0.1, 0.2])
    kl = CATEGORICAL.kl_to_uniform(leaf)
    torch.testing.assert_close(kl.detach(), CATEGORICAL.kl_to_uniform(two))
    (gradient,) = torch.autograd.grad(kl.sum(), leaf)
    assert gradient.isfinite().all()
    assert gradient[0, 0, 1] == gradient[0, 1, 1] == 0


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-13), (torch.float32, 1e-4)])
@pytest.mark.parametrize("gap", [0.0, 5.0, 20.0, 40.0, 80.0])
def test_kl_of_an_almost_certain_category_keeps_its_gradient(gap, dtype, rtol):
    """Through log p of the largest, float64 lost 38 % of its gradient at a gap of 40, float32 at 17, and then all."""
    row = torch.tensor([gap, 0.0, 0.25, -1.0], dtype=dtype)
    two = torch.tensor([gap, gap, 0.25, gap - 1], dtype=dtype)  # of whose gradient only rounding was left
    tied = torch.tensor([gap, gap, 0.25], dtype=dtype)
    cases = [(CATEGORICAL, a, a.tolist()) for a in (row, two, tied)]
    cases += [(BINARY, row[:1], [gap, 0.0]), (BINARY, -row[:1], [-gap, 0.0])]
    for kind, logits, pairs in cases:
        leaf = logits.clone().requires_grad_()
        (found,) = torch.autograd.grad(kind.kl_to_uniform(leaf if kind is BINARY else leaf[None]).sum(), leaf)
        with decimal.localcontext(DIGITS):
            weights = [decimal.Decimal(l).exp() for l in pairs]
            p = [w / sum(weights) for w in weights]
            mean = sum(each * each.ln() for each in p)
            wanted = [float(each * (each.ln() - mean)) for each in p][: len(leaf)]  # p_i (log p_i - sum_j p_j log p_j)
        torch.testing.assert_close(found.double(), torch.tensor(wanted, dtype=torch.float64), rtol=rtol, atol=0)


def test_kl_of_categories_alike_has_a_gradient_of_0():
    """Also of two that are the largest alike, whichever of them the others are compared with."""
    leaf = torch.tensor([[[2.0, 2.0, -1.0]]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(CATEGORICAL.kl_to_uniform(leaf).sum(), leaf)
    assert gradient[0, 0, 0] == pytest.approx(float(gradient[0, 0, 1]), rel=1e-14)
    (gradient,) = torch.autograd.grad(CATEGORICAL.kl_to_uniform(0 * leaf + 3).sum(), leaf)
    assert bool((gradient == 0).all())


@pytest.mark.parametrize("logits", [[math.inf, 0.0, 1.0], [math.nan, 0.0, 1.0], 3 * [-math.inf]])
def test_kl_of_what_is_no_law_is_no_number(logits):
    assert math.isnan(float(CATEGORICAL.kl_to_uniform(torch.tensor([logits]))))


# --- estimates where the code is all but certain ---


GAPS = [5.0, 40.0, 120.0, 600.0]


@pytest.mark.filterwarnings("ignore::gradlab.cautions.SamplingWarning")  # that all is certain, from a gap of 40 on
@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("name", ["ste", "zgr", "reinmax", "reinforce", "rloo", "exact"])
@pytest.mark.parametrize("kind", ["categorical", "binary on", "binary off"])
def test_exact_moments_of_what_is_exact_for_linear_losses(kind, name, gap):
    """Their mean is the exact gradient, however small; 1 - p loses it where p rounds to 1."""
    if kind == "categorical":
        model = model_of([[0.0, -gap, -gap - 1]], [1.3, -0.7, 0.4])
    else:
        model = model_of([gap if kind == "binary on" else -gap], [1.3, -0.7], binary=True)
    exact = gradlab.exact_gradient(model, X)
    assert float(exact.abs().max()) > 0
    found = gradlab.bias(model, X, estimator=name, moments="exact")
    torch.testing.assert_close(torch.tensor(found.mean_gradient.values).reshape(exact.shape), exact, rtol=1e-10, atol=0)


@pytest.mark.parametrize("route", ["pairs", "draws"])
@pytest.mark.parametrize("kind", ["categorical", "binary"])
def test_single_precision_keeps_the_direction_of_small_estimates(kind, route):
    """STE at tb = 0.05: the winner's part, 1 - q = 1e-13, is what rounding leaves unless v is centred."""
    if kind == "categorical":
        logits, table = [[1.5, 0.0, 0.2], [0.1, -1.4, -1.7]], torch.linspace(-3, 4, 9).cos().reshape(3, 3)
    else:
        logits, table = [1.5, -1.6, 1.7], torch.linspace(-3, 4, 8).cos().reshape(2, 2, 2)
    found = []
    for dtype in (torch.float64, torch.float32):
        model = model_of(logits, table, kind == "binary")
        ds = gradlab.bias(
            model,
            X,
            1.0,
            0.05,
            estimator="ste",
            compute=gradlab.Compute(dtype=dtype),
            moments=gradlab.MonteCarlo(draws=64, decoder=route),
        )
        found.append(torch.tensor(ds.mean_gradient.values))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", [CATEGORICAL, BINARY], ids=lambda kind: kind.name)
def test_score_and_pullback_to_full_precision(kind):
    """Against many digits, at logits from 0 to 700."""
    generator = torch.Generator().manual_seed(4)
    for scale in (1.0, 30.0, 300.0):
        a = scale * torch.randn(6, 4, generator=generator, dtype=torch.float64)
        v = 5 + torch.randn(6, 4, generator=generator, dtype=torch.float64)
        if kind is BINARY:
            a, v = a[:, 0], v[:, 0]
        code = kind.hard(a + kind.noise(tuple(a.shape), dtype=torch.float64, generator=generator))
        score, pulled = kind.score(a, code), kind.pullback_at(a, v)
        for i in range(6):
            row = [a[i], 0.0] if kind is BINARY else a[i].tolist()
            slope = [v[i], 0.0] if kind is BINARY else v[i].tolist()
            on = [code[i], 1 - code[i]] if kind is BINARY else code[i].tolist()
            wanted = reference_pullback(row, slope), reference_score(row, on)
            for found, exact in zip((pulled[i], score[i]), wanted, strict=True):
                exact = torch.tensor(exact[:1] if kind is BINARY else exact, dtype=torch.float64)
                torch.testing.assert_close(found.reshape(-1), exact, rtol=1e-11, atol=1e-290)


def reference_probabilities(row):
    weights = [(decimal.Decimal(float(l)) - decimal.Decimal(float(max(row)))).exp() for l in row]
    return [w / sum(weights) for w in weights]


def reference_pullback(row, v):
    with decimal.localcontext(DIGITS):
        p = reference_probabilities(row)
        mean = sum(a * decimal.Decimal(float(b)) for a, b in zip(p, v, strict=True))
        return [float(a * (decimal.Decimal(float(b)) - mean)) for a, b in zip(p, v, strict=True)]


def reference_score(row, code):
    with decimal.localcontext(DIGITS):
        return [float(int(c) - p) for c, p in zip(code, reference_probabilities(row), strict=True)]


def test_bounded_leaves_logits_alone():
    logits = torch.tensor([[[3.0, -1e8, 2.0], [-2e9, -2e9 - 1, -math.inf]]], dtype=torch.float64)
    found = latents.bounded(CATEGORICAL, logits)
    assert torch.equal(found[0, 0], torch.tensor([3.0, 3.0 - 1e8, 2.0], dtype=torch.float64))
    assert torch.equal(found[0, 1, :2], logits[0, 1, :2])
    assert torch.equal(torch.softmax(found, -1), torch.softmax(logits, -1))


def test_the_oracle_is_right_where_autograd_is():
    logits, pairs, table = case(3, "categorical")
    model = model_of(logits / 30, table)
    wanted = torch.tensor(in_many_digits((logits / 30).tolist(), table, 1.0), dtype=torch.float64)
    assert oracles.relative_error(wanted[None], oracles.exact_gradient(model, X, 1.0, "sampled")) < 1e-12
    assert len(pairs) == 2


def in_many_digits_pulled(a, v):
    """J(softmax(a)) v."""
    with decimal.localcontext(DIGITS):
        weights = [decimal.Decimal(number).exp() for number in a]
        q = [w / sum(weights) for w in weights]
        v = [decimal.Decimal(number) for number in v]
        mean = sum(x * y for x, y in zip(q, v, strict=True))
        return [float(x * (y - mean)) for x, y in zip(q, v, strict=True)]


LAYERS = {
    "decoupled": (gradlab.decoupled_st_gumbel_softmax, lambda l, g, tf, tb: l / tb + g, lambda tf, tb: tb),
    "relaxed": (estimators.gumbel_softmax, lambda l, g, tf, tb: (l / tf + g) / tb, lambda tf, tb: tf * tb),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("dtype", "gap"), [(torch.float32, 20.0), (torch.float64, 40.0)])
def test_layers_keep_the_gradient_of_an_almost_certain_category(name, dtype, gap):
    """The backward pass of softmax, q (v - q.v), lost half of the mean, and of some draws left 300 times their size."""
    layer, perturbed, scale = LAYERS[name]
    draws, tf, tb = 12, 2.0, 1.0
    logits = torch.tensor([gap, 0.3, -0.5], dtype=dtype).expand(draws, 3).clone().requires_grad_()
    v = torch.tensor([5.1, 6.3, 3.9], dtype=dtype)
    given = tf, tb, torch.Generator().manual_seed(4)
    (layer(logits, *given) @ v).sum().backward()
    g = CATEGORICAL.noise((draws, 3), dtype=dtype, generator=given[2].manual_seed(4))
    for a, found in zip(perturbed(logits.detach(), g, tf, tb).tolist(), logits.grad, strict=True):
        wanted = torch.tensor(in_many_digits_pulled(a, v.tolist()), dtype=torch.float64) / scale(tf, tb)
        # the perturbed logits are rounded to eps times their size
        rtol = 40 * gap * torch.finfo(dtype).eps
        torch.testing.assert_close(found.double(), wanted, rtol=rtol, atol=rtol * float(wanted.abs().max()))


@pytest.mark.parametrize("name", ["gumbel-softmax", "rebar"])
def test_relaxed_units_keep_their_gradient_on_both_sides(name):
    """From y, the share 1 - y of a unit that is almost on was lost in float32 from logits of 17 on, up to all of it."""
    e = estimators.get(name, tf=1.0) if name == "rebar" else estimators.get(name, tf=1.0, tb=1.0)
    logits = torch.tensor([[18.0, -18.0, 25.0, -25.0, 40.0, -40.0]])
    noise = BINARY.noise((e.noise_arrays, 4, 1, 6), dtype=torch.float32, generator=torch.Generator().manual_seed(5))
    found = []
    for dtype in (torch.float32, torch.float64):
        points = evaluation.points_of(e, BINARY, logits.to(dtype), noise.to(dtype))
        ones = torch.ones_like(points)  # equal losses: of rebar, what is differentiated is left
        found.append(evaluation.estimate_of(e, BINARY, logits.to(dtype), noise.to(dtype), points, ones[..., 0], ones))
    torch.testing.assert_close(found[0].double(), found[1], rtol=2e-4, atol=0)


@pytest.mark.parametrize(("binary", "size"), [(False, 1.0), (True, 1.0), (False, 1e25)])
def test_gaps_of_single_precision_see_small_and_large_gradients(binary, size):
    """Squares of gradients below 1e-19 were 0, and their examples left out as if they had none; above 1e19 infinite."""
    logits = [3.0, 2.0, -2.5] if binary else [[3.0, 0.0, -0.4], [0.1, 2.4, -1.0]]
    table = torch.linspace(-1, 2, 8 if binary else 9, dtype=torch.float64).cos().reshape([2] * 3 if binary else [3, 3])
    model = model_of(logits, size * table, binary=binary)
    single, double = (
        gradlab.gap(model, X, 1.0, 0.05, draws=64, compute=gradlab.Compute(dtype=dtype))
        for dtype in (torch.float32, torch.float64)
    )
    assert float(single.undefined.max()) == 0
    for name in ("cosine", "relative_gap"):
        np.testing.assert_allclose(single[name], double[name], rtol=1e-4)
