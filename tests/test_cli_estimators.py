"""gradlab estimators and check-estimator: the catalogue as printed, and the verdicts on a stranger's estimators."""

import itertools
import json
import sys

import pytest

from gradlab import estimators
from gradlab.estimators import conformance

from .command_line import refused

ONE_HOT = [problem for problem in conformance.PROBLEMS.values() if problem.kind.one_hot]
MODULE = '''
from dataclasses import dataclass

from gradlab.estimators import Estimator, parameters

print("somebody else's module")


@dataclass(frozen=True, kw_only=True)
class Pair(Estimator):
    """Two independent codes, each the baseline of the other: unbiased at factor = 1."""

    factor: float = parameters.real(1.0)
    name, formula, reference = "pair", "(f(D) - f(D')) (D - D') / (2 tf)", "none"
    kinds, unbiased, uses = ("categorical", "binary"), True, ("loss",)

    def points(self, kind, logits, noise):
        return kind.hard(logits / self.tf + noise[:2])

    def estimate(self, kind, logits, noise, points, loss, derivative):
        difference = (loss[0] - loss[1])[(..., *[None] * (1 + kind.event_dims))]
        return self.factor * difference * (points[0] - points[1]) / (2 * self.tf)


shrunk = Pair(factor=0.9)  # claims to be unbiased


class Forgetful(Pair):
    """Right at tf = 1 alone."""

    unbiased = True  # stated again, as `estimate` is another

    def estimate(self, *given):
        return super().estimate(*given) * self.tf


class Humble(Pair):
    name, unbiased = "humble", False


class InPlace(Pair):
    def points(self, kind, logits, noise):
        noise += logits / self.tf
        return kind.hard(noise[:2])


class Shape(Pair):
    def estimate(self, *given):
        return super().estimate(*given).sum(0)


class Binary(Pair):
    kinds = ("binary",)


class Infinite(Pair):
    def estimate(self, *given):
        return super().estimate(*given) / 0


class Demanding(Pair):
    def __init__(self, needed):
        pass


class Nameless(Estimator):
    def estimate(self, *given):
        return given[-1][0]


number = 3
'''
NAMES = itertools.count()
DRAWS = ("--draws", "30000")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module into the current folder; its name, another each time, as modules are remembered."""
    monkeypatch.setattr(sys, "path", sys.path[:])

    def write(text=MODULE):
        name = f"strangers_{next(NAMES)}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


def checked(run, argument, *options):
    ran = run("check-estimator", argument, *(options or DRAWS))
    return ran, " ".join(ran.out.split())


# --- verdicts ---


def test_a_correct_one_keeps_its_promises(run, module):
    ran, text = checked(run, f"{module()}:Pair")
    assert ran.code == 0, ran.err
    assert "pair (strangers" in text
    assert "declared unbiased; 30,000 draws per problem, seed 0 protocol: kept (20 rules)" in text
    assert text.count("unbiased, as declared") == 2 * len(ONE_HOT)
    assert text.endswith("pair keeps its promises")
    assert "NOT" not in text
    assert ran.err == "somebody else's module\n"


def test_a_biased_one_that_claims_otherwise_is_found(run, module):
    """A tenth too small: about 5 to 10 standard errors in the worst coordinate."""
    ran, text = checked(run, f"{module()}:shrunk", "--draws", "100000")
    assert ran.code == 1
    assert "biased, NOT as declared" in text
    assert "keeps its promises" not in text
    assert "gradlab: pair(factor=0.9) does not keep its promises: declared unbiased, but biased on" in ran.err


def test_one_that_forgets_the_temperature_is_found(run, module):
    ran, text = checked(run, f"{module()}:Forgetful")
    assert ran.code == 1
    assert text.count("unbiased, as declared") == text.count("biased, NOT as declared") == len(ONE_HOT)
    assert "biased on categorical-3x3 at tf = 1.6; " in ran.err


def test_an_unbiased_one_that_claims_to_be_biased_is_found(run, module):
    ran, text = checked(run, f"{module()}:Humble")
    assert ran.code == 1
    assert text.count("unbiased: no bias found here") == 2 * len(ONE_HOT)
    assert "declared biased, but no bias was found; declare unbiased = True" in ran.err


@pytest.mark.parametrize(
    ("name", "rule", "words"),
    [
        ("InPlace", "pure functions", "categorical latents: noise are changed in place"),
        ("Shape", "shapes and dtype", "binary latents: estimate are (4,) torch.float32, not (2, 4)"),
        ("Infinite", "shapes and dtype", "categorical latents: estimate are not finite"),
    ],
)
def test_one_that_breaks_the_protocol_is_told_which_rule(run, module, name, rule, words):
    ran, text = checked(run, f"{module()}:{name}")
    assert ran.code == 1
    assert f"protocol broken: {rule} asked: {conformance.rules()[rule][:40]}" in text
    assert words in text
    assert "|g|" not in text
    assert f"does not keep its promises: the protocol is not kept ({rule}" in ran.err


def test_every_rule_is_explained():
    assert list(conformance.rules()) == list(conformance._PROTOCOL)
    assert all(words.endswith(".") and len(words) > 20 for words in conformance.rules().values())


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("ste", 10),
        pytest.param("rloo:n=3", 10, marks=pytest.mark.deep),  # docs/which-estimator.md shows rloo:n=4
        ("disarm:tf=1.6", 2),
        ("st-gs:tf=1.6,tb=0.7", 5),
    ],
)
def test_registered_ones_go_by_name(run, text, rows):
    """disarm has two problems, being binary; those that are at the second temperatures already go there once."""
    ran, shown = checked(run, text, "--draws", "3000")
    assert ran.code == 0
    assert shown.count("as declared") == rows
    assert ran.err == ""


def test_json_is_one_object_with_the_figures(run, module):
    name = module()
    ran = run("check-estimator", f"{name}:Binary", *DRAWS, "--seed", "3", "--json")
    assert ran.code == 0
    found = json.loads(ran.out)
    about = {"estimator": "pair", "source": f"{name}:Binary", "declared_unbiased": True, "conforms": True}
    assert {key: found[key] for key in about} == about
    assert (found["violations"], found["draws"], found["seed"]) == ([], 30000, 3)
    assert [(p["problem"], p["tf"]) for p in found["problems"]] == [
        (problem, tf) for tf in (1.0, 1.6) for problem in ("binary-4", "binary-3")
    ]
    report = conformance.check(sys.modules[name].Binary(), draws=30_000, seed=3)
    for row, verdict in zip(found["problems"], report.verdicts, strict=False):
        assert (row["z"], row["p_value"], row["biased"]) == (verdict.z, verdict.p_value, False)
        assert row["relative_bias"] == verdict.bias_norm / verdict.exact_norm
        assert row["relative_standard_error"] == verdict.standard_error / verdict.exact_norm
        assert row["relative_variance"] == verdict.variance / verdict.exact_norm**2
        assert row["as_declared"]


def test_json_of_a_broken_one_names_the_rules(run, module):
    ran = run("check-estimator", f"{module()}:InPlace", "--json")
    assert ran.code == 1
    found = json.loads(ran.out)
    assert (found["conforms"], found["problems"]) == (False, [])
    assert "categorical: pure functions: noise are changed in place" in found["violations"]


def test_progress_counts_every_draw():
    counted = []
    estimator = estimators.get("disarm")
    conformance.check(estimator, draws=70_000, advance=counted.append)
    assert len(counted) > 2
    assert sum(counted) == 70_000 * len(conformance.problems_of(estimator))


# --- what cannot be checked: one line, nothing on standard output ---


@pytest.mark.parametrize(
    ("argument", "fragments"),
    [
        ("no_such_module:X", ["expected a module of the current folder or the environment, got 'no_such_module'"]),
        ("json.no_such:X", ["got 'json.no_such'"]),
        ("json:X", ["expected an estimator in module 'json', got none, under 'X'"]),
        (
            "json:loads",
            ["expected a subclass or an instance of gradlab.estimators.Estimator, got json:loads, a function"],
        ),
        ("stee", ["unknown name 'stee'; did you mean ste"]),
        ("rloo:m=3", ["ESTIMATOR rloo: unknown name 'm'"]),
        ("rloo:n=1", ["n: expected a whole number of at least 2, got 1"]),
        ("rloo:", ["expected NAME, NAME:KEY=VALUE or MODULE:NAME, got 'rloo:'"]),
        ("gradlab.estimators:Estimator", ["expected a call without arguments to work", "abstract"]),
    ],
)
def test_what_is_not_there_is_named(run, module, argument, fragments):
    code = 2 if "unknown name" in fragments[0] else 1
    refused(run("check-estimator", argument), code, *fragments)


@pytest.mark.parametrize(
    ("name", "fragments"),
    [
        ("Pear", ["unknown name 'Pear'; did you mean Pair"]),
        ("number", [":number, a int"]),
        ("Demanding", ["expected a call without arguments to work, got TypeError: ", "needed"]),
        ("Nameless", ["expected a name, a text in the class body, got Nameless without one"]),
    ],
)
def test_what_is_no_estimator_is_named(run, module, name, fragments):
    text = MODULE.replace('print("somebody else\'s module")', "")
    code = 2 if "unknown name" in fragments[0] else 1
    refused(run("check-estimator", f"{module(text)}:{name}"), code, *fragments)


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("raise RuntimeError('first line\\nsecond line')", ["got RuntimeError from ", ": first line; second line"]),
        ("import no_such_thing", ["got ModuleNotFoundError from ", ": No module named 'no_such_thing'"]),
        ("def broken(:", ["got SyntaxError from ", "line 1"]),
        ("import sys; sys.exit('no use')", ["got SystemExit from ", ": no use"]),
    ],
)
def test_a_module_that_cannot_be_imported_says_why(run, module, text, fragments):
    name = module(text)
    refused(run("check-estimator", f"{name}:X"), 1, f"from {name}: ", *fragments)


def test_help_says_that_the_module_is_executed(run):
    assert "EXECUTES" in run("check-estimator", "--help").out


# --- the catalogue ---


def test_the_table_is_readable_at_110_columns(run):
    plain = run("estimators").out.splitlines()
    assert max(map(len, plain)) <= 110
    rows = {line.split()[0]: line.split() for line in plain if line.strip()}
    for row in estimators.describe():
        cells = " ".join(rows[row["name"]]).replace("by size", "by-size").split()
        yes = {True: "yes", False: "no"}
        flags = [yes[row[key]] for key in ("unbiased", "uses_derivative", "uses_loss", "code_only")]
        losses = "all" if row["name"] == "exact" else str(row["evaluations"]).replace(" ", "-")
        assert cells[-5:] == [*flags, losses]
        assert cells[-6] == {2: "both", 3: "all"}.get(len(row["latents"]), row["latents"][0])


def test_every_parameter_is_shown_with_its_default_and_range(run):
    shown = " ".join(run("estimators").out.split())
    for row in estimators.describe():
        for name, default in row["parameters"].items():
            if name not in ("tf", "tb"):
                assert f"{name} = {default}: {row['ranges'][name]}" in shown
    assert "tf and tb, the temperatures, are finite" in shown


def test_formulas_are_shown_when_asked_for(run):
    plain, full = (" ".join(run("estimators", *o).out.split()) for o in ([], ["--formulas"]))
    for row in estimators.describe():
        formula = " ".join(row["formula"].split())
        assert formula in full
        assert formula not in plain
        assert row["reference"] in full


def test_json_has_all_that_is_known(run):
    assert json.loads(run("estimators", "--json").out)["estimators"] == estimators.describe()
