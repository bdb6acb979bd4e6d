"""The gradient gap against plain autograd, in its limits, and its intervals."""

import numpy as np
import pytest
import torch
from torch import nn

import gradlab
from gradlab import LatentModel, checks, errors, networks
from gradlab.fidelity import gap_analysis
from gradlab.fidelity.differences import change
from gradlab.latents import CATEGORICAL
from gradlab.sampling import Noise
from gradlab.setup import encode

from . import late_reads, oracles, problems

TFS, TBS = [0.4, 1.0, 2.5], [0.6, 1.0, 4.0]
CHECKED = ["3x5-bernoulli-mlp", "2x7-gaussian-conv", "8x4-bernoulli-mlp", "4x1-own-mlp", "binary6-bernoulli-mlp"]


def noise_of(model, x, draws, seed=0):
    logits = encode(model, x)
    return Noise(model.kind, logits, 1, draws, seed).of(1, 0, draws)[0]


def expected(model, x, tf, tb, noise):
    """Figures by definition from autograd's gradients, plainly: (draw, example) arrays."""
    gradients = {k: v.flatten(2).double() for k, v in oracles.gap_gradients(model, x, tf, tb, noise).items()}
    d = gradients["discrete"]
    found = {}
    for definition in ("autodiff", "shared-backward"):
        r = gradients[definition]
        gap = (r - d).norm(dim=-1)
        found[definition] = {
            "gap": gap,
            "squared_gap": gap**2,
            "relative_gap": gap / d.norm(dim=-1),
            "cosine": (r * d).sum(-1) / (r.norm(dim=-1) * d.norm(dim=-1)),
            "discrete_norm": d.norm(dim=-1),
            "relaxed_norm": r.norm(dim=-1),
        }
    return found


def assert_same(ds, model, x, draws, tolerance, seed=0):
    noise = noise_of(model, x, draws, seed)
    for tf in ds.tf.values:
        for tb in ds.tb.values:
            for definition, figures in expected(model, x, float(tf), float(tb), noise).items():
                at = ds.sel(definition=definition, tf=tf, tb=tb)
                for name, values in figures.items():
                    np.testing.assert_allclose(at[name], values.mean().item(), rtol=tolerance, err_msg=name)
                per_example = figures["gap"].mean(0).numpy()
                np.testing.assert_allclose(at.gap_per_example, per_example, rtol=tolerance)
                pooled = (figures["squared_gap"].mean() / figures["discrete_norm"].square().mean()).sqrt()
                np.testing.assert_allclose(at.relative_gap_pooled, pooled.item(), rtol=tolerance)


@pytest.mark.filterwarnings("ignore::gradlab.cautions.SamplingWarning")  # few draws: those of the loop, one by one
@pytest.mark.parametrize("name", CHECKED)
def test_against_autograd_float64(name):
    p = problems.make(name)
    ds = gradlab.gap(p.model, p.x, TFS, TBS, draws=5)
    assert_same(ds, p.model, p.x, 5, 1e-10)


@pytest.mark.filterwarnings("ignore::gradlab.cautions.SamplingWarning")  # few draws: those of the loop, one by one
@pytest.mark.parametrize("name", CHECKED)
def test_against_autograd_float32(name):
    p = problems.make(name, torch.float32)
    ds = gradlab.gap(p.model, p.x, TFS, TBS, draws=5)
    assert ds.attrs["dtype"] == "float32"
    assert_same(ds, p.model, p.x, 5, 1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_against_autograd_on_the_binary_autoencoder(dtype, tolerance):
    model = networks.build("binary-autoencoder", {"width": 4, "depth": 1}, seed=3).to(dtype)
    x = gradlab.datasets.load("mnist-sample").first(3).floats().to(dtype)
    ds = gradlab.gap(model, x, [0.5, 1.5], [0.7, 2.0], draws=2)
    assert ds.attrs["latents"] == 2048
    assert_same(ds, model, x, 2, tolerance)


def test_the_oracle_could_fail():
    """Other noise, or one definition for the other, is far outside the tolerance."""
    p = problems.make("3x5-bernoulli-mlp")
    ds = gradlab.gap(p.model, p.x, TFS, TBS, draws=5)
    with pytest.raises(AssertionError):
        assert_same(ds, p.model, p.x, 5, 1e-2, seed=1)
    with pytest.raises(AssertionError):
        assert_same(ds.assign_coords(definition=ds.definition.values[::-1]), p.model, p.x, 5, 1e-2)


# --- limits ---


def separated(model, gap=1.0):
    """The model with logits of one category (unit) at least `gap` above the others."""

    class Separated(nn.Module):
        def __init__(self, encoder):
            super().__init__()
            self.encoder = encoder

        def forward(self, x):
            logits = self.encoder(x)
            if model.binary:
                return logits + gap * torch.sign(logits)
            shaped = logits.reshape(len(x), *model.code_shape)
            best = torch.nn.functional.one_hot(shaped.argmax(-1), model.categories)
            return shaped + gap * best

    size = {"latents": model.latents, "categories": model.categories, "binary": model.binary}
    return LatentModel(Separated(model.encoder), model.decoder, likelihood=model.likelihood, **size)


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "binary6-bernoulli-mlp"])
def test_relaxed_and_discrete_pass_agree_as_tf_falls(name):
    """zf -> z: the shared-backward gap vanishes; the autodiff gradient vanishes, so that its gap is |d|."""
    p = problems.make(name)
    model = separated(p.model)
    with pytest.warns(gradlab.cautions.SamplingWarning, match="every code certain|near-deterministic"):
        ds = gradlab.gap(model, p.x, [0.02, 0.05, 0.5], 1.0, draws=20).squeeze("tb")
    shared = ds.relative_gap.sel(definition="shared-backward").values
    assert shared[2] > 1e-2
    assert shared[0] < 1e-12
    assert shared[0] < shared[1] < 1e-3 * shared[2]
    np.testing.assert_allclose(ds.cosine.sel(definition="shared-backward", tf=0.02), 1, atol=1e-12)
    np.testing.assert_allclose(ds.relative_gap.sel(definition="autodiff", tf=0.02), 1, atol=1e-12)


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "binary6-bernoulli-mlp"])
def test_all_vanishes_as_both_temperatures_fall(name):
    """Saturated codes: both gradients tend to 0, then are exactly 0, and nothing is relative to them."""
    p = problems.make(name)
    model = separated(p.model)
    with pytest.warns(gradlab.cautions.SamplingWarning, match="At tf = 0.02, 5 of 5 examples have every code certain"):
        small = gradlab.gap(model, p.x, 0.02, 0.02, draws=10)
    assert float(small.gap.max()) < 1e-12
    assert float(small.discrete_norm.max()) < 1e-12
    with pytest.warns(gradlab.cautions.SamplingWarning, match="At tf = 0.001, 5 of 5 examples have every code certain"):
        nothing = gradlab.gap(model, p.x, 0.001, 0.001, draws=10)
    assert (nothing.gap == 0).all()
    assert (nothing.undefined == 1).all()
    assert nothing.relative_gap.isnull().all()
    assert nothing.cosine.isnull().all()


def linear_loss(parameters, x):
    return (parameters.flatten(1) * x.flatten(1)).sum(1)


@pytest.mark.parametrize("binary", [False, True])
def test_a_loss_linear_in_the_code_has_no_shared_backward_gap(binary):
    """v is constant: the shared-backward gap is 0; the autodiff one is |J(zf)/tf v - J(qb)/tb v|, 0 at tf = tb."""
    p = problems.make("binary6-bernoulli-mlp" if binary else "3x5-bernoulli-mlp")
    m = p.model
    codes = int(np.prod(m.code_shape))
    decoder = nn.Sequential(nn.Flatten(), nn.Linear(codes, 16, dtype=torch.float64))
    size = {"latents": m.latents, "categories": m.categories, "binary": binary}
    model = LatentModel(m.encoder, decoder, likelihood=linear_loss, **size)
    ds = gradlab.gap(model, p.x, TFS, TBS, draws=7)
    shared = ds.sel(definition="shared-backward")
    assert float(shared.relative_gap.max()) < 1e-13
    np.testing.assert_allclose(shared.cosine, 1, rtol=1e-13)
    assert float(ds.sel(definition="autodiff", tf=1.0, tb=1.0).relative_gap) < 1e-13
    assert float(ds.sel(definition="autodiff", tf=0.4, tb=4.0).relative_gap) > 0.1
    # v = W^T x, so the autodiff gap needs no decoder
    weight = decoder[1].weight.detach()
    v = (p.x.flatten(1) @ weight).reshape(len(p.x), *m.code_shape)
    g, logits = noise_of(model, p.x, 7), encode(model, p.x)
    pulled = [m.kind.pullback(m.kind.soft(logits / t + g), v.expand_as(g)) / t for t in (0.4, 4.0)]
    wanted = (pulled[0] - pulled[1]).flatten(2).norm(dim=-1).mean()
    np.testing.assert_allclose(ds.gap.sel(definition="autodiff", tf=0.4, tb=4.0), wanted, rtol=1e-12)


def test_a_linear_decoder_with_squared_error_has_the_gap_of_its_hessian():
    """v(zf) - v(z) = (2/pixels) W^T W (zf - z)."""
    p = problems.make("2x7-gaussian-conv")
    m = p.model
    decoder = nn.Sequential(nn.Flatten(), nn.Linear(14, 16, dtype=torch.float64))
    model = LatentModel(m.encoder, decoder, latents=7, categories=2, likelihood="gaussian")
    tf, tb = 0.7, 1.9
    ds = gradlab.gap(model, p.x, tf, tb, draws=9)
    g, logits = noise_of(model, p.x, 9), encode(model, p.x)
    zf, q = (torch.softmax(logits / t + g, -1) for t in (tf, tb))
    off = (zf - oracles.one_hot_argmax(zf)).flatten(2)
    weight = decoder[1].weight.detach()
    dv = (2 / 16 * off @ weight.T @ weight).unflatten(-1, (7, 2))
    j = torch.diag_embed(q) - q[..., :, None] * q[..., None, :]
    wanted = (j @ dv[..., None])[..., 0].flatten(2).norm(dim=-1).mean() / tb
    np.testing.assert_allclose(ds.gap.sel(definition="shared-backward").squeeze(), wanted, rtol=1e-11)


@pytest.mark.parametrize("name", ["3x5-own-mlp", "binary6-bernoulli-mlp"])
def test_the_raw_gap_shrinks_like_the_inverse_backward_temperature(name):
    """J(qb) -> J(softmax(g)): the raw gap falls, the relative one tends to a constant above 0."""
    p = problems.make(name)
    ds = gradlab.gap(p.model, p.x, 1.0, [1e4, 1e6], draws=6).squeeze("tf").sel(definition="shared-backward")
    np.testing.assert_allclose(ds.gap[0] * 1e4, ds.gap[1] * 1e6, rtol=1e-3)
    np.testing.assert_allclose(ds.relative_gap[0], ds.relative_gap[1], rtol=1e-3)
    assert float(ds.relative_gap[1]) > 0.01


def test_binary_and_two_category_routes_agree(monkeypatch):
    """Logits (l, 0), noise n = g0 - g1: the same codes, estimate and gap; the pair's gradient is (d, -d)."""
    p = problems.make("binary6-bernoulli-mlp")
    binary = p.model

    class Pairs(nn.Module):
        def forward(self, x):
            logits = binary.logits(x)
            return torch.stack([logits, torch.zeros_like(logits)], -1)

    class First(nn.Module):
        def forward(self, codes):
            return binary.decode(codes[..., 0])

    two = LatentModel(Pairs(), First(), latents=6, categories=2, likelihood="bernoulli").double()
    g = noise_of(two, p.x, 8)
    found = {}
    for model, noise in ((two, g), (binary, g[..., 0] - g[..., 1])):

        class Given:
            def __init__(self, *arguments):
                pass

            def of(self, arrays, start, stop, noise=noise):
                return noise[None, start:stop]

        monkeypatch.setattr(gap_analysis, "Noise", Given)
        found[model.binary] = gradlab.gap(model, p.x, TFS, TBS, draws=8)
        gradients = oracles.gap_gradients(model, p.x, 0.5, 1.5, noise)["discrete"]
        found["estimate", model.binary] = gradients
    torch.testing.assert_close(found["estimate", False][..., 0], found["estimate", True])
    torch.testing.assert_close(found["estimate", False][..., 1], -found["estimate", True])
    for name in ("relative_gap", "cosine"):
        np.testing.assert_allclose(found[False][name], found[True][name], rtol=1e-12)
    for name in ("gap", "discrete_norm", "relaxed_norm", "gap_per_example"):
        np.testing.assert_allclose(found[False][name], 2**0.5 * found[True][name], rtol=1e-12)


# --- what comes back ---


def test_dims_variables_and_attributes():
    p = problems.make("binary6-bernoulli-mlp")
    ds = gradlab.gap(p.model, p.x, 0.5, [0.5, 2.0], draws=4, seed=7)
    assert list(ds.definition.values) == ["autodiff", "shared-backward"]
    for name in ("gap", "squared_gap", "relative_gap", "cosine"):
        for end in ("", "_low", "_high"):
            assert ds[name + end].dims == ("definition", "tf", "tb")
            assert {"long_name", "units"} <= set(ds[name + end].attrs)
        assert (ds[name + "_low"] <= ds[name]).all()
        assert (ds[name] <= ds[name + "_high"]).all()
    assert ds.gap_per_example.dims == ("definition", "tf", "tb", "example")
    np.testing.assert_allclose(ds.gap_per_example.mean("example"), ds.gap, rtol=1e-12)
    assert ds.gap.attrs["units"] == "nats per logit"
    assert ds.squared_gap.attrs["units"] == "(nats per logit)^2"
    assert ds.relative_gap.attrs["units"] == "1"
    wanted = {"analysis": "gap", "draws": 4, "seed": 7, "examples": 5, "latent_kind": "binary", "dtype": "float64"}
    assert wanted.items() <= ds.attrs.items()


def test_round_trip_through_a_file(tmp_path):
    p = problems.make("3x5-own-mlp")
    ds = gradlab.gap(p.model, p.x, TFS, TBS, draws=4)
    gradlab.save_results(ds, tmp_path / "gap.h5")
    again = gradlab.open_results(tmp_path / "gap.h5")
    assert again.identical(ds.assign_attrs(again.attrs))
    assert {k: str(v) for k, v in again.attrs.items()} == {k: str(v) for k, v in ds.attrs.items()}


@pytest.mark.parametrize("name", ["3x5-bernoulli-mlp", "binary6-bernoulli-mlp"])
def test_same_figures_whatever_the_chunks(name):
    p = problems.make(name)
    whole = gradlab.gap(p.model, p.x, TFS, TBS, draws=7)
    per_row = gap_analysis._ARRAYS * 8 * int(np.prod(p.model.code_shape))
    for memory in (1, 2 * per_row, 13 * per_row):  # an example at a time, two, all with two draws
        chunked = gradlab.gap(p.model, p.x, TFS, TBS, draws=7, compute=gradlab.Compute(memory=memory))
        for variable in whole.data_vars:
            np.testing.assert_allclose(chunked[variable], whole[variable], rtol=1e-9, atol=1e-12, err_msg=variable)


def test_same_seed_same_numbers_and_points_do_not_depend_on_the_grid():
    p = problems.make("8x4-bernoulli-mlp")
    one = gradlab.gap(p.model, p.x, TFS, TBS, draws=6, seed=3)
    again = gradlab.gap(p.model, p.x, TFS, TBS, draws=6, seed=3)
    assert one.drop_attrs().identical(again.drop_attrs())
    alone = gradlab.gap(p.model, p.x, 1.0, 4.0, draws=6, seed=3)
    np.testing.assert_allclose(alone.gap.squeeze(), one.gap.sel(tf=1.0, tb=4.0), rtol=1e-12)
    other = gradlab.gap(p.model, p.x, 1.0, 4.0, draws=6, seed=4)
    assert abs(float(other.gap[0, 0, 0] / alone.gap[0, 0, 0]) - 1) > 1e-3


def test_the_global_random_state_and_the_model_are_left_alone():
    p = problems.make("binary6-bernoulli-mlp")
    before = torch.random.get_rng_state()
    weights = [w.clone() for w in p.model.parameters()]
    gradlab.gap(p.model, p.x, 1.0, 2.0, draws=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    for old, new in zip(weights, p.model.parameters(), strict=True):
        assert torch.equal(old, new)
        assert new.grad is None


def test_two_decoder_passes_serve_all_backward_temperatures():
    """Rows decoded: two per draw, example and tf, whatever the number of tb."""
    p = problems.make("3x5-bernoulli-mlp")
    before, rows = oracles.probed(p.model, p.x), []
    p.model.decoder.register_forward_hook(lambda module, given, output: rows.append(len(output)))

    def decoded(tf, tb):
        rows.clear()
        gradlab.gap(p.model, p.x, tf, tb, draws=4)
        return sum(n for n in rows[len(before) :] if n > 1)  # not the row that counts activations

    one = decoded(1.0, 1.0)
    assert one == 2 * 4 * len(p.x)
    assert decoded(1.0, [0.5, 1.0, 2.0, 4.0]) == one
    assert decoded([0.5, 1.0], [0.5, 1.0]) == 2 * one


# --- intervals ---


def test_intervals_cover_at_their_rate():
    """95 % intervals at 32 draws over 200 seeds: binomial(200, 0.95) leaves 178 to 199 with probability 1 - 2e-4."""
    p = problems.make("3x5-bernoulli-mlp")
    truth = gradlab.gap(p.model, p.x, 1.0, [0.5, 2.0], draws=20_000, seed=10**6)
    names = ("gap", "relative_gap_pooled", "cosine")
    hits = {name: np.zeros(truth[name].shape) for name in names}
    for seed in range(200):
        ds = gradlab.gap(p.model, p.x, 1.0, [0.5, 2.0], draws=32, seed=seed)
        for name in names:
            low, true, high = (
                of.variables[name + end].values for of, end in ((ds, "_low"), (truth, ""), (ds, "_high"))
            )
            hits[name] += (low <= true) & (true <= high)
    for name, found in hits.items():
        assert (found >= 178).all(), (name, found)
        assert (found < 200).all(), (name, found)


def test_changes_use_the_common_noise():
    p = problems.make("3x5-bernoulli-mlp")
    ds = gradlab.gap(p.model, p.x, 1.0, [1.0, 1.1], draws=64).sel(definition="autodiff")
    found = change(ds, "gap", {"tf": 1.0, "tb": 1.0}, {"tf": 1.0, "tb": 1.1})
    np.testing.assert_allclose(found.value, float(ds.gap[0, 1] - ds.gap[0, 0]), rtol=1e-9)
    apart = float(ds.gap_high[0, 0] - ds.gap_low[0, 0]) + float(ds.gap_high[0, 1] - ds.gap_low[0, 1])
    assert found.high - found.low < apart / 3


# --- rubbish ---


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"tf": 0.0}, "tf: expected .*, got 0"),
        ({"tf": float("nan")}, "tf: expected .*, got nan"),
        ({"tb": [1.0, 1.0]}, "tb: expected distinct temperatures, got"),
        ({"tb": "1"}, "tb: expected .*, got '1'"),
        ({"draws": 1}, "draws: expected .*, got 1"),
        ({"seed": -1}, "seed: expected .*, got -1"),
        ({"compute": gradlab.Compute(device="nowhere")}, "device: expected .*, got 'nowhere'"),
        ({"compute": gradlab.Compute(dtype=torch.int32)}, "dtype: expected .*, got"),
        ({"tb": 5e-324}, "tf, tb: expected finite gradients, got others at tf = 1, tb = 4.94066e-324"),
    ],
)
def test_rubbish_is_named(arguments, named):
    p = problems.make("3x5-bernoulli-mlp")
    with pytest.raises(ValueError, match=named.replace("(", r"\(")):
        gradlab.gap(p.model, p.x, **({"tf": 1.0} | arguments))


def test_a_space_too_large_for_bias_is_no_matter():
    model = networks.build("binary-autoencoder", {"width": 2, "depth": 0}, seed=0)
    x = gradlab.datasets.load("mnist-sample").first(2).floats()
    with pytest.raises(errors.SpaceTooLarge, match=r"gradlab\.gap"):
        gradlab.bias(model, x, reference="exact")
    assert gradlab.gap(model, x, draws=2).sizes["tf"] == 1


@pytest.mark.parametrize("tb", [0.014, 1.0])
def test_norms_of_blocks_that_are_read_late_give_the_same_gap(tb, monkeypatch):
    """At tb = 0.014 the second block is the first with norms below 1e-13; two more are measured when that is read."""
    problem = problems.make("8x4-bernoulli-mlp", torch.float32)
    blocks = []
    own = gap_analysis._measure
    monkeypatch.setattr(
        gap_analysis, "_measure", lambda logits, *rest: blocks.append(logits.dtype) or own(logits, *rest)
    )
    given = {"tf": 1.0, "tb": tb, "draws": 40, "compute": gradlab.Compute(memory=16 * 8 * 3 * 32 * 2)}
    wanted = gradlab.gap(problem.model, problem.x, **given)
    at_once = blocks[:]
    blocks.clear()
    late_reads.pretend(monkeypatch)
    own_read = checks.read_later
    monkeypatch.setattr(checks, "read_later", lambda device: own_read(torch.device("cuda")))
    found = gradlab.gap(problem.model, problem.x, **given)
    wide = torch.float64
    assert at_once[:4] == ([torch.float32, torch.float32, wide, wide] if tb == 0.014 else [torch.float32] * 4)
    assert (wide in blocks) == (tb == 0.014)
    assert len(blocks) <= len(at_once) + 3
    for name in ("gap", "relative_gap", "cosine", "gap_per_example", "undefined"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("shape", [(1, 3, 2, 4), (4, 3, 2, 1), (5, 3, 2, 4)])
def test_points_of_another_shape_are_other_points(shape, monkeypatch):
    """Even if they fit by broadcasting."""
    z = torch.ones(4, 3, 2, 4)
    monkeypatch.setattr(gap_analysis, "points_of", lambda *given: torch.ones(1, *shape))
    estimator = gradlab.estimators.get("st-gs", tf=1.0, tb=1.0)
    with pytest.raises(ValueError, match="which samples with other noise"):
        gap_analysis._pulled_back(
            estimator, 1.0, CATEGORICAL, torch.zeros(3, 2, 4), z[None], z, torch.stack([z, z]), checks.at_once
        )
