"""The command line. Commands parse, call the library and print; torch is imported only by the command that needs it."""

import signal
import sys
import threading
from typing import NoReturn


def _stop(*given: object) -> NoReturn:
    """Ctrl-C while modules are imported: the line and exit code of every interrupted command, and no traceback."""
    print("gradlab: interrupted", file=sys.stderr, flush=True)
    raise SystemExit(130)


_guarded = threading.current_thread() is threading.main_thread() and (
    signal.getsignal(signal.SIGINT) is signal.default_int_handler
)
if _guarded:
    signal.signal(signal.SIGINT, _stop)
try:
    from .main import main
finally:
    if _guarded:
        signal.signal(signal.SIGINT, signal.default_int_handler)

__all__ = ["main"]
