"""What answers `sample(logits)`: one handler each for given codes, for an estimator as a layer, and for scores.

A site is a call of `sample`. Its logits are (row, *latents, category), rows being examples, or repeats of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import errors
from ..k_hot import KHot
from ..latents import BINARY, CATEGORICAL, LatentKind, below, bounded
from .stand_in import StandIn, own_calls


class Site(NamedTuple):
    """A call of `sample`: its kind of latent, and the shape of its code, (latent, category) or (latent,)."""

    kind: LatentKind
    shape: tuple[int, ...]

    @property
    def counts(self) -> list[int]:
        """The number of codes of each latent."""
        return [self.kind.code_count(2 if self.kind is BINARY else self.shape[1])] * self.shape[0]

    @property
    def size(self) -> str:
        """`8x4`, 8 categories and 4 latents; `2 of 8x4`, two of them in each latent; `4 binary`."""
        if self.kind is BINARY:
            return f"{self.shape[0]} binary"
        sets = f"{self.kind.k} of " if isinstance(self.kind, KHot) else ""
        return sets + "x".join(map(str, self.shape[::-1]))

    def codes(self, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """Codes (..., latent[, category]) of numbers (..., latent)."""
        return self.kind.codes(indices, self.shape[-1], dtype)


class StructureChanged(Exception):
    """A run met other sites than those before it: the codes decide which there are."""


def paths(sites: Sequence[Site]) -> int:
    """The number of paths."""
    return math.prod(n for site in sites for n in site.counts)


def described(sites: Sequence[Site]) -> str:
    """Sizes in words."""
    return errors.count(*[n for site in sites for n in site.counts])


class Sampler:
    """Base of the handlers: checks the logits of each site, and gives them as (row, latent[, category])."""

    def __init__(self, rows: int, mode: StandIn):
        self.rows, self.mode = rows, mode
        self.sites: list[Site] = []

    def __call__(self, logits: Any, binary: bool = False, top_k: int | None = None) -> Tensor:
        with own_calls():
            if binary and top_k is not None:
                raise ValueError(f"sample: expected binary=True or top_k, got binary=True and top_k={top_k!r}")
            kind = BINARY if binary else CATEGORICAL if top_k is None else KHot(top_k)
            self._check(logits, kind)
            flat = logits.reshape(self.rows, -1, *logits.shape[logits.ndim - kind.event_dims :])
            self.sites.append(Site(kind, tuple(flat.shape[1:])))
            return self.code(kind, flat).reshape(logits.shape)

    def code(self, kind: LatentKind, logits: Tensor) -> Tensor:
        """The code at the site met last."""
        raise NotImplementedError

    def _check(self, logits: Any, kind: LatentKind) -> None:
        dims = "(example, latent)" if kind is BINARY else "(example, latent, category)"
        if not (isinstance(logits, Tensor) and logits.is_floating_point()):
            got = logits.dtype if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise ValueError(f"sample: expected floating-point logits {dims}, got {got}")
        if logits.ndim < 2 + kind.event_dims or len(logits) != self.rows or 0 in logits.shape:
            cure = "; for one latent give logits[:, None], for units binary=True" if kind is not BINARY else ""
            raise ValueError(
                f"sample: expected logits {dims} of {self.rows} examples, got shape {tuple(logits.shape)}{cure}"
            )
        least = kind.k if isinstance(kind, KHot) else 2
        if kind is not BINARY and logits.shape[-1] < max(2, least):
            raise ValueError(
                f"sample: expected at least {max(2, least)} categories, got logits of shape {tuple(logits.shape)}"
            )


class Given(Sampler):
    """Codes that are given for each site, or the most probable ones, with the log-probability of the path by row.

    Where `codes` end, the most probable ones follow. If `differentiable`, codes require a gradient, as those of an
    estimator do.
    """

    def __init__(
        self, rows: int, mode: StandIn, tf: float = 1.0, codes: Sequence[Tensor] = (), differentiable: bool = False
    ):
        super().__init__(rows, mode)
        self.tf, self.codes, self.differentiable = tf, codes, differentiable
        self.log_probability: Tensor | None = None
        self.taken: list[Tensor] = []
        self.leaves: list[Tensor] = []  # the codes, if differentiable
        self.others: list[Tensor] = []  # probabilities of all categories but the one taken, (row, ...)

    def code(self, kind: LatentKind, logits: Tensor) -> Tensor:
        at = len(self.sites) - 1
        if at < len(self.codes):
            code = self.codes[at]
            if code.shape != logits.shape:
                raise StructureChanged
        else:
            code = kind.hard(logits.detach())
            _check_numbers(logits.detach())
        self.taken.append(code)
        of_site = LogProbability.apply(logits, code.to(logits.dtype), self.tf, kind)
        self.log_probability = of_site if self.log_probability is None else self.log_probability + of_site
        if not self.codes:
            with torch.no_grad():
                p = kind.law(bounded(kind, logits.detach()), self.tf)
                self.others.append(p.scatter(-1, p.argmax(-1, keepdim=True), 0.0).flatten(1))
        if self.differentiable:
            self.leaves.append(code.to(logits.dtype).clone().requires_grad_())
            return self.leaves[-1]
        return code.to(logits.dtype)


def _check_numbers(logits: Tensor) -> None:
    bad = logits.isnan() | logits.isposinf()
    if bool(bad.any()) or bool((logits.isneginf().all(-1)).any()):
        raise ValueError(
            "sample: expected finite logits, -inf for an impossible category beside a possible one, got others (has"
            " training diverged?)"
        )


class LogProbability(torch.autograd.Function):
    """log p(code) of each row at logits/tf; backward score/tf, of one-hot codes (code - p)/tf, with all digits."""

    @staticmethod
    def forward(logits: Tensor, code: Tensor, tf: float, kind: LatentKind) -> Tensor:
        a = bounded(kind, logits)
        a = a if kind is BINARY else below(a)
        return kind.log_probability(a / tf, code).sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        logits, code, ctx.tf, ctx.kind = inputs
        ctx.save_for_backward(logits, code)

    @staticmethod
    def backward(ctx: Any, *of_output: Tensor) -> Any:
        return Score.apply(*ctx.saved_tensors, *of_output, ctx.tf, ctx.kind), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, logits: Tensor, code: Tensor, tf: float, kind: LatentKind) -> Any:
        rows = folded(info.batch_size, in_dims, (logits, code), (0, 0))
        return LogProbability.apply(*rows, tf, kind).unflatten(0, (info.batch_size, -1)), 0


class Score(torch.autograd.Function):
    """weight score/tf, of `LogProbability`."""

    @staticmethod
    def forward(logits: Tensor, code: Tensor, weight: Tensor, tf: float, kind: LatentKind) -> Tensor:
        score = kind.score(bounded(kind, logits) / tf, code) / tf
        return score * weight.reshape(-1, *[1] * (score.ndim - 1))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None: ...

    @staticmethod
    def vmap(info: Any, in_dims: Any, logits: Tensor, code: Tensor, weight: Tensor, tf: float, kind: LatentKind) -> Any:
        rows = folded(info.batch_size, in_dims, (logits, code, weight), (0, 0, 0))
        return Score.apply(*rows, tf, kind).unflatten(0, (info.batch_size, -1)), 0


def folded(size: int, in_dims: Sequence[Any], tensors: Sequence[Tensor], row_dims: Sequence[int]) -> list[Tensor]:
    """Tensors of a vmap over `size` with the mapped dim folded into the rows, which stand at `row_dims`."""
    found = []
    for tensor, mapped, rows in zip(tensors, in_dims, row_dims, strict=False):
        whole = tensor.movedim(mapped, rows) if mapped is not None else tensor.unsqueeze(rows)
        shape = [*whole.shape]
        shape[rows] = size
        found.append(whole.expand(shape).flatten(rows, rows + 1))
    return found
