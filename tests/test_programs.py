"""Models as programs: exact gradients against plain enumeration, estimates against plain autograd, refusals."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import gradlab
from gradlab import latents
from gradlab.sampling import Noise

from . import program_problems as problems
from .program_problems import PROGRAMS


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients])


# --- the exact gradient ---


@pytest.mark.parametrize("tf", [1.0, 0.6])
@pytest.mark.parametrize("name", PROGRAMS)
def test_exact_gradient_is_that_of_plain_enumeration(name, tf):
    model, x = problems.problem(name)
    found = gradlab.exact_gradient(model.program(), x, tf=tf)
    wide, x = problems.wide(model, x)
    with problems.in_float64():
        wanted = problems.enumerated(wide.loss, wide.parameters(), x, tf)
    assert list(found) == [parameter for parameter, _ in model.named_parameters()]
    for (parameter, p), gradient in zip(model.named_parameters(), wanted, strict=True):
        assert found[parameter].dtype == torch.float64
        assert found[parameter].shape == p.shape
        assert float((found[parameter] - gradient).abs().max()) < 1e-10
    assert float(flat(wanted).norm()) > 0.1


@pytest.mark.parametrize("memory", [1, 200_000])
def test_chunks_of_paths_change_nothing(memory):
    model, x = problems.problem("recurrent")
    whole, chunks = (gradlab.exact_gradient(model.program(), x, memory=m) for m in (None, memory))
    assert float((flat(whole.values()) - flat(chunks.values())).abs().max()) < 1e-13


def test_a_loss_that_does_not_depend_on_the_codes():
    model, x = problems.problem("experts")

    def loss(x, sample):
        sample(model.gate(x[0])[:, None])
        return model.gate(x[0]).square().sum(1)

    program = gradlab.Program(loss, model.gate)
    ds = gradlab.bias(program, x, estimator=["ste", "rloo"], draws=64)
    assert np.abs(ds.bias_norm.sel(parameter="all")).max() < 1e-12
    assert ds.exact_norm.sel(parameter="all").min() > 0.1
    constant = gradlab.Program(lambda x, sample: 0 * loss(x, sample) + 1, model.gate)
    assert gradlab.bias(constant, x, draws=64).relative_bias.isnull().all()


def test_the_target_law():
    model, x = problems.problem("experts")
    of_model = gradlab.exact_gradient(model.program(), x, tf=0.5, target="model")
    assert torch.equal(flat(of_model.values()), flat(gradlab.exact_gradient(model.program(), x).values()))


def test_a_saturated_site_keeps_its_digits():
    """Probabilities of e^-30 and less: p_k sum_j p_j (c_k - c_j), where p (c - mean c) has none of its digits left."""
    logits = nn.Parameter(torch.tensor([[30.0, 0.0, -4.0]], dtype=torch.float64))
    costs = torch.tensor([100.0, 101.0, 103.0], dtype=torch.float64)

    def loss(x, sample):
        return sample(logits.expand(len(x), 1, 3))[:, 0] @ costs

    found = gradlab.exact_gradient(gradlab.Program(loss, {"l": logits}), torch.zeros(2, 1))["l"][0]
    p = logits.detach()[0].softmax(-1)
    wanted = p * (p * (costs[:, None] - costs)).sum(1)
    assert torch.allclose(found, wanted, rtol=1e-12, atol=0)


def halting(model):
    """Stops when category 0 is drawn: the codes decide which sites there are."""

    def loss(x, sample):
        h, total = x, torch.zeros(len(x))
        for _ in range(3):
            z = sample(model.gate(h)[:, None])[:, 0]
            total = total + (model.experts[0](h).sum(1) - z @ torch.arange(4.0)).square()
            if bool((z[:, 0] > 0.5).all()):
                break
            h = torch.tanh(h + z.sum(1, keepdim=True) * z[:, 1:2])
        return total

    return loss


def test_programs_whose_codes_decide_the_sites():
    model, (x, _) = problems.problem("experts", examples=2)
    found = gradlab.exact_gradient(gradlab.Program(halting(model), model), x)
    wide, x64 = problems.wide(model, x)
    with problems.in_float64():
        parameters, loss = list(wide.parameters()), halting(wide)
        total = 0
        for row in x64.split(1):
            stack = [()]
            while stack:
                path, log_p, met = stack.pop(), [0.0], []

                def sample(logits, path=path, log_p=log_p, met=met):
                    k = path[len(met)] if len(met) < len(path) else 0
                    met.append(k)
                    log_p[0] = log_p[0] + logits.log_softmax(-1)[:, 0, k]
                    return functional.one_hot(torch.tensor([[k]]), 4).to(logits)

                total = total + (loss(row, sample) * log_p[0].exp()).sum() / len(x)
                stack += [(*met[:depth], k) for depth in range(len(path), len(met)) for k in range(1, 4)]
        wanted = torch.autograd.grad(total, parameters, allow_unused=True)
    for (name, _), gradient in zip(model.named_parameters(), wanted, strict=True):
        off = found[name] - (0 if gradient is None else gradient)
        assert float(off.abs().max()) < 1e-10
    ds = gradlab.bias(gradlab.Program(halting(model), model), x, draws=16, estimator=["exact", "rloo"])
    assert ds.attrs["paths"] == "decided by the codes"
    assert ds.bias_norm.sel(estimator="exact", parameter="all").item() < 1e-13
    assert ds.relative_bias_debiased_low.sel(estimator="rloo", parameter="all").item() < 0.2


# --- estimates ---


def layer(name, logits, noise, tf, tb, binary):
    """Plain autograd: codes whose backward pass is the estimator's."""
    soft = torch.sigmoid if binary else (lambda a: a.softmax(-1))
    a = logits.detach() / tf + noise
    z = (a > 0).to(a) if binary else functional.one_hot(a.argmax(-1), a.shape[-1]).to(a)
    if name == "ste":
        y = soft(logits / tb)
    elif name == "st-gs":
        y = soft(logits / tb + noise)
    elif binary:
        middle = ((z + soft(logits / tb)) / 2).detach()
        p = soft(logits / tf).detach()
        y = (2 * middle * (1 - middle) - p * (1 - p) / 2) * logits / tf
    else:  # ReinMax as published: 2 softmax(log pi, moved with the logits) - softmax/2
        middle = ((z + soft(logits / tb)) / 2).detach().log()
        y = 2 * soft(middle + (logits - logits.detach()) / tf) - soft(logits / tf) / 2
    return z + y - y.detach()


def plain(model, x, name, tf, tb, noise, draws):
    """Gradients (draw, entry) through `layer`, draw by draw, on the noise of each site."""
    found = []
    for draw in range(draws):
        left = [of[0, draw] for of in noise]

        def sample(logits, binary=False, left=left):
            return layer(name, logits, left.pop(0), tf, tb, binary)

        gradients = torch.autograd.grad(model.loss(x, sample).mean(), list(model.parameters()), allow_unused=True)
        pairs = zip(gradients, model.parameters(), strict=True)
        found.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]))
    return torch.stack(found)


def noise_of(model, x, seed, draws):
    """What gradlab draws at each site: at the first that of a LatentModel."""
    found = []
    for i, (shape, binary) in enumerate(problems.sites_of(model.loss, x)):
        kind = latents.BINARY if binary else latents.CATEGORICAL
        of_site = seed if i == 0 else latents.derived_seed(seed, "site", i)
        examples = len(next(iter(torch.utils._pytree.tree_leaves(x))))
        found.append(Noise(kind, torch.empty(examples, *shape, dtype=torch.float64), 1, draws, of_site).of(1, 0, draws))
    return found


def held_to_plain_autograd(name, draws):
    model, x = problems.problem(name)
    tf, tb, names = 1.4, 0.7, ["ste", "st-gs", "reinmax"]
    ds = gradlab.bias(model.program(), x, tf=tf, tb=tb, estimator=names, draws=draws, seed=5)
    g = flat(gradlab.exact_gradient(model.program(), x, tf=tf).values())
    wide, x = problems.wide(model, x)
    with problems.in_float64():
        noise = noise_of(wide, x, 5, draws)
        for estimator in names:
            estimates = plain(wide, x, estimator, tf, tb, noise, draws)
            found = ds.sel(estimator=estimator, parameter="all").squeeze()
            mean, variance = estimates.mean(0), estimates.var(0).sum()
            assert found.bias_norm.item() == pytest.approx(float((mean - g).norm()), rel=1e-9)
            assert found.std_norm.item() == pytest.approx(float(variance.sqrt()), rel=1e-9)
            squared = float((mean - g).square().sum() - variance / draws)
            assert found.squared_bias_debiased.item() == pytest.approx(squared, rel=1e-8)


@pytest.mark.parametrize("name", PROGRAMS)
def test_bias_and_std_are_those_of_plain_autograd_on_the_same_noise(name):
    held_to_plain_autograd(name, 24)


@pytest.mark.deep
@pytest.mark.parametrize("name", PROGRAMS)
def test_bias_and_std_are_those_of_a_long_loop(name):
    held_to_plain_autograd(name, 20_000)


def pair(binary):
    """A LatentModel, the same as a Program, and observations."""
    torch.manual_seed(0)
    code = (3,) if binary else (2, 3)
    size = int(np.prod(code))
    encoder = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, size)).double()
    decoder = nn.Sequential(nn.Flatten(), nn.Linear(size, 5), nn.Tanh(), nn.Linear(5, 5)).double()

    def loss(x, sample):
        z = sample(encoder(x).unflatten(1, code), binary=binary)
        return functional.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(1)

    sizes = {"latents": 3, "binary": True} if binary else {"latents": 2, "categories": 3}
    model = gradlab.LatentModel(encoder, decoder, **sizes, likelihood="bernoulli")
    return model, gradlab.Program(loss, encoder), torch.rand(3, 5, dtype=torch.float64)


def assert_same_figures(model, program, x, **asked):
    wanted = gradlab.bias(model, x, wrt="encoder", **asked)
    found = gradlab.bias(program, x, **asked)
    for name in wanted.data_vars:
        if name in ("expected_count", "unseen", "rare_examples") or name not in found:
            continue  # of categories there, of paths here; or of single examples
        one, other = wanted[name].values, found[name].values
        size = np.abs(one[np.isfinite(one)]).max(initial=0.0)
        assert np.allclose(other, one, rtol=1e-9, atol=1e-9 * size, equal_nan=True), name
    assert {"relative_bias_debiased", "cosine", "std_norm_low", "replicates"} <= {*wanted.data_vars} & {
        *found.data_vars
    }


@pytest.mark.filterwarnings("ignore::gradlab.cautions.SamplingWarning")
def test_a_latent_model_has_the_same_figures_as_a_program():
    model, program, x = pair(binary=False)
    asked = {"tf": [1.6, 0.7], "tb": [1.3], "target": "both", "seed": 3, "draws": 64}
    assert_same_figures(model, program, x, **asked, estimator=["decoupled-st-gs", "rloo:n=3"])
    assert_same_figures(model, program, x, tf=1.6, draws=64, estimator=["zgr"], reference="rloo", target="both")


REFUSED = {"arms", "disarm", "double-cv", "leg", "rebar"}


@pytest.mark.filterwarnings("ignore::gradlab.cautions.SamplingWarning")
@pytest.mark.parametrize("binary", [False, True])
def test_every_estimator_has_the_figures_of_a_latent_model_or_is_refused_by_name(binary):
    model, program, x = pair(binary)
    kinds = {True: "binary", False: "categorical"}
    names = [row["name"] for row in gradlab.estimators.describe() if kinds[binary] in row["latents"]]
    assert_same_figures(model, program, x, tf=1.6, tb=0.8, draws=4, estimator=[n for n in names if n not in REFUSED])
    for name in REFUSED & {*names}:
        with pytest.raises(ValueError, match=f"got {name}.*; take rloo, which is unbiased"):
            gradlab.bias(program, x, draws=4, estimator=name)


@pytest.mark.parametrize("name", ["ste", "reinmax", "rloo"])
def test_the_sampled_reference_agrees_with_the_exact_gradient(name):
    """Of one estimator the difference is that of the references: within 4.5 standard errors, so 1 in 150,000 fails."""
    model, x = problems.problem("rssm")
    asked = {"tf": 1.0, "tb": 0.8, "estimator": [name], "draws": 320, "seed": 1}
    exact, sampled = (gradlab.bias(model.program(), x, **asked, reference=r) for r in ("exact", "rloo"))
    assert sampled.attrs["reference"] == "rloo"
    for metric in ("relative_bias_debiased", "cosine_debiased", "relative_std"):
        ends = [
            float(ds[f"{metric}_{end}"].sel(parameter="all").squeeze())
            for ds in (exact, sampled)
            for end in ("low", "high")
        ]
        values = [float(ds[metric].sel(parameter="all").squeeze()) for ds in (exact, sampled)]
        errors_of_both = np.hypot(ends[1] - ends[0], ends[3] - ends[2]) / 2 / 1.96
        assert abs(values[0] - values[1]) < 4.5 * errors_of_both
