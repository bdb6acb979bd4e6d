"""Known data sets are found, checked, and refused where they are wrong."""

import pytest
import torch

from gradlab import datasets
from gradlab.errors import BadFile, UnknownName

from .idx_files import PIXELS, PLAIN, SERVED, TEST, TRAIN, known_tiny, tiny_folder


@pytest.fixture(autouse=True)
def known(monkeypatch, tmp_path):
    known_tiny(monkeypatch, tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    return tiny_folder(tmp_path / "own")


@pytest.mark.parametrize("sub", ["", "tiny"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_known_data_is_found_in_the_folder_and_in_one_of_its_name(tmp_path, sub, suffix):
    (tmp_path / sub).mkdir(exist_ok=True)
    path = tmp_path / sub / f"{TEST}{suffix}"
    path.write_bytes(PLAIN["test"] if not suffix else SERVED[f"/{TEST}.gz"])
    images = datasets.load("tiny", folder=tmp_path)
    assert torch.equal(images.pixels, PIXELS["test"])
    assert images.name == "tiny"
    assert datasets.where("tiny", tmp_path) == {"train": None, "test": path}


def test_the_default_folder_is_the_environment_s(tmp_path, monkeypatch):
    assert datasets.default_folder() == tmp_path / "cache"
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / TEST).write_bytes(PLAIN["test"])
    assert len(datasets.load("tiny")) == 5
    monkeypatch.delenv("GRADLAB_DATA")
    assert datasets.default_folder().name == "gradlab"


def test_known_data_of_a_wrong_checksum_is_refused(tmp_path):
    (tmp_path / TEST).write_bytes(PLAIN["train"])
    with pytest.raises(BadFile, match=r"expected sha256 .* of tiny, got"):
        datasets.load("tiny", folder=tmp_path)


def test_missing_known_data_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="gradlab data fetch tiny") as raised:
        datasets.load("tiny", "train", tmp_path)
    assert TRAIN in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_a_folder_without_the_split_is_told_from_one_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{TRAIN}.* put it there"):
        datasets.load(tmp_path, "train")
    with pytest.raises(UnknownName, match="or give an existing folder"):
        datasets.load(str(tmp_path / "none"))


@pytest.mark.parametrize("name", ["tinyy", "Tiny", "", "mnist sample", None, 3, ["tiny"]])
def test_an_unknown_name_is_refused_with_the_near_matches(name):
    with pytest.raises(UnknownName, match=r"data: unknown name .*(tiny|mnist-sample)"):
        datasets.load(name)


def test_an_unknown_split_is_refused(folder):
    with pytest.raises(UnknownName, match="split: unknown name 'tests'; did you mean test"):
        datasets.load(folder, "tests")
    with pytest.raises(ValueError, match="expected 'test', the only split of mnist-sample"):
        datasets.load(datasets.SAMPLE, "train")


def test_the_known_names_include_the_sample():
    assert datasets.names() == sorted(["tiny", "tinier", datasets.SAMPLE])


def test_check_tells_right_missing_and_wrong_apart(tmp_path):
    (tmp_path / TRAIN).write_bytes(PLAIN["train"])
    right, missing = datasets.check("tiny", tmp_path)
    assert right == datasets.Check("train", tmp_path / TRAIN, "")
    assert (missing.split, missing.path) == ("test", None)
    assert "gradlab data fetch tiny" in missing.fault
    (tmp_path / TEST).write_bytes(PLAIN["test"][:-1])
    (tmp_path / TRAIN).write_bytes(PLAIN["test"])
    wrong, short = datasets.check("tiny", tmp_path)
    assert "of tiny, got" in wrong.fault
    assert "cut short" in short.fault
    assert short.path == tmp_path / TEST


def test_check_of_a_folder_of_one_s_own_reads_its_files(folder):
    assert [one.fault for one in datasets.check(folder)] == ["", ""]
    (folder / TRAIN).write_bytes(b"rubbish")
    assert "expected an IDX image file" in datasets.check(folder)[0].fault


def test_check_of_an_unknown_name_is_refused():
    with pytest.raises(UnknownName):
        datasets.check("tinyy")
