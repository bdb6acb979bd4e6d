"""The code space: kinds of latents, their noise and Jacobians, and the enumeration of configurations.

Categorical latents have logits `(..., latent, category)`. Binary latents have one logit per unit, `(..., latent)`, and
are the categorical pair with logits (l, 0). `k_hot` has a third kind. All functions broadcast over leading dimensions.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import checks

# The logit of a category that one latent lacks and others have. exp(PADDING/t) is exactly 0 in float64, whose smallest
# number is exp(-745), for t up to 1e5 and other logits above -2e7. float32 represents PADDING/t and its sums for t down
# to 1e-29. Infinity also gives the probability 0, but 0 times its logarithm is NaN.
PADDING = -1e8


class LatentKind(ABC):
    """The functions of a latent that an estimator needs: from logits and noise to codes, and J(q)."""

    name: str
    event_dims: int  # trailing dimensions that belong to one latent: 1 for (category,), 0 for one logit

    exponentials: int  # Exp(1) numbers per number of noise
    one_hot: bool = True  # whether a code is one category of its latent (or a unit), as J(q) = diag(q) - q q^T assumes

    def noise(
        self,
        shape: tuple[int, ...],
        *,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Standard noise g, so that hard(l + g) has the distribution with logits l."""
        e = torch.empty((self.exponentials, *shape), dtype=dtype, device=device)
        return self.noise_from(e.exponential_(generator=generator))

    @abstractmethod
    def noise_from(self, e: Tensor) -> Tensor:
        """Standard noise (*shape) from Exp(1) numbers e (exponentials, *shape), which are overwritten."""

    @abstractmethod
    def hard(self, a: Tensor) -> Tensor:
        """The discrete code at perturbed logits a."""

    @abstractmethod
    def soft(self, a: Tensor) -> Tensor:
        """The relaxed code at perturbed logits a; for plain logits, the probabilities."""

    @abstractmethod
    def score(self, a: Tensor, code: Tensor) -> Tensor:
        """d log p(code)/da; of one-hot codes code - soft(a), with all digits also if the code is almost certain."""

    @abstractmethod
    def centred(self, v: Tensor, a: Tensor) -> Tensor:
        """v minus its value at the largest entry of a. J(q) v stays the same and does not cancel as q -> onehot.

        If q is nearly one-hot and v is constant, q (v - q.v) is 0 apart from rounding.
        """

    @abstractmethod
    def jacobian(self, a: Tensor) -> Tensor:
        """The part of J(q) that `pull` needs, at q = soft(a), with full relative precision."""

    @abstractmethod
    def jacobian_of(self, q: Tensor) -> Tensor:
        """The same from q: for binary units, 1 - q is lost if it is below rounding."""

    @abstractmethod
    def pull(self, jacobian: Tensor, v: Tensor) -> Tensor:
        """J v for a `centred` v."""

    @abstractmethod
    def pull_into(self, out: Tensor, jacobian: Tensor, v: Tensor) -> Tensor:
        """J v in `out`, all (..., category or 1, batch, cell), which is much faster than categories last."""

    def pullback(self, q: Tensor, v: Tensor) -> Tensor:
        """J(q) v with J(q) = diag(q) - q q^T, per latent."""
        return self.pull(self.jacobian_of(q), self.centred(v, q))

    def pullback_at(self, a: Tensor, v: Tensor) -> Tensor:
        """J(soft(a)) v, with full relative precision also if soft(a) is almost one-hot."""
        return self.pull(self.jacobian(a), self.centred(v, a))

    def relaxed(self, a: Tensor) -> Tensor:
        """The relaxed code through which straight-through gradients go; of one-hot codes and units `soft`."""
        return self.soft(a)

    def pull_relaxed(self, a: Tensor, v: Tensor) -> Tensor:
        """(d relaxed(a)/da)^T v, with full relative precision."""
        return self.pullback_at(a, v)

    @abstractmethod
    def indices(self, a: Tensor) -> Tensor:
        """The `category_indices` of hard(a), without computing the code."""

    @abstractmethod
    def kl_to_uniform(self, logits: Tensor) -> Tensor:
        """KL(softmax(l) || uniform) in nats, summed over latents: `(..., )` without latent dimensions."""

    @abstractmethod
    def two_category(self, logits: Tensor) -> Tensor:
        """Logits of the same distribution as `(..., latent, category)`."""

    # --- all codes of one latent, by number ---

    def check(self, logits: Tensor) -> None:  # noqa: B027
        """ValueError for logits of which there is no law of codes."""

    def code_count(self, categories: int) -> int:
        """The number of codes of a latent with this number of categories."""
        return categories

    def codes(self, indices: Tensor, categories: int, dtype: torch.dtype) -> Tensor:
        """Codes `(..., latent[, category])` of numbers `(..., latent)`."""
        return codes_at(indices, categories, self.event_dims == 0, dtype)

    def code_indices(self, codes: Tensor) -> Tensor:
        """The inverse of `codes`, of discrete codes."""
        return (codes < 0.5).long() if self.event_dims == 0 else codes.argmax(-1)

    def log_law(self, logits: Tensor, t: float | Tensor) -> Tensor:
        """log p of every code of each latent at l/t: `(..., latent, code)`."""
        return torch.log_softmax(below(self.two_category(logits)) / t, -1)

    def law(self, logits: Tensor, t: float | Tensor) -> Tensor:
        """exp of `log_law`. Of the exact differences to the largest logit: l/t has rounding of its own size."""
        return torch.softmax(below(self.two_category(logits)) / t, -1)

    def log_probability(self, a: Tensor, code: Tensor) -> Tensor:
        """log p(code) of each latent, `(..., latent)`, at logits a."""
        if self.event_dims == 0:
            return torch.nn.functional.logsigmoid(torch.where(code > 0.5, a, -a))
        return torch.where(code > 0.5, torch.log_softmax(a, -1), 0.0).sum(-1)

    def gradient_of_law(self, logits: Tensor, t: float, p: Tensor, c: Tensor) -> Tensor:
        """Gradient of sum_k p_k c_k with respect to the logits, at p = `law` and fixed c (..., latent, code)."""
        gradient = CATEGORICAL.pullback(p, c) / t
        return gradient if self.event_dims else gradient[..., 0]  # the pair of logits is (l, 0)

    def bound(self, of_codes: Tensor) -> Tensor:
        """Numbers whose norm bounds that of a gradient's errors, from bounds (..., latent, code) of its terms."""
        return of_codes


class Categorical(LatentKind):
    name = "categorical"
    event_dims = 1
    exponentials = 1

    def noise_from(self, e):
        return _log(e)[0].neg_()  # Gumbel(0,1) = -log E

    def hard(self, a):
        return torch.zeros_like(a).scatter_(-1, a.argmax(-1, keepdim=True), 1.0)

    def soft(self, a):
        return torch.softmax(a, -1)

    def score(self, a, code):
        p, most = self.soft(a), self.hard(a)
        others = p * (1 - most)
        return (code - most).add_(torch.where(most > 0, others.sum(-1, keepdim=True), -others))

    def centred(self, v, a):
        _, at = torch.broadcast_tensors(v[..., :1], a.argmax(-1, keepdim=True))
        return v - v.expand(*at.shape[:-1], -1).gather(-1, at)

    def jacobian(self, a):
        return self.soft(a)

    def jacobian_of(self, q):
        return q

    def pull(self, jacobian, v):
        return jacobian * (v - (jacobian * v).sum(-1, keepdim=True))

    def pull_into(self, out, jacobian, v):
        torch.mul(jacobian, v, out=out)
        return out.addcmul_(jacobian, out.sum(-3, keepdim=True), value=-1)

    def indices(self, a):
        return a.argmax(-1)

    def kl_to_uniform(self, logits):
        d = below(logits).clamp(min=torch.finfo(logits.dtype).min)  # finite for impossible categories, as 0 times it is
        return _KLToUniform.apply(logits, torch.softmax(d, -1), d).sum(-1)

    def two_category(self, logits):
        return logits


class Binary(LatentKind):
    name = "binary"
    event_dims = 0
    exponentials = 2

    def noise_from(self, e):
        _log(e)
        return e[1] - e[0]  # logistic: the difference of two Gumbels

    def hard(self, a):
        return (a > 0).to(a.dtype)

    def soft(self, a):
        return torch.sigmoid(a)

    def score(self, a, code):
        return torch.where(code > 0.5, torch.sigmoid(-a), -torch.sigmoid(a))

    def centred(self, v, a):
        return v  # of the pair (v, 0) only the difference matters

    def jacobian(self, a):
        return torch.sigmoid(a) * torch.sigmoid(-a)

    def jacobian_of(self, q):
        return q * (1 - q)

    def pull(self, jacobian, v):
        return jacobian * v

    def pull_into(self, out, jacobian, v):
        return torch.mul(jacobian, v, out=out)

    def indices(self, a):
        return (a <= 0).long()

    def kl_to_uniform(self, logits):
        return CATEGORICAL.kl_to_uniform(self.two_category(logits))

    def two_category(self, logits):
        return torch.stack([logits, torch.zeros_like(logits)], -1)


class _KLToUniform(torch.autograd.Function):
    """KL(softmax(l) || uniform over the possible categories) of each latent.

    With d_i = l_i - max l and p = softmax(l): KL = sum_i p_i d_i - log sum_i exp(d_i) + log n, and its gradient
    J(p) l = p (d - p.d), which does not cancel where one or several categories share all probability. Derivatives of
    that gradient go through p and d, which are given beside l.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, p: Tensor, d: Tensor) -> Tensor:
        # d is 0 at the largest, NaN of what is no law
        log_total = torch.log1p(d.exp().scatter(-1, logits.argmax(-1, keepdim=True), 0.0).sum(-1))
        categories = (logits > PADDING / 2).sum(-1).to(logits.dtype)  # the number of categories of each latent
        return (p * d).sum(-1) + categories.log() - log_total

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _, p, d = inputs
        ctx.save_for_backward(p, d)
        ctx.save_for_forward(p, d)

    @staticmethod
    def backward(ctx: Any, *of_output: Tensor) -> Any:
        return of_output[0][..., None] * CATEGORICAL.pull(*ctx.saved_tensors), None, None

    @staticmethod
    def jvp(ctx: Any, *of_inputs: Tensor) -> Any:
        checks.one_forward_mode("kl_to_uniform")
        return (of_inputs[0] * CATEGORICAL.pull(*ctx.saved_tensors)).sum(-1)


def _log(e: Tensor) -> Tensor:
    return e.clamp_(min=torch.finfo(e.dtype).tiny).log_()  # the smallest normal number keeps the log finite


CATEGORICAL = Categorical()
BINARY = Binary()


def bounded(kind: LatentKind, logits: Tensor, checked: bool = True) -> Tensor:
    """Logits of the same distribution, in which impossible categories (-inf or a large mask) have one finite value.

    A binary unit may be certain, +-inf. Other infinities and NaN are kept.

    Examples
    --------
    >>> logits = torch.tensor([0.0, 1.0, -torch.inf])
    >>> gradlab.latents.bounded(gradlab.latents.Categorical(), logits).isfinite().all().item()
    True
    """
    low = _lowest(logits)
    if kind is BINARY:
        return logits.clamp(low, -low)
    if checked:  # by reading numbers, which vmap does not allow
        kind.check(logits)
    floor = logits.amax(-1, keepdim=True) + low
    return torch.where((logits < floor) & floor.isfinite(), floor, logits)


def masked(kind: LatentKind, logits: Tensor) -> Tensor:
    """True where the logits mask a category as impossible or a binary unit as certain.

    Examples
    --------
    >>> logits = torch.tensor([0.0, 1.0, -torch.inf])
    >>> gradlab.latents.masked(gradlab.latents.Categorical(), logits).tolist()
    [False, False, True]
    """
    half = _lowest(logits) / 2
    if kind is BINARY:
        return logits.abs() >= -half
    return logits <= logits.amax(-1, keepdim=True) + half


def _lowest(logits: Tensor) -> float:
    """PADDING; of half precision -1023, which may be divided by a temperature of 0.02."""
    return max(PADDING, torch.finfo(logits.dtype).min / 64)


def below(pairs: Tensor) -> Tensor:
    """Logits less the largest of their latent.

    Examples
    --------
    >>> gradlab.latents.below(torch.tensor([[1.0, 3.0]]))
    tensor([[-2.,  0.]])
    """
    return pairs - pairs.amax(-1, keepdim=True)


def configurations(
    latents: int,
    categories: int | Sequence[int],
    start: int,
    stop: int,
    device: torch.device | str | None = None,
) -> Tensor:
    """Category indices `(configuration, latent)` of configurations start .. stop-1; the last latent varies fastest.

    `categories` is one number, or one for each latent.

    Examples
    --------
    >>> gradlab.latents.configurations(2, 3, 0, 4).tolist()
    [[0, 0], [0, 1], [0, 2], [1, 0]]
    """
    index = torch.arange(start, stop, device=device)
    counts = [categories] * latents if isinstance(categories, int) else categories
    return torch.stack([(index // s) % n for s, n in zip(strides(counts), counts, strict=True)], -1)


def counts_of_categories(categories: Sequence[int], numbers: range) -> list[list[int]]:
    """For each latent, the number of the consecutive configurations with each category.

    Examples
    --------
    >>> gradlab.latents.counts_of_categories([2, 3], range(4))
    [[3, 1], [2, 1, 1]]
    """

    def before(end: int, stride: int, n: int, k: int) -> int:
        rounds, rest = divmod(end, stride * n)
        return rounds * stride + min(max(rest - k * stride, 0), stride)

    return [
        [before(numbers.stop, s, n, k) - before(numbers.start, s, n, k) for k in range(n)]
        for s, n in zip(strides(categories), categories, strict=True)
    ]


def strides(categories: Sequence[int]) -> list[int]:
    """For each latent, the distance in configurations to its next category.

    Examples
    --------
    >>> gradlab.latents.strides([2, 3, 4])
    [12, 4, 1]
    """
    return [math.prod(categories[i + 1 :]) for i in range(len(categories))]


def codes_at(indices: Tensor, categories: int, binary: bool, dtype: torch.dtype) -> Tensor:
    """Codes of category indices `(..., latent)`: one-hot `(..., latent, category)`, or units `(..., latent)`.

    A binary unit with category index 0 is on, because the pair of logits is (l, 0).

    Examples
    --------
    >>> gradlab.latents.codes_at(torch.tensor([[2, 0]]), 3, binary=False, dtype=torch.float32).tolist()
    [[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]]
    """
    if binary:
        return (indices == 0).to(dtype)
    return torch.nn.functional.one_hot(indices, categories).to(dtype)


def category_indices(kind: LatentKind, codes: Tensor) -> Tensor:
    """The inverse of `codes_at` for discrete codes.

    Examples
    --------
    >>> codes = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    >>> gradlab.latents.category_indices(gradlab.latents.Categorical(), codes).tolist()
    [2, 0]
    """
    return (codes < 0.5).long() if kind is BINARY else codes.argmax(-1)


def derived_seed(seed: int, *path: int | str) -> int:
    """A 63-bit seed for one position of a computation, independent of the order.

    The generator of a GPU uses all bits. torch's CPU generator uses the low 32 bits, so two positions have the same
    noise with probability 2^-32. Among n draws, n²/2^33 pairs are expected to share their noise: 1.2e-4 for 1,024 and 2
    for 131,072, which widens the true interval by 2 parts in 131,072.

    Examples
    --------
    >>> gradlab.latents.derived_seed(0, "noise", 3) != gradlab.latents.derived_seed(0, "noise", 4)
    True
    """
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator_seed(seed: int) -> int:
    """A seed for torch's CPU generator, which uses 32 bits: the seed itself if it fits, else derived from all bits.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(gradlab.latents.generator_seed(2**40))
    """
    return seed if seed < 2**32 else derived_seed(seed)
