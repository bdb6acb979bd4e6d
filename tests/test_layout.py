"""How the house is built: imports point one way, public names are what they say, the package is whole."""

import ast
import functools
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gradlab

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "gradlab"
FOLDERS = {"gradlab.cli": ROOT / "cli", "gradlab.analyses": ROOT / "analyses", "gradlab.data": ROOT / "data"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def modules_in(folder, package):
    """{dotted name: path} of a folder's Python files; a package goes by the name of its folder."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = [*package.split("."), *path.relative_to(folder).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules_in(LIBRARY, "gradlab")
EVERYTHING = MODULES | {n: p for package, folder in FOLDERS.items() for n, p in modules_in(folder, package).items()}


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def import_statements(tree, inside_functions):
    """Import statements that run: those for type checkers are left out, those in functions if wanted."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif is_type_checking(node):
            yield from import_statements(ast.Module(node.orelse, []), inside_functions)
        elif inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from import_statements(node, inside_functions)


def imported(source, name, is_package, known=(), inside_functions=True):
    """Dotted names of the modules that a module's source imports; those `known` at full length."""
    found = set()
    for node in import_statements(ast.parse(source), inside_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        above = name.split(".")[: len(name.split(".")) - node.level + is_package] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        names = {f"{base}.{alias.name}" for alias in node.names}
        found |= names & set(known)
        if names - set(known):
            found.add(base)
    return found


@functools.cache
def imports(name, inside_functions=True):
    path = EVERYTHING[name]
    return imported(path.read_text(), name, path.stem == "__init__", EVERYTHING, inside_functions)


def within(name, *packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


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
    assert {"gradlab", "gradlab.errors", "gradlab.estimators.base", "gradlab.fidelity.metrics"} <= set(MODULES)
    assert {"gradlab.cli.main", "gradlab.analyses"} <= set(EVERYTHING)


# --- directions ---


@pytest.mark.parametrize("name", MODULES)
def test_the_library_knows_neither_command_line_nor_analyses(name):
    assert [found for found in imports(name) if within(found, "click", "gradlab.cli", "gradlab.analyses")] == []


REPORTS = [name for name in MODULES if within(name, "gradlab.reports")]  # stands above plots
PLOTS = [name for name in MODULES if within(name, "gradlab.plots")]


@pytest.mark.parametrize("name", sorted(set(EVERYTHING) - set(PLOTS)))
def test_only_plots_draws(name):
    assert [found for found in imports(name) if within(found, "matplotlib", "pylab", "seaborn")] == []


def test_plots_do_draw():
    assert len(PLOTS) > 1
    assert any(within(found, "matplotlib") for name in PLOTS for found in imports(name))


@pytest.mark.parametrize("name", PLOTS)
def test_plots_see_results_only(name):
    """Neither models nor what computes: of the library, errors, files, cautions, text and each other."""
    found = imports(name)
    assert [one for one in found if within(one, "torch", "scipy")] == []
    own = [one for one in found if within(one, "gradlab")]
    allowed = ("gradlab.errors", "gradlab.files", "gradlab.cautions", "gradlab.terminal", "gradlab.plots")
    assert [one for one in own if not within(one, *allowed)] == []


@pytest.mark.parametrize("name", sorted(set(MODULES) - {*PLOTS, *REPORTS, "gradlab"}))
def test_the_library_does_not_import_its_plots(name):
    assert [found for found in imports(name) if within(found, "gradlab.plots")] == []


@pytest.mark.parametrize("name", sorted(set(MODULES) - {*REPORTS, "gradlab"}))
def test_the_library_does_not_import_its_reports(name):
    assert [found for found in imports(name) if within(found, "gradlab.reports")] == []


CONFORMANCE = [name for name in MODULES if within(name, "gradlab.estimators.conformance")]


@pytest.mark.parametrize("name", [n for n in MODULES if within(n, "gradlab.estimators") and n not in CONFORMANCE])
def test_estimators_see_no_model(name):
    """Errors, the code space and each other is all an estimator needs; what tests them stands above the sampling."""
    own = [found for found in imports(name) if within(found, "gradlab")]
    allowed = ("gradlab.errors", "gradlab.latents", "gradlab.estimators")
    assert [found for found in own if not within(found, *allowed)] == []


PLAIN = [f"gradlab.fidelity.{name}" for name in ("metrics", "inversion", "jackknife", "coordinates")]


@pytest.mark.parametrize("name", PLAIN)
def test_metrics_are_plain_arrays(name):
    found = imports(name)
    assert any(within(one, "numpy") for one in found)
    assert [one for one in found if within(one, "torch", "xarray", "gradlab") and one not in PLAIN] == []


@pytest.mark.parametrize("name", [name for name in EVERYTHING if within(name, "gradlab.cli")])
def test_the_command_line_imports_the_library_only_when_a_command_runs(name):
    """So that `gradlab --help` answers at once; the version, in gradlab itself, is free."""
    early = [found for found in imports(name, inside_functions=False) if within(found, "gradlab")]
    assert [found for found in early if found != "gradlab" and not within(found, "gradlab.cli")] == []


def test_no_module_imports_itself_in_a_circle():
    """Neither at once nor by way of others; imports inside functions count."""
    edges = {name: {found for found in imports(name) if found in EVERYTHING} - {name} for name in EVERYTHING}
    edges["gradlab"] = set()  # imports by name when used: held to one way by what all others import
    assert circle(edges) is None


def circle(edges):
    """Some path that comes back to its start, None if there is none."""
    done = set()

    def visit(name, path):
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        found = next(filter(None, (visit(after, [*path, name]) for after in sorted(edges[name]))), None)
        done.add(name)
        return found

    return next(filter(None, (visit(name, []) for name in edges)), None)


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


FRESH = f"""
import importlib, sys, gradlab
import gradlab.errors
assert "torch" not in sys.modules
import gradlab.plots
assert "matplotlib.figure" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
for name in {sorted(MODULES)!r}: importlib.import_module(name)
for name in {PUBLIC!r}: assert callable(getattr(gradlab, name)), name
"""


def test_imports_in_a_process_of_their_own():
    """The package alone does not import torch, plots open no windows, and no module hides behind a public function.

    The last because an imported submodule becomes an attribute of its package.
    """
    ran = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert {"bias", "load", "save", "exact_gradient"} <= set(PUBLIC)
    assert not {f"gradlab.{name}" for name in PUBLIC} & set(EVERYTHING)


def public_callables():
    """Every public function and class of the package and of its public modules: (where, object)."""
    for name in gradlab.__all__:
        home = getattr(gradlab, name)
        if not inspect.ismodule(home):
            yield f"gradlab.{name}", home
            continue
        for inner, thing in vars(home).items():
            public = inner in home.__all__ if hasattr(home, "__all__") else not inner.startswith("_")
            if public and callable(thing) and getattr(thing, "__module__", "").startswith(home.__name__):
                yield f"gradlab.{name}.{inner}", thing


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


@pytest.mark.parametrize("name", PUBLIC)
def test_public_callables_name_the_errors_they_raise(name):
    assert names_errors(getattr(gradlab, name))


@pytest.mark.parametrize("where", [where for where, thing in FUNCTIONS.items() if raises_by_itself(thing)])
def test_functions_of_public_modules_name_the_errors_they_raise(where):
    assert names_errors(FUNCTIONS[where])


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


@pytest.mark.parametrize(
    ("package", "folder"), [("gradlab.data", FOLDERS["gradlab.data"]), ("gradlab.reports", LIBRARY / "reports")]
)
def test_bundled_files_are_packaged(package, folder):
    patterns = PROJECT["tool"]["setuptools"]["package-data"][package]
    bundled = [path for path in folder.iterdir() if path.is_file() and path.suffix != ".py"]
    assert bundled
    assert [path.name for path in bundled if not any(path.match(pattern) for pattern in patterns)] == []


def test_the_console_script_is_there():
    module, function = PROJECT["project"]["scripts"]["gradlab"].split(":")
    assert callable(getattr(importlib.import_module(module), function))
