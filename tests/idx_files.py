"""Tiny IDX files, known data sets made of them, a server of any misbehaviour, and how readers are watched."""

import contextlib
import gzip
import hashlib
import http.server
import threading
import tracemalloc

import torch

from gradlab import datasets

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


def known_tiny(monkeypatch, cache):
    """One tiny known data set under two names."""
    source = datasets.Source(
        "http://127.0.0.1:9/nothing/",
        {split: hashlib.sha256(plain).hexdigest() for split, plain in PLAIN.items()},
        {"train": 7, "test": 5},
        "nobody",
    )
    only(monkeypatch, {"tiny": source, "tinier": source}, cache)


def tiny_folder(path):
    """A folder that holds the tiny data set, one split plain and one zipped."""
    path.mkdir()
    (path / TRAIN).write_bytes(PLAIN["train"])
    (path / f"{TEST}.gz").write_bytes(SERVED[f"/{TEST}.gz"])
    return path


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


def peak_of(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


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
