"""Files that are whole or not there: write beside the target, flush to disk, rename; and checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the system reports these without a name


@contextlib.contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """A temporary path in the target's folder that becomes `path` if the block ends well, else is removed.

    OSError where it cannot be written, with the target's name in it.
    """
    path = writable(path)
    # a name of full length leaves no room for what mkstemp adds
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".part", dir=path.parent)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o666 & ~umask)  # mkstemp gives 0600
        os.replace(aside, path)
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        aside.unlink(missing_ok=True)


def writable(path: str | Path) -> Path:
    """`path`, its folder made; OSError where no file can be there."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: a folder; give the name of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
