"""The Python of the README and of docs/ runs as written, and their commands exist."""

import re
import sys
import types
from pathlib import Path

import pytest

from gradlab.estimators import registry

ROOT = Path(__file__).parent.parent
PAGES = {path.relative_to(ROOT): path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))}
TEXT = "\n".join(PAGES.values())
BLOCKS = {
    f"{page}-{k}": block
    for page, text in PAGES.items()
    for k, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_python_blocks_run(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))  # what a block registers is forgotten
    module = types.ModuleType("block")
    monkeypatch.setitem(sys.modules, "block", module)  # where dataclasses look their types up
    exec(compile(block, "block", "exec"), module.__dict__)


def test_there_are_blocks():
    assert len(BLOCKS) == 7


def test_pictures_and_pages_named_are_there():
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("http") or (ROOT / page.parent / target).is_file(), (page, target)


def test_commands_named_exist():
    from gradlab.cli.main import cli

    for command in set(re.findall(r"(?:`|^)gradlab ([a-z][a-z-]*)", TEXT, re.MULTILINE)) - {"measures"}:
        assert command in cli.commands, command


def test_make_targets_named_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make (\w+)", TEXT, re.MULTILINE)) <= targets


def test_bundled_files_have_the_checksums_and_history_that_data_readme_gives():
    import gradlab
    from gradlab import files

    text = (ROOT / "data" / "README.md").read_text()
    names = {path.name for path in (ROOT / "data").iterdir() if path.suffix in (".safetensors", ".gz")}
    assert names == {"vae-8x4-mnist.safetensors", "binary-ae-mnist.safetensors", "mnist-sample.gz"}
    for name in names:
        assert files.sha256(ROOT / "data" / name) in text
    for model, epochs, shown in (("vae-8x4-mnist", 160, ".3f"), ("binary-ae-mnist", 30, ".6f")):
        about = gradlab.bundled(model).provenance
        assert about["settings"]["epochs"] == len(about["history"]["validation_loss"]) == epochs
        assert f"{about['history']['validation_loss'][-1]:{shown}}" in text
        assert about["data"]["images"] == 60000
    assert gradlab.datasets.load("mnist-sample").sha256 in text
