"""Names are made of the words of docs/glossary.md: modules, public functions, parameters, options, dims, variables."""

import inspect
import json
import re

import click
import pytest
from gradlab.cli.main import cli

import gradlab

from . import problems
from .command_line import POINT
from .examples import public_callables
from .imports import EVERYTHING, ROOT

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "glossary.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| word")
]
REJECTED = {word.strip(): row[0] for row in ROWS for word in row[2].split(",")}


def modules():
    return [name.rpartition(".")[2] for name in EVERYTHING]


def parameters():
    found = []
    for where, thing in public_callables():
        found.append(where.rpartition(".")[2])
        signature = inspect.signature(thing) if not inspect.isclass(thing) or "__init__" in vars(thing) else None
        found += list(signature.parameters) if signature else []
    return found


def options(command=cli):
    names = [p.opts[-1].lstrip("-").replace("-", "_") for p in command.params if isinstance(p, click.Option)]
    for sub in getattr(command, "commands", {}).values():
        names += options(sub)
    return names


def dims_and_variables():
    p = problems.make("3x2-bernoulli-mlp")
    found = [
        gradlab.bias(p.model, p.x, draws=32, target="both", estimator=["ste", "rloo"]),
        gradlab.bias(p.model, p.x, draws=64, reference="rloo"),
        gradlab.bias(p.model, p.x, draws=32, wrt="encoder"),
        gradlab.gap(p.model, p.x, draws=4),
    ]
    return [str(name) for ds in found for name in (*ds.dims, *ds.variables)]


def keys(value):
    if isinstance(value, dict):
        return [*value, *(key for inner in value.values() for key in keys(inner))]
    return [key for inner in value for key in keys(inner)] if isinstance(value, list) else []


def test_keys_of_json_keep_to_the_glossary(run, checkpoint):
    found = set(keys(json.loads(run("bias", checkpoint, *POINT, "--json").out)))
    assert "metrics" in found
    assert {key: f"say {REJECTED[key]}" for key in found & REJECTED.keys()} == {}


@pytest.mark.parametrize("names", [modules, parameters, options, dims_and_variables])
def test_names_keep_to_the_glossary(names):
    found = set(names())
    assert len(found) > 10
    assert {name: f"say {REJECTED[name]}" for name in found & REJECTED.keys()} == {}


def test_a_rejected_name_would_be_noticed():
    assert REJECTED["shown"] == "progress"
    assert len(ROWS) > 20
    assert all(len(row) == 3 and all(row) for row in ROWS)


def test_no_word_is_both_taken_and_rejected():
    taken = {word for row in ROWS for word in re.split(r"[ ,]+", row[0])}
    assert taken & REJECTED.keys() == set()
