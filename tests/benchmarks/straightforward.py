"""What gradlab computes, as one writes it down first."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from gradlab import LatentModel, latents

CHUNK = 32  # draws per autograd pass
CONFIGURATIONS = 4096  # decoded at once


def exact_gradient(model: LatentModel, x: Tensor, tf: float) -> Tensor:
    """Target "sampled". `model` and `x` are float64; every image decodes every configuration."""
    with torch.no_grad():
        logits = copy.deepcopy(model).float().logits(x.float()).double()  # the encoder as measured, in float32
    gradients = []
    for image, l in zip(x, logits, strict=True):
        leaf = l.clone().requires_grad_()
        gradient = torch.zeros_like(l)
        for start in range(0, model.configurations, CONFIGURATIONS):
            stop = min(model.configurations, start + CONFIGURATIONS)
            indices = latents.configurations(model.latents, model.categories, start, stop, x.device)
            codes = functional.one_hot(indices, model.categories).double()
            with torch.no_grad():
                f = model.losses(codes, image.expand(len(codes), *image.shape))
            log_p = (torch.log_softmax(leaf / tf, -1) * codes).sum((1, 2))
            gradient += torch.autograd.grad((log_p.exp() * f).sum(), leaf)[0]
        gradients.append(gradient)
    return torch.stack(gradients)


def reinmax_moments(model: LatentModel, x: Tensor, tf: float, tb: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation by enumeration, image by image, the decoder seeing every configuration each time."""
    with torch.no_grad():
        logits = copy.deepcopy(model).float().logits(x.float()).double()
    indices = latents.configurations(model.latents, model.categories, 0, model.configurations, x.device)
    codes = functional.one_hot(indices, model.categories).double()
    found = []
    for image, l in zip(x, logits, strict=True):
        leaf = codes.clone().requires_grad_()
        v = torch.autograd.grad(model.losses(leaf, image.expand(len(codes), *image.shape)).sum(), leaf)[0]
        p, pi = torch.softmax(l / tf, -1), (codes + torch.softmax(l / tb, -1)) / 2
        of_code = (2 * pullback(pi, v) - pullback(p, v) / 2) / tf
        weight = (torch.log_softmax(l / tf, -1) * codes).sum((1, 2)).exp()[:, None, None]
        mean = (weight * of_code).sum(0)
        found.append(torch.stack([mean, (weight * (of_code - mean).square()).sum(0).sqrt()]))
    mean, std = torch.stack(found, 1)
    return mean, std


def pullback(q: Tensor, v: Tensor) -> Tensor:
    return q * (v - (q * v).sum(-1, keepdim=True))


def estimates(
    model: LatentModel,
    x: Tensor,
    tf: float,
    tb: float,
    draws: int,
    noise_of: Callable[[int, int], Tensor] | None = None,
) -> Tensor:
    """Decoupled ST-GS, one autograd pass per chunk of draws: (draw, example, latent, category).

    `noise_of(start, stop)` gives the noise of these draws; drawn in place if None.
    """
    with torch.no_grad():
        logits = model.logits(x)
    found = []
    for start in range(0, draws, CHUNK):
        stop = min(draws, start + CHUNK)
        leaf = logits.expand(stop - start, *logits.shape).clone().requires_grad_()
        g = noise_of(start, stop) if noise_of else -torch.empty_like(leaf).exponential_().log()
        z = straight_through(leaf, g, tf, tb)
        loss = model.losses(z.flatten(0, 1), x.repeat(stop - start, *[1] * (x.ndim - 1)))
        found.append(torch.autograd.grad(loss.sum(), leaf)[0])
    return torch.cat(found)


def gaps(model: LatentModel, x: Tensor, tf: float, tb: float, noise: Tensor) -> Tensor:
    """Gradient gap of binary units by both definitions (definition, draw, example), autograd passes for each draw."""
    with torch.no_grad():
        logits = model.logits(x)
    found = []
    for g in noise:
        leaf = logits.clone().requires_grad_()
        relaxed, q = torch.sigmoid(leaf / tf + g), torch.sigmoid(leaf / tb + g)
        z, backward = (leaf.detach() / tf + g > 0).to(x.dtype), q - q.detach()
        discrete, autodiff, shared = (
            torch.autograd.grad(model.losses(code, x).sum(), leaf, retain_graph=True)[0]
            for code in (z + backward, relaxed, relaxed.detach() + backward)
        )
        found.append(torch.stack([(r - discrete).norm(dim=1) for r in (autodiff, shared)]))
    return torch.stack(found, 1)


def straight_through(logits: Tensor, g: Tensor, tf: float, tb: float) -> Tensor:
    z = functional.one_hot((logits / tf + g).argmax(-1), logits.shape[-1]).to(logits.dtype)
    q = torch.softmax(logits / tb + g, -1)
    return z + (q - q.detach())


def training_step(
    model: LatentModel,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    tf: float,
    tb: float,
    g: Tensor | None = None,
) -> None:
    """Bernoulli nats + KL(softmax(l) || uniform), mean over the batch; noise drawn in place if `g` is None."""
    logits = model.encoder(x).reshape(len(x), *model.code_shape)
    g = -torch.empty_like(logits).exponential_().log() if g is None else g
    o = model.decoder(straight_through(logits, g, tf, tb))
    log_p = torch.log_softmax(logits, -1)
    kl = (log_p.exp() * log_p).sum()  # but for a constant
    loss = (functional.binary_cross_entropy_with_logits(o, x, reduction="sum") + kl) / len(x)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
