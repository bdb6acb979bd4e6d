"""Image data sets: IDX files in a folder, downloads checked against their sha256, and the bundled sample."""

from __future__ import annotations

import gzip
import hashlib
import importlib.resources
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from . import errors, files, progress

SPLITS = ("train", "test")
IDX_FILES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
MOST_BYTES = 2**30  # of one file's pixels, and of one download
CHUNK = 2**16


@dataclass(frozen=True)
class Source:
    """A known data set: where its IDX files are downloaded from and the sha256 of each, decompressed."""

    url: str
    sha256: dict[str, str]
    counts: dict[str, int]
    credit: str


SOURCES = {
    "mnist": Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "test": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        },
        {"train": 60000, "test": 10000},
        "Y. LeCun, C. Cortes, C. J. C. Burges; usually given as CC BY-SA 3.0",
    ),
    "fashion-mnist": Source(
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        {
            "train": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "test": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        },
        {"train": 60000, "test": 10000},
        "H. Xiao, K. Rasul, R. Vollgraf; MIT",
    ),
}
SAMPLE = "mnist-sample"  # the first 1,000 MNIST test images, shipped with the package


@dataclass(frozen=True)
class Images:
    """Grey values `pixels` (example, channel, height, width), uint8, and where they come from."""

    pixels: Tensor
    name: str
    split: str
    sha256: str  # of the whole file's content, decompressed

    def __len__(self) -> int:
        return len(self.pixels)

    def floats(self, which: Tensor | slice = slice(None)) -> Tensor:
        """Grey values in [0, 1], float32; no normalisation, no binarisation."""
        return self.pixels[which].to(torch.float32).div_(255)

    def first(self, count: int) -> Images:
        """The first `count` images; ValueError if there are fewer."""
        count = errors.whole_number("images", count, 1)
        if count > len(self):
            raise ValueError(f"images: got {count}; the {self.split} split of {self.name} has {len(self)}")
        return Images(self.pixels[:count], self.name, self.split, self.sha256)

    def described(self) -> dict[str, str]:
        """Attributes that tell a result which images it was measured on."""
        return {"data": f"{self.name}, {self.split} split, first {len(self)}", "data_sha256": self.sha256}


def names() -> list[str]:
    return sorted([*SOURCES, SAMPLE])


def default_folder() -> Path:
    """$GRADLAB_DATA, or the user's cache folder."""
    import pooch

    return Path(os.environ.get("GRADLAB_DATA") or pooch.os_cache("gradlab"))


def load(name: str | Path, split: str = "test", folder: str | Path | None = None) -> Images:
    """Images of a known data set, of the bundled sample, or of a folder with IDX files of the usual names.

    Parameters
    ----------
    name : "mnist", "fashion-mnist", "mnist-sample" (bundled, test split only), or the path of a folder that
        holds train-images-idx3-ubyte and t10k-images-idx3-ubyte, plain or .gz
    split : "train" or "test"
    folder : where known data sets lie, themselves or in a sub-folder of their name; default_folder() if None

    Raises
    ------
    BadFile, a ValueError
        A file that is cut short, foreign, or (known data sets) whose checksum does not match.
    FileNotFoundError
        No such file; the message says how to get it.
    """
    errors.choice("split", split, SPLITS)
    if name == SAMPLE and split != "test":
        raise ValueError(f"split: got {split!r}; {SAMPLE} has test images only")
    path = where(name, folder)[split]
    if path is None:
        raise FileNotFoundError(_missing(name, split, folder))
    pixels, digest = _read_known(name, split, path)
    return Images(pixels, str(name) if name in names() else Path(name).resolve().name, split, digest)


def where(name: str | Path, folder: str | Path | None = None) -> dict[str, Path | None]:
    """The file of each split that `load` reads, None where there is none. Nothing is opened.

    Raises ValueError for a name that is no known data set and no folder.
    """
    if name == SAMPLE:
        path = Path(str(importlib.resources.files("gradlab.data") / f"{SAMPLE}.gz"))
        return {"test": path if path.is_file() else None}
    return {split: _find(_folders(name, folder), split) for split in SPLITS}


@dataclass(frozen=True)
class Check:
    """What there is of one split; `fault` is empty where the file is whole and of the known checksum."""

    split: str
    path: Path | None
    fault: str


def check(name: str | Path, folder: str | Path | None = None) -> list[Check]:
    """Read each split's file and compare its checksum with the known one.

    A folder of one's own and the bundled sample have no known checksum: their files must be whole.
    Raises ValueError for a name that is no known data set and no folder.
    """
    found = []
    for split, path in where(name, folder).items():
        fault = ""
        try:
            if path is None:
                fault = _missing(name, split, folder)
            else:
                _read_known(name, split, path)
        except (errors.BadFile, OSError) as error:
            fault = str(error)
        found.append(Check(split, path, fault))
    return found


def fetch(name: str, folder: str | Path | None = None, mirror: str | None = None, shown: bool = False) -> list[Path]:
    """Download what `load` would not find of a known data set, check it, and return the files of all splits.

    A download is checked before it takes its final name. `mirror` replaces the address of the data set's
    folder; `shown` draws a progress bar on standard error where that is a terminal.

    Raises
    ------
    ValueError
        An unknown name, or a mirror that is no http address.
    BadFile, a ValueError
        Content that does not match its checksum, downloaded or (not from a download) already there.
    OSError
        The network fails or the file cannot be written.
    """
    if name not in SOURCES:
        raise errors.unknown_name("data", name, SOURCES)
    base = (mirror or SOURCES[name].url).rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise ValueError(f"mirror: got {mirror!r}; give an address that begins with http:// or https://")
    paths = []
    for one in check(name, folder):
        target = _folders(name, folder)[0] / f"{IDX_FILES[one.split]}.gz"
        if one.fault and one.path not in (None, target):
            raise errors.BadFile(f"{one.fault}; remove or rename this file, a download would not replace it")
        if one.fault:
            with files.written_aside(target) as aside:
                _download(f"{base}/{target.name}", aside, shown)
                _read_known(name, one.split, aside, f"{base}/{target.name}")
        paths.append(target if one.path is None else one.path)
    return paths


def _folders(name: str | Path, folder: str | Path | None) -> list[Path]:
    """Where the files of a known data set, or of a folder of one's own, may lie, in the order of search."""
    if isinstance(name, str) and name in SOURCES:
        root = Path(folder) if folder is not None else default_folder()
        return [root / name, root]
    if not isinstance(name, str | Path) or not str(name) or not Path(name).is_dir():
        unknown = errors.unknown_name("data", name, names())
        raise errors.UnknownName(f"{unknown}; or give a folder that is there and holds IDX files")
    return [Path(name)]


def _find(folders: list[Path], split: str) -> Path | None:
    places = (folder / f"{IDX_FILES[split]}{suffix}" for folder in folders for suffix in ("", ".gz"))
    return next((path for path in places if path.is_file()), None)


def _missing(name: str | Path, split: str, folder: str | Path | None) -> str:
    if name == SAMPLE:
        return f"{SAMPLE}.gz is missing from this installation of gradlab; install it again"
    looked = " and ".join(str(f) for f in _folders(name, folder))
    cure = f"`gradlab data fetch {name}` downloads it, or give the folder that holds it"
    return f"{IDX_FILES[split]}[.gz] is not in {looked}; {cure if name in SOURCES else 'put it there'}"


def _read_known(name: str | Path, split: str, path: Path, called: str | None = None) -> tuple[Tensor, str]:
    pixels, digest = read_idx(path, called)
    if name in SOURCES and digest != (known := SOURCES[str(name)].sha256[split]):
        raise errors.BadFile(f"{called or path}: sha256 {digest} is not that of {name}, {known}")
    return pixels, digest


def _download(url: str, path: Path, shown: bool) -> None:
    import requests

    try:
        with requests.get(url, stream=True, timeout=30) as response, open(path, "wb") as file:
            response.raise_for_status()
            announced = response.headers.get("Content-Length", "")
            total = int(announced) if announced.isdigit() else 0
            done = 0
            with progress.bar(url.rpartition("/")[2], total, shown) as advance:
                for piece in response.iter_content(CHUNK):
                    done += len(piece)
                    if done > MOST_BYTES:
                        raise errors.BadFile(f"{url}: more than {MOST_BYTES:,} bytes, no such data set")
                    file.write(piece)
                    advance(len(piece))
    except requests.RequestException as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OSError(f"{url}: cannot be downloaded ({reason}); try again, or another mirror") from None


def read_idx(path: str | Path, called: str | None = None) -> tuple[Tensor, str]:
    """Pixels `(example, 1, height, width)` of an IDX image file, plain or gzip, and its content's sha256.

    Reads no more than the header announces, and nothing if that is over the limit. Raises BadFile, in which
    the file is `called` so if a name is given.
    """
    called = called or str(path)
    with open(path, "rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            content: IO[bytes] = gzip.GzipFile(fileobj=raw) if zipped else raw  # type: ignore[assignment]
            header = content.read(16)
            shape = _announced(called, header)
            size = math.prod(shape)
            body = _read(content, size + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise errors.BadFile(f"{called}: its compression is broken or cut short ({error})") from None
    if len(body) != size:
        found = "more than" if len(body) > size else f"cut short, {len(body)} of"
        raise errors.BadFile(f"{called}: {found} the {size} bytes of {shape} pixels")
    digest = hashlib.sha256(header)
    digest.update(body)
    pixels = torch.frombuffer(body, dtype=torch.uint8).reshape(shape[0], 1, *shape[1:])
    return pixels, digest.hexdigest()


def _announced(called: str, header: bytes) -> tuple[int, ...]:
    """(example, height, width) by the header."""
    if len(header) < 16 or header[:4] != b"\x00\x00\x08\x03":
        begins = header[:4].hex(" ") or "nothing"
        raise errors.BadFile(f"{called}: no IDX image file (it begins with {begins})")
    shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in (4, 8, 12))
    if not 0 < math.prod(shape) <= MOST_BYTES:
        raise errors.BadFile(f"{called}: announces {shape} pixels; 1 to {MOST_BYTES:,} bytes can be read")
    return shape


def write_idx(path: str | Path, pixels: Tensor) -> None:
    """Write images `(example, 1, height, width)`, uint8, as a gzip IDX file with no time stamp in it.

    Raises ValueError for a tensor of another type or shape.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 1 or not pixels.numel():
        raise ValueError(
            f"pixels: got {pixels.dtype} of shape {tuple(pixels.shape)};"
            " torch.uint8 of shape (example, 1, height, width) is needed"
        )
    n, _, height, width = pixels.shape
    header = b"\x00\x00\x08\x03" + b"".join(int(k).to_bytes(4, "big") for k in (n, height, width))
    with files.written_aside(path) as aside:
        aside.write_bytes(gzip.compress(header + pixels.contiguous().numpy().tobytes(), mtime=0))


def _read(content: IO[bytes], most: int) -> bytearray:
    """Up to `most` bytes, in pieces, so that memory follows what is there and not what is announced."""
    body = bytearray()
    while len(body) < most and (piece := content.read(min(most - len(body), CHUNK))):
        body += piece
    return body
