"""The relaxed layer, and temperatures that are learned or differ from latent to latent."""

import pytest
import torch

import gradlab
from gradlab import estimators
from gradlab.estimators import gumbel_softmax
from gradlab.latents import CATEGORICAL

from .test_layers import seeded

# --- the relaxed layer ---


def test_the_relaxed_layer_is_the_estimator():
    """The same codes and the same gradient from the same noise, at any leading dimensions."""
    logits = torch.randn(2, 5, 3, 4, generator=seeded(0), dtype=torch.float64, requires_grad=True)
    v = torch.randn(logits.shape, generator=seeded(1), dtype=torch.float64)
    y = gumbel_softmax(logits, 1.6, 0.7, generator=seeded(5))
    (found,) = torch.autograd.grad((torch.sin(y) * v).sum(), logits)
    noise = CATEGORICAL.noise((1, *logits.shape), dtype=torch.float64, generator=seeded(5))
    estimator = estimators.get("gumbel-softmax", tf=1.6, tb=0.7)
    points = estimator.points(CATEGORICAL, logits.detach(), noise)
    torch.testing.assert_close(y.detach(), points[0], rtol=1e-12, atol=0)
    derivative = torch.cos(points) * v
    wanted = estimator.estimate(CATEGORICAL, logits.detach(), noise, points, None, derivative)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    other = estimator.at(1.0, 0.7).estimate(CATEGORICAL, logits.detach(), noise, points, None, derivative)
    assert not torch.allclose(found, other, rtol=0.1)


def test_the_relaxed_layer_is_torch_s_own_at_tf_1():
    logits = torch.randn(7, 5, generator=seeded(0), requires_grad=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        wanted = torch.nn.functional.gumbel_softmax(logits, tau=0.7)
        torch.manual_seed(2)
        torch.testing.assert_close(gumbel_softmax(logits, 1.0, 0.7), wanted)
        torch.manual_seed(2)
        torch.testing.assert_close(gumbel_softmax(logits, 0.7), gumbel_softmax(logits, 0.7, 0.7, seeded(2)))


@pytest.mark.parametrize("bad", [{"tf": 0.0}, {"tb": -1.0}, {"tf": float("nan")}, {"logits": torch.zeros(3).long()}])
def test_the_relaxed_layer_refuses_what_it_cannot_take(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        gumbel_softmax(**({"logits": torch.zeros(3)} | bad))


# --- temperatures that are learned, or differ from latent to latent ---


def learned(*shape):
    """A temperature of that shape, above 0.5, which no logits have."""
    values = 0.5 + torch.rand(shape, generator=seeded(7), dtype=torch.float64)
    return torch.nn.Parameter(values)


def of_codes(z):
    """A loss that is not linear in the codes and has another slope everywhere."""
    weights = torch.linspace(-1, 2, z.numel(), dtype=z.dtype).reshape(z.shape)
    return (torch.sin(2 * z) * weights).sum() + (z.square() * weights.flip(0)).sum()


@pytest.mark.parametrize("shape", [(), (1,), (3, 1), (5, 1, 1), (2, 5, 3, 1)], ids=str)
@pytest.mark.parametrize("layer", ["decoupled", "relaxed"])
def test_a_learned_backward_temperature_gets_the_gradient_that_autograd_gives(layer, shape):
    logits = torch.randn(2, 5, 3, 4, generator=seeded(0), dtype=torch.float64, requires_grad=True)
    tb = learned(*shape)
    g = CATEGORICAL.noise(tuple(logits.shape), dtype=torch.float64, generator=seeded(5))
    if layer == "decoupled":
        z = gradlab.decoupled_st_gumbel_softmax(logits, 1.6, tb, generator=seeded(5))
        q = torch.softmax(logits / tb + g, -1)
        hard = torch.nn.functional.one_hot((logits / 1.6 + g).argmax(-1), 4).double()
        wanted = q + (hard - q).detach()
    else:
        z = gumbel_softmax(logits, 1.6, tb, generator=seeded(5))
        wanted = torch.softmax((logits / 1.6 + g) / tb, -1)
    torch.testing.assert_close(z, wanted, rtol=1e-12, atol=1e-14)
    found = torch.autograd.grad(of_codes(z), [logits, tb])
    expected = torch.autograd.grad(of_codes(wanted), [logits, tb])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert expected[1].abs().min() > 1e-3  # a gradient that was dropped shows


@pytest.mark.parametrize("shape", [(), (3, 1)], ids=str)
def test_a_learned_forward_temperature_of_the_relaxed_layer_gets_its_gradient(shape):
    logits = torch.randn(5, 3, 4, generator=seeded(0), dtype=torch.float64)
    tf, tb = learned(*shape), torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda tf, tb: gumbel_softmax(logits, tf, tb, generator=seeded(5)), (tf, tb))
    (found,) = torch.autograd.grad(of_codes(gumbel_softmax(logits, tf, tb, generator=seeded(5))), tf)
    assert found.abs().min() > 1e-3


def test_one_learned_temperature_serves_both_passes():
    logits = torch.randn(5, 3, 4, generator=seeded(0), dtype=torch.float64)
    tau = learned()
    both = gradlab.decoupled_st_gumbel_softmax(logits, tau, generator=seeded(5))
    apart = gradlab.decoupled_st_gumbel_softmax(logits, tau.item(), tau, generator=seeded(5))
    torch.testing.assert_close(both, apart, rtol=0, atol=0)
    (found,) = torch.autograd.grad(of_codes(both), tau)
    (wanted,) = torch.autograd.grad(of_codes(apart), tau)
    assert found == wanted
    assert found.abs() > 1e-3


def test_the_relaxed_layer_learns_a_temperature_as_torch_s_own_does():
    logits = torch.randn(7, 5, generator=seeded(0))
    tau = torch.nn.Parameter(torch.tensor(0.7))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        (wanted,) = torch.autograd.grad(of_codes(torch.nn.functional.gumbel_softmax(logits, tau=tau)), tau)
        torch.manual_seed(2)
        (found,) = torch.autograd.grad(of_codes(gumbel_softmax(logits, 1.0, tau)), tau)
    torch.testing.assert_close(found, wanted)


def test_a_forward_temperature_that_no_gradient_reaches_is_refused():
    logits, tf = torch.zeros(2, 3), torch.nn.Parameter(torch.tensor(0.7))
    with pytest.raises(ValueError, match=r"tf: expected .* got requires_grad=True; .* tf.detach\(\)"):
        gradlab.decoupled_st_gumbel_softmax(logits, tf, 1.0)
    with torch.no_grad():
        assert gradlab.decoupled_st_gumbel_softmax(logits, tf, 1.0).sum() == 2


@pytest.mark.parametrize("values", [0.0, -1.0, float("nan"), float("inf")])
def test_a_learned_temperature_out_of_range_is_refused(values):
    tb = torch.nn.Parameter(torch.tensor([[1.0], [values], [2.0]]))
    for layer in (gumbel_softmax, gradlab.decoupled_st_gumbel_softmax):
        with pytest.raises(ValueError, match="tb: "):
            layer(torch.zeros(3, 4), 1.0, tb)


@pytest.mark.parametrize("shape", [(3,), (2, 1), (1, 3, 1, 1), (3, 4)], ids=str)
def test_temperatures_per_category_or_of_another_shape_are_refused(shape):
    for value in (torch.ones(shape), torch.nn.Parameter(torch.ones(shape))):
        with pytest.raises(ValueError, match=r"tb: expected a number or a tensor \(..., 1\) that broadcasts"):
            gumbel_softmax(torch.zeros(1, 3, 3), 1.0, value)


@pytest.mark.parametrize("call", ["estimator", "parse", "bias", "gap", "exact", "bias-list"])
def test_elsewhere_a_learned_temperature_is_refused_by_name(call):
    tau = torch.nn.Parameter(torch.tensor(0.7))
    model, x = gradlab.bundled("vae-8x4-mnist"), torch.zeros(2, 1, 28, 28)
    calls = {
        "estimator": lambda: estimators.get("st-gs", tb=tau),
        "parse": lambda: estimators.get("decoupled-st-gs", tb=torch.nn.Parameter(torch.ones(3, 1))),
        "bias": lambda: gradlab.bias(model, x, 1.0, tau, draws=2),
        "gap": lambda: gradlab.gap(model, x, 1.0, tau, draws=2),
        "exact": lambda: gradlab.exact_gradient(model, x, tau),
        "bias-list": lambda: gradlab.bias(model, x, 1.0, torch.nn.Parameter(torch.tensor([0.5, 1.0])), draws=2),
    }
    with pytest.raises(ValueError, match=r"^t[fb]: expected .* takes? no gradient"):
        calls[call]()
