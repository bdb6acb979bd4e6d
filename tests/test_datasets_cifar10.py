"""CIFAR-10: archives whole, damaged and hostile; found, fetched and checked as one file for both splits."""

import gzip
import hashlib
import io
import os
import pickle
import re
import tarfile
import time

import pytest
import torch
from click.testing import CliRunner
from gradlab.cli.data import data

from gradlab import datasets, files
from gradlab.datasets import cifar10
from gradlab.errors import BadFile, UnknownName

from .idx_files import FOREIGN, SHIPPED, only, peak_of, serving

NAME = "cifar-10-binary.tar.gz"
RECORD = 3073


def batch(count, seed):
    """Records with labels 0 to 9, as bytes."""
    records = torch.randint(256, (count, RECORD), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    records[:, 0] %= 10
    return records.numpy().tobytes()


def pictures(*batches):
    """Pixel by pixel, from the description of the format: label; red, green, blue; row by row."""
    found = [
        [[[body[at + 1 + 1024 * c + 32 * i + j] for j in range(32)] for i in range(32)] for c in range(3)]
        for body in batches
        for at in range(0, len(body), RECORD)
    ]
    return torch.tensor(found, dtype=torch.uint8)


def member(name, body=b"", **fields):
    about = tarfile.TarInfo(name)
    about.size = len(body)
    for field, value in fields.items():
        setattr(about, field, value)
    return about, body


def in_folder(**batches):
    return [member(f"cifar-10-batches-bin/{name}.bin", body) for name, body in batches.items()]


def tar(members, tar_format=tarfile.GNU_FORMAT):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tar_format) as archive:
        for about, body in members:
            archive.addfile(about, io.BytesIO(body))
    return packed.getvalue()


def tar_gz(members, tar_format=tarfile.GNU_FORMAT):
    return gzip.compress(tar(members, tar_format), compresslevel=1, mtime=0)


BATCHES = {f"data_batch_{k}": batch(k + 1, k) for k in range(1, 6)} | {"test_batch": batch(2, 9)}
ORDER = ("data_batch_1", "data_batch_3", "data_batch_4", "test_batch", "data_batch_5", "data_batch_2")  # as published
WHOLE = in_folder(**{name: BATCHES[name] for name in ORDER})
README = member("cifar-10-batches-bin/readme.html", b"<html>" * 200)
FOLDER = member("cifar-10-batches-bin", type=tarfile.DIRTYPE, mode=0o755)
ARCHIVE = tar_gz([FOLDER, README, *WHOLE])
BLACK = bytes(RECORD)
SMALL = tar_gz(in_folder(data_batch_1=BLACK, test_batch=BLACK))
TRAIN = pictures(*(BATCHES[f"data_batch_{k}"] for k in range(1, 6)))
TEST = pictures(BATCHES["test_batch"])


@pytest.fixture(autouse=True)
def known(monkeypatch, tmp_path):
    source = datasets.Source(
        "http://127.0.0.1:9/nothing/",
        dict.fromkeys(datasets.SPLITS, hashlib.sha256(ARCHIVE).hexdigest()),
        {"train": 20, "test": 2},
        "nobody",
        "cifar10",
    )
    only(monkeypatch, {"tiny": source}, tmp_path / "cache")


@pytest.fixture
def server():
    with serving({f"/{NAME}": ARCHIVE}) as server:
        yield server


@pytest.fixture
def path(tmp_path):
    (tmp_path / "own").mkdir()
    return tmp_path / "own" / NAME


def read(path, content, split="test"):
    path.write_bytes(content)
    return datasets.load(path, split).pixels


def refused(path, content, match=None, split="test"):
    """One line, soon, that names the file; nothing unpacked beside it."""
    began = time.process_time()
    with pytest.raises(BadFile, match=match) as raised:
        read(path, content, split)
    assert time.process_time() - began < 5
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)
    assert list(path.parent.iterdir()) == [path]


# reading


def test_training_batches_are_read_in_the_order_of_their_numbers(path):
    pixels = read(path, ARCHIVE, "train")
    assert torch.equal(pixels, TRAIN)
    assert pixels.shape == (20, 3, 32, 32)
    assert (pixels.dtype, pixels.is_contiguous()) == (torch.uint8, True)


def test_the_test_batch_is_read(path):
    assert torch.equal(read(path, ARCHIVE), TEST)


def test_the_batches_that_are_there_are_read(path):
    some = in_folder(**{name: BATCHES[name] for name in ("data_batch_3", "data_batch_1")})
    some += in_folder(data_batch_10=BATCHES["data_batch_2"])
    expected = pictures(*(BATCHES[f"data_batch_{k}"] for k in (1, 3, 2)))
    assert torch.equal(read(path, tar_gz(some), "train"), expected)
    refused(path, tar_gz(some), "expected cifar-10-batches-bin/test_batch.bin of .* without it")


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_archives_as_other_programs_write_them(path, tar_format, prefix):
    """With the folder, times in fractions of seconds, long names, and what macOS adds."""
    members = [
        member(f"{prefix}cifar-10-batches-bin", type=tarfile.DIRTYPE),
        member(f"{prefix}cifar-10-batches-bin/._test_batch.bin", b"\x00\x05\x16\x07" + bytes(159)),
        member(f"{prefix}cifar-10-batches-bin/{'long/' * 40}readme.html", b"text"),
        member(f"{prefix}cifar-10-batches-bin/test_batch.bin", BATCHES["test_batch"], mtime=1.5),
    ]
    assert torch.equal(read(path, tar_gz(members, tar_format)), TEST)


def test_the_checksum_is_of_the_archive_as_it_is(path):
    path.write_bytes(ARCHIVE)
    images = datasets.load(path, "train")
    assert images.sha256 == hashlib.sha256(ARCHIVE).hexdigest() == datasets.load(path, "test").sha256
    assert (images.name, images.split) == (NAME, "train")
    assert images.described()["data_sha256"] == images.sha256


def test_labels_are_checked_and_dropped(path):
    for label in (0, 9):
        black = tar_gz(in_folder(test_batch=bytes([label, *bytes(3072)])))
        assert torch.equal(read(path, black), torch.zeros(1, 3, 32, 32))
    for label in (10, 127, 255):
        body = BATCHES["test_batch"] + bytes([label]) + bytes(3072)
        match = f"test_batch.bin: expected labels 0 to 9, got {label} in record 2"
        refused(path, tar_gz(in_folder(test_batch=body)), match)


@pytest.mark.parametrize("size", [0, 1, 2, 3072, 3074, 2 * 3074, 2 * RECORD + 1])
def test_batches_of_other_lengths_are_refused(path, size):
    content = tar_gz(in_folder(test_batch=bytes(size)))
    refused(path, content, rf"test_batch.bin: expected .* records of 3073 bytes, got {size:,} bytes")


# damaged and foreign


def test_an_archive_cut_short_anywhere_is_refused(path):
    for content, step in ((SMALL, 1), (ARCHIVE, 1009)):
        for size in range(0, len(content), step):
            refused(path, content[:size])


def test_a_tar_file_cut_short_before_it_was_compressed_is_refused(path):
    whole = tar(in_folder(data_batch_1=BLACK, test_batch=BLACK))
    end = 2 * (512 + 3584)  # a header and 3073 bytes filled up to 7 blocks, twice; then the end mark
    assert torch.equal(read(path, gzip.compress(whole[: end + 512])), torch.zeros(1, 3, 32, 32))
    for size in [*range(0, end, 97), 511, 512, 513, 512 + RECORD, end, end + 511]:
        refused(path, gzip.compress(whole[:size], compresslevel=1), "cut short")


def test_any_damaged_byte_is_noticed(path):
    """The first ten bytes hold a time and a system, which do not matter."""
    whole = tar_gz(in_folder(test_batch=BLACK))
    assert torch.equal(read(path, whole), torch.zeros(1, 3, 32, 32))
    for position in range(10, len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        refused(path, bytes(damaged))


def test_any_damaged_header_is_noticed(path):
    """By the checksum of tar's headers, which ends in a zero and a byte that is not looked at."""
    whole = tar(in_folder(test_batch=BLACK))
    for position in {*range(512)} - {155}:
        damaged = bytearray(whole)
        damaged[position] ^= 0x01
        refused(path, gzip.compress(bytes(damaged), compresslevel=1))


@pytest.mark.parametrize("foreign", [*FOREIGN, tar(WHOLE), bytes(10240)], ids=range(len(FOREIGN) + 2))
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
def test_a_foreign_file_is_refused(path, foreign, pack):
    if foreign == tar(WHOLE) and pack is gzip.compress:
        assert torch.equal(read(path, pack(foreign)), TEST)
        return
    zipped = pack(foreign).startswith(b"\x1f\x8b")
    refused(path, pack(foreign), None if zipped else r"expected a .tar.gz archive, got")


def test_rubbish_behind_the_compressed_stream_is_refused(path):
    refused(path, ARCHIVE + b"rubbish", "got broken or truncated data")


def test_a_batch_that_is_there_twice_is_refused(path):
    refused(path, tar_gz([*WHOLE, *in_folder(test_batch=batch(1, 3))]), "test_batch.bin twice")


def test_cifar_100_is_told_apart(path):
    refused(
        path,
        tar_gz([member("cifar-100-binary/test.bin", bytes(3074))]),
        "test_batch.bin of CIFAR-10's binary version, got an archive without it",
    )


# pickles


class Trap:
    """Makes a folder when unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_the_python_version_is_refused_and_not_opened(path, tmp_path, protocol):
    body = pickle.dumps({b"data": Trap(tmp_path / "sprung"), b"labels": [1] * 5000}, protocol)
    for name in (*BATCHES, "batches.meta"):
        python = [member(f"cifar-10-batches-py/{name}", body)]
        refused(path, tar_gz(python), "expected the binary version of CIFAR-10, got the Python version", split="train")
    for length in (len(body), 2 * RECORD):
        content = body[:length].ljust(length, b".")
        refused(
            path,
            tar_gz(in_folder(test_batch=content)),
            "test_batch.bin: expected the binary version .*, got the Python version",
        )
    assert not (tmp_path / "sprung").exists()
    pickle.loads(body)
    assert (tmp_path / "sprung").exists()  # the trap works


def test_a_pickle_beside_the_batches_is_passed_over(path):
    assert torch.equal(read(path, tar_gz([member("batches.meta", pickle.dumps([1])), *WHOLE])), TEST)


# links and odd names


ODD = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret", "cifar-10-batches-bin/data_batch_1.bin"])
def test_links_and_devices_are_no_batches(path, kind, target):
    link = member("cifar-10-batches-bin/test_batch.bin", type=kind, linkname=target)
    refused(
        path, tar_gz([*in_folder(data_batch_1=batch(1, 0)), link]), "test_batch.bin of .*, got an archive without it"
    )
    assert torch.equal(read(path, tar_gz([link, *WHOLE])), TEST)


@pytest.mark.parametrize("kind", ODD)
def test_links_and_devices_have_no_content_whatever_they_announce(path, kind):
    """Some programs write the size of what a link leads to."""
    assert torch.equal(read(path, gzip.compress(header("link", 10**6, kind) + tar(WHOLE))), TEST)


@pytest.mark.parametrize(
    "name",
    [
        "/cifar-10-batches-bin/test_batch.bin",
        "../cifar-10-batches-bin/test_batch.bin",
        "cifar-10-batches-bin/../test_batch.bin",
        "cifar-10-batches-bin/test_batch.bin\n",
        "cifar-10-batches-bin/sub/test_batch.bin",
        "test_batch.bin",
    ],
)
def test_only_the_usual_names_are_batches(path, name):
    refused(path, tar_gz([member(name, batch(1, 0))]), "test_batch.bin of .*, got an archive without it")


def test_nothing_is_unpacked(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    read(path, ARCHIVE, "train")
    assert [found.name for found in path.parent.parent.rglob("*")] == ["own", NAME]


# sizes


def header(name, size, kind=tarfile.REGTYPE):
    """That announces `size` bytes, whatever follows."""
    return member(name, type=kind, size=size)[0].tobuf(tarfile.GNU_FORMAT)


BATCH_NAME = "cifar-10-batches-bin/test_batch.bin"
KINDS = [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, b"Z"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2**28 // RECORD * RECORD + RECORD, 2**33, 2**62])
def test_a_member_that_announces_too_much_is_refused_unread(path, kind, size):
    content = gzip.compress(header(BATCH_NAME, size, kind) + bytes(1000))
    assert peak_of(lambda: refused(path, content, "at most 268,435,456 bytes when unpacked")) < 2**20


@pytest.mark.parametrize("size", [-1, -512, -RECORD, -(2**40)])
def test_a_member_of_less_than_nothing_is_refused(path, size):
    refused(path, gzip.compress(header(BATCH_NAME, size) + bytes(10240)), f"got {size}")


@pytest.mark.parametrize("kind", KINDS)
def test_memory_follows_what_is_there_and_not_what_is_announced(path, kind):
    content = gzip.compress(header(BATCH_NAME, 80_000 * RECORD, kind) + bytes(1000))
    assert peak_of(lambda: refused(path, content, "cut short")) < 2**20


PASSED_OVER = [KINDS[1], *(pytest.param(kind, marks=pytest.mark.deep) for kind in KINDS[2:-1]), KINDS[-1]]


@pytest.mark.parametrize("kind", PASSED_OVER)
def test_a_bomb_in_a_member_that_is_passed_over_takes_no_memory(path, kind):
    content = gzip.compress(header("bomb", 2**26, kind) + bytes(2**26) + bytes(1024))
    assert len(content) < 2**17
    assert peak_of(lambda: refused(path, content, "test_batch.bin of .*, got an archive without it")) < 2**20


def test_a_bomb_of_another_length_is_refused_before_it_is_expanded(path):
    content = gzip.compress(header(BATCH_NAME, 2**26) + bytes(2**26) + bytes(1024))
    assert peak_of(lambda: refused(path, content, "expected one or more records .*, got 67,108,864 bytes")) < 2**20


@pytest.mark.parametrize("before", [b"", tar(WHOLE)], ids=["zeros", "archive"])
def test_a_bomb_behind_the_end_mark_is_not_expanded(path, before):
    content = gzip.compress(before + bytes(2**26), compresslevel=1)
    assert peak_of(lambda: refused(path, content, "expected the end of the archive")) < 2**22


def test_bombs_of_many_members_are_refused(path, monkeypatch):
    many = [member(f"{k}") for k in range(cifar10.MOST_MEMBERS + 1)]
    refused(path, tar_gz([*many, *WHOLE]), "at most 1000 members")
    monkeypatch.setattr(cifar10, "MOST_CONTENT", 100_000)
    several = [member(f"{k}", bytes(30_000)) for k in range(4)]
    refused(path, tar_gz(several), "at most 100,000 bytes when unpacked")


def test_the_published_archive_fits_into_the_limits():
    assert 6 * 10_000 * RECORD + 100_000 < cifar10.MOST_CONTENT


def test_an_archive_too_large_is_refused_unread(path):
    path.touch()
    os.truncate(path, 2**30 + 1)
    with pytest.raises(BadFile, match="at most 1,073,741,824 bytes, got 1,073,741,825"):
        datasets.load(path)


# finding


@pytest.mark.parametrize("name", [NAME, "cifar-10-binary-subset.tar.gz", "mine.tar.gz"])
@pytest.mark.parametrize("given", [str, lambda path: path.parent], ids=["path", "folder"])
def test_archives_of_one_s_own_are_found(path, name, given):
    path = path.with_name(name)
    path.write_bytes(ARCHIVE)
    assert datasets.where(given(path)) == {"train": path, "test": path}
    assert torch.equal(datasets.load(given(path), "train").pixels, TRAIN)
    assert torch.equal(datasets.load(given(path), "test").pixels, TEST)
    assert datasets.check(given(path)) == [datasets.Check(split, path, "") for split in datasets.SPLITS]


def test_the_usual_name_comes_before_others(path):
    path.write_bytes(ARCHIVE)
    path.with_name("cifar-10-python.tar.gz").write_bytes(b"rubbish")
    assert torch.equal(datasets.load(path.parent).pixels, TEST)


def test_one_of_several_archives_is_to_be_named(path):
    for name in ("a.tar.gz", "b.tar.gz"):
        path.with_name(name).write_bytes(ARCHIVE)
    with pytest.raises(ValueError, match=r"data: expected one .tar.gz file in .*own, got 2; give the path of one"):
        datasets.load(path.parent)
    assert torch.equal(datasets.load(path.with_name("b.tar.gz")).pixels, TEST)


def test_idx_files_come_before_archives(path):
    pixels = torch.arange(12, dtype=torch.uint8).reshape(1, 1, 3, 4)
    datasets.write_idx(path.with_name("t10k-images-idx3-ubyte.gz"), pixels)
    path.write_bytes(ARCHIVE)
    assert torch.equal(datasets.load(path.parent).pixels, pixels)
    with pytest.raises(FileNotFoundError, match=re.escape("train-images-idx3-ubyte[.gz] is not in ")):
        datasets.load(path.parent, "train")  # and not from the other data set


def test_a_folder_of_nothing_names_what_is_looked_for(path):
    looked_for = r"train-images.* or train_32x32.mat or cifar-10-binary.tar.gz is not in"
    with pytest.raises(FileNotFoundError, match=looked_for):
        datasets.load(path.parent, "train")


def test_a_path_that_is_no_archive_is_an_unknown_name(path, tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    for name in (path, tmp_path / "notes.txt", str(tmp_path / "nothing.tar.gz"), "\0.tar.gz"):
        with pytest.raises(UnknownName, match=r"or give an existing folder .* or the path of"):
            datasets.load(name)


def test_a_folder_named_like_an_archive_is_a_folder(tmp_path):
    (tmp_path / "a.tar.gz" / "b.tar.gz").mkdir(parents=True)
    (tmp_path / "a.tar.gz" / NAME).write_bytes(ARCHIVE)
    assert torch.equal(datasets.load(tmp_path / "a.tar.gz").pixels, TEST)
    (tmp_path / "a.tar.gz" / NAME).unlink()
    assert datasets.where(tmp_path / "a.tar.gz") == {"train": None, "test": None}


@pytest.mark.parametrize("sub", ["", "tiny"])
def test_known_archives_are_found_by_their_usual_name(tmp_path, sub):
    (tmp_path / sub).mkdir(exist_ok=True)
    (tmp_path / sub / "another.tar.gz").write_bytes(b"rubbish")
    with pytest.raises(FileNotFoundError, match=f"{NAME} is not in .*`gradlab data fetch tiny` downloads it"):
        datasets.load("tiny", folder=tmp_path)
    (tmp_path / sub / NAME).write_bytes(ARCHIVE)
    images = datasets.load("tiny", "train", tmp_path)
    assert torch.equal(images.pixels, TRAIN)
    assert images.name == "tiny"


def test_a_known_archive_of_another_checksum_is_refused_unread_with_the_way_out(path, monkeypatch):
    other = gzip.compress(tar(WHOLE), mtime=1)
    path.write_bytes(other)
    with monkeypatch.context() as patched:
        patched.setattr(cifar10, "read", lambda *given: pytest.fail("read before its checksum was compared"))
        with pytest.raises(BadFile, match=r"expected sha256 .* of tiny, got") as raised:
            datasets.load("tiny", "test", path.parent)
    assert str(raised.value).endswith(f"to use this file anyway, give {path} as the data set")
    assert torch.equal(datasets.load(path).pixels, TEST)


# checking and fetching


@pytest.fixture
def hashed(monkeypatch):
    """Files whose checksum is taken."""
    taken = []
    sha256 = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: taken.append(path) or sha256(path))
    return taken


def test_check_reads_a_known_archive_once(path, hashed, monkeypatch):
    monkeypatch.setattr(cifar10, "read", lambda *given: pytest.fail("the checksum is enough"))
    path.write_bytes(ARCHIVE)
    assert [one.fault for one in datasets.check("tiny", path.parent)] == ["", ""]
    assert hashed == [path]
    path.write_bytes(ARCHIVE[:-1])
    train, test = datasets.check("tiny", path.parent)
    assert "of tiny, got" in train.fault
    assert train.fault == test.fault
    assert hashed == [path, path]


def test_check_of_one_s_own_archive_tells_the_splits_apart(path, hashed):
    path.write_bytes(tar_gz(in_folder(test_batch=BATCHES["test_batch"], data_batch_1=bytes([77]) * RECORD)))
    train, test = datasets.check(path)
    assert "got 77 in record 0" in train.fault
    assert test.fault == ""
    assert hashed == []


def test_fetch_downloads_the_one_archive_once(server, tmp_path, hashed):
    target = tmp_path / "tiny" / NAME
    assert datasets.fetch("tiny", tmp_path, server.url) == [target]
    assert server.asked == [f"/{NAME}"]
    assert len(hashed) == 1
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [target]
    assert torch.equal(datasets.load("tiny", "train", tmp_path).pixels, TRAIN)
    assert datasets.fetch("tiny", tmp_path, server.url) == [target]
    assert server.asked == [f"/{NAME}"]


def test_fetch_finds_what_is_there(server, path):
    path.write_bytes(ARCHIVE)
    assert datasets.fetch("tiny", path.parent, server.url) == [path]
    assert server.asked == []


def test_a_damaged_download_of_before_is_replaced_once(server, tmp_path):
    target = tmp_path / "tiny" / NAME
    target.parent.mkdir()
    target.write_bytes(ARCHIVE[:-9])
    assert datasets.fetch("tiny", tmp_path, server.url) == [target]
    assert server.asked == [f"/{NAME}"]
    assert target.read_bytes() == ARCHIVE


def test_a_wrong_file_that_is_no_download_is_not_replaced(server, path):
    path.write_bytes(SMALL)
    with pytest.raises(BadFile, match="remove or rename this file"):
        datasets.fetch("tiny", path.parent, server.url)
    assert path.read_bytes() == SMALL
    assert server.asked == []


@pytest.mark.parametrize("body", [b"", b"<html>Log in first</html>", ARCHIVE[:-1], SMALL, ARCHIVE + b"\0"])
def test_wrong_content_leaves_no_file(server, tmp_path, body):
    server.content[f"/{NAME}"] = body
    with pytest.raises(BadFile, match="of tiny, got") as raised:
        datasets.fetch("tiny", tmp_path, server.url)
    assert str(raised.value).startswith(f"{server.url}/{NAME}: expected sha256")
    assert ".part" not in str(raised.value)
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == []


def test_the_commands_know_it(server, tmp_path):
    def run(*arguments):
        return CliRunner().invoke(data, [*arguments, "--data-dir", str(tmp_path)])

    missing = run("check", "tiny")
    assert missing.exit_code == 1
    assert missing.output.count(f"{NAME} is not in ") == 2
    fetched = run("fetch", "tiny", "--mirror", server.url)
    assert fetched.output.split() == [str(tmp_path / "tiny" / NAME)]
    assert run("check", "tiny").output.count("is complete") == 2
    listed = run("list", "--json")
    assert listed.exit_code == 0
    assert str(tmp_path / "tiny" / NAME) in listed.output


def test_the_shipped_source_is_the_binary_version():
    source = SHIPPED["cifar10"]
    assert {source.file(split) for split in datasets.SPLITS} == {NAME}
    assert len(set(source.sha256.values())) == 1
    assert source.counts == {"train": 50_000, "test": 10_000}
