"""Models of real packages, against plain autograd: `pip install gradlab-fidelity[foreign]`, `pytest -m foreign`."""

import pytest
import torch
from torch import nn

import gradlab

from . import oracles

pytestmark = pytest.mark.foreign


def agrees(model, x, losses, tf=1.2):
    """The exact gradient is that of plain autograd, in single precision; draws run."""
    model.eval()
    with torch.no_grad():
        logits = model.logits(x)
    wanted = oracles.gradient_of_plain_code(logits, losses, model.categories, tf)
    assert oracles.relative_error(gradlab.exact_gradient(model, x, tf=tf), wanted) < 1e-4
    gradlab.bias(model, x, tf=tf, draws=16, estimator=["st-gs", "reinmax"])


def test_a_decoder_of_x_transformers():
    """A causal transformer over tokens that reads the codes as a prefix: decoder(codes, x)."""
    x_transformers = pytest.importorskip("x_transformers")

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.prefix = nn.Linear(3, 16)
            self.net = x_transformers.TransformerWrapper(
                num_tokens=7, max_seq_len=8, attn_layers=x_transformers.Decoder(dim=16, depth=1, heads=2)
            )

        def forward(self, codes, x):
            return self.net(x[:, :-1], prepend_embeds=self.prefix(codes))[:, 2:]

    def loss(out, x):
        return nn.functional.cross_entropy(out.transpose(1, 2), x[:, 1:], reduction="none").sum(1)

    torch.manual_seed(0)
    encoder, decoder = nn.Sequential(nn.Embedding(7, 6), nn.Flatten(), nn.Linear(30, 6)), Decoder().eval()
    model = gradlab.LatentModel(encoder, decoder, latents=2, categories=3, likelihood=loss, conditional=True)
    x = torch.randint(7, (3, 5))
    agrees(model, x, lambda z: loss(decoder(z, x), x))


def test_a_language_model_of_transformers():
    """GPT-2 of random weights; the codes are its first embeddings."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=7, n_positions=8, n_embd=16, n_layer=1, n_head=2)

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.prefix, self.net = nn.Linear(3, 16), transformers.GPT2LMHeadModel(config)

        def forward(self, codes, x):
            words = self.net.transformer.wte(x[:, :-1])
            return self.net(inputs_embeds=torch.cat([self.prefix(codes), words], 1)).logits[:, 2:]

    def loss(out, x):
        return nn.functional.cross_entropy(out.transpose(1, 2), x[:, 1:], reduction="none").sum(1)

    torch.manual_seed(0)
    encoder, decoder = nn.Sequential(nn.Embedding(7, 6), nn.Flatten(), nn.Linear(30, 6)), Decoder().eval()
    model = gradlab.LatentModel(encoder, decoder, latents=2, categories=3, likelihood=loss, conditional=True)
    x = torch.randint(7, (3, 5))
    agrees(model, x, lambda z: loss(decoder(z, x), x))


def test_a_decoder_that_returns_a_distribution_of_pyro():
    pyro = pytest.importorskip("pyro")

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean, self.scale = nn.Linear(6, 5), nn.Linear(6, 5)

        def forward(self, codes):
            h = codes.flatten(1)
            return pyro.distributions.Normal(self.mean(h), self.scale(h).exp()).to_event(1)

    torch.manual_seed(0)
    decoder, x = Decoder(), torch.rand(4, 5)
    model = gradlab.LatentModel(
        nn.Linear(5, 6), decoder, latents=2, categories=3, likelihood=lambda out, x: -out.log_prob(x)
    )
    agrees(model, x, lambda z: -decoder(z).log_prob(x))


def test_the_code_book_of_vector_quantize_pytorch():
    """Codes drawn from the distances to its code book; the decoder looks the vectors up."""
    package = pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    book = package.VectorQuantize(dim=4, codebook_size=3, kmeans_init=False).eval()

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(5, 8)

        def forward(self, x):
            e = self.net(x).unflatten(1, (2, 4))
            return -(e[:, :, None] - book.codebook).square().sum(-1), e

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(8, 5)

        def forward(self, codes):
            return self.out((codes @ book.codebook.to(codes)).flatten(1))

    decoder, x = Decoder(), torch.rand(4, 5)
    model = gradlab.LatentModel(Encoder(), decoder, latents=2, categories=3, likelihood="gaussian")
    agrees(model, x, lambda z: (decoder(z) - x).square().mean(1))
    hard = model.kind.hard(model.logits(x))
    torch.testing.assert_close(hard.argmax(-1), book(model.encoder(x)[1])[1])
