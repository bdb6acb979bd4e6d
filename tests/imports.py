"""The modules of the package, and which of them import which, read from their source."""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "gradlab"
# of the estimators, what tests them: stands above the sampling
CONFORMANCE = ("gradlab.estimators.conformance",)
FOLDERS = {"gradlab.cli": ROOT / "cli", "gradlab.analyses": ROOT / "analyses", "gradlab.data": ROOT / "data"}


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
