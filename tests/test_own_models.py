"""Models of one's own: their weights from files, hostile ones too, the command line, and the worked examples."""

import collections
import io
import os
import pickle
import runpy
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import gradlab
from gradlab import datasets, errors, files

from .command_line import refused

ROOT = Path(__file__).resolve().parents[1]
MODULE = """
import torch
from torch import nn
import gradlab

print("imported")

def model():
    torch.manual_seed(0)
    return gradlab.LatentModel(
        nn.Linear(6, 6), nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(6, 6)), latents=2, categories=3,
        likelihood="gaussian",
    )

made = model()
text = "text"

def fails():
    raise KeyError("nothing here")

def number():
    return 3
"""
FEW = ("--draws", 4, "--no-plot")


def small(seed=0):
    torch.manual_seed(seed)
    decoder = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(6, 6))
    return gradlab.LatentModel(nn.Linear(6, 6), decoder, latents=2, categories=3, likelihood="gaussian")


def safe(model, path):
    safetensors.torch.save_file(model.state_dict(), str(path))


def saved(model, path):
    torch.save(model.state_dict(), path)


WRITERS = {"safetensors": safe, "torch.save": saved}


# --- weights ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_weights_come_back_in_their_precision(tmp_path, write, dtype):
    wanted = small(1).to(dtype)
    write(wanted, tmp_path / "w")
    found = gradlab.load_weights(small(2), tmp_path / "w")
    assert found.state_dict().keys() == wanted.state_dict().keys()
    for name, tensor in wanted.state_dict().items():
        assert found.state_dict()[name].dtype == dtype
        assert torch.equal(found.state_dict()[name], tensor)


@pytest.mark.parametrize("how", ["safetensors", "torch.save"])
def test_a_shared_tensor_is_needed_once(tmp_path, how):
    class Tied(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.weight = weight

    def tied(seed):
        torch.manual_seed(seed)
        weight = nn.Parameter(torch.randn(3, 2))
        return gradlab.LatentModel(Tied(weight), Tied(weight), latents=2, categories=3)

    if how == "safetensors":
        safetensors.torch.save_model(tied(1), str(tmp_path / "w"))
    else:
        torch.save({"encoder.weight": tied(1).encoder.weight.detach()}, tmp_path / "w")
    found = gradlab.load_weights(tied(2), tmp_path / "w")
    assert torch.equal(found.decoder.weight, tied(1).encoder.weight)
    assert found.encoder.weight is found.decoder.weight


def archive(path, content=None, compression=zipfile.ZIP_STORED, more=b""):
    """A torch archive of the small model's state dict, its pickle replaced."""
    whole = io.BytesIO()
    saved(small(), whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", compression) as target:
        for name in source.namelist():
            is_pickle = name.endswith("/data.pkl")
            target.writestr(name, content if content is not None and is_pickle else source.read(name))
        if more:
            target.writestr("archive/data/99", more)


class System:
    def __reduce__(self):
        return os.system, ("touch hacked",)


class Memory:
    def __reduce__(self):
        return bytearray, (2**40,)


def stack_global():
    return pickle.dumps({"w": collections.Counter()}, protocol=4)


def bigger(path):
    """A tensor of far more numbers than its storage holds."""
    whole = io.BytesIO()
    torch.save({"w": torch.zeros(4)}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("/data.pkl"):
                assert content.count(b"K\x04\x85q\x08") == 1
                content = content.replace(b"K\x04\x85q\x08", b"J\x00\x00\x00\x70\x85q\x08")
            target.writestr(name, content)


def changed(name, tensor):
    def write(path):
        state = small().state_dict() | {name: tensor}
        torch.save({k: v for k, v in state.items() if v is not None}, path)

    return write


def cut(path):
    saved(small(), path)
    path.write_bytes(path.read_bytes()[:-300])


BAD = {
    "code": (lambda p: archive(p, pickle.dumps({"w": System()}, 2)), "imports posix.system"),
    "memory": (lambda p: archive(p, pickle.dumps({"w": Memory()}, 2)), "imports __builtin__.bytearray"),
    "later pickle": (lambda p: archive(p, stack_global()), "imports stack_global"),
    "damaged pickle": (lambda p: archive(p, b"\x80\x02}q"), "got a damaged pickle"),
    "no tensors": (
        lambda p: archive(p, pickle.dumps({"epoch": 3}, 2)),
        "expected a state dict, .* got a dict of epoch",
    ),
    "a list": (lambda p: archive(p, pickle.dumps([1], 2)), "expected a state dict, .* got a list"),
    "long pickle": (lambda p: archive(p, pickle.dumps("x" * 2**22, 2)), "expected a pickle of at most 2,097,152 bytes"),
    "bomb": (lambda p: archive(p, None, zipfile.ZIP_DEFLATED, bytes(2**26)), "compressed"),
    "other archive": (lambda p: zipfile.ZipFile(p, "w").writestr("a.txt", "a"), "got another zip archive"),
    "beyond the storage": (bigger, "expected a complete file of torch.save"),
    "bare pickle": (lambda p: p.write_bytes(pickle.dumps({"w": System()})), "got a plain pickle"),
    "legacy": (
        lambda p: torch.save(small().state_dict(), p, _use_new_zipfile_serialization=False),
        "got a plain pickle",
    ),
    "cut short": (cut, "expected a complete file of torch.save"),
    "empty": (lambda p: p.write_bytes(b""), "expected a file of weights, got an empty file"),
    "text": (lambda p: p.write_text("weights " * 9), "expected a file of weights, got a text file"),
    "missing": (
        changed("encoder.bias", None),
        "the model, encoder.weight, encoder.bias.*, got a file without encoder.bias",
    ),
    "unexpected": (changed("more", torch.zeros(2)), "expected the tensors of the model, .* got a file with more"),
    "shape": (changed("encoder.bias", torch.zeros(7)), r"expected shape \(6,\) for encoder.bias, got \(7,\)"),
    "huge shape": (changed("encoder.bias", torch.zeros(1).expand(2**40)), "for encoder.bias, got"),
    "integers": (changed("encoder.bias", torch.zeros(6).long()), "for encoder.bias, got torch.int64"),
    "complex": (
        changed("encoder.bias", torch.zeros(6, dtype=torch.complex64)),
        "for encoder.bias, got torch.complex64",
    ),
    "not finite": (
        changed("encoder.bias", torch.full((6,), torch.nan)),
        "expected finite weights, got others in encoder.bias",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_weights_are_refused_by_name_and_change_nothing(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    write, message = BAD[case]
    write(tmp_path / "w")
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(errors.BadFile, match=message) as error:
        gradlab.load_weights(model, tmp_path / "w")
    assert str(error.value).startswith(str(tmp_path / "w"))
    assert "\n" not in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not (tmp_path / "hacked").exists()


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file of weights"):
        gradlab.load_weights(small(), tmp_path / "nothing")
    with pytest.raises(errors.BadFile, match="a folder"):
        gradlab.load_weights(small(), tmp_path)


# --- observations ---


def test_observations_are_read_as_they_are(tmp_path):
    values = np.linspace(0, 1, 24).reshape(4, 3, 2)
    np.save(tmp_path / "x.npy", values.astype(">f8"))
    found = datasets.load_array(tmp_path / "x.npy")
    assert torch.equal(found.first(3).floats(), torch.from_numpy(values[:3]))
    assert found.first(3).described()["data"] == "x.npy, first 3"
    with pytest.raises(ValueError, match=r"images: expected at most 4, all of x\.npy, got 5"):
        found.first(5)


def header(shape):
    """A .npy file whose header promises a shape that the file does not hold."""

    def write(path):
        np.save(path, np.zeros((2, 2)))
        content = path.read_bytes().replace(b"(2, 2), }" + b" " * len(shape), f"{shape}, }}".encode() + b" " * 6)
        path.write_bytes(content)

    return write


NOT_OBSERVATIONS = {
    "objects": (
        lambda p: np.save(p, np.array([[{}]], dtype=object), allow_pickle=True),
        "expected a complete .npy file",
    ),
    "integers": (lambda p: np.save(p, np.zeros((2, 2), int)), "got int64 of shape"),
    "one dimension": (
        lambda p: np.save(p, np.zeros(3)),
        r"expected floating-point numbers \(example, ...\), got .*shape \(3,\)",
    ),
    "an archive": (lambda p: np.savez(p.open("wb"), x=np.zeros((2, 2))), "expected a file of observations, got a zip"),
    "absurd": (header("(900000000000, 2)"), "expected a complete .npy file"),
    "text": (lambda p: p.write_text("1,2,3"), "expected a .npy file"),
    "cut short": (
        lambda p: (np.save(p, np.zeros((9, 9))), p.write_bytes(p.read_bytes()[:200])),
        "expected a complete .npy file",
    ),
}


@pytest.mark.parametrize("case", NOT_OBSERVATIONS)
def test_what_is_no_observations_is_refused(tmp_path, case):
    write, message = NOT_OBSERVATIONS[case]
    write(tmp_path / "x.npy")
    with pytest.raises(errors.BadFile, match=message) as error:
        datasets.load_array(tmp_path / "x.npy")
    assert "\n" not in str(error.value)


# --- command line ---


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module, weights and observations in the current folder."""
    (tmp_path / "own_module.py").write_text(MODULE)
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('broken')")
    saved(small(5), tmp_path / "w.pt")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((7, 6)).astype(np.float32))
    yield ("--model", "own_module:model", "--weights", "w.pt", "--observations", "x.npy")
    sys.modules.pop("own_module", None)


@pytest.mark.parametrize("command", ["bias", "gap"])
def test_a_model_of_ones_own_is_measured_as_by_the_library(run, own, command):
    done = run(command, *own, "--tf", 1, "--tb", "1,2", *FEW, "--out", "own.h5")
    assert done.code == 0, done.err
    assert "imported" not in done.out
    ds = gradlab.open_results("own.h5")
    assert ds.sizes["example"] == 7
    assert ds.attrs["checkpoint"] == "own_module:model"
    assert ds.attrs["checkpoint_sha256"] == files.sha256("w.pt")
    assert ds.attrs["weights"] == "w.pt"
    assert ds.attrs["data"] == "x.npy, first 7"
    assert ds.attrs["data_sha256"] == files.sha256("x.npy")
    wanted = getattr(gradlab, command)(small(5).eval(), np.load("x.npy"), 1.0, [1.0, 2.0], draws=4)
    for name in set(wanted.data_vars):
        np.testing.assert_allclose(ds[name], wanted[name], rtol=1e-6)


def test_a_factorys_own_weights_have_a_checksum_too(run, own):
    digests = []
    for name in ("model", "made"):
        done = run("bias", "--model", f"own_module:{name}", *own[4:], "--sweep", "none", *FEW)
        assert done.code == 0, done.err
        digests.append(gradlab.open_results("bias.h5").attrs["checkpoint_sha256"])
    assert digests[0] == digests[1]
    assert gradlab.open_results("bias.h5").attrs["weights"] == "weights of the factory"
    assert run("bias", "--model", "own_module:made", "--weights", "w.pt", *own[4:], "--sweep", "none", *FEW).code == 0
    assert gradlab.open_results("bias.h5").attrs["checkpoint_sha256"] == files.sha256("w.pt")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "own_module"], 1, "--model: expected MODULE:FACTORY, got 'own_module'"),
        (["--model", "own_module:modle"], 1, "did you mean model"),
        (
            ["--model", "nowhere:model"],
            1,
            "--model: expected a module of the current folder or the environment, got 'nowhere'",
        ),
        (["--model", "broken_module:model"], 1, "got RuntimeError from broken_module: broken"),
        (["--model", "own_module:text"], 1, "got a str from own_module:text"),
        (["--model", "own_module:number"], 1, "got a int from own_module:number"),
        (["--model", "own_module:fails"], 1, "expected a call without arguments to work, got KeyError"),
        (["--weights", "w.pt"], 2, "--weights: needs --model"),
        (
            ["--model", "own_module:model", "a.safetensors"],
            2,
            "--model: expected no checkpoint beside it, got a.safetensors",
        ),
        (["--observations", "x.npy", "--data", "mnist"], 2, "--observations: expected no --data beside it"),
        (["--model", "own_module:model", "--observations", "nope.npy"], 1, "nope.npy: no such file of observations"),
        (
            ["--model", "own_module:model", "--observations", "x.npy", "--images", 9],
            1,
            "images: expected at most 7, all of x.npy, got 9",
        ),
        (
            ["--model", "own_module:model", "--weights", "x.npy"],
            1,
            "x.npy: expected a file of weights, got a numpy array",
        ),
        (
            ["--model", "own_module:model"],
            1,
            "encoder: expected images that fit the model, got an error for torch.float32 of shape (100, 1, 28, 28)",
        ),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(run, own, arguments, code, message):
    done = run("bias", *arguments, *FEW)
    refused(done._replace(err=done.err.removeprefix("imported\n")), code, message)


# --- examples ---

EXAMPLES = {"vq_classifier": ("vq.safetensors", "vq.npy"), "sequence_model": ("sequence.pt", "sequence.npy")}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run_and_the_command_line_measures_them(run, tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr(sys, "argv", ["example", "--steps", "5", "--draws", "32", "--folder", str(tmp_path)])
    runpy.run_module(f"examples.{name}", run_name="__main__")
    assert "relative_bias_debiased" in capsys.readouterr().out
    weights, observations = (str(tmp_path / file) for file in EXAMPLES[name])
    monkeypatch.chdir(ROOT)
    arguments = ["--model", f"examples.{name}:model", "--weights", weights, "--observations", observations]
    arguments += ["--tf", 1, "--tb", 1, "--sweep", "none", "--draws", 32, "--no-plot", "--out", tmp_path / "own.h5"]
    done = run("bias", *arguments)
    assert done.code == 0, done.err
    assert f"examples.{name}:model" in done.out
    found = gradlab.open_results(tmp_path / "own.h5")
    example = __import__(f"examples.{name}", fromlist=["model"])
    model = gradlab.load_weights(example.model(), weights).eval()
    wanted = gradlab.bias(model, np.load(observations), 1.0, 1.0, draws=32)
    np.testing.assert_allclose(found.mean_gradient, wanted.mean_gradient, rtol=1e-5, atol=1e-9)


def test_training_the_examples_lowers_the_loss(capsys):
    for name, least in (("vq_classifier", 0.6), ("sequence_model", 0.05)):
        example = __import__(f"examples.{name}", fromlist=["train"])
        example.train(60)
        first, *_, last = (float(line.split()[-1]) for line in capsys.readouterr().out.splitlines())
        assert last < least < first
