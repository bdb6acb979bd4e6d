"""Every built-in architecture: its model is whole, the same from the same seed, and comes back from a file."""

import pytest
import torch

import gradlab
from gradlab import networks

# small, for tests; a new architecture gets a line here
SMALL = {
    "binary-autoencoder": {"width": 2, "depth": 1, "units": 3, "grid": 2, "image_shape": [1, 8, 8]},
    "categorical-vae": {"latents": 3, "categories": 4, "hidden": [8], "image_shape": [1, 8, 8]},
}


@pytest.fixture(params=sorted(networks.ARCHITECTURES))
def name(request):
    assert request.param in SMALL, f"tests/test_networks.py: give {request.param!r} a small configuration"
    return request.param


def test_a_model_maps_images_to_logits_and_codes_to_losses(name):
    model = networks.build(name, SMALL[name], seed=0)
    x = torch.rand(5, *SMALL[name]["image_shape"])
    logits = model.logits(x)
    noise = model.kind.noise((1, *logits.shape), dtype=logits.dtype, generator=torch.Generator().manual_seed(0))
    loss = model.losses(model.kind.hard(logits + noise[0]), x)
    assert loss.shape == (5,)
    assert loss.isfinite().all()
    assert len(set(loss.tolist())) == 5


def test_a_seed_decides_the_weights_and_nothing_else_is_drawn(name):
    before = torch.random.get_rng_state()
    one, again, other = (networks.build(name, SMALL[name], seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_model_comes_back_from_its_file(name, tmp_path):
    model = networks.build(name, SMALL[name], seed=1)
    gradlab.save(model, tmp_path / "model.safetensors")
    back = gradlab.load(tmp_path / "model.safetensors")
    assert (back.architecture, back.config) == (name, model.config)
    assert all(torch.equal(value, back.state_dict()[key]) for key, value in model.state_dict().items())


def test_the_default_configuration_is_a_model(name):
    with torch.device("meta"):
        assert networks.build(name, {}).latents >= 1
