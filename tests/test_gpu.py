"""The numbers of a GPU are those of the CPU, and its loops do not wait for the host. Skipped where there is no GPU."""

import contextlib
import copy
import dataclasses
import math
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import gradlab
from gradlab import datasets, estimators, exact, moments, parallel, sampling, training
from gradlab.fidelity import gap_analysis
from gradlab.moments import exact as exact_module
from gradlab.numerics import plain_arithmetic
from gradlab.sampling import straight_through_moments
from gradlab.training import engines

from . import own_layers, problems

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICE = "cuda"
NAMES = ["3x5-bernoulli-mlp", "2x7-gaussian-conv", "3x5-own-mlp", "binary6-bernoulli-mlp"]
FIGURES = ["relative_bias", "relative_bias_debiased", "relative_std", "cosine", "matched_bias"]


@pytest.fixture
def same_noise(monkeypatch):
    """Noise is made on the CPU, wherever it is wanted."""
    own = sampling.Noise._make

    def make(self, arrays, draws):
        elsewhere = copy.copy(self)
        elsewhere.like = self.like.cpu()
        return own(elsewhere, arrays, draws).to(self.like.device)

    monkeypatch.setattr(sampling.Noise, "_make", make)


@contextlib.contextmanager
def no_waiting():
    """Whatever waits for the GPU raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def on_both(name):
    """A problem's model and images here, and there."""
    problem = problems.make(name)
    there = copy.deepcopy(problem.model).to(DEVICE)
    return (problem.model, problem.x), (there, problem.x.to(DEVICE))


FLOAT64 = 1e-9  # rounding of sums of some 10^5 terms in another order, with a thousandfold margin
FLOAT32 = 1e-3  # not rounding alone (1e-6): a code that is nearly a tie may fall the other way


def close(found, wanted, rtol=FLOAT64):
    """By the norm over all coordinates."""
    found, wanted = (torch.as_tensor(np.asarray(a.cpu() if torch.is_tensor(a) else a)) for a in (found, wanted))
    off = float((found - wanted).nan_to_num().norm()) / (float(wanted.nan_to_num().norm()) or 1.0)
    assert torch.equal(found.isnan(), wanted.isnan())
    assert off < rtol, off


def same_figures(found, wanted, rtol):
    for name in FIGURES:
        close(found[name], wanted[name], rtol)


# exact gradients


@pytest.mark.parametrize("target", exact.TARGETS)
@pytest.mark.parametrize("memory", [None, 20_000])
@pytest.mark.parametrize("name", problems.EXACT)
def test_exact_gradients(name, memory, target):
    here, there = on_both(name)
    found = gradlab.exact_gradient(*there, 0.7, target, kl=True, memory=memory)
    assert found.is_cuda
    close(found, gradlab.exact_gradient(*here, 0.7, target, kl=True, memory=memory), 1e-11)


def test_float32_is_within_its_bound():
    here, there = on_both("8x4-bernoulli-mlp")
    found, bound = gradlab.exact_gradient(*there, 0.7, dtype=torch.float32, return_error=True)
    off = (found.cpu() - gradlab.exact_gradient(*here, 0.7)).flatten(1).norm(dim=1)
    assert (off <= bound.cpu()).all()
    assert (off > 0).all()


def test_float32_is_no_tensorfloat32():
    """With 10 bits a decoder's derivatives are off by more than 1e-5, with 23 bits by less; whatever the caller set."""
    model, x = gradlab.bundled("vae-8x4-mnist"), datasets.load("mnist-sample").first(20).floats()

    def estimates(tf32=False):
        compute = gradlab.Compute(device=DEVICE, tf32=tf32)
        return gradlab.bias(model, x, 1.6, 1.3, draws=64, compute=compute).mean_gradient.to_numpy()

    plain, fewer_bits = estimates(), estimates(tf32=True)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert np.array_equal(estimates(), plain)
    finally:
        torch.set_float32_matmul_precision(before)
    assert np.linalg.norm(fewer_bits - plain) > 1e-5 * np.linalg.norm(plain)


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "2x7-gaussian-conv"])
def test_enumeration_does_not_wait(name, monkeypatch):
    _, (model, x) = on_both(name)
    gradlab.exact_gradient(model, x, memory=20_000)
    steps = []

    @contextlib.contextmanager
    def bar(*given):
        with no_waiting():
            yield steps.append

    monkeypatch.setattr(exact, "bar", bar)
    gradlab.exact_gradient(model, x, memory=20_000)
    assert len(steps) > 3


class InfiniteAt(nn.Module):
    """A decoder whose outputs are infinite where the first latent has its first category, the last its last."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, z):
        at = (z[:, 0, 0] > 0.5) & (z[:, -1, -1] > 0.5)
        return torch.where(at[:, None, None, None], torch.inf, self.decoder(z))


@pytest.mark.parametrize("memory", [None, 20_000])
def test_what_is_not_finite_is_named_though_it_is_found_late(memory):
    _, (model, x) = on_both("3x5-bernoulli-mlp")
    model.decoder = InfiniteAt(model.decoder)
    with pytest.raises(ValueError, match=r"losses: .*, got nan at example 0, configuration \(0, 0, 0, 0, 2\)"):
        gradlab.exact_gradient(model, x, memory=memory)
    with torch.no_grad():
        logits = model.logits(x)
    with pytest.raises(ValueError, match=r"losses: .*, got (inf|nan) at example 0"):
        moments.exact_moments(
            problems.setup_of(model, x, logits, memory=100_000), [estimators.get("reinmax").at(0.5, 1.0)]
        )


# sampled moments


@pytest.mark.parametrize("route", ["auto", "table", "pairs", "draws"])
@pytest.mark.parametrize("name", NAMES)
def test_sampled_moments(name, route, same_noise):
    (model, x), (there, x_there) = on_both(name)
    several = [
        e.at(tf, tb)
        for e in map(estimators.get, estimators.names())
        if model.kind.name in e.kinds
        for tf, tb in ((0.5, 1.3), (1.6, 0.4))
    ]
    if route == "table" and "own" in name:
        return  # an own likelihood has none
    found = []
    for m, images in ((model, x), (there, x_there)):
        with torch.no_grad():
            logits = m.logits(images)
        noise = sampling.Noise(m.kind, logits, max(e.noise_arrays for e in several), 70, 3)
        found.append(sampling.sample_moments(problems.setup_of(m, images, logits), several, noise, decoder=route))
    for wanted, own in zip(*found, strict=True):
        close(own.mean, wanted.mean)
        close(own.squares, wanted.squares)


def test_grids_do_not_wait(monkeypatch):
    _, (model, x) = on_both("3x5-bernoulli-mlp")
    own, grids = parallel.each, []

    def each(*given, **options):
        with no_waiting():
            yield from own(*given, **options)
        grids.append(given)

    monkeypatch.setattr(straight_through_moments.parallel, "each", each)
    gradlab.bias(model, x, [0.5, 1.0], [0.5, 1.0], draws=64)
    assert grids


def waits(call):
    """How often the host waits for the GPU."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


def test_a_grid_waits_as_often_as_a_point():
    _, (model, x) = on_both("3x5-bernoulli-mlp")
    of = [[1.0], [0.5, 0.8, 1.0, 1.6]]
    point, grid = (waits(lambda ts=ts: gradlab.bias(model, x, ts, ts, draws=64)) for ts in of)
    assert 0 < grid <= point + 2


@pytest.mark.parametrize("wrt", ["logits", "encoder"])
def test_bias(wrt, same_noise):
    model, x = gradlab.bundled("vae-8x4-mnist"), datasets.load("mnist-sample").first(10).floats()
    given = {"draws": 64, "target": "both", "wrt": wrt, "estimator": ["decoupled-st-gs", "rloo", "zgr"]}
    wanted, found = (
        gradlab.bias(model, x, [0.5, 1.6], [0.4, 1.3], **given, compute=gradlab.Compute(device=d))
        for d in ("cpu", DEVICE)
    )
    assert found.attrs["device"] != wanted.attrs["device"]
    same_figures(found, wanted, FLOAT32)


def test_the_same_seed_gives_the_same_numbers():
    model, x = gradlab.bundled("vae-8x4-mnist"), datasets.load("mnist-sample").first(10).floats()
    one, other, small = (
        gradlab.bias(model, x, 1.6, 1.3, draws=64, compute=gradlab.Compute(device=DEVICE, memory=memory))
        for memory in (None, None, 2**21)
    )
    assert one.mean_gradient.equals(other.mean_gradient)
    close(small.mean_gradient, one.mean_gradient, 1e-5)


def test_noise_made_there_agrees_within_standard_errors():
    """Largest of some 300 t values of independent noise; beyond 5 by chance with probability 2e-4."""
    problem = problems.make("8x4-bernoulli-mlp")
    draws = 20_000
    here, there = (
        gradlab.bias(problem.model, problem.x, 1.6, 1.3, draws=draws, seed=7, compute=gradlab.Compute(device=d))
        for d in ("cpu", DEVICE)
    )
    error = np.sqrt(2 / draws) * here.std_gradient
    t = np.abs((there.mean_gradient - here.mean_gradient) / error).to_numpy()
    assert 1.0 < t.max() < 5.0
    assert np.abs(there.std_gradient / here.std_gradient - 1).to_numpy().max() < 0.2


# exact moments


@pytest.mark.parametrize("name", NAMES)
def test_exact_moments(name):
    (model, x), (there, x_there) = on_both(name)
    several = [
        e.at(tf, tb)
        for e in map(estimators.get, estimators.names())
        if model.kind.name in e.kinds and moments.supported(e)
        for tf, tb in ((0.5, 1.3), (1.6, 0.4))
    ]
    found = []
    for m, images in ((model, x), (there, x_there)):
        with torch.no_grad():
            logits = m.logits(images)
        found.append(moments.exact_moments(problems.setup_of(m, images, logits), several))
    for wanted, own in zip(*found, strict=True):
        close(own.mean, wanted.mean)
        close(own.variance, wanted.variance)


def test_exact_moments_do_not_wait():
    _, (model, x) = on_both("3x5-bernoulli-mlp")
    several = [estimators.get(name).at(0.5, 1.3) for name in ("decoupled-st-gs", "reinmax", "rloo")]
    with torch.no_grad():
        logits = model.logits(x)
    done, total = [], exact_module.steps(several)
    waiting = contextlib.ExitStack()

    def advance(share):
        done.append(share)
        if len(done) == 1:
            waiting.enter_context(no_waiting())
        if math.isclose(sum(done), 1.0):  # the enumeration is over
            waiting.close()

    with waiting:
        moments.exact_moments(problems.setup_of(model, x, logits, memory=100_000), several, advance=advance)
    assert len(done) > total + 3


# spaces too large


def test_bias_against_a_sampled_reference(same_noise):
    model, x = gradlab.bundled("binary-ae-mnist"), datasets.load("mnist-sample").first(2).floats()
    given = {"draws": 64, "reference": "disarm"}
    wanted, found = (
        gradlab.bias(model, x, 0.3, [0.3, 1.0], **given, compute=gradlab.Compute(device=d)) for d in ("cpu", DEVICE)
    )
    for name in ("relative_bias_debiased", "relative_std"):
        close(found[name], wanted[name], FLOAT32)


def test_gap(same_noise):
    model, x = gradlab.bundled("binary-ae-mnist"), datasets.load("mnist-sample").first(4).floats()
    wanted, found = (
        gradlab.gap(model, x, [0.3, 1.0], [0.3, 1.0], draws=4, compute=gradlab.Compute(device=d))
        for d in ("cpu", DEVICE)
    )
    for name in ("gap", "gap_per_example"):
        close(found[name], wanted[name], FLOAT32)


@pytest.mark.parametrize("estimator", ["decoupled-st-gs", "ste"])
def test_blocks_of_a_gap_do_not_wait(estimator, monkeypatch):
    _, (model, x) = on_both("3x5-bernoulli-mlp")
    model, x = model.float(), x.float()
    own, blocks = gap_analysis._measure, []

    def measured(*given):
        with no_waiting():
            blocks.append(own(*given))
        return blocks[-1]

    monkeypatch.setattr(gap_analysis, "_measure", measured)
    compute = gradlab.Compute(memory=10_000)
    gradlab.gap(model, x, [0.5, 1.0], [0.5, 1.0], estimator=estimator, draws=16, compute=compute)
    assert len(blocks) > 4


def test_tensorfloat32_convolutions_are_measured_if_asked_for():
    """They are no rows that mix, though the sums of a row depend on how many there are."""
    model, x = gradlab.bundled("binary-ae-mnist"), datasets.load("mnist-sample").first(4).floats()
    plain, fewer_bits = (
        gradlab.gap(model, x, 0.3, 1.0, draws=4, compute=gradlab.Compute(device=DEVICE, tf32=t)).gap
        for t in (False, True)
    )
    off = np.abs(fewer_bits / plain - 1).to_numpy()
    assert (off > 1e-6).all()
    assert (off < 0.05).all()


# training, and the command line


def test_training():
    """With the noise of the other, ten steps give the same encoder, within 2 % of what they moved it by.

    RAdam divides by the root of the squared gradient, so where that is rounding alone, steps are of its sign.
    """
    images = datasets.load("mnist-sample")
    here, there = (training.Run(training.Settings(), images, images.first(10), d) for d in ("cpu", DEVICE))
    there.noise = lambda estimator, x: here.noise(estimator, x.cpu()).to(DEVICE)
    start = torch.cat([p.detach().flatten().clone() for p in here.model.encoder.parameters()])
    for batch in torch.arange(len(images)).split(50)[:10]:
        there.one_step(batch)  # takes the other's noise of this step
        here.one_step(batch)
    moved = [torch.cat([p.detach().flatten() for p in run.model.encoder.parameters()]).cpu() for run in (here, there)]
    close(moved[1] - start, moved[0] - start, 0.02)


STACKS = {
    "schedules and learning rates": [
        training.Settings(seed=1),
        training.Settings(seed=2, tf="1:0.3", lr=1e-3),
        training.Settings(seed=1, tb="2:0.3:cosine", estimator="reinmax"),
    ],
    "running means": [
        training.Settings(seed=i, estimator=f"reinforce:baseline=running-mean,decay={0.9 - 0.4 * i}") for i in range(2)
    ],
    "several evaluations": [training.Settings(seed=i, estimator=name) for i, name in enumerate(("rebar", "rloo:n=3"))],
    "convolutions": [dataclasses.replace(training.BINARY_AUTOENCODER, seed=i, tf=0.3 + i) for i in range(2)],
}


@pytest.mark.parametrize("name", STACKS)
def test_a_captured_step_is_the_plain_one(name, recwarn):
    """Over two epochs, whose last batch is smaller: counters, schedules and running means move in the graph."""
    images = datasets.load("mnist-sample").first(250)
    weights = []
    for captured in (True, False):
        with plain_arithmetic():
            runs = [training.Run(own, images, images.first(20), DEVICE) for own in STACKS[name]]
            engine = engines.Stacked(runs) if captured else engines.InTurn(runs)
            for _ in range(2):
                engine.epoch(threading.Event(), lambda *given, **named: None)
                assert all(map(engine.finite, runs))
            weights.append([torch.cat([p.detach().flatten() for p in run.model.parameters()]) for run in runs])
    assert not [w for w in recwarn if "not captured" in str(w.message)]
    for own, alone in zip(*weights, strict=True):
        close(own, alone, 1e-4)


def test_the_command_line(run):
    given = ("--images", "10", "--draws", "64", "--device", DEVICE, "--out", "bias.h5")
    ran = run("bias", "--tf", "1.6", "--tb", "1.3", *given)
    assert ran.code == 0, ran.err
    assert gradlab.open_results("bias.h5").attrs["device"].startswith(DEVICE)


@pytest.mark.parametrize("name", ["decoupled", "one-hot-straight-through", "two-gumbels", "module"])
def test_a_layer_of_your_own_gives_the_figures_of_the_cpu(name, same_noise):
    written = next(w for w in own_layers.CORRECT if w.name == name)
    problem = problems.make("binary6-bernoulli-mlp" if "binary" in written.kinds else "3x2-bernoulli-mlp")
    found = [
        gradlab.bias(
            problem.model, problem.x, tb=0.7, draws=64, estimator=written.estimator(), compute=gradlab.Compute(device=d)
        )
        for d in ("cpu", DEVICE)
    ]
    for figure in FIGURES:
        np.testing.assert_allclose(found[0][figure], found[1][figure], rtol=1e-5, err_msg=figure)
