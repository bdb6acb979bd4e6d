"""Temperatures are the decimals that were meant, however they came: a coordinate is selected by its value."""

import numpy as np
import pytest
import torch

import gradlab
from gradlab import errors

TENTHS = [round(0.1 * i, 1) for i in range(3, 31)]  # 0.3 to 3.0

GIVEN = {
    "np.arange": np.arange(0.3, 3.05, 0.1),
    "np.linspace": np.linspace(0.3, 3.0, 28),
    "np.linspace, float32": np.linspace(0.3, 3.0, 28, dtype=np.float32),
    "torch.linspace": torch.linspace(0.3, 3.0, 28),
    "torch.linspace, float64": torch.linspace(0.3, 3.0, 28, dtype=torch.float64),
    "torch.arange": torch.arange(3, 31) / 10,
    "a list of a float32 tensor": torch.linspace(0.3, 3.0, 28).tolist(),
    "sums": [0.3 + 0.1 * i for i in range(28)],
}


@pytest.mark.parametrize("given", GIVEN)
def test_tenths_are_tenths(given):
    assert errors.temperatures("tf", GIVEN[given]) == TENTHS
    assert list(map(float, GIVEN[given])) != TENTHS


@pytest.mark.parametrize(
    "number", [1 / 3, 2 / 7, 0.123456789, 1.3, 5e-324, 1.7e308, 4.0625, 0.15625, 1 + 2**-10, 2.0**-20, 0.1234567890123]
)
def test_other_numbers_are_as_they_were(number):
    assert errors.temperature("tf", number) == number
    assert errors.temperatures("tf", [number, 2 * min(number, 1.0)])[0] == number


def test_what_rounds_to_the_same_is_one_temperature():
    with pytest.raises(ValueError, match=r"tf: expected distinct temperatures, got"):
        errors.temperatures("tf", [0.9, 0.8999999999999999])


def test_results_are_selected_by_what_was_meant():
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    model = gradlab.bundled("vae-8x4-mnist")
    tf, tb = np.arange(0.7, 1.05, 0.1), torch.linspace(0.3, 1.2, 4)
    ds = gradlab.bias(model, x, tf, tb, cross=(0.1 * 9, np.float32(0.6)), draws=2)
    assert ds.tf.values.tolist() == [0.7, 0.8, 0.9, 1.0]
    assert ds.sel(tf=0.9, tb=0.6).relative_bias.notnull()
    assert (ds.attrs["tf_fixed"], ds.attrs["tb_fixed"]) == (0.9, 0.6)
    assert gradlab.gap(model, x, tf, tb, draws=2).sel(tf=0.9, tb=0.6).sizes["definition"] == 2
    exact = gradlab.exact_gradient(model, x, tf=0.1 * 9)
    assert torch.equal(exact, gradlab.exact_gradient(model, x, tf=0.9))


@pytest.mark.parametrize("cross", [(0.9, 0.5), (0.9,), "0.9", (0.9, "x"), (0.9, -1.0)])
def test_a_cross_through_no_point_is_refused(cross):
    x = torch.zeros(2, 1, 28, 28)
    with pytest.raises(ValueError, match=r"cross: expected .*, got"):
        gradlab.bias(gradlab.bundled("vae-8x4-mnist"), x, [0.9], [0.6], cross=cross, draws=2)
