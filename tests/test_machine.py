"""Full precision whatever the caller has set, and memory from what there is."""

import pytest
import torch

import gradlab
from gradlab import machine

from . import problems

PLACES = (*machine._ON_GPU, *machine._ON_CPU)


@pytest.fixture(autouse=True)
def restored():
    before = [place.fp32_precision for place in PLACES]
    yield
    for place, precision in zip(PLACES, before, strict=True):
        place.fp32_precision = precision


def precisions():
    return [place.fp32_precision for place in PLACES]


def test_convolutions_on_a_gpu_are_rounded_unless_told_otherwise():
    """What makes it worth switching off."""
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"


@pytest.mark.parametrize("asked", [False, True])
def test_tensor_float_32_is_off_unless_asked_for(asked):
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    before = precisions()
    with machine.plain_arithmetic(tf32=asked):
        assert precisions() == ["tf32" if asked else "ieee"] * 3 + ["ieee"] * 3
    assert precisions() == before


def test_the_callers_settings_come_back_after_an_error():
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    before = precisions()
    with pytest.raises(KeyError), machine.plain_arithmetic():
        raise KeyError
    assert precisions() == before


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("name", ["bias", "gap"])
def test_analyses_run_with_it_and_say_so(name, tf32):
    model, x = (problem := problems.make("3x5-bernoulli-mlp")).model, problem.x
    seen = {"encoder": [], "decoder": []}
    for part, precisions in seen.items():
        getattr(model, part).register_forward_hook(
            lambda module, given, output, into=precisions: into.append(torch.backends.cudnn.conv.fp32_precision)
        )
    ds = getattr(gradlab, name)(model, x, 1.6, 1.3, draws=4, tf32=tf32)
    # the logits are the point at which gradients are taken, and the check for rows that mix takes full precision
    assert set(seen["encoder"]) == {"ieee"}
    assert seen["decoder"][-1] == ("tf32" if tf32 else "ieee")
    assert ("tf32" in seen["decoder"]) == tf32
    assert ds.attrs["tf32"] == int(tf32)


def test_memory_is_what_was_asked_for_or_a_share_of_what_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    assert machine.working_memory(None, torch.device("cpu")) == machine.MEMORY
    assert machine.working_memory(None, torch.device("cuda")) == 250
    assert machine.working_memory(77, torch.device("cuda")) == 77
    with pytest.raises(ValueError, match=r"memory: got 0; give a whole number of at least 1"):
        machine.working_memory(0, torch.device("cpu"))
