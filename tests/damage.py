"""Damage to a valid file, drawn by hypothesis; and how often, in the default tests and in the deep ones."""

import os
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]


def examples(count):
    """The same examples each time, nothing kept on disk; no deadline, since the machine may be busy."""
    return settings(max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=QUIET)


@st.composite
def damaged(draw, content, most=4):
    """The content with up to `most` places flipped, overwritten, deleted, filled in, copied elsewhere, or cut off."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, max(len(found) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "number", "delete", "insert", "copy", "cut"]))
        if kind == "flip":
            found[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "number":
            width = draw(st.sampled_from([2, 4, 8]))
            value = draw(st.sampled_from([0, 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1, len(found) % 2**16]))
            found[at : at + width] = value.to_bytes(width, draw(st.sampled_from(["little", "big"])))
        elif kind == "delete":
            del found[at : at + draw(st.integers(1, 64))]
        elif kind == "insert":
            found[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif kind == "copy":
            from_ = draw(st.integers(0, max(len(found) - 1, 0)))
            piece = found[from_ : from_ + 16]
            found[at : at + len(piece)] = piece
        else:
            del found[at:]
    return bytes(found)


def one_line(error, path):
    message = str(error)
    assert message.strip()
    assert "\n" not in message
    assert len(message) < 1000
    assert os.fspath(path) in message


def overwrite(path, content):
    Path(path).write_bytes(content)
