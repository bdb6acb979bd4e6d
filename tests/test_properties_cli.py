"""The command line under rubbish: exit code 1 or 2, one line on standard error, nothing left behind."""

import os
from pathlib import Path

import pytest

QUICK = ["--images", "2", "--draws", "2", "--no-plot"]
TAKING_A_FILE = {
    "show": ["show"],
    "plot": ["plot"],
    "reconstructions": ["plot", "--reconstructions"],
    "bias": ["bias", "--tf", "1", "--tb", "1", *QUICK],
    "gap": ["gap", *QUICK],
    "reproduce": ["reproduce", "figure6", "--images", "2", "--draws", "2", "--out", "folder", "--checkpoint"],
}
TAKING_DATA = {
    "bias": ["bias", "--tf", "1", "--tb", "1", *QUICK, "--data"],
    "gap": ["gap", *QUICK, "--data"],
    "train": ["train", "vae", "--epochs", "1", "--data"],
    "sweep": ["sweep", "vae", "--tf", "1", "--tb", "1", "--epochs", "1", "--data"],
    "fetch": ["data", "fetch"],
    "reconstructions": ["plot", "a.safetensors", "--reconstructions", "--data"],
}
NAMES = {
    "missing": "nosuch",
    "empty name": "",
    "here": ".",
    "above": "..",
    "long": "n" * 300,
    "long path": "/".join(["n" * 200] * 30),
    "unicode": "Gumbel–Söftmax ☃",
    "two lines": "a\nb",
    "escapes": "\x1b[31mred",
    "markup": "[bold]a[/bold]",
    "folder": "folder",
    "empty": "empty.h5",
    "junk": "junk.h5",
    "pipe": "pipe",
    "device": "/dev/zero",
    "below a file": "junk.h5/a",
    "NUL": "a\0b",
}


@pytest.fixture
def here(run, tmp_path):
    """The folder that commands run in, with what the names stand for."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.h5").touch()
    (tmp_path / "junk.h5").write_bytes(os.urandom(2000))
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def state(folder):
    return {str(path): path.lstat().st_size for path in Path(folder).rglob("*")}


def assert_refused(run, here, *arguments, codes=(1, 2)):
    before = state(here)
    ran = run(*arguments)
    assert ran.code in codes, ran
    lines = ran.err.splitlines()
    assert len(lines) == 1, ran
    assert lines[0].startswith("gradlab: "), ran
    assert "unforeseen" not in lines[0], ran
    assert ran.out == ""
    assert state(here) == before
    return lines[0]


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("command", TAKING_A_FILE.values(), ids=TAKING_A_FILE)
def test_a_file_that_will_not_do(run, here, command, name):
    assert_refused(run, here, *command, name)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("command", TAKING_DATA.values(), ids=TAKING_DATA)
def test_data_that_will_not_do(run, here, command, name):
    assert_refused(run, here, *command, name)


BAD_WORDS = [
    ["check-estimator", "(" * 1000],
    ["check-estimator", "os:path"],
    ["check-estimator", "..:b"],
    ["bias", "--tf", "1", "--tb", "1", "--estimator", "st-gs:tf={[]: 1}"],
    ["bias", "--tf", "1", "--tb", "1", "--device", "cuda:99999999999999999999"],
    ["bias", "--tf", "1", "--tb", "1", "--images", "9" * 400],
    ["bias", "--tf", "1", "--tb", "1", "--seed", "9" * 5000],
    ["bias", "--tf", "9" * 5000, "--tb", "1"],
    ["data", "fetch", "mnist", "--mirror", "ftp://a"],
    ["sweep", "vae", "--tf", "1", "--tb", "1", "--seeds", "²"],
]


@pytest.mark.parametrize("words", BAD_WORDS, ids=lambda words: " ".join(words)[:40])
def test_bad_words_are_one_line(run, here, words):
    assert_refused(run, here, *words)
