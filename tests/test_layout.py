"""How the house is built: imports point one way, public names are what they say, the package is whole."""

import ast
import functools
import importlib
import inspect
import re
import subprocess
import sys
import tomllib

import pytest

import gradlab

from .examples import public_callables
from .imports import CONFORMANCE, EVERYTHING, FOLDERS, LIBRARY, MODULES, ROOT, circle, imported, imports, within

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_imports_are_read_from_source():
    """What the tests below rest on."""
    source = (
        "import torch.nn as nn\n"
        "from typing import TYPE_CHECKING\n"
        "from . import errors, version\n"
        "from .base import Estimator\n"
        "from .. import latents\n"
        "if TYPE_CHECKING:\n    import click\n"
        "def late():\n    import matplotlib\n"
        "try:\n    import xarray\nexcept ImportError:\n    pass\n"
    )
    known = {"house.room.errors", "house.room.base", "house.latents"}
    own = {"house.room", "house.room.errors", "house.room.base", "house.latents"}
    others = {"torch.nn", "typing", "xarray"}
    assert imported(source, "house.room.chair", False, known) == own | others | {"matplotlib"}
    assert imported(source, "house.room", True, known, inside_functions=False) == own | others


def test_all_modules_are_looked_at():
    assert {"gradlab", "gradlab.errors", "gradlab.estimators.base", "gradlab.metrics.record"} <= set(MODULES)
    assert {"gradlab.cli.main", "gradlab.analyses"} <= set(EVERYTHING)


# --- directions ---


def offenders(names, forbidden, **options):
    """{module: what it imports though it must not}."""
    found = {name: sorted(filter(forbidden, imports(name, **options))) for name in names}
    return {name: wrong for name, wrong in found.items() if wrong}


def inside(*packages):
    """The modules of these packages."""
    there = [name for name in EVERYTHING if within(name, *packages)]
    assert there
    return there


def outside(allowed, of="gradlab"):
    """Whether a name is of the package `of`, and not of those allowed."""
    return lambda name: within(name, of) and not within(name, *allowed)


def test_offenders_are_found():
    found = offenders(inside("gradlab.estimators"), outside(["gradlab.latents", "gradlab.estimators"]))
    assert found["gradlab.estimators.registry"] == ["gradlab.errors", "gradlab.specs"]
    assert not outside(["gradlab.latents"])("torch")


def test_the_library_knows_neither_command_line_nor_analyses():
    """But for `python -m gradlab`, which is the command line."""
    above = ("click", "gradlab.cli", "gradlab.analyses")
    assert offenders(set(MODULES) - {"gradlab.__main__"}, lambda name: within(name, *above)) == {}


def test_only_plots_draws():
    def draws(name):
        return within(name, "matplotlib", "pylab", "seaborn")

    assert set(offenders(EVERYTHING, draws)) <= set(inside("gradlab.plots"))
    assert offenders(inside("gradlab.plots"), draws)


def test_plots_see_results_only():
    """Neither models nor what computes: of the library, errors, files, text, what files hold, and each other."""
    allowed = ("errors", "files", "outputs", "cautions", "terminal", "plots", "schema", "kinds", "attributes")
    allowed = tuple(f"gradlab.{module}" for module in (*allowed, "rounding"))
    assert offenders(inside("gradlab.plots"), outside(allowed)) == {}
    assert offenders(inside("gradlab.plots"), lambda name: within(name, "torch", "scipy")) == {}


def test_the_library_imports_neither_its_plots_nor_its_reports():
    """Reports stand above plots; `gradlab` itself imports both when they are used."""
    reports, plots = inside("gradlab.reports"), inside("gradlab.plots")
    below = set(MODULES) - {"gradlab", *reports}
    assert offenders(below - {*plots}, lambda name: name in plots) == {}
    assert offenders(below, lambda name: name in reports) == {}


def test_estimators_see_no_model():
    """Errors, the code space, numbers from keys, the form of a name and each other is all an estimator needs."""
    allowed = (
        "gradlab.errors",
        "gradlab.latents",
        "gradlab.k_hot",
        "gradlab.hashing",
        "gradlab.specs",
        "gradlab.estimators",
    )
    assert offenders(set(inside("gradlab.estimators")) - {*inside(*CONFORMANCE)}, outside(allowed)) == {}


def test_metrics_are_plain_arrays():
    plain = inside("gradlab.statistics", "gradlab.metrics")
    allowed = (*plain, "gradlab.errors")
    wrong = offenders(plain, lambda name: within(name, "torch", "xarray", "gradlab") and name not in allowed)
    assert wrong == {}


@pytest.mark.parametrize("name", ["gradlab.schema", "gradlab.kinds", "gradlab.attributes", "gradlab.metrics"])
def test_what_files_hold_is_known_without_torch_and_matplotlib(name):
    """By way of others too; `gradlab` itself imports when used."""
    reached, left = set(), {name}
    while left:
        reached |= left
        left = {found for one in left if one in EVERYTHING and one != "gradlab" for found in imports(one)} - reached
    assert "gradlab.metrics.record" in reached or name == "gradlab.attributes"
    assert [found for found in reached if within(found, "torch", "matplotlib", "gradlab.plots")] == []


def test_the_command_line_imports_at_once_only_what_needs_no_torch():
    """So that `gradlab --help` answers at once: choices, methods, settings, the registry of analyses."""
    heavy = ("torch", "numpy", "xarray", "scipy", "matplotlib", "h5py")
    found = {name: [one for one in reached(name) if within(one, *heavy)] for name in inside("gradlab.cli")}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@functools.cache
def reached(name):
    """All that importing a module imports, packages on the way left out."""
    found, ahead = set(), [name]
    while ahead:
        new = imports(ahead.pop(), inside_functions=False) - found
        found |= new
        ahead += [one for one in new if one in EVERYTHING]
    return found


def test_what_an_import_reaches_would_be_noticed():
    assert "torch" in reached("gradlab.exact")
    assert "gradlab.choices" in reached("gradlab.cli.bias")


def test_no_module_imports_itself_in_a_circle():
    """Neither at once nor by way of others; imports inside functions count."""
    edges = {name: {found for found in imports(name) if found in EVERYTHING} - {name} for name in EVERYTHING}
    edges["gradlab"] = set()  # imports by name when used: held to one way by what all others import
    assert circle(edges) is None


def test_a_circle_would_be_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


# --- public names ---


def test_every_public_name_is_there():
    assert len(set(gradlab.__all__)) == len(gradlab.__all__)
    for name in gradlab.__all__:
        assert getattr(gradlab, name) is not None
    assert dir(gradlab) == sorted(gradlab.__all__)
    with pytest.raises(AttributeError, match="nosuch"):
        gradlab.nosuch  # noqa: B018  (the look-up is what is tested)


def test_the_fixed_surface_is_public():
    """Names that notebooks and scripts elsewhere call."""
    functions = {
        "LatentModel",
        "save",
        "load",
        "bundled",
        "exact_gradient",
        "bias",
        "decoupled_st_gumbel_softmax",
    }
    assert functions | {"save_results", "open_results", "estimators", "plots"} <= set(gradlab.__all__)
    for name in ("estimators.get", "estimators.names", "plots.bias_trends", "plots.heatmap"):
        module, function = name.split(".")
        assert callable(getattr(getattr(gradlab, module), function))


PUBLIC = [name for name in gradlab.__all__ if not inspect.ismodule(getattr(gradlab, name))]


FRESH = """
import sys, gradlab
import gradlab.errors
assert "torch" not in sys.modules
import gradlab.plots
assert "matplotlib.figure" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
from gradlab import networks, stacks
import torch
taken, own = [], stacks.Stack.by_jacobians
stacks.Stack.by_jacobians = lambda self, passed: taken.append(1) or own(self, passed)
model = networks.build('categorical-vae', {'latents': 3, 'categories': 4, 'hidden': [8, 8]}, seed=0)
gradlab.bias(model, torch.rand(40, 1, 28, 28), [0.5, 1, 2], [0.5, 1])
assert taken
assert "torch.nn" in sys.modules
assert not {"torch.distributed.tensor", "torch._dynamo", "sympy"} & {*sys.modules}
assert gradlab.recommend and gradlab.gap
assert "scipy.stats" not in sys.modules
"""


def test_imports_in_a_process_of_their_own():
    """The package alone does not import torch, plots open no windows, and a first measurement loads neither what
    torch's forward mode needs, two seconds of imports, nor scipy.stats, half a second.

    The measurement is a grid of an untrained model, whose decoder's derivatives are by Jacobians.
    """
    ran = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_no_module_has_the_name_of_a_public_function():
    """An imported submodule becomes an attribute of its package."""
    assert {"bias", "load", "save", "exact_gradient"} <= set(PUBLIC)
    assert not {f"gradlab.{name}" for name in PUBLIC} & set(EVERYTHING)


def raises_by_itself(thing):
    """Whether its own source raises, or calls the validation of `errors`."""
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(thing)))
    checks = {"temperature", "temperatures", "whole_number", "finite", "choice"}
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any(isinstance(node, ast.Raise) for node in ast.walk(tree)) or any(
        call in {f"errors.{name}" for name in checks} for call in calls
    )


def names_errors(thing):
    text = inspect.getdoc(thing) or ""
    return "Raises" in text or "Error" in text


FUNCTIONS = {where: thing for where, thing in public_callables() if where.count(".") > 1 and inspect.isfunction(thing)}


def test_public_callables_name_the_errors_they_raise():
    assert [name for name in PUBLIC if not names_errors(getattr(gradlab, name))] == []
    raising = {where: thing for where, thing in FUNCTIONS.items() if raises_by_itself(thing)}
    assert raising
    assert [where for where, thing in raising.items() if not names_errors(thing)] == []


def test_a_function_that_raises_unannounced_would_be_noticed():
    def quiet(x):
        """Says nothing."""
        raise ValueError(x)

    assert raises_by_itself(quiet)
    assert not names_errors(quiet)
    assert not raises_by_itself(names_errors)


# --- packaging ---


def test_one_version():
    assert PROJECT["project"]["version"] == gradlab.__version__


def test_no_text_installs_the_project_of_another_name():
    """`gradlab` on the package index belongs to somebody else."""
    own = PROJECT["project"]["name"]
    assert own == "gradlab-fidelity"
    folders = [ROOT, *(ROOT / name for name in ("cli", "gradlab", "analyses", "data", "docs", "examples"))]
    kinds = (".py", ".md", ".toml", ".txt", ".yml")
    paths = [path for folder in folders for path in (folder.glob("*") if folder == ROOT else folder.rglob("*"))]
    lines = [line for path in paths if path.suffix in kinds for line in path.read_text().splitlines()]
    assert any("pip install" in line for line in lines)
    installs = re.compile(r"pip3? install[^`#]*\bgradlab\b(?!-fidelity)|\bgradlab\[")
    assert [line for line in lines if installs.search(line)] == []
    extras = [name for needed in PROJECT["project"]["optional-dependencies"].values() for name in needed]
    assert all(name.startswith(own) for name in extras if name.startswith("gradlab"))


def test_every_folder_with_code_is_packaged():
    """What is missing here works in an editable installation and is not in the wheel."""
    there = {name for name, path in EVERYTHING.items() if path.stem == "__init__"}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == there
    mapped = PROJECT["tool"]["setuptools"]["package-dir"]
    assert {name: ROOT / folder for name, folder in mapped.items()} == FOLDERS
    code = {path.parent for path in EVERYTHING.values()}
    assert [folder for folder in code if not (folder / "__init__.py").is_file()] == []


def test_bundled_files_are_packaged():
    for package, folder in {"gradlab.data": FOLDERS["gradlab.data"], "gradlab.reports": LIBRARY / "reports"}.items():
        patterns = PROJECT["tool"]["setuptools"]["package-data"][package]
        bundled = [path for path in folder.iterdir() if path.is_file() and path.suffix != ".py"]
        assert bundled
        assert [path.name for path in bundled if not any(path.match(pattern) for pattern in patterns)] == []


def test_the_console_script_is_there():
    module, function = PROJECT["project"]["scripts"]["gradlab"].split(":")
    assert callable(getattr(importlib.import_module(module), function))
