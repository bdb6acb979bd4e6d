"""Losses and derivatives at every configuration and image, block by block.

With a canonical likelihood f = A(o(z)) - s o(z).x + c(x), and with J = do/dz of the decoder,

    v(z, x) = J^T (dA/do - s x):

one Jacobian per configuration, by forward mode, and one matrix product serve all images. Where that does not pay (few
images), is not possible (other likelihoods, decoders that forward mode cannot take) or gives other numbers than a
backward pass, each pair of image and configuration is decoded and differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .. import errors, latents, likelihoods
from ..exact import activations_per_code, losses_of_configurations
from ..model import LatentModel

AGREEMENT = 1e-6  # of forward and backward mode at a sample of pairs


class Table:
    """f(z, x) and v(z, x) = df/dz of a model and images that share dtype and device."""

    def __init__(self, model: LatentModel, x: Tensor, memory: int, *, per_configuration: int = 0):
        """`per_configuration`: numbers that the caller needs beside each configuration of a block."""
        self.model, self.x, self.memory = model, x, memory
        inputs, pixels = math.prod(model.code_shape), math.prod(x.shape[1:])
        activations = activations_per_code(model, x)
        # 2 rows of the decoder, there and back, for each image; or one for each input
        self.forward_mode = (
            isinstance(model.likelihood, likelihoods.Canonical) and inputs <= 2 * len(x) and self._forward_mode_agrees()
        )
        jacobian = (1 + inputs) * (activations + 2 * pixels) if self.forward_mode else 0
        numbers = jacobian + 4 * len(x) * inputs + activations + 3 * pixels + per_configuration
        self.step = max(1, memory // (numbers * x.element_size()))

    def blocks(
        self, losses: bool = True, derivatives: bool = True
    ) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
        """For each block of configurations, in their order, what is wanted of:

        category indices (configuration, latent), losses (example, configuration), derivatives
        (example, configuration, latent[, category]).
        """
        for start in range(0, self.model.configurations, self.step):
            stop = min(self.model.configurations, start + self.step)
            indices = latents.configurations(self.model.latents, self.model.categories, start, stop).to(self.x.device)
            f = self.losses(start, stop) if losses else None
            v = self.derivatives(indices) if derivatives else None
            yield indices, f, v

    @torch.no_grad()
    def losses(self, start: int, stop: int) -> Tensor:
        """f (example, configuration) of the configurations start .. stop-1."""
        return losses_of_configurations(self.model, self.x, start, stop, self.memory)

    def derivatives(self, indices: Tensor) -> Tensor:
        """v (example, configuration, latent[, category]) at category indices (configuration, latent)."""
        codes = latents.codes_at(indices, self.model.categories, self.model.binary, self.x.dtype)
        v = by_forward_mode(self.model, codes, self.x) if self.forward_mode else self._pair_by_pair(codes)
        errors.finite("derivative", v, "df/dz must be finite at every configuration")
        return v

    def _pair_by_pair(self, codes: Tensor) -> Tensor:
        pairs = codes[:, None].expand(len(codes), len(self.x), *codes.shape[1:])
        return at_points(self.model, self.x, pairs, self.memory)[1].transpose(0, 1)

    def _forward_mode_agrees(self) -> bool:
        """Whether forward mode takes this decoder, and agrees with a backward pass at three configurations."""
        chosen = torch.arange(self.model.latents, device=self.x.device) + torch.arange(3, device=self.x.device)[:, None]
        codes = latents.codes_at(chosen % self.model.categories, self.model.categories, self.model.binary, self.x.dtype)
        some = self.x[:1]
        wanted = self.model.losses_and_derivatives(codes, some.expand(3, *some.shape[1:]).clone())[1]
        try:
            found = by_forward_mode(self.model, codes, some)[0]
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, NotImplementedError):  # in-place layers, functions without a forward mode
            return False
        return float((found - wanted).norm()) <= AGREEMENT * float(wanted.norm())


def at_points(model: LatentModel, x: Tensor, codes: Tensor, memory: int) -> tuple[Tensor, Tensor]:
    """f (n, example) and v, of the codes' shape, at codes (n, example, latent[, category]), pair by pair."""
    rows = torch.arange(codes.shape[0] * len(x), device=x.device)
    per_pair = (2 * activations_per_code(model, x) + 4 * math.prod(x.shape[1:])) * x.element_size()
    found = [
        model.losses_and_derivatives(codes[some // len(x), some % len(x)], x[some % len(x)])
        for some in rows.split(max(1, memory // per_pair))
    ]
    f, v = torch.cat([pair[0] for pair in found]), torch.cat([pair[1] for pair in found])
    return f.reshape(codes.shape[:2]), v.reshape(codes.shape)


def by_forward_mode(model: LatentModel, codes: Tensor, x: Tensor) -> Tensor:
    """v (example, configuration, latent[, category]) at codes (configuration, latent[, category]), canonical f."""
    likelihood = model.likelihood
    assert isinstance(likelihood, likelihoods.Canonical)
    basis = torch.eye(math.prod(codes.shape[1:]), dtype=codes.dtype, device=codes.device)

    def decode(z: Tensor) -> Tensor:
        return model.decode(z.clone()).flatten(1)  # a copy, since layers may work in place

    def along(direction: Tensor) -> tuple[Tensor, Tensor]:
        tangent = direction.reshape(codes.shape[1:]).expand_as(codes)
        o, change = torch.func.jvp(decode, (codes,), (tangent,))[:2]
        return o, change

    with torch.no_grad():
        # (input, configuration, pixel)
        primal, jacobian = torch.func.vmap(along)(basis)
        o = primal[0]
    with torch.enable_grad():
        leaf = o.detach().requires_grad_()
        slope = torch.autograd.grad(likelihood.log_partition(leaf).sum(), leaf)[0]
    flat = x.flatten(1)
    v = torch.matmul(flat, jacobian.mT)  # (input, example, configuration)
    v = (jacobian * slope).sum(-1)[:, None] - likelihood.scale(o.shape[1]) * v
    return v.permute(1, 2, 0).reshape(len(x), *codes.shape)
