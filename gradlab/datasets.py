"""Image data sets: IDX files in a folder, downloads checked against their sha256, and the bundled sample."""

from __future__ import annotations

import gzip
import hashlib
import importlib.resources
import math
import os
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from . import errors, files

SPLITS = ("train", "test")
IDX_FILES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
MOST_BYTES = 2**31  # of one file's pixels


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
        {"train": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888", "test": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"},
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


def names() -> list[str]:
    return sorted([*SOURCES, SAMPLE])


def default_folder() -> Path:
    """$GRADLAB_DATA, or the user's cache folder."""
    import pooch

    return Path(os.environ.get("GRADLAB_DATA") or pooch.os_cache("gradlab"))


def load(name: str, split: str = "test", folder: str | Path | None = None) -> Images:
    """Images of a known data set, of the bundled sample, or of a folder with IDX files of the usual names.

    Parameters
    ----------
    name : "mnist", "fashion-mnist", "mnist-sample" (bundled, test split only), or the path of a folder that holds
        train-images-idx3-ubyte and t10k-images-idx3-ubyte, plain or .gz
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
    if name == SAMPLE:
        if split != "test":
            raise ValueError(f"split: got {split!r}; {SAMPLE} has test images only")
        with importlib.resources.as_file(importlib.resources.files("gradlab.data") / f"{SAMPLE}.gz") as path:
            pixels, digest = read_idx(path)
        return Images(pixels, name, split, digest)
    if name not in SOURCES:
        own = Path(name)
        if not own.is_dir():
            raise errors.unknown_name("data", name, names())
        pixels, digest = read_idx(_find([own], split, f"{own} has none"))
        return Images(pixels, own.name, split, digest)
    root = Path(folder) if folder is not None else default_folder()
    cure = f"`gradlab data fetch {name}` downloads it, or give the folder that holds it"
    path = _find([root / name, root], split, cure)
    pixels, digest = read_idx(path)
    if digest != SOURCES[name].sha256[split]:
        raise errors.BadFile(f"{path}: sha256 {digest} is not that of {name}, {SOURCES[name].sha256[split]}")
    return Images(pixels, name, split, digest)


def fetch(name: str, folder: str | Path | None = None, mirror: str | None = None) -> list[Path]:
    """Download what is missing of a known data set, check it, and return its files.

    A download is checked before it takes its final name. Raises ValueError for an unknown name, BadFile for content
    that does not match its checksum, OSError where the network fails.
    """
    import pooch

    if name not in SOURCES:
        raise errors.unknown_name("data", name, SOURCES)
    root = (Path(folder) if folder is not None else default_folder()) / name
    base = (mirror or SOURCES[name].url).rstrip("/")
    paths = []
    for split in SPLITS:
        target = root / f"{IDX_FILES[split]}.gz"
        paths.append(target)
        if target.is_file() and read_idx(target)[1] == SOURCES[name].sha256[split]:
            continue
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as aside:
            raw = Path(aside) / target.name
            pooch.HTTPDownloader(timeout=30)(f"{base}/{target.name}", str(raw), None)
            digest = read_idx(raw)[1]
            if digest != SOURCES[name].sha256[split]:
                raise errors.BadFile(
                    f"{base}/{target.name}: sha256 {digest} is not that of {name}, {SOURCES[name].sha256[split]}"
                )
            with files.written_aside(target) as final:
                final.write_bytes(raw.read_bytes())
    return paths


def read_idx(path: str | Path) -> tuple[Tensor, str]:
    """Pixels `(example, 1, height, width)` of an IDX image file, plain or gzip, and the sha256 of its content.

    Reads no more than the header announces, and nothing if that is over the limit. Raises BadFile.
    """
    path = Path(path)
    with open(path, "rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            content: IO[bytes] = gzip.GzipFile(fileobj=raw) if zipped else raw  # type: ignore[assignment]
            header = content.read(16)
            if len(header) < 16 or header[:4] != b"\x00\x00\x08\x03":
                raise errors.BadFile(f"{path}: no IDX image file (it begins with {header[:4].hex(' ') or 'nothing'})")
            shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in (4, 8, 12))
            size = math.prod(shape)
            if not 0 < size <= MOST_BYTES:
                raise errors.BadFile(f"{path}: announces {shape} pixels; 1 to {MOST_BYTES} bytes can be read")
            body = _read(content, size + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise errors.BadFile(f"{path}: its compression is broken or cut short ({error})") from None
    if len(body) != size:
        found = "more than" if len(body) > size else "cut short,"
        raise errors.BadFile(f"{path}: {found} {min(len(body), size)} of the {size} bytes of {shape} pixels")
    digest = hashlib.sha256(header + body).hexdigest()
    return torch.from_numpy(np.frombuffer(body, np.uint8).copy()).reshape(shape[0], 1, *shape[1:]), digest


def write_idx(path: str | Path, pixels: Tensor) -> None:
    """Write images `(example, 1, height, width)`, uint8, as a gzip IDX file with no time stamp in it."""
    n, _, height, width = pixels.shape
    header = b"\x00\x00\x08\x03" + b"".join(int(k).to_bytes(4, "big") for k in (n, height, width))
    with files.written_aside(path) as aside:
        aside.write_bytes(gzip.compress(header + pixels.contiguous().numpy().tobytes(), mtime=0))


def _read(content: IO[bytes], most: int) -> bytes:
    """Up to `most` bytes, in pieces, so that memory follows what is there and not what is announced."""
    pieces = []
    while most > 0 and (piece := content.read(min(most, 2**22))):
        pieces.append(piece)
        most -= len(piece)
    return b"".join(pieces)


def _find(folders: list[Path], split: str, cure: str) -> Path:
    for folder in folders:
        for suffix in ("", ".gz"):
            path = folder / f"{IDX_FILES[split]}{suffix}"
            if path.is_file():
                return path
    looked = " and ".join(str(f) for f in folders)
    raise FileNotFoundError(f"{IDX_FILES[split]}[.gz] is not in {looked}; {cure}")
