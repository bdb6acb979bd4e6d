"""Routes to the decoder give the same numbers; each distinct pair of image and code is evaluated once."""

import pytest
import torch
from torch import nn

import gradlab
from gradlab import derivatives, estimators, latents, sampling
from gradlab.sampling import unique_evaluations

from . import problems
from .moments_of_draws import assert_same, decoder_rows, grid_of, moments, moments_of

STACK_ROUTES = [("auto", sampling.MEMORY), ("pairs", sampling.MEMORY), ("table", sampling.MEMORY), ("table", 120_000)]


# --- the decoder's part has three routes ---


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "binary6-bernoulli-mlp", "2x7-bernoulli-conv"])
def test_all_routes_give_the_same_numbers(name):
    problem = problems.make(name)
    grid = grid_of(*(estimators.get(n) for n in ("decoupled-st-gs", "reinmax", "rloo")), tbs=(1.3,))
    draws = moments_of(problem, grid, 64, decoder="draws")
    for route in ("table", "pairs", "auto"):
        assert_same(moments_of(problem, grid, 64, decoder=route), draws)
    assert_same(moments_of(problem, grid, 64, decoder="table", memory=120_000), draws)  # block by block


@pytest.fixture
def no_stacks(monkeypatch):
    """Decoders are differentiated as any other, not layer by layer."""
    monkeypatch.setattr(derivatives.Stack, "of", lambda *given: None)


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "binary6-bernoulli-mlp"])
def test_stacks_give_the_same_numbers_as_any_other_decoder(name, monkeypatch):
    problem = problems.make(name)
    grid = grid_of(*(estimators.get(n) for n in ("decoupled-st-gs", "reinmax", "rloo")), tbs=(1.3,))
    layer_by_layer = [moments_of(problem, grid, 64, decoder=route, memory=m) for route, m in STACK_ROUTES]
    monkeypatch.setattr(derivatives.Stack, "of", lambda *given: None)
    for (route, memory), found in zip(STACK_ROUTES, layer_by_layer, strict=True):
        assert_same(found, moments_of(problem, grid, 64, decoder=route, memory=memory))


def test_the_cost_model_counts_operations(no_stacks):
    problem = problems.make("3x5-bernoulli-mlp")
    layers = [m for m in problem.model.decoder.modules() if isinstance(m, torch.nn.Linear)]
    decoder = sum(2 * m.in_features * m.out_features for m in layers)
    table = derivatives.ByConfiguration(problem.model, problem.x)
    assert table.decoder == decoder
    assert table.operations == 16 * decoder + 2 * 15 * 16 * 5  # 15 inputs, 16 pixels, 5 images
    even = table.operations / (2 * decoder)
    assert table.pays(1.01 * even)
    assert not table.pays(0.99 * even)


@pytest.mark.parametrize(("images", "route"), [(5, "at_pairs"), (120, "by_jacobians")])
def test_the_cheaper_way_through_a_stack_is_taken(images, route, monkeypatch):
    problem = problems.make("8x4-bernoulli-mlp")
    problem.model.decoder[1] = nn.Sequential(nn.Linear(32, 100), nn.Tanh(), nn.Linear(100, 12)).double()
    x = torch.rand(images, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    taken = []
    for name in ("at_pairs", "by_jacobians"):
        plain = getattr(derivatives.Stack, name)
        monkeypatch.setattr(derivatives.Stack, name, lambda *a, n=name, f=plain: taken.append(n) or f(*a))
    moments(problems.Problem(problem.name, problem.model, x), estimators.get("decoupled-st-gs", tf=5.0), 4000)
    assert set(taken) == {route}


@pytest.mark.parametrize(("images", "route"), [(5, "pairs"), (120, "table")])
def test_the_cheaper_route_is_taken(images, route, no_stacks, monkeypatch):
    problem = problems.make("3x5-bernoulli-mlp")
    x = torch.rand(images, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    problem = problems.Problem(problem.name, problem.model, x)
    taken = []
    for name in ("pairs", "table"):
        methods = {
            "pairs": (unique_evaluations, "at_points"),
            "table": (unique_evaluations.ByConfiguration, "derivatives"),
        }
        owner, method = methods[name]
        plain = getattr(owner, method)
        monkeypatch.setattr(owner, method, lambda *a, n=name, f=plain: taken.append(n) or f(*a))
    moments(problem, estimators.get("decoupled-st-gs", tf=5.0), 400)
    assert set(taken) == {route}


def test_a_route_that_is_not_possible_is_refused():
    problem = problems.make("3x5-bernoulli-mlp")
    estimator = [estimators.get("decoupled-st-gs")]
    with pytest.raises(ValueError, match=r"decoder: expected 0.00366 MiB of memory for 'pairs', .* got 0.000977 MiB"):
        moments_of(problem, estimator, 64, memory=2**10, decoder="pairs")
    problem.model._likelihood = lambda o, x: (o.flatten(1) - x.flatten(1)).square().sum(1)
    with pytest.raises(ValueError, match="decoder: expected for 'table' a bernoulli or gaussian likelihood"):
        moments_of(problem, estimator, 64, decoder="table")
    with pytest.raises(ValueError, match="decoder: unknown name 'tables'; did you mean table"):
        gradlab.bias(problem.model, problem.x, moments=gradlab.MonteCarlo(decoder="tables"))


# --- each distinct pair of image and code is evaluated once ---


def test_distinct_pairs_give_what_every_draw_decoded_gives():
    problem = problems.make("2x7-bernoulli-conv")
    rows = decoder_rows(problem)
    estimator = estimators.get("decoupled-st-gs", tf=0.5, tb=1.3)
    table = moments(problem, estimator, 300)
    of_table, rows[:] = sum(rows), []
    direct = moments(problem, estimator, 300, memory=5_000)
    assert of_table < 5 * 2**7 + 10 < 300 * 5 < sum(rows)
    torch.testing.assert_close(table.mean, direct.mean, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "binary6-bernoulli-mlp"])
def test_pairs_are_ranked_with_and_without_sorting(name):
    problem = problems.make(name)
    drawn = unique_evaluations.DrawnPairs(problem.model, problem.x)
    indices = torch.randint(problem.model.categories, (2, 9, 5, problem.model.latents))
    keys = drawn.keys(indices)
    for memory in (sampling.MEMORY, 1):
        ranks = drawn.rank([keys[:1], keys[1:]], memory)
        assert torch.equal(drawn.pairs, keys.unique())
        assert torch.equal(drawn.pairs[torch.cat(ranks).long()], keys)
    drawn.evaluate(sampling.MEMORY, True)
    codes = latents.codes_at(indices, problem.model.categories, problem.model.binary, problem.x.dtype)
    assert torch.equal(drawn.keys_of(codes), keys)
    loss, derivative = derivatives.at_all_points(problem.model, problem.x, codes, sampling.MEMORY)
    ranks = torch.cat(ranks)
    torch.testing.assert_close(drawn.losses(ranks), loss, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(drawn.derivatives(ranks), derivative, rtol=1e-12, atol=1e-13)


def test_estimators_that_share_points_share_the_decoder_pass():
    problem = problems.make("3x5-bernoulli-mlp")
    rows = decoder_rows(problem)
    many = [estimators.get("decoupled-st-gs", tf=1.6, tb=0.1 * k) for k in range(1, 11)]
    moments_of(problem, many[:1], 50)
    one, rows[:] = sum(rows), []
    found = moments_of(problem, [*many, estimators.get("zgr", tf=1.6)], 50)
    assert sum(rows) == one
    alone = moments(problem, many[4], 50)
    assert torch.equal(found[4].mean, alone.mean)
