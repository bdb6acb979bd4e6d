"""Files that commands read are never the files that they write, however they are spelled."""

import os
import sys

import pytest

import gradlab
from gradlab import datasets

from .command_line import POINT, images, refused, tiny
from .test_cli_terminals import CONTROL, HOSTILE

NAME = datasets.IDX_FILES["test"] + ".gz"
SPELLINGS = {
    "as it is": lambda folder, path: path,
    "absolute": lambda folder, path: str(folder / path),
    "through its folder": lambda folder, path: f"own/../{path}",
    "symbolic link": lambda folder, path: linked(os.symlink, folder, path),
    "hard link": lambda folder, path: linked(os.link, folder, path),
}


def linked(link, folder, path):
    link(folder / path, folder / "link.gz")
    return "link.gz"


@pytest.fixture
def data(tmp_path):
    images(tmp_path, 20)
    return tmp_path / "own" / NAME


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
def test_images_are_not_written_over(run, tmp_path, data, spell):
    before, out = data.read_bytes(), spell(tmp_path, f"own/{NAME}")
    tiny("m.safetensors", image_shape=[1, 8, 8])
    sweep = ["--tf", "1", "--tb", "1", "--seeds", "1", "--folder", "cells"]
    for command in (
        ["bias", "m.safetensors", "--data", "own", *POINT[:-1]],
        ["gap", "m.safetensors", "--data", "own", "--images", "2", "--no-plot", "--out"],
        ["train", "vae", "--data", "own", "--overwrite", "--out"],
        ["sweep", "vae", "--data", "own", *sweep, "--out"],
        ["plot", "m.safetensors", "--reconstructions", "--data", "own", "--out"],
    ):
        refused(run(*command, out), 2, "--out: expected a new file, got", "which overwrites the input")
    assert data.read_bytes() == before
    assert not (tmp_path / "cells").exists()


def test_the_state_and_the_tracks_of_a_training_overwrite_no_images(run, tmp_path, data):
    (tmp_path / "own" / "vae.resume.safetensors").symlink_to(NAME)
    command = ["train", "vae", "--data", "own", "--out", "own/vae.safetensors"]
    refused(run(*command), 2, "vae.resume.safetensors', which overwrites the input")


def test_a_module_is_not_written_over(run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "module_of_mine.py").write_text("import gradlab\nmodel = gradlab.bundled('vae-8x4-mnist')\n")
    command = ["bias", "--model", "module_of_mine:model", *POINT[:-1], "module_of_mine.py"]
    refused(run(*command), 2, "which overwrites the input")


def test_a_cell_of_a_sweep_is_not_written_over(run, tmp_path, data):
    sweep = ["sweep", "vae", "--data", "own", "--tf", "1", "--tb", "1", "--folder", "cells"]
    refused(run(*sweep, "--out", f"./cells/{'0' * 32}.h5"), 2, "--out: expected a name that no cell in --folder has")


def test_results_that_are_judged_are_not_drawn_over(run):
    tiny("m.safetensors")
    assert run("bias", "m.safetensors", *POINT).code == 0
    os.rename("bias.h5", "results.png")
    done = run("reproduce", "figure6", "--from", "results.png", "--out", ".")
    refused(done, 2, "which overwrites the input")
    assert gradlab.open_results("results.png").sizes["tf"] == 1


# --- terminals ---


def test_a_traceback_and_warnings_have_no_control_characters(run, capsys, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # which `main` replaces
    with pytest.raises(FileNotFoundError) as raised:
        run("show", f"{HOSTILE}.h5", "--debug")
    sys.excepthook(raised.type, raised.value, raised.tb)  # as Python does at the end of a process
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert CONTROL.findall(told) == []
    assert "x1b[31m" in told

    def warn(path):
        import warnings

        warnings.warn(f"two\nlines of {HOSTILE}", stacklevel=1)
        raise ValueError("end")

    monkeypatch.setattr("gradlab.results.open_results", warn)
    shown = run("show", "a.h5")
    assert len(shown.err.splitlines()) == 2
    assert CONTROL.findall(shown.err) == []


def test_a_name_of_two_lines_is_written_in_one(run):
    tiny("m.safetensors")
    done = run("bias", "m.safetensors", *POINT[:-1], "a\nwrote b.h5")
    assert done.code == 0
    assert done.out.endswith("\nwrote a\\nwrote b.h5\n")
