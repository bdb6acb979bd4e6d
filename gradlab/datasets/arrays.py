"""Your own observations: an array (example, ...) in a .npy file. Nothing is unpickled."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import errors, files

MAGIC = b"\x93NUMPY"
BLOCK = 2**20  # bytes read at once


@dataclass(frozen=True)
class Observations:
    """Floating-point `values` (example, ...), which stay in the file until they are used, and their origin."""

    values: np.ndarray
    name: str
    sha256: str  # of the file
    whole: np.memmap | None = None  # all values of the file, of which only place and shape are used

    def __len__(self) -> int:
        return len(self.values)

    def first(self, count: int) -> Observations:
        """The first `count` observations; ValueError if there are fewer."""
        count = errors.whole_number("images", count, 1)
        if count > len(self):
            raise ValueError(f"images: expected at most {len(self)}, all of {self.name}, got {count}")
        return dataclasses.replace(self, values=self.values[:count])

    def floats(self) -> Tensor:
        """The values as a tensor, in the precision of the file. Raises BadFile if the file has changed since."""
        values = self.values if self.whole is None else self._read(self.whole)
        return torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("=")))

    def _read(self, whole: np.memmap) -> np.ndarray:
        """The values, read and not mapped: a process that uses the map of a file that was cut short is killed."""
        path, by_columns = str(whole.filename), not whole.flags.c_contiguous
        count = len(whole) if by_columns else len(self)
        stop = whole.offset + count * math.prod(whole.shape[1:]) * whole.dtype.itemsize
        digest, kept, at = hashlib.sha256(), bytearray(), 0
        with open(path, "rb") as file:
            while piece := file.read(BLOCK):
                digest.update(piece)
                kept += piece[max(0, whole.offset - at) : max(0, stop - at)]
                at += len(piece)
        if digest.hexdigest() != self.sha256:
            raise errors.BadFile(f"{path}: expected the observations as they were opened, got a file that has changed")
        values = np.frombuffer(kept, whole.dtype)
        return values.reshape((count, *whole.shape[1:]), order="F" if by_columns else "C")[: len(self)]

    def described(self) -> dict[str, str]:
        """Attributes for a results file: the data set and its checksum."""
        return {"data": f"{self.name}, first {len(self)}", "data_sha256": self.sha256}


def load_array(path: str | Path) -> Observations:
    """Observations from a .npy file, which `numpy.save` writes.

    Raises
    ------
    BadFile, a ValueError
        A truncated file, a file of another kind, or an array that is not floating-point (example, ...).
    FileNotFoundError
        The file does not exist.

    Examples
    --------
    >>> np.save("x.npy", np.random.default_rng(0).normal(size=(10, 3)))
    >>> gradlab.datasets.load_array("x.npy").values.shape
    (10, 3)
    """
    path = errors.present(path, "file of observations")
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise errors.BadFile(f"{path}: expected a .npy file, as numpy.save writes it, got another kind")
    digest = files.sha256(path)
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises many kinds of errors for damaged headers
        errors.pass_on_memory(error)
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise errors.BadFile(f"{path}: expected a complete .npy file, got a damaged one ({reason})") from None
    if values.dtype.kind != "f" or values.dtype.itemsize > 8 or values.ndim < 2:
        raise errors.BadFile(
            f"{path}: expected floating-point numbers (example, ...), got {values.dtype} of shape {values.shape}"
        )
    return Observations(values, path.name, digest, values)
