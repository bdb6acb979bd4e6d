"""What the caller has set does not matter, and is there again afterwards: default dtype, device, modes, notebooks."""

import contextlib
import functools
import sys
import types

import numpy as np
import pytest
import torch

import gradlab
from gradlab import estimators, networks, results, sweeps, training
from gradlab.estimators import conformance

from . import tiny_sweep


@contextlib.contextmanager
def float64():
    torch.set_default_dtype(torch.float64)
    try:
        yield
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS = {
    "float64": float64,
    "meta": lambda: torch.device("meta"),
    "inference": torch.inference_mode,
    "no grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


MODES = ("inference", "no grad", "autocast")


def trained(folder):
    model = training.train(tiny_sweep.BASE, tiny_sweep.IMAGES, tiny_sweep.VALIDATION, folder / "a.safetensors")
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def measured(_):
    model, x = gradlab.bundled("vae-8x4-mnist"), gradlab.datasets.load("mnist-sample").first(2).floats()
    ds = gradlab.bias(model, x, tf=1.0, tb=1.3, draws=8)
    return {"bias": ds.mean_gradient.values, "gap": gradlab.gap(model, x, tf=1.0, draws=8).gap.values}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "setting", ["float64", "meta", *(pytest.param(name, marks=pytest.mark.deep) for name in MODES)]
)
@pytest.mark.parametrize("work", [trained, measured])
def test_the_same_numbers(tmp_path, work, setting):
    wanted = work(tmp_path)
    with SETTINGS[setting]():
        found = work(tmp_path)
    for name, values in wanted.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("setting", ["inference", pytest.param("meta", marks=pytest.mark.deep), "autocast"])
def test_the_same_verdict_on_an_estimator(setting):
    """Without derivatives, numbers or digits a correct one broke the protocol."""
    with SETTINGS[setting]():
        report = conformance.check(estimators.get("disarm"), draws=100)
    assert (report.violations, len(report.verdicts)) == ((), 2)


def test_the_same_verdict_on_a_layer():
    hard = functools.partial(torch.nn.functional.gumbel_softmax, hard=True)
    with torch.inference_mode():
        report = gradlab.check_layer(lambda logits, tau: hard(logits, tau), tb=2)
    assert (report.same_as, report.problems) == (["st-gs(convention=jang) at tf=1, tb=2"], [])


def test_a_sweep_under_float64_is_one_of_float32(tmp_path, undisturbed):
    with float64():
        ds = sweeps.sweep(
            tiny_sweep.BASE, tiny_sweep.IMAGES, tiny_sweep.VALIDATION, tmp_path, tf=0.5, tb=0.7, seeds=[3]
        )
    wanted = undisturbed[1].sel(tiny_sweep.ONE_POINT)
    np.testing.assert_array_equal(ds.validation_loss, wanted.validation_loss)


def test_models_made_in_inference_mode(tmp_path):
    with torch.inference_mode():
        made = networks.build("categorical-vae", tiny_sweep.CONFIG, seed=0)
    plain = networks.build("categorical-vae", tiny_sweep.CONFIG, seed=0)
    x = tiny_sweep.IMAGES.floats(slice(0, 3))
    assert torch.equal(gradlab.exact_gradient(made, x, tf=1.0), gradlab.exact_gradient(plain, x, tf=1.0))
    gradlab.save(made, tmp_path / "a.safetensors")
    assert torch.equal(gradlab.load(tmp_path / "a.safetensors").state_dict()["encoder.1.bias"], made.encoder[1].bias)


@pytest.mark.parametrize(
    ("argv", "kernel", "told"),
    [
        (["/x/ipykernel_launcher.py", "-f", "/run/kernel-ab.json"], True, "notebook"),
        (["/x/colab_kernel_launcher.py", "-f", "/root/kernel-1.json"], True, "notebook"),
        (["gradlab", "bias", "--out", "a b.h5"], False, "gradlab bias --out 'a b.h5'"),
        ([""], False, "python"),
    ],
)
def test_the_command_line_of_a_notebook_is_no_file_of_its_kernel(monkeypatch, argv, kernel, told):
    monkeypatch.setattr(sys, "argv", argv)
    if kernel:
        monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    assert results.stamp()["command_line"] == told
