"""Checkpoints: bitwise round trips, and refusal of every file that is not a whole checkpoint."""

import json
import os
import pickle
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import gradlab
from gradlab import checkpoints, networks
from gradlab.errors import BadFile, UnknownName

from . import forks

CONFIG = {"latents": 2, "categories": 3, "hidden": [5], "image_shape": [1, 3, 3]}
ABOUT = {
    "format": checkpoints.FORMAT,
    "architecture": "categorical-vae",
    "config": json.dumps(CONFIG),
    "provenance": "{}",
}


def tiny():
    model = networks.build("categorical-vae", CONFIG, seed=3)
    model.provenance = {"settings": {"tf": 1.6, "estimator": "decoupled-st-gs"}, "written": "2024-02-29"}
    return model


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "vae.safetensors"
    gradlab.save(tiny(), path)
    return path


def refused(path, match=None):
    began = time.process_time()
    with pytest.raises(BadFile, match=match) as raised:
        gradlab.load(path)
    assert time.process_time() - began < 60  # what is announced would take minutes
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def assert_same_weights(a, b):
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, tensor in a.state_dict().items():
        assert tensor.dtype == b.state_dict()[name].dtype
        assert torch.equal(tensor, b.state_dict()[name]), name


def test_a_round_trip_changes_nothing(path):
    model, back = tiny(), gradlab.load(path)
    assert_same_weights(back, model)
    assert back.provenance == model.provenance
    assert (back.architecture, back.config) == (model.architecture, model.config)
    assert back.likelihood.name == "bernoulli"
    x = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(back.logits(x), model.logits(x))


def test_the_same_model_gives_the_same_file(path, tmp_path):
    gradlab.save(gradlab.load(path), tmp_path / "again.safetensors")
    again, first = ({}, {})
    for file, found in ((tmp_path / "again.safetensors", again), (path, first)):
        with safe_open(file, framework="pt") as opened:
            found |= {"about": opened.metadata(), "tensors": sorted(opened.keys())}
    assert again == first


def test_a_loaded_model_can_be_trained_on_and_shares_nothing_with_the_file(path):
    content = path.read_bytes()
    model = gradlab.load(path)
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert path.read_bytes() == content


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_precision_is_kept(path, dtype):
    model = tiny().to(dtype)
    gradlab.save(model, path)
    assert_same_weights(gradlab.load(path), model)


def test_an_own_model_is_refused_with_the_cure(path):
    content = path.read_bytes()
    own = gradlab.LatentModel(nn.Linear(9, 6), nn.Linear(6, 9), latents=2, categories=3)
    with pytest.raises(ValueError, match=r"expected a built-in architecture.*save its state_dict"):
        gradlab.save(own, path)
    assert path.read_bytes() == content


def test_provenance_that_is_no_json_is_refused_and_the_old_file_kept(path):
    content, model = path.read_bytes(), tiny()
    model.provenance = {"data": object()}
    with pytest.raises(ValueError, match="expected plain JSON as config and provenance"):
        gradlab.save(model, path)
    assert path.read_bytes() == content


def test_a_crash_while_writing_leaves_the_old_file(path, monkeypatch):
    content = path.read_bytes()

    def crash(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        gradlab.save(tiny(), path)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_file_may_be_replaced_while_its_model_is_in_use(path):
    model = gradlab.load(path)
    gradlab.save(networks.build("categorical-vae", CONFIG, seed=4), path)
    assert_same_weights(model, tiny())


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such checkpoint file"):
        gradlab.load(tmp_path / "none.safetensors")
    refused(tmp_path, "a folder")
    with pytest.raises(IsADirectoryError, match="a folder"):
        gradlab.save(tiny(), tmp_path)


def test_a_file_cut_short_anywhere_is_refused(path):
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        refused(path)


def test_a_damaged_header_is_refused_or_read_but_nothing_else(path):
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    random = np.random.default_rng(0)
    refusals = 0
    for position in random.integers(0, header, 1000):
        damaged = bytearray(content)
        damaged[position] = random.integers(256)
        path.write_bytes(damaged)
        try:
            gradlab.load(path)
        except BadFile:
            refusals += 1
    assert refusals > 900


FOREIGN = [b"", b"\x00" * 8, b"\xff" * 64, b"notes\n" * 50, (10**9).to_bytes(8, "little") + b"{}" * 50]


@pytest.mark.parametrize("foreign", FOREIGN, ids=range(len(FOREIGN)))
def test_a_foreign_file_is_refused(path, foreign):
    path.write_bytes(foreign)
    refused(path, "expected a complete safetensors file|expected a checkpoint file, got (a text file|an empty file)")


def test_a_long_header_is_refused_before_it_is_read(path, monkeypatch):
    monkeypatch.setattr(checkpoints, "MOST_HEADER", 100)
    monkeypatch.setattr(checkpoints, "safe_open", None)
    refused(path, "announced header")


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def pickled(trap, path):
    path.write_bytes(pickle.dumps(trap))


def unpickle(path):
    pickle.loads(path.read_bytes())


def torch_unpickle(path):
    torch.load(path, weights_only=False)


@pytest.mark.parametrize(("write", "fall_for_it"), [(torch.save, torch_unpickle), (pickled, unpickle)])
def test_a_pickle_is_refused_and_not_unpickled(tmp_path, write, fall_for_it):
    marker, path = tmp_path / "marker", tmp_path / "vae.pt"
    write(Trap(marker), path)
    refused(path)
    assert not marker.exists()
    fall_for_it(path)
    assert marker.exists()


def altered(path, about=(), drop=(), tensors=None):
    """The tiny checkpoint with other metadata or tensors."""
    about = {k: v for k, v in {**ABOUT, **dict(about)}.items() if k not in drop}
    save_file(tiny().state_dict() if tensors is None else tensors, path, metadata=about or None)


def test_the_unaltered_file_of_these_tests_is_read(path):
    altered(path)
    assert_same_weights(gradlab.load(path), tiny())


@pytest.mark.parametrize("drop", [["format"], ["architecture"], ["config"], list(ABOUT)], ids=len)
def test_missing_metadata_is_refused(path, drop):
    altered(path, drop=drop)
    refused(path)


def test_safetensors_without_metadata_are_refused(path):
    save_file({"a": torch.zeros(3)}, path)
    refused(path, "expected a gradlab checkpoint")


NO_OBJECT = ["", "{", "[]", "3", "null", '"x"', "\x00", "[" * 3000, "1" * 4000, '{"latents":']


@pytest.mark.parametrize("key", ["config", "provenance"])
@pytest.mark.parametrize("text", NO_OBJECT, ids=range(len(NO_OBJECT)))
def test_metadata_that_is_no_json_object_is_refused(path, key, text):
    altered(path, {key: text})
    refused(path, key)


@pytest.mark.parametrize("text", ["[" * 10**6, "1" * 10**6], ids=["nested", "number"])
def test_absurd_provenance_is_refused(path, text):
    altered(path, {"provenance": text})
    refused(path, "expected JSON as provenance")


@pytest.mark.parametrize(
    "other",
    [
        {"latents": 10**9},
        {"categories": 10**9},
        {"latents": 10**9, "categories": 10**9},
        {"latents": 10**40},
        {"hidden": [10**9, 10**9]},
        {"hidden": [10**12, 10**12]},
        {"hidden": [1] * 1000},
        {"hidden": [10] * 10**6},
        {"image_shape": [10**6, 10**6, 10**6]},
        {"image_shape": []},
        {"latents": 0},
        {"latents": -1},
        {"latents": 2.5},
        {"latents": float("nan")},
        {"latents": float("inf")},
        {"latents": None},
        {"latents": "2"},
        {"latents": [2]},
        {"latents": {}},
        {"latents": True},
        {"categories": 1},
        {"hidden": None},
        {"hidden": 5},
        {"hidden": [[5]]},
        {"hidden": []},
        {"image_shape": {"height": 3}},
        {"own": 1},
        {"": 1},
    ],
    ids=lambda v: str(v)[:40],
)
def test_a_configuration_that_does_not_fit_is_refused(path, other):
    altered(path, {"config": json.dumps(CONFIG | other)})
    refused(path)


def test_an_unknown_architecture_is_refused_with_the_near_match(path):
    altered(path, {"architecture": "categorical-vea"})
    refused(path, "did you mean categorical-vae")


@pytest.mark.parametrize("version", ["gradlab-2", "", "pt"])
def test_another_format_is_refused(path, version):
    altered(path, {"format": version})
    refused(path, "expected a gradlab checkpoint of format 'gradlab-1', got format")


def peak_of_refusing(paths):
    """Bytes above those before that refusing to load each of `paths` takes at its peak."""
    before = high_water()
    for path in paths:
        with pytest.raises(BadFile):
            gradlab.load(path)
    return high_water() - before


def high_water():
    """Of this program: what getrusage tells on Linux is at least the peak of the process that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_absurd_sizes_take_no_memory(tmp_path):
    absurd = [{"latents": 10**9}, {"hidden": [10**5, 10**5]}, {"image_shape": [1, 30_000, 30_000]}]
    paths = [str(tmp_path / f"{k}.safetensors") for k in range(len(absurd))]
    for path, other in zip(paths, absurd, strict=True):
        altered(path, {"config": json.dumps(CONFIG | other)})
    code, taken = forks.ended(lambda: peak_of_refusing(paths))
    assert code == 0, taken
    assert int(taken) < 100 * 2**20


def with_tensor(name, value):
    tensors = tiny().state_dict()
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    return tensors


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        (with_tensor("encoder.1.weight", torch.zeros(5, 8)), r"for tensor encoder.1.weight, got \(5, 8\)"),
        (with_tensor("encoder.1.weight", torch.zeros(9, 5)), r"expected shape \(5, 9\) for tensor"),
        (with_tensor("encoder.1.weight", torch.zeros(45)), r"got \(45,\)"),
        (with_tensor("decoder.3.bias", torch.zeros(())), r"got \(\)"),
        (with_tensor("decoder.3.bias", None), "decoder.3.bias, got None"),
        (
            with_tensor("decoder.5.bias", torch.zeros(9)),
            "expected the tensors of its configuration, got decoder.5.bias",
        ),
        (with_tensor("decoder.3.bias", torch.zeros(9, dtype=torch.int64)), "got F32 and I64"),
        (with_tensor("decoder.3.bias", torch.zeros(9).double()), "got F32 and F64"),
        ({k: v.to(torch.int32) for k, v in tiny().state_dict().items()}, "got I32"),
        (
            {k: v.to(torch.float8_e4m3fn) for k, v in tiny().state_dict().items()},
            "expected tensors of one of the types",
        ),
        (
            with_tensor("decoder.3.bias", torch.full((9,), torch.nan)),
            "expected finite weights, got others in tensor decoder.3.bias",
        ),
        (
            with_tensor("encoder.1.weight", torch.full((5, 9), -torch.inf)),
            "expected finite weights, got others in tensor encoder.1.weight",
        ),
        ({}, "got None"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(path, tensors, match):
    altered(path, tensors=tensors)
    refused(path, match)


def test_one_value_that_is_not_finite_is_enough(path):
    weight = tiny().state_dict()["encoder.1.weight"].clone()
    weight[-1, -1] = torch.nan
    altered(path, tensors=with_tensor("encoder.1.weight", weight))
    refused(path, "expected finite weights, got others in tensor encoder.1.weight")


def test_a_training_s_tensors_are_kept_apart_from_the_model_s(path):
    training = {"sums": torch.arange(3.0).double(), "optimizer.0.step": torch.tensor(7.0)}
    checkpoints.write(path, tiny(), training, {"step": 7})
    model, back, provenance = checkpoints.read(path)
    assert_same_weights(model, tiny())
    assert back.keys() == training.keys()
    assert all(torch.equal(back[name], training[name]) for name in training)
    assert provenance == {"step": 7}
    assert_same_weights(gradlab.load(path), tiny())


def test_an_unknown_bundled_model_is_refused_with_the_known_ones():
    assert isinstance(gradlab.bundled(), list)
    with pytest.raises(UnknownName, match="name: unknown name 'vae-9x4'"):
        gradlab.bundled("vae-9x4")


def test_build_needs_a_known_architecture_and_plain_values():
    with pytest.raises(UnknownName, match="did you mean categorical-vae"):
        networks.build("categorical_vae", {})
    with pytest.raises(ValueError, match="config: expected plain JSON values, got"):
        networks.build("categorical-vae", {"latents": np.int64(2)})
    with pytest.raises(ValueError, match="config: expected the arguments of"):
        networks.build("categorical-vae", {"latent": 2})
    with pytest.raises(ValueError, match=r"image_shape: expected .*, got"):
        networks.build("categorical-vae", {"image_shape": []})
    with pytest.raises(ValueError, match=r"seed: expected a whole number below .*, got"):
        networks.build("categorical-vae", {}, seed=2**64)


def test_build_makes_lists_of_tuples_so_that_a_saved_model_has_the_same_configuration(path):
    model = networks.build("categorical-vae", CONFIG | {"hidden": (5,), "image_shape": (1, 3, 3)}, seed=0)
    gradlab.save(model, path)
    assert gradlab.load(path).config == model.config == CONFIG
