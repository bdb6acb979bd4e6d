"""One step of a training, and the loss on images set aside."""

from __future__ import annotations

import torch
from torch import Tensor

from ..datasets import Images
from ..estimators import Estimator, RunningMean, evaluation
from ..latents import LatentKind, derived_seed
from ..losses import losses_of_all
from ..model import LatentModel

Temperature = float | Tensor  # of one model, or of several whose parameters are apart


def backward(
    model: LatentModel,
    estimator: Estimator,
    x: Tensor,
    noise: Tensor,
    kl: str = "model",
    baseline: RunningMean | None = None,
) -> tuple[Tensor, Tensor]:
    """One backward pass of the batch's mean loss: the estimator's gradient for the encoder, else autograd's.

    Gradients are added to the parameters' `.grad`. Returns the batch means of the loss and of the KL term, in
    nats or the likelihood's unit. `kl` is "none", "model" or "sampled" (see Settings). `noise` is `(array, example,
    latent, category)` (binary: without category);
    `baseline` is the running mean of an estimator that asks for one (`baseline_decay`), kept from step to step.

    Examples
    --------
    >>> model, x = gradlab.load("vae.safetensors"), gradlab.datasets.load("mnist-sample").first(20).floats()
    >>> estimator = gradlab.estimators.get("rloo", tf=1.6)
    >>> noise = torch.randn(estimator.noise_arrays, 20, model.latents, model.categories)
    >>> loss, kl = gradlab.training.backward(model, estimator, x, noise)
    >>> loss.shape
    torch.Size([])
    """
    logits, units = model.encoded(x)
    model = model.with_units(units)
    detached = logits.detach()
    of_decoder = logits.new_empty(())

    def loss_at(points: Tensor, differentiated: bool) -> tuple[Tensor, Tensor | None]:
        nonlocal of_decoder
        weights = estimator.weights(model.kind, detached, points)
        if estimator.all_configurations:  # the decoder need not see them once per example
            codes, loss = points, losses_of_all(model, x).T
        else:
            observed = x if points.shape[0] == 1 else x.repeat(points.shape[0], *([1] * (x.ndim - 1)))
            codes = points.flatten(0, 1).requires_grad_(differentiated)
            loss = model.losses(codes, observed).reshape(points.shape[:2])
        of_decoder, derivative = decoder_backward(loss, weights, codes)
        return loss.detach(), None if derivative is None else derivative.reshape(points.shape)

    (estimate,) = evaluation.evaluate([estimator], model.kind, detached, noise, loss_at, [baseline])
    return of_decoder, encoder_backward(model.kind, logits, estimate, kl_temperature(kl, estimator.tf))


def decoder_backward(loss: Tensor, weights: Tensor | None, codes: Tensor) -> tuple[Tensor, Tensor | None]:
    """The decoder's backward pass: the batch mean of its loss, and df/dz, of the codes' shape, where they ask for it.

    `loss` and `weights` are `(..., evaluation, example)`, with `...` models whose parameters are apart; means `(...)`.
    """
    of_decoder = evaluation.weighted(loss, weights).mean(-1)
    derivative = None
    if codes.requires_grad and weights is not None:
        # of the loss itself, also where its share is 0
        derivative = torch.autograd.grad(loss.sum(), codes, retain_graph=True)[0]
    of_decoder.sum().backward()
    if codes.requires_grad and weights is None:
        derivative = codes.grad.mul(loss.shape[-2] * loss.shape[-1])  # type: ignore[union-attr]
    return of_decoder.detach(), derivative


def kl_temperature(kl: str, tf: Temperature) -> Temperature | None:
    """The temperature t of the loss's KL(softmax(l/t) || uniform); None where the loss has no KL term."""
    return {"none": None, "model": 1.0, "sampled": tf}[kl]


def encoder_backward(kind: LatentKind, logits: Tensor, estimate: Tensor, t: Temperature | None) -> Tensor:
    """The encoder's backward pass from logits and estimate `(..., example, latent, category)`, `...` models.

    Returns the batch means of the KL term at temperature t, `(...)`, 0 where it is not in the loss.
    """
    examples = logits.shape[-2 - kind.event_dims]
    heads, slopes = [logits], [estimate / examples]
    divergence = logits.new_zeros(logits.shape[: -2 - kind.event_dims])
    if t is not None:
        divergence = kind.kl_to_uniform(logits / t).mean(-1)
        heads.append(divergence)
        slopes.append(torch.ones_like(divergence))
    torch.autograd.backward(heads, slopes)
    return divergence.detach()


VALIDATED = 1000  # images whose noise is drawn at once when validating


@torch.no_grad()
def evaluate(model: LatentModel, images: Images, tf: float, seed: int, batch: int = VALIDATED) -> list[float]:
    """Means over the images: loss at one code from softmax(l/tf), KL(softmax(l)), KL(softmax(l/tf)), both to uniform.

    The noise depends on `seed` alone.

    Examples
    --------
    >>> model, images = gradlab.load("vae.safetensors"), gradlab.datasets.load("mnist-sample").first(20)
    >>> loss, kl, kl_sampled = gradlab.training.evaluate(model, images, tf=1.6, seed=0)
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(derived_seed(seed, "validation"))
    sums = torch.zeros(3, dtype=torch.float64)
    for start in range(0, len(images), batch):
        x = images.floats(slice(start, start + batch)).to(device)
        logits, units = model.encoded(x)
        model = model.with_units(units)
        noise = model.kind.noise(tuple(logits.shape), dtype=logits.dtype, device=device, generator=generator)
        figures = [model.losses(model.kind.hard(logits / tf + noise), x)]
        figures += [model.kind.kl_to_uniform(logits), model.kind.kl_to_uniform(logits / tf)]
        sums += torch.stack(figures).double().sum(1).cpu()
    return (sums / len(images)).tolist()
