"""Loading of images. Files are verified: they must be complete, and known data sets must have the right checksum."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import errors
from . import bounded, cifar10, finding, idx, svhn
from .sources import SAMPLE, SOURCES, SPLITS, names


@dataclass(frozen=True)
class Images:
    """Pixel values `pixels` (example, channel, height, width), uint8, and their origin."""

    pixels: Tensor
    name: str
    split: str
    sha256: str  # of the file: of the decompressed content for IDX, of the file itself for .tar.gz and .mat

    def __len__(self) -> int:
        return len(self.pixels)

    def __repr__(self) -> str:
        return f"Images({self.name}, {self.split} split, pixels {tuple(self.pixels.shape)} {self.pixels.dtype})"

    def floats(self, which: Tensor | slice = slice(None)) -> Tensor:
        """Pixel values in [0, 1], float32, without normalisation or binarisation."""
        return self.pixels[which].to(torch.float32).div_(255)

    def first(self, count: int) -> Images:
        """The first `count` images; ValueError if there are fewer."""
        count = errors.whole_number("images", count, 1)
        if count > len(self):
            raise ValueError(
                f"images: expected at most {len(self)}, the {self.split} split of {self.name}, got {count}"
            )
        return Images(self.pixels[:count], self.name, self.split, self.sha256)

    def described(self) -> dict[str, str]:
        """Attributes for a results file: the data set, split, number of images and checksum."""
        return {"data": f"{self.name}, {self.split} split, first {len(self)}", "data_sha256": self.sha256}


def load(name: str | Path, split: str = "test", folder: str | Path | None = None) -> Images:
    """Images of a known data set, of the bundled sample, or of your own files.

    Parameters
    ----------
    name : "mnist", "fashion-mnist", "cifar10", "svhn", "mnist-sample" (bundled, test split only), or the path of
        a folder that contains one of
        - train-images-idx3-ubyte and t10k-images-idx3-ubyte, plain or .gz,
        - train_32x32.mat and test_32x32.mat, of SVHN's layout,
        - cifar-10-binary.tar.gz or a single other .tar.gz, of that archive's layout;
        or the path of such a .tar.gz itself
    split : "train" or "test"
    folder : the folder of the known data sets, or of sub-folders with their names; default_folder() if None

    Raises
    ------
    BadFile, a ValueError
        A truncated file, a file of another kind, or a wrong checksum (known data sets).
    FileNotFoundError
        The file does not exist. The message states how to get it.

    Examples
    --------
    >>> images = gradlab.datasets.load("mnist-sample")
    >>> images.pixels.shape
    torch.Size([1000, 1, 28, 28])
    >>> x = images.first(10).floats()
    """
    errors.choice("split", split, SPLITS)
    if name == SAMPLE and split != "test":
        raise ValueError(f"split: expected 'test', the only split of {SAMPLE}, got {split!r}")
    path = finding.where(name, folder)[split]
    if path is None:
        raise FileNotFoundError(finding.missing(name, split, folder))
    pixels, digest = _read(name, split, path)
    return Images(pixels, str(name) if name in names() else Path(name).resolve().name, split, digest)


@dataclass(frozen=True)
class Check:
    """The result of checking one split. `fault` is empty if the file is complete and has the known checksum."""

    split: str
    path: Path | None
    fault: str


def check(name: str | Path, folder: str | Path | None = None) -> list[Check]:
    """Reads the file of each split and compares its checksum with the known one.

    Your own files and the bundled sample have no known checksum; they must be complete.
    Raises ValueError for a name that is not a known data set, a folder or an archive.

    Examples
    --------
    >>> [(one.split, one.fault) for one in gradlab.datasets.check("mnist-sample")]
    [('test', '')]
    """
    found: list[Check] = []
    for split, path in finding.where(name, folder).items():
        fault = ""
        try:
            if path is None:
                fault = finding.missing(name, split, folder)
            elif finding.known(name) and found and found[0].path == path:
                fault = found[0].fault  # one file for both splits, and one checksum
            else:
                prove(name, split, path)
        except (errors.BadFile, OSError) as error:
            fault = str(error)
        found.append(Check(split, path, fault))
    return found


def prove(name: str | Path, split: str, path: Path, called: str | None = None) -> None:
    """Raises BadFile unless the file is complete and has the known checksum. `called` is its name in messages."""
    if finding.layout(name, path) == "idx":
        _compare(name, split, path, idx.read_idx(path, called)[1], called)
    elif finding.known(name):
        _compare(name, split, path, bounded.sha256(path, called or str(path)), called)
    else:
        _pixels(name, split, path)


def _read(name: str | Path, split: str, path: Path) -> tuple[Tensor, str]:
    """Pixels and checksum."""
    if finding.layout(name, path) == "idx":
        pixels, digest = idx.read_idx(path)
        _compare(name, split, path, digest)
        return pixels, digest
    digest = bounded.sha256(path, str(path))
    _compare(name, split, path, digest)
    pixels = _pixels(name, split, path)
    if bounded.sha256(path, str(path)) != digest:
        raise errors.BadFile(f"{path}: expected the same content until it is read, got a file that has changed")
    return pixels, digest


def _pixels(name: str | Path, split: str, path: Path) -> Tensor:
    return cifar10.read(path, split) if finding.layout(name, path) == "cifar10" else svhn.read(path)


def _compare(name: str | Path, split: str, path: Path, digest: str, called: str | None = None) -> None:
    if not finding.known(name) or digest == (known := SOURCES[str(name)].sha256[split]):
        return
    fault = f"{called or path}: expected sha256 {known} of {name}, got {digest}"
    if called:
        raise errors.BadFile(fault)
    own = path if finding.layout(name, path) == "cifar10" else path.parent
    raise errors.BadFile(f"{fault}; to use this file anyway, give {own} as the data set")
