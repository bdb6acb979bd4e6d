"""The Bernoulli likelihood and its derivative, against log-probabilities in float64."""

import pytest
import torch

import gradlab
from gradlab.latents import BINARY, CATEGORICAL
from gradlab.likelihoods import Bernoulli

OUTPUTS = torch.tensor([[-80.0, -30.0, -17.0, -3.0, 0.0, 0.5, 3.0, 17.0, 25.0, 80.0]], dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("x", [0.0, 1.0, 0.25, 0.9])
def test_value_and_derivative_keep_their_digits_at_saturated_outputs(x, dtype):
    """sigmoid(o) - x is 0 at x = 1 from o = 17 on in float32, where -sigmoid(-o) = -4e-8 is due."""
    o = OUTPUTS.to(dtype).requires_grad_()
    targets = torch.full_like(o, x)
    x = float(targets[0, 0])  # as it is rounded
    (found,) = torch.autograd.grad(Bernoulli()(o, targets).sum(), o)
    wanted = (1 - x) * torch.sigmoid(OUTPUTS) - x * torch.sigmoid(-OUTPUTS)
    rtol = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), wanted, rtol=rtol, atol=0)
    value = -x * torch.nn.functional.logsigmoid(OUTPUTS) - (1 - x) * torch.nn.functional.logsigmoid(-OUTPUTS)
    each = torch.cat([Bernoulli()(o[:, i : i + 1], targets[:, i : i + 1]) for i in range(o.shape[1])])
    torch.testing.assert_close(each.double(), value[0], rtol=rtol, atol=0)


def test_the_relative_gap_of_a_decoder_that_knows_its_images_is_that_of_double_precision():
    """At its own code each output is right by 20: of discrete gradients of 1e-7, a seventh was lost in float32."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.nn.functional.one_hot(torch.tensor([[0, 1], [2, 0], [1, 1]]), 3).float()
    x = (torch.rand(3, 12, generator=generator) < 0.7).float()
    know, out = torch.nn.Linear(6, 3), torch.nn.Linear(3, 12, bias=False)
    with torch.no_grad():
        know.weight.copy_(codes.flatten(1))
        know.bias.fill_(-1.0)  # 1 at the image's own code, 0 or less elsewhere
        out.weight.copy_((20 * (2 * x - 1)).T)
    encoder = torch.nn.Linear(12, 6)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(generator=generator)
    decoder = torch.nn.Sequential(torch.nn.Flatten(), know, torch.nn.ReLU(), out)
    model = gradlab.LatentModel(encoder, decoder, latents=2, categories=3, likelihood="bernoulli")
    of_both = [
        gradlab.gap(model.to(dtype), x.to(dtype), 1.0, 1.3, draws=64).relative_gap.values.ravel()
        for dtype in (torch.float32, torch.float64)
    ]
    assert of_both[0] == pytest.approx(of_both[1], rel=1e-4)
    assert of_both[1].max() > 1e3  # carried by the draws at their own code


def test_the_likelihood_keeps_two_numbers_per_pixel_for_its_backward_pass():
    """Outputs and targets, as torch's function; written as a sum of two softplus terms it kept four."""
    kept = []
    o, x = torch.randn(5, 7, requires_grad=True), torch.rand(5, 7)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        Bernoulli()(o, x)
    assert sorted(kept) == sorted([o.data_ptr(), x.data_ptr()])


def test_the_likelihood_takes_outputs_and_targets_of_one_shape():
    """Three outputs against 3 x 784 targets gave a loss."""
    with pytest.raises(RuntimeError, match="must match the existing size"):
        Bernoulli()(torch.zeros(3, 1), torch.rand(3, 784))


@pytest.mark.parametrize("targets", [torch.bool, torch.uint8, torch.float16, torch.float64])
def test_targets_may_have_another_type(targets):
    o, x = torch.linspace(-3, 3, 8).reshape(2, 4), torch.tensor([[0, 1, 1, 0], [1, 0, 1, 0]])
    found = Bernoulli()(o, x.to(targets))
    assert found.dtype == (torch.float64 if targets == torch.float64 else torch.float32)
    torch.testing.assert_close(found.float(), Bernoulli()(o, x.float()))


def smooth(kind):
    """A function that has derivatives of its own, and where to take them; one output is 0."""
    generator = torch.Generator().manual_seed(3)
    some = torch.randn(3, 2, 4, dtype=torch.float64, generator=generator)
    some[0, 0, 0] = 0
    if kind == "likelihood":
        return Bernoulli(), (some[0], some[1].sigmoid())
    return (CATEGORICAL if kind == "categorical" else BINARY).kl_to_uniform, (some,)


@pytest.mark.parametrize("kind", ["likelihood", "categorical", "binary"])
def test_derivatives_of_all_modes(kind):
    """Against differences of numbers: `torch.func.jvp` and `hessian` of the KL raised NotImplementedError."""
    f, at = smooth(kind)
    leaves = tuple(a.clone().requires_grad_() for a in at)
    assert torch.autograd.gradcheck(f, leaves, check_forward_ad=True, check_batched_forward_grad=True)
    assert torch.autograd.gradgradcheck(f, leaves, check_fwd_over_rev=True, check_batched_grad=True)

    def total(first):
        return f(first, *at[1:]).sum()

    wanted = torch.autograd.functional.hessian(total, at[0])
    torch.testing.assert_close(torch.func.hessian(total)(at[0]), wanted)
    slope = torch.func.grad(total)(at[0])
    along = torch.func.jvp(total, (at[0],), (at[0],))[1]
    torch.testing.assert_close(along, (slope * at[0]).sum())
    each = torch.func.vmap(torch.func.grad(lambda *row: f(*(a[None] for a in row)).sum()))(*at)
    torch.testing.assert_close(each, slope)


@pytest.mark.parametrize("kind", ["likelihood", "categorical", "binary"])
def test_forward_mode_inside_forward_mode_is_refused(kind):
    """There torch takes the derivative of an own `jvp` as 0, in silence."""
    f, at = smooth(kind)
    with pytest.raises(NotImplementedError, match=r"expected one forward mode at a time.*take torch\.func\.hessian"):
        torch.func.jacfwd(torch.func.jacfwd(lambda first: f(first, *at[1:]).sum()))(at[0])
