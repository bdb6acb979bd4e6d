"""Loss and derivative at the points that draws need: at the distinct pairs of image and code, or at every point."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import errors
from ..exact import activations_per_code
from ..latents import category_indices, codes_at
from ..model import LatentModel


def evaluate_points(
    model: LatentModel, x: Tensor, points: Tensor, memory: int, wanted: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Loss (evaluation, draw, example) and, if wanted, derivative of points' shape, the decoder seeing every point."""
    shape = points.shape[:3]
    image = torch.arange(len(x), device=x.device).repeat(math.prod(shape[:2]))
    loss, derivative = _losses_and_derivatives(model, x, points.flatten(0, 2), image, memory, wanted)
    return loss.reshape(shape), None if derivative is None else derivative.reshape(points.shape)


def _losses_and_derivatives(
    model: LatentModel, x: Tensor, codes: Tensor, image: Tensor, memory: int, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """f(z, x[image]) and, if wanted, df/dz of codes (n, latent[, category]), in blocks of bounded memory."""
    per_row = (2 * activations_per_code(model, x) + 4 * math.prod(x.shape[1:])) * x.element_size()
    step = max(1, memory // per_row)
    losses, derivatives = [], []
    for rows in torch.arange(len(codes), device=x.device).split(step):
        if wanted:
            loss, derivative = model.losses_and_derivatives(codes[rows], x[image[rows]])
            derivatives.append(derivative)
        else:
            with torch.no_grad():
                loss = model.losses(codes[rows], x[image[rows]])
        losses.append(loss)
    loss = torch.cat(losses)
    if not bool(torch.isfinite(loss).all()):
        row = int(torch.nonzero(~torch.isfinite(loss))[0, 0])
        raise ValueError(
            f"losses: {loss[row].item()} at example {int(image[row])}; decoder and likelihood must give finite losses"
        )
    if not wanted:
        return loss, None
    derivative = torch.cat(derivatives)
    errors.finite("derivative", derivative, "df/dz must be finite at every code that is drawn")
    return loss, derivative


class DrawnPairs:
    """The distinct pairs of image and code among the points of all draws, each evaluated once.

    A pair's key is image * configurations + configuration. Draws that share their noise repeat themselves and each
    other: 1,024 draws of 100 images at ten tf, a million points, were 6,406 pairs of a trained 8x4 model.
    """

    def __init__(self, model: LatentModel, x: Tensor):
        self.model, self.x = model, x
        strides = [model.categories ** (model.latents - 1 - i) for i in range(model.latents)]
        self.strides = torch.tensor(strides, device=x.device)
        self.first_key = torch.arange(len(x), device=x.device) * model.configurations
        self.pairs = torch.empty(0, dtype=torch.long, device=x.device)
        self.loss = self.derivative = self.pairs

    @staticmethod
    def possible(model: LatentModel, x: Tensor) -> bool:
        """Whether keys are 64-bit numbers."""
        return model.configurations * len(x) < 2**62

    def keys(self, indices: Tensor) -> Tensor:
        """Keys (..., example) of category indices (..., example, latent)."""
        return (indices * self.strides).sum(-1).add_(self.first_key)

    def keys_of(self, points: Tensor) -> Tensor:
        return self.keys(category_indices(self.model.kind, points))

    def rank(self, keys: list[Tensor], memory: int) -> list[Tensor]:
        """Set `pairs`, the distinct keys, ascending; give each key's position among them, int32."""
        everything = self.model.configurations * len(self.x)
        if everything * 16 <= memory:  # a table of all pairs: no sorting
            seen = torch.zeros(everything, dtype=torch.bool, device=self.x.device)
            for some in keys:
                seen.index_fill_(0, some.flatten(), True)
            self.pairs = seen.nonzero()[:, 0]
            rank = seen.cumsum(0, dtype=torch.int32).sub_(1)
            return [rank.index_select(0, some.flatten()).reshape(some.shape) for some in keys]
        self.pairs = torch.cat([some.unique() for some in keys]).unique()
        return [torch.searchsorted(self.pairs, some, out_int32=True) for some in keys]

    @property
    def bytes(self) -> int:
        """What loss, derivative and codes of all pairs take."""
        return len(self.pairs) * (2 * math.prod(self.model.code_shape) * self.x.element_size() + 32)

    def evaluate(self, memory: int, wanted: bool) -> None:
        model = self.model
        indices = (self.pairs[:, None] % model.configurations // self.strides) % model.categories
        codes = codes_at(indices, model.categories, model.binary, self.x.dtype)
        image = self.pairs // model.configurations
        loss, derivative = _losses_and_derivatives(model, self.x, codes, image, memory, wanted)
        self.loss, self.derivative = loss, loss if derivative is None else derivative.flatten(1)

    def losses(self, ranks: Tensor) -> Tensor:
        return self.loss.index_select(0, ranks.flatten()).reshape(ranks.shape)

    def derivatives(self, ranks: Tensor) -> Tensor:
        """v (..., latent[, category]) at ranks (...)."""
        rows = self.derivative.index_select(0, ranks.flatten())
        return rows.reshape(*ranks.shape, *self.model.code_shape)
