"""CI runs every test: what is skipped for any other reason than no GPU, or being root, fails the run."""

import os
import subprocess
import sys

from .conftest import ALLOWED, unforeseen_skips
from .imports import ROOT

TESTS = """
import pytest
def test_passes():
    pass
@pytest.mark.skip(reason="needs a GPU")
def test_gpu():
    pass
"""
FORGOTTEN = (
    TESTS
    + """
@pytest.mark.skip(reason="no chromium in PATH")
def test_browser():
    pass
"""
)


def ended(tmp_path, tests, **environment):
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_some.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path)]
    clean = {name: value for name, value in os.environ.items() if name != "GRADLAB_NO_SKIPS"}
    done = subprocess.run(
        [*command, str(tmp_path)], env=clean | environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout


def test_an_unforeseen_skip_fails_the_run_of_ci(tmp_path):
    code, told = ended(tmp_path, FORGOTTEN, GRADLAB_NO_SKIPS="1")
    assert code == 1
    assert "test_browser: no chromium in PATH" in told
    assert "test_gpu: " not in told


def test_which_skips_are_foreseen():
    assert unforeseen_skips([("a", reason) for reason in ALLOWED]) == []
    assert unforeseen_skips([("a", "no browser")]) == ["a: no browser"]
    assert "GRADLAB_NO_SKIPS=1 make test" in (ROOT / ".ci" / "run").read_text()
