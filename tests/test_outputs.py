"""Which files gradlab replaces: its own, of earlier versions too and damaged ones; never a file of the user's."""

import functools
import os
import shutil
import tracemalloc
from pathlib import Path

import h5py
import matplotlib.figure
import numpy as np
import pytest
import safetensors.torch
import torch
import xarray as xr

import gradlab
from gradlab import hdf5, hdf5_sandbox, outputs, results

from .command_line import tiny

CAPTION = "decoupled-st-gs; 8 draws; loss bernoulli (nats); interval: 95\N{NO-BREAK SPACE}%, jackknife."
ANALYSES = Path(__file__).parents[1] / "analyses"


@pytest.fixture(autouse=True)
def _without_helper(request, monkeypatch, tmp_path):
    if request.node.get_closest_marker("helper") is None:
        monkeypatch.setattr(hdf5_sandbox, "_CAN_FORK", False)
    monkeypatch.chdir(tmp_path)


def kind_of(path):
    kinds = (outputs.RESULTS, outputs.CHECKPOINT, outputs.FIGURE, outputs.SUMMARY, outputs.PAGE)
    return next(kind for kind in kinds if Path(path).suffix in kind.suffixes)


def replaceable(path):
    try:
        outputs.check(path, kind_of(path))
    except FileExistsError:
        return False
    return True


def drawn(path, **metadata):
    """A figure that Matplotlib alone writes."""
    figure = matplotlib.figure.Figure()
    figure.subplots().set_title("gradlab, Matplotlib")
    figure.savefig(path, metadata=metadata)


# --- files of the user ---


def own_hdf5(path, **attributes):
    with h5py.File(path, "w") as file:
        file["a"] = np.arange(3.0)
        file.attrs.update({"note": "made for gradlab", "gradlab": "0.1.0", "torch": "2", **attributes})


def container(path):
    """Results of gradlab as a group of the user's file."""
    gradlab.save_results(xr.Dataset({"a": ("x", [1.0])}, attrs=results.stamp()), "one.h5")
    own_hdf5(path)
    with h5py.File(path, "a") as file, h5py.File("one.h5", "r") as one:
        one.copy(one["/"], file, "run of gradlab")


FOREIGN = {
    "figure.png": lambda path: drawn(path, Description="gradlab, decoupled-st-gs, Matplotlib"),
    "figure.pdf": lambda path: drawn(path, Subject="made with gradlab; loss"),
    "figure.svg": lambda path: drawn(path, Title="gradlab 0.1.0", Description="gradlab"),
    "plain.png": drawn,
    "attributes.h5": own_hdf5,
    "written.nc": lambda path: own_hdf5(path, date="today"),
    "container.hdf5": container,
    "w.safetensors": lambda path: safetensors.torch.save_file(
        {"format": torch.zeros(2)}, path, metadata={"format": "pt", "note": 'for gradlab, "format":"gradlab-1"'}
    ),
    "page.html": lambda path: Path(path).write_text("<title>gradlab: my notes</title><p>Figures made by gradlab</p>"),
    "summary.md": lambda path: Path(path).write_text("# Notes\n\n# Verdicts, budget quick\n\n| analysis | claim |"),
    "mine.htm": lambda path: Path(path).write_bytes(b"\0"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_the_user_that_mentions_gradlab_is_not_replaced(name):
    FOREIGN[name](name)
    before = Path(name).read_bytes()
    with pytest.raises(FileExistsError, match=rf"{name}: expected no file or .* of gradlab, got a file of another"):
        outputs.check(name, kind_of(name))
    assert Path(name).read_bytes() == before


@pytest.mark.parametrize("name", ["a.h5", "a.safetensors", "a.png", "a.html"])
def test_of_a_large_file_only_the_ends_are_read(name):
    Path(name).write_bytes(b"\xff" * 16)
    os.truncate(name, 2**40)  # without blocks on the disk
    tracemalloc.start()
    try:
        assert not replaceable(name)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


# --- files of gradlab ---


def captioned(path):
    figure = matplotlib.figure.Figure()
    figure.subplots()
    gradlab.plots.publishing.keep_caption(figure, CAPTION)
    gradlab.plots.save(figure, path)


def without_caption(path):
    figure = matplotlib.figure.Figure()
    figure.subplots()
    gradlab.plots.save(figure, path)


def saved(path, **attributes):
    gradlab.save_results(xr.Dataset({"a": ("x", np.arange(2.0))}, attrs=results.stamp(**attributes)), path)


@functools.cache
def page_text():
    ds = gradlab.open_results(ANALYSES / "results" / "gap-and-bias-standard.h5", trusted=True)
    gradlab.report(ds.isel(tf=[0], tb=[0]), "page.html")
    return Path("page.html").read_text()


def page(path):
    Path(path).write_text(page_text())


def summary(path):
    from gradlab.cli import studies

    Path(path).write_text(studies.summary([], {}, {}, "quick"))


OWN = {
    **{f"captioned.{end}": captioned for end in ("png", "pdf", "svg")},
    **{f"bare.{end}": without_caption for end in ("png", "pdf", "svg")},
    "results.h5": saved,
    "any.nc": lambda path: gradlab.save_results(xr.Dataset({"a": ("x", [1.0])}), path),
    "model.safetensors": tiny,
    "page.html": page,
    "summary.md": summary,
    "empty.png": lambda path: Path(path).touch(),
}


@pytest.mark.parametrize("name", OWN)
def test_files_of_gradlab_are_replaced_and_damaged_ones_too(name):
    """With a byte changed at any of 20 places, all but the one where the mark is."""
    OWN[name](name)
    assert replaceable(name)
    content = Path(name).read_bytes()
    refused = 0
    begin = 0.5 if name == "summary.md" else 0.05  # its first two lines
    for place in np.linspace(len(content) * begin, len(content) * 0.9, 20 if content else 0).astype(int):
        Path(name).write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        refused += not replaceable(name)
    assert refused <= 1


EARLIER = {
    "captioned.png": lambda path: drawn(path, Description=CAPTION),
    "captioned.pdf": lambda path: drawn(path, Subject=CAPTION),
    "captioned.svg": lambda path: drawn(path, Description=CAPTION),
    "unsealed.h5": lambda path: (saved(path), os.truncate(path, os.path.getsize(path) - hdf5.SEALED)),
    "cut.h5": lambda path: (saved(path), os.truncate(path, os.path.getsize(path) - hdf5.SEALED + 5)),
    "half-copied.h5": lambda path: (saved(path), os.truncate(path, os.path.getsize(path) - hdf5.SEALED - 9)),
    "page.html": lambda path: Path(path).write_text(page_text().replace("<meta name=", "<")),
}


@pytest.mark.parametrize("name", EARLIER)
def test_files_of_earlier_versions_and_cut_ones_are_replaced(name):
    EARLIER[name](name)
    assert replaceable(name)


def test_committed_files_of_earlier_versions_are_replaced():
    """All figures have captions but for one that was drawn before there were any."""
    for path in [*ANALYSES.glob("*.png"), *ANALYSES.glob("results/*.h5")]:
        copy = shutil.copy(path, ".")
        assert replaceable(copy) == (path.name != "bias_direction.png"), path.name


@pytest.mark.deep
@pytest.mark.helper
def test_a_helper_reads_the_attributes_of_files_without_checksum():
    EARLIER["unsealed.h5"]("a.h5")
    container("b.h5")
    EARLIER["half-copied.h5"]("c.h5")
    assert [replaceable(name) for name in ("a.h5", "b.h5", "c.h5")] == [True, False, True]


def test_results_say_whether_they_are_complete():
    assert not outputs.is_complete("a.h5")
    Path("a.h5").touch()
    assert not outputs.is_complete("a.h5")
    saved("a.h5")
    assert outputs.is_complete("a.h5")
    saved("a.h5", incomplete="1 of 2 checkpoints")
    assert not outputs.is_complete("a.h5")
