"""Training: what a run writes, what decides its numbers, and its gradient."""

import math
import random

import numpy as np
import pytest
import torch

import gradlab
from gradlab import checkpoints, choices, estimators, networks, training
from gradlab.latents import CATEGORICAL

from .small_trainings import BATCH, CONFIG, EPOCHS, IMAGES, STEPS, VALIDATION, assert_same, settings, train


def test_numbers_are_float32_whatever_the_caller_has_set(tmp_path, unbroken):
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(train(tmp_path / "vae.safetensors"), unbroken)


# the whole run


def test_a_training_writes_its_model_and_nothing_else(out):
    model = train(out)
    assert list(out.parent.iterdir()) == [out]
    loaded = gradlab.load(out)
    assert_same(loaded, model)
    assert loaded.provenance["settings"]["estimator"] == "decoupled-st-gs"
    assert loaded.provenance["data"] == {"name": "blocks", "sha256": IMAGES.sha256, "images": 64}
    assert loaded.provenance["step"] == EPOCHS * STEPS
    assert checkpoints.read(out)[1] == {}


def test_the_history_has_all_figures_of_every_epoch(unbroken):
    history = unbroken.provenance["history"]
    assert set(history) == set(training.HISTORY)
    assert all(len(values) == EPOCHS and all(map(math.isfinite, values)) for values in history.values())


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(unbroken, tmp_path):
    assert_same(train(tmp_path / "again.safetensors"), unbroken)
    other = train(tmp_path / "other.safetensors", seed=6)
    assert not torch.equal(other.state_dict()["encoder.1.weight"], unbroken.state_dict()["encoder.1.weight"])


def test_noise_order_and_weights_each_depend_on_the_seed():
    runs = [training.Run(settings(seed=seed), IMAGES, VALIDATION, "cpu") for seed in (0, 1)]
    weights = [run.model.state_dict()["encoder.1.weight"] for run in runs]
    orders = [torch.cat(run.batches_left()) for run in runs]
    noise = [run.noise(run.estimator, torch.zeros(BATCH)) for run in runs]
    assert not torch.equal(*weights)
    assert not torch.equal(*orders)
    assert not torch.equal(*noise)
    runs[0].step = STEPS
    assert not torch.equal(orders[0], torch.cat(runs[0].batches_left()))


OTHER = [{"tf": 0.5}, {"tb": 3.0}, {"kl": False}, {"kl": "sampled"}, {"optimizer": "adam"}, {"lr": 0.02}]


@pytest.mark.parametrize("other", OTHER, ids=str)
def test_every_setting_matters(unbroken, tmp_path, other):
    model = train(tmp_path / "vae.safetensors", **other)
    assert not torch.equal(model.state_dict()["encoder.1.weight"], unbroken.state_dict()["encoder.1.weight"])


def test_the_loss_falls_below_what_pictures_without_a_code_could_reach(out):
    """Without the KL term, which at this size of picture outweighs what a code is worth."""
    history = train(out, epochs=60, lr=0.02, kl=False).provenance["history"]
    x, mean = VALIDATION.floats(), IMAGES.floats().mean(0, keepdim=True)
    of_the_mean = float(-(x * mean.log() + (1 - x) * (1 - mean).log()).sum((1, 2, 3)).mean())
    assert history["train_loss"][-1] < 0.9 * history["train_loss"][0]
    assert history["validation_loss"][-1] < 0.9 * of_the_mean


def test_the_validation_images_are_the_ones_validated_on(out):
    history = train(out).provenance["history"]
    model = gradlab.load(out)
    found = training.evaluate(model, VALIDATION, 1.6, 5)
    names = ("validation_loss", "validation_kl", "validation_kl_sampled")
    assert found == pytest.approx([history[name][-1] for name in names], rel=1e-6)
    assert found != pytest.approx(training.evaluate(model, IMAGES, 1.6, 5), rel=1e-3)


def test_evaluation_does_not_depend_on_its_batches_but_for_the_noise():
    model = networks.build("categorical-vae", CONFIG, seed=0)
    logits = model.logits(VALIDATION.floats()).detach()
    kls = [float(CATEGORICAL.kl_to_uniform(logits / t).mean()) for t in (1, 1.6)]
    for batch in (1000, 7):
        loss, *found = training.evaluate(model, VALIDATION, 1.6, 0, batch)
        assert found == pytest.approx(kls, rel=1e-5)
        assert loss == pytest.approx(11, abs=2)


def test_the_global_random_state_is_untouched(out):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    train(out)
    networks.build("categorical-vae", CONFIG, seed=1)
    networks.build("categorical-vae", CONFIG)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]


def test_the_accelerators_random_state_is_untouched(monkeypatch):
    def seeded(*given):
        pytest.fail("the accelerator's generator was seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded)
    monkeypatch.setattr(torch.cuda, "manual_seed", seeded)
    networks.build("categorical-vae", CONFIG, seed=1)


def test_the_global_random_state_does_not_matter(unbroken, out):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        assert_same(train(out), unbroken)


def test_keep_every_writes_models_that_can_be_loaded(unbroken, out):
    train(out, epochs=5, keep_every=2)
    kept = sorted(p.name for p in out.parent.iterdir())
    assert kept == ["vae-epoch0002.safetensors", "vae-epoch0004.safetensors", "vae.safetensors"]
    history = gradlab.load(out).provenance["history"]
    for epoch in (2, 4):
        model = gradlab.load(out.with_name(f"vae-epoch{epoch:04d}.safetensors"))
        assert model.provenance["history"]["train_loss"] == history["train_loss"][:epoch]
        assert checkpoints.read(out.with_name(f"vae-epoch{epoch:04d}.safetensors"))[1] == {}


# the backward pass


def straight_through_gradients(model, x, g, tf, tb, kl):
    """Plain autograd: the code in the forward pass, the relaxed one in the backward pass."""
    logits = model.encoder(x).reshape(len(x), model.latents, model.categories)
    z = torch.nn.functional.one_hot((logits / tf + g).argmax(-1), model.categories).to(x.dtype)
    q = torch.softmax(logits / tb + g, -1)
    output = model.decoder(z + (q - q.detach()))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(output, x, reduction="none").sum((1, 2, 3))
    p = torch.softmax(logits / (tf if kl == "sampled" else 1), -1)
    divergence = (p * (p.log() - math.log(1 / model.categories))).sum((1, 2))
    total = loss.mean() + (divergence.mean() if kl != "none" else 0)
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(total, parameters), strict=True))
    return gradients, loss.mean(), divergence.mean()


def spread_out():
    """A model with logits far from equal, its images, and noise."""
    model = networks.build("categorical-vae", CONFIG, seed=2).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    x = IMAGES.first(9).floats().double()
    g = CATEGORICAL.noise((1, 9, 2, 3), dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    return model, x, g


@pytest.mark.parametrize("kl", choices.KL_TERMS)
@pytest.mark.parametrize(("tf", "tb"), [(1.6, 1.3), (0.5, 2.0), (1.0, 1.0)])
def test_the_gradient_is_that_of_plain_straight_through_autograd(tf, tb, kl):
    model, x, g = spread_out()
    wanted, loss, divergence = straight_through_gradients(model, x, g[0], tf, tb, kl)
    found = training.backward(model, estimators.get("decoupled-st-gs", tf=tf, tb=tb), x, g, kl)
    for name, parameter in model.named_parameters():
        assert float(wanted[name].norm()) > 1e-3
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-12, atol=1e-12, msg=name)
    assert found[0].item() == pytest.approx(loss.item(), rel=1e-12)
    assert found[1].item() == pytest.approx(divergence.item() if kl != "none" else 0, rel=1e-12)


def test_the_temperatures_matter_to_that_gradient():
    """The comparison above would find a wrong temperature."""
    model, x, g = spread_out()
    name = "encoder.1.weight"
    base = straight_through_gradients(model, x, g[0], 1.6, 1.3, "model")[0][name]
    for tf, tb, kl in [(1.6, 1.31, "model"), (0.4, 1.3, "model"), (1.6, 1.3, "none"), (1.6, 1.3, "sampled")]:
        other = straight_through_gradients(model, x, g[0], tf, tb, kl)[0][name]
        assert float((other - base).norm() / base.norm()) > 1e-3


def test_gradients_are_added_to_those_that_are_there():
    model, x, g = spread_out()
    estimator = estimators.get("decoupled-st-gs", tf=1.6, tb=1.3)
    training.backward(model, estimator, x, g)
    once = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    training.backward(model, estimator, x, g)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, 2 * once[name])


@pytest.mark.parametrize("name", estimators.names())
def test_every_estimator_trains_or_says_why_not(out, name):
    if "categorical" not in estimators.find(name).kinds:
        with pytest.raises(ValueError, match=f"estimator: expected one for categorical latents, got {name}"):
            train(out, estimator=name, epochs=1)
        return
    model = train(out, estimator=name, epochs=1)
    start = networks.build("categorical-vae", CONFIG, seed=5)
    for key in ("encoder.1.weight", "decoder.1.weight"):
        assert not torch.equal(model.state_dict()[key], start.state_dict()[key])
