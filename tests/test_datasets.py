"""Data sets: IDX files whole, damaged and absurd; downloads from a server on this machine."""

import contextlib
import gzip
import hashlib
import http.server
import os
import socket
import sys
import threading
import time
import tracemalloc

import pytest
import torch

from gradlab import datasets
from gradlab.datasets import bounded, fetching
from gradlab.errors import BadFile, UnknownName

SHIPPED = dict(datasets.SOURCES)  # which these tests replace
MAGIC = b"\x00\x00\x08\x03"
TRAIN, TEST = datasets.IDX_FILES["train"], datasets.IDX_FILES["test"]


def header(*shape):
    return MAGIC + b"".join(n.to_bytes(4, "big") for n in shape)


def pixels(count, seed):
    shape, generator = (count, 1, 3, 4), torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def idx(values):
    return header(values.shape[0], *values.shape[2:]) + values.numpy().tobytes()


PIXELS = {"train": pixels(7, 0), "test": pixels(5, 1)}
PLAIN = {split: idx(values) for split, values in PIXELS.items()}
SERVED = {f"/{datasets.IDX_FILES[split]}.gz": gzip.compress(plain, mtime=0) for split, plain in PLAIN.items()}


def only(monkeypatch, sources, cache):
    """These known data sets and no others, and no folder of the user's."""
    for name in list(datasets.SOURCES):
        monkeypatch.delitem(datasets.SOURCES, name)
    for name, source in sources.items():
        monkeypatch.setitem(datasets.SOURCES, name, source)
    monkeypatch.setenv("GRADLAB_DATA", str(cache))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def known(monkeypatch, tmp_path):
    """One tiny known data set under two names."""
    source = datasets.Source(
        "http://127.0.0.1:9/nothing/",
        {split: hashlib.sha256(plain).hexdigest() for split, plain in PLAIN.items()},
        {"train": 7, "test": 5},
        "nobody",
    )
    only(monkeypatch, {"tiny": source, "tinier": source}, tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    """A folder that holds the tiny data set, one split plain and one zipped."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / TRAIN).write_bytes(PLAIN["train"])
    (tmp_path / "own" / f"{TEST}.gz").write_bytes(SERVED[f"/{TEST}.gz"])
    return tmp_path / "own"


def refused(path, match=None):
    began = time.process_time()
    with pytest.raises(BadFile, match=match) as raised:
        datasets.read_idx(path)
    assert time.process_time() - began < 5
    assert str(path) in str(raised.value)


# reading


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


FOREIGN = [
    b"",
    b"\x1f\x8b",
    b"\x1f\x8b" + bytes(100),
    b"PK\x03\x04" + bytes(100),
    b"<!DOCTYPE html><html></html>",
    b"\x00\x00\x08\x01" + bytes(100),  # labels
    b"\x00\x00\x0d\x03" + bytes(100),  # floats
    bytes(100),
]


@pytest.mark.parametrize("foreign", FOREIGN, ids=range(len(FOREIGN)))
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
def test_a_foreign_file_is_refused(tmp_path, foreign, pack):
    (tmp_path / "a").write_bytes(pack(foreign))
    refused(tmp_path / "a")


def peak_of(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


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


# finding


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


# fetching


class Server:
    """Serves `content` by path, after `behave(request, body)` where one is given; counts the requests."""

    def __init__(self, content):
        self.content, self.behave, self.asked = dict(content), None, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(self.path)
                body = outer.content.get(self.path)
                if body is None:
                    self.send_error(404)
                elif outer.behave:
                    outer.behave(self, body)
                else:
                    answer(self, body)

            def log_message(self, *given):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"


def answer(request, body, announced=None, **headers):
    request.send_response(200)
    if announced != "not":
        request.send_header("Content-Length", str(announced or len(body)))
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(body)


@contextlib.contextmanager
def serving(content):
    server = Server(content)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


@pytest.fixture
def server():
    with serving(SERVED) as server:
        yield server


def assert_nothing_left(folder):
    assert [p for p in folder.rglob("*") if p.is_file()] == []


def test_fetch_downloads_what_load_then_reads(server, tmp_path):
    paths = datasets.fetch("tiny", tmp_path, server.url)
    assert paths == [tmp_path / "tiny" / f"{TRAIN}.gz", tmp_path / "tiny" / f"{TEST}.gz"]
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(paths)
    for split in datasets.SPLITS:
        assert torch.equal(datasets.load("tiny", split, tmp_path).pixels, PIXELS[split])
    assert sorted(server.asked) == sorted(SERVED)


def test_fetch_without_a_mirror_uses_the_source_s_address(server, tmp_path, monkeypatch):
    source = datasets.Source(f"{server.url}/", datasets.SOURCES["tiny"].sha256, {}, "")
    monkeypatch.setitem(datasets.SOURCES, "tiny", source)
    datasets.fetch("tiny")
    assert (tmp_path / "cache" / "tiny" / f"{TEST}.gz").is_file()


def test_a_second_fetch_downloads_nothing(server, tmp_path):
    first = datasets.fetch("tiny", tmp_path, server.url)
    server.asked.clear()
    assert datasets.fetch("tiny", tmp_path, server.url) == first
    assert server.asked == []


@pytest.mark.parametrize("sub", ["", "tiny"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_what_load_would_find_is_not_downloaded(server, tmp_path, sub, suffix):
    (tmp_path / sub).mkdir(exist_ok=True)
    path = tmp_path / sub / f"{TRAIN}{suffix}"
    path.write_bytes(PLAIN["train"] if not suffix else SERVED[f"/{TRAIN}.gz"])
    assert datasets.fetch("tiny", tmp_path, server.url) == [path, tmp_path / "tiny" / f"{TEST}.gz"]
    assert server.asked == [f"/{TEST}.gz"]


def test_a_damaged_download_of_before_is_replaced(server, tmp_path):
    path = tmp_path / "tiny" / f"{TRAIN}.gz"
    path.parent.mkdir()
    path.write_bytes(SERVED[f"/{TRAIN}.gz"][:-9])
    datasets.fetch("tiny", tmp_path, server.url)
    assert datasets.check("tiny", tmp_path)[0].fault == ""


def test_a_wrong_file_that_load_would_find_first_is_not_overlooked(server, tmp_path):
    (tmp_path / "tiny").mkdir()
    path = tmp_path / "tiny" / TRAIN
    path.write_bytes(PLAIN["test"])
    with pytest.raises(BadFile, match="remove or rename this file"):
        datasets.fetch("tiny", tmp_path, server.url)
    assert path.read_bytes() == PLAIN["test"]
    assert server.asked == []


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(PLAIN["test"]),
        gzip.compress(PLAIN["train"] + b"\x00"),
        SERVED[f"/{TRAIN}.gz"][:-3],
        b"<html>Log in first</html>",
        b"",
        gzip.compress(header(2**31, 28, 28)),
    ],
    ids=["other", "longer", "short", "page", "empty", "absurd"],
)
def test_wrong_content_leaves_no_file(server, tmp_path, body):
    server.content[f"/{TRAIN}.gz"] = body
    with pytest.raises(BadFile) as raised:
        datasets.fetch("tiny", tmp_path, server.url)
    assert str(raised.value).startswith(f"{server.url}/{TRAIN}.gz")
    assert ".part" not in str(raised.value)
    assert_nothing_left(tmp_path)


def one_clear_error(server, tmp_path, match):
    with pytest.raises(OSError, match=match) as raised:
        datasets.fetch("tiny", tmp_path, server.url)
    assert str(raised.value).startswith(f"{server.url}/{TRAIN}.gz: download failed")
    assert "\n" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert_nothing_left(tmp_path)


def test_a_file_the_server_does_not_have_is_an_error(server, tmp_path):
    server.content.clear()
    one_clear_error(server, tmp_path, "404")


def test_a_server_error_is_an_error(server, tmp_path):
    server.behave = lambda request, body: request.send_error(503)
    one_clear_error(server, tmp_path, "503")


def test_a_connection_cut_in_the_middle_is_an_error(server, tmp_path):
    server.behave = lambda request, body: answer(request, body[:20], announced=len(body))
    one_clear_error(server, tmp_path, "download failed")


def test_a_server_that_closes_at_once_is_an_error(server, tmp_path):
    server.behave = lambda request, body: request.connection.close()
    one_clear_error(server, tmp_path, "download failed")


def test_no_server_is_an_error(server, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        server.url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    one_clear_error(server, tmp_path, "download failed")


def test_a_rubbish_answer_is_an_error(server, tmp_path):
    server.behave = lambda request, body: request.wfile.write(b"rubbish\r\n\r\n")
    one_clear_error(server, tmp_path, "download failed")


def test_a_broken_transfer_encoding_is_an_error(server, tmp_path):
    server.behave = lambda request, body: answer(request, b"rubbish", Content_Encoding="gzip")
    one_clear_error(server, tmp_path, "download failed")


def test_a_server_that_unzips_on_the_way_is_understood(server, tmp_path):
    server.behave = lambda request, body: answer(request, body, Content_Encoding="gzip")
    datasets.fetch("tiny", tmp_path, server.url)
    assert torch.equal(datasets.load("tiny", "train", tmp_path).pixels, PIXELS["train"])


def test_an_answer_without_a_length_is_understood(server, tmp_path):
    server.behave = lambda request, body: answer(request, body, announced="not")
    datasets.fetch("tiny", tmp_path, server.url)
    assert [one.fault for one in datasets.check("tiny", tmp_path)] == ["", ""]


def test_an_endless_download_is_cut_off(server, tmp_path, monkeypatch):
    monkeypatch.setattr(bounded, "MOST_BYTES", 10**6)

    def endless(request, body):
        request.send_response(200)
        request.end_headers()
        with contextlib.suppress(OSError):
            while True:
                request.wfile.write(bytes(2**16))

    server.behave = endless
    with pytest.raises(BadFile, match="expected at most 1,000,000 bytes"):
        datasets.fetch("tiny", tmp_path, server.url)
    assert_nothing_left(tmp_path)


def test_a_full_disk_is_not_blamed_on_the_network(server, tmp_path, monkeypatch):
    def full(path, aside, shown):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching, "_download", full)
    with pytest.raises(OSError, match="No space left on device"):
        datasets.fetch("tiny", tmp_path, server.url)
    assert_nothing_left(tmp_path)


def test_a_fetch_that_fails_half_way_keeps_what_it_has(server, tmp_path):
    del server.content[f"/{TEST}.gz"]
    with pytest.raises(OSError, match="404"):
        datasets.fetch("tiny", tmp_path, server.url)
    assert [one.fault == "" for one in datasets.check("tiny", tmp_path)] == [True, False]


@pytest.mark.parametrize("mirror", ["ftp://127.0.0.1/", "file:///etc", "mirror.org/mnist", "http:/a"])
def test_a_mirror_that_is_no_http_address_is_refused(tmp_path, mirror):
    with pytest.raises(ValueError, match=r"mirror: expected .*http://.*, got"):
        datasets.fetch("tiny", tmp_path, mirror)


@pytest.mark.parametrize("name", ["tinyy", datasets.SAMPLE])
def test_only_known_data_can_be_fetched(tmp_path, name):
    with pytest.raises(UnknownName, match="data: unknown name"):
        datasets.fetch(name, tmp_path)


def test_a_fetch_prints_nothing_where_there_is_no_terminal(server, tmp_path, capfd):
    datasets.fetch("tiny", tmp_path, server.url, progress=True)
    assert capfd.readouterr() == ("", "")


def test_a_fetch_shows_its_progress_on_a_terminal(server, tmp_path, monkeypatch):
    leader, follower = os.openpty()
    with open(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        datasets.fetch("tiny", tmp_path, server.url, progress=True)
    shown = os.read(leader, 2**16).decode(errors="replace")
    os.close(leader)
    assert "train-images" in shown
    assert "100%" in shown


def test_the_shipped_sources_are_complete():
    assert set(SHIPPED) >= {"mnist", "fashion-mnist", "cifar10", "svhn"}
    for name, source in SHIPPED.items():
        assert source.url.startswith("http://" if name == "svhn" else "https://")
        assert source.url.endswith("/")
        assert source.credit
        assert set(source.sha256) == set(source.counts) == set(datasets.SPLITS)
        assert all(len(bytes.fromhex(digest)) == 32 for digest in source.sha256.values())
