"""f(z, x) of configurations at all images.

A decoder that does not see x evaluates each configuration once for all images. The losses of a canonical likelihood are
then one matrix product; those of another likelihood, or of a decoder that sees x, are computed pair by pair.
"""

from __future__ import annotations

import math
import operator

import torch
from torch import Tensor

from . import checks, decoded, latents, likelihoods, model_checks
from .model import LatentModel, check_pixels, precision
from .numerics import MEMORY


def losses_of_configurations(
    model: LatentModel,
    x: Tensor,
    start: int,
    stop: int,
    memory: int = MEMORY,
    check: checks.Check = checks.at_once,
) -> Tensor:
    """f(z, x) of the configurations start .. stop-1 and all images: (example, configuration)."""
    indices = latents.configurations(model.latents, model.code_counts, start, stop, x.device)
    return losses_at(model, x, indices, memory, check)


def losses_of_all(model: LatentModel, x: Tensor, memory: int = MEMORY) -> Tensor:
    """f(z, x) at the points of the estimator `exact`, the joint codes of all (latent, category) and images.

    They are the configurations, but where latents differ in their categories: the estimator knows nothing of that.
    """
    indices = latents.configurations(model.latents, model.categories, 0, model.categories**model.latents, x.device)
    return losses_at(model, x, indices, memory)


def losses_at(
    model: LatentModel, x: Tensor, indices: Tensor, memory: int = MEMORY, check: checks.Check = checks.at_once
) -> Tensor:
    """f(z, x) at category indices (configuration, latent) and all images: (example, configuration)."""
    codes = model.codes_at(indices, precision(model, x))
    likelihood = model.likelihood
    if isinstance(likelihood, likelihoods.Canonical) and not model.conditional:
        parameters = model.decode(codes)
        check_pixels(parameters, x)
        o, flat = model.in_one_precision(parameters.flatten(1), x.flatten(1))
        f = torch.addmm(likelihood.log_partition(o)[None], flat, o.T, alpha=-likelihood.scale(o.shape[1]))
        f = f.add_(likelihood.offset(flat)[:, None]).to(parameters.dtype)
    else:
        f = _losses_of_pairs(model, x, codes, memory)

    def complain() -> None:
        for example, row in torch.nonzero(~torch.isfinite(f))[:1].tolist():  # none, where finite losses overflow a sum
            raise ValueError(
                "losses: expected finite losses of decoder and likelihood at every configuration, got"
                f" {f[example, row].item()} at example {example}, configuration {tuple(indices[row].tolist())}"
            )

    check(checks.all_finite(f.sum()), complain)
    return f


def _losses_of_pairs(model: LatentModel, x: Tensor, codes: Tensor, memory: int) -> Tensor:
    """f(z, x) (example, configuration), pair by pair: some images at a time, each beside every code of the block.

    Codes are decoded once, if the decoder does not see x and has a row for each code in all that it returns.
    """
    n = len(codes)
    parameters = None if model.conditional else model.decode(codes)
    if not isinstance(parameters, Tensor) and parameters is not None:
        one = codes[:1]
        if not decoded.per_row(*(model.decode(one.repeat_interleave(k, 0)) for k in (2, 3))):
            parameters = None
    numbers = math.prod(x.shape[1:]) + sum(t[0].numel() for t in decoded.tensors(parameters))
    if parameters is None:
        numbers += activations_per_code(model, x) + math.prod(model.code_shape)
    together = max(1, memory // (8 * x.element_size() * numbers))  # pairs
    found = []
    for rows in torch.arange(len(x) * n, device=x.device).split(together):
        image, of = rows // n, rows % n
        if parameters is not None:  # a copy: the likelihood may write
            some = decoded.mapped(operator.itemgetter(of), parameters)
            found.append(model.losses_of(some, x[image], codes.dtype))
        else:
            found.append(model.losses(codes[of], x[image]))
    return torch.cat(found).reshape(len(x), n)


def activations_per_code(model: LatentModel, x: Tensor) -> int:
    """Numbers that the decoder's modules put out for one code, counted by running it once."""
    zero = torch.zeros(1, model.latents, dtype=torch.long, device=x.device)
    code = model.codes_at(zero, precision(model, x))
    with torch.no_grad():
        return model_checks.activations(model.decoder, lambda: model.decode(code, x[:1]))
