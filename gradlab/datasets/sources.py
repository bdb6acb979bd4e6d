"""The known data sets: the names of their files, their addresses and their checksums."""

from __future__ import annotations

from dataclasses import dataclass

SPLITS = ("train", "test")
IDX_FILES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
# format: the possible names of a split's file in the order of search, the published name last
LAYOUTS: dict[str, dict[str, tuple[str, ...]]] = {
    "idx": {split: (name, f"{name}.gz") for split, name in IDX_FILES.items()},
    "svhn": {"train": ("train_32x32.mat",), "test": ("test_32x32.mat",)},
    "cifar10": dict.fromkeys(SPLITS, ("cifar-10-binary.tar.gz",)),
}


@dataclass(frozen=True)
class Source:
    """A known data set: the address of its files and the sha256 of the file of each split.

    For IDX files the sha256 is that of the decompressed content, for other layouts that of the file itself.
    """

    url: str
    sha256: dict[str, str]
    counts: dict[str, int]
    credit: str
    layout: str = "idx"

    def file(self, split: str) -> str:
        """The name under which a split's file is published."""
        return LAYOUTS[self.layout][split][-1]


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
    "cifar10": Source(
        "https://www.cs.toronto.edu/~kriz/",
        dict.fromkeys(SPLITS, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
        {"train": 50000, "test": 10000},
        "A. Krizhevsky, V. Nair, G. Hinton; no licence given, cite Krizhevsky 2009",
        "cifar10",
    ),
    "svhn": Source(
        "http://ufldl.stanford.edu/housenumbers/",
        {
            "train": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            "test": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        },
        {"train": 73257, "test": 26032},
        "Y. Netzer et al. 2011; for non-commercial use only",
        "svhn",
    ),
}
SAMPLE = "mnist-sample"  # the first 1,000 MNIST test images, shipped with the package


def names() -> list[str]:
    """Names of the data sets that `load` knows, sorted.

    Examples
    --------
    >>> "fashion-mnist" in gradlab.datasets.names()
    True
    """
    return sorted([*SOURCES, SAMPLE])
