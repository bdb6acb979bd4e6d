"""README.md and docs/*.md: what they run runs, what they show is what is printed, and what they name is there."""

import re

import click
import pytest

from . import pages
from .pages import ROOT

PAGES = {path.relative_to(ROOT): path.read_text() for path in pages.pages()}
TEXT = "\n".join(PAGES.values())
CODE = "\n".join(match[0] for match in re.finditer(r"^```.*?^```$|`[^`\n]+`", TEXT, re.MULTILINE | re.DOTALL))
RUNNING = [page for page, text in PAGES.items() if pages.shown(text)]


@pytest.mark.filterwarnings("ignore:decoder. expected one that runs in float64 too")  # a section of own-model.md
@pytest.mark.parametrize("page", RUNNING, ids=str)
def test_pages_run_and_show_what_is_printed(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for one, printed in pages.run(ROOT / page):
        if one.output is not None:
            assert pages.difference(one.output, printed) is None, one.source
    for path, name in pages.FIGURE.findall(PAGES[page]):
        assert (tmp_path / name).is_file(), f"no block writes {name}"
        assert (ROOT / page.parent / path).is_file(), path


def test_pages_run_something():
    blocks = [one for text in PAGES.values() for one in pages.shown(text)]
    assert sum(one.kind == "python" for one in blocks) > 25
    assert sum(one.kind == "console" for one in blocks) > 5
    assert all(one.output and one.output.strip() for one in blocks if one.kind == "console")


@pytest.mark.parametrize("command", sorted({line for text in PAGES.values() for line in pages.listed(text)}))
def test_commands_that_are_not_run_have_these_options(command):
    pages.check_options(command)


@pytest.mark.parametrize("command", ["gradlab bais", "gradlab bias --tf", "gradlab train vae --epochs none"])
def test_options_are_really_checked(command):
    with pytest.raises(click.UsageError):
        pages.check_options(command)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_numbers_in_prose_have_an_origin(page):
    assert pages.untied(PAGES[page]) == []


PROSE = """# Bias
The bias is {text} here.

<!-- numbers
{text} = value
-->
"""


@pytest.mark.parametrize(
    ("text", "value", "alike"),
    [
        ("0.96", "0.958", True),
        ("0.87", "0.958", False),
        ("96 %", "0.958", True),
        ("87 %", "0.958", False),
        ("1.2 [1.1, 1.3]", "[1.21, 1.09, 1.31]", True),
        ("1.2 [1.1, 1.3]", "[1.21, 1.09, 1.51]", False),
        ("-2e-5", "-2.1e-5", True),
        ("-2e-5", "2.1e-5", False),
    ],
)
def test_numbers_in_prose_are_compared_with_their_expressions(text, value, alike, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"```python\nvalue = {value}\n```\n\n" + PROSE.format(text=text))
    assert pages.untied(page.read_text()) == []
    (_, _), (claim, printed) = pages.run(page)
    assert (pages.difference(claim.output, printed) is None) == alike


@pytest.mark.parametrize(
    ("prose", "untied"),
    [
        ("The bias is 0.87.", ["0.87"]),
        ("The bias is 87 %.", ["87 %"]),
        ("It is 1 [0, 2].", ["1 [0, 2]"]),
        ("It is 2e-5, and so are 3 of 4,096.", ["2e-5"]),
        ("In section 5.2 of arXiv 2410.13331 and in `0.5` of code: a 95 % interval.", []),
        ("At tb = 1.3.\n\n```python\nmeasure(tb=1.3)\n```", []),
        ("It takes 3.1 s.\n\n<!-- measured: gradlab bias -->", []),
        ("At most 2 %.\n\n<!-- given: 2 % -->", []),
        ("It is 0.5.\n\n<!-- numbers\n0.6 = 0.6\n-->", ["0.6: claimed, and not in the prose", "0.5"]),
        ("# One\nIt is 0.5.\n\n# Two\n<!-- measured: gradlab bias -->", ["0.5"]),
    ],
)
def test_numbers_without_an_origin_are_found(prose, untied):
    assert pages.untied(prose + "\n") == untied


SHOWN = "tf  bias\n1.0  0.8618 [0.8436, 1.2e-4]\n...\nwrote 1,024 lines\n"


@pytest.mark.parametrize(
    ("printed", "alike"),
    [
        ("tf  bias\n1.0  0.8618 [0.8436, 1.2e-4]\nwrote 1,024 lines\n", True),
        ("tf bias\n\n1.0  0.8700 [0.8436, 1.3e-4]\nmore\nand more\nwrote 1,030 lines\n", True),
        ("tf  bias\n1.0  0.9000 [0.8436, 1.2e-4]\nwrote 1,024 lines\n", False),
        ("tf  bias\n1.0  -0.8618 [0.8436, 1.2e-4]\nwrote 1,024 lines\n", False),
        ("tf  bias\n1.0  0.8618 [0.8436, 1.4e-4]\nwrote 1,024 lines\n", False),
        ("tf  variance\n1.0  0.8618 [0.8436, 1.2e-4]\nwrote 1,024 lines\n", False),
        ("tf  bias\n1.0  0.8618 [0.8436, 1.2e-4]\n", False),
        ("", False),
    ],
)
def test_what_counts_as_printed(printed, alike):
    assert (pages.difference(SHOWN, printed) is None) == alike


def test_a_line_too_many_is_found():
    assert pages.difference("one\n", "one\ntwo\n") is not None


def test_pictures_and_pages_named_are_there():
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("http") or (ROOT / page.parent / target).is_file(), (page, target)


def test_commands_named_exist():
    from gradlab.cli.main import cli

    for command in set(re.findall(r"(?:`|^|^\$ )gradlab ([a-z][a-z-]*)", CODE, re.MULTILINE)):
        assert command in cli.commands, command


def test_make_targets_named_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make (\w+)", CODE, re.MULTILINE)) <= targets


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
