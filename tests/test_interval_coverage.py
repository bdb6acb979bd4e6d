"""95 % intervals hold the truth at their rate: a light check, and by hand that of every route."""

import numpy as np
import pytest

from . import interval_coverage as of


@pytest.mark.parametrize(
    ("route", "name"),
    [("enumerated", "one example"), pytest.param("reference", "one example", marks=pytest.mark.deep)],
)
def test_intervals_of_a_single_example_hold_the_truth(route, name):
    """40 seeds of 64 draws: at 95 % each, below 32 of 40 has a probability of 2e-4, of all figures below 0.01, as they
    go together. Against a reference they were at 75 to 85 %."""
    rates = {(which, figure): rate for which, figure, rate, noisy, _ in of.coverage(route, name, 64, 40) if not noisy}
    assert len(rates) >= 4 * 8
    assert {at: rate for at, rate in rates.items() if rate < 0.8} == {}
    assert 0.9 <= np.mean(list(rates.values())) <= 0.99


@pytest.mark.deep
@pytest.mark.parametrize("draws", of.DRAWS)
@pytest.mark.parametrize("name", of.PROBLEMS)
@pytest.mark.parametrize("route", of.ROUTES)
def test_intervals_hold_the_truth_or_say_that_they_do_not(route, name, draws):
    """200 seeds: 0.95 +- 0.0154. Of some 1,000 figures none is below 0.86, 5.8 standard errors, but by skew: 0.84."""
    for which, figure, rate, noisy, unseen in of.coverage(route, name, draws, 200):
        if not (noisy or unseen):
            assert rate >= 0.84, (which, figure, rate)
