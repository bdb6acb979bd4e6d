"""Loss and derivative at the distinct pairs of image and code that draws need."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from .. import checks, parallel
from ..derivatives import ByConfiguration, at_points
from ..latents import strides
from ..model import LatentModel, precision


class DrawnPairs:
    """The distinct pairs of image and code among the points of all draws, each evaluated once.

    A pair's key is image * configurations + configuration. Draws with shared noise
    repeat pairs often: 1,024 draws of 100 images at ten tf, a million points, were 6,406 pairs of a trained 8x4 model.
    """

    def __init__(self, model: LatentModel, x: Tensor):
        self.model, self.x = model, x
        self.strides = torch.tensor(strides(model.code_counts), device=x.device)
        self.counts = torch.tensor(model.code_counts, device=x.device)
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
        return self.keys(self.model.kind.code_indices(points))

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
        """Size of key, loss and derivative of all pairs."""
        return len(self.pairs) * ((math.prod(self.model.code_shape) + 1) * self.x.element_size() + 8)

    def evaluate(self, memory: int, wanted: bool, decoder: str = "auto") -> None:
        """Loss and, if wanted, derivative at all pairs. `decoder`: "pairs", "table", or the one of fewer operations."""
        model = self.model
        numbers, of = (self.pairs % model.configurations).unique(return_inverse=True)
        indices = (numbers[:, None] // self.strides) % self.counts
        image = self.pairs // model.configurations
        table = ByConfiguration(model, self.x)
        if wanted and decoder == "table" and not table.forward_mode_agrees():
            raise ValueError(
                "decoder: expected for 'table' a bernoulli or gaussian likelihood and a decoder that torch"
                " differentiates in forward mode, got another; decoder='pairs' takes any"
            )
        jacobians = wanted and (
            decoder == "table" or (decoder == "auto" and table.pays(len(self.pairs) / len(numbers)))
        )
        if jacobians or table.stack:
            self._by_configuration(table, indices, of, image, memory, wanted, jacobians)
            return
        rows = max(1, memory // (32 * math.prod(model.code_shape) * self.x.element_size()))  # codes are not kept
        with checks.deferred(of.device) as check:
            for some in torch.arange(len(of), device=of.device).split(rows):
                codes = table.codes(indices[of[some]])
                loss, v = at_points(model, self.x, codes, image[some], memory // 2, wanted, check)
                if not len(self.loss):
                    self.loss = loss.new_empty(len(of))
                    self.derivative = (loss if v is None else v).new_empty(0 if v is None else len(of), table.inputs)
                self.loss[some] = loss
                if v is not None:
                    self.derivative[some] = v.flatten(1)

    def _by_configuration(
        self,
        table: ByConfiguration,
        indices: Tensor,
        of: Tensor,
        image: Tensor,
        memory: int,
        wanted: bool,
        jacobians: bool,
    ) -> None:
        """Block by block of configurations; `of` gives each pair's row of `indices`."""
        dtype = precision(self.model, self.x)
        self.loss = self.x.new_empty(len(of), dtype=dtype)
        self.derivative = self.x.new_empty(len(of) if wanted else 0, table.inputs, dtype=dtype)
        threads = torch.get_num_threads() if table.stack and of.device.type == "cpu" else 1
        memory //= threads
        order, step = of.argsort(), table.step(memory)
        starts = range(0, len(indices), step)
        edges = torch.tensor([*starts, len(indices)], device=of.device)
        ends = torch.searchsorted(of[order], edges).tolist()  # once, so that the loop does not wait for a GPU
        pieces = zip(starts, (order[a:b] for a, b in itertools.pairwise(ends)), strict=True)
        with checks.deferred(of.device) as check:

            def fill(piece: tuple[int, Tensor]) -> None:
                start, pairs = piece
                given = indices[start : start + step], of[pairs] - start, image[pairs], wanted, jacobians
                self.loss[pairs], derivative = table.at_pairs(*given, memory, check)
                if derivative is not None:
                    self.derivative[pairs] = derivative

            for _ in parallel.each(fill, pieces, of.device, threads=threads > 1):
                pass

    def centre(self, logits: Tensor) -> None:
        """Subtracts the entry at the most probable category of the image, in place (see `LatentKind.centred`)."""
        if not self.model.binary:
            at = logits.argmax(-1)[self.pairs // self.model.configurations][..., None]
            v = self.derivative.view(-1, *self.model.code_shape)
            v -= v.gather(-1, at)

    def losses(self, ranks: Tensor) -> Tensor:
        return self.loss.index_select(0, ranks.flatten()).reshape(ranks.shape)

    def derivatives(self, ranks: Tensor) -> Tensor:
        """v (..., latent[, category]) at ranks (...)."""
        rows = self.derivative.index_select(0, ranks.flatten())
        return rows.reshape(*ranks.shape, *self.model.code_shape)
