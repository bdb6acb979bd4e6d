"""Your own observations: an array (example, ...) in a .npy file. Nothing is unpickled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import errors, files

MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class Observations:
    """Floating-point `values` (example, ...), which stay in the file until they are used, and their origin."""

    values: np.ndarray
    name: str
    sha256: str  # of the file

    def __len__(self) -> int:
        return len(self.values)

    def first(self, count: int) -> Observations:
        """The first `count` observations; ValueError if there are fewer."""
        count = errors.whole_number("images", count, 1)
        if count > len(self):
            raise ValueError(f"images: expected at most {len(self)}, all of {self.name}, got {count}")
        return Observations(self.values[:count], self.name, self.sha256)

    def floats(self) -> Tensor:
        """The values as a tensor, in the precision of the file."""
        return torch.from_numpy(np.array(self.values, dtype=self.values.dtype.newbyteorder("=")))

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
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises many kinds of errors for damaged headers
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise errors.BadFile(f"{path}: expected a complete .npy file, got a damaged one ({reason})") from None
    if values.dtype.kind != "f" or values.dtype.itemsize > 8 or values.ndim < 2:
        raise errors.BadFile(
            f"{path}: expected floating-point numbers (example, ...), got {values.dtype} of shape {values.shape}"
        )
    return Observations(values, path.name, files.sha256(path))
