"""What a budget tests, how long trainings take, and results that are judged again."""

import numpy as np
import pytest
import torch
import xarray as xr
from gradlab.analyses import figure2_binary_autoencoder, figure3_vae_8x4, sizing, table1_schedules, trainings

from gradlab import datasets, likelihoods, sweeps
from gradlab.attributes import flattened
from gradlab.training import Run, Settings

from .made_up_sweeps import swept


def verdicts(ds):
    return {v.claim[:3]: v for v in figure3_vae_8x4.Figure3().judge(ds)}


def at_the_budget(**about):
    tf, tb = (figure3_vae_8x4.BUDGETS["paper"].tf,) * 2
    rng = np.random.default_rng(0)
    values = 100 + np.subtract.outer(tb, tf).T[..., None] + 0.1 * rng.normal(size=(len(tf), len(tb), 3))
    return swept(values, tf, tb, **about)


def test_at_the_papers_budget_a_claim_is_judged():
    found = verdicts(at_the_budget())
    assert found["(f)"].verdict == "supported"
    assert found["(f)"].lacks == ""


@pytest.mark.parametrize(
    ("change", "lacks"),
    [
        ({"settings": {"epochs": 8}}, "8 of 160 epochs"),
        ({"images": 10_000}, "10,000 of 60,000 images"),
        ({"validation_images": 2000}, "2,000 of 10,000 validation images"),
        ({"data": "fashion-mnist, train split"}, "data fashion-mnist, not mnist"),
    ],
)
def test_below_it_a_claim_is_not_tested(change, lacks):
    found = verdicts(at_the_budget(**change))
    assert {v.verdict for v in found.values()} == {"not tested at this budget"}
    assert {v.lacks for v in found.values()} == {lacks}
    assert found["(f)"].words.startswith(f"not tested at this budget ({lacks}): tf 3.0, tb 0.3 (mean 97.2")
    assert found["(f)"].whole == verdicts(at_the_budget())["(f)"].whole  # the values stay


def test_pairs_seeds_and_sizes_belong_to_the_budget():
    paper = figure3_vae_8x4.BUDGETS["paper"]
    some = at_the_budget()
    assert trainings.lacking(some, paper, "mnist") == []
    assert trainings.lacking(some.isel(tf=slice(1, None)), paper, "mnist") == ["42 of 49 pairs"]
    assert trainings.lacking(some.isel(seed=slice(2)), paper, "mnist") == ["2 of at least 3 seeds"]
    missing = some.copy(deep=True)
    missing.status[0, 0, 1] = "missing"
    assert trainings.lacking(missing, paper, "mnist") == ["48 of 49 pairs"]
    large = figure2_binary_autoencoder.BUDGETS["paper"]
    small = at_the_budget(settings={"epochs": 100, "config": {"width": 16, "depth": 4}})
    assert "width 16 of 128" in trainings.lacking(small, large, "mnist")
    table = table1_schedules.BUDGETS["paper"]
    texts = [[trainings._text(one) for one in axis] for axis in (table.tf, table.tb)]
    ds = swept(np.zeros((len(table.tf), len(table.tb), 3)), *texts)
    ds = ds.assign_attrs(images=50_000, data="cifar10, train split", **at_sizes(width=128, depth=4))
    assert trainings.lacking(ds, table, "cifar10") == []
    ds.status.loc[{"tf": "1:2", "tb": "1"}] = "missing"
    assert trainings.lacking(ds, table, "cifar10") == ["13 of 14 pairs"]


def at_sizes(**config):
    """The attributes of settings of the paper's epochs and these sizes."""
    return flattened("settings", {"epochs": 100, "config": config})


# --- how long, and how many seeds ---


def stacked(trainings):
    """Seconds of a step: a launch, and a hundredth of a second for each training."""
    return 0.5 + 0.01 * trainings


def test_as_many_seeds_as_fit():
    plan = sizing.plan(10, 100, stacked, asked=10, limit=100.0)
    assert plan.seeds == 5  # 100 (0.5 + 0.5)
    assert plan.seconds == pytest.approx(100.0)
    assert str(plan) == (
        "50 trainings (10 pairs, 5 seeds) of 100 steps take about 1:40 min, in the 1:40 min given;"
        " the 10 seeds asked for take about 2:30 min"
    )
    assert sizing.plan(10, 100, stacked, asked=3, limit=99.9).seeds == 4  # more than asked where there is time
    alone = sizing.plan(10, 100, stacked, asked=3, limit=None)
    assert str(alone) == "30 trainings (10 pairs, 3 seeds) of 100 steps take about 80 s"


def test_where_not_even_one_seed_fits_it_says_so():
    plan = sizing.plan(10, 100, stacked, asked=3, limit=30.0)
    assert plan.seeds == 1
    assert str(plan) == (
        "10 trainings (10 pairs, 1 seed) of 100 steps take about 60 s; not even one seed fits into the 30 s given;"
        " the 3 seeds asked for take about 80 s"
    )


@pytest.mark.parametrize(
    ("seconds", "words"), [(34.4, "34 s"), (100, "1:40 min"), (754, "13 min"), (9000, "2:30:00 h")]
)
def test_durations(seconds, words):
    assert sizing.duration(seconds) == words


def test_the_cost_of_trainings_is_measured(monkeypatch):
    """By a clock that moves on 3 s with each step and 5 s with each validation."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def timed(function, seconds):
        def called(*given):
            clock[0] += seconds
            return function(*given)

        return called

    monkeypatch.setattr(Run, "one_step", timed(Run.one_step, 3.0))
    monkeypatch.setattr(Run, "validate", timed(Run.validate, 5.0))
    images = datasets.load("mnist-sample").first(90)
    settings = [Settings(epochs=1, batch_size=10, tf=tf) for tf in (0.5, 1.0)]
    cost = sizing.measured(settings, images, images.first(20), "cpu", workers=2, tf32=False)
    assert cost(8) == pytest.approx(8 * (3 + 5 / 9) / 2)


@pytest.mark.parametrize(("fit", "few", "many"), [(1000, 50, 150), (10, 4, 10), (1, 1, 1)])
def test_on_a_gpu_a_stack_of_more_trainings_takes_less_for_each(monkeypatch, fit, few, many):
    """Of a step that takes half a second and a hundredth for each training, where more than one fit the memory."""
    counts = []

    def of(settings, *given):
        counts.append(len(settings))
        return stacked(len(settings))

    monkeypatch.setattr(sizing, "step_seconds", of)
    monkeypatch.setattr(sizing, "most_together", lambda *given: fit)
    cost = sizing.measured([Settings(tf=tf) for tf in (0.5, 1.0)], None, None, "cuda", workers=1, tf32=True)
    assert counts == [few, many]
    assert cost(490) == pytest.approx(stacked(490) if fit > 1 else 490 * stacked(1))


# --- what is collected ---


def test_the_loss_without_a_code_is_that_of_the_mean_image():
    """By hand: two pixels, one that is 0 in all three training images, (0 + 1/2)/(3 + 1), and one of mean 1/3."""
    train = made_of([[0, 0], [0, 255], [0, 0]])
    validation = made_of([[255, 0], [0, 255]])
    bernoulli = sweeps.loss_without_code(likelihoods.resolve("bernoulli"), train, validation)
    p, q = 0.5 / 4, 1.5 / 4
    assert bernoulli == pytest.approx(-(np.log(p * (1 - q)) + np.log((1 - p) * q)) / 2)
    gaussian = sweeps.loss_without_code(likelihoods.resolve("gaussian"), train, validation)
    assert gaussian == pytest.approx((1 + (1 / 3) ** 2 + (2 / 3) ** 2) / 4)


def made_of(rows):
    return datasets.Images(torch.tensor(rows, dtype=torch.uint8)[:, None], "made up", "test", "")


def test_curves_are_thinned_and_last_figures_kept():
    epochs = np.arange(1, 161)
    ds = xr.Dataset(
        {"validation_loss": ("epoch", 1 / epochs, {"units": "nats"}), "final_validation_loss": ((), 1 / 160)},
        {"epoch": epochs},
    )
    some = trainings.thinned(ds)
    assert some.epoch.values[:6].tolist() == [1, 2, 3, 4, 5, 6]
    assert some.epoch.values[-1] == 160
    assert 20 < some.sizes["epoch"] <= 32
    assert some.validation_loss.dtype == np.float32
    assert some.validation_loss.attrs == {"units": "nats"}
    np.testing.assert_allclose(some.validation_loss, ds.validation_loss.sel(epoch=some.epoch), rtol=1e-7)
    assert float(some.final_validation_loss) == 1 / 160
