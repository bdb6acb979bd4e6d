"""The README's Python runs as written, and its commands exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_blocks_run(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})


def test_there_are_blocks():
    assert len(BLOCKS) == 3


def test_commands_named_exist():
    from gradlab.cli.main import cli

    for command in set(re.findall(r"gradlab ([a-z]+)", TEXT)) - {"measures"}:
        assert command in cli.commands, command


def test_make_targets_named_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make (\w+)", TEXT)) <= targets


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
