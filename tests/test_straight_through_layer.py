"""Noise and codes have their laws, and the layer is torch's gumbel_softmax with two temperatures."""

import pytest
import torch
from scipy import stats

import gradlab
from gradlab import estimators
from gradlab.latents import BINARY, CATEGORICAL

# --- noise and codes ---


@pytest.mark.parametrize("kind", [CATEGORICAL, BINARY])
def test_noise_has_the_standard_law(kind):
    """Kolmogorov-Smirnov at 200,000 numbers; fixed seed, failure rate 1e-4 over seeds. Scaled by 1.02 it is found."""
    noise = kind.noise((200_000,), dtype=torch.float64, generator=torch.Generator().manual_seed(0)).numpy()
    law = stats.gumbel_r if kind is CATEGORICAL else stats.logistic
    assert stats.kstest(noise, law.cdf).pvalue > 1e-4
    assert stats.kstest(1.02 * noise, law.cdf).pvalue < 1e-4


def test_codes_follow_the_tempered_law():
    """Frequencies of 200,000 draws within 5 standard errors of softmax(l/tf), and not of softmax(l)."""
    logits = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64)
    noise = CATEGORICAL.noise((1, 200_000, 1, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = estimators.get("st-gs", tf=1.6).points(CATEGORICAL, logits, noise)[0].mean(0)[0]
    for tf, agrees in ((1.6, True), (1.0, False)):
        p = torch.softmax(logits[0] / tf, -1)
        assert bool((((found - p) / (p * (1 - p) / 200_000).sqrt()).abs() < 5).all()) == agrees


# --- the layer ---


class TestLayer:
    def test_values_are_exactly_one_hot_and_gradient_is_the_estimators(self):
        logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
        z = gradlab.decoupled_st_gumbel_softmax(logits, tf=1.6, tb=1.3, generator=torch.Generator().manual_seed(5))
        assert set(z.unique().tolist()) == {0.0, 1.0}
        assert (z.sum(-1) == 1).all()
        v = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
        (found,) = torch.autograd.grad((z * v).sum(), logits)
        noise = CATEGORICAL.noise(tuple(logits.shape), dtype=logits.dtype, generator=torch.Generator().manual_seed(5))
        estimator = estimators.get("decoupled-st-gs", tf=1.6, tb=1.3)
        plain = logits.detach()
        assert torch.equal(z, estimator.points(CATEGORICAL, plain, noise[None])[0])
        wanted = estimator.estimate(CATEGORICAL, plain, noise[None], z.detach()[None], None, v[None])
        torch.testing.assert_close(found, wanted)

    def test_drops_in_for_torch(self):
        """At tf = tb = 1 and the same noise: the same codes and the same gradient as torch's own."""
        logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
        v = torch.arange(35.0).reshape(7, 5)
        found = []
        for layer in (
            lambda: torch.nn.functional.gumbel_softmax(logits, hard=True),
            lambda: gradlab.decoupled_st_gumbel_softmax(logits),
        ):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(2)
                z = layer()
            found.append((z.detach().round(), torch.autograd.grad((z * v).sum(), logits)[0]))
        assert torch.equal(found[0][0], found[1][0])
        torch.testing.assert_close(found[0][1], found[1][1])

    def test_a_generator_leaves_the_global_state_alone(self):
        before = torch.random.get_rng_state()
        gradlab.decoupled_st_gumbel_softmax(torch.zeros(3, 4), generator=torch.Generator().manual_seed(0))
        assert torch.equal(before, torch.random.get_rng_state())

    @pytest.mark.parametrize("bad", [{"tf": 0.0}, {"tb": -1.0}, {"tf": float("nan")}])
    def test_bad_temperatures(self, bad):
        with pytest.raises(ValueError, match=r"t[fb]: expected a finite number above 0, got"):
            gradlab.decoupled_st_gumbel_softmax(torch.zeros(3), **bad)

    def test_integer_logits(self):
        with pytest.raises(ValueError, match="logits"):
            gradlab.decoupled_st_gumbel_softmax(torch.zeros(3, dtype=torch.long))
