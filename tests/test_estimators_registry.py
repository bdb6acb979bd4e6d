"""Estimators by name: parsing, registration, entry points."""

import dataclasses
import inspect

import pytest

from gradlab import estimators
from gradlab.estimators import (
    Estimator,
    Relaxation,
    registry,
)

from .catalogue import NAMES


@pytest.mark.parametrize("bad", [None, 3, ["ste"]])
def test_names_that_are_no_text_are_refused(bad):
    for look_up in (estimators.get, estimators.find, estimators.parse):
        with pytest.raises(ValueError, match="estimator: unknown name"):
            look_up(bad)


def test_unknown_names_and_parameters_give_near_matches():
    with pytest.raises(ValueError, match="decoupled-st-gs"):
        estimators.get("decoupled-stgs")
    with pytest.raises(ValueError, match="convention"):
        estimators.get("st-gs", convetion="jang")
    with pytest.raises(ValueError, match="paper"):
        estimators.get("st-gs", convention="papr")


def test_parse_reads_the_command_lines_form():
    assert estimators.parse("st-gs:convention=jang,tb=0.5") == estimators.get("st-gs", convention="jang", tb=0.5)
    with pytest.raises(ValueError, match="key=value"):
        estimators.parse("st-gs:jang")


def test_a_name_can_be_registered_and_not_taken_twice():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Halved(Relaxation):
        name = "test-halved"
        formula = "v / 2"
        reference = "none"

        def estimate(self, kind, logits, noise, points, loss, derivative):
            return derivative[0] / 2

    try:
        estimators.register(Halved)
        assert estimators.get("test-halved", tb=2.0).tb == 2.0
        taken = dataclasses.make_dataclass("Other", [], bases=(Halved,), frozen=True, kw_only=True)
        with pytest.raises(ValueError, match="taken"):
            estimators.register(taken)
    finally:
        registry._CLASSES.pop("test-halved", None)


@pytest.mark.parametrize("bad", [3, dict, Estimator])
def test_only_estimators_can_be_registered(bad):
    with pytest.raises(ValueError, match=r"cls: expected|expected a name|expected a default"):
        estimators.register(bad)
    assert estimators.names() == NAMES


def test_register_refuses_what_cannot_be_listed():
    abstract = dataclasses.make_dataclass("Abstract", [], bases=(Estimator,), frozen=True, kw_only=True)
    with pytest.raises(ValueError, match="Abstract: expected a name"):
        estimators.register(abstract)
    abstract.name = "test-abstract"
    with pytest.raises(ValueError, match=r"Abstract: expected a default for every parameter, got .*estimate"):
        estimators.register(abstract)
    assert estimators.names() == NAMES


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package `foreign` with three entry points: one good, one broken, one misnamed."""
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))
    monkeypatch.setattr(registry, "_BROKEN", {})
    monkeypatch.setattr(registry, "_looked_up", False)
    source = inspect.cleandoc(
        """
        import dataclasses
        from gradlab.estimators import Estimator, parameters

        @dataclasses.dataclass(frozen=True, kw_only=True)
        class Scaled(Estimator):
            factor: float = parameters.real(2.0)
            name, formula, reference = "foreign-scaled", "factor v(z)", "none"

            def estimate(self, kind, logits, noise, points, loss, derivative):
                return self.factor * derivative[0]
        """
    )
    (tmp_path / "foreign_estimators.py").write_text(source)
    (tmp_path / "foreign_broken.py").write_text("import no_such_module")
    about = tmp_path / "foreign-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[gradlab.estimators]\n"
        "foreign-scaled = foreign_estimators:Scaled\n"
        "foreign-broken = foreign_broken:Broken\n"
        "foreign-other = foreign_estimators:Scaled\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("installed")
def test_entry_points_are_found_when_asked_for():
    assert "foreign-scaled" not in registry._CLASSES  # not before
    assert estimators.get("foreign-scaled", factor=3.0).factor == 3.0
    assert estimators.names() == sorted([*NAMES, "foreign-scaled"])
    row = next(row for row in estimators.describe() if row["name"] == "foreign-scaled")
    assert row["ranges"]["factor"] == "finite"


@pytest.mark.usefixtures("installed")
def test_a_broken_entry_point_breaks_nothing_and_is_reported_by_name():
    assert estimators.names() == sorted([*NAMES, "foreign-scaled"])
    with pytest.raises(ValueError, match=r"entry point that can be loaded, got 'foreign-broken' .*no_such_module"):
        estimators.get("foreign-broken")
    with pytest.raises(ValueError, match=r"foreign-other.*is called 'foreign-scaled'"):
        estimators.get("foreign-other")
    with pytest.raises(ValueError, match="did you mean foreign-scaled"):
        estimators.get("foreign-scale")
