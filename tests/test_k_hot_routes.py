"""k-hot latents on every route of a measurement: against loops over configurations, and refusals in a sentence."""

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import gradlab
from gradlab import estimators, training
from gradlab.estimators.straight_through import STE
from gradlab.latents import CATEGORICAL
from gradlab.sampling import Noise

from .command_line import images
from .test_k_hot import probabilities, sets

LATENTS, CATEGORIES, K, TF = 2, 4, 2, 1.3
SETS = sets(CATEGORIES, K)


def model(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = nn.Linear(5, LATENTS * CATEGORIES)
        decoder = nn.Sequential(nn.Flatten(), nn.Linear(LATENTS * CATEGORIES, 6), nn.Tanh(), nn.Linear(6, 5))
    sizes = {"latents": LATENTS, "categories": CATEGORIES, "likelihood": "gaussian", "top_k": K}
    return gradlab.LatentModel(encoder, decoder, **(sizes | options)).double()


def observations():
    return torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def configurations():
    """Every joint code (configuration, latent, category), in a loop over the sets of each latent."""
    found = []
    for joint in itertools.product(SETS, repeat=LATENTS):
        code = torch.zeros(LATENTS, CATEGORIES, dtype=torch.float64)
        for latent, chosen in enumerate(joint):
            code[latent, list(chosen)] = 1
        found.append(code)
    return torch.stack(found)


def joint_probabilities(logits):
    """(example, configuration), differentiable."""
    rows = []
    for example in logits:
        p = [probabilities(a, K) for a in example]
        rows.append(torch.stack([p[0][i] * p[1][j] for i, j in itertools.product(range(len(SETS)), repeat=2)]))
    return torch.stack(rows)


def losses(of, x):
    """(example, configuration)."""
    codes = configurations()
    return torch.stack([of.losses(codes, row.expand(len(codes), -1)) for row in x])


def test_exact_gradient_is_that_of_a_loop_over_configurations():
    of, x = model(), observations()
    logits = of.logits(x).detach().requires_grad_()
    expected = (joint_probabilities(logits / TF) * losses(of, x).detach()).sum()
    (wanted,) = torch.autograd.grad(expected, logits)
    found, error = gradlab.exact_gradient(of, x, tf=TF, return_error=True)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    single = gradlab.exact_gradient(of, x, tf=TF, dtype=torch.float32, return_error=True)
    assert bool(((single[0] - wanted).flatten(1).norm(dim=1) <= single[1]).all())
    assert bool((error < 1e-3 * wanted.flatten(1).norm(dim=1)).all())
    with_kl = gradlab.exact_gradient(of, x, tf=TF, kl=True)
    p = joint_probabilities(logits)
    (of_kl,) = torch.autograd.grad((p * (p * len(SETS) ** 2).log()).sum(), logits)
    torch.testing.assert_close(with_kl, wanted + of_kl, rtol=1e-10, atol=1e-12)


def test_one_of_k_measures_as_the_categorical_latent():
    x, plain, one = observations(), model(top_k=None), model(top_k=1)
    close = {"rtol": 1e-12, "atol": 1e-14}
    torch.testing.assert_close(gradlab.exact_gradient(one, x), gradlab.exact_gradient(plain, x), **close)
    names = ["rloo", "reinforce", "ste", "st-gs", "st-gs:convention=jang", "ste-identity", "ste-argmax"]
    found, wanted = (gradlab.bias(of, x, tf=TF, tb=0.8, estimator=names, draws=64) for of in (one, plain))
    for name in ("mean_gradient", "std_gradient", "relative_bias_debiased"):
        torch.testing.assert_close(torch.tensor(found[name].values), torch.tensor(wanted[name].values), **close)


def test_all_of_them_have_no_gradient():
    every, x = model(top_k=CATEGORIES), observations()
    assert bool((gradlab.exact_gradient(every, x) == 0).all())
    with pytest.warns(gradlab.cautions.SamplingWarning, match="certain"):
        ds = gradlab.bias(every, x, estimator=["rloo", "reinforce", "ste"], draws=8)
    assert bool((ds.mean_gradient == 0).all())


def by_hand(estimator, of, x):
    """Estimates at every configuration (configuration, example, latent, category), and their probabilities."""
    logits, codes = of.logits(x).detach(), configurations()[:, None].expand(-1, len(x), -1, -1)
    f, v = [], []
    for code in codes:
        loss, derivative = of.losses_and_derivatives(code, x)
        f.append(loss)
        v.append(derivative)
    noise = torch.zeros(1, *codes.shape, dtype=torch.float64)
    e = estimator.estimate(of.kind, logits, noise, codes[None], torch.stack(f)[None], torch.stack(v)[None])
    return e, joint_probabilities(logits / estimator.tf).T


def of_tuples(estimator, of, x):
    """The same of an estimator of n codes, at every n-tuple of configurations."""
    logits, codes, p = of.logits(x).detach(), configurations(), joint_probabilities(of.logits(x).detach() / TF)
    at = torch.cartesian_prod(*[torch.arange(len(codes))] * estimator.n).T  # (n, tuple)
    points = codes[at][:, :, None].expand(-1, -1, len(x), -1, -1)
    f = losses(of, x).detach()[:, at].permute(1, 2, 0)
    e = estimator.estimate(of.kind, logits, torch.zeros_like(points), points, f, None)
    return e, p[:, at].prod(1).T


@pytest.mark.parametrize("wrt", ["logits", "encoder"])
def test_moments_without_sampling_are_those_of_a_loop(wrt):
    of, x, names = model(), observations(), ["reinforce", "ste", "ste-identity", "rloo", "rloo:n=3"]
    ds = gradlab.bias(of, x, tf=TF, tb=0.9, estimator=names, moments="exact", wrt=wrt)
    for name in ds.estimator.values:
        entry = estimators.parse(name).at(TF, 0.9)
        e, p = (of_tuples if "rloo" in name else by_hand)(entry, of, x)
        if wrt == "logits":
            mean = (p[..., None, None] * e).sum(0)
            std = (p[..., None, None] * (e - mean).square()).sum(0).sqrt()
            one = ds.sel(estimator=name).squeeze(["tf", "tb"])
            torch.testing.assert_close(torch.tensor(one.mean_gradient.values), mean, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(torch.tensor(one.std_gradient.values), std, rtol=1e-9, atol=1e-12)
        else:  # the mean over examples of e x^T, at independent codes of the examples
            one = ds.sel(estimator=name, parameter="weight").squeeze(["tf", "tb"])
            products = e.flatten(2)[..., None] * x[None, :, None]
            mean = (p[..., None, None] * products).sum(0)
            variance = (p[..., None, None] * (products - mean).square()).sum(0).sum() / len(x) ** 2
            assert float(one.std_norm) == pytest.approx(float(variance.sqrt()), rel=1e-9)
            assert float(one.mean_norm) == pytest.approx(float(mean.mean(0).norm()), rel=1e-9)
    assert float(ds.relative_bias_debiased.sel(estimator="reinforce").max()) < 1e-7


def test_scores_are_unbiased_by_enumeration():
    """reinforce over all codes, rloo over all pairs of codes: their means are the exact gradient."""
    of, x = model(), observations()
    exact = gradlab.exact_gradient(of, x, tf=TF)
    e, p = by_hand(estimators.get("reinforce", tf=TF), of, x)
    torch.testing.assert_close((p[..., None, None] * e).sum(0), exact, rtol=1e-10, atol=1e-12)
    codes, f = configurations()[:, None].expand(-1, len(x), -1, -1), losses(of, x).detach().T
    n, mean, rloo = len(codes), torch.zeros_like(exact), estimators.get("rloo", tf=TF)
    logits = of.logits(x).detach()
    for i in range(n):
        pairs = torch.stack([codes[i].expand_as(codes), codes])
        noise = torch.zeros(2, *codes.shape, dtype=torch.float64)
        e = rloo.estimate(of.kind, logits, noise, pairs, torch.stack([f[i].expand_as(f), f]), None)
        mean += ((p[i] * p)[..., None, None] * e).sum(0)
    torch.testing.assert_close(mean, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_straight_through_is_autograd_through_its_relaxation(dtype):
    """Codes of the same noise as categorical ones; `ste` through the chances, `st-gs` through k softmaxes."""
    of, generator = model().kind, torch.Generator().manual_seed(3)
    leaf = torch.randn(3, LATENTS, CATEGORIES, generator=generator, dtype=torch.float64)
    noise = CATEGORICAL.noise((1, 3, LATENTS, CATEGORIES), dtype=torch.float64, generator=generator)
    v = torch.randn(1, 3, LATENTS, CATEGORIES, generator=generator, dtype=torch.float64)
    tb, leaf = 0.7, leaf.requires_grad_()

    def successive(a, t):
        first = torch.softmax(a, -1)
        return first + torch.softmax(a + torch.log(1 - first) / t, -1)

    def chances(a):
        every = torch.zeros(len(SETS), CATEGORIES, dtype=torch.float64)
        for n, chosen in enumerate(SETS):
            every[n, list(chosen)] = 1
        return torch.stack([probabilities(row, K) for row in a.flatten(0, 1)]).reshape(3, LATENTS, -1) @ every

    relaxed = {
        "ste": chances(leaf / tb),
        "st-gs": successive(leaf / tb + noise[0], 1.0),
        "st-gs:convention=jang": successive((leaf + noise[0]) / tb, tb),
        "decoupled-st-gs": successive(leaf / tb + noise[0], 1.0),
    }
    logits, g, d = (tensor.detach().to(dtype) for tensor in (leaf, noise, v))
    close = {"rtol": 1e-9, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    for name, y in relaxed.items():
        (wanted,) = torch.autograd.grad((y * v[0]).sum(), leaf, retain_graph=True)
        e = estimators.parse(name).at(TF, tb)
        points = e.points(of, logits, g)
        at = (logits / TF + g[0]).topk(K, -1).indices
        assert torch.equal(points[0], torch.zeros_like(logits).scatter(-1, at, 1.0))
        torch.testing.assert_close(e.estimate(of, logits, g, points, None, d), wanted.to(dtype), **close)


def test_ste_is_exact_for_a_loss_that_is_linear_in_the_code():
    x, weight = observations(), torch.linspace(-1, 2, LATENTS * CATEGORIES, dtype=torch.float64)
    linear = model(likelihood=lambda parameters, x: parameters.flatten(1) @ weight)
    linear.decoder = nn.Flatten()
    ds = gradlab.bias(linear, x, estimator="ste", moments="exact")
    assert ds.relative_bias_debiased.item() < 1e-7
    assert gradlab.bias(linear, x, tb=0.5, estimator="ste", moments="exact").relative_bias_debiased.item() > 0.1


def test_draws_agree_with_enumeration_on_every_route():
    """Intervals, and 5 standard errors: fails by chance once in 10^5 or so; the seed is fixed."""
    of, x, names = model(), observations(), ["rloo", "reinforce", "ste", "st-gs"]
    ds = gradlab.bias(of, x, tf=TF, tb=0.9, estimator=names, draws=4096)
    exact = gradlab.exact_gradient(of, x, tf=TF)
    for name in ("rloo", "reinforce"):
        one = ds.sel(estimator=name).squeeze(["tf", "tb"])
        off = torch.tensor(one.mean_gradient.values) - exact
        assert bool((off.abs() <= 5 * torch.tensor(one.std_gradient.values) / 64 + 1e-12).all())
    sampled = gradlab.bias(of, x, tf=TF, tb=0.9, estimator=["ste", "st-gs"], draws=4096, reference="rloo")
    assert sampled.attrs["reference"] == "rloo"
    for name in ("ste", "st-gs"):
        wanted = ds.sel(estimator=name).relative_bias_debiased.item()
        found = sampled.sel(estimator=name)
        low, high = found.relative_bias_debiased_low.item(), found.relative_bias_debiased_high.item()
        assert low - 0.05 < wanted < high + 0.05
    for decoder in ("pairs", "draws"):
        moments = gradlab.MonteCarlo(draws=64, decoder=decoder)
        other = gradlab.bias(of, x, tf=TF, tb=0.9, estimator=names, moments=moments)
        again = gradlab.bias(of, x, tf=TF, tb=0.9, estimator=names, draws=64)
        torch.testing.assert_close(torch.tensor(other.mean_gradient.values), torch.tensor(again.mean_gradient.values))


# --- programs ---


class Gate(nn.Module):
    """Two sites, of which the second depends on the first."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.first, self.second = nn.Linear(5, CATEGORIES), nn.Linear(CATEGORIES, 3)
            self.out = nn.Linear(CATEGORIES + 3, 1)
        self.double()

    def loss(self, x, sample):
        z = sample(self.first(x)[:, None], top_k=K)[:, 0]
        w = sample(self.second(z)[:, None])[:, 0]
        weights = z * self.first(x).softmax(-1)
        return (self.out(torch.cat([weights, w], 1)).tanh()[:, 0] - x[:, 0]).square()


def of_paths(gate, x, tf):
    """The expected loss, a loop over sets and categories."""
    total = 0.0
    for row in x:
        first = gate.first(row)
        p = probabilities(first / tf, K)
        for of_set, chosen in zip(p, SETS, strict=True):
            z = torch.zeros(CATEGORIES, dtype=torch.float64)
            z[list(chosen)] = 1
            q = torch.softmax(gate.second(z) / tf, -1)
            for category in range(3):
                w = torch.eye(3, dtype=torch.float64)[category]
                f = (gate.out(torch.cat([z * first.softmax(-1), w])).tanh()[0] - row[0]).square()
                total = total + of_set * q[category] * f
    return total / len(x)


def test_programs_follow_the_paths_of_sets():
    gate, x = Gate(), observations()
    program = gradlab.Program(gate.loss, gate)
    found = gradlab.exact_gradient(program, x, tf=TF)
    wanted = torch.autograd.grad(of_paths(gate, x, TF), list(gate.parameters()))
    for (name, _), of_parameter in zip(gate.named_parameters(), wanted, strict=True):
        torch.testing.assert_close(found[name], of_parameter, rtol=1e-10, atol=1e-12)
    ds = gradlab.bias(program, x, tf=TF, estimator=["rloo", "st-gs", "ste"], draws=64)
    assert list(ds.attrs["sites"]) == ["2 of 4x1", "3x1"]
    unbiased = ds.sel(estimator="rloo", parameter="all")
    assert unbiased.relative_bias_debiased_low.item() <= 0
    with pytest.raises(ValueError, match="got reinmax, which is for categorical and binary latents"):
        gradlab.bias(program, x, estimator="reinmax", draws=8)


def test_a_site_is_checked():
    def measured(**options):
        weight = nn.Parameter(torch.zeros(5, CATEGORIES))
        program = gradlab.Program(
            lambda x, sample: sample((x.float() @ weight)[:, None], **options).sum((1, 2)), [weight]
        )
        return gradlab.exact_gradient(program, observations())

    for options, said in (
        ({"top_k": 2, "binary": True}, "expected binary=True or top_k"),
        ({"top_k": 5}, "expected at least 5 categories"),
        ({"top_k": 0}, "top_k: expected a whole number"),
    ):
        with pytest.raises(ValueError, match=said):
            measured(**options)


# --- refusals, and what else there is ---


def test_checkpoints_of_other_sets_are_no_one_file(tmp_path, run):
    """Their codes have one shape, and the file says of all of them what the first is."""
    paths = []
    for top_k in (None, 2):
        config = {"latents": 2, "categories": 4, "hidden": [8], "top_k": top_k}
        paths.append(tmp_path / f"{top_k}.safetensors")
        gradlab.save(gradlab.networks.build("categorical-vae", config, 0), paths[-1])
    point = (
        "--images",
        2,
        "--tf",
        1,
        "--tb",
        1,
        "--draws",
        8,
        "--sweep",
        "none",
        "--no-plot",
        "--out",
        tmp_path / "b.h5",
    )
    done = run("bias", *paths, *point)
    assert done.code == 1
    assert "checkpoint: expected top_k = None, like" in done.err
    one = run("bias", paths[1], *point)
    assert one.code == 0, one.err
    shown = run("show", tmp_path / "b.h5").out.split()
    assert shown[shown.index("latent_kind") + 1] == "k-hot"
    assert shown[shown.index("top_k") + 1] == "2"


def successive(a):
    """The relaxation of two of the categories (Xie, Ermon 2019)."""
    first = torch.softmax(a, -1)
    return first + torch.softmax(a + torch.log(1 - first), -1)


@pytest.mark.parametrize("estimator", ["decoupled-st-gs", "ste"])
def test_a_gap_is_that_of_autograd_through_the_relaxation(estimator, monkeypatch):
    of, x, tb, seen = model(), observations(), 0.8, []
    of_noise = Noise.of
    monkeypatch.setattr(Noise, "of", lambda *some: seen.append(of_noise(*some)) or seen[-1])
    ds = gradlab.gap(of, x, TF, tb, estimator=estimator, draws=8).squeeze(["tf", "tb"])
    (noise,) = seen
    assert noise.shape[:3] == (1, 8, len(x))
    found = []
    for draw in range(8):
        logits = of.logits(x).detach().requires_grad_()
        relaxed = successive(logits / TF + noise[0, draw])
        code = of.kind.hard((logits / TF + noise[0, draw]).detach())
        _, v = of.losses_and_derivatives(code, x)
        _, at_relaxed = of.losses_and_derivatives(relaxed.detach(), x)
        entry = estimators.get(estimator).at(TF, tb)

        def discrete(v, entry=entry, logits=logits, draw=draw, code=code):
            if estimator == "ste":
                return entry.estimate(of.kind, logits.detach(), noise[:, draw], code[None], None, v[None])
            return torch.autograd.grad((successive(logits / tb + noise[0, draw]) * v).sum(), logits)[0]

        through = torch.autograd.grad((relaxed * at_relaxed).sum(), logits)[0]
        d = discrete(v)
        found.append([(r - d).flatten(1).norm(dim=1) for r in (through, discrete(at_relaxed))])
    wanted = torch.stack([torch.stack(each) for each in found]).mean((0, 2))
    torch.testing.assert_close(torch.tensor(ds.gap.values), wanted, rtol=1e-9, atol=0)
    assert float(wanted.min()) > 0.01
    assert (ds.attrs["latent_kind"], ds.attrs["top_k"]) == ("k-hot", 2)


REFUSED = {
    "exact": (lambda of, x: gradlab.bias(of, x, estimator="exact"), "expected one for k-hot latents, got exact"),
    "leg as reference": (
        lambda of, x: gradlab.bias(of, x, reference="leg"),
        "expected one for k-hot latents .*got leg",
    ),
    "integrated st-gs": (
        lambda of, x: gradlab.bias(of, x, estimator="st-gs", moments="exact"),
        "no exact moments of k-hot latents",
    ),
    "a layer": (
        lambda of, x: estimators.from_layer(lambda logits: logits, name="mine", kinds=("k-hot",)),
        "kinds: expected some of categorical, binary",
    ),
    "clip": (lambda of, x: gradlab.bias(of, x, estimator="ste-identity:clip=1"), "expected one for k-hot latents"),
    "too many": (lambda of, x: model(top_k=5), "top_k: expected at most categories = 4, got 5"),
    "binary": (lambda of, x: model(categories=2, binary=True), "top_k: expected None beside binary=True"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_serve_them_refuses_in_a_sentence(name):
    call, said = REFUSED[name]
    with pytest.raises(ValueError, match=said):
        call(model(), observations())


@pytest.mark.parametrize("name", estimators.names())
def test_every_estimator_serves_them_or_refuses(name):
    e, of, x = estimators.get(name), model(), observations()
    if "k-hot" in e.kinds:
        assert bool(gradlab.bias(of, x, estimator=e, draws=8).mean_gradient.notnull().all())
    else:
        with pytest.raises(ValueError, match=f"estimator: expected one for k-hot latents, got {name}"):
            gradlab.bias(of, x, estimator=e, draws=8)


def test_the_served_estimators_are_these():
    served = {name for name in estimators.names() if "k-hot" in estimators.get(name).kinds}
    assert served == {"reinforce", "rloo", "ste", "ste-argmax", "st-gs", "decoupled-st-gs", "ste-identity"}


def test_recommend_pastes_a_line_that_runs(tmp_path):
    of, x = model(), observations()
    found = gradlab.recommend(of, x, tf=1.0, tb=[0.5, 1.0], averaged=8, budget=2.0, seed=0)
    assert "top_k=2" in found.line
    assert found.torch_line == ""
    logits = of.logits(x).detach().requires_grad_()
    names = {"gradlab": gradlab, "logits": logits, "f": lambda z: z.flatten(1).square().sum(1)}
    exec(found.line, names)
    names["loss"].backward()
    assert logits.grad.shape == logits.shape


def test_results_say_what_they_are_of(tmp_path):
    ds = gradlab.bias(model(), observations(), draws=16)
    gradlab.save_results(ds, tmp_path / "b.h5")
    again = gradlab.open_results(tmp_path / "b.h5")
    assert (again.attrs["latent_kind"], again.attrs["top_k"]) == ("k-hot", 2)
    gradlab.report(again, tmp_path / "b.html")
    assert "2 of 4 categories" in (tmp_path / "b.html").read_text()


@pytest.mark.parametrize("estimator", ["decoupled-st-gs", "rloo"])
def test_a_training_by_name_and_its_checkpoint(tmp_path, estimator):
    config = {"latents": 2, "categories": 4, "hidden": [8], "top_k": 2}
    images = gradlab.datasets.load("mnist-sample").first(60)
    settings = training.Settings(config=config, estimator=estimator, epochs=1, batch_size=20)
    out = tmp_path / "m.safetensors"
    training.train(settings, images, images, out=out)
    again = gradlab.load(out)
    assert (again.top_k, again.kind.name, again.configurations) == (2, "k-hot", 36)
    assert gradlab.exact_gradient(again, images.first(2).floats()).shape == (2, 2, 4)


def test_the_command_line_trains_them_and_measures_their_gap(run, tmp_path):
    images(tmp_path, 20)
    sizes = ["--latents", 2, "--categories", 3, "--top-k", 2, "--batch-size", 10, "--epochs", 1]
    ran = run("train", "vae", "--data", "own", *sizes, "--out", "m.safetensors")
    assert ran.code == 0, ran.err
    assert gradlab.load("m.safetensors").top_k == 2
    point = ["--tf", 1, "--tb", 1.3, "--images", 3, "--draws", 8, "--data", "own", "--no-plot"]
    ran = run("gap", "m.safetensors", *point, "--out", "g.h5")
    assert ran.code == 0, ran.err
    assert gradlab.open_results("g.h5").attrs["top_k"] == 2
    ran = run("train", "vae", "--data", "own", *sizes, "--top-k", 4, "--out", "n.safetensors")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "--top-k: expected at most categories = 3, got 4" in ran.err


def test_a_subclass_with_a_soft_code_of_its_own_is_refused():
    """Its estimate would be that of its parent, at another soft code."""

    @dataclass(frozen=True, kw_only=True)
    class Noisy(STE):
        name = "noisy"

        def perturbed(self, kind, logits, noise):
            return (logits + noise[0]) / self.tb

    with pytest.raises(ValueError, match="has its own `estimate` for k-hot latents"):
        gradlab.bias(model(), observations(), estimator=Noisy(), draws=8)
