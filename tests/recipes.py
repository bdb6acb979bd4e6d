"""The recipes of CONTRIBUTING.md, followed to the letter in a copy of the repository.

Of each section under "Recipes": blocks with a title `FILE` are written to that file; `diff` blocks with one change the
lines that they show; `sh` blocks hold the commands that must then pass.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from .imports import ROOT

COPIED = ("gradlab", "cli", "analyses", "data", "docs", "examples", "tests")
FENCE = re.compile(r'^( *)```(\w+)(?: title="([^"]+)")?\n(.*?)^\1```$', re.MULTILINE | re.DOTALL)
# an editable installation maps names to the folders of the repository, and here to those of the copy
REDIRECT = """
import sys
for module in list(sys.modules.values()):
    mapping = getattr(module, "MAPPING", None)
    if isinstance(mapping, dict) and "gradlab" in mapping:
        mapping.update({name: path.replace(ROOT, COPY, 1) for name, path in mapping.items()})
"""


@dataclass
class Recipe:
    name: str
    files: list[tuple[str, str]] = field(default_factory=list)
    changes: list[tuple[str, str]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


def recipes(text: str) -> list[Recipe]:
    """What the page tells to write, change and run, by section."""
    section = text.partition("\n## Recipes\n")[2].partition("\n## ")[0]
    found = []
    for part in section.split("\n### ")[1:]:
        recipe = Recipe(part.partition("\n")[0].strip())
        for _, language, title, body in FENCE.findall(part):
            source = textwrap.dedent(body)
            if language == "diff":
                recipe.changes.append((title, source))
            elif title:
                recipe.files.append((title, source))
            elif language == "sh":
                recipe.commands += source.splitlines()
        found.append(recipe)
    return found


def changed(text: str, diff: str) -> str:
    """The text with a change made. ValueError unless the lines it shows stand there exactly once."""
    lines = diff.splitlines()
    before = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
    after = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
    if text.count(before) != 1:
        raise ValueError(f"diff: expected these lines once, got them {text.count(before)} times:\n{before}")
    return text.replace(before, after)


def follow(recipe: Recipe, folder: Path) -> None:
    """Write and change the files of a copy in `folder`."""
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, folder)
    _redirect(folder).mkdir()
    (_redirect(folder) / "sitecustomize.py").write_text(f"ROOT, COPY = {str(ROOT)!r}, {str(folder)!r}\n{REDIRECT}")
    for name, source in recipe.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)
    for name, diff in recipe.changes:
        (folder / name).write_text(changed((folder / name).read_text(), diff))


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command of a recipe, in the copy, with this Python's programs."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {
        "PATH": programs,
        "PYTHONPATH": f"{_redirect(folder)}{os.pathsep}{folder}",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)


def _redirect(folder: Path) -> Path:
    """Beside the copy, so that it is none of its files."""
    return folder.with_name(f"{folder.name}-redirect")
