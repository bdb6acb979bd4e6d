"""Atomic writing of files (write to a temporary file, flush, rename), and checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors that the system reports without a file name
_SPECIAL = {stat.S_IFCHR: "device", stat.S_IFBLK: "device", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
_SPECIAL |= {stat.S_IFLNK: "symbolic link", stat.S_IFDIR: "folder"}


@contextlib.contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`. It is renamed to `path` if the block succeeds, else removed.

    If `path` is a symbolic link, its target is replaced. An existing file keeps its permissions. Raises OSError with
    the name of the target if the file cannot be written.
    """
    target = target_of(writable(path))
    _remove_leftovers(target)
    aside, mode, handle = _new_file(target)
    try:
        yield aside
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        aside.chmod(mode)  # the block may have put another file there
        _check_replaceable(target)  # again, because the block may take hours
        os.replace(aside, target)
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        aside.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def _new_file(target: Path) -> tuple[Path, int, int | None]:
    """A new empty file in the folder of `target`, the permissions for `target`, and a handle that locks the file."""
    aside = target.with_name(f"{_begin(target)}{secrets.token_hex(4)}.part")
    handle = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)  # the system applies the umask
    try:
        with contextlib.suppress(FileNotFoundError):
            aside.chmod(stat.S_IMODE(target.stat().st_mode))
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        if _lock(handle):
            return aside, mode, handle
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)  # Windows renames no open file
    return aside, mode, None


def _begin(target: Path) -> str:
    """How temporary files for `target` begin: shortened, to leave room for the suffix behind a name of any length."""
    return f".{target.name[:40]}."


def _lock(handle: int) -> bool:
    """Locks a file until it is closed or the process dies. False if another one has locked it, or without locks."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def _remove_leftovers(target: Path) -> None:
    """Removes temporary files of processes that were killed while they wrote `target`; they have no lock."""
    leftover = re.compile(re.escape(_begin(target)) + r"[0-9a-f]{8}\.part")
    with os.scandir(target.parent) as entries:
        found = [entry.path for entry in entries if leftover.fullmatch(entry.name) and entry.is_file()]
    for path in found:
        with contextlib.suppress(OSError):  # another process is faster, or the file is not ours
            handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                if _lock(handle):
                    os.unlink(path)
            finally:
                os.close(handle)


def writable(path: str | Path) -> Path:
    """The path, after its folder is created. Raises OSError if a file there cannot be created or replaced."""
    path = Path(path)
    target_of(path).parent.mkdir(parents=True, exist_ok=True)
    return path


def target_of(path: str | Path) -> Path:
    """The file that writing to `path` creates or replaces, with all symbolic links resolved.

    Raises OSError for a folder, a device, a pipe or a socket, and for circular links.
    """
    path = Path(path)
    _check_replaceable(path)
    target = Path(os.path.realpath(path))
    if path.exists() and not target.exists():  # a link of /proc to a file without a name
        raise OSError(f"{path}: expected the name of a file, got a link to a file without a name")
    return target


def _check_replaceable(path: Path) -> None:
    """Raises OSError unless `path` is a regular file or does not exist: renaming onto a device or a pipe removes it."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path}: expected the name of a file, got a folder")
    if not stat.S_ISREG(mode):
        raise OSError(f"{path}: expected the name of a file, got a {_SPECIAL.get(stat.S_IFMT(mode), 'special file')}")


def check_own(path: str | Path, kind: str) -> None:
    """Raises OSError unless `path` itself does not exist or is a regular file, which a `kind` may replace."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode):
            what = _SPECIAL.get(stat.S_IFMT(mode), "special file")
            raise OSError(f"{path}: expected no file or a {kind} of gradlab, got a {what}; move it away")


def remove(path: str | Path) -> None:
    """Removes a regular file, if there is one. Anything else with this name is kept."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISREG(os.lstat(path).st_mode):
            os.unlink(path)


@contextlib.contextmanager
def named_in_utf8(path: str | Path) -> Iterator[str]:
    """Yields the path or, if it is not UTF-8, another path of the same file, for libraries that accept only UTF-8."""
    try:
        yield os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        with open(path, "rb") as file:
            yield f"/dev/fd/{file.fileno()}"


def sha256(path: str | Path) -> str:
    """The sha256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
