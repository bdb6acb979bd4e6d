"""Whether an estimator is what it says: its mean against enumeration, and the protocol point by point.

    report = check(MyEstimator(tf=1.4))
    report.conforms, report.verdicts, report.violations

The problems are losses written down, on code spaces small enough to enumerate: asymmetric, neither linear nor
quadratic, smooth between the codes, different at each example. The statistical test takes each coordinate of the mean
estimate against the exact gradient, in standard errors; Bonferroni over coordinates keeps the failure rate, the chance
that an unbiased estimator is called biased, at `FAILURE_RATE` per problem.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..latents import BINARY, CATEGORICAL, LatentKind, codes_at, configurations, generator_seed
from . import conformance_routes
from .base import Estimator, RunningMean

FAILURE_RATE = 1e-6  # per problem
CHUNK = 2**22  # numbers of noise and points at a time
KINDS = {kind.name: kind for kind in (CATEGORICAL, BINARY)}
Advance = Callable[[int], object]


def _unseen(draws: int) -> None:
    """Progress that nobody asked for."""


@dataclass(frozen=True)
class Problem:
    """A loss on the codes of a few latents, at `examples` examples; all in float64 unless cast."""

    name: str
    kind: LatentKind
    logits: Tensor
    of_scores: Callable[[Tensor, Tensor, Tensor], Tensor]  # loss as a function of three linear scores of the code

    def loss(self, codes: Tensor) -> Tensor:
        """f(z, x) of codes (..., example, latent, category): (..., example)."""
        flat = codes.flatten(-1 - self.kind.event_dims)
        scores = flat @ _waves(flat.shape[-1], 3, 2.3).to(flat) + 0.5 * _waves(len(self.logits), 3, 1.7).to(flat)
        return self.of_scores(*scores.unbind(-1))

    def loss_and_derivative(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and v = df/dz at the codes."""
        with torch.enable_grad():
            leaf = codes.detach().clone().requires_grad_()
            loss = self.loss(leaf)
            (derivative,) = torch.autograd.grad(loss.sum(), leaf)
        return loss.detach(), derivative

    def configurations(self) -> Tensor:
        """Every code (configuration, latent, category)."""
        latents, categories = self.kind.two_category(self.logits).shape[-2:]
        indices = configurations(latents, categories, 0, categories**latents)
        return codes_at(indices, categories, self.kind is BINARY, torch.float64)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability of every code at softmax(logits): (configuration, example)."""
        p, codes = torch.softmax(self.kind.two_category(logits), -1), self.configurations()
        chosen = torch.stack([codes, 1 - codes], -1) if self.kind is BINARY else codes
        return (chosen[:, None] * p).sum(-1).prod(-1)

    def exact_gradient(self, tf: float) -> Tensor:
        """Gradient of the expected loss under softmax(l/tf), by enumeration and autograd."""
        with torch.enable_grad():
            leaf = self.logits.clone().requires_grad_()
            codes = self.configurations()[:, None].expand(-1, *leaf.shape)
            expected = (self.probabilities(leaf / tf) * self.loss(codes)).sum()
            return torch.autograd.grad(expected, leaf)[0]


def _waves(rows: int, columns: int, step: float) -> Tensor:
    """Numbers in [-1, 1] without a pattern."""
    return torch.sin(step * torch.arange(1, 1 + rows * columns, dtype=torch.float64) ** 1.5).reshape(rows, columns)


def _problem(name: str, kind: LatentKind, shape: tuple[int, ...], of_scores: Callable) -> Problem:
    return Problem(name, kind, 1.3 * _waves(math.prod(shape), 1, 3.1).reshape(shape), of_scores)


PROBLEMS = {
    problem.name: problem
    for problem in (
        _problem("categorical-3x3", CATEGORICAL, (2, 3, 3), lambda r, s, t: torch.exp(0.8 * r) - 2 * torch.tanh(s) * t),
        _problem("categorical-4x2", CATEGORICAL, (2, 2, 4), lambda r, s, t: r**3 - torch.log1p(4 * s**2) + t),
        _problem("binary-4", BINARY, (2, 4), lambda r, s, t: torch.tanh(2 * r) * torch.exp(0.6 * s) + t),
        _problem("binary-3", BINARY, (2, 3), lambda r, s, t: torch.cos(2 * r) + s**3 * t),
    )
}


@dataclass(frozen=True)
class Verdict:
    """The mean estimate of one problem against the exact gradient; norms over example, latent and category."""

    problem: str
    draws: int
    exact_norm: float
    bias_norm: float  # of mean - exact
    standard_error: float  # of the mean: sqrt(sum of variances / draws), what bias_norm is about if there is no bias
    variance: float  # sum of the variances of one estimate
    z: float  # largest deviation of a coordinate, in standard errors
    p_value: float  # Bonferroni over coordinates
    resolution: float  # bias of one coordinate, relative to exact_norm, that is found every second time at the worst
    failure_rate: float

    @property
    def biased(self) -> bool:
        return self.p_value < self.failure_rate

    @property
    def relative_bias(self) -> float:
        return self.bias_norm / self.exact_norm


@dataclass(frozen=True)
class Report:
    """What `check` found."""

    estimator: str
    unbiased: bool  # as declared
    verdicts: tuple[Verdict, ...]
    violations: tuple[str, ...]

    @property
    def conforms(self) -> bool:
        """No violation, and unbiased on every problem or, if so declared, biased on at least one."""
        biased = [verdict.biased for verdict in self.verdicts]
        return not self.violations and (not any(biased) if self.unbiased else any(biased))


def check(
    estimator: Estimator,
    *,
    draws: int = 200_000,
    seed: int = 0,
    failure_rate: float = FAILURE_RATE,
    advance: Advance = _unseen,
) -> Report:
    """Test an estimator at its own temperatures and parameters, on every problem of its kinds of latent.

    `advance(n)` is called as n more draws of one problem are done, of `draws` on each of `problems_of(estimator)`.

    Raises ValueError if it is no Estimator, has no name, formula or reference, has no kind known here, or `draws` is
    below 2.
    """
    problems = problems_of(estimator)
    kinds = list(dict.fromkeys(problem.kind for problem in problems))
    found = [f"{kind.name}: {text}" for kind in kinds for text in violations(estimator, kind)]
    verdicts = []
    if not found:
        options: dict[str, Any] = {"draws": draws, "seed": seed, "failure_rate": failure_rate, "advance": advance}
        verdicts = [bias(estimator, problem, **options) for problem in problems]
    return Report(estimator.label, estimator.unbiased, tuple(verdicts), tuple(found))


def problems_of(estimator: Estimator) -> list[Problem]:
    """The problems of an estimator's kinds of latent. Raises ValueError as `check` does."""
    if not isinstance(estimator, Estimator):
        raise ValueError(f"estimator: got {estimator!r}; an instance of a gradlab.estimators.Estimator is needed")
    missing = [w for w in ("name", "formula", "reference") if not isinstance(getattr(estimator, w, None), str)]
    if missing:
        who = type(estimator).__qualname__
        raise ValueError(f"estimator: {who} has no {', '.join(missing)}; give each as a text in the class body")
    suited = [problem for problem in PROBLEMS.values() if problem.kind.name in estimator.kinds]
    if not suited:
        raise ValueError(f"estimator: {estimator.name} is for {estimator.kinds}; the kinds are {sorted(KINDS)}")
    return suited


def bias(
    estimator: Estimator,
    problem: Problem,
    *,
    draws: int = 200_000,
    seed: int = 0,
    failure_rate: float = FAILURE_RATE,
    advance: Advance = _unseen,
) -> Verdict:
    """Test the mean of `draws` estimates against the exact gradient under softmax(l/tf).

    Raises ValueError if `draws` is below 2.
    """
    draws = errors.whole_number("draws", draws, 2, "a variance needs two")
    exact = problem.exact_gradient(estimator.tf)
    deviation, variance = moments(estimator, problem, exact, draws, seed, advance)
    return judge(problem, exact, deviation, variance, draws, failure_rate)


def moments(
    estimator: Estimator, problem: Problem, exact: Tensor, draws: int, seed: int, advance: Advance = _unseen
) -> tuple[Tensor, Tensor]:
    """Mean of the estimates less `exact`, and their variance, per coordinate."""
    total, squares = torch.zeros_like(exact), torch.zeros_like(exact)
    for estimates in estimates_of(estimator, problem, draws, seed):
        deviation = estimates - exact  # centred at a number close to the mean, so that squares do not cancel
        total += deviation.sum(0)
        squares += deviation.square().sum(0)
        advance(len(estimates))
    deviation = total / draws
    return deviation, ((squares / draws - deviation.square()) * (draws / (draws - 1))).clamp(min=0)


def judge(
    problem: Problem, exact: Tensor, deviation: Tensor, variance: Tensor, draws: int, failure_rate: float
) -> Verdict:
    """The verdict on a mean of `draws` estimates that deviates from `exact`, given the variance of one."""
    norm, coordinates = float(exact.norm()), exact.numel()
    error = (variance / draws).sqrt() + 1e-12 * norm  # rounding
    z = float((deviation.abs() / error).max())
    threshold = -NormalDist().inv_cdf(failure_rate / coordinates / 2)
    return Verdict(
        problem=problem.name,
        draws=draws,
        exact_norm=norm,
        bias_norm=float(deviation.norm()),
        standard_error=float((variance / draws).sum().sqrt()),
        variance=float(variance.sum()),
        z=z,
        p_value=min(1.0, coordinates * math.erfc(z / math.sqrt(2))) if math.isfinite(z) else 0.0,
        resolution=threshold * float(error.max()) / norm,
        failure_rate=failure_rate,
    )


def estimates_of(estimator: Estimator, problem: Problem, draws: int, seed: int) -> Iterator[Tensor]:
    """Estimates (draw, example, latent, category) in chunks."""
    kind, logits = problem.kind, problem.logits
    generator = torch.Generator().manual_seed(generator_seed(seed))
    arrays, evaluations = estimator.noise_arrays, estimator.evaluations_at(kind, logits)
    chunk = max(1, CHUNK // (logits.numel() * (arrays + 4 * evaluations)))
    decay = estimator.baseline_decay
    mean = None if decay is None else RunningMean(decay)
    for start in range(0, draws, chunk):
        shape = (arrays, min(chunk, draws - start), *logits.shape)
        noise = kind.noise(shape, dtype=logits.dtype, generator=generator)
        points = estimator.points(kind, logits, noise)
        loss, derivative = problem.loss_and_derivative(points)
        loss = mean.centre(loss) if mean else loss
        yield estimator.estimate(kind, logits, noise, points, loss, derivative)


# --- the protocol ---


def violations(estimator: Estimator, kind: LatentKind) -> list[str]:
    """In words, each point of the protocol (see base) that the estimator does not keep with latents of this kind."""
    problem = next(problem for problem in PROBLEMS.values() if problem.kind is kind)
    return [f"{words}: {found}" for words, test in _PROTOCOL.items() if (found := _run(test, estimator, problem))]


def rules() -> dict[str, str]:
    """The points of the protocol, and what each asks for, in words."""
    return {words: str(test.__doc__) for words, test in _PROTOCOL.items()}


def _run(test: Callable[[Estimator, Problem], str], estimator: Estimator, problem: Problem) -> str:
    try:
        return test(estimator, problem)
    except Exception as error:  # an estimator that raises does not keep the protocol, whatever it raises
        return f"{type(error).__name__}: {error}"


def _noise(
    estimator: Estimator, problem: Problem, draws: tuple[int, ...] = (40,), dtype: torch.dtype = torch.float64
) -> Tensor:
    shape = (estimator.noise_arrays, *draws, *problem.logits.shape)
    generator = torch.Generator().manual_seed(1)
    return problem.kind.noise(shape, dtype=torch.float64, generator=generator).to(dtype)


def _estimate(estimator: Estimator, problem: Problem, logits: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Points and estimate; what the estimator says it does not use is not given."""
    points = estimator.points(problem.kind, logits, noise)
    return points, _estimate_at(estimator, problem, logits, noise, points)


def _estimate_at(estimator: Estimator, problem: Problem, logits: Tensor, noise: Tensor, points: Tensor) -> Tensor:
    loss, derivative = problem.loss_and_derivative(points)
    of_loss = loss if estimator.uses_loss else None
    of_derivative = derivative if estimator.uses_derivative else None
    return estimator.estimate(problem.kind, logits, noise, points, of_loss, of_derivative)


def _shapes(estimator: Estimator, problem: Problem) -> str:
    """Points, estimate and weights, if any, are finite and have the shapes and the dtype that the protocol fixes."""
    evaluations = estimator.evaluations_at(problem.kind, problem.logits)
    for dtype in (torch.float32, torch.float64):
        for draws in ((), (3,), (2, 3)):
            noise = _noise(estimator, problem, draws, dtype)
            logits = problem.logits.to(dtype)
            points, estimate = _estimate(estimator, problem, logits, noise)
            weights = estimator.weights(problem.kind, logits, points)
            wanted = [(evaluations, *noise.shape[1:]), noise.shape[1:]]
            given = [points, estimate]
            if weights is not None:
                wanted.append((evaluations, *draws, len(logits)))
                given.append(weights)
                if not torch.allclose(weights.sum(0), torch.ones_like(weights[0]), atol=1e-5):
                    return f"weights sum to {weights.sum(0).flatten()[0].item()}, not 1"
            for name, found, shape in zip(("points", "estimate", "weights"), given, wanted, strict=False):
                if found.shape != shape or found.dtype != dtype:
                    return f"{name} are {tuple(found.shape)} {found.dtype}, not {tuple(shape)} {dtype}"
                if not bool(torch.isfinite(found).all()):
                    return f"{name} are not finite"
    return ""


def _purity(estimator: Estimator, problem: Problem) -> str:
    """Nothing that is given is changed, equal inputs give equal outputs, and nothing is random but the noise."""
    state = torch.random.get_rng_state()
    logits, noise = problem.logits.clone(), _noise(estimator, problem)
    before = noise.clone()
    points = estimator.points(problem.kind, logits, noise)
    of_points = points.clone()
    loss, derivative = problem.loss_and_derivative(points)
    given = (loss.clone(), derivative.clone())
    once, again = (estimator.estimate(problem.kind, logits, noise, points, loss, derivative) for _ in range(2))
    pairs = ((logits, problem.logits), (noise, before), (points, of_points), (loss, given[0]), (derivative, given[1]))
    for name, (now, then) in zip(("logits", "noise", "points", "loss", "derivative"), pairs, strict=True):
        if not torch.equal(now, then):
            return f"{name} are changed in place"
    same = torch.allclose(once, again, rtol=0, atol=0, equal_nan=True)
    if not same or not torch.equal(points, estimator.points(problem.kind, logits, noise)):
        return "equal inputs give other outputs"
    return "" if torch.equal(state, torch.random.get_rng_state()) else "the global random state is touched"


def _points_are_codes(estimator: Estimator, problem: Problem) -> str:
    """Points lie in [0, 1]; `discrete_points` says whether all are codes."""
    points = estimator.points(problem.kind, problem.logits, _noise(estimator, problem, (400,)))
    if not bool(((points >= 0) & (points <= 1)).all()):
        return "points leave [0, 1]"
    codes = bool(((points == 0) | (points == 1)).all())
    return "" if codes == estimator.discrete_points else f"discrete_points is {estimator.discrete_points}"


def _draws_and_examples_apart(estimator: Estimator, problem: Problem) -> str:
    """Each draw and each example is treated as if it were alone."""
    noise = _noise(estimator, problem, (5,))
    _, whole = _estimate(estimator, problem, problem.logits, noise)
    apart = [_estimate(estimator, problem, problem.logits, noise[:, draw])[1] for draw in range(5)]
    if not torch.allclose(whole, torch.stack(apart), rtol=1e-9, atol=1e-11):
        return "an estimate depends on the other draws"
    points = estimator.points(problem.kind, problem.logits, noise)
    loss, derivative = problem.loss_and_derivative(points)
    example = noise.ndim - 2 - problem.kind.event_dims
    for i in range(len(problem.logits)):
        logits, some = problem.logits[i : i + 1], noise.narrow(example, i, 1)
        at = estimator.points(problem.kind, logits, some)
        part = (loss.narrow(-1, i, 1), derivative.narrow(example, i, 1))
        if not torch.allclose(at, points.narrow(example, i, 1), rtol=1e-9, atol=1e-11):
            return "points depend on the other examples"
        alone = estimator.estimate(problem.kind, logits, some, at, *part)
        if not torch.allclose(alone, whole.narrow(example - 1, i, 1), rtol=1e-9, atol=1e-11):
            return "an estimate depends on the other examples"
    return ""


def _permutation(estimator: Estimator, problem: Problem) -> str:
    """No latent is treated differently because of its place."""
    axis = -1 - problem.kind.event_dims
    order = torch.arange(problem.logits.shape[axis]).roll(1)
    back = order.argsort()
    noise = _noise(estimator, problem)
    _, plain = _estimate(estimator, problem, problem.logits, noise)
    logits, moved_noise = problem.logits.index_select(axis, order), noise.index_select(axis, order)
    points = estimator.points(problem.kind, logits, moved_noise)
    loss, derivative = problem.loss_and_derivative(points.index_select(axis, back))
    derivative = derivative.index_select(axis, order)
    moved = estimator.estimate(problem.kind, logits, moved_noise, points, loss, derivative)
    same = torch.allclose(moved, plain.index_select(axis, order), rtol=1e-9, atol=1e-11)
    return "" if same else "permuting the latents does not permute the estimate"


def _precisions(estimator: Estimator, problem: Problem) -> str:
    """Float32 gives what float64 gives, but for rounding."""
    logits, noise = problem.logits.float(), _noise(estimator, problem, dtype=torch.float32)
    points, single = _estimate(estimator, problem, logits, noise)
    double = _estimate_at(estimator, problem, logits.double(), noise.double(), points.double())
    worst = float((single.double() - double).abs().max() / double.abs().max())
    return f"float32 is off by {worst:.1e} of the largest coordinate" if not worst < 1e-3 else ""


def _saturation(estimator: Estimator, problem: Problem) -> str:
    """Points and estimate stay finite at very large logits."""
    for size, dtype in ((1e4, torch.float64), (80.0, torch.float32)):
        for shifted in (0, 1):  # the signs of the logits, and the other way round
            logits = (problem.logits.sign() * (-1) ** shifted * size).to(dtype)
            for tf in (0.5, 1.0, 2.0):
                tempered = dataclasses.replace(estimator, tf=tf)
                noise = _noise(tempered, problem, dtype=dtype)
                points, estimate = _estimate(tempered, problem, logits, noise)
                given = [points, estimate]
                if tempered.code_only:  # also at codes that are never sampled
                    codes = problem.configurations().to(dtype)[:, None].expand(-1, *logits.shape)
                    some = noise[:, :1].expand(-1, len(codes), *logits.shape)
                    given.append(_estimate_at(tempered, problem, logits, some, codes[None]))
                if not all(bool(torch.isfinite(t).all()) for t in given):
                    return f"not finite at logits of {size:g} in {dtype}, tf = {tf:g}"
    return ""


def _code_only(estimator: Estimator, problem: Problem) -> str:
    """With `code_only`, the point is hard(l/tf + g), and the estimate depends on the noise through it alone."""
    if not estimator.code_only:
        return ""
    noise = _noise(estimator, problem)
    points, estimate = _estimate(estimator, problem, problem.logits, noise)
    if not torch.equal(points[0], problem.kind.hard(problem.logits / estimator.tf + noise[0])):
        return "code_only, but the point is not hard(l/tf + g)"
    other = _estimate_at(estimator, problem, problem.logits, noise.flip(1), points)
    return "" if torch.equal(estimate, other) else "code_only, but the estimate depends on the noise"


def _without_noise(estimator: Estimator, problem: Problem) -> str:
    """With `noise_free`, all draws are equal; with `all_configurations`, the points are the configurations."""
    points, estimate = _estimate(estimator, problem, problem.logits, _noise(estimator, problem))
    if estimator.noise_free and not torch.allclose(estimate, estimate[:1].expand_as(estimate), rtol=1e-12, atol=1e-14):
        return "noise_free, but draws differ"
    if estimator.all_configurations:
        codes = problem.configurations()
        wanted = codes.reshape(len(codes), 1, 1, *codes.shape[1:])
        if len(points) != len(codes) or not torch.equal(points, wanted.expand_as(points)):
            return "all_configurations, but the points are not the configurations in their order"
    return ""


def _forward(estimator: Estimator, problem: Problem) -> str:
    """`forward` is equal exactly where the points are, also at the temperatures that `at` sets."""
    noise = _noise(estimator, problem, (400,))
    made = [estimator, *(estimator.at(tf, tb) for tf in (0.3, 3.0) for tb in (0.3, 3.0))]
    points = [one.points(problem.kind, problem.logits, noise) for one in made]
    for (one, at_one), (other, at_other) in itertools.combinations(zip(made, points, strict=True), 2):
        same = torch.equal(at_one, at_other)
        if (hash(one.forward) == hash(other.forward) and one.forward == other.forward) != same:
            points_are = "equal" if same else "not equal"
            return f"forward is {one.forward} and {other.forward}, the points are {points_are}"
    return ""


def _samples_first(estimator: Estimator, problem: Problem) -> str:
    """With `samples_first`, the first point is hard(l/tf + g), the code that all estimators share."""
    points = estimator.points(problem.kind, problem.logits, noise := _noise(estimator, problem))
    first = problem.kind.hard(problem.logits / estimator.tf + noise[0])
    if estimator.samples_first and not torch.equal(points[0], first):
        return "samples_first, but the first point is not hard(l/tf + g)"
    return ""


def _pull_back(estimator: Estimator, problem: Problem) -> str:
    """With `backward`, the estimate is scale J(relaxation) v at the one code sampled, and tf does not enter q."""
    if estimator.backward is None:
        return ""
    noise = _noise(estimator, problem)
    points, estimate = _estimate(estimator, problem, problem.logits, noise)
    if len(points) != 1:
        return f"backward, but there are {len(points)} points"
    _, derivative = problem.loss_and_derivative(points)
    q = estimator.relaxation(problem.kind, problem.logits, noise)
    pulled = estimator.scale * problem.kind.pullback(q, derivative[0])
    if not torch.allclose(estimate, pulled.expand_as(estimate), rtol=1e-9, atol=1e-11):
        return "backward, but the estimate is not scale J(relaxation) v"
    other = dataclasses.replace(estimator, tf=2 * estimator.tf)
    if other.backward == estimator.backward and not torch.equal(
        q, other.relaxation(problem.kind, problem.logits, noise)
    ):
        return "backward is equal at another tf, the relaxation is not"
    return ""


def _routes(estimator: Estimator, problem: Problem) -> str:
    """Moments are those of its functions, draw by draw, on every route that samples, alone and beside others."""
    return conformance_routes.difference(estimator, problem)


_PROTOCOL: dict[str, Callable[[Estimator, Problem], str]] = {
    "shapes and dtype": _shapes,
    "pure functions": _purity,
    "discrete points": _points_are_codes,
    "draws and examples": _draws_and_examples_apart,
    "order of latents": _permutation,
    "float32": _precisions,
    "saturated logits": _saturation,
    "function of the code": _code_only,
    "no noise": _without_noise,
    "shared points": _forward,
    "first sample": _samples_first,
    "pull-back": _pull_back,
    "sampling routes": _routes,
}
