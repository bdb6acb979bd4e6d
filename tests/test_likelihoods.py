"""The Bernoulli likelihood and its derivative, against log-probabilities in float64."""

import pytest
import torch

import gradlab
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
