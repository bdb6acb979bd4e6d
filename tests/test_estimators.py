"""The catalogue: every registered estimator keeps the protocol, and what does not is found."""

import pytest
import torch

from gradlab import estimators
from gradlab.estimators import (
    Constant,
    FunctionOfCode,
    LatentSummed,
    LeaveOneOut,
    NoiseIntegral,
    PullBack,
    RunningMean,
    SharedPoints,
    conformance,
)
from gradlab.estimators.conformance import KINDS, violations
from gradlab.estimators.gumbel_rao import GumbelRao
from gradlab.latents import BINARY, CATEGORICAL

from .catalogue import BOTH_KINDS, CASES, sound


@pytest.mark.parametrize(("text", "kind"), CASES)
def test_every_estimator_keeps_the_protocol(text, kind):
    assert violations(estimators.parse(text).at(1.6, 0.7), KINDS[kind]) == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [case if case[0] in ("st-gs", "gumbel-rao") else pytest.param(*case, marks=pytest.mark.deep) for case in CASES],
)
def test_every_estimator_keeps_the_protocol_at_equal_temperatures(text, kind):
    """Where points and relaxations of different estimators coincide."""
    assert violations(estimators.parse(text), KINDS[kind]) == []


@pytest.mark.parametrize(("text", "kind"), CASES)
def test_temperatures_as_tensors_are_those_of_each_model(text, kind):
    """Three models at once, each with temperatures of its own, as one at a time: bit for bit but for vectorisation."""
    generator = torch.Generator().manual_seed(3)
    own, latent = KINDS[kind], (4,) if kind == "binary" else (4, 3)
    estimator, tfs, tbs = estimators.parse(text), [0.4, 1.0, 2.3], [1.7, 0.6, 1.0]
    logits = torch.randn(3, 5, *latent, generator=generator, dtype=torch.float64)
    noise = own.noise((estimator.noise_arrays, *logits.shape), dtype=torch.float64, device="cpu", generator=generator)
    of_models = [torch.tensor(t, dtype=torch.float64).reshape(3, *[1] * (logits.ndim - 1)) for t in (tfs, tbs)]

    def results(estimator, logits, noise):
        points = estimator.points(own, logits, noise)
        weights = estimator.weights(own, logits, points)
        loss = torch.sin(points.flatten(-own.event_dims - 1).sum(-1)) + points.flatten(-own.event_dims - 1)[..., 0]
        found = estimator.estimate(own, logits, noise, points, loss, torch.cos(points))
        return [points, torch.ones_like(loss) if weights is None else weights, found[None]]

    together = results(estimator.at(*of_models), logits, noise)
    for i, (tf, tb) in enumerate(zip(tfs, tbs, strict=True)):
        alone = results(estimator.at(tf, tb), logits[i], noise[:, i])
        for several, one in zip(together, alone, strict=True):
            torch.testing.assert_close(several[:, i], one, rtol=1e-12, atol=1e-12)


def test_a_learned_temperature_is_refused_and_a_single_number_stays_one():
    assert estimators.get("st-gs", tf=torch.tensor(1.5)).tf == 1.5
    with pytest.raises(ValueError, match="tf: "):
        estimators.get("st-gs", tf=torch.ones(3, 1, 1, 1, requires_grad=True))


def mutant(change, **overrides):
    """The sound estimator with its estimate passed through change(estimate, logits, noise, loss)."""
    plain = type(sound()).estimate

    def estimate(self, kind, logits, noise, points, loss, derivative):
        return change(plain(self, kind, logits, noise, points, loss, derivative), logits, noise, loss)

    return sound(estimate=estimate, **overrides)


def fail(*arguments):
    raise RuntimeError("what went wrong")


MUTANTS = {
    "shapes and dtype: estimate are (3, 3)": mutant(lambda e, l, g, f: e.sum(0)),
    "shapes and dtype: estimate are (2, 3, 3) torch.float64": mutant(lambda e, l, g, f: e.double()),
    "shapes and dtype: points": sound(points=lambda s, kind, l, g: kind.hard(l + g[0])),
    "shapes and dtype: weights sum": sound(weights=lambda s, kind, l, points: 2 * points.sum((-1, -2)) / 3),
    "shapes and dtype: RuntimeError: what went wrong": sound(estimate=fail),
    "pure functions: noise are": mutant(lambda e, l, g, f: e + 0 * g.mul_(2)[0]),
    "pure functions: loss are": mutant(lambda e, l, g, f: e + 0 * f.mul_(2)[0, ..., None, None]),
    "pure functions: equal inputs": mutant(lambda e, l, g, f: e * torch.rand(1, dtype=e.dtype), noise_arrays=1),
    "pure functions: the global random state": mutant(lambda e, l, g, f: e + 0 * torch.rand(1, dtype=e.dtype)),
    "points: codes is False": sound(shared_points=SharedPoints("own", codes=False)),
    "points: points leave": sound(points=lambda s, kind, l, g: 2 * kind.hard(l + g[0])[None]),
    "depends on the other draws": mutant(lambda e, l, g, f: e - (e.mean(0) if e.ndim > 3 else 0)),
    "depends on the other examples": mutant(lambda e, l, g, f: e * f[0].mean(-1)[..., None, None, None]),
    "points depend on the other examples": sound(points=lambda s, kind, l, g: kind.hard(l.mean(0) + g[:1])),
    "order of latents": mutant(lambda e, l, g, f: e * torch.arange(3).to(e)[:, None]),
    "float32": mutant(lambda e, l, g, f: (e + 1e5) - 1e5),
    "saturated logits": mutant(lambda e, l, g, f: e * (1 + 0 * torch.softmax(l, -1).log())),
    "function of the code: FunctionOfCode, but the estimate": mutant(
        lambda e, l, g, f: e * g[0].exp(), exact_moments=FunctionOfCode()
    ),
    "function of the code: FunctionOfCode, but the point": sound(
        points=lambda s, k, l, g: k.hard(l - g[:1]), exact_moments=FunctionOfCode()
    ),
    "no noise: Constant": sound(exact_moments=Constant()),
    "first sample: sample_first": sound(
        points=lambda s, k, l, g: k.hard(l - g[:1]), shared_points=SharedPoints("own", sample_first=True)
    ),
    "pull-back: pull_back, but the estimate": sound(
        pull_back=property(lambda s: PullBack(s.noisy, 1 / s.tb, s.tb)), noisy=lambda s, k, l, g: l / s.tb + g[0]
    ),
    "pull-back: the key of pull_back is equal at another tf": sound(
        pull_back=property(lambda s: PullBack(s.tempered, 1.0, s.tb)),
        tempered=lambda s, k, l, g: l / s.tf,
        estimate=lambda s, k, l, g, p, f, v: k.pullback(k.soft(l / s.tf), v[0]),
    ),
    "all configurations: all_configurations": sound(shared_points=SharedPoints("all", all_configurations=True)),
    "leave one out: LeaveOneOut, but the points": sound(exact_moments=LeaveOneOut(2)),
    "leave one out: LeaveOneOut, but the estimate": sound(
        points=lambda s, k, l, g: k.hard(l / s.tf + g[:2]),
        estimate=lambda s, k, l, g, p, f, v: (f[0] - f[1])[..., None, None] * (p[0] - p[1]) / s.tf,  # twice as large
        exact_moments=LeaveOneOut(2),
    ),
    "latent summed: LatentSummed, but the first point": sound(
        points=lambda s, k, l, g: k.hard(l - g[:1]), exact_moments=LatentSummed()
    ),
    "latent summed: LatentSummed, but the estimate": mutant(lambda e, l, g, f: 2 * e, exact_moments=LatentSummed()),
    "noise integral: NoiseIntegral, but the estimate is not": sound(exact_moments=NoiseIntegral(1.0, power=1.0)),
    "noise integral: NoiseIntegral, but the point": sound(
        points=lambda s, k, l, g: k.hard(l - g[:1]), exact_moments=NoiseIntegral(1.0, power=1.0)
    ),
    "noise integral: NoiseIntegral, but the estimate is not 1/draws sum_i (1/tb) J(softmax(l/tb + power g_i)) v in": (
        sound(
            estimate=lambda s, k, l, g, p, f, v: GumbelRao(k=3).estimate(k, l, g, p, f, v),
            exact_moments=NoiseIntegral(1.0, power=1.0, draws=4),
        )
    ),
    "temperatures as tensors: ": sound(estimate=lambda s, k, l, g, p, f, v: v[0] / float(s.tb)),
    "temperatures as tensors: the two": sound(
        estimate=lambda s, k, l, g, p, f, v: k.pullback(k.soft(l / s.tb), v[0]) / torch.as_tensor(s.tb).mean()
    ),
    "noise arrays: noise_arrays is 1": mutant(lambda e, l, g, f: e * (1 + g[1:].sum(0)), noise_arrays=1),
    "loss of the decoder: the loss": sound(unbiased=True, points=lambda s, k, l, g: k.hard(2 * l / s.tf + g[:1])),
    "shared points: keys are": sound(points=lambda s, kind, l, g: kind.hard(l / s.tb + g[:1])),
    "sampling routes: route pairs, alone, off by": sound(exact_moments=Constant()),
}


@pytest.mark.parametrize("words", MUTANTS)
def test_what_does_not_keep_the_protocol_is_found(words, monkeypatch):
    """By the rule that it breaks; of all rules where the words name none."""
    rule = words.split(":")[0]
    rules = {rule: conformance._PROTOCOL[rule]} if rule in conformance._PROTOCOL else conformance._PROTOCOL
    monkeypatch.setattr(conformance, "_PROTOCOL", rules)
    found = violations(MUTANTS[words], CATEGORICAL)
    assert any(words in text for text in found), found


def test_the_estimator_that_mutants_are_made_of_is_sound():
    assert violations(sound(), CATEGORICAL) == violations(sound(), BINARY) == []
    assert violations(mutant(lambda e, l, g, f: e), CATEGORICAL) == []


def test_every_rule_of_the_protocol_has_a_mutant():
    rules = {words.split(":")[0] for words in MUTANTS}
    assert set(conformance._PROTOCOL) - rules == {"draws and examples"}  # told apart by what follows the rule


@pytest.mark.parametrize(("text", "kind"), CASES)
def test_no_tensor_is_made_on_another_device(text, kind):
    """On the meta device, which refuses company."""
    estimator, problem = (
        estimators.parse(text),
        conformance.PROBLEMS[{"binary": "binary-4", "k-hot": "2-hot-4x2"}.get(kind, "categorical-3x3")],
    )
    logits = problem.logits.to("meta")
    noise = torch.empty(estimator.noise_arrays, 5, *logits.shape, device="meta", dtype=logits.dtype)
    points = estimator.points(problem.kind, logits, noise)
    loss = points.new_empty(points.shape[:3])
    weights = estimator.weights(problem.kind, logits, points)
    found = estimator.estimate(problem.kind, logits, noise, points, loss, torch.empty_like(points))
    assert {points.device.type, found.device.type, (points if weights is None else weights).device.type} == {"meta"}


@pytest.mark.parametrize("text", ["reinforce", "reinforce:baseline=running-mean", "rloo:n=3", "disarm", "arms:n=3"])
def test_a_constant_loss_gives_no_gradient_in_the_mean(text):
    """Those with a baseline give none at all."""
    estimator = estimators.parse(text)
    problem = conformance.PROBLEMS["binary-4"]
    noise = BINARY.noise((estimator.noise_arrays, 50, 2, 4), dtype=torch.float64, generator=seeded(0))
    points = estimator.points(BINARY, problem.logits, noise)
    loss = torch.full(points.shape[:3], 3.0, dtype=torch.float64)
    mean = RunningMean(0.9) if estimator.baseline_decay else None
    loss = mean.centre(loss) if mean else loss
    found = estimator.estimate(BINARY, problem.logits, noise, points, loss, None)
    first = 1 if mean else 50 if text == "reinforce" else 0
    assert float(found[first:].abs().max() if first < 50 else 0) < 1e-12
    assert first == 0 or float(found[:first].abs().max()) > 1


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("text", BOTH_KINDS)
def test_binary_is_the_categorical_pair(text):
    """One logit l with logistic noise g0 - g1 is the pair (l, 0) with Gumbel noise (g0, g1)."""
    estimator = estimators.parse(text).at(1.6, 1.3)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    pair = torch.stack([logits, torch.zeros_like(logits)], -1)
    noise = CATEGORICAL.noise((estimator.noise_arrays, 7, 3, 5, 2), dtype=torch.float64, generator=generator)
    as_unit = noise[..., 0] - noise[..., 1]
    of_pair, of_unit = estimator.points(CATEGORICAL, pair, noise), estimator.points(BINARY, logits, as_unit)
    torch.testing.assert_close(of_pair[..., 0], of_unit, rtol=0, atol=1e-12)
    loss, v = torch.sin(of_unit.sum(-1)), torch.cos(of_unit + torch.arange(5))
    pair_v = torch.stack([v, torch.zeros_like(v)], -1)
    a = estimator.estimate(CATEGORICAL, pair, noise, of_pair, loss, pair_v)[..., 0]
    b = estimator.estimate(BINARY, logits, as_unit, of_unit, loss, v)
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
