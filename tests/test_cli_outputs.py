"""What commands write: nothing that they read is written over, and nothing is replaced without a word."""

import errno
import json
import os
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import xarray as xr

import gradlab

from .command_line import DRAWN, POINT, images, refused, tiny

# --- outputs and inputs ---


@pytest.mark.parametrize("path", ["in.safetensors", "./x/../in.safetensors", "link.safetensors", "hard.safetensors"])
@pytest.mark.parametrize("command", ["bias", "gap"])
def test_a_checkpoint_is_not_written_over(run, tmp_path, command, path):
    tiny("in.safetensors")
    (tmp_path / "x").mkdir()
    (tmp_path / "link.safetensors").symlink_to("in.safetensors")
    os.link(tmp_path / "in.safetensors", tmp_path / "hard.safetensors")
    before = (tmp_path / "in.safetensors").read_bytes()
    refused(run(command, "in.safetensors", "--no-plot", "--out", path), 2, f"--out: expected a new file, got {path!r}")
    assert (tmp_path / "in.safetensors").read_bytes() == before


def test_no_other_input_is_written_over(run, tmp_path):
    tiny("m.safetensors")
    tiny("other.safetensors")
    (tmp_path / "other.safetensors").rename("m.png")
    np.save("x.npy", np.zeros((2, 1, 28, 28), "f4"))
    assert run("bias", "m.safetensors", *POINT).code == 0
    for arguments in (
        ["report", "bias.h5", "--out", "./bias.h5"],
        ["plot", "bias.h5", "--out", f"{tmp_path}/./bias.h5"],
        ["bias", "--model", "a:b", "--weights", "w.pt", "--no-plot", "--out", "./w.pt"],
        ["gap", "m.safetensors", "--observations", "x.npy", "--no-plot", "--out", "./x.npy"],
        ["bias", "m.png", "--out", "m.h5"],  # the figure's name
    ):
        refused(run(*arguments), 2, "which overwrites the input")


def inputs_of_a_model(folder, module):
    """Every kind of file that a measurement reads, and the arguments that name it."""
    (folder / f"{module}.py").write_text(
        "import torch, gradlab\n"
        "def model():\n"
        "    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(6))\n"
        "    decoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 64))\n"
        "    encoder(torch.zeros(1, 64))\n"
        "    return gradlab.LatentModel(encoder, decoder, latents=2, categories=3)\n"
    )
    tiny("m.safetensors")
    torch.save(runpy.run_path(f"{module}.py")["model"]().state_dict(), "w.pt")
    np.save("x.npy", np.zeros((2, 64), "f4"))
    images(folder, 2)
    own = ["--model", f"{module}:model", "--weights", "w.pt", "--observations", "x.npy"]
    data = ["--model", f"{module}:model", "--data", "own", "--data-dir", ".", "--images", 2]
    (pictures,) = (path for path in (folder / "own").iterdir() if "t10k-images" in path.name)
    return {"m.safetensors": ["m.safetensors"], "w.pt": own, "x.npy": own, f"{module}.py": own, pictures: data}


@pytest.mark.parametrize(
    "command", ["recommend", *(pytest.param(name, marks=pytest.mark.deep) for name in ("bias", "gap"))]
)
def test_no_file_that_a_measurement_reads_is_written_over(run, tmp_path, command):
    """As another spelling, a symbolic or a hard link: whatever its name, it is called an input."""
    for path, arguments in inputs_of_a_model(tmp_path, f"mine_{command}").items():
        before = Path(path).read_bytes()
        Path("link.h5").symlink_to(path)
        os.link(path, "hard.h5")
        for out in ("link.h5", "hard.h5", os.path.join(".", path)):
            plot = [] if command == "recommend" else ["--no-plot"]
            ran = run(command, *arguments, *plot, "--out", out)
            refused(ran, 2, f"--out: expected a new file, got {out!r}, which overwrites the input")
        os.unlink("link.h5")
        os.unlink("hard.h5")
        assert Path(path).read_bytes() == before


def test_no_command_writes_through_a_link_to_what_it_reads(run, tmp_path):
    """Figures, pages, checkpoints and what lies beside them: under names that fit, which are links to inputs."""
    tiny("m.safetensors")
    images(tmp_path, 4)
    (pictures,) = (path for path in (tmp_path / "own").iterdir() if "train-images" in path.name)
    (shown,) = (path for path in (tmp_path / "own").iterdir() if "t10k-images" in path.name)
    assert run("bias", "m.safetensors", *POINT).code == 0
    collected = Path(__file__).parents[1] / "analyses" / "results" / "gap-and-bias-standard.h5"
    data = ["--data", "own", "--data-dir", "."]
    training = ["train", "vae", *data, "--epochs", 2, "--overwrite", "--out", "vae.safetensors"]
    sweep = ["sweep", "vae", *data, "--tf", 1, "--tb", 1, "--seeds", 1, "--epochs", 1]
    for read, link, command in (
        ("bias.h5", "a.png", ["plot", "bias.h5", "--out", "a.png"]),
        ("bias.h5", "bias.png", ["plot", "bias.h5"]),
        (shown, "a.svg", ["plot", "m.safetensors", "--reconstructions", "--images", 2, *data, "--out", "a.svg"]),
        ("bias.h5", "a.html", ["report", "bias.h5", "--out", "a.html"]),
        (pictures, "vae.safetensors", training),
        (pictures, "vae.gap.h5", [*training, "--track", "gap"]),
        (pictures, "vae-epoch0002.safetensors", [*training, "--keep-every", 2]),
        (pictures, "vae.resume.safetensors", training),
        (pictures, "a.h5", [*sweep, "--out", "a.h5"]),
        ("m.safetensors", "figure6-quick.h5", ["reproduce", "figure6", "--checkpoint", "m.safetensors", "--out", "."]),
        (collected, "gap-and-bias-standard.png", ["reproduce", "gap-and-bias", "--from", collected, "--out", "."]),
    ):
        before = Path(read).read_bytes()
        for made in (Path(link).symlink_to, Path(link).hardlink_to):
            try:
                made(read)
            except OSError:  # a hard link to another file system
                continue
            ran = run(*command)
            refused(ran, 2, f"got {link!r}, which overwrites the input")
            Path(link).unlink()
        assert Path(read).read_bytes() == before


def test_a_training_replaces_no_kept_model_without_a_word(run, tmp_path):
    images(tmp_path, 20)
    command = ["train", "vae", "--data", "own", "--data-dir", ".", "--epochs", 2, "--keep-every", 1]
    assert run(*command, "--out", "a.safetensors").code == 0
    (tmp_path / "a.safetensors").unlink()
    refused(run(*command, "--out", "a.safetensors"), 1, "a-epoch0001.safetensors: file exists; --overwrite replaces it")
    safetensors.torch.save_file({"a": torch.zeros(3)}, "b-epoch0002.safetensors")
    ran = run(*command, "--overwrite", "--out", "b.safetensors")
    refused(ran, 1, "b-epoch0002.safetensors: expected no file or a checkpoint of gradlab")
    assert not (tmp_path / "b-epoch0001.safetensors").exists()  # known before anything is trained


def test_the_folder_of_a_link_s_target_is_the_one_that_is_written_to(run, tmp_path, monkeypatch):
    for name in ("from", "to"):
        (tmp_path / name).mkdir()
    (tmp_path / "from" / "a.h5").symlink_to(tmp_path / "to" / "b.h5")
    real = os.access
    locked = tmp_path / "to"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and real(path, mode))
    tiny("m.safetensors")
    command = ["bias", "m.safetensors", *POINT[:-1]]
    refused(run(*command, "from/a.h5"), 1, f"--out: cannot write 'from/a.h5' (no permission to write to {locked})")
    locked = tmp_path / "from"
    assert run(*command, "from/a.h5").code == 0
    assert (tmp_path / "from" / "a.h5").is_symlink()
    assert gradlab.open_results("to/b.h5").sizes["tf"] == 1


def test_a_file_that_only_another_user_may_replace_is_known_before_anything_is_measured(run, tmp_path, monkeypatch):
    """In a folder like /tmp."""
    tiny("m.safetensors")
    (tmp_path / "bias.h5").touch()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert run("bias", "m.safetensors", *POINT).code == 0
    tmp_path.chmod(0o1777)
    refused(run("bias", "m.safetensors", *POINT), 1, "cannot write 'bias.h5' (a file of another user")


@pytest.mark.parametrize("command", ["bias", "recommend"])
def test_a_measurement_that_cannot_be_written_is_printed(run, monkeypatch, command):
    """And of several checkpoints the parts are kept."""
    tiny("a.safetensors", seed=1)
    tiny("b.safetensors", seed=2)
    arguments = {
        "bias": [*POINT[:-2]],
        "recommend": ["--images", 2, "--draws", 32, "--estimator", "ste", "--estimator", "zgr", "--tb", 1],
    }[command]
    real = gradlab.save_results

    def full(ds, path):
        if str(path) == "full.h5":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(ds, path)

    for checkpoints in (["a.safetensors"], ["a.safetensors", "b.safetensors"]):
        with monkeypatch.context() as patch:
            patch.setattr("gradlab.results.save_results", full)
            failed = run(command, *checkpoints, *arguments, "--out", "full.h5", "--json")
        assert failed.code == 1
        assert json.loads(failed.out)["files"] == []
        assert failed.err.splitlines()[-1] == "gradlab: [Errno 28] No space left on device: 'full.h5'"
    if command == "bias":
        assert re.search(r"^2 of 2 parts are in .*full\.h5\.parts, and the same command continues$", failed.err, re.M)
        done = run(command, *checkpoints, *arguments, "--out", "full.h5")
        assert "2 of 2 parts are measured already" in done.err
        assert not os.path.exists("full.h5.parts")


def test_a_file_that_ends_too_early_is_no_interrupt(run, monkeypatch):
    """click takes EOFError for Ctrl-D."""

    def cut(*given):
        raise EOFError("marshal data too short")

    monkeypatch.setattr("gradlab.datasets.load", cut)
    refused(run("bias", *POINT), 1, "a file that is read ends too early (marshal data too short)")


def test_files_that_are_replaced_are_called_that(run):
    tiny("m.safetensors")
    commands = [["bias", "m.safetensors", *DRAWN], ["plot", "bias.h5", "--out", "a.pdf"], ["report", "bias.h5"]]
    for command in commands:
        first, second = run(*command), run(*command)
        assert first.code == second.code == 0
        assert "wrote" in first.out
        assert "replaced" not in first.out
        assert second.out == first.out.replace("wrote", "replaced")


def test_a_trained_model_is_replaced_if_asked_for(run, tmp_path):
    images(tmp_path, 20)
    command = ["train", "vae", "--data", "own", "--data-dir", ".", "--epochs", "1", "--out", "vae.safetensors"]
    assert run(*command).out.endswith("wrote vae.safetensors\n")
    before = (tmp_path / "vae.safetensors").read_bytes()
    refused(run(*command, "--seed", "1"), 1, "vae.safetensors: file exists; --overwrite replaces it")
    assert (tmp_path / "vae.safetensors").read_bytes() == before
    assert run(*command, "--seed", "1", "--overwrite").out.endswith("replaced vae.safetensors\n")
    assert (tmp_path / "vae.safetensors").read_bytes() != before
    (tmp_path / "vae.safetensors").unlink()
    tracked = [*command, "--track", "gap", "--track-images", "2"]
    assert run(*tracked).code == 0
    (tmp_path / "vae.safetensors").unlink()
    refused(run(*tracked), 1, "vae.gap.h5: file exists; --overwrite")


@pytest.mark.parametrize("name", ["mylayer.py", "results", "a.png", "a.safetensors", "a.h5.txt"])
def test_a_name_of_another_kind_of_file_is_refused(run, tmp_path, name):
    """Whatever the command writes; a file of this name stays as it is."""
    tiny("m.safetensors")
    assert run("bias", "m.safetensors", *POINT).code == 0
    images(tmp_path, 20)
    (tmp_path / name).write_text("import torch\n")
    results = "expected a name ending in .h5, .hdf5 or .nc, got"
    of_sweep = ["sweep", "vae", "--data", "own", "--tf", "1", "--tb", "1", "--seeds", "1", "--epochs", "1"]
    commands = {
        "bias": (["bias", "m.safetensors", *POINT, "--out"], results),
        "gap": (["gap", "m.safetensors", "--images", "2", "--draws", "2", "--no-plot", "--out"], results),
        "recommend": (["recommend", "m.safetensors", "--tf", "1", "--out"], results),
        "sweep": ([*of_sweep, "--out"], results),
        "train": (["train", "vae", "--data", "own", "--epochs", "1", "--overwrite", "--out"], "ending in .safetensors"),
        "plot": (["plot", "bias.h5", "--out"], "expected a name ending in .png, .pdf or .svg, got"),
        "report": (["report", "bias.h5", "--out"], "expected a name ending in .html or .htm, got"),
    }
    own = {"a.png": "plot", "a.safetensors": "train"}.get(name)
    for command, (arguments, expected) in commands.items():
        if command != own:
            refused(run(*arguments, name), 2, f"--out: {expected}" if command != "train" else expected, name)
    assert (tmp_path / name).read_text() == "import torch\n"
    assert not (tmp_path / "results").is_dir()


def test_a_file_of_another_program_is_not_replaced(run, tmp_path):
    """Under a name that fits; an empty file, and what gradlab wrote, also with a damaged byte, are replaced."""
    tiny("m.safetensors")
    bias = ["bias", "m.safetensors", *DRAWN]
    assert run(*bias).code == 0
    for name, command in {
        "bias.h5": bias,
        "bias.png": bias,
        "a.pdf": ["plot", "bias.h5", "--out", "a.pdf"],
        "a.html": ["report", "bias.h5", "--out", "a.html"],
    }.items():
        path = tmp_path / name
        before = path.read_bytes() if path.exists() else b""
        path.write_text("mine")
        refused(
            run(*command), 1, f"{name}: expected no file or", "got a file of another program, which is not replaced"
        )
        assert path.read_text() == "mine"
        damaged = bytearray(before)
        damaged[len(before) // 2 : len(before) // 2 + 1] = b"x" if before else b""
        path.write_bytes(damaged)
        assert run(*command).code == 0
        assert path.stat().st_size > 1000
    np.save("x.npy", np.zeros(3))
    for path, save in (
        ("x.npy", lambda path: gradlab.save_results(gradlab.open_results("bias.h5"), path)),
        ("x.npy", lambda path: gradlab.save(gradlab.load("m.safetensors"), path)),
        ("x.npy", lambda path: gradlab.report("bias.h5", path)),
    ):
        with pytest.raises(ValueError, match=r"path: expected a name ending in \."):
            save(path)
    safetensors.torch.save_file({"a": torch.zeros(3)}, "foreign.safetensors")
    with pytest.raises(FileExistsError, match=r"foreign\.safetensors: expected no file or a checkpoint of gradlab"):
        gradlab.save(gradlab.load("m.safetensors"), "foreign.safetensors")
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf("foreign.nc", engine="h5netcdf")
    with pytest.raises(FileExistsError, match=r"foreign\.nc: expected no file or results of gradlab"):
        gradlab.save_results(xr.Dataset({"a": ("x", [2.0])}), "foreign.nc")
    gradlab.save_results(xr.Dataset({"a": ("x", [1.0])}), "own.nc")
    gradlab.save_results(xr.Dataset({"a": ("x", [2.0])}), "own.nc")
    assert gradlab.open_results("own.nc").a[0] == 2.0
    with pytest.raises(ValueError, match=r"out: expected a name ending in \.h5"):
        gradlab.Monitor(gradlab.load("m.safetensors"), tf=1.0, tb=1.0, out="fidelity.csv")
