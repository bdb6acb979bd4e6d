"""The binary autoencoder: shapes, padding, training on the same code as the VAE, resumable."""

import dataclasses

import numpy as np
import pytest
import torch

import gradlab
from gradlab import networks, training
from gradlab.choices import PRESETS
from gradlab.datasets import Images
from gradlab.networks.binary_autoencoder import binary_autoencoder
from gradlab.setup import encode, reconstruct
from gradlab.training import engines

TINY = {"width": 4, "depth": 1}


def images(n=24, shape=(1, 28, 28), seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=generator)
    return Images(pixels, "made", "train", f"sha of {seed}")


def settings(**changes):
    return dataclasses.replace(training.BINARY_AUTOENCODER, config=TINY, batch_size=8, epochs=2, **changes)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 32, 24), (2, 17, 31)])
def test_shapes(shape):
    model = networks.build("binary-autoencoder", TINY | {"image_shape": list(shape)}, seed=0)
    x = torch.rand(3, *shape)
    assert (model.binary, model.latents, model.unit_shape) == (True, 2048, (32, 8, 8))
    assert model.logits(x).shape == (3, 2048)
    assert model.decode(torch.rand(3, 2048)).shape == (3, *shape)
    assert gradlab.likelihoods.name_of(model.likelihood) == "gaussian"
    assert model.losses(torch.ones(3, 2048), x).shape == (3,)


def test_28_pixels_become_32_by_two_zeros_on_each_side():
    model = binary_autoencoder(**TINY)
    x = torch.rand(2, 1, 28, 28)
    padded = model.encoder[0](x)
    assert padded.shape == (2, 1, 32, 32)
    assert torch.equal(padded[:, :, 2:30, 2:30], x)
    assert float(padded.sum()) == pytest.approx(float(x.sum()), rel=1e-5)
    square = torch.rand(2, 1, 32, 32)
    assert torch.equal(model.decoder[-1](square), square[:, :, 2:30, 2:30])


def test_every_pixel_and_unit_has_its_place():
    """A pixel moves the logits around its own place of the grid only, a unit the pixels around its place."""
    model = networks.build("binary-autoencoder", TINY, seed=1)
    with torch.no_grad():
        x = torch.zeros(1, 1, 28, 28)
        y = x.clone()
        y[0, 0, 0, 27] = 1
        moved = (model.logits(x) - model.logits(y)).reshape(32, 8, 8).abs().sum(0) > 0
        assert moved[0, 7]
        assert not moved[4:, :4].any()
        z = torch.zeros(1, 32, 8, 8)
        w = z.clone()
        w[0, :, 0, 7] = 1
        off = (model.decode(z.flatten(1)) - model.decode(w.flatten(1)))[0, 0].abs() > 0
        assert off[0, 27]
        assert not off[18:, :10].any()


def test_presets_are_of_the_sizes_the_help_names():
    assert PRESETS == {"small": {"width": 16, "depth": 2}, "large": {"width": 128, "depth": 4}}
    small = binary_autoencoder()
    assert sum(p.numel() for p in small.parameters()) == sum(
        p.numel() for p in binary_autoencoder(**PRESETS["small"]).parameters()
    )


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"width": 0}, "width: expected .*, got 0"),
        ({"depth": -1}, "depth: expected .*, got -1"),
        ({"image_shape": [1, 33, 28]}, "image_shape: expected .*, got"),
        ({"image_shape": [1, 16, 28]}, "17 to 32 pixels"),
        ({"image_shape": [28, 28]}, "image_shape: expected .*, got"),
        ({"grid": 0}, "grid: expected .*, got 0"),
        ({"units": 1.5}, "units: expected .*, got 1.5"),
    ],
)
def test_rubbish_is_named(config, named):
    with pytest.raises(ValueError, match=named):
        networks.build("binary-autoencoder", config, seed=0)


def test_rows_are_computed_alone():
    model = networks.build("binary-autoencoder", TINY, seed=0)
    encode(model, torch.rand(4, 1, 28, 28))  # raises where a row depends on the others


def test_trains_to_a_lower_loss_and_reconstructs(tmp_path):
    """On structured images: noise cannot be compressed."""
    ramp = torch.linspace(0, 255, 28)
    pixels = torch.stack([torch.roll(ramp.expand(28, 28).T if k % 2 else ramp.expand(28, 28), k, 1) for k in range(32)])
    some = Images(pixels.to(torch.uint8)[:, None], "ramps", "train", "sha")
    longer = dataclasses.replace(settings(), epochs=30, lr=3e-3)
    model = training.train(longer, some, some, tmp_path / "ae.safetensors")
    losses = model.provenance["history"]["validation_loss"]
    x = some.floats()
    spread = float(x.var(0).mean())  # of the best constant picture
    assert losses[-1] < 0.5 * spread
    made = reconstruct(model, x, tf=0.3)
    assert made.shape == x.shape
    assert float((made - x).square().mean()) < 0.5 * spread
    assert not made.requires_grad
    again = reconstruct(model, x, tf=0.3)
    assert torch.equal(made, again)


def test_resumes_to_the_same_weights(tmp_path):
    data = images()
    whole = training.train(settings(), data, data, tmp_path / "whole.safetensors")
    out = tmp_path / "broken.safetensors"
    # stop after the first epoch: its state, as `train` writes it, under the name --resume looks for
    run = training.Run(settings(), data, data, "cpu")
    for batch in run.batches_left():
        run.one_step(batch)
    run.end_epoch(engines.InTurn([run]).figures(run), training.resume_path(out))
    run.save(training.resume_path(out))
    resumed = training.train(settings(), data, data, out, resume=True)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_checkpoint_round_trip_keeps_the_figures(tmp_path):
    model = networks.build("binary-autoencoder", TINY | {"image_shape": [3, 32, 32]}, seed=2)
    gradlab.save(model, tmp_path / "ae.safetensors")
    again = gradlab.load(tmp_path / "ae.safetensors")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(model.logits(x), again.logits(x))
    a, b = (gradlab.gap(m, x, 1.0, 2.0, draws=2) for m in (model, again))
    np.testing.assert_array_equal(a.gap, b.gap)


def test_loss_has_no_kl(tmp_path):
    data = images(8)
    assert settings().kl == "none"
    model = training.train(settings(), data, data, tmp_path / "ae.safetensors")
    assert model.provenance["settings"]["optimizer"] == "adam"
    x = data.floats()
    logits = model.logits(x)
    noise = torch.zeros(1, *logits.shape)
    loss, kl = training.backward(model, gradlab.estimators.get("decoupled-st-gs", tf=0.3, tb=3.0), x, noise, kl="none")
    assert float(kl) == 0
    assert 0 < float(loss) < 1


def test_reconstruct_names_what_is_wrong():
    model = gradlab.LatentModel(
        torch.nn.Linear(4, 6), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 4)), latents=2, categories=3
    )
    own = gradlab.LatentModel(model.encoder, model.decoder, latents=2, categories=3, likelihood=lambda o, x: o.sum(1))
    with pytest.raises(ValueError, match=r"tf: expected .*, got 0"):
        reconstruct(model, torch.rand(2, 4), tf=0)
    with pytest.raises(ValueError, match="likelihood: expected bernoulli or gaussian for reconstructions"):
        reconstruct(own, torch.rand(2, 4))
    made = reconstruct(model, torch.rand(2, 4))
    assert ((made > 0) & (made < 1)).all()  # Bernoulli means
