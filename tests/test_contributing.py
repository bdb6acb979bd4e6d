"""What CONTRIBUTING.md and its neighbours say of versions, pictures and files is so."""

import re
import tomllib

import pytest

import gradlab

from . import layers, recipes
from .imports import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
RECIPES = {recipe.name: recipe for recipe in recipes.recipes(PAGE)}


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]
    logged = re.search(r"^## \[(\d\S*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert {project, cited, logged} == {gradlab.__version__}


def test_the_picture_of_the_layers_is_that_of_the_imports():
    drawn = layers.drawn(layers.units())
    assert layers.PICTURE.read_text() == drawn, "run `python -m tests.layers`, which draws it anew"


def test_what_is_drawn():
    edges = {"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": {"b"}}
    assert layers.rows(edges) == [["c"], ["b"], ["a", "d"]]
    assert layers.reduced(edges) == {"a": {"b"}, "b": {"c"}, "c": set(), "d": {"b"}}


def test_files_that_the_page_names_are_there():
    named = re.findall(r"`((?:tests|docs|gradlab|cli|analyses)/[\w/.-]+\.\w+)`", PAGE)
    assert len(named) > 5
    made = {name for recipe in RECIPES.values() for name, _ in recipe.files}
    assert [name for name in named if not (ROOT / name).is_file() and name not in made] == []


# --- recipes ---


def test_every_recipe_is_told_with_what_it_changes_and_a_test():
    assert set(RECIPES) >= {"A network", "A data set", "An option", "An analysis"}
    for recipe in RECIPES.values():
        assert recipe.files or recipe.changes, recipe.name
        assert recipe.commands, recipe.name
        for name, diff in recipe.changes:
            recipes.changed((ROOT / name).read_text(), diff)
        for command in recipe.commands:
            assert [name for name in re.findall(r"tests/\S+\.py", command) if not (ROOT / name).is_file()] == []


def test_a_change_to_lines_that_are_not_there_is_refused():
    assert recipes.changed("a\nb\n", " a\n+c\n") == "a\nc\nb\n"
    assert recipes.changed("a\nb\n", "-b\n+c\n") == "a\nc\n"
    with pytest.raises(ValueError, match="got them 0 times"):
        recipes.changed("a\n", " b\n+c\n")
    with pytest.raises(ValueError, match="got them 2 times"):
        recipes.changed("a\na\n", " a\n+c\n")


@pytest.mark.deep
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_works_when_followed(name, tmp_path):
    recipes.follow(RECIPES[name], tmp_path)
    for command in ["ruff check .", *RECIPES[name].commands]:
        done = recipes.run(command, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
