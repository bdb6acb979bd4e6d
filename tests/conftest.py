"""Shared by all tests: few threads, since the tensors are small and tests run side by side; the command line."""

from typing import NamedTuple

import pytest
import torch

torch.set_num_threads(1)


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Runs the command line in this process, in an empty folder."""
    from gradlab.cli.main import main

    monkeypatch.chdir(tmp_path)

    def run_it(*arguments):
        capsys.readouterr()
        code = 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as ended:
            code = ended.code
        return Ran(code, *capsys.readouterr())

    return run_it
