"""Sweeps that train several cells at once."""

import numpy as np
import pytest

from gradlab import checkpoints, sweeps, training

from .tiny_sweep import BASE, IMAGES, SEEDS, TBS, TFS, VALIDATION, Death, dies_at, sweep

CURVES = ("train_loss", "train_kl", "validation_loss", "validation_kl", "final_validation_loss")


@pytest.fixture
def alone(undisturbed):
    return undisturbed[1]


def assert_alike(found, wanted):
    """Up to the rounding that batched products in float32 leave after few steps."""
    assert (found.status == "done").all()
    for name in CURVES:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4)


@pytest.mark.parametrize("together", [pytest.param(2, marks=pytest.mark.deep), 5, 100])
def test_cells_trained_at_once_are_as_those_trained_alone(alone, tmp_path, together, monkeypatch):
    sizes = []
    train = training.train_together
    monkeypatch.setattr(
        training, "train_together", lambda some, *a, **k: sizes.append(len(some)) or train(some, *a, **k)
    )
    assert_alike(sweep(tmp_path, ensemble=together), alone)
    number = len(TFS) * len(TBS) * len(SEEDS)
    assert max(sizes) == min(together, number)
    assert sum(sizes) in (number, number - 1)  # a last cell left over trains alone


def test_a_cell_begun_in_an_ensemble_goes_on_alone(alone, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        dies_at(patch, checkpoints, "write", 4)
        with pytest.raises(Death):
            sweep(tmp_path, ensemble=3)
    assert_alike(sweep(tmp_path), alone)


def test_a_cell_that_fails_does_not_stop_the_others(alone, tmp_path, monkeypatch):
    train = training.train_together

    def failing(some, *given, **options):
        found = train(some, *given, **options)
        return [
            FloatingPointError("planted") if one.seed == SEEDS[0] else model
            for one, model in zip(some, found, strict=True)
        ]

    monkeypatch.setattr(training, "train_together", failing)
    ds = sweep(tmp_path, ensemble=100)
    assert (ds.status.sel(seed=SEEDS[0]) == "failed").all()
    assert (ds.error.sel(seed=SEEDS[0]) == "planted").all()
    rest = {"seed": list(SEEDS[1:])}
    assert (ds.status.sel(rest) == "done").all()
    np.testing.assert_allclose(ds.final_validation_loss.sel(rest), alone.final_validation_loss.sel(rest), rtol=1e-4)


def test_what_cannot_be_stacked_is_refused_at_once(tmp_path):
    given = {"tf": TFS, "tb": TBS, "seeds": SEEDS}
    with pytest.raises(ValueError, match=r"ensemble: expected .*, got 0"):
        sweeps.sweep(BASE, IMAGES, VALIDATION, tmp_path, **given, ensemble=0)
    with pytest.raises(ValueError, match=r"ensemble: expected none with a scheduler, .* got 2"):
        sweeps.sweep(BASE, IMAGES, VALIDATION, tmp_path, **given, ensemble=2, scheduler="tcp://127.0.0.1:1")
    assert list(tmp_path.iterdir()) == []
