"""Digits follow the interval."""

import math
import re

import numpy as np
import pytest

from gradlab import rounding

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((0.8618, 0.8436, 0.8797), "0.86 [0.84, 0.88]"),
        ((0.8618, 0.8518, 0.8718), "0.862 [0.852, 0.872]"),  # half of it 0.0100: one digit more
        ((14.98, 14.77, 15.19), "15.0 [14.8, 15.2]"),
        ((1234.5, 1190.0, 1275.0), "1230 [1190, 1280]"),
        ((-0.1929, -0.6872, 0.8048), "-0.2 [-0.7, 0.8]"),
        ((0.02, -300.0, 300.0), "0 [-300, 300]"),
        ((3.2e-5, 2.8e-5, 3.61e-5), "3.2e-05 [2.8e-05, 3.6e-05]"),
        ((99.96, 99.5, 100.4), "100.0 [99.5, 100.4]"),
        ((0.01, 0.004, 0.02), "0.010 [0.004, 0.020]"),  # an end that excludes 0 does not look like 0
        ((-0.004, -0.03, 0.02), "0.00 [-0.03, 0.02]"),  # no -0.00
        ((172.9, 172.9, 172.9), "172.9 [172.9, 172.9]"),  # no width: four digits
        ((0.5, NAN, NAN), "0.5000"),
        ((1.0, -INF, INF), "1.000 [-inf, inf]"),
        ((NAN, NAN, NAN), "-"),
        ((0.123456789, 0.123456788, 0.12345679), "0.123457 [0.123457, 0.123457]"),  # six digits at most
    ],
)
def test_value_and_interval(given, told):
    assert rounding.written(*given) == told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((12.34, 11.91, 12.77), "12.3(4)"),
        ((1234.5, 1190.0, 1275.0), "1230(40)"),
        ((3.2e-5, 2.8e-5, 3.61e-5), "3.2(4)e-05"),
        ((0.8618, 0.8018, 0.8818), "0.86 [0.80, 0.88]"),  # sides differ
        ((1.025, 0.7853, 1.025), "1.02 [0.79, 1.02]"),
        ((0.0, -3e-5, 3e-5), "0 [-3e-05, 3e-05]"),  # 0(3) is read as 0 within 3
        ((1e-6, -3.1e-5, 3.3e-5), "0 [-3e-05, 3e-05]"),
        ((0.0, -3.1, 3.2), "0(3)"),
        ((0.5, NAN, NAN), "0.5000"),
        ((1.0, -INF, INF), "1.000 [-inf, inf]"),
    ],
)
def test_uncertainty_in_parentheses(given, told):
    assert rounding.with_uncertainty(*given) == told


def test_no_rounded_number_is_off_by_more_than_a_third_of_the_half_width():
    """Over twelve decades; the text reads back as a number."""
    rng = np.random.default_rng(0)
    for _ in range(2000):
        half = 10.0 ** rng.uniform(-6, 6)
        value = half * rng.uniform(-100, 100)
        of = value, value - half, value + half
        for number, text in zip(of, rounding.three(*of), strict=True):
            assert abs(float(text) - number) <= half / 3 * (1 + 1e-9), (of, text)


def test_numbers_without_an_interval():
    told = [rounding.plain(v) for v in (0.86182, 12345.6, 1234567.0, 1e-5, 0.0, -0.5, None, NAN, INF)]
    assert told == ["0.8618", "12346", "1.235e+06", "1.000e-05", "0", "-0.5000", "-", "-", "inf"]


def test_parentheses_read_back_as_the_interval():
    """Value and uncertainty, of values near 0, beside it and far from it."""
    rng = np.random.default_rng(1)
    for _ in range(2000):
        half = 10.0 ** rng.uniform(-9, 9)
        value = half * rng.choice([0.0, rng.uniform(-1, 1), rng.uniform(-100, 100)])
        text = rounding.with_uncertainty(value, value - half, value + half)
        read = re.fullmatch(r"(-?\d+\.?(\d*))\((\d+)\)(e[-+]\d+)?", text)
        if read is None:
            assert "[" in text
            continue
        number, decimals, uncertainty, exponent = read.groups()
        unit = float("1" + (exponent or ""))
        assert abs(float(number) * unit - value) <= 0.35 * half, (value, half, text)
        assert abs(int(uncertainty) * 10.0 ** -len(decimals) * unit - half) <= 0.35 * half, (value, half, text)
