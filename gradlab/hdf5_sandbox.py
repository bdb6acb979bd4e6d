"""HDF5 files tried in another process before this one reads them.

The HDF5 library hangs at some damaged files and takes the process down at others, which no check beforehand can rule
out. So one helper process waits for paths, and forks for each a child that reads the file in limited time and memory.
A system without `fork` (Windows) has no such helper: there the checks of `hdf5` alone guard the reader.
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
from pathlib import Path
from typing import NoReturn

SECONDS = 0.5  # of computing, for a file without data
PER_VARIABLE = 0.02  # seconds; some four times what it takes
RATE = 2**25  # bytes of announced data for which another second is given
MEMORY = 2**29  # bytes of address space for a file without data, beyond what the process has
COPIES = 4  # of the announced data, that decoding may take at once

_START = f"import json, sys; sys.path = json.loads(sys.argv[1]); import {__name__} as here; here.serve()"
_CAN_FORK = hasattr(os, "fork")
_lock = threading.Lock()
_helper: subprocess.Popen[str] | None = None


def fault(path: str | Path) -> str:
    """Why a results file cannot be read, in one line; "" if it can. OSError where no helper can be started."""
    if not _CAN_FORK:
        return ""
    with _lock:
        for _ in range(2):  # a helper that somebody killed is replaced
            answer = _ask(os.path.abspath(path))
            if answer:
                return json.loads(answer)
            _end()
    raise OSError(f"{path}: cannot be tried, the helper process does not start")


def _ask(path: str) -> str:
    """The helper's line, "" if it has died."""
    global _helper
    if _helper is None:
        paths = json.dumps([os.path.abspath(p) for p in sys.path])
        _helper = subprocess.Popen(
            [sys.executable, "-I", "-c", _START, paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # whose memory would count as the file's
            cwd="/",
            start_new_session=True,  # Ctrl-C is for this process
            text=True,
        )
    assert _helper.stdin is not None
    assert _helper.stdout is not None
    try:
        _helper.stdin.write(json.dumps(path) + "\n")
        _helper.stdin.flush()
        return _helper.stdout.readline()
    except BrokenPipeError:
        return ""
    except BaseException:  # Ctrl-C: the answer would be taken for that to the next question
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
    """In a forked process: the helper, and a lock that another thread held, are the parent's."""
    global _helper, _lock
    _helper, _lock = None, threading.Lock()


if _CAN_FORK:
    os.register_at_fork(after_in_child=_forget)


# --- in the helper process ---


def serve() -> None:
    """Answer each path on standard input with a line, until there are no more."""
    _warm_up()
    for line in sys.stdin:
        if end := _tried(json.loads(line)):
            _answer(end)


def _tried(path: str) -> str:
    """How the child that reads the file ended, "" if it lived to answer."""
    child = os.fork()
    if not child:
        _child(path)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGPROF:
        return "no whole results file (reading it does not come to an end)"
    return "no whole results file (the HDF5 library crashes at it)" if code else ""


def _warm_up() -> None:
    """Read numbers, strings and dates, so that all that is imported for them is there before children are forked."""
    import numpy as np
    import xarray as xr

    from . import hdf5

    kinds = {"a": [1.0], "b": ["b"], "c": np.array(["2000-01-01"], "M8[ns]"), "d": [True]}
    with tempfile.NamedTemporaryFile(suffix=".h5") as file:
        ds = xr.Dataset({name: ("x", values) for name, values in kinds.items()}, {"x": [1.0]})
        ds.to_netcdf(file.name, engine="h5netcdf")
        hdf5.load(file.name)


def _answer(text: str) -> None:
    print(json.dumps(text), flush=True)


def _child(path: str) -> NoReturn:
    """Answers, unless the library hangs or crashes."""
    import resource

    from . import hdf5

    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _allow(0, 0)
        try:
            hdf5.load(path, _allow)
            found = ""
        except MemoryError:
            found = "no results file (reading it takes more memory than its data do)"
        except Exception as error:
            found = hdf5.first_line(error)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _answer(found)
        os._exit(0)
    finally:
        os._exit(1)


def _address_space() -> int:
    """Bytes that the process holds; libraries may reserve many times what they use (Arrow does, which pandas loads)."""
    import resource

    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # no Linux
        return MEMORY
    return pages * resource.getpagesize()


def _allow(size: int, variables: int) -> None:
    """The time and memory that so much data may take; computing is counted, so that a busy machine does not matter."""
    import resource

    signal.setitimer(signal.ITIMER_PROF, SECONDS + PER_VARIABLE * variables + size / RATE)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = _address_space() + MEMORY + COPIES * size
    with contextlib.suppress(ValueError):  # a system without this limit
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
