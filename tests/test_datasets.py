"""IDX files are read or refused."""

import gzip
import hashlib
import time

import pytest
import torch

from gradlab import datasets
from gradlab.errors import BadFile

from .idx_files import FOREIGN, PIXELS, PLAIN, TEST, header, known_tiny, peak_of, tiny_folder


@pytest.fixture(autouse=True)
def known(monkeypatch, tmp_path):
    known_tiny(monkeypatch, tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    return tiny_folder(tmp_path / "own")


def refused(path, match=None):
    began = time.process_time()
    with pytest.raises(BadFile, match=match) as raised:
        datasets.read_idx(path)
    assert time.process_time() - began < 5
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("split", datasets.SPLITS)
def test_plain_and_zipped_files_are_read(folder, split):
    images = datasets.load(str(folder), split)
    assert torch.equal(images.pixels, PIXELS[split])
    assert images.pixels.dtype == torch.uint8
    assert images.sha256 == hashlib.sha256(PLAIN[split]).hexdigest()
    assert (images.name, images.split, len(images)) == ("own", split, len(PIXELS[split]))


def test_a_zipped_file_without_the_suffix_is_read(tmp_path):
    (tmp_path / TEST).write_bytes(gzip.compress(PLAIN["test"]))
    assert torch.equal(datasets.load(tmp_path).pixels, PIXELS["test"])


def test_written_images_are_read_back_and_files_are_reproducible(tmp_path):
    for name in ("a.gz", "b.gz"):
        datasets.write_idx(tmp_path / name, PIXELS["test"])
    found, digest = datasets.read_idx(tmp_path / "a.gz")
    assert torch.equal(found, PIXELS["test"])
    assert digest == hashlib.sha256(PLAIN["test"]).hexdigest()
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(2, 1, 3, 3),
        torch.zeros(2, 3, 3, 3, dtype=torch.uint8),
        torch.zeros(2, 3, 3, dtype=torch.uint8),
        torch.zeros(0, 1, 3, 3, dtype=torch.uint8),
    ],
    ids=["float", "colour", "flat", "none"],
)
def test_what_is_no_grey_image_is_not_written(tmp_path, values):
    with pytest.raises(ValueError, match=r"pixels: expected torch.uint8 .*, got torch\."):
        datasets.write_idx(tmp_path / "a.gz", values)
    assert list(tmp_path.iterdir()) == []


def test_grey_values_are_neither_normalised_nor_binarised(folder):
    images = datasets.load(folder)
    expected = PIXELS["test"].to(torch.float64) / 255
    assert images.floats().dtype == torch.float32
    torch.testing.assert_close(images.floats().double(), expected, rtol=0, atol=1e-7)
    assert torch.equal(images.floats(torch.tensor([3, 1])), images.floats()[[3, 1]])
    assert torch.equal(images.pixels, PIXELS["test"])


def test_the_first_images(folder):
    images = datasets.load(folder)
    assert torch.equal(images.first(2).pixels, PIXELS["test"][:2])
    assert images.first(2).sha256 == images.sha256
    for count in (0, -1, 2.5, "2", True):
        with pytest.raises(ValueError, match=r"images: expected .* at least 1, got"):
            images.first(count)
    with pytest.raises(ValueError, match="images: expected at most 5, the test split of own, got 6"):
        images.first(6)


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    for content in (PLAIN["test"], gzip.compress(PLAIN["test"])):
        for size in range(len(content)):
            (tmp_path / "a").write_bytes(content[:size])
            refused(tmp_path / "a")


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
def test_trailing_bytes_are_refused(tmp_path, pack):
    (tmp_path / "a").write_bytes(pack(PLAIN["test"] + b"\x00"))
    refused(tmp_path / "a", r"expected 60 bytes of \(5, 3, 4\) pixels, got more")


def test_rubbish_behind_the_compressed_stream_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(gzip.compress(PLAIN["test"]) + b"rubbish")
    refused(tmp_path / "a", "got broken or truncated data")


def test_a_damaged_compressed_stream_is_refused(tmp_path):
    content = gzip.compress(PLAIN["test"])
    for position in range(10, len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        (tmp_path / "a").write_bytes(damaged)
        refused(tmp_path / "a")


@pytest.mark.parametrize("foreign", FOREIGN, ids=range(len(FOREIGN)))
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
def test_a_foreign_file_is_refused(tmp_path, foreign, pack):
    (tmp_path / "a").write_bytes(pack(foreign))
    refused(tmp_path / "a")


ABSURD = [(2**31, 28, 28), (2**32 - 1,) * 3, (1, 2**31, 1), (2**20, 2**10, 2), (0, 28, 28), (5, 0, 4)]


@pytest.mark.parametrize("shape", ABSURD)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
def test_absurd_sizes_are_refused_before_memory_is_taken(tmp_path, shape, pack):
    (tmp_path / "a").write_bytes(pack(header(*shape) + bytes(1000)))
    assert peak_of(lambda: refused(tmp_path / "a", "bytes of pixels, got an announced shape")) < 2**20


def test_memory_follows_what_is_there_and_not_what_is_announced(tmp_path):
    (tmp_path / "a").write_bytes(header(2**20, 30, 30) + bytes(1000))
    assert peak_of(lambda: refused(tmp_path / "a", "got 1000; the file is cut short")) < 2**20


def test_a_bomb_is_not_expanded(tmp_path):
    """64 MiB of zeros in 64 KiB behind a header that announces 60 bytes."""
    (tmp_path / "a").write_bytes(gzip.compress(header(5, 3, 4) + bytes(2**26)))
    assert (tmp_path / "a").stat().st_size < 2**17
    assert peak_of(lambda: refused(tmp_path / "a", "expected 60 bytes .* got more")) < 2**20


def test_images_print_what_they_are():
    """Not their pixels, which filled the screen."""
    printed = repr(datasets.load("mnist-sample"))
    assert printed == "Images(mnist-sample, test split, pixels (1000, 1, 28, 28) torch.uint8)"
