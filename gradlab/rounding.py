"""Numbers as text, with the digits that their interval supports. Imports no torch.

The last digit shown is that of half the interval's width h = (high - low)/2: h = 0.018 shows hundredths. If h begins
with less than 1.5, one digit more is shown, so that rounding moves an end by a third of h at most. Six significant
digits are the most.
"""

from __future__ import annotations

import math

WITHOUT = 4  # significant digits of a number without an interval
MOST = 6  # significant digits
SMALL, LARGE = 1e-3, 1e6  # outside, numbers are written with an exponent
UNKNOWN = "-"  # NaN


def plain(value: float | None, digits: int = WITHOUT) -> str:
    """A number without an interval: 0.8618, 1234, 3.2e-05.

    Examples
    --------
    >>> from gradlab import rounding
    >>> rounding.plain(0.86182), rounding.plain(float("nan"))
    ('0.8618', '-')
    """
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value) or value == 0:
        return f"{value:g}"
    if _exponent_needed(value):
        return f"{value:.{digits - 1}e}"
    return _fixed(value, max(0, digits - 1 - _magnitude(value)))


def three(value: float, low: float, high: float) -> tuple[str, str, str]:
    """Value, lower and upper end, all to the digit that the interval supports.

    Examples
    --------
    >>> from gradlab import rounding
    >>> rounding.three(0.8618, 0.8436, 0.8797)
    ('0.86', '0.84', '0.88')
    """
    ends = plain(low), plain(high)
    place = last_place(value, low, high)
    if place is None:
        return plain(value), *ends
    largest = max(abs(number) for number in (value, low, high) if math.isfinite(number))
    if _exponent_needed(largest):
        texts = [_with_exponent(number, place) for number in (value, low, high)]
    else:
        texts = [_fixed(number, place) if math.isfinite(number) else plain(number) for number in (value, low, high)]
    return texts[0], texts[1], texts[2]


def written(value: float, low: float = math.nan, high: float = math.nan) -> str:
    """Value and interval in one text; without an interval, four significant digits.

    Examples
    --------
    >>> from gradlab import rounding
    >>> rounding.written(0.8618, 0.8436, 0.8797)
    '0.86 [0.84, 0.88]'
    """
    if math.isnan(low) or math.isnan(high):
        return plain(value)
    text, *ends = three(value, low, high)
    return f"{text} [{', '.join(ends)}]"


def with_uncertainty(value: float, low: float, high: float) -> str:
    """Value with the uncertainty of its last digits in parentheses, which is half of the interval's width: 12.3(4).

    An interval whose sides differ after rounding is written out, 0.86 [0.80, 0.88], and so is one without ends.

    Examples
    --------
    >>> from gradlab import rounding
    >>> rounding.with_uncertainty(12.34, 11.91, 12.77)
    '12.3(4)'
    """
    place = last_place(value, low, high)
    if place is None or not all(map(math.isfinite, (value, low, high))):
        return written(value, low, high)
    below, above = (round(side * 10.0**place) for side in (value - low, high - value))
    text, *_ = three(value, low, high)
    if below != above or below < 1:
        return written(value, low, high)
    number, mark, exponent = text.partition("e")
    if number == "0" and place > 0:  # 0 has no exponent that says what its digits are of
        return written(value, low, high)
    shown = above if place >= 0 or mark else above * 10**-place
    return f"{number}({shown}){mark}{exponent}"


def last_place(value: float, low: float, high: float) -> int | None:
    """The number of decimals that the interval supports, negative for tens; None without a finite interval."""
    known = [number for number in (value, low, high) if math.isfinite(number)]
    half = (high - low) / 2
    if not math.isfinite(half) or half <= 0 or not math.isfinite(value):
        return None
    place = -_magnitude(half)
    if half * 10.0**place < 1.5:
        place += 1
    if any(end != 0 and abs(end) * 10.0**place < 0.5 for end in (low, high)):
        place += 1  # an end that is not 0 is not to look like one
    return min(place, MOST - 1 - _magnitude(max(map(abs, known))))


def _magnitude(value: float) -> int:
    """The exponent of the first digit: 0.018 -> -2, 9.999999 -> 0."""
    return math.floor(math.log10(abs(value)))


def _exponent_needed(largest: float) -> bool:
    return 0 < abs(largest) < SMALL or abs(largest) >= LARGE


def _fixed(value: float, place: int) -> str:
    text = f"{round(value, place):.{max(place, 0)}f}"
    return text.removeprefix("-") if not float(text) else text  # no -0.00


def _with_exponent(value: float, place: int) -> str:
    """Each with an exponent of its own, all rounded at the same place."""
    if not math.isfinite(value):
        return plain(value)
    there = round(value, place)
    return "0" if there == 0 else f"{there:.{max(0, place + _magnitude(there))}e}"
