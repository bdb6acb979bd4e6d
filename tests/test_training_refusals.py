"""Training: settings and images that do not fit are refused by name, and its cost is known beforehand."""

import json
import math

import numpy as np
import pytest
import torch

import gradlab
from gradlab import files, training
from gradlab.datasets import Images
from gradlab.errors import UnknownName
from gradlab.training.run import check_fit

from .small_trainings import CONFIG, IMAGES, VALIDATION, settings, train


@pytest.fixture
def out(tmp_path):
    return tmp_path / "vae.safetensors"


# what does not fit


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"tf": 0}, "tf: expected .*, got 0"),
        ({"tb": -1.0}, "tb: expected .*, got -1.0"),
        ({"tf": math.nan}, "tf: expected .*, got nan"),
        ({"tb": math.inf}, "tb: expected .*, got inf"),
        ({"tf": None}, "tf: expected .*, got None"),
        ({"tf": [1.0]}, r"tf: expected .*, got \[1.0\]"),
        ({"lr": 0}, "lr: expected .*, got 0"),
        ({"lr": math.nan}, "lr: expected .*, got nan"),
        ({"lr": "fast"}, "lr: expected .*, got 'fast'"),
        ({"lr": None}, "lr: expected .*, got None"),
        ({"batch_size": 0}, "batch_size: expected .*, got 0"),
        ({"batch_size": 2.5}, "batch_size: expected .*, got 2.5"),
        ({"batch_size": "10"}, "batch_size: expected .*, got '10'"),
        ({"epochs": 0}, "epochs: expected .*, got 0"),
        ({"epochs": True}, "epochs: expected .*, got True"),
        ({"seed": -1}, "seed: expected .*, got -1"),
        ({"kl": "no"}, "kl: unknown name 'no'"),
        ({"kl": 1}, "kl: unknown name"),
        ({"config": None}, "config: expected .*, got None"),
        ({"optimizer": "radm"}, "optimizer: unknown name 'radm'; did you mean radam"),
        ({"estimator": "decoupled-stgs"}, "estimator: unknown name .* did you mean decoupled-st-gs"),
        ({"estimator": None}, "estimator: unknown name None"),
        ({"architecture": "vae"}, "architecture: unknown name 'vae'"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_by_name(other, match):
    with pytest.raises(ValueError, match=match):
        settings(**other)


def test_settings_are_plain_numbers_whatever_they_were_given_as(out):
    own = settings(tf=np.float32(1.5), tb=2, batch_size=np.int64(10), epochs=1.0, seed=np.int32(5))
    assert json.dumps([own.tf, own.tb, own.batch_size, own.epochs, own.seed]) == "[1.5, 2.0, 10, 1, 5]"
    training.train(own, IMAGES, VALIDATION, out)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"latents": 2, "categories": 3}, r"images: expected images that fit .*, got shape \(1, 4, 4\)"),
        (CONFIG | {"image_shape": [1, 3, 4]}, r"images: expected images that fit .*, got shape \(1, 4, 4\)"),
        (CONFIG | {"latents": 0}, "latents: expected .*, got 0"),
        (CONFIG | {"latent": 2}, "config: expected the arguments of categorical-vae, got"),
        (CONFIG | {"hidden": np.array([8])}, "config: expected plain JSON values, got"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(out, config, match):
    with pytest.raises(ValueError, match=match):
        train(out, config=config)
    assert list(out.parent.iterdir()) == []


def test_validation_images_of_another_size_are_refused(out):
    wide = Images(torch.zeros(3, 1, 4, 5, dtype=torch.uint8), "wide", "test", "")
    with pytest.raises(ValueError, match=r"validation: expected images that fit .*, got shape \(1, 4, 5\)"):
        training.train(settings(), IMAGES, wide, out)


def test_looking_whether_images_fit_moves_no_running_statistics():
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 6))
    decoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 16))
    model = gradlab.LatentModel(encoder, decoder, latents=2, categories=3)
    check_fit(model, "images", IMAGES)
    assert model.training
    assert torch.equal(encoder[1].running_mean, torch.zeros(16))


@pytest.mark.parametrize("argument", ["images", "validation"])
def test_no_images_are_refused(out, argument):
    none = Images(torch.zeros(0, 1, 4, 4, dtype=torch.uint8), "none", "train", "")
    given = {"images": IMAGES, "validation": VALIDATION, argument: none}
    with pytest.raises(ValueError, match=f"{argument}: expected at least one image, got none"):
        training.train(settings(), given["images"], given["validation"], out)


@pytest.mark.parametrize("keep_every", [-1, 1.5, "2", True])
def test_keep_every_is_a_whole_number(out, keep_every):
    with pytest.raises(ValueError, match="keep_every: expected a whole number"):
        train(out, keep_every=keep_every)


def test_an_output_that_cannot_be_written_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(training.Run, "one_step", lambda run, batch: pytest.fail("it trained"))
    with pytest.raises(IsADirectoryError, match="a folder"):
        train(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError):
        train(tmp_path / "file" / "vae.safetensors")


def test_an_unknown_estimator_name_is_an_unknown_name():
    with pytest.raises(UnknownName):
        settings(estimator="st")


def test_the_kept_state_is_named_after_the_output(out):
    assert training.resume_path(out).name == "vae.resume.safetensors"
    assert training.resume_path(out).parent == out.parent
    assert files.writable(out) == out


# what it will take


def test_the_cost_is_measured_beforehand_without_a_trace():
    before = torch.get_rng_state()
    one = training.step_seconds([settings()], IMAGES, VALIDATION)
    several = training.step_seconds([settings(seed=i) for i in range(5)], IMAGES, VALIDATION)
    assert 0 < one < several < 100 * one
    assert torch.equal(torch.get_rng_state(), before)
    assert training.most_together(settings(), IMAGES, VALIDATION, "cpu") == 1
