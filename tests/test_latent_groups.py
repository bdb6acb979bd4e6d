"""Shapes of latents and named groups: against enumeration written here, and against the same model without groups."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import gradlab
from gradlab import estimators
from gradlab.attributes import groups
from gradlab.latents import PADDING, configurations, counts_of_categories

from . import oracles

SIZES = {"content": (2, 4), "style": (2, 3), "switch": (1, 2)}
COUNTS = (4, 4, 3, 3, 2)
TEMPERATURES = (0.4, 1.6)


class Encoder(nn.Module):
    """Logits by group, as a dict or, `listed`, as a tuple of flat tensors."""

    def __init__(self, sizes, listed=False):
        super().__init__()
        self.sizes, self.listed = sizes, listed
        self.heads = nn.ModuleDict({name: nn.Linear(6, math.prod(size)) for name, size in sizes.items()})

    def forward(self, x):
        found = {name: head(x) for name, head in self.heads.items()}
        if self.listed:
            return tuple(found.values())
        return {name: out.reshape(len(x), *self.sizes[name]) for name, out in reversed(found.items())}


class Decoder(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes
        self.out = nn.Sequential(nn.Linear(sum(map(math.prod, sizes.values())), 9), nn.Tanh(), nn.Linear(9, 6))

    def forward(self, codes):
        assert {name: tuple(part.shape[1:]) for name, part in codes.items()} == self.sizes
        return self.out(torch.cat([codes[name].flatten(1) for name in self.sizes], 1))


def grouped(sizes=SIZES, likelihood="bernoulli", listed=False, seed=0):
    torch.manual_seed(seed)
    model = gradlab.LatentModel(Encoder(sizes, listed), Decoder(sizes), groups=sizes, likelihood=likelihood).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.5)
    return model, torch.rand(4, 6, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _state():
    with torch.random.fork_rng():
        yield


def heavy_tailed(o, x):
    return torch.log1p((o - x).square() * torch.linspace(0.5, 2, 6, dtype=o.dtype)).sum(1)


def enumerated(model, x, tf, target):
    """Gradients by group, dict of (example, latents, categories): autograd of sum of probability times loss."""
    leaves = {name: out.detach().clone().requires_grad_() for name, out in model.encoder(x).items()}
    t = tf if target == "sampled" else 1.0
    expected = torch.zeros((), dtype=x.dtype)
    choices = [range(k) for _, (count, k) in SIZES.items() for _ in range(count)]
    for chosen in itertools.product(*choices):
        rest, codes, log_p = list(chosen), {}, 0.0
        for name, (count, k) in SIZES.items():
            mine = [rest.pop(0) for _ in range(count)]
            codes[name] = torch.eye(k, dtype=x.dtype)[mine].expand(len(x), count, k)
            log_p = log_p + (torch.log_softmax(leaves[name] / t, -1) * codes[name]).sum((1, 2))
        with torch.no_grad():
            o = model.decoder(codes)
            if callable(model.likelihood) and model.likelihood is heavy_tailed:
                loss = heavy_tailed(o, x)
            else:
                loss = nn.functional.binary_cross_entropy_with_logits(o, x, reduction="none").sum(1)
        expected = expected + (log_p.exp() * loss).sum()
    return dict(zip(leaves, torch.autograd.grad(expected, list(leaves.values())), strict=True))


def padded(by_group):
    """(example, latent, category) of gradients by group, 0 where a latent has no such category."""
    most = max(k for _, k in SIZES.values())
    return torch.cat([nn.functional.pad(by_group[n], (0, most - k)) for n, (_, k) in SIZES.items()], 1)


def absent():
    return torch.arange(max(COUNTS)) >= torch.tensor(COUNTS)[:, None]  # (latent, category)


@pytest.mark.parametrize("likelihood", ["bernoulli", heavy_tailed], ids=["bernoulli", "own"])
def test_exact_gradient_of_groups_is_that_of_enumeration(likelihood):
    model, x = grouped(likelihood=likelihood)
    assert model.configurations == 4**2 * 3**2 * 2
    for tf, target in itertools.product(TEMPERATURES, ("sampled", "model")):
        wanted = padded(enumerated(model, x, tf, target))
        for memory in (1, 6000, 2**28):
            found = gradlab.exact_gradient(model, x, tf, target, memory=memory)
            assert oracles.relative_error(found, wanted) < 1e-12, memory
            assert found[:, absent()].abs().max() == 0


def test_kl_of_groups_is_to_the_uniform_law_on_their_own_categories():
    model, x = grouped()
    leaves = {name: out.detach().requires_grad_() for name, out in model.encoder(x).items()}
    laws = [torch.distributions.Categorical(logits=leaf) for leaf in leaves.values()]
    uniform = [torch.distributions.Categorical(logits=torch.zeros_like(leaf)) for leaf in leaves.values()]
    divergence = sum(torch.distributions.kl_divergence(p, u).sum(1) for p, u in zip(laws, uniform, strict=True))
    torch.testing.assert_close(model.kind.kl_to_uniform(model.logits(x)), divergence.detach(), rtol=1e-12, atol=0)
    wanted = padded(dict(zip(leaves, torch.autograd.grad(divergence.sum(), list(leaves.values())), strict=True)))
    found = gradlab.exact_gradient(model, x, 1.6, kl=True) - gradlab.exact_gradient(model, x, 1.6)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def all_categorical():
    return [name for name in estimators.names() if "categorical" in estimators.get(name).kinds]


@pytest.mark.filterwarnings("ignore::gradlab.cautions.SamplingWarning")  # of tf = 0.01, where all is but certain
def test_every_estimator_is_finite_on_groups_and_0_where_there_is_no_category():
    """From tiny temperatures to 1000, in float32, whose range the padding might leave."""
    model, x = grouped()
    for tf, tb in ((1e-2, 1e-2), (1.6, 1000.0), (1000.0, 1.6)):
        ds = gradlab.bias(model.float(), x.float(), tf, tb, estimator=all_categorical(), draws=8)
        for name in ("exact_gradient", "mean_gradient", "std_gradient"):
            values = ds[name].values
            assert np.isfinite(values).all(), (name, tf, tb)
            assert not values[..., absent().numpy()].any(), (name, tf, tb)
    assert ds.group.values.tolist() == ["content"] * 2 + ["style"] * 2 + ["switch"]
    assert groups(ds.attrs) == [("content", 2, 4), ("style", 2, 3), ("switch", 1, 2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_padding_has_no_probability_at_any_temperature(dtype):
    logits = torch.tensor([[3.0, -2e4, PADDING]], dtype=dtype)
    for t in (1e-3, 0.3, 1.0, 1000.0, 1e5):
        p = torch.softmax(logits / t, -1)
        assert p[0, 2] == 0
        assert torch.isfinite(torch.log_softmax(logits / t, -1)).all()
    assert torch.exp(torch.tensor(PADDING / 1e6, dtype=dtype) + 200) > 0  # there it would not hold


def test_exact_moments_of_groups_agree_with_draws():
    """16,384 draws: 9 x 4 x 17 means within 5.3 standard errors, 8 norms within 5: fails by chance at 2e-4."""
    model, x = grouped()
    names = [
        "decoupled-st-gs",
        "st-gs:convention=jang",
        "gumbel-rao:k=2",
        "reinmax",
        "rloo",
        "leg",
        "gst",
        "zgr",
        "exact",
    ]
    options = {"tf": 1.6, "tb": 0.7, "estimator": [estimators.parse(name) for name in names]}
    exact = gradlab.bias(model, x, **options, moments="exact")
    drawn = gradlab.bias(model, x, **options, draws=16384)
    for name in ("mean_gradient", "std_gradient"):
        assert np.isfinite(exact[name]).all()
        assert not exact[name].values[..., absent().numpy()].any()
    off = (drawn.mean_gradient - exact.mean_gradient) / (drawn.std_gradient / 128 + 1e-12)
    assert float(abs(off).max()) < 5.3
    error = (drawn.std_norm_high - drawn.std_norm_low) / 2 / 2.04  # the quantile of Student's t
    assert (abs(drawn.std_norm - exact.std_norm)[:-1] <= 5 * error[:-1]).all()
    assert float(error[:-1].max() / exact.std_norm.max()) < 0.02
    np.testing.assert_allclose([drawn.std_norm[-1], exact.std_norm[-1]], 0, atol=1e-15)  # the estimator exact
    np.testing.assert_allclose(drawn.relative_bias[-1], 0, atol=1e-12)
    planted = off + 0.1 * exact.mean_gradient / (drawn.std_gradient / 128 + 1e-12)
    assert float(abs(planted)[:-1].max()) > 5.3  # would be found


def test_a_reference_serves_groups():
    """Bias without enumeration, at 16,384 draws, within four half widths of a 95 % interval: fails at 1e-9."""
    model, x = grouped()
    wanted = gradlab.bias(model, x, 1.6, 0.7, moments="exact").relative_bias_debiased.item()
    found = gradlab.bias(model, x, 1.6, 0.7, reference="rloo", draws=16384)
    value, low, high = (found[f"relative_bias_debiased{end}"].item() for end in ("", "_low", "_high"))
    assert high - low < 0.5 * value
    assert abs(value - wanted) < 2 * (high - low)


def test_routes_and_gap_agree_on_groups():
    model, x = grouped()
    kept = [
        gradlab.bias(model, x, 1.6, [0.5, 2.0], moments=gradlab.MonteCarlo(draws=64, decoder=route))
        for route in ("table", "pairs", "draws")
    ]
    for other in kept[1:]:
        np.testing.assert_allclose(other.mean_gradient, kept[0].mean_gradient, rtol=1e-9, atol=1e-13)
    ds = gradlab.gap(model, x, [0.4, 1000.0], [0.5, 1000.0], draws=16)
    assert all(np.isfinite(ds[name]).all() for name in ("gap", "relative_gap", "cosine"))


def test_equal_groups_are_the_model_without_groups():
    sizes = {"a": (2, 3), "b": (1, 3)}
    model, x = grouped(sizes)

    class Apart(nn.Module):
        def forward(self, codes):
            return model.decoder({"a": codes[:, :2], "b": codes[:, 2:]})

    class Joined(nn.Module):
        def forward(self, x):
            return torch.cat([model.encoder(x)["a"], model.encoder(x)["b"]], 1)

    plain = gradlab.LatentModel(Joined(), Apart(), latents=3, categories=3)
    options = {"tf": [0.5, 1.6], "draws": 64, "target": "both", "kl": True}
    found, wanted = (gradlab.bias(m, x, **options) for m in (model, plain))
    assert found.drop_vars("group").equals(wanted)
    assert gradlab.gap(model, x, draws=8).equals(gradlab.gap(plain, x, draws=8))


def test_a_tuple_of_flat_logits_does_as_well():
    (by_name, x), (listed, _) = grouped(), grouped(listed=True)
    assert torch.equal(by_name.logits(x), listed.logits(x))


class Gives(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(len(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda n: torch.zeros(n, 5, 4),
            "encoder: expected a dict of logits by group, content, style, switch, got a Tensor",
        ),
        (
            lambda n: {"content": torch.zeros(n, 2, 4)},
            "encoder: expected a dict of logits by group, content, style, switch, got a dict of content",
        ),
        (
            lambda n: [torch.zeros(n, 8), torch.zeros(n, 6), torch.zeros(n, 3)],
            "for group 'switch', 1 latents of 2 categories, got torch.float32 of shape (4, 3)",
        ),
        (lambda n: [torch.zeros(n, 8), torch.zeros(n, 6), torch.zeros(n, 2).long()], "got torch.int64 of shape (4, 2)"),
        (
            lambda n: [torch.zeros(n, k).half() for k in (8, 6, 2)],
            "expected torch.float32 for groups of unequal size, got torch.float16",
        ),
    ],
)
def test_logits_that_do_not_fit_the_groups_are_refused(make, message):
    model = gradlab.LatentModel(Gives(make), Decoder(SIZES), groups=SIZES)
    with pytest.raises(ValueError) as error:
        model.logits(torch.zeros(4, 6))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": {}}, "-> (latents, categories), got {}"),
        ({"groups": [("a", (2, 3))]}, "groups: expected a dict name -> (latents, categories), got"),
        ({"groups": {"a": 3}}, "groups: expected (latents, categories) for 'a', got 3"),
        ({"groups": {"a": (2, 1)}}, "groups: categories of 'a': expected a whole number of at least 2, got 1"),
        ({"groups": {"a": (0, 2)}}, "groups: latents of 'a': expected a whole number of at least 1, got 0"),
        ({"groups": {"a": (2, 3)}, "latents": 2}, "groups: expected no latents, categories or binary beside groups"),
        ({"groups": {"a": (2, 2)}, "binary": True}, "groups: expected no latents, categories or binary beside groups"),
        ({}, "latents: expected a whole number of at least 1, got None"),
        ({"latents": (2, 0), "categories": 3}, "latents: expected a whole number of at least 1, got 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError) as error:
        gradlab.LatentModel(nn.Identity(), nn.Identity(), **options)
    assert message in str(error.value)


# --- shapes ---


def grid(encoder):
    """Latents (2, 3) of 4 categories; the decoder sees the grid, categories last."""

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Sequential(nn.Conv2d(4, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(6, 5))

        def forward(self, z):
            assert z.shape[1:] == (2, 3, 4)
            return self.out(z.movedim(-1, 1))

    torch.manual_seed(3)
    return gradlab.LatentModel(encoder, Decoder(), latents=(2, 3), categories=4).double()


@pytest.mark.parametrize("shape", [(24,), (6, 4), (2, 3, 4)])
def test_latents_of_a_shape_are_a_row_to_all_else(shape):
    torch.manual_seed(4)
    linear = nn.Linear(5, 24)
    model = grid(nn.Sequential(linear, nn.Unflatten(1, shape)))
    x = torch.rand(3, 5, dtype=torch.float64)

    class Rows(nn.Module):
        def forward(self, z):
            return model.decoder(z.reshape(-1, 2, 3, 4))

    plain = gradlab.LatentModel(linear, Rows(), latents=6, categories=4)
    assert gradlab.bias(model, x, 1.6, draws=8).equals(gradlab.bias(plain, x, 1.6, draws=8))


def test_logits_that_do_not_fit_the_shape_are_refused():
    with pytest.raises(
        ValueError, match=r"shape \(7, 24\) or .*\(7, 2, 3, 4\) .*, got \(7, 4, 2, 3\); put categories last"
    ):
        grid(Gives(lambda n: torch.zeros(n, 4, 2, 3))).logits(torch.zeros(7, 5))
    with pytest.raises(ValueError, match=r"got \(7, 3, 2, 4\)"):
        grid(Gives(lambda n: torch.zeros(n, 3, 2, 4))).logits(torch.zeros(7, 5))


def test_categories_of_consecutive_configurations_are_counted():
    counts = (3, 2, 4)
    everything = configurations(3, counts, 0, 24)
    for start in range(25):
        for stop in range(start, 25):
            wanted = [
                torch.bincount(of, minlength=n).tolist() for of, n in zip(everything[start:stop].T, counts, strict=True)
            ]
            assert counts_of_categories(counts, range(start, stop)) == wanted
