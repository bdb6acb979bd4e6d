"""Slow, obvious versions of what the library computes fast: float64, autograd, plain loops."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from gradlab import LatentModel
from gradlab.setup import encode


def exact_gradient(model: LatentModel, x: Tensor, tf: float, target: str) -> Tensor:
    """Autograd of the sum of probability times loss, one decoder row per image and configuration."""
    with torch.no_grad():
        logits = model.logits(x)
    leaf = logits.detach().clone().requires_grad_()
    t = tf if target == "sampled" else 1.0
    pairs = torch.stack([leaf, torch.zeros_like(leaf)], -1) if model.binary else leaf
    log_p = torch.log_softmax(pairs / t, -1)
    expected = torch.zeros((), dtype=x.dtype)
    for configuration in itertools.product(range(model.categories), repeat=model.latents):
        one_hot = torch.eye(model.categories, dtype=x.dtype)[list(configuration)]
        code = one_hot[:, 0] if model.binary else one_hot
        with torch.no_grad():
            loss = model.losses(code.expand(len(x), *code.shape), x)
        log_probability = (log_p * one_hot).sum((1, 2))
        expected = expected + (log_probability.exp() * loss).sum()
    return torch.autograd.grad(expected, leaf)[0]


def straight_through_draws(
    model: LatentModel,
    x: Tensor,
    hard: Callable[[Tensor, Tensor], Tensor],
    soft: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
) -> Tensor:
    """Estimates (draw, example, latent, category) of z = hard(l, g) with soft's gradient, one autograd pass a draw."""
    with torch.no_grad():
        logits = model.logits(x)
    estimates = []
    for g in noise:
        leaf = logits.clone().requires_grad_()
        q = soft(leaf, g)
        z = hard(leaf.detach(), g) + (q - q.detach())
        estimates.append(torch.autograd.grad(model.losses(z, x).sum(), leaf)[0])
    return torch.stack(estimates)


def one_hot_argmax(a: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(a.argmax(-1), a.shape[-1]).to(a.dtype)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def probed(model: LatentModel, x: Tensor) -> list[int]:
    """Rows of each of the decoder's calls before anything is measured, which see that rows are their own."""
    rows: list[int] = []
    hook = model.decoder.register_forward_hook(lambda module, given, output: rows.append(len(output)))
    encode(model, x)
    hook.remove()
    return rows


def gap_gradients(model: LatentModel, x: Tensor, tf: float, tb: float, noise: Tensor) -> dict[str, Tensor]:
    """Discrete and relaxed gradients (draw, example, latent[, category]), two autograd passes a draw.

    "discrete", and the relaxed gradient by both definitions of the gap, "autodiff" and "shared-backward".
    """
    with torch.no_grad():
        logits = model.logits(x)
    soft = torch.sigmoid if model.binary else lambda a: torch.softmax(a, -1)
    hard = (lambda a: (a > 0).to(a.dtype)) if model.binary else one_hot_argmax
    found: dict[str, list[Tensor]] = {"discrete": [], "autodiff": [], "shared-backward": []}
    for g in noise:
        leaf = logits.clone().requires_grad_()
        zf, q = soft(leaf / tf + g), soft(leaf / tb + g)
        backward = q - q.detach()
        codes = {"discrete": hard(leaf.detach() / tf + g) + backward, "autodiff": zf}
        codes["shared-backward"] = zf.detach() + backward
        for name, z in codes.items():
            loss = model.losses(z, x).sum()
            found[name].append(torch.autograd.grad(loss, leaf, retain_graph=True)[0])
    return {name: torch.stack(gradients) for name, gradients in found.items()}


def gradient_of_plain_code(
    logits: Tensor, losses: Callable[[Tensor], Tensor], categories: int, tf: float, binary: bool = False
) -> Tensor:
    """The exact gradient by autograd of the expected loss; nothing of the library takes part.

    `logits` (example, latent, category), binary (example, latent); `losses` maps one code per example, of that shape,
    to a loss per example.
    """
    leaf = logits.detach().double().requires_grad_()
    pairs = torch.stack([leaf, torch.zeros_like(leaf)], -1) if binary else leaf
    p = torch.softmax(pairs / tf, -1)
    expected = torch.zeros((), dtype=torch.float64)
    for configuration in itertools.product(range(categories), repeat=logits.shape[1]):
        code = torch.eye(categories, dtype=logits.dtype)[list(configuration)]
        code = code[:, 0] if binary else code
        with torch.no_grad():
            loss = losses(code.expand(logits.shape).clone()).double()
        probability = torch.stack([p[:, latent, k] for latent, k in enumerate(configuration)]).prod(0)
        expected = expected + (probability * loss).sum()
    return torch.autograd.grad(expected, leaf)[0]
