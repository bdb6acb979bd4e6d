"""Weights as people save them: wrapped names, checkpoints of trainings, several precisions; nothing ambiguous."""

import collections

import pytest
import safetensors.torch
import torch
from torch import nn

import gradlab
from gradlab import errors, saved_names


def model(seed=0, compiled=False):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 6))
        decoder = torch.compile(decoder, backend="eager") if compiled else decoder
        return gradlab.LatentModel(nn.Linear(6, 6), decoder, latents=2, categories=3, likelihood="gaussian").eval()


def renamed(change):
    return lambda state: {change(name): tensor for name, tensor in state.items()}


def inside(name):
    return name.replace("decoder.", "decoder._orig_mod.").replace("encoder.", "encoder.module.")


NAMES = {
    "as they are": renamed(lambda name: name),
    "module.": renamed(lambda name: f"module.{name}"),
    "_orig_mod.": renamed(lambda name: f"_orig_mod.{name}"),
    "model.": renamed(lambda name: f"model.{name}"),
    "module._orig_mod.model.": renamed(lambda name: f"module._orig_mod.model.{name}"),
    "model.model.": renamed(lambda name: f"model.model.{name}"),
    "inside": renamed(inside),
    "in front and inside": renamed(lambda name: f"_orig_mod.{inside(name)}"),
}
CHECKPOINTS = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "step": 10, "loss": 0.5, "args": {"lr": 1e-3, "name": "run"}},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {0: {}}}},
    "Lightning": lambda state: {
        "epoch": 1,
        "global_step": 20,
        "pytorch-lightning_version": "2.0",
        "state_dict": collections.OrderedDict(state),
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}],
        "lr_schedulers": [],
        "hyper_parameters": {"latents": 2},
    },
    "the average beside it, of other names": lambda state: {"model": state, "average": {"n": torch.ones(1)}},
}


def check(found, wanted):
    for tensor, other in zip(found.state_dict().values(), wanted.state_dict().values(), strict=True):
        assert torch.equal(tensor, other)


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_weights_are_found_under_other_names(names, checkpoint, tmp_path):
    wanted = model(1)
    torch.save(CHECKPOINTS[checkpoint](NAMES[names](wanted.state_dict())), tmp_path / "w.pt")
    check(gradlab.load_weights(model(2), tmp_path / "w.pt"), wanted)


@pytest.mark.parametrize("names", NAMES)
def test_a_model_with_a_compiled_part_takes_them_too(names, tmp_path):
    wanted = model(1)
    safetensors.torch.save_file(NAMES[names](wanted.state_dict()), str(tmp_path / "w.safetensors"))
    check(gradlab.load_weights(model(2, compiled=True), tmp_path / "w.safetensors"), wanted)


def test_a_file_of_a_compiled_model_fits_the_plain_one(tmp_path):
    wanted = model(1, compiled=True)
    torch.save(torch.compile(wanted, backend="eager").state_dict(), tmp_path / "w.pt")
    check(gradlab.load_weights(model(2), tmp_path / "w.pt"), wanted)


def test_half_weights_beside_norms_in_single_precision(tmp_path):
    wanted = model(1)
    wanted.encoder.half()
    wanted.decoder[1].to(torch.bfloat16)
    torch.save(wanted.state_dict(), tmp_path / "w.pt")
    found = gradlab.load_weights(model(2), tmp_path / "w.pt")
    for tensor, other in zip(found.state_dict().values(), wanted.state_dict().values(), strict=True):
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, other.float())
    gradlab.exact_gradient(found, torch.rand(4, 6))


STATE = model(1).state_dict()
AMBIGUOUS = {
    "two that fit": ({"model": STATE, "ema": STATE}, "got 2 of model, ema"),
    "two that do not": ({"a": {"x": torch.ones(1)}, "b": {"y": torch.ones(1)}}, "got none of a, b"),
    "a name twice": (
        STATE | {"module.encoder.weight": STATE["encoder.weight"]},
        "got encoder.weight and module.encoder.weight, which mean the same",
    ),
    "nothing": ({"epoch": 3}, "expected a state dict, .* got a dict of epoch"),
    "another prefix": ({f"net.{name}": tensor for name, tensor in STATE.items()}, "got a file without .* with net.enc"),
    "half of it": ({f"model.{name}": STATE[name] for name in list(STATE)[:3]}, "got a file without"),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_what_may_be_meant_in_two_ways_is_refused_by_name(case, tmp_path):
    content, message = AMBIGUOUS[case]
    torch.save(content, tmp_path / "w.pt")
    made = model(2)
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    with pytest.raises(errors.BadFile, match=message):
        gradlab.load_weights(made, tmp_path / "w.pt")
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())


class Settings:
    """What a pickle may not contain."""


def test_a_checkpoint_with_other_objects_is_not_read(tmp_path):
    torch.save({"state_dict": STATE, "hyper_parameters": Settings()}, tmp_path / "w.ckpt")
    with pytest.raises(errors.BadFile, match=r"imports .*Settings; it was not read \(of a checkpoint .*torch.save\("):
        gradlab.load_weights(model(), tmp_path / "w.ckpt")


def test_a_module_of_that_name_is_the_model_s_own():
    own = ["decoder.module.weight", "encoder.weight"]
    assert saved_names.own_names(own, own) == {name: name for name in own}
    found = saved_names.own_names(own, ["model.decoder._orig_mod.module.weight", "model.encoder.weight"])
    assert list(found.values()) == own
    assert saved_names.own_names(["model.a", "b"], ["module.model.a", "module.b"]) == {
        "module.model.a": "model.a",
        "module.b": "b",
    }


def test_a_compiled_model_is_refused_with_its_cure():
    with pytest.raises(ValueError, match=r"expected a gradlab.LatentModel, got a OptimizedModule \(pass its _orig_mod"):
        gradlab.exact_gradient(torch.compile(model(), backend="eager"), torch.rand(4, 6))


def test_the_command_line_takes_a_compiled_factory(run, tmp_path, monkeypatch):
    (tmp_path / "wrapped.py").write_text(
        "import torch\nfrom torch import nn\nimport gradlab\n"
        "def model():\n"
        "    decoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 6))\n"
        "    made = gradlab.LatentModel(nn.Linear(6, 6), decoder, latents=2, categories=3, likelihood='gaussian')\n"
        "    return torch.compile(made, backend='eager')\n"
    )
    monkeypatch.chdir(tmp_path)
    torch.save(torch.rand(4, 6).numpy().tolist(), tmp_path / "unused")
    import numpy as np

    np.save("x.npy", np.random.default_rng(0).random((4, 6), dtype=np.float32))
    given = ("--model", "wrapped:model", "--observations", "x.npy", "--draws", 4, "--tf", 1, "--tb", 1)
    found = run("bias", *given, "--sweep", "none", "--no-plot", "--images", 4, "--out", "found.h5")
    assert found.code == 0, found
