"""Attributes of any content: a file is shown, or refused in one line that names it; nothing controls the terminal."""

import h5py
import numpy as np
import pytest

from .command_line import POINT, tiny
from .test_cli_terminals import CONTROL

VALUES = {
    "control": "a\x1b[31m\x07\x9b\r\u202e\tb\nc",
    "deep": "[" * 900 + "]" * 900,
    "deep objects": '{"a":' * 900 + "1" + "}" * 900,
    "bytes": np.bytes_(b"\xff\xfe\x00\x01"),
    "array": np.ones((2, 2)),
    "numbers": np.arange(4.0),
    "empty": np.zeros(0),
    "words": np.array(["a", "b\x1b"], dtype=h5py.string_dtype()),
    "nan": float("nan"),
    "negative": -1,
    "complex": 1 + 2j,
    "long": "x" * 60_000,
}


def altered(path, name, value, variable=None):
    """The file with another attribute."""
    with h5py.File(path, "r+") as file:
        owner = file[variable] if variable else file
        owner.attrs[name] = value


COMMANDS = (["show"], ["show", "--json"], ["plot", "--out", "a.png"], ["report", "--out", "a.html"])


def shown_or_refused(run, path, commands=COMMANDS):
    """With each command: the codes."""
    codes = []
    for command in commands:
        done = run(*command, path.name)
        assert done.code in (0, 1), done.err
        assert CONTROL.findall(done.out + done.err) == []
        assert "unforeseen" not in done.err
        if done.code:
            lines = [line for line in done.err.splitlines() if line]
            assert len(lines) == 1
            assert path.name in lines[0]
        codes.append(done.code)
    return codes


@pytest.fixture
def path(run, tmp_path):
    tiny("m.safetensors")
    assert run("bias", "m.safetensors", *POINT).code == 0
    return tmp_path / "bias.h5"


SOME = [("analysis", None), ("estimator", None), ("equal_cost", None), ("long_name", "cosine"), ("rank", "cosine")]
MORE = [("moments", None), ("draws", None), ("tf_fixed", None), ("units", "tf"), ("units", "exact_gradient")]
MORE += [("target", None), ("date", None), ("checkpoint", None), ("group_names", None), ("short_name", "cosine")]


def every_value(run, path, name, variable):
    content = path.read_bytes()
    for value in VALUES.values():
        path.write_bytes(content)
        altered(path, name, value, variable)
        shown_or_refused(run, path)


@pytest.mark.parametrize("value", ["bytes", "control", "deep"])
def test_an_attribute_of_any_content_is_shown_or_refused(run, path, value):
    altered(path, "estimator", VALUES[value])
    shown_or_refused(run, path, COMMANDS[:2])


@pytest.mark.deep
@pytest.mark.parametrize(("name", "variable"), SOME + MORE)
def test_attributes_of_any_content_are_shown_or_refused(run, path, name, variable):
    every_value(run, path, name, variable)


def test_an_array_for_a_word_is_refused_with_the_name_of_the_file(run, path):
    altered(path, "equal_cost", VALUES["array"])
    assert shown_or_refused(run, path, [["show"], ["report", "--out", "a.html"]]) == [1, 1]


def test_what_an_option_asks_in_vain_is_told_of_the_option(run, path):
    done = run("plot", "bias.h5", "--kind", "heatmap", "--variable", "relative_bia")
    assert "--variable: unknown name 'relative_bia'" in done.err
