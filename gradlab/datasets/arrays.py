"""Observations of one's own: an array (example, ...) in a .npy file, whatever it holds. Nothing is unpickled."""

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
    """Floating-point `values` (example, ...), in the file until they are used, and where they come from."""

    values: np.ndarray
    name: str
    sha256: str  # of the file

    def __len__(self) -> int:
        return len(self.values)

    def first(self, count: int) -> Observations:
        """The first `count` observations; ValueError if there are fewer."""
        count = errors.whole_number("images", count, 1)
        if count > len(self):
            raise ValueError(f"images: got {count}; {self.name} has {len(self)}")
        return Observations(self.values[:count], self.name, self.sha256)

    def floats(self) -> Tensor:
        """As a tensor, in the precision of the file."""
        return torch.from_numpy(np.array(self.values, dtype=self.values.dtype.newbyteorder("=")))

    def described(self) -> dict[str, str]:
        """Attributes that tell a result what it was measured on."""
        return {"data": f"{self.name}, first {len(self)}", "data_sha256": self.sha256}


def load_array(path: str | Path) -> Observations:
    """Observations from a file of numpy.save.

    Raises BadFile (a ValueError) for a file that is cut short, of another kind, or holds anything but floating-point
    numbers (example, ...); FileNotFoundError for none.

    Examples
    --------
    >>> np.save("x.npy", np.random.default_rng(0).normal(size=(10, 3)))
    >>> gradlab.datasets.load_array("x.npy").values.shape
    (10, 3)
    """
    path = errors.present(path, "file of observations")
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise errors.BadFile(f"{path}: no .npy file; numpy.save writes one")
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # what numpy raises at damaged headers is no closed list
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise errors.BadFile(f"{path}: no whole .npy file ({reason})") from None
    if values.dtype.kind != "f" or values.dtype.itemsize > 8 or values.ndim < 2:
        raise errors.BadFile(
            f"{path}: holds {values.dtype} of shape {values.shape}; floating-point numbers (example, ...) are needed"
        )
    return Observations(values, path.name, files.sha256(path))
