"""gradlab.table: every kind of result, digits by the interval, nothing that a reader's program acts on."""

import csv
import io
import shutil
import subprocess

import numpy as np
import pytest
import xarray as xr

import gradlab
from gradlab import rounding

from .imports import ROOT

RESULTS = ROOT / "analyses" / "results"
EVIL = "=1+1|a&b%c_d$e#{f}~^\\[x]\n<b>*`"


@pytest.fixture(scope="module")
def measured():
    model, x = gradlab.bundled("vae-8x4-mnist"), gradlab.datasets.load("mnist-sample").first(3).floats()
    return gradlab.bias(model, x, tf=1.6, tb=[0.9, 1.3], estimator=["ste", "rloo"], draws=32)


def read(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_tidy_rows_hold_value_and_interval_as_rounded(measured):
    rows = read(gradlab.table(measured, "csv"))
    frame = gradlab.table(measured)
    assert list(frame.columns) == ["estimator", "tf", "tb", "metric", "value", "low", "high", "units"]
    assert len(rows) == len(frame)
    of = measured.sel(estimator="ste", tf=1.6, tb=1.3)
    where = {"estimator": "ste", "tf": "1.6", "tb": "1.3", "metric": "relative_std"}
    (row,) = [row for row in rows if all(row[key] == value for key, value in where.items())]
    three = rounding.three(*(float(of[f"relative_std{end}"]) for end in ("", "_low", "_high")))
    assert (row["value"], row["low"], row["high"], row["units"]) == (*three, "1")
    (line,) = frame[(frame.estimator == "ste") & (frame.tb == 1.3) & (frame.metric == "relative_std")].itertuples()
    assert (line.value, line.low, line.high) == tuple(map(float, three))


def test_what_was_selected_is_in_every_row(measured):
    """The rows of ds.sel(tb=1.3) are those of all that have this tb, and say so."""
    rows = read(gradlab.table(measured, "csv"))
    assert read(gradlab.table(measured.sel(tb=1.3), "csv")) == [row for row in rows if row["tb"] == "1.3"]
    of_point = gradlab.table(measured.sel(estimator="rloo", tf=1.6, tb=0.9), "markdown").splitlines()
    assert of_point[2].startswith("| rloo | 1.6 | 0.9 | ")


def test_latex_is_a_booktabs_table(measured):
    text = gradlab.table(measured, "latex", ["relative_std"])
    assert text.splitlines()[:2] == [r"\begin{tabular}{lllr}", r"\toprule"]
    assert text.splitlines()[-2:] == [r"\bottomrule", r"\end{tabular}"]
    body = text.split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
    assert len(body) == 4
    assert all(line.count("&") == 3 and line.endswith(r"\\") for line in body)


def test_markdown_has_as_many_cells_in_every_row(measured):
    lines = gradlab.table(measured, "markdown").splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert set(lines[1]) <= set("|-: ")


def test_text_of_a_file_is_escaped(measured):
    ds = measured.assign_coords(estimator=[EVIL, "rloo"])
    (name, *_) = {row["estimator"] for row in read(gradlab.table(ds, "csv"))} - {"rloo"}
    assert name == "'" + EVIL
    line = gradlab.table(ds, "markdown").splitlines()[2]
    assert line.replace("\\|", "").count("|") == gradlab.table(measured, "markdown").splitlines()[2].count("|")
    latex = gradlab.table(ds, "latex")
    cell = latex.split("\\midrule\n")[1].split(" & ")[0]
    assert cell == (
        r"=1+1\textbar{}a\&b\%c\_d\$e\#\{f\}\textasciitilde{}\textasciicircum{}\textbackslash{}{[}x] \textless{}b"
        r"\textgreater{}*`"
    )


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_spreadsheet_sees_no_formula(measured, start):
    ds = measured.assign_coords(estimator=[f"{start}cmd|x", "-0.5"])
    names = {row["estimator"] for row in read(gradlab.table(ds, "csv"))}
    assert names == {f"'{start}cmd|x".replace("\r", " "), "-0.5"}


@pytest.mark.parametrize("name", [*(path.name for path in sorted(RESULTS.glob("*.h5")))])
@pytest.mark.parametrize("form", ["dataframe", "csv", "latex", "markdown"])
def test_results_of_studies_have_tables(name, form):
    ds = gradlab.open_results(RESULTS / name, trusted=True)
    made = gradlab.table(ds, form)
    assert len(made) > 3
    if "kl" in ds.dims and form == "dataframe":
        assert set(made.kl) == set(map(str, ds.kl.values))


def test_other_kinds_have_tables():
    model, x = gradlab.bundled("vae-8x4-mnist"), gradlab.datasets.load("mnist-sample").first(2).floats()
    gap = gradlab.gap(model, x, tf=1.6, tb=1.0, draws=64)
    encoder = gradlab.bias(model, x, tf=1.0, tb=1.0, draws=32, wrt="encoder")
    choice = gradlab.recommend(model, x, tb=[1.0], estimator=["ste", "rloo"], draws=32).table
    for ds, column in ((gap, "definition"), (encoder, "parameter"), (choice, "candidate")):
        assert column in gradlab.table(ds).columns
        assert gradlab.table(ds, "latex").startswith(r"\begin{tabular}")


def test_rubbish_is_named(measured):
    for wrong, said in (
        ({"format": "xls"}, "format: unknown name"),
        ({"metrics": ["frobnicate"]}, "metrics: unknown name"),
    ):
        with pytest.raises(ValueError, match=said):
            gradlab.table(measured, **wrong)
    for ds in (xr.Dataset({"a": ("b", np.zeros(2))}), 3):
        with pytest.raises(ValueError, match="expected"):
            gradlab.table(ds)


def test_the_command_prints_tables(run, measured, tmp_path):
    path = tmp_path / "bias.h5"
    gradlab.save_results(measured, path)
    for form in ("csv", "latex", "markdown"):
        assert run("show", path, "--format", form).out == gradlab.table(gradlab.open_results(path), form)
    refused = run("show", path, "--format", "csv", "--json")
    assert refused.code == 2
    assert len(refused.err.strip().splitlines()) == 1


@pytest.mark.deep
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles(measured, tmp_path):
    body = gradlab.table(measured.assign_coords(estimator=[EVIL, "rloo"]), "latex")
    source = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{body}\end{{document}}"
    (tmp_path / "t.tex").write_text(source)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60).returncode == 0
