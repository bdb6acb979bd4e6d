"""The gallery: each block of the page is a file that runs by itself, under the question that it answers."""

import re
import subprocess
import sys

import pytest

from .imports import ROOT

FILES = {path.stem: path.read_text() for path in sorted((ROOT / "examples" / "gallery").glob("[a-z]*.py"))}
PAGE = (ROOT / "docs" / "gallery.md").read_text()
SECTIONS = dict(section.split("\n", 1) for section in PAGE.split("\n## ")[1:])


def test_each_section_has_a_file():
    assert len(FILES) >= 8
    assert sorted(SECTIONS) == sorted(text.split('"""')[1] for text in FILES.values())


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_the_block_of_its_question(name):
    """test_readme.py runs the blocks of the page, and with them the files."""
    question = FILES[name].split('"""')[1]
    (block,) = re.findall(r"```python\n(.*?)```", SECTIONS[question], re.DOTALL)
    assert block == FILES[name]
    assert f"](figures/gallery-{name}.png)" in SECTIONS[question]
    assert f'"gallery-{name}.png"' in block


@pytest.mark.deep
@pytest.mark.parametrize("name", FILES)
def test_a_file_runs_in_a_process_of_its_own(name, tmp_path):
    """A page's blocks share what earlier ones imported."""
    path = ROOT / "examples" / "gallery" / f"{name}.py"
    ran = subprocess.run([sys.executable, "-W", "error", path], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert [one.name for one in tmp_path.iterdir()] == [f"gallery-{name}.png"]
