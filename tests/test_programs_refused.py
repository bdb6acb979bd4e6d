"""What a program may not do, and that a user's modules are left as they are."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import gradlab
from gradlab import errors
from gradlab.fidelity.program_draws import Draws
from gradlab.programs.run import Run

from . import program_problems as problems

gate, out, norm = nn.Linear(3, 4), nn.Linear(4, 3), nn.BatchNorm1d(3)
X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
counter = []


def plain(x, sample):
    return (out(sample(gate(x)[:, None])[:, 0]) - x).square().sum(1)


def stateful(x, sample):
    counter.append(0)
    return plain(x, sample) * len(counter)


def many(x, sample):
    return sample(gate(x).repeat(1, 32).unflatten(1, (32, 4))).sum((1, 2))


LOSSES = {
    "dropout": (lambda x, s: functional.dropout(plain(x, s)), "dropout in training mode; call .eval()"),
    "randn": (lambda x, s: plain(x, s) + torch.randn(len(x)), "sample(), got torch.randn"),
    "exponential": (lambda x, s: plain(x, s) + torch.empty(len(x)).exponential_(), "got Tensor.exponential_"),
    "distribution": (
        lambda x, s: plain(x, s) + torch.distributions.Categorical(logits=gate(x)).sample(),
        "got torch.multinomial; draw codes with sample(logits)",
    ),
    "gumbel": (lambda x, s: plain(x, s) + functional.gumbel_softmax(gate(x)).sum(1), "got gumbel_softmax"),
    "state": (stateful, "expected the same loss for the same x and codes"),
    "batch norm": (lambda x, s: plain(norm(x), s), "batch norm in training mode"),
    "batch mean": (lambda x, s: plain(x, s) - plain(x, s).mean(), "losses that depend on other examples"),
    "number of examples": (lambda x, s: plain(x, s) / len(x), "losses that depend on other examples"),
    "if on codes": (
        lambda x, s: plain(x, lambda l: z if bool(((z := s(l))[:, :, 0] > 0).any()) else 2 * z),
        "take torch.where in place of an `if` on codes",
    ),
    "scalar": (lambda x, s: plain(x, s).mean(), r"one loss per example, shape (5,), got shape ()"),
    "no site": (lambda x, s: out(gate(x)).sum(1), "at least one call of sample(logits)"),
    "no latent": (lambda x, s: s(gate(x)).sum(1), "for one latent give logits[:, None], for units binary=True"),
    "one category": (lambda x, s: s(gate(x)[:, :, None]).sum((1, 2)), "at least 2 categories"),
    "not finite": (lambda x, s: plain(x, s) / 0, "finite losses, got inf at example 0"),
    "bad logits": (lambda x, s: s(gate(x)[:, None] * torch.nan).sum((1, 2)), "finite logits, -inf for an impossible"),
    "too many": (many, "at most 16,777,216 paths to enumerate, got 4^32 = 1.845e+19"),
    "shapes": (lambda x, s: plain(x.T, s), "expected one that runs, and back, on x, got RuntimeError: mat1"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_that_are_refused(name):
    loss, why = LOSSES[name]
    with pytest.raises(ValueError) as raised:
        gradlab.exact_gradient(gradlab.Program(loss, [gate, out]), X)
    assert why in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_plain_loss_is_neither_refused_nor_warned_of():
    program = gradlab.Program(plain, [gate, out])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gradlab.exact_gradient(program, X).keys() >= {"0.weight", "1.bias"}
        for reference in ("exact", "rloo"):
            gradlab.bias(program, X, draws=64, reference=reference)


ASKED = {
    "disarm": ({"estimator": "disarm"}, "expected one for categorical latents"),
    "rebar": ({"estimator": "rebar"}, "got rebar; take rloo, which is unbiased"),
    "running mean": ({"estimator": "reinforce:baseline=running-mean"}, "take rloo, whose baseline is the other paths"),
    "exact moments": ({"moments": "exact"}, "expected 'monte-carlo' for a Program"),
    "kl": ({"kl": True}, "add the term to its loss"),
    "wrt": ({"wrt": "logits"}, "wrt: expected none for a Program"),
    "equal cost": (
        {"moments": gradlab.MonteCarlo(equal_cost=True), "reference": "rloo"},
        "equal_cost: expected False beside a sampled reference",
    ),
    "reference": ({"reference": "reinforce"}, "expected 'exact', 'auto' or rloo for a Program"),
    "limit": ({"reference": gradlab.Enumerated(max_configurations=3)}, "at most 3 paths to enumerate, got 4^1 = 4"),
    "exact, sampled": ({"reference": "rloo", "estimator": "exact"}, "one that is sampled beside a sampled reference"),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_cannot_be_asked_of_a_program(name):
    asked, why = ASKED[name]
    with pytest.raises(ValueError) as raised:
        gradlab.bias(gradlab.Program(plain, gate), X, **asked)
    assert why in str(raised.value)


@pytest.mark.parametrize(
    ("x", "why"),
    [
        (3, "expected tensors with at least one example"),
        ({"a": X, "b": X[:2]}, "one number of examples, examples first, got 5 and 2"),
        (X[:0], "expected tensors with at least one example"),
        (X.to_sparse(), "dense tensors"),
    ],
)
def test_observations_that_are_refused(x, why):
    with pytest.raises(ValueError) as raised:
        gradlab.exact_gradient(gradlab.Program(plain, gate), x)
    assert why in str(raised.value)


@pytest.mark.parametrize(
    ("wrt", "why"),
    [
        ([], "parameters that require gradients, got none"),
        ("all", "expected a module, parameters by name"),
        (torch.ones(3), "parameters that require gradients, got none"),
        ({"all": nn.Parameter(torch.ones(3))}, "which means all of them"),
        (nn.LazyLinear(3), "initialised parameters"),
    ],
)
def test_parameters_that_are_refused(wrt, why):
    with pytest.raises(ValueError, match="wrt") as raised:
        gradlab.Program(plain, wrt)
    assert why in str(raised.value)


def test_parameters_of_a_copy_are_refused():
    with pytest.raises(ValueError, match="wrt: expected parameters that the loss uses, got none of them"):
        gradlab.exact_gradient(gradlab.Program(plain, copy.deepcopy(gate)), X)


def test_what_takes_models_only_says_so():
    program = gradlab.Program(plain, gate)
    for call in (gradlab.gap, gradlab.save):
        with pytest.raises(ValueError, match="got a Program, which gradlab"):
            call(program, X)
    with pytest.raises(ValueError, match="expected a function loss"):
        gradlab.Program(gate.weight, gate)
    with pytest.raises(errors.Excluded, match="return_error"):
        gradlab.exact_gradient(program, X, return_error=True)


def test_parameters_out_of_sight_are_refused():
    """The gradient with respect to the copy that stands for them would be 0."""

    class Linear(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x, weight)
            return x @ weight.T

        @staticmethod
        def backward(ctx, g):
            x, weight = ctx.saved_tensors
            return g @ weight, g.T @ x

    def loss(weight):
        return lambda x, sample: (Linear.apply(sample(gate(x)[:, None])[:, 0], weight()) - x).square().sum(1)

    with pytest.raises(ValueError, match="got weight in a custom autograd function"):
        gradlab.exact_gradient(gradlab.Program(loss(lambda: out.weight), {"weight": out.weight}), X)
    found = gradlab.exact_gradient(gradlab.Program(loss(lambda: out.weight.clone()), {"weight": out.weight}), X)
    plain = gradlab.Program(lambda x, s: (s(gate(x)[:, None])[:, 0] @ out.weight.T - x).square().sum(1), out)
    assert torch.allclose(found["weight"], gradlab.exact_gradient(plain, X)["weight"], rtol=1e-12)


def test_checkpointed_layers():
    """They run forward again on the way back; the reentrant kind gives no gradient to what is asked for."""
    deep = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))

    def program(call):
        return gradlab.Program(lambda x, s: (call(s(gate(x)[:, None])[:, 0]) - x).square().sum(1), [gate, deep])

    wanted = gradlab.exact_gradient(program(deep), X)
    found = gradlab.exact_gradient(program(lambda z: checkpoint(deep, z, use_reentrant=False)), X)
    assert all(torch.allclose(found[name], of, rtol=1e-12) for name, of in wanted.items())
    stds = [
        gradlab.bias(program(call), X, draws=8).std_norm.sel(parameter="all").item()
        for call in (deep, lambda z: checkpoint(deep, z, use_reentrant=False))
    ]
    assert stds[1] == pytest.approx(stds[0], rel=1e-10)
    with pytest.raises(ValueError, match="use_reentrant=True"):
        gradlab.exact_gradient(program(lambda z: checkpoint(deep, z, use_reentrant=True)), X)


class Hostile(nn.Module):
    """Keeps what it computed, counts its calls, writes to a buffer, to x and to what it is given."""

    def __init__(self):
        super().__init__()
        self.front, self.back = nn.Linear(3, 4), nn.Linear(4, 3)
        self.register_buffer("total", torch.zeros(()))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.drop = nn.Dropout(0.5)  # not called

    def loss(self, x, sample):
        x.sub_(1)
        self.kept = self.front(x)
        z = sample(self.kept[:, None])[:, 0]
        self.total.add_(1)
        total = torch.zeros(len(x))
        total += (self.back(z) * self.frozen - x).square().sum(1)
        return total


def test_the_users_modules_are_left_as_they_are():
    model = Hostile()
    state, attributes, x = copy.deepcopy(model.state_dict()), set(vars(model)), X.clone()
    random = torch.random.get_rng_state()
    names = gradlab.exact_gradient(gradlab.Program(model.loss, model), x).keys()
    for options in ({}, {"reference": "rloo"}, {"compute": gradlab.Compute(dtype=torch.float32)}):
        gradlab.bias(gradlab.Program(model.loss, model), x, draws=64, **options)
    assert list(names) == ["front.weight", "front.bias", "back.weight", "back.bias"]
    assert set(vars(model)) == attributes
    assert model.training
    assert torch.equal(x, X)
    assert torch.equal(torch.random.get_rng_state(), random)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[name])
    for parameter in model.parameters():
        assert parameter.grad is None
        assert not parameter._backward_hooks
    assert model.frozen.requires_grad is False


@pytest.mark.parametrize("name", problems.PROGRAMS)
@pytest.mark.parametrize("estimator", ["st-gs", "rloo:n=3", "gumbel-rao:k=2"])
def test_draws_at_once_are_those_one_by_one(name, estimator):
    model, x = problems.problem(name)
    estimator = gradlab.estimators.parse(estimator)
    with Run(model.program(), x).prepared() as run:
        draws = Draws(run, 3, 0, 2**28)
        noise = draws._noise_of(range(4))
        noise = [of[:, : max(1, estimator.noise_arrays)] for of in noise]
        together, singly = (way(estimator, noise) for way in (draws._batched, draws._singly))
        assert float((together - singly).norm()) < 1e-12 * float(singly.norm())
        assert draws._vmap_agrees(estimator)


def test_a_loss_that_vmap_does_not_run_is_drawn_one_by_one():
    def loss(x, sample):
        z = sample(gate(x)[:, None])[:, 0]
        return torch.stack([(out(z[i]) - x[i]).square().sum() * float(x[i, 0].item() > 0) for i in range(len(x))])

    program = gradlab.Program(loss, gate)
    with Run(program, X).prepared() as run:
        assert not Draws(run, 1, 0, 2**28)._vmap_agrees(gradlab.estimators.get("ste"))
    assert gradlab.bias(program, X, estimator="ste", draws=8).bias_norm.notnull().all()


def test_your_own_layer_at_each_site():
    def hard(logits, tau):
        return functional.gumbel_softmax(logits, tau=tau, hard=True)

    model, x = problems.problem("recurrent")
    own = gradlab.estimators.from_layer(hard, name="torch", law="model")
    ds = gradlab.bias(model.program(), x, tb=0.5, estimator=[own, "st-gs:convention=jang"], draws=16)
    for metric in ("bias_norm", "std_norm"):
        mine, catalogue = ds[metric].sel(parameter="all").values.ravel()
        assert mine == pytest.approx(catalogue, rel=1e-9)
