"""Reads HDF5 files in another process first, to detect damaged files.

The HDF5 library hangs at some damaged files and crashes at others, and no check can exclude this in advance. So a
helper process receives paths and forks a child for each one, which reads the file with limited time and memory. A
system without `fork` (Windows) has no helper; there only the checks of `hdf5` protect the reader.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any, NoReturn

SECONDS = 0.5  # of CPU time, for a file without data
PER_VARIABLE = 0.02  # seconds; about four times what it takes
RATE = 2**25  # bytes of announced data per further second
MEMORY = 2**29  # bytes of additional address space for a file without data
COPIES = 4  # of the announced data that decoding may need at the same time

_START = f"import json, sys; sys.path = json.loads(sys.argv[1]); import {__name__} as here; here.serve()"
_CAN_FORK = hasattr(os, "fork")
_lock = threading.Lock()
_helper: subprocess.Popen[str] | None = None


def fault(path: str | Path) -> str:
    """The reason why a results file cannot be read, in one line, or "". Raises OSError if the helper does not start."""
    return str(_asked("fault", path)) if _CAN_FORK else ""


def attributes(path: str | Path) -> list[str] | None:
    """The names of an HDF5 file's attributes, those of groups not included; None if it cannot be read."""
    found = _asked("attributes", path) if _CAN_FORK else _attributes(str(path))
    return found if isinstance(found, list) else None  # a text: the library hangs or crashes


def _asked(what: str, path: str | Path) -> Any:
    with _lock:
        for _ in range(2):  # a second time if the helper was killed
            answer = _ask(json.dumps([what, os.path.abspath(path)]))
            if answer:
                return json.loads(answer)
            _end()
    raise OSError(f"{path}: cannot be checked, because the helper process does not start")


def _ask(question: str) -> str:
    """The answer of the helper, or "" if it has died."""
    global _helper
    if _helper is None:
        paths = json.dumps([os.path.abspath(p) for p in sys.path])
        _helper = subprocess.Popen(
            [sys.executable, "-I", "-c", _START, paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # the memory of other threads counts as that of the file; a temporary folder may have no locks
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "HDF5_USE_FILE_LOCKING": "FALSE"},
            cwd="/",
            start_new_session=True,  # so that Ctrl-C reaches only this process
            text=True,
        )
    assert _helper.stdin is not None
    assert _helper.stdout is not None
    try:
        _helper.stdin.write(question + "\n")
        _helper.stdin.flush()
        return _helper.stdout.readline()
    except BrokenPipeError:
        return ""
    except BaseException:  # Ctrl-C: otherwise this answer is taken for the next one
        _end()
        raise


@atexit.register
def _end() -> None:
    global _helper
    if _helper is not None:
        _helper.kill()
        with contextlib.suppress(BrokenPipeError):
            _helper.communicate()
    _helper = None


def _forget() -> None:
    """Resets the helper and the lock in a forked process, because they belong to the parent."""
    global _helper, _lock
    _helper, _lock = None, threading.Lock()


if _CAN_FORK:
    os.register_at_fork(after_in_child=_forget)


# --- in the helper process ---


def serve() -> None:
    """Answers each question on standard input with one line."""
    warnings.simplefilter("ignore")  # the process that asked warns: of a folder without locks, say
    _warm_up()
    try:
        for line in sys.stdin:
            what, path = json.loads(line)
            if end := _tried(path, what):
                _answer(end)
    except BrokenPipeError:  # the process that asked was killed
        os._exit(1)


def _tried(path: str, what: str = "fault") -> str:
    """Forks a child that reads the file. Returns the fault if the child ended without an answer, else ""."""
    child = os.fork()
    if not child:
        _child(path, what)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGPROF:
        return "expected a complete results file, got a corrupt one: reading timed out"
    return "expected a complete results file, got a corrupt one: the HDF5 library crashes" if code else ""


def _warm_up() -> None:
    """Reads numbers, strings and dates, so that all modules are imported before children are forked."""
    import numpy as np
    import xarray as xr

    from . import hdf5

    kinds = {"a": [1.0], "b": ["b"], "c": np.array(["2000-01-01"], "M8[ns]"), "d": [True]}
    with tempfile.NamedTemporaryFile(suffix=".h5") as file:
        ds = xr.Dataset({name: ("x", values) for name, values in kinds.items()}, {"x": [1.0]})
        ds.to_netcdf(file.name, engine="h5netcdf")
        hdf5.load(file.name)


def _answer(found: str | list[str] | None) -> None:
    print(json.dumps(found), flush=True)


def _attributes(path: str) -> list[str] | None:
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            return [str(name) for name in file.attrs]
    except Exception:  # of several kinds for damaged files
        return None


def _fault(path: str) -> str:
    from . import hdf5

    try:
        hdf5.load(path, _allow)
    except MemoryError:
        return "expected a results file, got one that takes more memory than its data"
    except Exception as error:
        return hdf5.first_line(error)
    return ""


def _child(path: str, what: str) -> NoReturn:
    """Reads the file and answers, unless the library hangs or crashes."""
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _allow(0, 0)
        found = _fault(path) if what == "fault" else _attributes(path)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _answer(found)
        os._exit(0)
    finally:
        os._exit(1)


def _address_space() -> int:
    """Bytes of address space of this process. Libraries such as Arrow reserve much more than they use."""
    import resource

    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # not Linux
        return MEMORY
    return pages * resource.getpagesize()


def _allow(size: int, variables: int) -> None:
    """Limits time and memory for this amount of data. CPU time is counted, so a busy machine does not matter."""
    import resource

    signal.setitimer(signal.ITIMER_PROF, SECONDS + PER_VARIABLE * variables + size / RATE)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = _address_space() + MEMORY + COPIES * size
    with contextlib.suppress(ValueError):  # a system without this limit
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
