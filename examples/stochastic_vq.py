"""A stochastic vector quantiser: straight-through at the vector, the rotation trick, and the Gumbel path.

    python -m examples.stochastic_vq

Codes are drawn with logits -|e - c_k|^2 / T from the distances of an encoder vector e to the code book, so there is an
expected loss, and gradlab enumerates its exact gradient with respect to the logits; autograd pulls it back to e. Two of
the estimates pass by the logits: they are functions of the decoder's derivative u at the code vector q = c_z.

    at the vector    u
    rotation         s R^T u,  q = s R e: R turns e to the direction of q, s is the ratio of their lengths
    Gumbel path      through the code: gradlab.decoupled_st_gumbel_softmax(logits, tf=1, tb=1)
"""

import argparse

import torch
from torch import Tensor, nn

import gradlab

VECTORS, WORDS, WIDTH, FEATURES = 3, 5, 4, 8
NAMES = ("at the vector", "rotation", "Gumbel path")


class Encoder(nn.Module):
    """x -> logits from distances, and the vectors (example, vector, width)."""

    def __init__(self, book: nn.Parameter, temperature: float):
        super().__init__()
        self.net, self.book, self.temperature = nn.Linear(FEATURES, VECTORS * WIDTH), book, temperature

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        e = self.net(x).unflatten(1, (VECTORS, WIDTH))
        return self.logits(e), e

    def logits(self, e: Tensor) -> Tensor:
        return -(e[..., None, :] - self.book).square().sum(-1) / self.temperature


class Decoder(nn.Module):
    """Codes (n, vector, word) -> x, by way of their vectors in the book."""

    def __init__(self, book: nn.Parameter):
        super().__init__()
        self.book = book
        self.net = nn.Sequential(nn.Linear(VECTORS * WIDTH, 16), nn.Tanh(), nn.Linear(16, FEATURES))

    def forward(self, codes: Tensor) -> Tensor:
        return self.of_vectors(codes @ self.book)

    def of_vectors(self, q: Tensor) -> Tensor:
        return self.net(q.flatten(1))


def model(temperature: float = 1.0) -> gradlab.LatentModel:
    book = nn.Parameter(torch.randn(WORDS, WIDTH))
    sizes = {"latents": VECTORS, "categories": WORDS}
    return gradlab.LatentModel(Encoder(book, temperature), Decoder(book), likelihood="gaussian", **sizes)


def exact(made: gradlab.LatentModel, x: Tensor) -> Tensor:
    """The exact gradient of each example's expected loss with respect to its vectors."""
    e = made.encoder(x)[1].detach().requires_grad_()
    of_logits = gradlab.exact_gradient(made, x)
    return torch.autograd.grad(made.encoder.logits(e), e, of_logits.to(e))[0]


def rotated(e: Tensor, q: Tensor) -> Tensor:
    """q as a rotation and scaling of e, whose matrix carries no gradient."""
    a, b = (nn.functional.normalize(v.detach(), dim=-1) for v in (e, q))
    middle = nn.functional.normalize(a + b, dim=-1)
    length = q.norm(dim=-1, keepdim=True) / e.detach().norm(dim=-1, keepdim=True)
    along = (e * middle).sum(-1, keepdim=True), (e * a).sum(-1, keepdim=True)
    return length.detach() * (e - 2 * along[0] * middle + 2 * along[1] * b)


def estimate(name: str, made: gradlab.LatentModel, x: Tensor, z: Tensor) -> Tensor:
    """One estimate of the gradient with respect to the vectors; the code z, of the Gumbel path a draw of its own."""
    e = made.encoder(x)[1].detach().requires_grad_()
    q = (z @ made.encoder.book).detach()
    if name == "at the vector":
        q = e + (q - e).detach()
    elif name == "rotation":
        q = rotated(e, q)
    else:
        q = gradlab.decoupled_st_gumbel_softmax(made.encoder.logits(e), tf=1.0, tb=1.0) @ made.encoder.book.detach()
    loss = made.losses_of(made.decoder.of_vectors(q), x)
    return torch.autograd.grad(loss.sum(), e)[0]


def compared(made: gradlab.LatentModel, x: Tensor, draws: int) -> dict[str, tuple[float, float]]:
    """Of each estimate the squared relative bias without sampling noise, and the cosine with the exact gradient."""
    g, found = exact(made, x).double(), {}
    every = x.repeat(draws, 1)  # a row of each draw
    law = torch.distributions.OneHotCategorical(logits=made.logits(every).detach())
    for name in NAMES:
        estimates = estimate(name, made, every, law.sample()).double().unflatten(0, (draws, len(x)))
        mean, noise = estimates.mean(0), float(estimates.var(0).sum()) / draws
        squared = max(float(mean.square().sum()) - noise, 0.0)
        bias = (float((mean - g).square().sum()) - noise) / float(g.square().sum())
        found[name] = bias, float((mean * g).sum()) / max(squared**0.5 * float(g.norm()), 1e-300)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare three gradients of a stochastic vector quantiser.")
    parser.add_argument("--draws", type=int, default=1024)
    given = parser.parse_args()
    for temperature in (0.5, 2.0):
        torch.manual_seed(0)
        made, x = model(temperature).eval(), torch.randn(32, FEATURES)
        for name, (bias, cosine) in compared(made, x, given.draws).items():
            print(f"T {temperature:g}  {name:14} squared relative bias {bias:8.2f}  cosine {cosine:6.3f}")


if __name__ == "__main__":
    main()
