"""What commands print and write: nothing is lost to a terminal, a locale or a figure, nor replaced without a word."""

import errno
import io
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import xarray as xr
from gradlab.cli.main import main
from gradlab.cli.output import console, say

import gradlab
from gradlab import terminal

from .command_line import POINT, images, refused, tiny

DRAWN = [part for part in POINT if part != "--no-plot"]
COMMAND = [sys.executable, "-c", "from gradlab.cli import main; import sys; main(sys.argv[1:])"]
HOSTILE = "a\x1b[31m\x07\x9b\r\u202e\tb"
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def ran(folder, *arguments, close="", **environment):
    """A command in a process of its own; `close`: descriptors that its shell closes, "2>&-"."""
    line = f'exec "$@" {close}'
    clean = {name: value for name, value in os.environ.items() if name not in environment}
    return subprocess.run(
        ["bash", "-c", line, "bash", *COMMAND, *map(str, arguments)],
        cwd=folder,
        env=clean | {"OMP_NUM_THREADS": "1"} | {k: v for k, v in environment.items() if v is not None},
        capture_output=True,
        timeout=300,
    )


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


# --- figures ---


def test_a_figure_that_fails_costs_no_table_and_no_results(run, monkeypatch):
    tiny("m.safetensors")

    def fail(*arguments):
        raise RuntimeError("latex could not be found")

    monkeypatch.setattr("gradlab.plots.auto", fail)
    done = run("bias", "m.safetensors", *DRAWN)
    assert done.code == 1
    assert "relative_bias" in done.out
    assert done.out.endswith("wrote bias.h5\n")
    assert "latex could not be found" in done.err
    done = run("bias", "m.safetensors", *DRAWN, "--json", "--out", "other.h5")
    assert json.loads(done.out)["points"]
    assert gradlab.open_results("other.h5").sizes["tf"] == 1
    tiny("n.safetensors", seed=2)
    assert run("bias", "m.safetensors", "n.safetensors", *DRAWN).code == 1
    assert gradlab.open_results("bias.h5").sizes["checkpoint"] == 2
    assert not os.path.exists("bias.h5.parts")


@pytest.mark.deep
@pytest.mark.parametrize("backend", ["nonsense", "tkagg", "module://not_there"])
def test_an_inherited_backend_does_not_matter(tmp_path, checkpoint, backend):
    done = ran(tmp_path, "bias", checkpoint, *DRAWN, MPLBACKEND=backend)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bias.png").read_bytes().startswith(b"\x89PNG")


# --- terminals, locales, names ---


@pytest.mark.parametrize(
    "arguments",
    [["estimators", "--formulas"], pytest.param(["check-estimator", "rloo", "--draws", "50"], marks=pytest.mark.deep)],
)
def test_a_terminal_of_ascii_is_no_error(monkeypatch, arguments):
    """The standard output that Python makes for PYTHONIOENCODING=ascii. click puts one of UTF-8 in its place."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", errors="strict"))
    main(arguments)
    sys.stdout.flush()
    assert "rloo" in written.getvalue().decode("ascii")


def test_lines_keep_to_the_encoding_of_the_terminal(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", errors="backslashreplace"))
    say("33 % ± 0.8")
    sys.stdout.flush()
    assert written.getvalue() == b"33 % \\xb1 0.8\n"


@pytest.mark.deep
def test_a_closed_standard_error_is_no_error_to_a_check(tmp_path):
    assert ran(tmp_path, "check-estimator", "ste", "--draws", "50", close="2>&-").stdout


C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


HARSH = {"close": ">&- 2>&-", "MPLBACKEND": "nonsense"} | C_LOCALE
SINGLY = ({}, C_LOCALE, {"close": ">&-"}, {"close": "2>&-"})


@pytest.mark.parametrize("around", [HARSH, *(pytest.param(one, marks=pytest.mark.deep) for one in SINGLY)])
def test_neither_a_path_that_is_no_text_nor_what_a_process_inherits_loses_a_measurement(run, tmp_path, around):
    """A locale without UTF-8, closed outputs and another program's backend: all at once; one by one where deep."""
    name = os.fsdecode(b"caf\xe9\xff.safetensors")
    tiny(tmp_path / name)
    done = ran(tmp_path, "bias", name, name.replace("caf", "./caf"), *DRAWN, **around)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bias.png").read_bytes().startswith(b"\x89PNG")
    ds = gradlab.open_results(tmp_path / "bias.h5")
    assert ds.checkpoint.values.tolist() == [r"caf\xe9\xff.safetensors", r"./caf\xe9\xff.safetensors"]
    if ">&-" not in around.get("close", "").split():
        assert rb"caf\xe9\xff" in done.stdout
        assert b"wrote bias.h5" in done.stdout
    assert len(json.loads(run("show", "bias.h5", "--json").out)["points"]) > 1


@pytest.fixture
def hostile(run):
    """A results file whose every text has control characters in it."""
    tiny("m.safetensors")
    assert run("bias", "m.safetensors", *POINT).code == 0
    ds = gradlab.open_results("bias.h5")
    for attributes in (ds.attrs, *(variable.attrs for variable in ds.variables.values())):
        for name, value in attributes.items():
            if isinstance(value, str) and name not in ("analysis", "moments", "estimator", "reference", "wrt"):
                attributes[name] = value + HOSTILE
    ds.attrs[HOSTILE] = HOSTILE
    gradlab.save_results(ds, "hostile.h5")


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_no_control_character_of_a_file_is_printed(run, arguments):
    done = run("show", "hostile.h5", *arguments)
    assert done.code == 0, done.err
    assert CONTROL.findall(done.out) == []
    assert "x1b[31m" in done.out or "u001b[31m" in done.out


def test_no_control_character_of_a_name_is_printed(run, tmp_path):
    for arguments in (["show", f"{HOSTILE}.h5"], ["bias", "--data", HOSTILE], ["bias", "--model", f"{HOSTILE}:a"]):
        done = run(*arguments)
        assert done.code in (1, 2)
        assert CONTROL.findall(done.err) == []
        assert "x1b[31m" in done.err
    tiny(f"{HOSTILE}.safetensors")
    done = run("bias", f"{HOSTILE}.safetensors", *POINT, "--out", f"{HOSTILE}.h5")
    assert done.code == 0
    assert CONTROL.findall(done.out) == []
    assert (tmp_path / f"{HOSTILE}.h5").exists()


def test_what_is_made_visible():
    assert terminal.visible("plain é ± 中\n") == "plain é ± 中\n"
    assert terminal.visible(HOSTILE) == r"a\x1b[31m\x07\x9b\r\u202e\tb"
    assert terminal.visible(os.fsdecode(b"\xff\xe9")) == r"\xff\xe9"
    assert terminal.encodable(os.fsdecode(b"\xffa\xe9\x1b")) == "\\xffa\\xe9\x1b"


def test_a_full_standard_output_is_called_that(run, monkeypatch):
    def full(text, file=None):
        if file is not sys.stderr:
            raise OSError(28, "No space left on device")
        print(text, file=file)

    monkeypatch.setattr("click.echo", full)
    refused(run("data", "list", "--json"), 1, "gradlab: standard output: No space left on device")


# --- tables ---


def test_tables_have_no_trailing_blanks_and_keep_to_the_columns_asked_for(run, monkeypatch):
    tiny("m.safetensors")
    run("bias", "m.safetensors", *POINT)
    for command in (["show", "bias.h5"], ["estimators"], ["data", "list"]):
        wide, narrow = run(*command).out, None
        assert [line for line in wide.splitlines() if line != line.rstrip()] == []
        monkeypatch.setenv("COLUMNS", "70")
        narrow = run(*command).out
        monkeypatch.delenv("COLUMNS")
        assert max(map(len, narrow.splitlines())) <= 70 < max(map(len, wide.splitlines())) <= 110


def test_points_at_other_temperatures_are_not_shown_under_those_of_the_first(run):
    """A table of two points, one column each, is for one pair of temperatures."""
    tiny("m.safetensors")
    done = run("bias", "m.safetensors", *POINT, "--tf", "1.6", "--tb", "0.5,1.3")
    assert "at tf = 1.6\n" in done.out
    assert "tb = 0.5\n" not in done.out
    assert [line.split()[0] for line in done.out.splitlines() if re.match(r" +\d", line)] == ["0.5", "1.3"]


@pytest.mark.parametrize("columns", ["45", "110"])
def test_no_number_of_a_table_is_cut_off(run, monkeypatch, columns):
    tiny("m.safetensors")
    monkeypatch.setenv("COLUMNS", columns)
    exact = ["m.safetensors", "--images", "3", "--sweep", "none", "--no-plot", "--moments", "exact", "--target", "both"]
    for more in (["--tb", "1.3"], ["--tb", "0.5,1.3"]):
        done = run("bias", *exact, *more)
        assert "\u2026" not in done.out
        assert max(map(len, done.out.splitlines())) <= int(columns)
        assert done.out.count("[") == done.out.count("]")
    assert "unit" in run("bias", *exact, "--tb", "1.3").out


@pytest.mark.parametrize(("columns", "width"), [("", 110), ("0", 110), ("wide", 110), ("3", 40), ("200", 200)])
def test_absurd_columns_do_not_matter(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    assert console().width == width


def test_texts_with_bytes_that_are_none_are_stored_written_out(tmp_path):
    name = os.fsdecode(b"\xff")
    ds = xr.Dataset({"a": ("x", np.array([name, "b"], object))}, {"x": [name, "y"]}, {"from": name, "all": [name, "c"]})
    gradlab.save_results(ds, tmp_path / "a.h5")
    back = gradlab.open_results(tmp_path / "a.h5")
    assert back.a.values.tolist() == [r"\xff", "b"]
    assert back.x.values.tolist() == [r"\xff", "y"]
    assert back.attrs["from"] == r"\xff"
    assert list(back.attrs["all"]) == [r"\xff", "c"]


def test_one_of_a_thing_is_no_plural(run):
    assert [terminal.counted(n, "latent") for n in (1, np.int64(1), 2, 2048, "?")] == [
        "1 latent",
        "1 latent",
        "2 latents",
        "2,048 latents",
        "? latents",
    ]
    tiny("m.safetensors", latents=1)
    done = run("bias", "m.safetensors", *POINT, "--images", "1", "--reference", "exact")
    assert "1 latent x 3 categories" in done.out
    assert "(1 example)" in done.out
