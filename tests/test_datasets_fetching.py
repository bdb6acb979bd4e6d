"""Downloads from a server of any misbehaviour: whole files or none, and one clear error."""

import contextlib
import gzip
import os
import socket
import sys

import pytest
import torch

from gradlab import datasets
from gradlab.datasets import bounded, fetching
from gradlab.errors import BadFile, UnknownName

from .idx_files import PIXELS, PLAIN, SERVED, SHIPPED, TEST, TRAIN, answer, header, known_tiny, serving


@pytest.fixture(autouse=True)
def known(monkeypatch, tmp_path):
    known_tiny(monkeypatch, tmp_path / "cache")


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
    one_clear_error(server, tmp_path, rf"download failed \(the connection to {server.url[7:]} failed\); try again")


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
