"""What needs POSIX is imported where it is used: elsewhere everything imports, and all but sweeps works."""

import inspect
import subprocess
import sys

import gradlab

from .imports import EVERYTHING

POSIX_MODULES = ("fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "syslog")
POSIX_FUNCTIONS = (
    "fork",
    "forkpty",
    "register_at_fork",
    "fchmod",
    "fchown",
    "chown",
    "getloadavg",
    "getuid",
    "geteuid",
    "getpgid",
    "setpgrp",
    "setsid",
    "mkfifo",
    "sched_getaffinity",
    "statvfs",
    "uname",
    "nice",
)
PUBLIC = [name for name in gradlab.__all__ if not inspect.ismodule(getattr(gradlab, name))]
NAMES = sorted(name for name in EVERYTHING if name != "gradlab.__main__")

WITHOUT = f"""
# not ours, so imported as they are
import dask.distributed, h5netcdf, matplotlib.figure, rich.console, scipy.optimize, torch, xarray
import importlib, os, signal, sys
for name in {POSIX_MODULES!r}:
    sys.modules[name] = None
for name in {POSIX_FUNCTIONS!r}:
    if hasattr(os, name):
        delattr(os, name)
for name in ("setitimer", "pthread_sigmask", "SIGPROF", "SIGHUP"):
    delattr(signal, name)
for name in {NAMES!r}:
    importlib.import_module(name)
import gradlab
for name in {PUBLIC!r}:  # whatever is imported, none of them has become a module
    assert callable(getattr(gradlab, name)), name
"""

WORKING = """
import gradlab
model, x = gradlab.bundled("binary-ae-mnist"), gradlab.datasets.load("mnist-sample").first(2).floats()
ds = gradlab.gap(model, x, tf=1.0, tb=1.0, draws=2)
gradlab.save_results(ds, "gap.h5")
gradlab.save_results(ds, "gap.h5")
assert gradlab.open_results("gap.h5").identical(ds)
gradlab.save(model, "model.safetensors")
from gradlab.cli import main
main(["show", "gap.h5", "--json"])
from gradlab.sweeps.claims import claim
try:
    claim("a.lock")
except OSError as error:
    assert "a.lock: expected the file locks of Linux or macOS, got" in str(error)
else:
    raise AssertionError("a claim without locks")
"""


def test_without_posix_everything_imports_and_results_are_written_and_read(tmp_path):
    ran = subprocess.run([sys.executable, "-c", WITHOUT + WORKING], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert '"gap"' in ran.stdout


def test_python_m_gradlab_is_the_command_line(tmp_path):
    """In a process of its own, which ends with the command line's exit codes."""
    command = [sys.executable, "-m", "gradlab"]
    ran = subprocess.run([*command, "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("gradlab, version ")
    ran = subprocess.run([*command, "bais"], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "bais" in ran.stderr
