"""Mean and variance of estimators without sampling the code: enumeration, and integrals over the noise of one latent.

    FunctionOfCode, Constant    enumeration
    LatentSummed                enumeration, with the losses of all configurations in memory
    LeaveOneOut                 enumeration of E[f|z_l = k] and E[f^2|z_l = k]; of codes that are not one-hot, of the
                                products of f and the score
    NoiseIntegral               enumeration of E[v|z_l = k] and E[v v^T|z_l = k], then an integral over the noise of
                                one latent given its code

An estimator states its kind in `exact_moments` (see `estimators.promises`). One pass over the configurations serves
all estimators at all temperatures.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import errors, latents, progress
from .. import estimators as catalogue
from ..derivatives import Table, at_all_points
from ..estimators import Constant, Estimator, FunctionOfCode, LatentSummed, LeaveOneOut, NoiseIntegral
from ..estimators.evaluation import evaluate
from ..latents import LatentKind
from ..losses import losses_of_all
from ..methods import TOLERANCE
from ..model import LatentModel
from ..setup import Setup
from .covariance import OfCode, OfLosses, OfScores, given_code, within_latents
from .enumeration import Block, CodeOnly, Derivatives, Law, Losses, Neighbours
from .noise import Integral, Relaxed, integrate


@dataclass(frozen=True)
class Moments:
    """Mean and variance of one estimate, float64 `(example, latent[, category])`, with their numerical errors.

    `mean_error` and `std_error` are the estimated numerical errors of mean and standard deviation. Each is the norm of
    the error over all coordinates, divided by the norm of the mean or standard deviation. They are 0 for enumeration,
    which has rounding errors only.
    """

    mean: Tensor
    variance: Tensor
    mean_error: float = 0.0
    std_error: float = 0.0
    covariance: Tensor | None = None  # (example, D, D) over the D logits of an example, on request


def supported(estimator: Estimator, kind: LatentKind = latents.CATEGORICAL) -> bool:
    """Whether `exact_moments` can compute the moments of this estimator at its parameters, on latents of a kind."""
    if estimator.baseline_decay is not None or estimator.exact_moments is None:
        return False
    if not kind.one_hot and not isinstance(estimator.exact_moments, FunctionOfCode | Constant | LeaveOneOut):
        return False
    return not (estimator.all_configurations and estimator.uses_derivative)


def enumerable(estimator: Estimator, kind: LatentKind) -> bool:
    """Whether `exact_moments` enumerates the codes that one noise array samples."""
    return supported(estimator, kind) and isinstance(estimator.exact_moments, FunctionOfCode | LatentSummed)


def noise_integral(estimator: Estimator) -> Relaxed | None:
    """The integral over the noise of an estimator that promises `NoiseIntegral`; None for other estimators."""
    stated = estimator.exact_moments
    return Relaxed(estimator.tf, stated.tb, stated.power, stated.draws) if isinstance(stated, NoiseIntegral) else None


def check_supported(estimators: Sequence[Estimator], kind: LatentKind = latents.CATEGORICAL) -> None:
    """Raise ValueError for the first estimator without exact moments; the message lists the estimators with them."""
    for estimator in estimators:
        if not supported(estimator, kind):
            every = map(catalogue.get, catalogue.names())
            able = [e.name for e in every if kind.name in e.kinds and supported(e, kind)]
            of_kind = "" if kind.one_hot else f" of {kind.name} latents"
            raise ValueError(
                f"moments: expected 'monte-carlo' for {estimator.label}, which has no exact moments{of_kind}, got"
                f" 'exact'; estimators with exact moments{of_kind} are {', '.join(able)}"
            )


def steps(estimators: Sequence[Estimator], covariance: bool = False) -> int:
    """The total that `advance` reaches: 1 for each enumeration and 1 for each integral over the noise."""
    integrals = len({noise_integral(e) for e in estimators} - {None})
    return 1 + integrals + (covariance and integrals > 0)


def exact_moments(
    setup: Setup,
    estimators: Sequence[Estimator],
    *,
    tolerance: float = TOLERANCE,
    covariance: bool = False,
    advance: progress.Advance = lambda *a, **k: None,
) -> list[Moments]:
    """The Moments of each estimator at its own temperatures, in float64.

    Parameters
    ----------
    setup : the logits count as exact, whatever their precision. The result needs memory beyond `setup.memory`; so do
        sums of size (example, latent, category^3) for each tf of the Gumbel family
    estimators : any mixture of temperatures; one pass over the configurations serves all
    tolerance : relative numerical error of mean and standard deviation, for estimators that integrate over noise
    covariance : also compute the covariance over all latents of an example; noise integrals need a second pass over
        the configurations for it
    advance : called with fractions of `steps(estimators, covariance)`

    Raises
    ------
    ValueError
        Estimators without exact moments; losses or derivatives that are not finite.

    Source: eq. 12-16 of the Decoupled ST-GS paper. Given the code, the noise is independent of the derivative, and the
    noise of different latents is independent.
    """
    check_supported(estimators, setup.kind)
    model = setup.in_precision(torch.float64, setup.model)
    engine = _Engine(model, setup.x, setup.wide_logits, estimators, setup.memory, covariance, advance)
    return engine.moments(tolerance)


class _Engine:
    def __init__(
        self,
        model: LatentModel,
        x: Tensor,
        logits: Tensor,
        estimators: Sequence[Estimator],
        memory: int,
        covariance: bool,
        advance: progress.Advance,
    ):
        self.model, self.x, self.logits, self.memory, self.advance = model, x, logits, memory, advance
        self.covariance = covariance
        self.estimators = estimators
        enumerated = [e for e in estimators if not e.noise_free]
        means = [e for e in enumerated if isinstance(e.exact_moments, LeaveOneOut)]
        self.wanted = {
            "losses": bool(means) or any(e.uses_loss for e in enumerated if e.code_only),
            "derivatives": any(e.uses_derivative for e in enumerated if e not in means),
        }
        self.laws = {tf: Law(model.kind, logits, tf) for tf in {e.tf for e in enumerated}}
        self.code_only: dict[Estimator, CodeOnly] = {}
        # sums for covariances, where these are asked for
        self.between: dict[Estimator, OfCode | OfLosses | OfScores] = {}
        self.losses: dict[float, Losses | OfScores] = {}
        relaxed = {e.tf: self.laws[e.tf] for e in enumerated if noise_integral(e)}
        self.decoder = Derivatives(relaxed) if relaxed else None
        if enumerated:
            self.first = self._most_probable()
            for e in enumerated:
                if not noise_integral(e):
                    self._prepare(e, self.laws[e.tf])

    def _prepare(self, e: Estimator, law: Law) -> None:
        """Sums for an estimator whose moments, and covariance if asked for, one enumeration gives."""
        if isinstance(e.exact_moments, LeaveOneOut):
            assert self.first.f is not None
            f0, kind = self.first.f[:, 0], self.model.kind
            if not kind.one_hot:
                self.losses.setdefault(e.tf, OfScores(kind, self.logits, e.tf, f0, whole=False))
                if self.covariance:
                    self.between[e] = OfScores(kind, self.logits, e.tf, f0, whole=True)
                return
            self.losses.setdefault(e.tf, Losses(law, f0))
            if self.covariance:
                self.between[e] = OfLosses(law, f0)
            return
        given = e, self.model.kind, self.logits, law, self.first
        if isinstance(e.exact_moments, LatentSummed):
            self.code_only[e] = Neighbours(*given, self.all_losses, self.model.code_counts)
        else:
            self.code_only[e] = CodeOnly(*given)
        if self.covariance:
            self.between[e] = OfCode(self.code_only[e].estimates, self.first)

    @functools.cached_property
    def all_losses(self) -> Tensor:
        """f of every configuration (example, configuration)."""
        blocks = Table(self.model, self.x, self.memory).blocks(derivatives=False)
        return torch.cat([f for _, _, f, _ in blocks if f is not None], -1)

    def moments(self, tolerance: float) -> list[Moments]:
        if self.laws:
            self._enumerate()
        else:
            self.advance(1)
        done: dict[Estimator | Relaxed, Moments] = {}
        integrals: dict[Relaxed, Integral] = {}
        for estimator in self.estimators:
            key = noise_integral(estimator) or estimator
            if key in done:
                continue
            if isinstance(key, Relaxed):
                assert self.decoder is not None
                conditional = self.decoder.conditional(key.tf)
                pairs = self.model.kind.two_category(self.logits)
                found = integrate(key, conditional, pairs, tolerance, self.memory, self.covariance)
                integrals[key] = found
                if found.error > tolerance:
                    point = f"{estimator.label} at tf = {key.tf:g}, tb = {key.tb:g}"
                    errors.warn(
                        f"moments: expected a relative numerical error of {tolerance:g} at most, got"
                        f" {found.error:.2g} for {point}; moments='monte-carlo' has none"
                    )
                mean, variance = self._of_model(found.mean), self._of_model(found.variance)
                done[key] = Moments(mean, variance, found.error, found.error)
                self.advance(1)
            elif isinstance(key.exact_moments, Constant):
                mean = self._noise_free(key)
                done[key] = Moments(mean, torch.zeros_like(mean))
            elif isinstance(key.exact_moments, LeaveOneOut):
                mean, variance = self.losses[key.tf].leave_one_out(key.exact_moments.n, key.tf)
                done[key] = Moments(self._of_model(mean), self._of_model(variance))
            else:
                of = self.between.get(key, self.code_only[key])
                assert not isinstance(of, OfLosses | OfScores)
                mean, variance = (moment.reshape(self.logits.shape) for moment in of.moments())
                done[key] = Moments(mean, variance)
        if self.covariance:
            of_each = self._covariances(integrals)
            done = {key: dataclasses.replace(found, covariance=of_each[key]) for key, found in done.items()}
        return [done[noise_integral(estimator) or estimator] for estimator in self.estimators]

    def _covariances(self, integrals: dict[Relaxed, Integral]) -> dict[Estimator | Relaxed, Tensor]:
        """Covariance (example, D, D) of each estimator; 0 for estimators without noise."""
        size = self.logits[0].numel()
        zero = self.logits.new_zeros(len(self.x), size, size)
        found: dict[Estimator | Relaxed, Tensor] = {e: zero for e in self.estimators if e.noise_free}
        for e, of in self.between.items():
            if isinstance(of, OfLosses | OfScores):
                assert isinstance(e.exact_moments, LeaveOneOut)
                whole = of.covariance(e.exact_moments.n, e.tf)
                found[e] = whole[:, ::2, ::2] if self.model.binary else whole  # the first of the pair of logits (l, 0)
            else:
                found[e] = of.covariance()
        return found | (self._of_integrals(integrals, size) if integrals else {})

    def _of_integrals(self, integrals: dict[Relaxed, Integral], size: int) -> dict[Relaxed, Tensor]:
        """Their covariances, by a second pass: a(z), whose covariance between latents they have, needs E[J | z]."""
        binary = self.model.binary
        sums = {law: OfCode(given_code(law, integral, binary), self.first) for law, integral in integrals.items()}
        table = Table(self.model, self.x, self.memory, more=len(self.x) * (6 * size + size**2))
        for _, indices, f, v in table.blocks(losses=False, derivatives=True):
            block = Block(indices, self._codes(indices), f, v)
            log_chosen = {law.tf: self.laws[law.tf].log_chosen(indices) for law in sums}
            for law, of in sums.items():
                of.add(block, log_chosen[law.tf])
            self.advance(len(indices) / self.model.configurations)
        return {law: within_latents(of.covariance(), integrals[law], binary) for law, of in sums.items()}

    def _enumerate(self) -> None:
        size = (1 + self.model.binary) * self.logits.numel()
        per_configuration = (18 if self.between else 12) * size  # estimates and arrays of their size
        if self.decoder:
            per_configuration += self.decoder.numbers_per_configuration()
        table = Table(self.model, self.x, self.memory, more=per_configuration)
        for numbers, indices, f, v in table.blocks(**self.wanted):
            block = Block(indices, self._codes(indices), f, v)
            for tf, law in self.laws.items():
                of_tf: list[CodeOnly | Losses | OfCode | OfLosses | OfScores] = []
                of_tf += [sums for e, sums in (self.code_only | self.between).items() if e.tf == tf]
                of_tf += [self.losses[tf]] if tf in self.losses else []
                if of_tf:
                    log_chosen = law.log_chosen(indices)
                    for sums in of_tf:
                        sums.add(block, log_chosen)
            if self.decoder:
                self.decoder.add(block, latents.counts_of_categories(self.model.code_counts, numbers))
            self.advance(len(indices) / self.model.configurations)

    def _most_probable(self) -> Block:
        """Each example at its most probable code; codes are (1, example, latent[, category])."""
        indices = self.model.kind.indices(self.logits)
        codes = self._codes(indices)[None]
        loss, derivative = at_all_points(self.model, self.x, codes, self.memory)
        assert derivative is not None
        return Block(indices, codes, loss.T, derivative.transpose(0, 1))

    def _noise_free(self, estimator: Estimator) -> Tensor:
        kind, logits = self.model.kind, self.logits
        noise = logits.new_zeros(estimator.noise_arrays, 1, *logits.shape)  # has no effect

        def loss_at(points: Tensor, differentiated: bool) -> tuple[Tensor, Tensor | None]:
            if estimator.all_configurations:
                return losses_of_all(self.model, self.x, self.memory).T[:, None].detach(), None
            return at_all_points(self.model, self.x, points, self.memory, differentiated)

        return next(evaluate([estimator], kind, logits, noise, loss_at))[0]

    def _codes(self, indices: Tensor) -> Tensor:
        return self.model.codes_at(indices, self.logits.dtype)

    def _of_model(self, pairs: Tensor) -> Tensor:
        """The array (example, latent, category) itself; for binary latents the first of the pair of logits (l, 0)."""
        return pairs[..., 0] if self.model.binary else pairs
