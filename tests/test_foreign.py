"""Models of strangers, against plain autograd on their own modules."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradlab
from gradlab import exact_errors, owned
from gradlab.sampling import Noise
from gradlab.setup import prepare

from . import foreign, oracles

every_case = pytest.mark.parametrize("name", foreign.CASES)


def model_of(case, **options):
    sizes = {"latents": foreign.LATENTS, "categories": foreign.CATEGORIES}
    return gradlab.LatentModel(case.encoder, case.decoder, likelihood=case.likelihood, **sizes, **options)


def quietly(function, *given, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*given, **options)


@every_case
def test_exact_gradient_and_draws_are_those_of_plain_autograd(name):
    """In the precision of the user's modules; draws with the library's noise. Nothing of the user's changes."""
    case = foreign.made(name)
    model = model_of(case)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    outside = [part for part in owned.parts(case.likelihood) if isinstance(part, nn.Module)]
    of_likelihood = [p.clone() for module in outside for p in module.parameters()]
    logits = case.logits()
    wanted = oracles.gradient_of_plain_code(logits, case.losses, foreign.CATEGORIES, 1.2)
    found = quietly(gradlab.exact_gradient, model, case.x, tf=1.2)
    assert oracles.relative_error(found, wanted) < case.tolerance

    ds = quietly(gradlab.bias, model, case.x, tf=1.2, tb=0.7, draws=8, seed=3).squeeze()
    noise = Noise(model.kind, logits, 1, 8, seed=3).of(1, 0, 8)[0]
    estimates = []
    for g in noise:
        leaf = logits.clone().requires_grad_()
        q = torch.softmax(leaf / 0.7 + g, -1)
        z = oracles.one_hot_argmax(logits / 1.2 + g) + q - q.detach()
        estimates.append(torch.autograd.grad(case.losses(z).sum(), leaf)[0])
    mean = torch.stack(estimates).mean(0)
    assert oracles.relative_error(torch.tensor(ds.mean_gradient.values), mean) < max(2e-5, case.tolerance)

    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    after = [p for module in outside for p in module.parameters()]
    for p, value in zip(after, of_likelihood, strict=True):
        assert torch.equal(p, value)
        assert p.dtype == torch.float32
        assert p.grad is None
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.deep
@every_case
def test_every_route_takes_it(name):
    case = foreign.made(name)
    model = model_of(case)
    several = {"estimator": ["ste", "st-gs", "rloo"]}
    for options in (
        {"draws": 32, "wrt": "encoder"},
        {"moments": "exact"},
        {"moments": "exact", "wrt": "encoder"},
        {"draws": 64, "reference": "rloo"},
        {"draws": 64, "reference": "rloo", "wrt": "encoder"},
        {"draws": 32, "reference": gradlab.Enumerated(dtype=torch.float32)},
    ):
        ds = quietly(gradlab.bias, model, case.x, **several, **options)
        of_all = ds.relative_bias_debiased
        of_all = of_all.sel(parameter="all") if "parameter" in of_all.dims else of_all  # others may have no gradient
        assert bool(np.isfinite(of_all.values).all())
    quietly(gradlab.gap, model, case.x, draws=4)


# --- precision ---

NARROW = [name for name in foreign.CASES if foreign.made(name).narrow]


@pytest.mark.parametrize("name", NARROW)
def test_what_runs_in_its_own_precision_only_is_measured_in_it_and_says_so(name):
    case = foreign.made(name)
    with pytest.warns(UserWarning, match="decoder: expected one that runs in float64 too, got one that runs in torch"):
        ds = gradlab.bias(model_of(case), case.x, tf=1.2, draws=8)
    half = name in ("autocast_inside", "half_weights_beside_norms")
    assert ds.attrs["exact_dtype"] == ("bfloat16" if half else "float32")
    share = ds.attrs["exact_gradient_relative_error"]
    assert float(ds.exact_gradient_error.squeeze()) == pytest.approx(share * float(ds.exact_norm.squeeze()), rel=1e-6)
    assert share > torch.finfo(torch.bfloat16 if half else torch.float32).eps / 100


def test_what_runs_in_float64_says_nothing():
    case = foreign.made("attention")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds = gradlab.bias(model_of(case), case.x, draws=8)
    assert ds.attrs["exact_dtype"] == "float64"
    assert "exact_gradient_relative_error" not in ds.attrs


def twin(decoder):
    """A decoder that runs in single precision only, of the same weights."""
    return foreign.Of(lambda self, z: self.body(z.float()).float(), body=decoder)


WIDE = ["attention", "convolution_with_group_norm", "code_book", "scripted", "tuple_of_tensors"]


@pytest.mark.parametrize("name", [name for name in WIDE if name != "tuple_of_tensors"])
def test_the_stated_error_bounds_the_true_one(name):
    """True: against a twin whose weights may be widened. It is no proof: the estimate was 1.1 to 9 times the error."""
    case = foreign.made(name)
    wanted = gradlab.exact_gradient(model_of(case), case.x)
    narrow = gradlab.LatentModel(case.encoder, twin(case.decoder), latents=2, categories=3, likelihood=case.likelihood)
    found, bound = quietly(gradlab.exact_gradient, narrow, case.x, return_error=True)
    error = (found - wanted).flatten(1).norm(dim=1)
    assert bool((error <= bound).all())
    assert bool((bound < 100 * error.max()).all())


def test_single_precision_may_be_asked_for():
    case = foreign.made("zeros_in_single_precision")
    wanted = oracles.gradient_of_plain_code(case.logits(), case.losses, 3, 1.0)
    found, bound = quietly(gradlab.exact_gradient, model_of(case), case.x, dtype=torch.float32, return_error=True)
    assert oracles.relative_error(found, wanted) < 1e-5
    assert bool((bound > 0).all())
    reference = gradlab.Enumerated(dtype=torch.float32)
    assert quietly(gradlab.bias, model_of(case), case.x, draws=8, reference=reference).attrs["exact_dtype"] == "float32"


def test_draws_in_a_precision_that_the_decoder_cannot_take_are_refused_with_the_cause():
    case = foreign.made("zeros_in_single_precision")
    with pytest.raises(ValueError, match=r"decoder: .*torch.float64.*the cause: a tensor of another precision"):
        gradlab.bias(model_of(case), case.x, compute=gradlab.Compute(dtype=torch.float64))


def test_an_encoder_in_single_precision_is_pulled_back_in_it():
    case = foreign.made("zeros_in_the_encoder")
    model = model_of(case)
    with pytest.warns(UserWarning, match="encoder: expected one that runs in float64 too"):
        ds = gradlab.bias(model, case.x, draws=32, wrt="encoder")
    gradient = oracles.gradient_of_plain_code(case.logits(), case.losses, 3, 1.0)
    parameters = dict(case.encoder.named_parameters())
    out = case.encoder(case.x).reshape(gradient.shape)
    wanted = torch.autograd.grad(out, list(parameters.values()), (gradient / foreign.EXAMPLES).float())
    for name, g in zip(parameters, wanted, strict=True):
        assert float(ds.exact_norm.sel(parameter=name).squeeze()) == pytest.approx(float(g.norm()), rel=1e-4)


# --- messages ---

MESSAGES = {
    "token ids": (torch.randint(9, (4, 6)), "got torch.int64; token ids and labels need a likelihood of your own"),
    "grey values": (torch.zeros(4, 6, dtype=torch.uint8), r"x.float\(\) / 255\), got torch.uint8"),
    "a dict": ({"image": torch.rand(4, 6)}, "x: expected one tensor, .* a dict of image; .*gradlab.Program"),
    "a list": ([torch.rand(4, 6), torch.rand(4, 1)], "x: expected one tensor, .* a list of 2 Tensors; join"),
    "complex": (torch.zeros(4, 6, dtype=torch.complex64), "expected real numbers"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_observations_that_do_not_fit_are_refused_with_their_cure(name):
    x, message = MESSAGES[name]
    with pytest.raises(ValueError, match=message):
        gradlab.exact_gradient(model_of(foreign.Case(foreign.mlp())), x)


def test_groups_may_be_viewed():
    encoder = foreign.Of(lambda self, x: ({"a": self.a(x), "b": self.b(x)}, x), a=nn.Linear(6, 6), b=nn.Linear(6, 4))
    decoder = foreign.Of(
        lambda self, z: self.a(z["a"].view(-1, 6)) + self.b(z["b"].view(-1, 4)), a=nn.Linear(6, 6), b=nn.Linear(4, 6)
    )
    model = gradlab.LatentModel(encoder, decoder, groups={"a": (2, 3), "b": (2, 2)}, likelihood="gaussian")
    gradlab.bias(model, torch.rand(4, 6), draws=8)


def test_two_tensors_that_may_be_logits_are_refused():
    """(mean, log variance), say."""
    encoder = foreign.Of(lambda self, x: (self.layer(x), self.layer(x)), layer=nn.Linear(6, 6))
    with pytest.raises(ValueError, match=r"encoder: expected logits .*, got a tuple of tensors of shape"):
        model_of(foreign.Case(foreign.mlp(), encoder=encoder)).logits(torch.rand(4, 6))


def test_reentrant_checkpointing_is_refused_where_derivatives_are_needed():
    decoder = foreign.Of(lambda self, z: checkpoint(self.body, z, use_reentrant=True), body=foreign.mlp())
    model, x = model_of(foreign.Case(decoder)), torch.rand(4, 6)
    unneeded = "None of the inputs have requires_grad=True"  # which is torch's word on losses without derivatives
    with pytest.warns(UserWarning, match=unneeded):
        gradlab.exact_gradient(model, x)
    hidden = r"decoder: .*reentrant checkpointing hides derivatives; pass use_reentrant=F"
    with pytest.warns(UserWarning, match=unneeded), pytest.raises(ValueError, match=hidden):
        gradlab.bias(model, x, draws=8)


def test_a_view_that_torch_refuses_is_named():
    encoder = foreign.Of(lambda self, x: self.layer(x.transpose(1, 2).view(-1, 6)), layer=nn.Linear(6, 6))
    model = model_of(foreign.Case(foreign.mlp(), encoder=encoder))
    with pytest.raises(ValueError, match=r"encoder: .*; the cause: a .view of a tensor that is not contiguous"):
        gradlab.bias(model, torch.rand(4, 2, 3))


def test_dropout_of_a_likelihood_is_found():
    net = nn.Sequential(nn.Linear(6, 6), nn.Dropout())
    case = foreign.Case(foreign.mlp(), lambda o, x: (net(o) - x).square().sum(1))
    with pytest.raises(ValueError, match=r"likelihood: expected evaluation mode, got 1 \(Dropout\)"):
        gradlab.bias(model_of(case), case.x)


def test_a_module_that_cannot_be_copied_is_named():
    class Stubborn:
        def __deepcopy__(self, memo):
            raise RuntimeError("no copies")

        def __init__(self):
            self.module = nn.Linear(1, 1)

    class Refuses(nn.Module):
        def __deepcopy__(self, memo):
            raise RuntimeError("no copies")

        def forward(self, z):
            return z.flatten(1)

    shared = foreign.Of(lambda self, z: self.body(z), body=foreign.mlp(), handle=Stubborn())
    gradlab.exact_gradient(model_of(foreign.Case(shared)), torch.rand(4, 6))
    model = model_of(foreign.Case(nn.Sequential(Refuses(), nn.Linear(6, 6))))
    with pytest.raises(ValueError, match=r"model: expected one that can be copied .*no copies"):
        gradlab.exact_gradient(model, torch.rand(4, 6))


# --- what a callable owns ---


def test_a_callable_without_weights_is_left_as_it_is():
    def loss(o, x):
        return nn.functional.mse_loss(o, x)

    assert owned.parts(loss) == []
    assert owned.rebuilt(loss, lambda part: part) is loss
    assert owned.rebuilt(nn.functional.mse_loss, lambda part: part) is nn.functional.mse_loss


@pytest.mark.parametrize("name", ["closure", "partial", "instance", "global_module", "default_argument"])
def test_a_callable_is_rebuilt_around_other_weights(name):
    case = foreign.made(name)
    other = foreign.Head()
    rebuilt = owned.rebuilt(case.likelihood, lambda part: other)
    o, x = torch.rand(4, 6), torch.rand(4, 6)
    torch.testing.assert_close(rebuilt(o, x), other(o, x))
    assert not torch.equal(case.likelihood(o, x), other(o, x))
    assert len(owned.parts(case.likelihood)) == 1


def test_the_precisions_inside_a_decoder_are_seen():
    case = foreign.made("autocast_inside")
    setup = prepare(model_of(case), case.x)
    assert quietly(exact_errors.narrowest, setup) == torch.bfloat16
