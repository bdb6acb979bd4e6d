"""Texts of the command line, any at all: what is written is read as the same, and the rest is refused in one line."""

import math
import warnings

import click
import pytest
from gradlab.cli.specs import MOST_SEEDS, MOST_TEMPERATURES, Seeds, SweepSpec, TemperatureSpec
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gradlab import estimators, schedules

from .damage import examples

TEMPERATURES = st.floats(0, exclude_min=True, allow_infinity=False, allow_nan=False)
SHAPES = st.sampled_from(schedules.SHAPES)
PIECES = ["1", "0.3", ":", ",", "-", "e", "1e9", "nan", "inf", "cosine", " ", "٣", "²", "_", "\n", "9" * 5000, "\udcff"]
TEXTS = st.one_of(st.text(max_size=20), st.lists(st.sampled_from(PIECES), max_size=8).map("".join))


def converted(kind, text):
    """None where the text is refused, in words that show it."""
    try:
        return kind.convert(text, click.Option(["--tf"]), None)
    except click.UsageError as error:
        refusal = error.message
    assert refusal.strip()
    return None


@examples(100)
@given(listed=st.lists(TEMPERATURES, min_size=1, max_size=8, unique=True))
def test_listed_temperatures_are_read_as_they_are_written(listed):
    text = ",".join(map(repr, listed))
    assert TemperatureSpec().convert(text, None, None) == sorted(listed)
    assert SweepSpec().convert(text, click.Option(["--tf"]), None) == sorted(listed)


@examples(100)
@given(ends=st.lists(st.integers(1, 10**6), min_size=2, max_size=2, unique=True), count=st.integers(2, 50))
def test_a_range_has_its_ends_and_equal_steps(ends, count):
    first, last = (end / 1000 for end in ends)
    found = TemperatureSpec().convert(f"{first}:{last}:{count}", None, None)
    assert len(found) == count
    assert {found[0], found[-1]} == {first, last}
    wanted = [min(first, last) + abs(last - first) * i / (count - 1) for i in range(count)]
    assert all(abs(a - b) < 1e-9 for a, b in zip(found, wanted, strict=True))


@examples(300)
@given(text=TEXTS)
@example("1:2:" + "9" * 5000)
@example("1e308:-1e308:3")
@example("5e-324:1e308:1000")
def test_any_text_is_temperatures_or_wrong_usage(text):
    found = converted(TemperatureSpec(), text)
    if found is not None:
        assert 0 < len(found) <= max(MOST_TEMPERATURES, len(text))
        assert all(math.isfinite(t) and t > 0 for t in found)
        assert found == sorted(set(found))


@examples(300)
@given(text=TEXTS)
@example("0.3:3.0:²")
def test_any_text_is_a_grid_or_wrong_usage(text):
    found = converted(SweepSpec(), text)
    if found is not None:
        assert found
        assert len(set(found)) == len(found)
        assert all(schedules.setting("tf", one) == one for one in found)


@examples(300)
@given(text=TEXTS)
@example("9" * 4000)
@example("-9:9")
@example("0:" + "9" * 18)
def test_any_text_is_seeds_or_wrong_usage(text):
    found = converted(Seeds(), text)
    if found is not None:
        assert 0 < len(found) <= max(MOST_SEEDS, len(text))
        assert min(found) >= 0
        assert len(set(found)) == len(found)


@examples(200)
@given(start=TEMPERATURES, end=TEMPERATURES, shape=SHAPES)
def test_a_schedule_is_read_as_it_is_written(start, end, shape):
    assume(shape != "constant" or start == end)
    schedule = schedules.Schedule(start, end, shape)
    assert schedules.parse(str(schedule)) == schedule
    assert schedules.parse(schedules.setting("tf", schedule)) == schedule


@examples(200)
@given(start=TEMPERATURES, end=TEMPERATURES, shape=SHAPES, progress=st.floats(0, 1))
@example(5e-324, 5e-324, "constant", 0.5)
@example(5e-324, 1e-323, "cosine", 0.5)
@example(1.7e308, 1.7e308, "linear", 0.5)
@example(5e-324, 1.7976931348623157e308, "exponential", 0.999)
def test_a_schedule_stays_between_its_ends(start, end, shape, progress):
    assume(shape != "constant" or start == end)
    assert min(start, end) * (1 - 1e-12) <= schedules.Schedule(start, end, shape).at(progress)
    assert schedules.Schedule(start, end, shape).at(progress) <= max(start, end) * (1 + 1e-12)


@examples(300)
@given(text=TEXTS)
def test_any_text_is_a_schedule_or_refused(text):
    try:
        schedule = schedules.parse(text, "tf")
    except ValueError as error:
        refusal = str(error)
    else:
        assert schedules.parse(str(schedule)) == schedule
        return
    assert refusal.startswith("tf")
    assert len(refusal.splitlines()) == 1


# --- estimators ---

KEYS = ["tf", "tb", "n", "convention", "k", ""]
VALUES = ["1", "0.5", "nan", "-1", "True", "None", "jang", "'jang'", "[]", "{[]: 1}", "1is 2", "'\\d'", "\0", "\udcff"]
HOSTILE = ["(" * 5000, "-" * 5000 + "1", "[" * 90 + "]" * 90, "9" * 5000, "1+2j", "__import__('os')", "1e999", "="]
PAIRS = st.lists(
    st.tuples(st.sampled_from(KEYS), st.one_of(st.sampled_from(VALUES + HOSTILE), st.text(max_size=6))), max_size=3
)


def parsed(text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a SyntaxWarning would be a second line
        try:
            return estimators.parse(text)
        except ValueError as error:
            refusal = str(error)
    assert refusal.strip()
    return None


@examples(300)
@given(name=st.sampled_from([*estimators.names(), "st-g", ""]), pairs=PAIRS)
def test_any_text_is_an_estimator_or_refused(name, pairs):
    found = parsed(f"{name}:" + ",".join(f"{key}={value}" for key, value in pairs))
    assert found is None or found.name == name


@pytest.mark.parametrize("value", VALUES + HOSTILE, ids=lambda value: ascii(value)[:20])
def test_no_value_of_an_estimator_s_parameter_is_more_than_a_number_or_a_word(value):
    found = parsed(f"st-gs:tf={value}")
    assert found is None or found.parameters["tf"] == float(value)


@examples(100)
@given(tf=st.floats(1e-6, 1e6))
def test_an_estimator_s_parameters_are_read_as_they_are_written(tf):
    assert estimators.parse(f"st-gs:tf={tf!r},convention=jang") == estimators.get("st-gs", tf=tf, convention="jang")
