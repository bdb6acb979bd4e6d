"""Norms and inner products of gradients with respect to the encoder's parameters, by parameter tensor.

Let J_b be d logits / d theta of example b, and g_b a gradient of that example's loss with respect to its logits. The
gradient of the mean loss of B examples is linear in g:

    G = (1/B) sum_b J_b^T g_b

So the bias of G follows from the bias of g, and deviations of draws from their mean follow likewise. Gradients of the
size of the parameters are kept for a few g at a time; only their inner products remain.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import calls, errors
from ..model import LatentModel, precision
from ..numerics import power_of_two
from ..sampling import batch_bounds
from ..schema import coordinate
from ..setup import Setup, for_encoder

ALL = "all"  # the name of all tensors together


def encoder_parameters(model: LatentModel) -> dict[str, nn.Parameter]:
    """The encoder's parameters that require gradients, by name.

    Raises ValueError if there is none, or if one is called "all".
    """
    found = {name: p for name, p in model.encoder.named_parameters() if p.requires_grad}
    if not found:
        raise ValueError(
            "wrt: expected an encoder with parameters that require gradients for 'encoder', got one without; use"
            " wrt='logits'"
        )
    if ALL in found:
        raise ValueError(f"wrt: expected no parameter of the name {ALL!r}, which means all of them, got one; rename it")
    return found


class Products(NamedTuple):
    """Inner products of gradients by parameter tensor in float64; the first entry is the sum over all tensors.

    fixed (fixed, fixed, parameter), mixed (other, fixed, parameter), squares (other, parameter).
    """

    fixed: Tensor
    mixed: Tensor
    squares: Tensor


class PullBack:
    """Maps g (row, example, latent[, category]) to G of each row, in the precision of model and observations."""

    def __init__(self, model: LatentModel, x: Tensor, memory: int):
        parameters = encoder_parameters(model)
        self.names = [ALL, *parameters]
        self.parameters = list(parameters.values())
        entries = [p.numel() for p in self.parameters]
        self.entries = [sum(entries), *entries]
        saved = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal saved
            saved += tensor.numel()
            return tensor

        seen = for_encoder(model, x)
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            self.logits = model.logits(seen.clone()).to(precision(model, x))  # a copy, since layers may work in place
        if not self.logits.requires_grad:
            raise ValueError(
                "encoder: expected logits that depend on its parameters differentiably, got others (a detach or no_grad"
                " inside?)"
            )
        # a row needs memory for its gradients and for those of the activations
        self.rows = max(1, memory // ((sum(entries) + saved) * self.logits.element_size()))
        self.together = self._together_agrees()

    def coordinates(self) -> dict[str, Any]:
        """Coordinates of a Dataset: names and sizes of the tensors."""
        entries = ("parameter", self.entries, {"long_name": "entries of the tensor", "units": "1"})
        return {"parameter": coordinate("parameter", self.names), "entries": entries}

    def squares(self, vectors: Tensor) -> Tensor:
        """|G|^2 of each row: (row, parameter), float64."""
        size = power_of_two(vectors)
        parts = vectors.split(self.rows)
        return size.square() * torch.cat([with_all([_dots(g, g) for g in self._of(some / size)]) for some in parts])

    def products(self, fixed: Tensor, others: Tensor) -> Products:
        """Inner products of the fixed rows with each other, of other rows with the fixed ones, and with themselves."""
        kept = [torch.cat(parts) for parts in zip(*map(self._of, fixed.split(self.rows)), strict=True)]
        mixed, squares = [], []
        for some in others.split(self.rows):
            found = self._of(some)
            mixed.append(with_all([g @ k.T for g, k in zip(found, kept, strict=True)]))
            squares.append(with_all([_dots(g, g) for g in found]))
        return Products(with_all([k @ k.T for k in kept]), torch.cat(mixed), torch.cat(squares))

    def gram(self, vectors: Tensor) -> Tensor:
        """Inner products of all rows with each other: (row, row, parameter), float64."""
        blocks = vectors.split(max(1, self.rows // 2))
        found = vectors.new_zeros(len(vectors), len(vectors), len(self.names), dtype=torch.float64)
        starts = [0, *itertools.accumulate(map(len, blocks))]
        for i, block in enumerate(blocks):
            kept = self._of(block)
            here = slice(starts[i], starts[i + 1])
            for j in range(i + 1):
                others = kept if i == j else self._of(blocks[j])
                there = slice(starts[j], starts[j + 1])
                products = with_all([a @ b.T for a, b in zip(kept, others, strict=True)])
                found[here, there] = products
                found[there, here] = products.transpose(0, 1)
        return found

    def _of(self, vectors: Tensor) -> list[Tensor]:
        """G of each row: for each tensor an array (row, entry), 0 if the logits do not depend on the tensor."""
        vectors = vectors.to(self.logits) / len(self.logits)
        found = self._batched(vectors) if self.together else self._one_by_one(vectors)
        return [
            vectors.new_zeros(len(vectors), p.numel()) if g is None else g.flatten(1)
            for g, p in zip(found, self.parameters, strict=True)
        ]

    def _gradients(self, vectors: Tensor, batched: bool) -> Sequence[Tensor | None]:
        options = {"retain_graph": True, "allow_unused": True, "is_grads_batched": batched}
        return calls.gradients("encoder", self.logits, self.parameters, vectors, **options)

    def _batched(self, vectors: Tensor) -> Sequence[Tensor | None]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # from operations without a batched form
            return self._gradients(vectors, True)

    def _one_by_one(self, vectors: Tensor) -> Sequence[Tensor | None]:
        rows = [self._gradients(vector, False) for vector in vectors]
        return [None if of[0] is None else torch.stack(of) for of in zip(*rows, strict=True)]

    def _together_agrees(self) -> bool:
        """Whether torch gets the same gradients for several rows at once as one by one."""
        rows = torch.linspace(-1, 1, 2 * self.logits.numel()).reshape(2, *self.logits.shape).to(self.logits)
        wanted = self._one_by_one(rows)
        try:
            found = self._batched(rows)
        except (RuntimeError, ValueError) as error:  # data-dependent or custom backward passes
            errors.pass_on_memory(error)
            return False
        tolerance = torch.finfo(self.logits.dtype).eps ** 0.6
        both = [(a, b) for a, b in zip(found, wanted, strict=True) if a is not None and b is not None]
        return all(float((a - b).norm()) <= tolerance * float(b.norm()) for a, b in both)


def in_float64(setup: Setup) -> PullBack:
    """The PullBack in float64, for means and for the bias, which cancel."""
    return PullBack(setup.in_precision(torch.float64, setup.model), setup.x, setup.memory)


def of_deviations(setup: Setup, wide: PullBack) -> PullBack:
    """The PullBack for deviations of draws from their mean: float32 is enough for these, half precision is not."""
    model, x = setup.model, setup.x
    return PullBack(model, x, setup.memory) if precision(model, x) == torch.float32 else wide


def jacobian_products(setup: Setup) -> Tensor:
    """J_b J_b^T of each example's D logits by parameter tensor: (example, D, D, parameter), float64."""
    model, found = setup.in_precision(torch.float64, setup.model), []
    for row in setup.x.split(1):
        of_one = PullBack(model, row, setup.memory)
        basis = torch.eye(of_one.logits[0].numel(), dtype=torch.float64, device=row.device)
        found.append(of_one.gram(basis.reshape(len(basis), *of_one.logits.shape)))
    return torch.stack(found)


class PulledBackMoments:
    """For each batch of draws: count, mean at the logits, and sum of |G - mean of G|^2 by parameter tensor, float64.

    count (batch,) on the CPU, mean (batch, example, latent[, category]), squares (batch, parameter). A draw is one
    array of the logits' shape, an estimate or another quantity.
    """

    def __init__(self, pull_back: PullBack, draws: int):
        self.pull_back = pull_back
        like, batches = pull_back.logits.detach(), len(batch_bounds(draws)) - 1
        self.count = torch.zeros(batches, dtype=torch.long)
        self.mean = like.new_zeros(batches, *like.shape, dtype=torch.float64)
        self.squares = like.new_zeros(batches, len(pull_back.names), dtype=torch.float64)

    def add(self, batch: int, estimates: Tensor) -> None:
        """Merge estimates (draw, example, latent[, category]) into a batch (Chan, Golub, LeVeque 1979)."""
        for some in estimates.split(max(1, self.pull_back.rows - 1)):
            some = some.double()
            before, more = int(self.count[batch]), len(some)
            mean = some.mean(0)
            delta = mean - self.mean[batch]
            deviations = [some - mean] * (more > 1) + [delta[None]] * (before > 0)
            if deviations:
                weights = torch.ones(more * (more > 1) + (before > 0), dtype=torch.float64, device=mean.device)
                if before:
                    weights[-1] = before * more / (before + more)
                self.squares[batch] += weights @ self.pull_back.squares(torch.cat(deviations))
            self.mean[batch] += delta * (more / (before + more))
            self.count[batch] += more

    def fill(self, bounds: list[int], estimate: Tensor) -> None:
        """Set the moments for draws that all equal `estimate`."""
        self.count[:] = torch.tensor(bounds).diff()
        self.mean[:] = estimate.double()


def _dots(a: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("re,re->r", a, b)


def with_all(of_each: list[Tensor]) -> Tensor:
    """Stacked into (..., parameter) in float64, with the sum over all tensors first."""
    stacked = torch.stack(of_each, -1).double()
    return torch.cat([stacked.sum(-1, keepdim=True), stacked], -1)
