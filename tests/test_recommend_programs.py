"""gradlab.recommend of a Program: its figures against long loops and `gradlab.bias`, and the losses to paste."""

import math

import numpy as np
import pytest
import torch

import gradlab
from gradlab import estimators
from gradlab.fidelity.program_draws import Draws
from gradlab.latents import derived_seed
from gradlab.programs.layers import arrays_of, is_layer, paths_of
from gradlab.programs.run import Run
from gradlab.recommending import from_bias
from gradlab.recommending.measuring import BATCHES, Reference
from gradlab.recommending.measuring_programs import measured_of_program

from .program_problems import in_float64, problem, wide

TBS = [0.5, 2.0]
NAMES = ["ste", "reinmax", "rloo:n=4"]
DRAWS = 32


@pytest.fixture(scope="module")
def experts():
    model, x = problem("experts")
    return model.program(), x


def errors_by_hand(each, g, paths, averaged):
    """|g|^2, <m, g>, |m|^2, V of one example's estimate, and the error: each (draw, entry), written as loops."""
    batches = [each[b::BATCHES].mean(0) for b in range(BATCHES)]
    pairs = [(a, b) for a in range(BATCHES) for b in range(BATCHES) if a != b]
    along = sum(float(e @ g) for e in batches) / BATCHES
    squared_mean = sum(float(batches[a] @ batches[b]) for a, b in pairs) / len(pairs)
    within = [(each[b::BATCHES] - batches[b]).square().sum() / (len(each) // BATCHES - 1) for b in range(BATCHES)]
    return [float(g @ g), along, squared_mean, float(sum(within)) / BATCHES]


def test_figures_are_those_of_long_loops(experts):
    """Of the gradients of all draws; the variance is that of one example, B times that of the mean over B examples."""
    program, x = experts
    seed = derived_seed(3, "recommend", "last")
    chosen = [estimators.parse(name).at(1.0, 0.5) for name in NAMES]
    g = torch.cat([of.flatten() for of in gradlab.exact_gradient(program, x).values()])
    with Run(program, x).prepared() as run:
        reference = Reference(1.0, "sampled", g[None])
        found = measured_of_program(run, chosen, reference, DRAWS, "last", 3, 2**28, lambda *a, **k: None)
        draws = Draws(run, max(map(arrays_of, chosen)), seed, 2**28)
        for e, one in zip(chosen, found, strict=True):
            each = draws.gradients(e, 0, DRAWS)
            wanted = errors_by_hand(each, g, paths_of(e), 100)
            wanted[3] *= run.examples
            np.testing.assert_allclose(one.total, wanted, rtol=1e-8)
            assert one.evaluations == paths_of(e)
            assert one.unbiased == (e.name == "rloo")


def test_figures_are_those_of_bias_on_the_same_draws(experts):
    """<m, g> but for rounding; of |m|^2, `bias` takes all pairs of draws where this takes pairs of 16 batches."""
    program, x = experts
    seed = derived_seed(3, "recommend", "last")
    ds = gradlab.bias(program, x, tb=TBS, estimator=NAMES, draws=512, seed=seed).sel(parameter="all", tf=1.0)
    chosen = [estimators.parse(name).at(1.0, tb) for name in NAMES for tb in TBS]
    g = torch.cat([of.flatten() for of in gradlab.exact_gradient(program, x).values()])
    with Run(program, x).prepared() as run:
        reference = Reference(1.0, "sampled", g[None])
        found = measured_of_program(run, chosen, reference, 512, "last", 3, 2**28, lambda *a, **k: None)
    for e, one in zip(chosen, found, strict=True):
        of = ds.sel(estimator=e.label, tb=getattr(e, "tb", TBS[0]))
        norm, m, spread = (float(of[name]) for name in ("exact_norm", "mean_norm_debiased", "std_norm"))
        along = float(of.cosine_debiased) * norm * m
        np.testing.assert_allclose(one.total[:2], [norm**2, along], rtol=1e-8)
        np.testing.assert_allclose(one.total[2:], [m**2, len(x[0]) * spread**2], rtol=0.05)


def test_the_choice_is_within_its_margin_of_the_best_of_a_full_grid(experts):
    """And every error in its interval; joint for all candidates, so that a miss is rarer than 1 in 20."""
    program, x = experts
    found = gradlab.recommend(program, x, tf=1.0, tb=TBS, estimator=NAMES, seed=1, draws=256)
    full = gradlab.recommend(program, x, tf=1.0, tb=TBS, estimator=NAMES, seed=2, draws=16 * 256).table
    truth = {str(c): float(e) for c, e in zip(full.candidate.values, full.error.values, strict=True)}
    assert truth[found.table.attrs["chosen"]] <= min(truth.values()) + found.margin + 1e-12
    table = found.table
    for c, low, high in zip(table.candidate.values, table.error_low.values, table.error_high.values, strict=True):
        assert low <= truth[str(c)] <= high, str(c)


def test_more_paths_than_can_be_enumerated_are_compared_with_rloo(experts, monkeypatch):
    """The same answer within the intervals of both."""
    program, x = experts
    given = {"tf": 1.0, "tb": TBS, "estimator": NAMES, "draws": 256}
    exact = gradlab.recommend(program, x, **given)
    monkeypatch.setattr("gradlab.fidelity.program_analysis.AUTO_ROWS", 1)
    sampled = gradlab.recommend(program, x, **given)
    assert [one.table.attrs["reference"] for one in (exact, sampled)] == ["exact", "rloo"]
    both = [one.table.sortby("candidate") for one in (exact, sampled)]
    assert (both[0].error_low <= both[1].error_high).all()
    assert (both[1].error_low <= both[0].error_high).all()


def test_the_catalogue_is_what_a_program_takes(experts):
    program, x = experts
    found = gradlab.recommend(program, x, tf=1.0, tb=[1.0], averaged=50, draws=32)
    names = set(found.table.estimator.values)
    assert {"ste", "rloo", "rloo(n=4)", "reinforce"} <= names
    assert not names & {"disarm", "arms(n=4)", "rebar", "exact", "leg"}
    assert "draws; the examples are taken as given" in str(found)
    assert "program.surrogate_loss(" in found.line
    with pytest.raises(ValueError, match=r"estimator: expected a layer at each site"):
        gradlab.recommend(program, x, estimator=["rebar"])


# --- the losses to paste ---


@pytest.mark.parametrize("spec", ["reinmax:tf=1,tb=0.5", "gumbel-rao:tb=0.7", "rloo:n=3,tf=0.8", "reinforce"])
@pytest.mark.parametrize("name", ["experts", "rssm"])
def test_the_surrogate_loss_has_the_gradient_that_is_measured(name, spec):
    """At the noise that it draws, on the user's own parameters, in float64."""
    e = estimators.parse(spec)
    model, x = wide(*problem(name))
    program = model.program()
    with in_float64():
        losses = program.surrogate_loss(e, x, generator=torch.Generator().manual_seed(5))
        losses.mean().backward()
    found = torch.cat([p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in model.parameters()])
    generator = torch.Generator().manual_seed(5)
    with Run(program, x).prepared() as run:
        layer = is_layer(e, run.sites)
        arrays = arrays_of(e) if layer else 1
        of_runs = [
            [
                site.kind.noise((arrays, run.examples, *site.shape), dtype=torch.float64, generator=generator)
                for site in run.sites
            ]
            for _ in range(1 if layer else paths_of(e))
        ]
        noise = [torch.cat(of_site)[None] for of_site in zip(*of_runs, strict=True)]
        wanted = Draws(run, arrays_of(e), 0, 2**28)._singly(e, noise)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    assert losses.shape == (run.examples,)


def test_surrogate_losses_that_are_refused(experts):
    program, x = experts
    for given, said in (("rebar", "estimator: expected a layer"), (3, "estimator: expected a name or an Estimator")):
        with pytest.raises(ValueError, match=said):
            program.surrogate_loss(given, x)
    without = gradlab.Program(lambda x, sample: x.sum(1), torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="loss: expected at least one call of sample"):
        without.surrogate_loss("ste", torch.ones(3, 2))


# --- bias at equal cost ---


def test_bias_at_equal_cost_draws_more_of_cheaper_estimators(experts):
    """An estimate of ste is then the mean of four draws: its figures are those of four times the draws, V over 4."""
    program, x = experts
    given = {"tf": 1.0, "tb": TBS, "estimator": ["ste", "rloo:n=4"]}
    equal = gradlab.bias(program, x, moments=gradlab.MonteCarlo(draws=64, equal_cost=True), **given)
    more = gradlab.bias(program, x, draws=256, **given)
    ste = [ds.sel(estimator="ste") for ds in (equal, more)]
    np.testing.assert_allclose(ste[0].cosine_debiased, ste[1].cosine_debiased)
    np.testing.assert_allclose(2 * ste[0].relative_std, ste[1].relative_std)
    alike = gradlab.bias(program, x, draws=64, **given).relative_std.sel(estimator="rloo(n=4)")
    np.testing.assert_allclose(equal.relative_std.sel(estimator="rloo(n=4)"), alike)
    assert equal.attrs["equal_cost"] == 1


def test_the_closing_sentences_of_bias_count_evaluations_as_recommend_does(experts):
    """On programs, too, one of each example: the errors agree, on noise of their own, to a tenth."""
    program, x = experts
    given = {"tf": 1.0, "tb": [1.0], "estimator": ["ste", "rloo:n=4"]}
    ds = gradlab.bias(program, x, moments=gradlab.MonteCarlo(draws=512, equal_cost=True), **given)
    observed = from_bias._observed(ds.sel(tf=1.0, parameter="all"), len(x[0]))
    table = gradlab.recommend(program, x, draws=1024, **given).table
    for candidate, of in observed:
        error = math.sqrt(of.squared_error(100))
        assert error == pytest.approx(float(table.error.sel(candidate=candidate.label)), rel=0.1)
    assert from_bias.closing_sentences(ds)[0].startswith("Use ")
