"""Help: every option explained, every command with an example that parses."""

import json
import re
import shlex
import subprocess
import sys

import click
import pytest
from gradlab.cli.main import cli

import gradlab

NOT_OPTIONS = {"help", "version"}  # click's own


def commands(group=cli, path=()):
    """(path, command) of the group, its commands and theirs."""
    yield path, group
    for name, below in getattr(group, "commands", {}).items():
        yield from commands(below, (*path, name))


PATHS = [path for path, _ in commands()]
every_command = pytest.mark.parametrize(
    ("path", "command"), list(commands()), ids=[" ".join(path) or "gradlab" for path in PATHS]
)


def examples(text):
    return [line.strip() for line in text.splitlines() if re.match(r"\s+gradlab \w", line)]


def parse(arguments, command=cli, name="gradlab", above=None):
    """What click makes of arguments, down to the last subcommand; nothing is run."""
    with command.make_context(name, list(arguments), parent=above) as context:
        if isinstance(command, click.Group):
            below, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            parse(rest, found, below, context)


def test_the_commands_of_the_interface_are_there():
    wanted = [("bias",), ("train", "vae"), ("plot",), ("show",), ("estimators",), ("data", "list")]
    assert {*wanted, ("data", "fetch"), ("data", "check")} <= set(PATHS)


@every_command
def test_help_has_an_example_that_parses(run, path, command):
    ran = run(*path, "--help")
    assert ran.code == 0
    assert ran.err == ""
    found = examples(ran.out)
    assert any(shlex.split(line)[1 : 1 + len(path)] == list(path) for line in found)
    for line in found:
        parse(shlex.split(line)[1:])


def test_an_example_that_does_not_parse_would_be_noticed():
    with pytest.raises(click.UsageError, match="frobnicate"):
        parse(["bias", "--frobnicate"])
    with pytest.raises(click.UsageError, match="nosuch"):
        parse(["data", "nosuch"])


@every_command
def test_every_option_is_explained(path, command):
    options = [p for p in command.params if isinstance(p, click.Option) and p.name not in NOT_OPTIONS]
    assert [p.name for p in options if not p.help] == []


def test_json_is_there_wherever_figures_are_reported():
    single = ["bias", "gap", "show", "estimators", "check-estimator"]
    reporting = [*((name,) for name in single), ("train", "vae"), ("train", "binary-ae"), ("data", "list")]
    for path, command in commands():
        if path in reporting:
            assert "--json" in [name for p in command.params for name in p.opts]


def test_no_help_imports_torch():
    """In one process: what any --help imports stays imported."""
    script = (
        "import json, sys\n"
        "from gradlab.cli.main import main\n"
        "for path in json.loads(sys.argv[1]): main([*path, '--help'])\n"
        "print('|'.join(['loaded', *sys.modules]))"
    )
    ran = subprocess.run([sys.executable, "-c", script, json.dumps(PATHS)], capture_output=True, text=True, check=True)
    assert ran.stdout.count("Usage: gradlab") == len(PATHS)
    loaded = ran.stdout.splitlines()[-1].split("|")
    assert "gradlab.cli.bias" in loaded
    assert not {"torch", "xarray", "numpy", "matplotlib"} & set(loaded)


def test_the_version(run):
    assert gradlab.__version__ in run("--version").out


@pytest.mark.parametrize("path", [(), ("data",), ("train",)], ids=" ".join)
def test_a_group_alone_shows_its_help(run, path):
    ran = run(*path)
    assert "Usage: gradlab" in ran.out + ran.err
    assert not ran.err.startswith("gradlab: ")
