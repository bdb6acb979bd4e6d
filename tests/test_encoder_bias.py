"""gradlab.bias(wrt="encoder") against a plain autograd loop, a backward pass of the encoder per draw."""

import copy
import itertools

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import gradlab
from gradlab import estimators, sampling
from gradlab.fidelity import encoder_gradients
from gradlab.fidelity.differences import change
from gradlab.metrics import Norms, registry, routes
from gradlab.sampling.batches import empty
from gradlab.statistics import coordinates, jackknife

from . import oracles, problems

DRAWS = 70

METRICS = registry.of_analysis("bias")


def measured(problem, **options):
    given = {"tf": 1.6, "tb": 1.3, "draws": DRAWS, "wrt": "encoder"} | options
    return gradlab.bias(problem.model, problem.x, **given)


def gradients_of(problem, at_logits):
    """Gradient of the mean over examples for each row of gradients at the logits: {name: (row, entry)}."""
    model, x, found = problem.model, problem.x, []
    for row in at_logits:
        model.zero_grad()
        (model.logits(x) * row).flatten(1).sum(1).mean().backward()
        found.append({
            name: torch.zeros(p.numel()) if p.grad is None else p.grad.flatten().clone()
            for name, p in model.encoder.named_parameters() if p.requires_grad
        })  # fmt: skip
    model.zero_grad()
    of = {name: torch.stack([one[name] for one in found]).double().numpy() for name in found[0]}
    return {"all": np.concatenate(list(of.values()), 1)} | of


def draws_of(problem, estimator, draws=DRAWS):
    """Estimates (draw, example, latent[, category]) of the noise that seed 0 gives, one draw at a time."""
    model, x = problem.model, problem.x
    with torch.no_grad():
        logits = model.logits(x)
    noise = sampling.Noise(model.kind, logits, estimator.noise_arrays, draws, 0)
    found = []
    for draw in range(draws):
        g = noise.of(estimator.noise_arrays, draw, draw + 1)[:, 0]
        points = estimator.points(model.kind, logits, g)
        pairs = [model.losses_and_derivatives(z, x) for z in points]
        f, v = (torch.stack(of) for of in zip(*pairs, strict=True))
        found.append(estimator.estimate(model.kind, logits, g, points, f, v))
    return torch.stack(found)


def exact_of(problem, tf=1.6, target="sampled", shift=0.0):
    found = gradients_of(problem, oracles.exact_gradient(problem.model, problem.x, tf, target)[None] + shift)
    return {name: rows[0] for name, rows in found.items()}


def sampled_of(problem, name, tf=1.6, tb=1.3, draws=DRAWS):
    return gradients_of(problem, draws_of(problem, estimators.get(name).at(tf, tb), draws))


def batched(draws):
    """Count, mean and squares by batch, as a plain loop finds them."""
    bounds = sampling.batch_bounds(len(draws))
    parts = [draws[a:b] for a, b in itertools.pairwise(bounds)]
    count = np.array([len(p) for p in parts], float)
    return count, np.stack([p.mean(0) for p in parts]), np.stack([np.square(p - p.mean(0)).sum(0) for p in parts])


def assert_figures(at, exact, draws, share=1.0):
    """The figures of one point and tensor, their ends and replicates, from the gradients of all draws."""
    n, means, variances = jackknife.leave_one_out(*batched(draws))
    norm = np.linalg.norm(exact)
    assert float(at.exact_norm) == pytest.approx(norm, rel=1e-9)
    of = Norms(*coordinates.norms(exact, means))
    for metric, values, *wanted in routes.measured(METRICS, of, share * variances.sum(-1), share * n):
        name = metric.name
        np.testing.assert_allclose(at[name], values[0], rtol=1e-9, atol=1e-9 * norm, err_msg=name)
        ends = [at[f"{name}_low"], at[f"{name}_high"]]
        np.testing.assert_allclose(ends, wanted, rtol=1e-6, atol=1e-6 * norm, err_msg=name)
        if "replicates" in at:
            np.testing.assert_allclose(at.replicates.sel(metric=name), values[1:], rtol=1e-9, atol=1e-9 * norm)


@pytest.fixture(scope="module")
def problem():
    return problems.make("3x5-bernoulli-mlp")


@pytest.fixture(scope="module")
def several(problem):
    return measured(problem, tf=[0.7, 1.6], tb=[0.5, 1.3], estimator=["decoupled-st-gs", "rloo"], target="both")


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "2x7-gaussian-conv", "binary6-bernoulli-mlp"])
@pytest.mark.parametrize("estimator", ["decoupled-st-gs", "rloo", "gumbel-softmax"])
def test_figures_are_those_of_a_loop_over_draws(name, estimator):
    problem = problems.make(name)
    ds = measured(problem, estimator=estimator).isel(tf=0, tb=0)
    draws = sampled_of(problem, estimator)
    exact = exact_of(problem)
    assert list(ds.parameter.values) == ["all", "1.weight", "1.bias", "3.weight", "3.bias"]
    for parameter in ds.parameter.values:
        at = ds.sel(parameter=parameter)
        assert int(at.entries) == draws[parameter].shape[1]
        assert_figures(at, exact[parameter], draws[parameter])


def test_estimators_targets_and_temperatures_have_their_places(problem, several):
    assert several.relative_bias.dims == ("estimator", "target", "tf", "tb", "parameter")
    for name, tf, tb in (("decoupled-st-gs", 0.7, 1.3), ("rloo", 1.6, 0.5)):
        draws = sampled_of(problem, name, tf, tb)
        for target in ("sampled", "model"):
            exact = exact_of(problem, tf, target)
            for parameter in ("all", "3.weight"):
                at = several.sel(estimator=name, tf=tf, tb=tb, target=target, parameter=parameter)
                assert_figures(at, exact[parameter], draws[parameter])


def test_all_of_them_together_are_the_concatenation(several):
    each = several.isel(parameter=slice(1, None))
    for name in ("exact_norm", "mean_norm", "std_norm", "bias_norm"):
        squares = (each[name] ** 2).sum("parameter")
        np.testing.assert_allclose(several[name].sel(parameter="all") ** 2, squares, rtol=1e-9)
    squared = several.squared_bias_debiased
    np.testing.assert_allclose(squared.sel(parameter="all"), each.squared_bias_debiased.sum("parameter"), rtol=1e-9)
    assert int(several.entries[0]) == int(each.entries.sum())


def test_the_dataset_names_itself(several):
    assert several.attrs["wrt"] == "encoder"
    for name, variable in several.variables.items():
        assert {"long_name", "units"} <= set(variable.attrs), name
    assert several.bias_norm.attrs["units"] == "nats per parameter"
    assert several.squared_bias_debiased.attrs["units"] == "(nats per parameter)^2"
    assert "mean" in several.relative_bias.attrs["aggregation"]
    assert not {"exact_gradient", "mean_gradient", "example"} & {*several.variables, *several.dims}
    assert gradlab.bias(*_tiny(), draws=4).attrs["wrt"] == "logits"


def _tiny():
    problem = problems.make("4x1-own-mlp")
    return problem.model, problem.x


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "binary6-bernoulli-mlp"])
@pytest.mark.parametrize("memory", [1, 60_000])
def test_little_memory_gives_the_same_numbers(name, memory):
    problem = problems.make(name)
    for wanted, found in zip(
        *(measured(problem, compute=gradlab.Compute(memory=m)).data_vars.values() for m in (2**28, memory)), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-10, err_msg=wanted.name)


def test_a_change_of_temperature_by_tensor(several):
    ds = several.sel(estimator="decoupled-st-gs", target="sampled")
    at = {"tf": 1.6, "parameter": "3.weight"}
    found = change(ds, "relative_bias", at | {"tb": 0.5}, at | {"tb": 1.3})
    line = ds.relative_bias.sel(at).values
    assert found.value == pytest.approx(line[1] - line[0])
    assert found.low < found.value < found.high
    with pytest.raises(ValueError, match="fix each dim"):
        change(ds, "relative_bias", {"tf": 1.6, "tb": 0.5}, {"tf": 1.6, "tb": 1.3})


@pytest.mark.parametrize("name", ["rloo", "reinforce", "rebar"])
def test_an_unbiased_estimator_has_no_bias_that_is_resolved(problem, name):
    """Of 5 tensors by 3 estimators, the debiased square within 4 standard errors of 0: degenerate, so that
    it errs on the large side; less than 1e-3 in all."""
    ds = measured(problem, estimator=name, tb=1.6, draws=2000)
    width = ds.squared_bias_debiased_high - ds.squared_bias_debiased_low
    assert bool((np.abs(ds.squared_bias_debiased) < width).all())


def test_a_planted_bias_is_found(problem):
    """Half of the exact gradient too much: in all of 5 tensors the interval excludes 0 and holds 0.5."""
    ds = measured(problem, estimator=_Planted(), tb=1.6, draws=2000).isel(tf=0, tb=0)
    assert bool((ds.relative_bias_debiased_low > 0).all())
    inside = (ds.relative_bias_debiased_low < 0.5) & (ds.relative_bias_debiased_high > 0.5)
    assert int(inside.sum()) >= 4


class _Planted(type(estimators.get("rloo"))):
    """RLOO times 1.5."""

    def estimate(self, *given):
        return 1.5 * super().estimate(*given)


def test_the_exact_estimator_has_neither_bias_nor_variance(problem):
    ds = measured(problem, estimator="exact")
    assert float(ds.relative_bias.max()) < 1e-9
    assert float((ds.std_norm / ds.exact_norm).max()) < 1e-14  # rounding


def test_kl_and_equal_cost(problem):
    """The KL term's gradient shifts both sides; an estimate of the cheaper is the mean of two draws."""
    plain, with_kl = (measured(problem, kl=kl) for kl in (False, True))
    np.testing.assert_allclose(with_kl.bias_norm, plain.bias_norm, rtol=1e-8)
    np.testing.assert_allclose(with_kl.std_norm, plain.std_norm, rtol=1e-8)
    logits = problem.model.logits(problem.x).detach().requires_grad_()
    shift = torch.autograd.grad(problem.model.kind.kl_to_uniform(logits).sum(), logits)[0]
    wanted = np.linalg.norm(exact_of(problem, shift=shift)["all"])
    assert float(with_kl.exact_norm.sel(parameter="all").squeeze()) == pytest.approx(wanted, rel=1e-9)
    equal = measured(
        problem, estimator=["st-gs", "rloo"], draws=None, moments=gradlab.MonteCarlo(draws=DRAWS, equal_cost=True)
    ).sel(estimator="st-gs")
    draws = sampled_of(problem, "st-gs", draws=2 * DRAWS)
    exact = exact_of(problem)
    at = equal.isel(tf=0, tb=0).sel(parameter="all").drop_vars("replicates")
    assert_figures(at, exact["all"], draws["all"], 0.5)


def test_a_cross_leaves_the_rest_nan(problem):
    ds = measured(problem, tf=[0.7, 1.6], tb=[0.5, 1.3], cross=(1.6, 1.3), draws=8)
    on = (ds.tf == 1.6) | (ds.tb == 1.3)
    assert (np.isfinite(ds.relative_bias).all("parameter") == on).all()


def test_single_precision_agrees_with_double():
    """The same noise is not drawn bit for bit, so within the intervals' reach."""
    single, double = problems.make("8x4-bernoulli-mlp", torch.float32), problems.make("8x4-bernoulli-mlp")
    a, b = (measured(problems.Problem(p.name, p.model, single.x.to(p.x)), draws=1000) for p in (single, double))
    np.testing.assert_allclose(a.exact_norm, b.exact_norm, rtol=1e-4)
    for name in ("relative_bias", "relative_std"):
        assert (np.abs(a[name] - b[name]) < 3 * (b[f"{name}_high"] - b[f"{name}_low"])).all()


# --- pulling back ---


class Recurrent(nn.Module):
    """An encoder of operations that torch may not differentiate for several rows at once."""

    def __init__(self, outputs=6):
        super().__init__()
        self.cell = nn.GRU(4, 5, batch_first=True)
        self.out = nn.Linear(5, outputs)
        self.unused = nn.Parameter(torch.ones(3))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x):
        return self.out(self.cell(x.flatten(1).reshape(-1, 4, 4))[1][0]) * self.frozen.sum()


class OneByOne(torch.autograd.Function):
    """A backward pass that depends on its data, so that no rows can go together."""

    @staticmethod
    def forward(ctx, h):
        return 2 * h

    @staticmethod
    def backward(ctx, g):
        return 2 * g if float(g.sum()) < 1e9 else g


class Stubborn(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(16, 6)

    def forward(self, x):
        return OneByOne.apply(self.inner(x.flatten(1)))


def _with_encoder(encoder, binary=True):
    problem = problems.make("binary6-bernoulli-mlp")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = gradlab.LatentModel(encoder().double(), problem.model.decoder, latents=6, binary=binary)
    return problems.Problem("own encoder", model, problem.x)


@pytest.mark.parametrize(("encoder", "together"), [(Recurrent, None), (Stubborn, False)])
def test_any_encoder_is_pulled_back_through(encoder, together):
    problem = _with_encoder(encoder)
    ds = measured(problem, draws=40).isel(tf=0, tb=0)
    draws = sampled_of(problem, "decoupled-st-gs", draws=40)
    exact = exact_of(problem)
    assert set(ds.parameter.values) == set(draws)
    for parameter in ds.parameter.values:
        if parameter == "unused":
            assert float(ds.bias_norm.sel(parameter=parameter)) == float(ds.std_norm.sel(parameter=parameter)) == 0
            assert np.isnan(ds.relative_bias.sel(parameter=parameter))
        else:
            assert_figures(ds.sel(parameter=parameter), exact[parameter], draws[parameter])
    if together is not None:
        assert encoder_gradients.PullBack(problem.model, problem.x, 2**28).together == together


def test_the_usual_layers_go_together(problem):
    assert encoder_gradients.PullBack(problem.model, problem.x, 2**28).together


def test_gradients_of_the_user_s_are_left_alone(problem):
    for p in problem.model.parameters():
        p.grad = torch.ones_like(p)
    measured(problem, draws=4)
    assert all(bool((p.grad == 1).all()) for p in problem.model.parameters())
    problem.model.zero_grad()


def test_no_grad_around_the_call_does_not_matter(problem):
    with torch.no_grad():
        found = measured(problem, draws=8)
    xr.testing.assert_equal(found, measured(problem, draws=8))


def test_accumulated_estimates_give_the_moments_that_sampling_gives(problem):
    with torch.no_grad():
        logits = problem.model.logits(problem.x)
    several = [estimators.get(name).at(1.6, tb) for name in ("decoupled-st-gs", "rebar", "exact") for tb in (0.5, 1.3)]
    noise = sampling.Noise(problem.model.kind, logits, 2, 45, 0)
    given = problems.setup_of(problem.model, problem.x, logits), several, noise
    found = {p: of for (p,), of in sampling.each_accumulated(*given, lambda: empty(logits, 45))}
    assert sorted(found) == list(range(len(several)))
    for position, wanted in enumerate(sampling.sample_moments(*given)):
        assert torch.equal(found[position].count, wanted.count)
        torch.testing.assert_close(found[position].mean, wanted.mean, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(found[position].squares, wanted.squares, rtol=1e-10, atol=1e-12)


class Without(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.inner = nn.Linear(16, 6)
        if change == "frozen":
            self.inner.requires_grad_(False)
        self.change = change
        if change == "all":
            self.all = nn.Parameter(torch.ones(1))

    def forward(self, x):
        out = self.inner(x.flatten(1))
        return out.detach() if self.change == "detached" else out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("frozen", "wrt: expected an encoder with parameters that require gradients"),
        ("detached", "encoder: expected logits that depend on its parameters"),
        ("all", "wrt: expected no parameter of the name 'all'"),
    ],
)
def test_encoders_without_gradients_are_refused(monkeypatch, change, message):
    if change != "detached":  # seen in the model as it is, before the codes are enumerated
        monkeypatch.setattr("gradlab.fidelity.enumerated_analysis.exact_gradients", None)
    with pytest.raises(ValueError, match=message):
        measured(_with_encoder(lambda: Without(change)), draws=4)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"wrt": "encodr"}, "wrt: unknown name 'encodr'; did you mean encoder"),
        ({"reference": gradlab.Enumerated(dtype=torch.float32)}, "reference: expected Enumerated"),
    ],
)
def test_bad_input_is_named(problem, bad, message):
    with pytest.raises(ValueError, match=message):
        measured(problem, **bad)


def test_squares_of_rows_are_scaled_a_part_at_a_time(problem, monkeypatch):
    """No division of all rows at once; rows of any size that float32 has."""
    model = copy.deepcopy(problem.model).float()
    pull_back = encoder_gradients.PullBack(model, problem.x.float(), 2**28)
    vectors = torch.randn(9, *pull_back.logits.shape, generator=torch.Generator().manual_seed(0))
    wanted = pull_back.squares(vectors)
    pull_back.rows = 2
    given = []
    own = pull_back._of
    monkeypatch.setattr(pull_back, "_of", lambda some: given.append(some.untyped_storage().nbytes()) or own(some))
    for scale in (2.0**-100, 1.0, 2.0**100):
        found = pull_back.squares(vectors * scale)
        torch.testing.assert_close(found, wanted * scale**2, rtol=1e-5, atol=0)
    assert max(given) == 2 * vectors[0].numel() * vectors.element_size()
