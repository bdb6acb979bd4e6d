"""Image data sets (MNIST, Fashion-MNIST, CIFAR-10, SVHN, a bundled sample, your own files) and other observations."""

from .arrays import Observations, load_array
from .fetching import fetch
from .finding import default_folder, where
from .idx import read_idx, write_idx
from .loading import Check, Images, check, load
from .sources import IDX_FILES, SAMPLE, SOURCES, SPLITS, Source, names

__all__ = [
    "IDX_FILES",
    "SAMPLE",
    "SOURCES",
    "SPLITS",
    "Check",
    "Images",
    "Observations",
    "Source",
    "check",
    "default_folder",
    "fetch",
    "load",
    "load_array",
    "names",
    "read_idx",
    "where",
    "write_idx",
]
