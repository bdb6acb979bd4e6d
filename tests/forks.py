"""What may end its process, or is about its limits, runs in a fork of it: a new one loads torch for two seconds."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable


def ended(call: Callable[[], object]) -> tuple[int, str]:
    """How a forked process ends that runs `call`: its exit code, -N of signal N, and what `call` returned, as text."""
    ours, theirs = os.pipe()
    if not (child := os.fork()):
        code = 1
        try:
            os.write(theirs, str(call()).encode())
            code = 0
        except BaseException:
            os.write(theirs, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said
