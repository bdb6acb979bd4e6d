"""Temperature schedules: the records, and trainings under them."""

import itertools
import math

import numpy as np
import pytest

from gradlab import checkpoints, schedules, training
from gradlab.errors import UnknownName
from gradlab.schedules import Schedule, parse

from .small_trainings import (
    EPOCHS,
    IMAGES,
    STEPS,
    VALIDATION,
    assert_same,
    interrupt,
    settings,
    train,
)

TOTAL = EPOCHS * STEPS
TF, TB = "1.6:0.4:cosine", "0.5:2:exponential"

# the record


@pytest.mark.parametrize("shape", ["linear", "exponential", "cosine"])
@pytest.mark.parametrize(("start", "end"), [(1.0, 0.3), (0.1, 0.7), (1.6, 1e-3), (0.3, 3.0)])
def test_both_ends_are_reached_exactly_and_the_way_is_monotone(start, end, shape):
    schedule = Schedule(start, end, shape)
    way = [schedule.at(p) for p in np.linspace(0, 1, 101)]
    assert (way[0], way[-1]) == (start, end)
    assert all((b - a) * (end - start) > 0 for a, b in itertools.pairwise(way))


def test_each_shape_is_its_formula():
    p = np.linspace(0, 1, 13)
    wanted = {
        "linear": np.linspace(2, 0.5, 13),
        "exponential": np.geomspace(2, 0.5, 13),
        "cosine": 0.5 + 1.5 * np.cos(np.pi * p / 2) ** 2,  # (1 + cos x)/2 = cos^2(x/2)
    }
    for shape, values in wanted.items():
        schedule = Schedule(2, 0.5, shape)
        assert [schedule.at(at) for at in p] == pytest.approx(values, rel=1e-12)
    assert len({Schedule(2, 0.5, shape).at(0.25) for shape in wanted}) == 3


def test_a_constant_is_the_same_throughout():
    schedule = parse(1.6)
    assert schedule == Schedule(1.6, 1.6, "constant") == Schedule(1.6, 1.6, "cosine")
    assert {schedule.at(p) for p in (0, 0.1, 1 / 3, 1)} == {1.6}


@pytest.mark.parametrize(
    ("spec", "schedule", "text"),
    [
        (1.6, (1.6, 1.6, "constant"), "1.6"),
        (2, (2.0, 2.0, "constant"), "2"),
        (np.float32(1.5), (1.5, 1.5, "constant"), "1.5"),
        ("1.6", (1.6, 1.6, "constant"), "1.6"),
        ("1:1:cosine", (1.0, 1.0, "constant"), "1"),
        ("1:1:constant", (1.0, 1.0, "constant"), "1"),
        ("1:0.3", (1.0, 0.3, "linear"), "1:0.3"),
        ("1.0:0.30:linear", (1.0, 0.3, "linear"), "1:0.3"),
        (" 1 : .3 ", (1.0, 0.3, "linear"), "1:0.3"),
        ("1:0.3:exponential", (1.0, 0.3, "exponential"), "1:0.3:exponential"),
        ("0.3:3:cosine", (0.3, 3.0, "cosine"), "0.3:3:cosine"),
        ("1e-3:0.1234567890123", (0.001, 0.1234567890123, "linear"), "0.001:0.1234567890123"),
    ],
    ids=str,
)
def test_a_spec_is_read_and_has_one_text(spec, schedule, text):
    assert parse(spec) == Schedule(*schedule)
    assert str(parse(spec)) == text
    assert parse(text) == parse(spec)
    assert schedules.setting("tf", spec) == (float(text) if schedule[2] == "constant" else text)


@pytest.mark.parametrize("shape", ["linear", "exponential", "cosine"])
def test_the_text_of_any_schedule_reads_as_that_schedule(shape):
    generator = np.random.default_rng(3)
    for start, end in generator.lognormal(sigma=8, size=(200, 2)):
        schedule = Schedule(float(start), float(end), shape)
        assert parse(str(schedule)) == schedule


RUBBISH = [
    "",
    "a",
    ":",
    "1:",
    ":1",
    "1:a",
    "1,2",
    "1;2",
    "0",
    "-1",
    "nan",
    "inf",
    "1:0",
    "1:-2",
    "1:inf",
    "1:2:linear:3",
]


@pytest.mark.parametrize("spec", [*RUBBISH, 0, -1.0, math.nan, math.inf, None, True, [1.0], b"1"], ids=str)
def test_what_is_no_schedule_is_named_with_what_would_do(spec):
    with pytest.raises(ValueError, match=r"^tf: expected .* above 0, got") as raised:
        parse(spec, "tf")
    assert repr(spec) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("spec", ["0.3:3.0:10", "1:2:1", " 1:2: 5"])
def test_a_grid_is_no_schedule_and_the_error_says_so(spec):
    with pytest.raises(ValueError, match=r"^tb: expected .*1:0\.3:cosine, got .*a grid of temperatures"):
        parse(spec, "tb")


@pytest.mark.parametrize(
    ("spec", "near"), [("1:2:cosin", "cosine"), ("1:2:exponental", "exponential"), ("1:2:2.5", "linear")]
)
def test_an_unknown_shape_is_an_unknown_name(spec, near):
    with pytest.raises(UnknownName, match=f"^tf: shape: unknown name .*{near}"):
        parse(spec, "tf")


def test_a_constant_has_one_temperature():
    with pytest.raises(ValueError, match="expected linear, exponential or cosine from 1 to 2, got constant"):
        parse("1:2:constant")


@pytest.mark.parametrize("progress", [-1e-9, 1.1, math.nan])
def test_there_is_nothing_beyond_the_ends(progress):
    with pytest.raises(ValueError, match="progress: expected a number from 0 to 1, got"):
        parse("1:2").at(progress)


# settings


def test_settings_hold_a_number_or_the_one_text():
    own = settings(tf="1.0:0.30:linear", tb="1.60")
    assert (own.tf, own.tb) == ("1:0.3", 1.6)
    assert settings(tf=Schedule(1, 0.3)) == settings(tf="1:0.3")
    assert isinstance(settings(tf="2:2").tf, float)


@pytest.mark.parametrize("name", ["tf", "tb"])
def test_settings_name_the_temperature_that_will_not_do(name):
    with pytest.raises(ValueError, match=f"^{name}: expected .* got '1:2:3', a grid"):
        settings(**{name: "1:2:3"})


# trainings


@pytest.fixture(scope="module")
def scheduled(tmp_path_factory):
    return train(tmp_path_factory.mktemp("scheduled") / "vae.safetensors", tf=TF, tb=TB)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "vae.safetensors"


@pytest.fixture
def seen(monkeypatch):
    """tf and tb of every step, tf of every validation."""
    found = {"steps": [], "validations": []}
    backward, evaluate = training.backward, training.evaluate

    def stepped(model, estimator, *rest):
        found["steps"].append((estimator.tf, estimator.tb))
        return backward(model, estimator, *rest)

    def validated(model, images, tf, seed):
        found["validations"].append(tf)
        return evaluate(model, images, tf, seed)

    monkeypatch.setattr("gradlab.training.run.backward", stepped)
    monkeypatch.setattr("gradlab.training.run.evaluate", validated)
    return found


def temperatures_by_step(total=TOTAL):
    """TF and TB, by their formulas."""
    p = np.arange(total) / (total - 1)
    return 0.4 + 1.2 * (1 + np.cos(np.pi * p)) / 2, np.geomspace(0.5, 2, total)


def test_every_step_has_the_temperatures_of_its_place_in_the_training(out, seen):
    model = train(out, tf=TF, tb=TB)
    tfs, tbs = temperatures_by_step()
    assert np.array(seen["steps"]) == pytest.approx(np.stack([tfs, tbs], 1), rel=1e-12)
    assert seen["steps"][0] == (1.6, 0.5)
    assert seen["steps"][-1] == (0.4, 2.0)
    assert seen["validations"] == pytest.approx(tfs[STEPS - 1 :: STEPS], rel=1e-12)
    history = model.provenance["history"]
    assert history["tf"] == seen["validations"]
    assert history["tb"] == pytest.approx(tbs[STEPS - 1 :: STEPS], rel=1e-12)
    assert model.provenance["settings"]["tf"] == TF


@pytest.mark.parametrize(("tf", "tb"), [(TF, 1.3), (1.6, TB)])
def test_one_temperature_may_stay_while_the_other_moves(out, seen, tf, tb):
    train(out, tf=tf, tb=tb)
    tfs, tbs = temperatures_by_step()
    wanted = (tfs if tf == TF else np.full(TOTAL, tf)), (tbs if tb == TB else np.full(TOTAL, tb))
    assert np.array(seen["steps"]) == pytest.approx(np.stack(wanted, 1), rel=1e-12)


def test_the_schedule_matters_to_the_weights(scheduled, tmp_path):
    for name, (tf, tb) in {
        "flat": (1.6, 0.5),
        "other-shape": ("1.6:0.4", TB),
        "other-end": (TF, "0.5:3:exponential"),
    }.items():
        other = train(tmp_path / f"{name}.safetensors", tf=tf, tb=tb)
        assert not np.array_equal(
            other.state_dict()["encoder.1.weight"].numpy(), scheduled.state_dict()["encoder.1.weight"].numpy()
        )


def test_a_schedule_that_does_not_move_is_a_constant(tmp_path):
    plain = train(tmp_path / "plain.safetensors", tf=1.6, tb=1.3)
    assert_same(train(tmp_path / "text.safetensors", tf="1.6:1.6:cosine", tb="1.3"), plain)
    assert plain.provenance["history"]["tf"] == [1.6] * EPOCHS


def test_a_training_of_one_step_is_at_the_start(out, seen):
    train(out, tf=TF, tb=TB, epochs=1, batch_size=64)
    assert seen["steps"] == [(1.6, 0.5)]
    assert seen["validations"] == [1.6]


@pytest.mark.parametrize("step", [1, 4, STEPS, STEPS + 1, 2 * STEPS + 3, TOTAL])
def test_an_interrupted_run_ends_in_the_weights_of_an_unbroken_one(scheduled, out, monkeypatch, step):
    interrupt(out, monkeypatch, step, tf=TF, tb=TB)
    assert_same(train(out, tf="1.60:.4:cosine", tb=TB, resume=True), scheduled)


@pytest.mark.parametrize("epochs", [EPOCHS + 1, EPOCHS - 1])
def test_other_epochs_than_planned_are_refused_under_a_schedule(scheduled, out, monkeypatch, epochs):
    interrupt(out, monkeypatch, 4, tf=TF, tb=TB)
    match = rf"epochs {EPOCHS} \(asked: {epochs}\).*\(a temperature schedule is spread over all epochs\)"
    with pytest.raises(ValueError, match=match):
        train(out, resume=True, tf=TF, tb=TB, epochs=epochs)
    assert_same(train(out, resume=True, tf=TF, tb=TB), scheduled)


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"tf": "1.6:0.4"}, r"tf 1.6:0.4:cosine \(asked: 1.6:0.4\)"),
        ({"tf": 1.6}, r"tf 1.6:0.4:cosine \(asked: 1.6\)"),
        (
            {"tf": 1.6, "tb": 0.5},
            r"tf 1.6:0.4:cosine \(asked: 1.6\), tb 0.5:2:exponential \(asked: 0.5\); give the same settings$",
        ),
    ],
)
def test_another_schedule_is_refused(out, monkeypatch, other, match):
    interrupt(out, monkeypatch, 4, tf=TF, tb=TB)
    with pytest.raises(ValueError, match=match):
        train(out, resume=True, **({"tf": TF, "tb": TB} | other))


def test_a_state_of_constants_needs_no_temperatures_in_its_history(out, monkeypatch):
    """As those that were written before there were schedules."""
    interrupt(out, monkeypatch, STEPS + 3)
    path = training.resume_path(out)
    model, tensors, provenance = checkpoints.read(path)
    provenance["history"] = {k: v for k, v in provenance["history"].items() if k not in ("tf", "tb")}
    checkpoints.write(path, model, tensors, provenance)
    history = train(out, resume=True).provenance["history"]
    assert (history["tf"], history["tb"]) == ([1.6] * EPOCHS, [1.3] * EPOCHS)


def test_a_result_says_how_the_model_was_scheduled(out):
    train(out, tf=TF, tb=1.3, keep_every=1)
    about = checkpoints.load_described(out)[1]
    assert (about["trained_tf"], about["trained_tf_schedule"], about["trained_tb"]) == (0.4, TF, 1.3)
    assert "trained_tb_schedule" not in about
    early = checkpoints.load_described(out.with_name("vae-epoch0001.safetensors"))[1]
    assert early["trained_tf"] == pytest.approx(temperatures_by_step()[0][STEPS - 1], rel=1e-12)


@pytest.mark.parametrize("odd", ["1:2:3", "x" * 10_000, "", "1:nan"])
def test_a_provenance_with_an_odd_schedule_is_passed_over(out, odd):
    model = train(out, epochs=1)
    model.provenance["settings"]["tf"] = odd
    checkpoints.save(model, out)
    about = checkpoints.load_described(out)[1]
    assert "trained_tf_schedule" not in about
    assert about["trained_tb"] == 1.3


def test_the_command_line_takes_schedules(run, tmp_path):
    from .command_line import images

    images(tmp_path, 20)
    ran = run(
        "train", "vae", "--data", "own", "--tf", "1.0:0.30", "--tb", "1:2:cosine", "--epochs", 2, "--batch-size", 10
    )
    assert ran.code == 0
    about = checkpoints.load("vae.safetensors").provenance
    assert (about["settings"]["tf"], about["settings"]["tb"]) == ("1:0.3", "1:2:cosine")
    assert about["history"]["tf"] == pytest.approx([1 - 0.7 / 3, 0.3])


@pytest.mark.parametrize("option", ["--tf", "--tb"])
@pytest.mark.parametrize(
    ("spec", "words"), [("1:2:3", "a grid of temperatures"), ("1:2:cosin", "did you mean cosine"), ("1:", "START:END")]
)
def test_the_command_line_refuses_rubbish_in_one_line(run, option, spec, words):
    ran = run("train", "vae", option, spec)
    assert (ran.code, ran.out) == (2, "")
    (line,) = ran.err.splitlines()
    assert line.startswith(f"gradlab: Invalid value for '{option}'")
    assert words in line


def test_images_are_where_the_tests_above_think():
    assert (len(IMAGES), len(VALIDATION), TOTAL) == (64, 20, 21)
