"""The table of known data sets: every entry is whole, and named wherever a user looks for it."""

import re

import pytest

from gradlab import choices, datasets
from gradlab.datasets.sources import LAYOUTS


@pytest.mark.parametrize("name", sorted(datasets.SOURCES))
def test_an_entry_is_whole(name):
    source = datasets.SOURCES[name]
    assert source.layout in LAYOUTS
    assert re.fullmatch(r"https?://\S+/", source.url)  # a folder, to which the file's name is added
    assert set(source.sha256) == set(source.counts) == set(datasets.SPLITS)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in source.sha256.values())
    assert all(isinstance(count, int) and count > 0 for count in source.counts.values())
    assert source.credit


def test_every_name_is_told():
    """By the docstring of `load`, and to the shell's completion, which must not import the library."""
    assert [name for name in datasets.names() if f'"{name}"' not in datasets.load.__doc__] == []
    assert sorted(choices.DATA_SETS) == datasets.names()
