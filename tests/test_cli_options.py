"""Options are made of the fields of methods: every field has one, none is ignored, names and labels go both ways."""

import dataclasses
import typing

import click
import pytest
from click.testing import CliRunner
from gradlab.analyses import RunOptions
from gradlab.cli.main import cli
from gradlab.cli.method_options import BY_THE_COMMAND, MethodOption, method_options, name_of
from gradlab.cli.specs import Size

import gradlab
from gradlab import errors
from gradlab.fields import Checked, option, options
from gradlab.methods import Compute, Enumerated, Integrated, MonteCarlo, Sampled
from gradlab.settings import BINARY_AUTOENCODER, Settings

from .command_line import POINT, refused, tiny

COMMANDS = {
    ("bias",): (MonteCarlo, Integrated, Enumerated, Sampled, Compute),
    ("gap",): (Compute,),
    ("reproduce",): (RunOptions,),
    ("train", "vae"): (Settings,),
    ("train", "binary-ae"): (Settings,),
}


def command(path):
    found = cli
    for name in path:
        found = found.commands[name]
    return found


def made_of(path):
    return {(p.method, p.field.name): p for p in command(path).params if isinstance(p, MethodOption)}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_field_of_a_method_is_an_option(path):
    """But for progress bars, which commands always draw, and what other options give."""
    given_otherwise = {"architecture", "config", "folder", "estimator"} - {f.name for f in options(Settings)}
    for method in COMMANDS[path]:
        fields = {field.name for field in dataclasses.fields(method)} - {*BY_THE_COMMAND, *given_otherwise}
        assert fields - {"estimator"} <= {name for of, name in made_of(path) if of is method}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_an_option_says_what_its_field_does(path):
    for (method, name), parameter in made_of(path).items():
        field = next(one for one in options(method) if one.name == name)
        assert parameter.opts == [name_of(field)]
        assert parameter.help.startswith(field.about.words) or name == "lr"
        if isinstance(parameter.type, click.Choice) and field.about.choices:
            assert tuple(parameter.type.choices) == field.about.choices


def test_defaults_of_trainings_are_those_of_settings():
    for path, settings in ((("train", "vae"), Settings()), (("train", "binary-ae"), BINARY_AUTOENCODER)):
        defaults = {name: p.default for (method, name), p in made_of(path).items() if method is Settings}
        del defaults["lr"]  # of a VAE it depends on the size
        assert defaults == {name: getattr(settings, name) for name in defaults}
        assert len(defaults) == 8


def test_a_new_field_is_an_option_at_once():
    """One line: the field. It is checked in Python, and read, explained and checked on the command line."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Planted(Checked):
        half_life: int = option(8, "Draws until half is forgotten.", at_least=2)

    @click.command()
    @method_options(Planted)
    def planted(values):
        click.echo(values.make(Planted).half_life)

    runner = CliRunner()
    assert runner.invoke(planted, ["--half-life", "16"]).output == "16\n"
    assert "Draws until half is forgotten.  [default: 8; x>=2]" in runner.invoke(planted, ["--help"]).output
    assert runner.invoke(planted, ["--half-life", "1"]).exit_code == 2
    with pytest.raises(ValueError, match="half_life: "):
        Planted(half_life=1)


WITHOUT_EFFECT = {
    "--decoder table --moments exact": "--decoder: needs --moments monte-carlo",
    "--tolerance 1e-3": "--tolerance: needs --moments exact, got --moments monte-carlo",
    "--max-draws 64": "--max-draws: needs --precision",
    "--max-draws 131072": "--max-draws: needs --precision",
    "--precision 0.1 --reference exact": "--precision: needs --reference auto or rloo, got --reference exact",
    "--exact-dtype float32 --reference rloo": "--exact-dtype: needs --reference exact, got --reference rloo",
    "--exact-dtype float32 --precision 0.1": "--exact-dtype: needs --reference exact, got --precision",
    "--max-configurations 9 --reference rloo": "--max-configurations: needs --reference exact",
    "--equal-cost": "--equal-cost: needs at least two --estimator, got one",
    "--observations x.npy --data-dir .": "--observations: expected no --data-dir beside it",
    "--wrt encoder --exact-dtype float32": "--reference: expected --exact-dtype float64 beside --wrt encoder",
    "--moments exact --reference rloo": "--moments: expected 'monte-carlo' beside a sampled reference",
}


@pytest.mark.parametrize("arguments", WITHOUT_EFFECT)
def test_an_option_without_effect_is_wrong_usage(run, arguments):
    refused(run("bias", "--sweep", "none", *arguments.split()), 2, WITHOUT_EFFECT[arguments])


def test_draws_beside_exact_moments_are_told_to_have_no_effect(run):
    """As in Python, where a loop over moments may hold them."""
    ran = run("bias", *POINT, "--draws", "8", "--moments", "exact", "--images", "1", "--out", "exact.h5", "--no-plot")
    assert ran.code == 0, ran.err
    assert "gradlab: --draws: no effect with --moments exact" in ran.err


def test_what_was_renamed_is_told(run):
    refused(run("bias", "--route", "table"), 2, "--route: is now called --decoder")
    refused(run("train", "vae", "--every", "2"), 2, "--every: is now called --track-every")


def test_options_reach_the_measurement(run, monkeypatch):
    """Each option given, and the method object that it makes."""
    tiny("m.safetensors")
    asked = {}

    def noted(model, x, tf, tb, **named):
        asked.update(named)
        raise OSError("noted")

    monkeypatch.setattr("gradlab.bias", noted)
    some = ["bias", "m.safetensors", "--sweep", "none", "--images", "2"]
    run(*some, "--draws", 9, "--decoder", "pairs", "--precision", "0.5", "--max-draws", 99, "--memory", "3MiB")
    assert asked["moments"] == MonteCarlo(draws=9, decoder="pairs")
    assert asked["reference"] == Sampled("auto", precision=0.5, max_draws=99)
    assert (asked["compute"].memory, asked["compute"].progress) == (3 * 2**20, True)
    exact = ("--exact-dtype", "float32", "--max-configurations", 12)
    run(*some, "--moments", "exact", "--tolerance", "0.25", *exact, "--dtype", "float64", "--tf32")
    assert asked["moments"] == Integrated(tolerance=0.25)
    assert asked["reference"] == Enumerated(dtype="float32", max_configurations=12)
    assert (str(asked["compute"].dtype), asked["compute"].tf32) == ("torch.float64", True)
    run(*some)
    assert (asked["moments"], asked["reference"]) == (MonteCarlo(), "auto")


def test_a_space_above_the_limit_names_the_option(run):
    tiny("m.safetensors")
    ran = run("bias", "m.safetensors", "--sweep", "none", "--reference", "exact", "--max-configurations", 8)
    refused(ran, 1, "8 configurations", "9", "raise --max-configurations")


@pytest.mark.parametrize(
    ("text", "size"), [("512MiB", 2**29), ("2GiB", 2**31), ("1.5 KiB", 1536), ("7B", 7), ("3MB", 3_000_000)]
)
def test_sizes(text, size):
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["512", "0MiB", "MiB", "-1MiB", "1e9", "infGiB", "nanB", "2 gigs", "", "1..5GiB"])
def test_a_size_has_a_unit(text):
    with pytest.raises(click.BadParameter, match="expected a size with its unit"):
        Size().convert(text, None, None)


# --- names and labels ---

LABELS = ("st-gs(convention=jang)", "rloo(n=4)", "arms(n=4)", "reinmax")


@pytest.mark.parametrize("label", LABELS)
def test_a_label_that_results_print_is_input(label):
    parsed = gradlab.estimators.parse(label)
    assert parsed.label == label
    assert parsed == gradlab.estimators.parse(label.replace("(", ":").replace(")", ""))
    assert gradlab.training.Settings(estimator=label).estimator == label.replace("(", ":").replace(")", "")


def test_a_label_is_taken_wherever_a_name_is(run):
    tiny("m.safetensors")
    for reference in ("exact", "rloo(n=3)"):
        ran = run("bias", "m.safetensors", *POINT, "--estimator", LABELS[0], "--reference", reference)
        assert ran.code == 0, ran.err
        assert LABELS[0] in gradlab.open_results("bias.h5").attrs["estimator"]
    assert "n = 4" in run("estimators", "rloo(n=4)").out
    assert "reinmax" not in run("estimators", "rloo:n=4").out
    ran = run("check-estimator", "rloo(n=4)", "--draws", "50", "--json")
    assert '"estimator": "rloo(n=4)"' in ran.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["bias", "--estimator", "st-gs(conv=jang)"],
        ["bias", "--reference", "rloo(m=4)"],
        ["train", "vae", "--estimator", "st-gs(conv=jang)"],
        ["sweep", "vae", "--tf", "1", "--tb", "1", "--estimator", "st-gs(conv=jang)"],
        ["estimators", "st-gs(conv=jang)"],
        ["estimators", "st-g"],
    ],
    ids=" ".join,
)
def test_a_bad_name_is_wrong_usage_everywhere(run, arguments):
    refused(run(*arguments), 2, "unknown name")


def test_messages_name_options_in_place_of_methods(run, monkeypatch):
    def refuses(*given, **named):
        raise errors.Excluded("wrt: expected gradlab.MonteCarlo(draws=8) or Enumerated(dtype='float32'), not max_draws")

    monkeypatch.setattr("gradlab.fidelity.bias_analysis.bias", refuses)
    refused(run("bias", *POINT), 2, "gradlab: --wrt: expected --draws 8 or --exact-dtype float32, not --max-draws")


def test_types_of_fields_are_known():
    """What the command line rests on: of `int | None` the int."""
    assert {one.name: one.of for one in options(Sampled)} == {"precision": float, "max_draws": int}
    assert {one.name: one.of for one in options(Compute)}["device"] is typing.Any
