"""Losses and derivatives at codes, computed in one of two ways, and their costs.

Pair by pair: each pair of image and code is decoded and differentiated backwards. If a row of the decoder takes D
operations, a pair takes about 2 D.

By configuration: with a canonical likelihood f = A(o(z)) - s o(z).x + c(x), and with J = do/dz of the decoder,

    v(z, x) = J^T (dA/do - s x):

one Jacobian per configuration (forward mode over the n inputs of the decoder) and one matrix product serve all images:
(1 + n) D + 2 n (pixels) (images) operations per configuration. This is not possible for other likelihoods and for
decoders without forward mode.

On the VAEs of 8x4, 4x10 and 16x3, operations of both kinds take the same time within a factor of 1.6.

Decoders that are stacks of affine layers and elementwise functions are differentiated layer by layer (see `stacks`).
Both ways are then much cheaper and do not load torch's forward mode, which takes two seconds.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from . import checks, errors, latents, likelihoods
from .losses import activations_per_code, losses_at
from .model import LatentModel, precision
from .stacks import Stack

_JACOBIAN = 2**24  # bytes of the Jacobians of a block on a CPU; larger blocks leave the cache and are slower


def at_points(
    model: LatentModel,
    x: Tensor,
    codes: Tensor,
    image: Tensor,
    memory: int,
    wanted: bool = True,
    check: checks.Check = checks.at_once,
) -> tuple[Tensor, Tensor | None]:
    """f(z, x[image]) and, if `wanted`, df/dz at codes (n, latent[, category]), pair by pair in blocks."""
    per_row = 2 * activations_per_code(model, x) * codes.element_size()
    per_row += 4 * math.prod(x.shape[1:]) * max(x.element_size(), codes.element_size())
    # made once: a result of each block between the arrays of the blocks keeps the allocator from using these again
    loss, derivative = codes.new_empty(0), codes.new_empty(0)
    for rows in torch.arange(len(codes), device=x.device).split(max(1, memory // per_row)):
        if wanted:
            of_rows, v = model.losses_and_derivatives(codes[rows], x[image[rows]])
            if not len(derivative):
                derivative = v.new_empty(len(codes), *v.shape[1:])
            derivative[rows] = v
        else:
            with torch.no_grad():
                of_rows = model.losses(codes[rows], x[image[rows]]).detach()  # the loss may be a view of parameters
        if not len(loss):
            loss = of_rows.new_empty(len(codes))
        loss[rows] = of_rows
    check_losses(loss, image, check)
    if not wanted:
        return loss, None
    checks.finite("derivative", derivative, "df/dz must be finite at every code that is drawn", check)
    return loss, derivative


def check_losses(loss: Tensor, image: Tensor, check: checks.Check) -> None:
    """Raises ValueError with the index of the image if the loss of a pair is not finite."""

    def complain() -> None:
        row = int(torch.nonzero(~torch.isfinite(loss))[0, 0])
        raise ValueError(
            f"losses: expected finite losses of decoder and likelihood, got {loss[row].item()} at example"
            f" {int(image[row])}"
        )

    check(checks.all_finite(loss), complain)


def at_all_points(
    model: LatentModel,
    x: Tensor,
    points: Tensor,
    memory: int,
    wanted: bool = True,
    check: checks.Check = checks.at_once,
) -> tuple[Tensor, Tensor | None]:
    """Losses (..., example) and, if `wanted`, derivatives (..., example, latent[, category]) at points."""
    leading = points.shape[: points.ndim - len(model.code_shape) - 1]
    image = torch.arange(len(x), device=x.device).repeat(math.prod(leading))
    loss, derivative = at_points(model, x, points.reshape(-1, *model.code_shape), image, memory, wanted, check)
    return loss.reshape(*leading, len(x)), None if derivative is None else derivative.reshape(points.shape)


class ByConfiguration:
    """f(z, x) and v(z, x) = df/dz for all images of a model, by configuration. They share dtype and device."""

    def __init__(self, model: LatentModel, x: Tensor):
        self.model, self.x = model, x
        self.inputs, self.pixels = math.prod(model.code_shape), math.prod(x.shape[1:])
        self.stack = Stack.of(model, x)

    @functools.cached_property
    def activations(self) -> int:
        return activations_per_code(self.model, self.x)

    @functools.cached_property
    def decoder(self) -> int:
        """The number of operations of a row. The first count takes a second, because torch loads a module."""
        return decoder_operations(self.model, self.x)

    @property
    def operations(self) -> int:
        """The number of operations of a Jacobian and its products with all images, for one configuration."""
        return (1 + self.inputs) * self.decoder + 2 * self.inputs * self.pixels * len(self.x)

    def pays(self, pairs_each: float) -> bool:
        """True if Jacobians are possible and cost less than `pairs_each` pairs per configuration."""
        if self.stack:
            return self.stack.jacobian_pays(pairs_each)
        if self.model.conditional:
            return False
        if 2 * pairs_each <= 1 + self.inputs:  # for any decoder
            return False
        return self.operations < 2 * self.decoder * pairs_each and self.forward_mode_agrees()

    def step(self, memory: int, more: int = 0) -> int:
        """The number of configurations per block; the caller needs `more` further numbers for each."""
        if self.stack:
            return self.stack.step(memory, more)
        jacobian = (1 + self.inputs) * (self.activations + 2 * self.pixels)
        numbers = jacobian + 4 * len(self.x) * self.inputs + self.activations + 3 * self.pixels + more
        step = memory // (numbers * self.x.element_size())
        if self.x.device.type == "cpu":
            step = min(step, _JACOBIAN // (self.inputs * self.pixels * self.x.element_size()))
        return max(1, step)

    @torch.no_grad()
    def losses(self, indices: Tensor, memory: int, check: checks.Check = checks.at_once) -> Tensor:
        """f (example, configuration) at category indices (configuration, latent)."""
        return losses_at(self.model, self.x, indices, memory, check).detach()

    def derivatives(self, indices: Tensor, memory: int, check: checks.Check = checks.at_once) -> Tensor:
        """v (example, configuration, latent[, category]) at category indices (configuration, latent)."""
        codes = self.codes(indices)
        if self.model.conditional:  # outputs differ by image: nothing to share
            v = pair_by_pair(self.model, self.x, codes, memory, check)
        elif self.stack:
            v = self.stack.at_all_images(self.stack.passed(codes), memory).unflatten(-1, codes.shape[1:])
        else:
            v = by_forward_mode(self.model, codes, self.x)
        checks.finite("derivative", v, "df/dz must be finite at every configuration", check)
        return v

    def at_pairs(
        self,
        indices: Tensor,
        of: Tensor,
        image: Tensor,
        wanted: bool,
        jacobians: bool,
        memory: int,
        check: checks.Check,
    ) -> tuple[Tensor, Tensor | None]:
        """f (pair,) and, if `wanted`, v (pair, input) for pairs of configurations `of` (among `indices`) and images.

        Uses Jacobians and all images or, in a stack, single pairs.
        """
        if self.stack is None:
            f, v = self.losses(indices, memory, check), self.derivatives(indices, memory, check)
            return f[image, of], v[image, of].flatten(1)
        passed = self.stack.passed(self.codes(indices))
        f = self.stack.losses(passed, of, image, memory)
        check_losses(f, image, check)
        if not wanted:
            return f, None
        v = self.stack.by_jacobians(passed)[image, of] if jacobians else self.stack.at_pairs(passed, of, image, memory)
        checks.finite("derivative", v, "df/dz must be finite at every code that is drawn", check)
        return f, v

    def codes(self, indices: Tensor) -> Tensor:
        return self.model.codes_at(indices, precision(self.model, self.x))

    def forward_mode_agrees(self) -> bool:
        """True if forward mode works for this decoder and agrees with a backward pass at three configurations."""
        if self.stack or self.model.conditional:  # which is differentiated pair by pair
            return True
        if not isinstance(self.model.likelihood, likelihoods.Canonical):
            return False
        chosen = torch.arange(self.model.latents, device=self.x.device) + torch.arange(3, device=self.x.device)[:, None]
        counts = torch.tensor(self.model.code_counts, device=self.x.device)
        codes, some = self.codes(chosen % counts), self.x[:1]
        wanted = self.model.losses_and_derivatives(codes, some.expand(3, *some.shape[1:]).clone())[1]
        try:
            found = by_forward_mode(self.model, codes, some)[0]
        except (RuntimeError, ValueError) as error:  # in-place layers, functions without a forward mode
            errors.pass_on_memory(error)
            return False
        return float((found - wanted).norm()) <= torch.finfo(codes.dtype).eps ** 0.6 * float(wanted.norm())


class Table:
    """f(z, x) and v(z, x) at every configuration and image, block by block, computed in the cheaper way."""

    def __init__(self, model: LatentModel, x: Tensor, memory: int, *, more: int = 0):
        """`more` is the number of further numbers that the caller needs for each configuration."""
        self.model, self.x, self.memory = model, x, memory
        self.configurations = ByConfiguration(model, x)
        self.by_configuration = self.configurations.stack is not None or self.configurations.pays(pairs_each=len(x))
        self.step = self.configurations.step(memory, more)

    def blocks(
        self, losses: bool = True, derivatives: bool = True
    ) -> Iterator[tuple[range, Tensor, Tensor | None, Tensor | None]]:
        """Yields for each block of configurations: their numbers, category indices (configuration, latent), and if
        requested losses (example, configuration) and derivatives (example, configuration, latent[, category]).
        """
        of, counts, device = self.configurations, self.model.code_counts, self.x.device
        with checks.deferred(device) as check:
            for start in range(0, self.model.configurations, self.step):
                numbers = range(start, min(self.model.configurations, start + self.step))
                indices = latents.configurations(len(counts), counts, numbers.start, numbers.stop, device)
                f = of.losses(indices, self.memory, check) if losses else None
                v = None
                if derivatives and self.by_configuration:
                    v = of.derivatives(indices, self.memory, check)
                elif derivatives:
                    v = pair_by_pair(self.model, self.x, of.codes(indices), self.memory, check)
                yield numbers, indices, f, v


def pair_by_pair(model: LatentModel, x: Tensor, codes: Tensor, memory: int, check: checks.Check) -> Tensor:
    """v (example, configuration, latent[, category]) at codes (configuration, ...), for any model."""
    pairs = codes[:, None].expand(len(codes), len(x), *codes.shape[1:])
    v = at_all_points(model, x, pairs, memory, check=check)[1]
    assert v is not None
    return v.transpose(0, 1)


def decoder_operations(model: LatentModel, x: Tensor) -> int:
    """The number of multiplications and additions of one row, or of activations if there are none."""
    zero = torch.zeros(1, model.latents, dtype=torch.long, device=x.device)
    codes = model.codes_at(zero, precision(model, x))
    operations = 0
    # torch's counter does not take an output that is a view of a parameter, as of a decoder that ignores the codes
    with contextlib.suppress(AssertionError), FlopCounterMode(display=False) as counter, torch.no_grad():
        model.decode(codes, x[:1])
        operations = counter.get_total_flops()
    return operations or activations_per_code(model, x) or 1


def by_forward_mode(model: LatentModel, codes: Tensor, x: Tensor) -> Tensor:
    """v (example, configuration, latent[, category]) at codes (configuration, ...) for a canonical likelihood."""
    likelihood = model.likelihood
    assert isinstance(likelihood, likelihoods.Canonical)
    basis = torch.eye(math.prod(codes.shape[1:]), dtype=codes.dtype, device=codes.device)

    def decode(z: Tensor) -> Tensor:
        return model.decode(z.clone()).flatten(1)  # a copy, because layers may work in place

    def along(direction: Tensor) -> tuple[Tensor, Tensor]:
        tangent = direction.reshape(codes.shape[1:]).expand_as(codes)
        o, change = torch.func.jvp(decode, (codes,), (tangent,))[:2]
        return o, change

    with torch.no_grad():
        # (input, configuration, pixel)
        primal, jacobian = torch.func.vmap(along)(basis)
        o, flat = model.in_one_precision(primal[0], x.flatten(1))
    with torch.enable_grad():
        leaf = o.detach().requires_grad_()
        slope = torch.autograd.grad(likelihood.log_partition(leaf).sum(), leaf)[0]
    jacobian = jacobian.to(flat.dtype)
    v = torch.matmul(flat, jacobian.mT)  # (input, example, configuration)
    v = (jacobian * slope).sum(-1)[:, None] - likelihood.scale(o.shape[1]) * v
    return v.permute(1, 2, 0).reshape(len(x), *codes.shape).to(codes.dtype)
