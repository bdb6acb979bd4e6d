"""What commands print and draw: nothing is lost to a terminal, a locale or a figure, and tables are whole."""

import io
import json
import os
import re
import sys

import numpy as np
import pytest
import xarray as xr
from gradlab.cli.main import main
from gradlab.cli.output import console, say

import gradlab
from gradlab import terminal

from .command_line import DRAWN, POINT, ran, refused, tiny

HOSTILE = "a\x1b[31m\x07\x9b\r\u202e\tb"
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


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
