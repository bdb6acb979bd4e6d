"""When a monitor measures: never more than its share of the time, with a clock that the test moves."""

import subprocess
import sys

import pytest
import torch

from gradlab.monitoring.budget import Budget

from . import loops
from .test_monitor import monitored


def simulated(share, base, pace, cost, steps, first=0.0):
    """The steps at which a budget allows a measurement of `cost` seconds, of a training of `pace` seconds a step."""
    now, made = 0.0, []
    budget = Budget(share, base, clock=lambda: now)
    for step in range(steps):
        now += pace
        began = now
        budget.begin(step, began)
        if budget.allows(step, now):
            now += cost(step) + (0 if made else first)
            budget.measured(step, began)
            made.append(step)
        budget.end(began)
    return budget, made


def test_a_cheap_measurement_is_made_every_so_many_steps():
    budget, made = simulated(0.02, 500, 0.1, lambda step: 0.2, 3_000)
    assert made == [0, 500, 1000, 1500, 2000, 2500]
    assert budget.every == 500
    assert budget.overhead == pytest.approx(1.2 / (2_999 * 0.1 + 1.2), rel=1e-6)


def test_every_grows_where_a_measurement_is_long_beside_the_steps():
    budget, made = simulated(0.02, 10, 0.001, lambda step: 0.5, 200_000)
    assert budget.overhead <= 0.02
    assert budget.overhead >= 0.012  # and the share that is allowed is used
    assert budget.every >= 0.5 * 0.98 / (0.02 * 0.001)
    assert all(step % 10 == 0 for step in made)


def test_the_first_measurement_counts_and_is_paid_back():
    budget, made = simulated(0.02, 1, 0.01, lambda step: 0.01, 60_000, first=3.0)
    assert made[1] > 0.98 * 3.0 / 0.02 / 0.01  # after a hundred and fifty seconds
    assert budget.every < 100  # the second one tells what the later ones take
    assert budget.overhead <= 0.02


def test_measurements_that_become_slower_keep_below():
    budget, _ = simulated(0.05, 1, 0.01, lambda step: 0.02 if step < 10_000 else 0.5, 60_000)
    assert budget.overhead <= 0.05


@pytest.mark.parametrize(("share", "count"), [(0, 0), (1, 10)])
def test_no_budget_and_no_limit(share, count):
    budget, made = simulated(share, 1, 0.001, lambda step: 5.0, 10)
    assert len(made) == count
    assert budget.overhead <= share


def test_making_a_monitor_loads_what_its_first_measurement_needs(tmp_path):
    """A process of its own, which has loaded nothing before."""
    script = """
import sys, torch, gradlab
model, x = gradlab.bundled("vae-8x4-mnist"), torch.rand(4, 1, 28, 28)
before = torch.random.get_rng_state()
monitor = gradlab.Monitor(model, draws=4, out="x.h5")
assert torch.equal(before, torch.random.get_rng_state())
loaded = set(sys.modules)
found = monitor.step(x)
print(bool(found), sorted(sys.modules.keys() - loaded))
"""
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (ran.stdout.strip(), ran.returncode) == ("True []", 0)


def test_a_monitor_without_a_budget_measures_nothing():
    monitor = monitored(loops.model_of("plain"), budget=0, every=1)
    assert [monitor.step(torch.rand(4, loops.PIXELS)) for _ in range(3)] == [{}] * 3
    assert monitor.overhead < 1
    assert monitor.results is None


def test_a_monitor_in_a_fast_loop_keeps_below_its_budget_once_the_first_is_paid_back(monkeypatch):
    """Time is what the monitor's own clock tells: here each look at it lasts a millisecond, each measurement more."""
    monitor = monitored(loops.model_of("plain"), budget=0.2, every=1)
    now = 0.0

    def clock():
        nonlocal now
        now += 0.001
        return now

    def measured(x, step):
        nonlocal now
        now += 0.3
        return {"cosine": 1.0}

    monkeypatch.setattr(monitor._budget, "clock", clock)
    monkeypatch.setattr(monitor, "_measured", measured)
    found = []
    for _ in range(2_000):
        now += 0.01
        found.append(monitor.step(torch.rand(4, loops.PIXELS)))
    assert found[0]
    assert sum(map(bool, found)) > 5
    assert monitor.overhead <= 0.2
    assert monitor.every > 50
