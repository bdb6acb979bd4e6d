"""CIFAR-10, the binary version: a .tar.gz that is read as a stream. Nothing is unpacked to disk or unpickled.

A batch is a file of records: one byte of label, then 3 x 32 x 32 bytes of pixels, channel by channel.
"""

from __future__ import annotations

import gzip
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from .. import errors
from . import bounded

FOLDER = "cifar-10-batches-bin"
BATCH = {
    "train": re.compile(rf"(?:\./)?{FOLDER}/data_batch_([1-9][0-9]?)\.bin"),
    "test": re.compile(rf"(?:\./)?{FOLDER}/(test_batch)\.bin"),
}
LOOKED_FOR = {"train": f"{FOLDER}/data_batch_1.bin", "test": f"{FOLDER}/test_batch.bin"}
SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32
MOST_CONTENT = 2**28  # bytes, decompressed; the published archive has 184 million
MOST_MEMBERS = 1000
MOST_BEHIND = 2**20  # bytes after the end mark; tar pads its last record to 10,240
BLOCK = 512  # bytes of a tar header; contents are padded to a multiple of it
WITHOUT_CONTENT = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
)
PYTHON_VERSION = "expected the binary version of CIFAR-10, got the Python version (pickles, which are not opened)"


def read(path: Path, split: str) -> Tensor:
    """Pixels `(example, 3, 32, 32)`, uint8, of the batches of a split, in the order of their numbers.

    Skips links and members with other names. Reads the whole stream, so that its checksum is tested. Raises BadFile for
    anything that is not such an archive.
    """
    called = str(path)
    batches: dict[int, Tensor] = {}
    pickles = False
    with open(path, "rb") as raw:
        if (begins := raw.read(2)) != bounded.GZIP:
            raise errors.BadFile(
                f"{called}: expected a .tar.gz archive, got {begins.hex(' ') or 'nothing'} as first bytes"
            )
        raw.seek(0)
        with bounded.unzipping(called), gzip.GzipFile(fileobj=raw) as content:
            for member, size in _members(called, content):
                number = _batch_number(member, split)
                if number is None:
                    pickles |= _pass_over(called, content, size)
                elif number in batches:
                    raise errors.BadFile(f"{called}: expected each batch once, got {member.name} twice")
                else:
                    batches[number] = _pixels(f"{called}: {member.name}", content, size)
    if not batches and pickles:
        raise errors.BadFile(f"{called}: {PYTHON_VERSION}")
    if not batches:
        raise errors.BadFile(
            f"{called}: expected {LOOKED_FOR[split]} of CIFAR-10's binary version, got an archive without it"
        )
    return torch.cat([batches[number] for number in sorted(batches)])


def _members(called: str, content: bounded.Stream) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Yields the header of each member and the size of its content, which the caller must read before the next one.

    tarfile's iteration allocates the memory that a header announces, so it is not used.
    """
    total = 0
    for _ in range(MOST_MEMBERS):
        member = _header(called, content)
        if member is None:
            if len(bounded.read(content, MOST_BEHIND + 1)) > MOST_BEHIND:
                raise errors.BadFile(
                    f"{called}: expected the end of the archive, got more than {MOST_BEHIND:,} further bytes"
                )
            return
        size = 0 if member.type in WITHOUT_CONTENT else member.size
        filling = -size % BLOCK
        total += BLOCK + size + filling
        if total > MOST_CONTENT:
            raise errors.BadFile(f"{called}: expected at most {MOST_CONTENT:,} bytes when unpacked, got more")
        yield member, size
        _pass_over(called, content, filling)
    raise errors.BadFile(f"{called}: expected at most {MOST_MEMBERS} members, got more")


def _header(called: str, content: bounded.Stream) -> tarfile.TarInfo | None:
    """The header of the next member, or None at the end mark."""
    block = bytes(bounded.read(content, BLOCK))
    if len(block) < BLOCK:
        raise errors.BadFile(f"{called}: expected a complete tar archive, got one that is cut short")
    if not any(block):
        return None
    try:
        member = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except tarfile.HeaderError as error:
        raise errors.BadFile(f"{called}: expected a tar archive, got damaged or other data ({error})") from None
    if member.size < 0:
        raise errors.BadFile(f"{called}: expected a size of 0 bytes or more for {member.name!r}, got {member.size}")
    return member


def _batch_number(member: tarfile.TarInfo, split: str) -> int | None:
    """The number of a batch of the split, or None for any other member."""
    found = BATCH[split].fullmatch(member.name)
    if found is None or member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        return None
    return int(found[1]) if split == "train" else 0


def _pass_over(called: str, content: bounded.Stream, size: int) -> bool:
    """Skips `size` bytes. Returns True if they look like a pickle."""
    left, pickle = size, False
    while left:
        piece = content.read(min(left, bounded.CHUNK))
        if not piece:
            raise errors.BadFile(f"{called}: expected a complete tar archive, got one that is cut short in a member")
        pickle |= left == size and _is_pickle(piece)
        left -= len(piece)
    return pickle


def _is_pickle(begins: bytes | bytearray) -> bool:
    return len(begins) > 1 and begins[0] == 0x80 and begins[1] <= 5


def _pixels(called: str, content: bounded.Stream, size: int) -> Tensor:
    """Pixels `(example, 3, 32, 32)` of one batch."""
    body = bounded.read(content, min(size, 2))
    if _is_pickle(body):
        raise errors.BadFile(f"{called}: {PYTHON_VERSION}")
    if size == 0 or size % RECORD:
        raise errors.BadFile(f"{called}: expected one or more records of {RECORD} bytes, got {size:,} bytes")
    body += bounded.read(content, size - len(body))
    if len(body) != size:
        raise errors.BadFile(f"{called}: expected {size:,} bytes, got {len(body):,}; the archive is cut short")
    records = torch.frombuffer(body, dtype=torch.uint8).reshape(-1, RECORD)
    foreign = torch.nonzero(records[:, 0] > 9)
    if len(foreign):
        record = int(foreign[0])
        raise errors.BadFile(f"{called}: expected labels 0 to 9, got {int(records[record, 0])} in record {record}")
    return records[:, 1:].reshape(-1, *SHAPE)  # reshape copies, because the labels lie between
