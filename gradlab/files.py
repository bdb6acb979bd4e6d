"""Files that are whole or not there: write beside the target, flush to disk, rename; and checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the system reports these without a name
_SPECIAL = {stat.S_IFCHR: "device", stat.S_IFBLK: "device", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
_SPECIAL |= {stat.S_IFLNK: "symbolic link", stat.S_IFDIR: "folder"}


@contextlib.contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """A temporary path in the target's folder that becomes `path` if the block ends well, else is removed.

    Behind a symbolic link the file that it points to is replaced; a file that was there keeps its permissions.
    OSError where it cannot be written, with the target's name in it.
    """
    target = target_of(writable(path))
    aside, mode = _new_file(target)
    try:
        yield aside
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        aside.chmod(mode)  # the block may have put another file there
        _check_replaceable(target)  # again: the block may have taken hours
        os.replace(aside, target)
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        aside.unlink(missing_ok=True)


def _new_file(target: Path) -> tuple[Path, int]:
    """An empty file beside `target`, and the permissions that `target` is to have."""
    # a name of full length leaves no room for what is added
    aside = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.part")
    handle = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)  # the system applies the umask
    try:
        with contextlib.suppress(FileNotFoundError):
            aside.chmod(stat.S_IMODE(target.stat().st_mode))
        return aside, stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)


def writable(path: str | Path) -> Path:
    """`path`, its folder made; OSError where no file can be there or what is there must not be replaced."""
    path = Path(path)
    target_of(path).parent.mkdir(parents=True, exist_ok=True)
    return path


def target_of(path: str | Path) -> Path:
    """The file that writing to `path` replaces or makes, behind all symbolic links.

    OSError for a folder, a device, a pipe or a socket, and for links that lead nowhere or in circles.
    """
    path = Path(path)
    _check_replaceable(path)
    target = Path(os.path.realpath(path))
    if path.exists() and not target.exists():  # a link of /proc to a file without a name
        raise OSError(f"{path}: leads to a file without a name; give the name of a file")
    return target


def _check_replaceable(path: Path) -> None:
    """OSError unless `path` is free or a regular file: renaming onto a device or a pipe removes it."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path}: a folder; give the name of a file")
    if not stat.S_ISREG(mode):
        raise OSError(f"{path}: a {_SPECIAL.get(stat.S_IFMT(mode), 'special file')}; give the name of a file")


def check_own(path: str | Path, kind: str) -> None:
    """OSError unless `path` itself is free or a regular file, which whoever makes a `kind` may remove."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode):
            what = _SPECIAL.get(stat.S_IFMT(mode), "special file")
            raise OSError(f"{path}: expected no file or a {kind} of gradlab, got a {what}; move it away")


def remove(path: str | Path) -> None:
    """Remove a regular file, if there is one; whatever else has its name stays."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISREG(os.lstat(path).st_mode):
            os.unlink(path)


@contextlib.contextmanager
def named_in_utf8(path: str | Path) -> Iterator[str]:
    """The path or, where its name is no UTF-8, another one to the same file, for libraries that take no other."""
    try:
        yield os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        with open(path, "rb") as file:
            yield f"/dev/fd/{file.fileno()}"


def sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
