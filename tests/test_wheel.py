"""A wheel works where the repository is not: built, unpacked beside the dependencies, it measures."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import xarray

import gradlab

from .imports import ROOT

pytestmark = pytest.mark.deep
RUN = "from gradlab.cli import main; import sys; main(sys.argv[1:])"
WHERE = "import gradlab; print(gradlab.__file__)"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of the unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def ran(installed, folder, *arguments):
    """Python without the environment's own links to the repository: only what PYTHONPATH lists is imported."""
    dependencies = Path(xarray.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{installed}{os.pathsep}{dependencies}", "OMP_NUM_THREADS": "1"}
    python = getattr(sys, "_base_executable", sys.executable)
    command = [python, "-s", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_bias_runs_without_the_repository(installed, tmp_path):
    assert ran(installed, tmp_path, "-c", WHERE).stdout.startswith(str(installed))
    options = ["--tf", "1.6", "--tb", "1.3", "--images", "3", "--draws", "16", "--sweep", "none"]
    done = ran(installed, tmp_path, "-c", RUN, "bias", *options)
    assert done.returncode == 0, done.stderr
    assert gradlab.open_results(tmp_path / "bias.h5").sizes["example"] == 3
    assert ran(installed, tmp_path, "-c", RUN, "reproduce").returncode == 0
    assert ran(installed, tmp_path, "-c", RUN, "report", "bias.h5").returncode == 0


def test_its_extra_is_named(installed):
    (metadata,) = installed.glob("*.dist-info/METADATA")
    assert 'Requires-Dist: distributed>=2024; extra == "distributed"' in metadata.read_text()
    (entry,) = installed.glob("*.dist-info/entry_points.txt")
    assert "gradlab = gradlab.cli:main" in entry.read_text()
