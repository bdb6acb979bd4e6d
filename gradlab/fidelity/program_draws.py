"""Gradients of single draws of an estimator: of many draws at once by vmap, or one by one where that does not work.

Noise array a of draw i at a site depends on (seed, site, i, a) alone, so all estimators and temperatures share it; at
the first site it is that of a LatentModel of the same logits.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import errors
from ..estimators import Estimator
from ..estimators.exact import Exact
from ..latents import derived_seed
from ..programs.layers import Layers, NoiseOf, Scores, arrays_of, is_layer, paths_of
from ..programs.run import Run
from ..programs.sites import Sampler, Site, StructureChanged
from ..programs.stand_in import StandIn
from ..sampling.noise import Noise

_AT_ONCE = 2**22  # numbers of a vmap on a CPU, which then stay near the processor


class Draws:
    """Noise of draws, and the gradient of each with respect to the parameters.

    `draws` is their number where it is known: then noise is cached where it fits.
    """

    def __init__(self, run: Run, arrays: int, seed: int, memory: int, draws: int = 0):
        self.run, self.arrays, self.seed, self.memory = run, arrays, seed, memory
        self.noise = []
        for at, site in enumerate(run.sites):
            like = torch.empty(run.examples, *site.shape, dtype=run.dtype, device=run.device)
            of_site = seed if at == 0 else derived_seed(seed, "site", at)
            self.noise.append(Noise(site.kind, like, arrays, draws, of_site, memory // len(run.sites)))
        self._together: dict[str, bool] = {}  # by label: temperatures change no operation
        self._last: tuple[range, list[Tensor]] = (range(0), [])

    def at_once(self, estimator: Estimator) -> int:
        """How many draws fit the memory."""
        noise = self.arrays * sum(of.like.numel() for of in self.noise)
        numbers = paths_of(estimator) * 2 * self.run.saved + noise + 3 * sum(self.run.entries)
        fit = self.memory // (numbers * self.run.greedy.element_size())
        return max(1, min(fit, max(16, _AT_ONCE // numbers)) if self.run.device.type == "cpu" else fit)

    def gradients(self, estimator: Estimator, start: int, stop: int) -> Tensor:
        """Of the mean loss over examples: (draw, entry of all parameters), draws start .. stop-1."""
        if self.run.by_row:
            return torch.stack([self._by_row(estimator, draw) for draw in range(start, stop)])
        noise = [of[:, : arrays_of(estimator)] for of in self._noise_of(range(start, stop))]
        return self._batched(estimator, noise) if self._vmap_agrees(estimator) else self._singly(estimator, noise)

    def _noise_of(self, draws: range) -> list[Tensor]:
        """Noise (draw, array, example, latent[, category]) of each site; made once for estimators in turn."""
        if self._last[0] != draws:
            made = [of.of(self.arrays, draws.start, draws.stop).movedim(1, 0) for of in self.noise]
            self._last = draws, made
        return self._last[1]

    # --- ways to run draws; noise is (draw, array, example, latent[, category]) of each site ---

    def _batched(self, estimator: Estimator, noise: Sequence[Tensor]) -> Tensor:
        def of_draw(leaves: Sequence[Tensor], of_draw: Sequence[Tensor], zero: Tensor) -> Tensor:
            return self._surrogate(estimator, self.run.mode(leaves, zero), _made(of_draw))

        leaves, zeros = [leaf.detach() for leaf in self.run.leaves], noise[0].new_zeros(len(noise[0]))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # of operations without a batched form
            each = torch.func.vmap(torch.func.grad(of_draw), in_dims=(None, 0, 0))(leaves, list(noise), zeros)
        return torch.cat([gradient.flatten(1) for gradient in each], 1)

    def _singly(self, estimator: Estimator, noise: Sequence[Tensor]) -> Tensor:
        found = []
        for of_draw in zip(*noise, strict=True):
            with torch.enable_grad():
                surrogate = self._surrogate(estimator, self.run.mode(), _made(of_draw))
                found.append(torch.cat([gradient.flatten() for gradient in self.run.gradients(surrogate)]))
        return torch.stack(found)

    def _by_row(self, estimator: Estimator, draw: int) -> Tensor:
        """A draw, one example at a time: the codes of an example decide which sites it has."""
        total = torch.zeros(sum(self.run.entries), dtype=self.run.dtype, device=self.run.device)
        for example in range(self.run.examples):
            noise = self._on_demand(arrays_of(estimator), example, draw)
            at = torch.tensor([example], device=self.run.device)
            with torch.enable_grad():
                surrogate = self._surrogate(estimator, self.run.mode(), noise, at)
                total += torch.cat([gradient.flatten() for gradient in self.run.gradients(surrogate)])
        return total / self.run.examples

    def _on_demand(self, arrays: int, example: int, draw: int) -> NoiseOf:
        """Noise of an example and a draw, made when a site is met."""

        def noise(at: int, site: Site) -> Tensor:
            like = torch.empty(1, *site.shape, dtype=self.run.dtype, device=self.run.device)
            of_site = Noise(site.kind, like, arrays, 0, derived_seed(self.seed, "example", example, "site", at))
            return of_site.of(arrays, draw, draw + 1)[:, 0]

        return noise

    def _surrogate(self, estimator: Estimator, mode: StandIn, noise: NoiseOf, at: Tensor | None = None) -> Tensor:
        """What autograd differentiates: see `programs.layers`."""
        run = self.run
        rows = run.examples if at is None else len(at)

        def loss(sampler: Sampler) -> Tensor:
            found = run.loss(run.rows(at, mode), sampler, rows)
            if at is None and sampler.sites != run.sites:
                raise StructureChanged
            return found

        if is_layer(estimator, run.sites):
            return loss(Layers(rows, mode, estimator, noise)).mean()
        samplers = [Scores(rows, mode, estimator.tf, noise, a) for a in range(paths_of(estimator))]
        losses = torch.stack([loss(sampler) for sampler in samplers])
        scores = torch.stack([sampler.of_path() for sampler in samplers])
        fixed = losses.detach()
        weights = (fixed - fixed.mean(0)) / (len(fixed) - 1) if len(fixed) > 1 else fixed
        return ((weights * scores).sum(0) + losses.mean(0)).mean()

    def _vmap_agrees(self, estimator: Estimator) -> bool:
        """Whether vmap runs this program, and gives what single draws give."""
        if estimator.label not in self._together:
            arrays = arrays_of(estimator)
            noise = [of.of(arrays, 0, 2).movedim(1, 0) for of in self.noise]
            wanted = self._singly(estimator, noise)
            try:
                found = self._batched(estimator, noise)
            except Exception as error:  # whatever a loss raises that was not written for vmap
                errors.pass_on_memory(error)
                self._together[estimator.label] = False
            else:
                tolerance = torch.finfo(self.run.dtype).eps ** 0.6
                off = float((found - wanted).norm())
                self._together[estimator.label] = off <= tolerance * float(wanted.norm())
        return self._together[estimator.label]


def _made(noise: Sequence[Tensor]) -> NoiseOf:
    """Noise (array, example, latent[, category]) that is there, by site; StructureChanged where it does not fit."""

    def of(at: int, site: Site) -> Tensor:
        if at >= len(noise) or tuple(noise[at].shape[2:]) != site.shape:
            raise StructureChanged
        return noise[at]

    return of


def is_exact(estimator: Estimator) -> bool:
    """Whether it stands for the exact gradient itself."""
    return isinstance(estimator, Exact)
