"""Training with estimators that use the loss, several evaluations, weights, a running mean, or every configuration."""

import itertools

import pytest
import torch

from gradlab import estimators, training
from gradlab.exact import exact_gradients
from gradlab.model import LatentModel

from . import oracles, problems
from .small_trainings import assert_same, before_step, press_ctrl_c, train


def encoder_gradient(model: LatentModel) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.encoder.parameters()])


def decoder_gradient(model: LatentModel) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.decoder.parameters()])


def pulled(model, x, per_logit):
    """The encoder's gradient from a gradient per example and logit, as a mean over the batch."""
    model.zero_grad()
    torch.autograd.backward([model.logits(x)], [per_logit / len(x)])
    return encoder_gradient(model)


def one_backward(problem, estimator, seed=0, baseline=None):
    model, x = problem.model, problem.x
    model.zero_grad()
    generator = torch.Generator().manual_seed(seed)
    shape = (estimator.noise_arrays, len(x), *model.code_shape)
    noise = model.kind.noise(shape, dtype=x.dtype, generator=generator)
    loss, _ = training.backward(model, estimator, x, noise, kl="none", baseline=baseline)
    return loss, noise


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "2x7-gaussian-conv", "4x1-own-mlp", "binary6-bernoulli-mlp"])
@pytest.mark.parametrize("tf", [1.0, 1.7])
def test_exact_trains_on_the_gradient_of_the_expected_loss(name, tf):
    """Encoder and decoder: autograd of sum_z p(z) f(z, x), a configuration at a time."""
    p = problems.make(name)
    model, x = p.model, p.x
    loss, _ = one_backward(p, estimators.get("exact", tf=tf))
    found = encoder_gradient(model).clone(), decoder_gradient(model).clone()
    model.zero_grad()
    logits = model.logits(x)
    pairs = torch.stack([logits, torch.zeros_like(logits)], -1) if model.binary else logits
    log_p = torch.log_softmax(pairs / tf, -1)
    expected = torch.zeros((), dtype=x.dtype)
    for configuration in itertools.product(range(model.categories), repeat=model.latents):
        one_hot = torch.eye(model.categories, dtype=x.dtype)[list(configuration)]
        code = one_hot[:, 0] if model.binary else one_hot
        f = model.losses(code.expand(len(x), *code.shape), x)
        expected = expected + ((log_p * one_hot).sum((1, 2)).exp() * f).mean()
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-12)
    assert oracles.relative_error(found[0], encoder_gradient(model)) < 1e-10
    assert oracles.relative_error(found[1], decoder_gradient(model)) < 1e-10


def test_exact_agrees_with_the_library_s_exact_gradient():
    p = problems.make("3x5-bernoulli-mlp")
    one_backward(p, estimators.get("exact", tf=1.7))
    found = encoder_gradient(p.model).clone()
    with torch.no_grad():
        logits = p.model.logits(p.x)
    exact = exact_gradients(problems.setup_of(p.model, p.x, logits), [(1.7, "sampled")])[0]
    assert oracles.relative_error(found, pulled(p.model, p.x, exact)) < 1e-10


@pytest.mark.parametrize(
    "text", ["rloo:n=4", "double-cv", "rebar", "leg", "reinforce", "gumbel-rao:k=3", "reinmax", "zgr", "gst"]
)
def test_encoder_and_decoder_get_the_estimate_and_the_weighted_loss(text):
    """Against the estimator's own estimate at losses and derivatives that plain autograd gives."""
    p = problems.make("3x5-bernoulli-mlp")
    model, x = p.model, p.x
    estimator = estimators.parse(text).at(1.4, 0.8)
    loss, noise = one_backward(p, estimator)
    found = encoder_gradient(model).clone(), decoder_gradient(model).clone()
    with torch.no_grad():
        logits = model.logits(x)
    points = estimator.points(model.kind, logits, noise)
    losses, derivatives = zip(*(model.losses_and_derivatives(z, x) for z in points), strict=True)
    estimate = estimator.estimate(model.kind, logits, noise, points, torch.stack(losses), torch.stack(derivatives))
    assert oracles.relative_error(found[0], pulled(model, x, estimate)) < 1e-10
    model.zero_grad()
    weights = estimator.weights(model.kind, logits, points)
    shares = torch.full(points.shape[:2], 1 / len(points), dtype=x.dtype) if weights is None else weights
    plain = sum((w * model.losses(z, x)).mean() for w, z in zip(shares, points, strict=True))
    plain.backward()
    assert float(loss) == pytest.approx(plain.item(), rel=1e-12)
    assert oracles.relative_error(found[1], decoder_gradient(model)) < 1e-10


def test_rebar_trains_the_decoder_on_the_discrete_code_alone():
    p = problems.make("3x5-bernoulli-mlp")
    estimator = estimators.get("rebar")
    _, noise = one_backward(p, estimator)
    found = decoder_gradient(p.model).clone()
    with torch.no_grad():
        z = estimator.points(p.model.kind, p.model.logits(p.x), noise)[0]
    p.model.zero_grad()
    p.model.losses(z, p.x).mean().backward()
    assert oracles.relative_error(found, decoder_gradient(p.model)) < 1e-12


def test_a_running_mean_is_subtracted_from_step_to_step():
    p = problems.make("3x5-bernoulli-mlp")
    plain, centred = estimators.get("reinforce"), estimators.get("reinforce", baseline="running-mean")
    baseline = estimators.RunningMean(centred.baseline_decay)
    losses = []
    for seed in range(3):
        loss, noise = one_backward(p, centred, seed, baseline)
        found = encoder_gradient(p.model).clone()
        one_backward(p, plain, seed)
        without = encoder_gradient(p.model).clone()
        # the difference is the score times the mean of the earlier losses
        with torch.no_grad():
            logits = p.model.logits(p.x)
        z = p.model.kind.hard(logits + noise[0])
        decay = centred.baseline_decay
        shares = torch.tensor([decay**k for k in range(len(losses))][::-1], dtype=torch.float64)
        before = float((shares * torch.tensor(losses, dtype=torch.float64)).sum() / shares.sum()) if losses else 0.0
        score = pulled(p.model, p.x, before * (z - torch.softmax(logits, -1)))
        torch.testing.assert_close(without - found, score, rtol=1e-9, atol=1e-12)
        losses.append(float(loss))
    assert losses[0] > 1


@pytest.mark.parametrize("text", ["reinforce:baseline='running-mean'", "rloo:n=3", "rebar", "exact"])
@pytest.mark.parametrize("step", [1, 9])
def test_an_interrupted_run_ends_in_the_same_weights(tmp_path, monkeypatch, text, step):
    whole = train(tmp_path / "whole.safetensors", estimator=text)
    before_step(monkeypatch, step, press_ctrl_c)
    out = tmp_path / "vae.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(out, estimator=text)
    monkeypatch.undo()
    assert_same(train(out, estimator=text, resume=True), whole)


@pytest.mark.parametrize("text", ["exact", "rloo:n=4", "reinmax", "rebar"])
def test_the_loss_falls(tmp_path, text):
    model = train(tmp_path / "vae.safetensors", estimator=text, epochs=12)
    history = model.provenance["history"]
    assert history["validation_loss"][-1] < history["validation_loss"][0] - 0.5


def test_parameters_of_the_estimator_matter_and_are_recorded(tmp_path):
    two, four = (train(tmp_path / f"{n}.safetensors", estimator=f"rloo:n={n}", epochs=1) for n in (2, 4))
    assert four.provenance["settings"]["estimator"] == "rloo:n=4"
    assert not torch.equal(next(two.parameters()), next(four.parameters()))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rloo:n=1", "n: expected .*, got 1"),
        ("rloo:m=2", "unknown name 'm'"),
        ("rlo", "did you mean rloo"),
        ("disarm", "expected one for categorical latents, got disarm"),
        ("rloo:tf=2", "temperatures"),
    ],
)
def test_rubbish_is_named(tmp_path, text, named):
    with pytest.raises(ValueError, match=named):
        train(tmp_path / "vae.safetensors", estimator=text)


def test_exact_refuses_a_space_too_large_before_training(tmp_path):
    config = {"latents": 2048, "categories": 2, "hidden": [4], "image_shape": [1, 4, 4]}
    with pytest.raises(ValueError, match=r"2\^2048"):
        train(tmp_path / "vae.safetensors", estimator="exact", config=config)
