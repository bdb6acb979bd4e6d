"""The layers under what training loops wrap around them: half precision, autocast, compile, functorch, tracing."""

import pytest
import torch

import gradlab
from gradlab.estimators import gumbel_softmax, surrogate_loss
from gradlab.latents import CATEGORICAL

from .test_layers import seeded

LAYERS = {"decoupled": gradlab.decoupled_st_gumbel_softmax, "relaxed": gumbel_softmax}
LOGITS = torch.randn(6, 3, 5, generator=seeded(0))
V = torch.randn(6, 3, 5, generator=seeded(1))


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layer(request):
    return request.param


def plain(layer, logits, seed=5):
    """Code and gradient of <z, V> in float64 by torch alone, from the layer's noise."""
    g = CATEGORICAL.noise(tuple(logits.shape), dtype=torch.float32, generator=seeded(seed)).double()
    leaf = logits.detach().double().requires_grad_()
    q = torch.softmax((leaf / 1.6 + g) / 1.3, -1) if layer is gumbel_softmax else torch.softmax(leaf / 1.3 + g, -1)
    (gradient,) = torch.autograd.grad((q * V).sum(), leaf)
    return CATEGORICAL.hard(leaf.detach() / 1.6 + g) if layer is not gumbel_softmax else q.detach(), gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_rounds_the_result_alone(layer, dtype):
    leaf = LOGITS.clone().to(dtype).requires_grad_()
    z = layer(leaf, 1.6, 1.3, generator=seeded(5))
    (found,) = torch.autograd.grad((z * V).sum(), leaf)
    code, gradient = plain(layer, leaf)
    assert z.dtype == found.dtype == dtype
    close = {"rtol": 2 * torch.finfo(dtype).eps, "atol": torch.finfo(dtype).eps}
    torch.testing.assert_close(z.double(), code, **close)
    torch.testing.assert_close(found.double(), gradient, **close)


@pytest.mark.parametrize("through", ["layer", "surrogate"])
def test_codes_in_bfloat16_follow_the_law(through):
    """Four equal logits of 10: sums with noise in bfloat16 are often equal, and the first had 2.3 % more than a
    quarter. 300,000 draws are within 5 standard errors of 0.3 %: by chance not in one of 400,000 seeds."""
    logits, draws = torch.full((300_000, 1, 4), 10.0, dtype=torch.bfloat16), 300_000
    if through == "layer":
        z = gradlab.decoupled_st_gumbel_softmax(logits, generator=seeded(3))
    else:
        seen = []
        surrogate_loss("reinforce", logits, lambda z: seen.append(z) or z.sum((1, 2)), generator=seeded(3))
        (z,) = seen
    assert z.dtype == torch.bfloat16
    shares = z.float().mean((0, 1))
    assert float((shares - 0.25).abs().max()) < 5 * (0.25 * 0.75 / draws) ** 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(layer, dtype):
    linear, x = torch.nn.Linear(4, 15), torch.randn(6, 4, generator=seeded(2))
    with torch.autocast("cpu", dtype):
        logits = linear(x).reshape(6, 3, 5)
        z = layer(logits, 1.6, 1.3, generator=seeded(5))
        loss = (z * V).sum()
    loss.backward()
    assert logits.dtype == dtype
    wanted = plain(layer, logits)[1].flatten(1).T.float() @ x
    torch.testing.assert_close(linear.weight.grad, wanted, rtol=0.02, atol=0.02)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_functorch_gives_the_gradient_and_tells_examples_apart(layer):
    def f(logits, v, generator=None):
        return (layer(logits, 1.6, 1.3, generator) * v).sum()

    found = torch.func.grad(lambda logits: f(logits, V, seeded(5)))(LOGITS)
    torch.testing.assert_close(found.double(), plain(layer, LOGITS)[1], rtol=1e-5, atol=1e-6)
    alike, same_v = LOGITS[:1].expand(6, 3, 5), V[:1].expand(6, 3, 5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        each = torch.func.vmap(torch.func.grad(f), randomness="different")(alike, same_v)
        torch.manual_seed(0)
        wanted = layer(leaf := alike.clone().requires_grad_(), 1.6, 1.3)
    torch.testing.assert_close(each, torch.autograd.grad((wanted * same_v).sum(), leaf)[0])
    assert len(each.unique(dim=0)) == 6
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(f)(LOGITS, V)


def test_the_gradient_can_be_differentiated_again(layer):
    leaf = LOGITS.double().requires_grad_()
    (once,) = torch.autograd.grad((layer(leaf, 1.6, 1.3, seeded(5)) * V).sum(), leaf, create_graph=True)
    (found,) = torch.autograd.grad(once.square().sum(), leaf)
    g = CATEGORICAL.noise((6, 3, 5), dtype=torch.float64, generator=seeded(5))
    q = torch.softmax((leaf / 1.6 + g) / 1.3 if layer is gumbel_softmax else leaf / 1.3 + g, -1)
    (wanted,) = torch.autograd.grad((q * V).sum(), leaf, create_graph=True)
    torch.testing.assert_close(once, wanted, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(found, torch.autograd.grad(wanted.square().sum(), leaf)[0], rtol=1e-9, atol=1e-13)


def test_compiled_it_is_what_it_was(layer):
    def f(logits):
        return layer(logits, 1.6, 1.3)

    found = []
    for each in (f, torch.compile(f, backend="aot_eager", fullgraph=True)):
        leaf = LOGITS.clone().requires_grad_()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            z = each(leaf)
        found.append((z.detach(), torch.autograd.grad((z * V).sum(), leaf)[0]))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_sizes_and_layouts(layer):
    for shape in ((0, 3, 5), (4, 1), (5,)):
        leaf = torch.zeros(shape, requires_grad=True)
        z = layer(leaf, 1.6, torch.tensor(1.3))
        z.sum().backward()
        assert z.shape == leaf.grad.shape == shape
    turned = LOGITS.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(layer(turned, 1.6, 1.3, seeded(5)), layer(LOGITS, 1.6, 1.3, seeded(5)))
    with torch.inference_mode():
        assert not layer(LOGITS, 1.6, 1.3).requires_grad


@pytest.mark.parametrize(
    ("logits", "tb", "words"),
    [
        (torch.zeros(4, 5, dtype=torch.long), 1.0, "got torch.int64 of shape (4, 5)"),
        (torch.zeros(4, 0), 1.0, "got torch.float32 of shape (4, 0)"),
        (torch.zeros(()), 1.0, "got torch.float32 of shape ()"),
        (torch.zeros(4, 5).to(torch.float8_e4m3fn), 1.0, "got torch.float8_e4m3fn"),
        (torch.zeros(4, 5).to_sparse(), 1.0, "got one that is sparse; make it dense"),
        (torch.zeros(4, 5).numpy(), 1.0, "got ndarray"),
        (torch.zeros(4, 5), torch.full((4, 1), 2), "tb: expected a number or a floating-point tensor, got torch.int64"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_it_cannot_take_is_one_sentence(layer, logits, tb, words):
    with pytest.raises(ValueError, match=r"^(logits|tb): expected") as refused:
        layer(logits, 1.0, tb)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_surrogate_loss_inside_functorch_is_refused():
    with pytest.raises(ValueError, match="got one inside grad or vmap"):
        torch.func.grad(lambda logits: surrogate_loss("st-gs", logits, lambda z: (z * V).sum((1, 2))).sum())(LOGITS)
