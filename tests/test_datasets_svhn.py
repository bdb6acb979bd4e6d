"""SVHN: MATLAB files whole, damaged and hostile; found, fetched and checked."""

import gzip
import hashlib
import io
import itertools
import struct
import time
import warnings
import zlib

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from gradlab import datasets, files
from gradlab.datasets import bounded, svhn
from gradlab.errors import BadFile

from .idx_files import FOREIGN, SHIPPED, only, peak_of, serving

TRAIN, TEST = "train_32x32.mat", "test_32x32.mat"


def made(count, seed):
    """As SVHN's variables: images (32, 32, 3, count), labels (count, 1) with 10 for the digit 0."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 11, (count, 1), dtype=np.uint8)
    return {"X": rng.integers(256, size=(32, 32, 3, count), dtype=np.uint8), "y": labels}


def mat(do_compression=True, **variables):
    packed = io.BytesIO()
    scipy.io.savemat(packed, variables, do_compression=do_compression)
    return packed.getvalue()


def pictures(variables):
    """One by one: channels first, rows and columns as they are."""
    found = [variables["X"][:, :, :, k].transpose(2, 0, 1) for k in range(variables["X"].shape[3])]
    return torch.from_numpy(np.stack(found))


VARIABLES = {"train": made(7, 0), "test": made(5, 1)}
ONE = made(1, 2)
BLACK = {"X": np.zeros((32, 32, 3, 1), np.uint8), "y": np.ones((1, 1), np.uint8)}
PUBLISHED = {"train": mat(**VARIABLES["train"]), "test": mat(**VARIABLES["test"])}


@pytest.fixture(autouse=True)
def known(monkeypatch, tmp_path):
    sums = {split: hashlib.sha256(content).hexdigest() for split, content in PUBLISHED.items()}
    source = datasets.Source("http://127.0.0.1:9/nothing/", sums, {"train": 7, "test": 5}, "nobody", "svhn")
    only(monkeypatch, {"tiny": source}, tmp_path / "cache")


@pytest.fixture
def server():
    with serving({f"/{TRAIN}": PUBLISHED["train"], f"/{TEST}": PUBLISHED["test"]}) as server:
        yield server


@pytest.fixture
def path(tmp_path):
    (tmp_path / "own").mkdir()
    return tmp_path / "own" / TEST


def read(path, content):
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        pixels = datasets.load(path.parent).pixels
    assert warned == []
    return pixels


def refused(path, content, match=None):
    """One line, soon, that names the file."""
    began = time.process_time()
    with pytest.raises(BadFile, match=match) as raised:
        read(path, content)
    assert time.process_time() - began < 5
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


# files written by hand, from the description of the format


def element(kind, content, announced=None):
    size = len(content) if announced is None else announced
    return struct.pack("<II", kind, size) + content + bytes(-len(content) % 8)


def variable(name, array_class, shape, stored, values, flags=0, announced=None):
    described = element(6, struct.pack("<II", array_class | flags, 0))
    described += element(5, struct.pack(f"<{len(shape)}i", *shape)) + element(1, name)
    return element(14, described + element(stored, values, announced))


def zipped(content, zeros=0):
    """A compressed element, with zeros behind its content."""
    packer = zlib.compressobj(1)
    pieces = [packer.compress(content), *(packer.compress(bytes(2**20)) for _ in range(zeros // 2**20)), packer.flush()]
    return element(15, b"".join(pieces))[: 8 + sum(map(len, pieces))]


def mat_5(*elements, compressed=False):
    """With the order and version marks that MATLAB writes."""
    start = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    return start + b"".join(zipped(content) if compressed else content for content in elements)


X1, Y1 = ONE["X"].tobytes("F"), ONE["y"].tobytes()
IMAGE, LABEL = variable(b"X", 9, (32, 32, 3, 1), 2, X1), variable(b"y", 9, (1, 1), 2, Y1)


@pytest.mark.parametrize("compressed", [False, True])
def test_files_written_by_hand_are_as_scipy_reads_them(path, compressed):
    """So that what the tests below change is what they refuse."""
    content = mat_5(IMAGE, LABEL, compressed=compressed)
    np.testing.assert_array_equal(scipy.io.loadmat(io.BytesIO(content))["X"], ONE["X"])
    assert torch.equal(read(path, content), pictures(ONE))


# reading


@pytest.mark.parametrize("split", datasets.SPLITS)
@pytest.mark.parametrize("do_compression", [True, False])
def test_images_are_read(path, split, do_compression):
    content = mat(do_compression, **VARIABLES[split])
    path.with_name({"train": TRAIN, "test": TEST}[split]).write_bytes(content)
    images = datasets.load(path.parent, split)
    assert torch.equal(images.pixels, pictures(VARIABLES[split]))
    assert images.pixels.shape == (len(VARIABLES[split]["y"]), 3, 32, 32)
    assert (images.pixels.dtype, images.pixels.is_contiguous()) == (torch.uint8, True)
    assert images.sha256 == hashlib.sha256(content).hexdigest()
    assert (images.name, images.split) == ("own", split)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("do_compression", [True, False])
def test_labels_of_any_type_are_read_and_dropped(path, dtype, do_compression):
    content = mat(do_compression, X=VARIABLES["test"]["X"], y=VARIABLES["test"]["y"].astype(dtype))
    assert torch.equal(read(path, content), pictures(VARIABLES["test"]))


def test_the_order_of_variables_does_not_matter_and_others_are_passed_over(path):
    others = {"z": np.array([{"a": 1}], dtype=object), "text": "text", "numbers": np.arange(3.0)}
    test = VARIABLES["test"]
    for content in (mat(y=test["y"], **others, X=test["X"]), mat(False, **others, y=test["y"], X=test["X"])):
        assert torch.equal(read(path, content), pictures(test))


@pytest.mark.parametrize("labels", [[0], [11], [255]])
def test_labels_out_of_range_are_refused(path, labels):
    y = np.array([[1], [10], labels, [2], [3]], dtype=np.uint8)
    refused(path, mat(X=VARIABLES["test"]["X"], y=y), f"expected labels 1 to 10, got {labels[0]} for image 2")


@pytest.mark.parametrize("label", [2.5, np.nan, np.inf, -1.0])
def test_labels_that_are_no_digits_are_refused(path, label):
    refused(path, mat(X=ONE["X"], y=np.array([[label]])), "expected labels 1 to 10, got .* for image 0")


# variables that are not as they should be


def objects(*shape):
    return np.full(shape, "text", dtype=object)


COUNT = 2
GOOD_X, GOOD_Y = made(COUNT, 3)["X"], made(COUNT, 3)["y"]
WRONG_X = {
    "transposed": GOOD_X.transpose(3, 2, 0, 1),
    "grey": GOOD_X[:, :, 0],
    "four channels": np.zeros((32, 32, 4, COUNT), np.uint8),
    "one picture": GOOD_X[..., 0],
    "no picture": GOOD_X[..., :0],
    "larger": np.zeros((33, 32, 3, COUNT), np.uint8),
    "five dimensions": GOOD_X[..., None] * np.ones(2, np.uint8),
    "float": GOOD_X / 255,
    "int8": GOOD_X.astype(np.int8),
    "uint16": GOOD_X.astype(np.uint16),
    "logical": GOOD_X > 100,
    "complex": GOOD_X * 1j,
    "objects": objects(32, 32, 3, COUNT),
    "struct": {"a": GOOD_X},
    "text": "text",
    "sparse": scipy.sparse.csc_array(np.eye(32)),
}
WRONG_Y = {
    "too many": np.ones((COUNT + 1, 1), np.uint8),
    "too few": np.ones((COUNT - 1, 1), np.uint8),
    "none": np.ones((0, 1), np.uint8),
    "a row": GOOD_Y.T,
    "two columns": np.ones((COUNT, 2), np.uint8),
    "objects": objects(COUNT, 1),
    "logical": GOOD_Y > 0,
    "complex": GOOD_Y * 1j,
    "struct": {"a": GOOD_Y},
    "text": "ab",
    "sparse": scipy.sparse.csc_array(np.ones((COUNT, 1))),
}


@pytest.mark.parametrize("do_compression", [True, False])
@pytest.mark.parametrize("wrong", WRONG_X.values(), ids=WRONG_X)
def test_images_of_another_shape_or_type_are_refused(path, wrong, do_compression):
    match = r"expected X as uint8 of shape \(32, 32, 3, example\), got|announced shape of \(32, 32, 3, 0\)"
    refused(path, mat(do_compression, X=wrong, y=GOOD_Y), match)


@pytest.mark.parametrize("do_compression", [True, False])
@pytest.mark.parametrize("wrong", WRONG_Y.values(), ids=WRONG_Y)
def test_labels_of_another_shape_or_type_are_refused(path, wrong, do_compression):
    refused(path, mat(do_compression, X=GOOD_X, y=wrong), "expected y with one label for each of 2 images, got")


def test_a_missing_variable_is_named(path):
    refused(path, mat(X=GOOD_X), "got a file without 'y'")
    refused(path, mat(y=GOOD_Y, x=GOOD_X), "got a file without 'X'")
    refused(path, mat(), "got a file without 'X'")


@pytest.mark.parametrize("array_class", [3, 16, 17, 18, 0, 255])
@pytest.mark.parametrize("compressed", [False, True])
def test_objects_and_functions_are_refused(path, array_class, compressed):
    hostile = variable(b"X", array_class, (32, 32, 3, 1), 2, X1)
    refused(path, mat_5(hostile, LABEL, compressed=compressed), "got (object|function|opaque|unknown) of shape")


@pytest.mark.parametrize("stored", [0, 1, 3, 5, 7, 8, 9, 14, 15, 99, 2**16 - 1])
def test_values_stored_as_another_type_are_refused(path, stored):
    """Of X, any other: it would not be as many bytes as pixels; of y, what is no number or of another length."""
    refused(path, mat_5(variable(b"X", 9, (32, 32, 3, 1), stored, X1), LABEL), "expected X as uint8 .*, got uint8")
    if stored != 1:
        refused(path, mat_5(IMAGE, variable(b"y", 9, (1, 1), stored, Y1)), "y.* uint8")


def test_a_short_element_of_more_than_it_can_hold_is_refused(path):
    name = struct.pack("<II", 5 << 16 | 1, 0)
    described = element(6, struct.pack("<II", 9, 0)) + element(5, struct.pack("<2i", 1, 1))
    refused(path, mat_5(element(14, described + name + element(2, b"1")), IMAGE, LABEL))
    values = struct.pack("<II", 5 << 16 | 2, 0)
    count = {"X": np.zeros((32, 32, 3, 5), np.uint8)}
    described = element(6, struct.pack("<II", 9, 0)) + element(5, struct.pack("<2i", 5, 1)) + element(1, b"y")
    refused(path, mat(False, **count) + element(14, described + values))


@pytest.mark.parametrize("twice", [IMAGE, LABEL])
def test_a_variable_that_is_there_twice_is_refused(path, twice):
    refused(path, mat_5(IMAGE, LABEL, twice), "each once")


def test_a_flood_of_variables_is_refused(path):
    many = [variable(b"%d" % k, 9, (1, 1), 2, b"1") for k in range(17)]
    refused(path, mat_5(*many, IMAGE, LABEL), "at most 16 variables")


# damaged and foreign


@pytest.mark.parametrize("do_compression", [True, False])
def test_a_file_cut_short_anywhere_is_refused(path, do_compression):
    content = mat(do_compression, **BLACK)
    assert torch.equal(read(path, content), torch.zeros(1, 3, 32, 32))
    for size in range(0, len(content), 1 if do_compression else 7):
        refused(path, content[:size])
    more = mat_5(IMAGE, LABEL, variable(b"z", 9, (100, 1), 2, bytes(100)))
    for size in range(len(mat_5(IMAGE, LABEL)) + 1, len(more)):
        refused(path, more[:size])
    content = PUBLISHED["test"]
    for size in range(0, len(content), 509):
        refused(path, content[:size])


@pytest.mark.parametrize("do_compression", [True, False])
def test_a_damaged_byte_is_refused_or_harmless(path, do_compression):
    """Nothing but a BadFile; compressed values cannot change unnoticed, as they have a checksum."""
    content = mat(do_compression, **BLACK)
    found = 0
    for position in range(0, len(content) if do_compression else 400):
        for flip in (0x01, 0x80):
            damaged = bytearray(content)
            damaged[position] ^= flip
            try:
                pixels = read(path, bytes(damaged))
            except BadFile:
                found += 1
                continue
            assert pixels.shape == (1, 3, 32, 32)
            assert not (do_compression and pixels.any())
    assert found > 100


@pytest.mark.parametrize("do_compression", [True, False])
def test_rubbish_behind_the_variables_is_refused(path, do_compression):
    for rubbish in (b"\0", b"rubbish", bytes(8), bytes(100), b"rubbish" * 100):
        refused(path, mat(do_compression, **ONE) + rubbish, "damaged or truncated|cut short")


HANDED_IN = [*FOREIGN, b"MATLAB 5.0 MAT-file", mat(**ONE)[:128], gzip.compress(mat(**ONE)), mat(**ONE)[::-1]]


@pytest.mark.parametrize("foreign", HANDED_IN, ids=range(len(HANDED_IN)))
def test_a_foreign_file_is_refused(path, foreign):
    refused(path, foreign)


def test_a_matlab_4_file_is_refused_with_what_is_needed(path):
    packed = io.BytesIO()
    scipy.io.savemat(packed, {"X": np.zeros((32, 96)), "y": GOOD_Y}, format="4")
    refused(path, packed.getvalue(), r"expected a MATLAB 5 file, as `save -v7` writes it, got .* as first bytes")


@pytest.mark.parametrize("userblock", [0, 512])
def test_a_matlab_7_3_file_is_refused_with_what_is_needed(path, userblock):
    with h5py.File(path, "w", userblock_size=userblock) as file:
        file["X"], file["y"] = GOOD_X, GOOD_Y
    content = bytearray(path.read_bytes())
    if userblock:
        content[:128] = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    refused(path, bytes(content), r"expected a MATLAB 5 file, .* got a MATLAB 7.3 \(HDF5\) file")


def test_a_big_endian_file_is_refused(path):
    content = bytearray(mat(**ONE))
    content[124:128] = b"\x01\x00MI"
    refused(path, bytes(content), "expected a MATLAB 5 file")


# sizes


ABSURD = [2**31 - 1, 2**31 // 3072, 2**30 // 3072 + 1]


@pytest.mark.parametrize("count", [*ABSURD, -1, 0])
@pytest.mark.parametrize("compressed", [False, True])
def test_absurd_sizes_are_refused_before_memory_is_taken(path, count, compressed):
    hostile = variable(b"X", 9, (32, 32, 3, count), 2, X1)
    content = mat_5(hostile, LABEL, compressed=compressed)
    assert peak_of(lambda: refused(path, content, "got an announced shape")) < 2**20


@pytest.mark.parametrize("shape", [(2**31 - 1,) * 4, (32,) * 32, (32, 32, 3, 1) * 20, (), (-32, -32, 3, 1)])
def test_absurd_shapes_are_refused(path, shape):
    hostile = variable(b"X", 9, shape, 2, X1)
    assert peak_of(lambda: refused(path, mat_5(hostile, LABEL))) < 2**20


@pytest.mark.parametrize("announced", [0, 1, 3071, 3073, 2**20, 2**31, 2**32 - 1])
@pytest.mark.parametrize("compressed", [False, True])
def test_values_that_are_not_as_many_as_the_shape_says_are_refused(path, announced, compressed):
    for hostile in (
        mat_5(variable(b"X", 9, (32, 32, 3, 1), 2, X1, announced=announced), LABEL, compressed=compressed),
        mat_5(IMAGE, variable(b"y", 9, (1, 1), 2, Y1, announced=max(2, announced)), compressed=compressed),
    ):
        assert peak_of(lambda content=hostile: refused(path, content)) < 2**20


@pytest.mark.parametrize("compressed", [False, True])
def test_memory_follows_what_is_there_and_not_what_is_announced(path, compressed):
    """Some 900 MB are announced, consistently; what is there could expand to 1032 times itself at most."""
    count = 300_000
    images = variable(b"X", 9, (32, 32, 3, count), 2, X1, announced=3072 * count)
    labels = variable(b"y", 9, (count, 1), 2, Y1, announced=count)
    content = mat_5(images, labels, compressed=compressed)
    assert peak_of(lambda: refused(path, content, "'X': expected at most .* got 921,600,000 announced")) < 2**20


def test_names_that_announce_too_much_are_refused(path):
    for array_class, announced in itertools.product((9, 1), (2**9, 2**26, 2**32 - 1)):
        described = element(6, struct.pack("<II", array_class, 0)) + element(5, struct.pack("<2i", 1, 1))
        hostile = element(14, described + element(1, bytes(2**23), announced))
        for compressed in (False, True):
            content = mat_5(hostile, IMAGE, LABEL, compressed=compressed)
            assert peak_of(lambda content=content: refused(path, content, "damaged or truncated")) < 2**25
    # of what the peak holds 8 MiB are the hostile file, which the test writes


def test_a_name_of_several_lines_is_told_in_one(path):
    hostile = variable(b"a\nb", 9, (1, 1), 2, b"1", announced=10**6)
    refused(path, mat_5(hostile), r"'a\\nb': expected at most .* got 1,000,000 announced")


@pytest.mark.parametrize("behind", [IMAGE, pytest.param(LABEL, marks=pytest.mark.deep)], ids=["X", "y"])
def test_a_bomb_behind_the_values_is_not_expanded(path, behind):
    """512 MiB of zeros in the stream of a variable that is as it should be; scipy expands 128 KiB at a time."""
    both = [zipped(body, 2**29 if body is behind else 0) for body in (IMAGE, LABEL)]
    assert peak_of(lambda: refused(path, mat_5(*both), "damaged or truncated")) < 2**28


def test_a_bomb_in_a_variable_that_is_passed_over_is_not_expanded(path):
    bomb = zipped(variable(b"z", 9, (2**29, 1), 2, b"", announced=2**29), 2**29)
    assert peak_of(lambda: read(path, mat_5(bomb, IMAGE, LABEL))) < 2**28


def test_the_published_files_fit_into_the_limits():
    assert max(SHIPPED["svhn"].counts.values()) * 3072 < bounded.MOST_BYTES


def test_what_is_announced_is_checked_before_scipy_reads(path, monkeypatch):
    monkeypatch.setattr(scipy.io, "loadmat", lambda *given, **named: pytest.fail("read before it was checked"))
    refused(path, mat(X=GOOD_X.astype(np.uint16), y=GOOD_Y))


def test_memory_that_is_short_is_not_blamed_on_the_file(path, monkeypatch):
    def short(*given, **named):
        raise MemoryError

    monkeypatch.setattr(scipy.io, "loadmat", short)
    with pytest.raises(MemoryError):
        read(path, mat(**ONE))


# finding, checking and fetching


def test_files_of_one_s_own_are_found(path):
    path.write_bytes(mat(False, **VARIABLES["test"]))
    path.with_name("cifar-10-binary.tar.gz").write_bytes(b"rubbish")
    assert datasets.where(path.parent) == {"train": None, "test": path}
    with pytest.raises(FileNotFoundError, match=f"^{TRAIN} is not in {path.parent}; put it there$"):
        datasets.load(path.parent, "train")
    train, test = datasets.check(path.parent)
    assert (test.path, test.fault) == (path, "")
    assert TRAIN in train.fault
    path.write_bytes(b"rubbish")
    assert "expected a MATLAB 5 file" in datasets.check(path.parent)[1].fault


@pytest.mark.parametrize("sub", ["", "tiny"])
def test_known_files_are_found_and_compared(tmp_path, sub):
    (tmp_path / sub).mkdir(exist_ok=True)
    place = tmp_path / sub / TEST
    place.write_bytes(PUBLISHED["test"])
    assert torch.equal(datasets.load("tiny", folder=tmp_path).pixels, pictures(VARIABLES["test"]))
    place.write_bytes(mat(False, **VARIABLES["test"]))
    with pytest.raises(BadFile, match=r"expected sha256 .* of tiny, got") as raised:
        datasets.load("tiny", folder=tmp_path)
    assert str(raised.value).endswith(f"to use this file anyway, give {place.parent} as the data set")
    assert torch.equal(datasets.load(place.parent).pixels, pictures(VARIABLES["test"]))


def test_check_takes_each_known_checksum_once_and_reads_no_images(path, monkeypatch):
    taken = []
    sha256 = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: taken.append(path) or sha256(path))
    monkeypatch.setattr(svhn, "read", lambda *given: pytest.fail("the checksum is enough"))
    path.write_bytes(PUBLISHED["test"])
    path.with_name(TRAIN).write_bytes(PUBLISHED["train"][:-1])
    train, test = datasets.check("tiny", path.parent)
    assert test.fault == ""
    assert "of tiny, got" in train.fault
    assert taken == [path.with_name(TRAIN), path]


def test_fetch_downloads_both_files(server, tmp_path):
    paths = [tmp_path / "tiny" / TRAIN, tmp_path / "tiny" / TEST]
    assert datasets.fetch("tiny", tmp_path, server.url) == paths
    assert server.asked == [f"/{TRAIN}", f"/{TEST}"]
    for split in datasets.SPLITS:
        assert torch.equal(datasets.load("tiny", split, tmp_path).pixels, pictures(VARIABLES[split]))
    assert datasets.fetch("tiny", tmp_path, server.url) == paths
    assert len(server.asked) == 2


@pytest.mark.parametrize("body", [b"", b"<html></html>", PUBLISHED["test"], PUBLISHED["train"][:-1]])
def test_wrong_content_leaves_no_file(server, tmp_path, body):
    server.content[f"/{TRAIN}"] = body
    with pytest.raises(BadFile, match="of tiny, got") as raised:
        datasets.fetch("tiny", tmp_path, server.url)
    assert str(raised.value).startswith(f"{server.url}/{TRAIN}: expected sha256")
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == []


def test_the_shipped_source_is_the_cropped_digits():
    assert [SHIPPED["svhn"].file(split) for split in datasets.SPLITS] == [TRAIN, TEST]
    assert SHIPPED["svhn"].counts == {"train": 73_257, "test": 26_032}
    assert "non-commercial" in SHIPPED["svhn"].credit


def test_what_scipy_would_take_for_matlab_4_is_refused(path):
    """Its reader for that takes the memory a file announces, whatever the checks of MATLAB 5 found."""
    version_4 = struct.pack("<5i", 0, 10**5, 10**5, 0, 2) + b"X\0"
    content = version_4 + mat(**ONE)[len(version_4) :]
    assert scipy.io.matlab.matfile_version(io.BytesIO(content)) == (0, 0)
    refused(path, content, "expected a MATLAB 5 file")
